"""The bytes of an image file: do they decode, what is unusual, which way is up.

The network sees what `tf.io.decode_image(encoded, channels=3)` makes of a file.
That turns gray, CMYK and YCCK, palettes and 16 bits into 8-bit RGB and drops
alpha, but ignores the orientation that cameras write into EXIF.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_FORMATS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
}
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_APP1 = 0xE1
# SOF0 to SOF15 without DHT, JPG and DAC, which lie between them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_KINDS = {1: "gray", 3: "RGB", 4: "CMYK"}
_PNG_KINDS = {0: "gray", 2: "RGB", 3: "palette", 4: "alpha", 6: "alpha"}
_BMP_KINDS = {24: "RGB", 32: "alpha"}
_ORIENTATION_TAG, _SHORT = 0x0112, 3
# What brings the pixels [H, W, 3] of each EXIF orientation upright.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: np.rot90,
}


class Inspection(NamedTuple):
    """What is to know about an image file.

    Attributes:
      problem: why it cannot be used, None if it can.
      kind: "RGB", "gray", "CMYK" (also YCCK), "palette", "alpha", "16-bit" or
        "unknown".
      orientation: of EXIF, 1 (upright, or not stated) to 8.
    """

    problem: str | None
    kind: str
    orientation: int

    @property
    def unusual(self) -> str:
        """What sets it apart from an upright RGB image, "" if nothing."""
        kind = "" if self.kind == "RGB" else self.kind
        turned = self.orientation > 1
        orientation = f"EXIF orientation {self.orientation}" if turned else ""
        return ", ".join(filter(None, (kind, orientation)))


def inspect(encoded: bytes) -> Inspection:
    """Decodes an image file once to see whether it is whole.

    Damage that leaves a file's structure valid, a hole within the scan of a
    JPEG for one, passes: only a checksum tells. The first frame of an animated
    GIF counts.

    Args:
      encoded: the file.

    Returns:
      `Inspection`; no problem means that TensorFlow decodes it as JPEG, PNG,
      GIF or BMP.
    """
    return _inspected(encoded, decodes=False)


def inspect_all(files: Sequence[bytes]) -> list[Inspection]:
    """`inspect` of each file, in less time where files are small and whole."""
    try:
        _decode_all(tf.constant(files, tf.string))
    except tf.errors.InvalidArgumentError:
        return list(map(inspect, files))
    return [_inspected(encoded, decodes=True) for encoded in files]


def _inspected(encoded, decodes) -> Inspection:
    format_ = _format(encoded)
    kind, orientation = _header(format_, encoded)
    problem = _problem(format_, kind, encoded, decodes)
    return Inspection(problem, kind, orientation)


def upright(encoded: bytes) -> bytes:
    """Turns an image by its EXIF orientation.

    Args:
      encoded: a file in which `inspect` finds no problem.

    Returns:
      the file as it came if it is upright; else a PNG of a PNG, a JPEG of
      quality 95 without chroma subsampling of a JPEG, both 8-bit RGB.
    """
    format_ = _format(encoded)
    _, orientation = _header(format_, encoded)
    if orientation == 1:
        return encoded
    pixels = _TURNS[orientation](_decode(encoded).numpy())
    if format_ == "PNG":
        return tf.io.encode_png(pixels).numpy()
    return tf.io.encode_jpeg(
        pixels, quality=95, chroma_downsampling=False
    ).numpy()


def _decode(encoded):
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


@tf.function(
    autograph=False, input_signature=[tf.TensorSpec([None], tf.string)]
)
def _decode_all(files):
    """Decodes in one call from Python, not one for each file."""
    return tf.map_fn(
        lambda encoded: tf.shape(_decode(encoded))[0],
        files,
        fn_output_signature=tf.int32,
        parallel_iterations=1,
    )


def _format(encoded):
    for magic, name in _FORMATS.items():
        if encoded.startswith(magic):
            return name
    return None


def _header(format_, encoded) -> tuple[str, int]:
    """Kind and orientation; "unknown" and 1 where the header is damaged."""
    try:
        if format_ == "JPEG":
            return _jpeg_header(encoded)
        if format_ == "PNG":
            return _png_header(encoded)
        if format_ == "BMP":
            (bits,) = struct.unpack_from("<H", encoded, 28)
            return _BMP_KINDS.get(bits, "palette"), 1
    except struct.error:
        return "unknown", 1
    return ("palette" if format_ == "GIF" else "unknown"), 1


def _problem(format_, kind, encoded, decodes) -> str | None:
    if not encoded:
        return "empty file"
    start = encoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not an image"
    if format_ is None:
        return "cannot be decoded as JPEG, PNG, BMP or GIF"
    if format_ == "BMP" and kind == "palette":
        # TensorFlow takes the palette's indices for gray values.
        return "a BMP with a palette; 24 or 32 bits per pixel expected"
    if decodes:
        return None
    try:
        _decode(encoded)
    except tf.errors.InvalidArgumentError:
        cut = _is_cut(format_, encoded)
        return f"truncated {format_}" if cut else f"a damaged {format_}"
    return None


def _is_cut(format_, encoded):
    if format_ == "JPEG":
        # Not from the start: a thumbnail within EXIF has an end of its own.
        scan = max((s[1] for s in _jpeg_segments(encoded)), default=0)
        return encoded.find(_END_OF_IMAGE, scan) < 0
    return format_ == "PNG" and b"IEND" not in encoded


def _jpeg_segments(encoded) -> Iterator[tuple[int, int, bytes]]:
    """(marker, place, payload) of all segments up to the first scan."""
    place = encoded.find(b"\xff", 2)
    while 0 <= place < len(encoded) - 3:
        marker = encoded[place + 1]
        if marker in (0x00, 0xFF):  # not a marker: padding
            place = encoded.find(b"\xff", place + 1)
            continue
        (size,) = struct.unpack_from(">H", encoded, place + 2)
        yield marker, place, encoded[place + 4 : place + 2 + size]
        if marker == _START_OF_SCAN:
            return
        place = encoded.find(b"\xff", place + 2 + size)


def _jpeg_header(encoded):
    kind, exif = "unknown", b""
    for marker, _, payload in _jpeg_segments(encoded):
        if marker in _FRAMES:
            (channels,) = struct.unpack_from("5xB", payload)
            kind = _JPEG_KINDS.get(channels, "unknown")
        elif marker == _APP1 and payload.startswith(b"Exif\0\0") and not exif:
            exif = payload[6:]
    return kind, _exif_orientation(exif)


def _png_header(encoded):
    depth, colour = struct.unpack_from("BB", encoded, 24)
    kind = "16-bit" if depth == 16 else _PNG_KINDS.get(colour, "unknown")
    place = 8
    while place + 8 <= len(encoded):
        size, name = struct.unpack_from(">I4s", encoded, place)
        if name == b"eXIf":
            exif = encoded[place + 8 : place + 8 + size]
            return kind, _exif_orientation(exif)
        place += 12 + size
    return kind, 1


def _exif_orientation(tiff) -> int:
    """The orientation of the first directory of a TIFF structure."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, place)
        for entry in range(place + 2, place + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(
                f"{order}HHIH", tiff, entry
            )
            if tag == _ORIENTATION_TAG:
                is_short = kind == _SHORT and count == 1
                return value if is_short and value in _TURNS else 1
    except struct.error:
        pass  # cut short, or pointing outside
    return 1
