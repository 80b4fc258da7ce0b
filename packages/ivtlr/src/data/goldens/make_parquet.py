"""Writes the Parquet files of parquet.test.ts with pyarrow, in M3CoT's schema: python make_parquet.py (needs pyarrow and pillow)."""
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
