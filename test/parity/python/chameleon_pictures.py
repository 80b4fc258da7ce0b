"""chameleon-inputs.json: the pixels that transformers' Chameleon image processor (Pillow backend) makes of pictures.

The pictures are those of preprocess/ and a few more (transparency in every PNG colour type, lines, a large one drawn by a formula).
"""

import base64
import hashlib
import os
import struct
import zlib
import numpy
import PIL
from PIL import Image, ImageOps
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from numbers_json import rounded, versions, write_cases
from pictures import encode, scene

STRIDE, CENTRE = 997, 40  # of the flat (3, H, W) levels; side of the middle part that is kept whole
RESCALE = 0.0078

# Other values of preprocessor_config.json, on few pictures.
CONFIGS = {
    "default": {},
    "tiny": dict(size=dict(shortest_edge=64), crop_size=dict(height=64, width=64)),
    "black border": dict(size=dict(shortest_edge=48), crop_size=dict(height=80, width=64)),
    "stretched bicubic": dict(size=dict(height=96, width=60), crop_size=dict(height=64, width=64), resample=3),
    "other numbers": dict(size=dict(shortest_edge=64), crop_size=dict(height=64, width=64), rescale_factor=1 / 255, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.5]),
}


def png(kind, depth, rows, *extra):
    """A PNG from its packed rows; `extra` are chunks (name, body) before the data."""
    height, width = rows.shape[0], rows.shape[1]

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    samples = rows.astype(">u2") if depth == 16 else rows.astype("u1")
    if depth == 1:
        packed = [numpy.packbits(row.reshape(-1)).tobytes() for row in samples]
    else:
        packed = [row.tobytes() for row in samples]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in packed), 9)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def own_pictures():
    """File name -> bytes."""
    colour = numpy.asarray(scene(40, 30, 21))
    grey = numpy.asarray(scene(40, 30, 22).convert("L"))
    ramp = numpy.linspace(0, 65535, 40).astype(numpy.uint16)[None].repeat(30, 0)
    wide = colour.astype(numpy.uint16) * 257
    two = struct.pack(">H", int(grey[3, 4]))
    return {
        "grey-one-clear.png": png(0, 8, grey, (b"tRNS", two)),
        "one-bit-clear.png": png(0, 1, grey > 127, (b"tRNS", b"\0\1")),
        "rgb-one-clear.png": png(2, 8, colour, (b"tRNS", struct.pack(">HHH", *map(int, colour[3, 4])))),
        "rgba16.png": png(6, 16, numpy.dstack([wide, ramp])),
        "grey-alpha16.png": png(4, 16, numpy.dstack([grey.astype(numpy.uint16) * 257, ramp])),
        "line-3000x2.png": encode(scene(3000, 2, 23), "PNG"),
        "line-2x3000.png": encode(scene(2, 3000, 24), "PNG"),
        "odd-301x517.png": encode(scene(301, 517, 25).quantize(24), "PNG"),
        "exact-512.png": encode(scene(512, 512, 26).quantize(16), "PNG"),
    }


def drawn(width, height):
    """The large picture, by a formula that the test repeats."""
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.int64)
    planes = [x * 7 + y * 3 + (x * y >> 9), x * x // 4001 + y, (x >> 5) * 31 ^ (y >> 4) * 17]
    return Image.fromarray((numpy.stack(planes, axis=-1) & 255).astype(numpy.uint8), "RGB")


def levels_of(values, options):
    """Back to the 8-bit levels (3, H, W): the processor's last two steps are one line through each channel."""
    scale = options.get("rescale_factor", RESCALE)
    mean = numpy.array(options.get("image_mean", [1, 1, 1]))[:, None, None]
    std = numpy.array(options.get("image_std", [1, 1, 1]))[:, None, None]
    levels = (values.astype(numpy.float64) * std + mean) / scale
    assert abs(levels - levels.round()).max() < 1e-3
    return levels.round().astype(numpy.uint8)


def one_case(picture, config, **fields):
    options = CONFIGS[config]
    values = ChameleonImageProcessorPil(**options)(images=picture, return_tensors="np")["pixel_values"][0]
    levels = levels_of(values, options)
    flat = levels.reshape(-1)
    top, left = (levels.shape[1] - CENTRE) // 2, (levels.shape[2] - CENTRE) // 2
    middle = levels[:, top : top + CENTRE, left : left + CENTRE]
    pack = lambda array: base64.b64encode(zlib.compress(numpy.ascontiguousarray(array).tobytes(), 9)).decode()
    return dict(
        **fields,
        config=config,
        mode=picture.mode,
        width=picture.width,
        height=picture.height,
        shape=list(values.shape),
        sha256=hashlib.sha256(flat.tobytes()).hexdigest(),
        strided=pack(flat[::STRIDE]),
        middle=pack(middle),
        values=rounded(values.reshape(-1)[:: 20 * STRIDE].tolist()),
    )


def make(out):
    old, own = os.path.join(out, "preprocess", "images"), os.path.join(out, "chameleon-images")
    os.makedirs(own, exist_ok=True)
    for name, data in own_pictures().items():
        assert len(data) < 60_000, name
        with open(os.path.join(own, name), "wb") as file:
            file.write(data)
    cases = []
    for folder in (old, own):
        for name in sorted(os.listdir(folder)):
            file = os.path.relpath(os.path.join(folder, name), out).replace(os.sep, "/")
            # Data sets are opened upright; the processor itself does not turn pictures.
            picture = ImageOps.exif_transpose(Image.open(os.path.join(folder, name)))
            cases.append(one_case(picture, "default", file=file))
            if name in ("photo.jpg", "tall.png", "rgba.png", "odd-301x517.png"):
                cases += [one_case(picture, config, file=file) for config in CONFIGS if config != "default"]
    cases += [one_case(drawn(*size), "default", file=None) for size in ((4000, 3000), (1700, 2600), (600, 4000))]
    header = dict(made_with=versions(pillow=PIL.__version__), stride=STRIDE, centre=CENTRE, configs=CONFIGS)
    write_cases(os.path.join(out, "chameleon-inputs.json"), header, cases)
