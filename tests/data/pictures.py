"""What tests of image files share: files by Pillow, and what Pillow sees."""

import io
import random
import struct
import zlib

import numpy as np
import pytest

image_of = pytest.importorskip("PIL.Image")
image_ops = pytest.importorskip("PIL.ImageOps")

# Gentle slopes, which a JPEG keeps within a few steps; no two corners alike.
ROWS, COLUMNS = np.mgrid[:37, :54]
RGB = np.stack([COLUMNS * 4, ROWS * 6, (ROWS + COLUMNS) * 2], -1)
RGB = RGB.astype(np.uint8)
ALPHA = (ROWS * 7).astype(np.uint8)[..., np.newaxis]
RGBA = np.dstack([RGB, ALPHA])
DEEP = (ROWS * 100 + COLUMNS).astype(np.uint16)  # 12 bits in 16
ORIENTATIONS = range(1, 9)


def file_of(pixels, format_, **options) -> bytes:
    """An image file by Pillow; `pixels` may be a Pillow image."""
    image = pixels
    if isinstance(pixels, np.ndarray):
        image = image_of.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def jpeg(pixels=RGB, **options) -> bytes:
    options = {"quality": 95, "subsampling": 0} | options
    return file_of(pixels, "JPEG", **options)


def opened(encoded: bytes):
    return image_of.open(io.BytesIO(encoded))


def seen_by_pillow(encoded: bytes) -> np.ndarray:
    """[H, W, 3] int, upright; what is transparent is over white."""
    image = image_ops.exif_transpose(opened(encoded))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = image_of.new("RGBA", image.size, "white")
        image = image_of.alpha_composite(white, image)
    return np.asarray(image.convert("RGB")).astype(int)


def exif_of(orientation):
    exif = image_of.Exif()
    exif[0x0112] = orientation
    return exif


def tiff(orientation, order="<", kind=3, count=1, before=()) -> bytes:
    """A TIFF directory with the orientation behind other entries."""
    entries = [*before, (0x0112, kind, count, orientation)]
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    head = mark + struct.pack(f"{order}IH", 8, len(entries))
    return (
        head
        + b"".join(
            struct.pack(f"{order}HHI{'I' if entry[1] == 4 else 'Hxx'}", *entry)
            for entry in entries
        )
        + bytes(4)
    )


def with_exif(encoded: bytes, data: bytes) -> bytes:
    """A JPEG with an APP1 segment right after its start."""
    segment = b"Exif\0\0" + data
    size = struct.pack(">H", len(segment) + 2)
    return encoded[:2] + b"\xff\xe1" + size + segment + encoded[2:]


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    return png[:33] + png_chunk(name, content) + png[33:]


def png_chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    size = len(content)
    return struct.pack(">I", size) + name + content + struct.pack(">I", check)


def animation(format_) -> bytes:
    frames = [image_of.fromarray(np.roll(RGB, n, 1)) for n in range(3)]
    return file_of(frames[0], format_, save_all=True, append_images=frames[1:])


def sources() -> list[bytes]:
    """Files of all formats and kinds, most of them turned."""
    turned = {"exif": exif_of(6)}
    return [
        jpeg(**turned),
        jpeg(progressive=True, **turned),
        jpeg(image_of.fromarray(RGB).convert("CMYK")),
        file_of(RGB, "PNG", **turned),
        file_of(RGBA, "PNG"),
        file_of(DEEP, "PNG"),
        file_of(RGB, "GIF"),
        file_of(RGB, "BMP"),
        file_of(RGB, "WEBP", **turned),
        file_of(RGB, "WEBP", lossless=True),
        file_of(RGBA, "WEBP", **turned),
        file_of(RGBA, "WEBP", lossless=True),
    ]


def damaged(number: int, seed: int = 0):
    """Yields files with a few bytes changed, lost or cut off."""
    rng = random.Random(seed)
    whole = sources()
    for n in range(number):
        encoded = bytearray(whole[n % len(whole)])
        reach = min(len(encoded), rng.choice((40, 120, 500, 10**6)))
        for _ in range(rng.randint(1, 3)):
            value = rng.choice((0, 1, 255, rng.randrange(256)))
            encoded[rng.randrange(reach)] = value
        if n % 5 == 0:
            del encoded[rng.randrange(len(encoded)) :]
        elif n % 7 == 0:
            place = rng.randrange(reach)
            encoded[place:place] = rng.randbytes(rng.randint(1, 9))
        yield bytes(encoded)
