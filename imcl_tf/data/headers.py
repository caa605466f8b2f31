"""What the first bytes of an image file say: format, size, kind, orientation.

Free of TensorFlow. Nothing here raises or takes long, whatever the bytes are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

APP1, START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG
EXIF_MARK = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
SHORT, LONG = 3, 4  # types of a TIFF entry
# Bounds the time for hostile files. A PNG of 100 MB has 12,000 chunks.
MAXIMUM_SEGMENTS = 2**16
_FORMATS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
}
_EXPECTED = "JPEG, PNG, WebP, BMP or GIF"
# What else turns up in folders of pictures, by its first bytes.
_OTHERS = {
    b"version https://git-lfs.github.com/": "a Git LFS pointer (git lfs pull "
    "fetches the image)",
    b"II*\0": "a TIFF or raw camera file",
    b"MM\0*": "a TIFF or raw camera file",
    b"II+\0": "a TIFF or raw camera file",
    b"MM\0+": "a TIFF or raw camera file",
    b"\0\5\x16\7": "a resource file of macOS, not an image",
    b"%PDF-": "a PDF",
    b"8BPS": "a Photoshop file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"\xff\x0a": "a JPEG XL",
    b"PK\x03\x04": "a ZIP archive",
}
# Brands of the container that HEIC, AVIF and videos share.
_BRANDS = {
    b"avif": "an AVIF",
    b"avis": "an AVIF",
    b"crx ": "a raw camera file",
} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "a HEIC",
)
# SOF0 to SOF15 without DHT, JPG and DAC, which lie between them; JPEG-LS.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
# Baseline, extended and progressive, by Huffman or arithmetic coding.
_DECODED_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_JPEG_KINDS = {1: "gray", 3: "RGB", 4: "CMYK"}
_PNG_KINDS = {0: "gray", 2: "RGB", 3: "palette", 4: "alpha", 6: "alpha"}
_BMP_KINDS = {24: "RGB", 32: "32-bit"} | dict.fromkeys((1, 2, 4, 8), "palette")
# Sizes of the headers of Windows; those of OS/2 begin otherwise.
BMP_HEADERS = (40, 52, 56, 108, 124)
# Plain pixels, or masks that say where in a pixel the colours are.
BMP_PLAIN, BMP_MASKED = (0,), (3, 6)
BMP_MASKS = (0xFF0000, 0xFF00, 0xFF)  # red, green, blue: as plain pixels
_GIF_EXTENSION, _GIF_FRAME = 0x21, 0x2C


class Header(NamedTuple):
    """What stands before the pixels of an image file.

    Attributes:
      kind: "RGB", "gray", "CMYK" (also YCCK), "palette", "alpha", "16-bit",
        "16-bit alpha", "32-bit" (BMP) or "unknown".
      height: in pixels, as stored.
      width: in pixels.
      orientation: of EXIF, 1 (upright, or not stated) to 8.
      unusable: why TensorFlow must not decode it though it may be whole, or
        "".
    """

    kind: str = "unknown"
    height: int = 0
    width: int = 0
    orientation: int = 1
    unusable: str = ""


def format_of(encoded: bytes) -> str | None:
    """Returns "JPEG", "PNG", "GIF", "BMP", "WebP" or None for other files."""
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WebP"
    for magic, name in _FORMATS.items():
        if encoded.startswith(magic):
            return name
    return None


def what_else(encoded: bytes) -> str:
    """Returns what a file is that `format_of` does not know, as a problem."""
    if not encoded:
        return "empty file"
    start = encoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not an image"
    if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
        return f"an SVG; {_EXPECTED} expected"
    for magic, name in _OTHERS.items():
        if encoded.startswith(magic):
            return f"{name}; {_EXPECTED} expected"
    if encoded[4:8] == b"ftyp":
        name = _BRANDS.get(encoded[8:12], "a video")
        return f"{name}; {_EXPECTED} expected"
    return f"cannot be decoded as {_EXPECTED}"


def read_header(encoded: bytes) -> Header:
    """Reads what stands before the pixels of an image file.

    Args:
      encoded: a file that `format_of` knows, whole or damaged.

    Returns:
      `Header`, of which damage leaves the defaults.
    """
    readers = {
        "JPEG": _jpeg_header,
        "PNG": _png_header,
        "WebP": _webp_header,
        "GIF": _gif_header,
        "BMP": _bmp_header,
    }
    try:
        return readers[format_of(encoded) or ""](encoded)
    except struct.error:
        return Header()


def jpeg_segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, place, size) of all segments up to the first scan."""
    place = 2
    for _ in range(MAXIMUM_SEGMENTS):
        if place + 4 > len(encoded):
            return
        start, marker, size = struct.unpack_from(">BBH", encoded, place)
        if start != 0xFF or marker in (0x00, 0xFF):  # padding, or damage
            place += 1
            continue
        yield marker, place, size
        if marker == START_OF_SCAN:
            return
        place += 2 + size


def _jpeg_header(encoded):
    kind, height, width, exif, unusable = "unknown", 0, 0, None, ""
    for marker, place, size in jpeg_segments(encoded):
        payload = place + 4
        if marker in _FRAMES and not height:
            bits, height, width, channels = struct.unpack_from(
                ">BHHB", encoded, payload
            )
            kind = _JPEG_KINDS.get(channels, "unknown")
            if marker not in _DECODED_FRAMES:
                unusable = "a lossless JPEG; a baseline or progressive expected"
            elif bits != 8:
                unusable = f"a JPEG of {bits} bits per channel; 8 expected"
        elif marker == APP1 and exif is None:
            content = encoded[payload : payload + max(size - 2, 0)]
            if content.startswith(EXIF_MARK):
                exif = content[len(EXIF_MARK) :]
    orientation = _exif_orientation(exif or b"")
    return Header(kind, height, width, orientation, unusable)


