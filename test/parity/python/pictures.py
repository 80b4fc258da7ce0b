"""Small pictures of our own drawing, in the file formats people have."""

import io
import os
import struct
import zlib
import numpy
from PIL import Image, ImageDraw


def scene(width, height, seed=0):
    """Gradients, hard edges, thin lines and a noisy corner: something for every resampling mistake to show on."""
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    fx, fy = x / max(1, width - 1), y / max(1, height - 1)
    rgb = numpy.stack([255 * fx, 255 * fy, 127 + 127 * numpy.sin(6.3 * (fx + 2 * fy) + seed)], axis=-1)
    image = Image.fromarray(rgb.round().astype(numpy.uint8), "RGB")
    pen = ImageDraw.Draw(image)
    if width > 4 and height > 4:
        w, h = width, height
        pen.ellipse((w * 0.1, h * 0.15, w * 0.45, h * 0.6), fill=(220, 30, 40))
        pen.rectangle((w * 0.55, h * 0.1, w * 0.9, h * 0.4), fill=(20, 60, 200), outline=(255, 255, 255))
        pen.polygon([(w * 0.5, h * 0.95), (w * 0.7, h * 0.5), (w * 0.95, h * 0.9)], fill=(10, 160, 60))
        for i in range(6):
            pen.line(
                (w * 0.05, h * (0.65 + 0.05 * i), w * 0.45, h * (0.7 + 0.05 * i)),
                fill=(0, 0, 0) if i % 2 else (255, 255, 255),
            )
        noise = numpy.random.default_rng(seed).integers(
            0, 256, (max(1, height // 6), max(1, width // 6), 3), dtype=numpy.uint8
        )
        image.paste(Image.fromarray(noise, "RGB"), (width - noise.shape[1], 0))
    return image


def alpha_of(width, height):
    """From clear to solid, left to right, with fully clear and fully solid parts."""
    ramp = numpy.linspace(-60, 315, width).clip(0, 255).astype(numpy.uint8)
    return Image.fromarray(numpy.repeat(ramp[None], height, axis=0), "L")


def png16(pixels):
    """A 16-bit PNG (Pillow cannot write 16-bit colour): (H, W) grey or (H, W, 3) colour, uint16."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", quality=92, exif=exif)


def all_pictures():
    """File name -> bytes."""
    photo, small = scene(150, 101), scene(61, 43, 1)
    fine = numpy.asarray(scene(52, 38, 2)).astype(numpy.uint16)
    fine = fine * 257 - (numpy.arange(52 * 38 * 3).reshape(38, 52, 3) % 200).clip(max=fine * 257).astype(numpy.uint16)
    frames = [scene(64, 48, s).quantize(48) for s in (3, 4, 5)]
    clear = scene(60, 44, 6).convert("RGBA")
    clear.putalpha(alpha_of(60, 44).point(lambda v: 255 if v > 90 else 0))
    rgba, grey_alpha = scene(70, 53, 7).convert("RGBA"), scene(58, 47, 8).convert("L").convert("LA")
    rgba.putalpha(alpha_of(70, 53))
    grey_alpha.putalpha(alpha_of(58, 47))
    palette = scene(90, 60, 9).quantize(32)
    return {
        "photo.jpg": encode(photo, "JPEG", quality=90),
        "photo-444.jpg": encode(photo, "JPEG", quality=95, subsampling=0),
        "photo-422.jpg": encode(scene(97, 66, 14), "JPEG", quality=85, subsampling=1),
        "progressive.jpg": encode(scene(133, 90, 10), "JPEG", quality=85, progressive=True),
        "grey.jpg": encode(small.convert("L"), "JPEG", quality=90),
        "cmyk.jpg": encode(small.convert("CMYK"), "JPEG", quality=95),
        "large.jpg": encode(scene(420, 301, 11), "JPEG", quality=80),
        **{f"exif-{o}.jpg": turned(scene(77, 50, 12), o) for o in (2, 3, 4, 5, 6, 7, 8)},
        "rgb.png": encode(scene(120, 84, 13), "PNG"),
        "rgb16.png": png16(fine),
        "grey16.png": png16(fine[..., 1] // 180),
        "grey16-full.png": png16(fine[..., 0]),
        "grey.png": encode(small.convert("L"), "PNG"),
        "one-bit.png": encode(small.convert("1"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette-transparent.png": encode(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "rgba.png": encode(rgba, "PNG"),
        "grey-alpha.png": encode(grey_alpha, "PNG"),
        "lossy.webp": encode(scene(110, 73, 15), "WEBP", quality=85),
        "lossless.webp": encode(small, "WEBP", lossless=True),
        "alpha.webp": encode(rgba, "WEBP", lossless=True, exact=True),
        "animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0),
        "transparent.gif": encode(clear, "GIF"),
        "lzw.tiff": encode(scene(72, 50, 20), "TIFF", compression="tiff_lzw"),
        "rgba.tiff": encode(rgba, "TIFF", compression="tiff_deflate"),
        "palette.tiff": encode(palette, "TIFF", compression="packbits"),
        "cmyk.tiff": encode(small.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "grey16.tiff": encode(Image.fromarray(fine[..., 0]), "TIFF", compression="tiff_deflate"),
        "444.avif": encode(scene(64, 46, 21), "AVIF", quality=90, subsampling="4:4:4"),
        "one.png": encode(Image.new("RGB", (1, 1), (200, 100, 50)), "PNG"),
        "wide.png": encode(scene(400, 9, 16), "PNG"),
        "tall.png": encode(scene(7, 190, 17), "PNG"),
        "thin.png": encode(scene(3, 320, 22), "PNG"),
        "photo-tall.jpg": encode(scene(120, 400, 23), "JPEG", quality=90),
        "too-wide.png": encode(scene(620, 3, 18), "PNG"),
        "exact-84x56.png": encode(scene(84, 56, 19), "PNG"),
    }


def write_pictures(folder):
    os.makedirs(folder, exist_ok=True)
    names = all_pictures()
    for name, data in names.items():
        assert len(data) < 30_000, name
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    return list(names)
