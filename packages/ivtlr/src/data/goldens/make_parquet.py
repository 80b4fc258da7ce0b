"""Writes the Parquet files of parquet.test.ts and scienceqa.test.ts with pyarrow, in the schemas of M3CoT and ScienceQA: python make_parquet.py (needs pyarrow and pillow)."""
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(colour):
    out = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": "p.png"}


text = pa.string()
schema = pa.schema(
    [(name, text) for name in ("id", "category", "image_id", "question")]
    + [("choices", pa.list_(text))]
    + [(name, text) for name in ("context", "answer", "rationale", "split")]
    + [("image", pa.struct([("bytes", pa.binary()), ("path", text)]))]
    + [(name, text) for name in ("domain", "topic")]
)
rows = [
    dict(id=f"q-{i}", category="c", image_id=f"i{i}", question=f"Größe {i}?", choices=["x", "y", "z"][: i % 4], context=None,
         answer="B", rationale="First.\nThen. So B." if i % 2 else None, split="test",
         image=None if i == 3 else picture((10 * i, 200, 30)), domain="science", topic="t" if i < 4 else None)
    for i in range(6)
]
table = pa.Table.from_pylist(rows, schema=schema)
here = os.path.dirname(os.path.abspath(__file__))
for codec in ("snappy", "zstd", "gzip", "brotli", "lz4", "none"):
    pq.write_table(table, os.path.join(here, f"m3cot-{codec}.parquet"), compression=codec, row_group_size=4, store_schema=False)

science = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", text)])), ("question", text), ("choices", pa.list_(text)), ("answer", pa.int8())]
    + [(name, text) for name in ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")]
)
rows = [
    dict(image=None if i in (1, 4) else picture((10 * i, 200, 30)), question=f"Größe {i}?", choices=["x", "y", "z"][: 2 + i % 2], answer=i % 2,
         hint="Look." if i == 2 else "", task="closed choice", grade=f"grade{i + 1}", subject="natural science", topic="biology",
         category="Plants", skill="Tell apart", lecture="A lecture. It is long." if i % 2 else "", solution="Solved." if i % 3 else "")
    for i in range(6)
]
pq.write_table(pa.Table.from_pylist(rows, schema=science), os.path.join(here, "scienceqa-zstd.parquet"), compression="zstd",
               row_group_size=4, store_schema=False)

# A list of images in place of one: two, one, none, and a row that has no list.
several = pa.schema([field for field in schema if field.name != "image"] + [("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", text)])))])
colours = [[(10, 0, 0), (0, 20, 0)], [(0, 0, 30)], [], None]
rows = [
    dict(id=f"s-{i}", question="Which?", choices=["x", "y"], answer="B", rationale="So B.", images=None if own is None else [picture(colour) for colour in own])
    for i, own in enumerate(colours)
]
pq.write_table(pa.Table.from_pylist(rows, schema=several), os.path.join(here, "m3cot-images.parquet"), compression="zstd", row_group_size=3, store_schema=False)