def _png_header(encoded):
    if encoded[12:16] != b"IHDR":
        return Header()
    width, height, depth, colour = struct.unpack_from(">IIBB", encoded, 16)
    kind, exif, place = _PNG_KINDS.get(colour, "unknown"), None, 8
    for _ in range(MAXIMUM_SEGMENTS):
        if place + 8 > len(encoded):
            break
        size, name = struct.unpack_from(">I4s", encoded, place)
        if name == b"tRNS":
            kind = "alpha"
        elif name == b"eXIf" and exif is None:
            exif = encoded[place + 8 : place + 8 + size]
        place += 12 + size
    if depth == 16:
        kind = "16-bit alpha" if kind == "alpha" else "16-bit"
    return Header(kind, height, width, _exif_orientation(exif or b""))


def _webp_header(encoded):
    name, _, start = struct.unpack_from("<4sI5s", encoded, 12)
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return Header("RGB", height % 2**14, width % 2**14)
    if name == b"VP8L":
        (packed,) = struct.unpack("<xI", start)
        kind = "alpha" if packed >> 28 & 1 else "RGB"
        return Header(kind, 1 + (packed >> 14) % 2**14, 1 + packed % 2**14)
    if name != b"VP8X":
        return Header()
    low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", encoded, 24)
    return Header(
        "alpha" if start[0] & 0x10 else "RGB",
        1 + low_h + (high_h << 16),
        1 + low_w + (high_w << 16),
        _exif_orientation(_webp_exif(encoded)),
        # TensorFlow 2.21 writes beyond its memory for some of them.
        "an animated WebP; a single image expected" * (start[0] >> 1 & 1),
    )


def _webp_exif(encoded) -> bytes:
    place = 12
    for _ in range(MAXIMUM_SEGMENTS):
        if place + 8 > len(encoded):
            break
        name, size = struct.unpack_from("<4sI", encoded, place)
        if name == b"EXIF":
            # Some programs write it with the mark that a JPEG has.
            exif = encoded[place + 8 : place + 8 + size]
            return exif.removeprefix(EXIF_MARK)
        place += 8 + size + size % 2
    return b""


def _bmp_header(encoded):
    size, width, height, bits, packing = struct.unpack_from(
        "<Iii2xHI", encoded, 14
    )
    if size not in BMP_HEADERS:
        return Header(unusable="a BMP without a header of Windows")
    kind = _BMP_KINDS.get(bits, "unknown")
    unusable = ""
    if kind == "palette":
        # TensorFlow takes the palette's indices for gray values.
        unusable = "a BMP with a palette; 24 or 32 bits per pixel expected"
    elif bits not in (24, 32):
        unusable = f"a BMP of {bits} bits per pixel; 24 or 32 expected"
    elif packing in BMP_MASKED:
        # Which TensorFlow does not look at.
        if struct.unpack_from("<3I", encoded, 54) != BMP_MASKS:
            unusable = "a BMP with colours in an unusual order; BGR expected"
    elif packing not in BMP_PLAIN:
        unusable = "a compressed BMP; plain pixels expected"
    # Of a negative height if it lies upside down.
    return Header(kind, abs(height), abs(width), 1, unusable)


def bmp_end(encoded: bytes) -> int:
    """The place behind the pixels of a BMP whose header is whole."""
    (start,) = struct.unpack_from("<I", encoded, 10)
    width, height, bits = struct.unpack_from("<ii2xH", encoded, 18)
    return start + (width * bits // 8 + 3) // 4 * 4 * abs(height)


def _gif_header(encoded):
    """With the largest frame: all of them are unpacked to decode one."""
    width, height, packed = struct.unpack_from("<HHB", encoded, 6)
    place = 13 + _gif_palette(packed)
    for _ in range(MAXIMUM_SEGMENTS):
        block = encoded[place : place + 1]
        if block == bytes([_GIF_EXTENSION]):
            place = _gif_blocks_end(encoded, place + 2)
        elif block == bytes([_GIF_FRAME]) and place + 10 <= len(encoded):
            w, h, packed = struct.unpack_from("<HHB", encoded, place + 5)
            if w * h > width * height:
                width, height = w, h
            start = place + 10 + _gif_palette(packed) + 1
            place = _gif_blocks_end(encoded, start)
        else:
            break
    return Header("palette", height, width)


def _gif_palette(packed: int) -> int:
    """Bytes of the palette that a descriptor announces."""
    return 3 * 2 ** (packed % 8 + 1) if packed & 0x80 else 0


def _gif_blocks_end(encoded, place: int) -> int:
    """The place behind a chain of blocks that begin with their sizes."""
    while place < len(encoded) and encoded[place]:
        place += 1 + encoded[place]
    return place + 1


def _exif_orientation(tiff: bytes) -> int:
    """The orientation of the first directory of a TIFF structure."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, place)
        for entry in range(place + 2, place + 2 + 12 * entries, 12):
            tag, kind, count, short, rest = struct.unpack_from(
                f"{order}HHIHH", tiff, entry
            )
            if tag == ORIENTATION_TAG:
                (long,) = struct.unpack_from(f"{order}I", tiff, entry + 8)
                values = {SHORT: short, LONG: long}
                value = values.get(kind, 0) if count == 1 else 0
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # cut short, or pointing outside
    return 1
