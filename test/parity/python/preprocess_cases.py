"""preprocess/: pictures, what Pillow decodes and resizes them to, and the pixel values of transformers' image processor.

Resized also by older releases of Pillow, whose results differ: each runs from a folder of its own.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import numpy
import PIL
import torch
from PIL import Image, ImageOps, features
from transformers import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from numbers_json import rounded, stats, versions, write_cases
from pictures import write_pictures

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
SMALL, OFFICIAL = (84, 56), (280, 280)  # (width, height)
WHOLE = {"photo.jpg", "large.jpg", "wide.png", "one.png", "tall.png", "palette.png"}  # kept at 280x280 as well
OLDER = {"pillow_11": "11.1.0", "pillow_12": "12.3.0"}
HUB_PIXELS = (3136, 12845056)  # preprocessor_config.json of the hub's Qwen2-VL


def raw(path, array):
    """Gzipped bytes, row-major (height, width, 3); the time stamp is left out so that reruns are equal."""
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(numpy.ascontiguousarray(array).tobytes())


def on_white(image):
    """An RGBA picture over white, as qwen-vl-utils (so the official code) does it; every other mode is converted plainly."""
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.split()[3])
    return white


def pixel_values(image):
    out = Qwen2VLImageProcessorPil()(images=image, return_tensors="pt")
    values = out["pixel_values"]
    step = 307 if values.numel() < 60_000 else 2003
    return dict(
        grid=out["image_grid_thw"][0].tolist(), **stats(values), step=step, samples=rounded(values.reshape(-1)[::step])
    )


def resized_files(out, name, image):
    wanted = [(f, SMALL) for f in FILTERS] + [(f, OFFICIAL) for f in FILTERS if name in WHOLE]
    own = smart(image.height, image.width)
    if own and (own[1], own[0]) not in (image.size, SMALL):
        wanted += [("bicubic", (own[1], own[0]))]
    listed = []
    for kind, size in wanted:
        file = f"resized/{name}-{kind}-{size[0]}x{size[1]}.rgb.gz"
        raw(os.path.join(out, file), numpy.asarray(image.resize(size, FILTERS[kind])))
        listed.append(dict(filter=kind, width=size[0], height=size[1], file=file))
    return listed


def one_case(out, name):
    source = Image.open(os.path.join(out, "images", name))
    mode, stored = source.mode, source.size
    upright = ImageOps.exif_transpose(source)
    image = upright.convert("RGB")
    case = dict(
        file=f"images/{name}",
        mode=mode,
        stored=list(stored),
        width=image.width,
        height=image.height,
        decoded=f"decoded/{name}.rgb.gz",
    )
    raw(os.path.join(out, case["decoded"]), numpy.asarray(image))
    if mode == "RGBA":
        case["on_white"] = f"decoded/{name}.white.rgb.gz"
        raw(os.path.join(out, case["on_white"]), numpy.asarray(on_white(upright)))
    case["resized"] = resized_files(out, name, image)
    case["small"] = pixel_values(image.resize(SMALL, FILTERS["bicubic"]))
    case["official"] = pixel_values(image.resize(OFFICIAL, FILTERS["bicubic"]))
    try:
        case["smart"] = pixel_values(image)
    except ValueError as error:
        case["smart"] = dict(error=str(error))
    return case


def size_pairs():
    """Sixty (height, width): halves that round to even, tiny, huge, extreme and ordinary ones."""
    pairs = [
        (1, 1),
        (14, 14),
        (27, 28),
        (28, 28),
        (42, 42),
        (56, 56),
        (70, 70),
        (98, 126),
        (10, 1000),
        (1000, 10),
        (13, 2600),
        (12, 2401),
        (2401, 12),
        (1, 200),
        (1, 201),
        (280, 280),
        (281, 279),
        (294, 266),
        (266, 294),
        (1001, 1003),
        (1002, 1002),
        (1008, 1008),
        (980, 1024),
        (3584, 3584),
        (3585, 3583),
        (4000, 6000),
        (12000, 100),
        (99, 9900),
        (2160, 3840),
        (14, 2800),
    ]
    random = numpy.random.default_rng(5)
    while len(pairs) < 60:
        h, w = (2 ** random.uniform(3, 12, 2)).astype(int).tolist()
        pairs.append((h, w))
    return pairs


def smart(h, w, *bounds):
    try:
        return list(smart_resize(h, w, 28, *bounds))
    except ValueError:
        return None


def older_pillow(version):
    """Folder of a release, from the package index if it is not there yet."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")
    folder = os.path.join(root, "out", "parity-cache", f"pillow-{version}")
    if not os.path.exists(folder):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, f"pillow=={version}"]
        subprocess.run(command, check=True)
    return folder


def resize_by(version, jobs, folder):
    """Bytes of each job's picture, resized by that release."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pillow_resize.py")
    listed = [dict(job, to=os.path.join(folder, str(i))) for i, job in enumerate(jobs)]
    environment = dict(os.environ, PYTHONPATH=older_pillow(version))
    subprocess.run([sys.executable, script], input=json.dumps(listed).encode(), env=environment, check=True)
    return [open(job["to"], "rb").read() for job in listed]


def add_older(out, cases):
    """To every resized picture the file that Pillow 11.1 gives, and whether 12.3 gives the same; the official pixel values of 11.1."""
    jobs, places = [], []
    for case in cases:
        source = dict(stored=[case["width"], case["height"]])
        source["from"] = os.path.join(out, case["decoded"])
        for entry in case["resized"]:
            jobs.append(dict(source, size=[entry["width"], entry["height"]], filter=entry["filter"]))
            places.append(entry)
        jobs.append(dict(source, size=list(OFFICIAL), filter="bicubic"))
        places.append(case)
    with tempfile.TemporaryDirectory() as folder:
        made = {name: resize_by(version, jobs, folder) for name, version in OLDER.items()}
    for place, eleven, twelve in zip(places, made["pillow_11"], made["pillow_12"]):
        if "resized" in place:
            place["official_pillow_11"] = pixel_values(Image.frombytes("RGB", OFFICIAL, eleven))
            continue
        with gzip.open(os.path.join(out, place["file"])) as file:
            same = file.read() == eleven
        place["pillow_11"] = place["file"] if same else place["file"].replace(".rgb.gz", "-pillow-11.rgb.gz")
        if not same:
            raw(os.path.join(out, place["pillow_11"]), numpy.frombuffer(eleven, numpy.uint8))
        place["pillow_12_as_11"] = twelve == eleven


def make(goldens):
    out = os.path.join(goldens, "preprocess")
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("images", "decoded", "resized"):
        os.makedirs(os.path.join(out, folder))
    cases = [one_case(out, name) for name in write_pictures(os.path.join(out, "images"))]
    assert len({(c["width"], c["height"]) for c in cases}) > 12
    add_older(out, cases)
    sizes = [dict(size=[h, w], default=smart(h, w), hub=smart(h, w, *HUB_PIXELS)) for h, w in size_pairs()]
    made = versions(
        **OLDER,
        pillow=PIL.__version__, libjpeg_turbo=features.version("libjpeg_turbo"), webp=features.version("webp")
    )
    default = Qwen2VLImageProcessorPil().size
    header = dict(
        made_with=made,
        default_pixels=[default["shortest_edge"], default["longest_edge"]],
        hub_pixels=list(HUB_PIXELS),
        smart_resize=sizes,
    )
    write_cases(os.path.join(out, "preprocess.json"), header, cases)
