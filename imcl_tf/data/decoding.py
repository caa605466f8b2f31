"""Image files -> pixels, all within TensorFlow's graph.

`decode` takes any image file; an exported model calls it. `decode_stored`
takes what `images.stored_form` makes of a file for the records; it is about as
fast as `tf.io.decode_image` and gives the same pixels.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from imcl_tf.data.headers import (
    APP1,
    BMP_HEADERS,
    BMP_MASKED,
    BMP_MASKS,
    BMP_PLAIN,
    EXIF_MARK,
    LONG,
    MAXIMUM_SEGMENTS,
    ORIENTATION_TAG,
    SHORT,
    START_OF_SCAN,
)

# Bounds the memory: TensorFlow decodes no JPEG of 2^29 bytes or more.
MAXIMUM_PIXELS = 2**29 // 3
# Precisions of cameras, scanners and depth sensors. In steps of two bits, so
# that pictures of one sensor scale alike though their maxima differ.
_DEPTHS = (8, 10, 12, 14, 16)
_PNG, _WEBP, _JPEG, _BMP, _OTHER = range(5)
_STARTS = (8, 12, 2, 0, 0)  # of the first segment, by format
_HEAD, _SEGMENT = 66, 12  # bytes that tell what a file, or a segment, is
_LITTLE = True
# A JPEG's start with an EXIF segment that holds an orientation alone: the byte
# that follows. _STORED_END ends the segment.
_STORED_START = (
    b"\xff\xd8\xff\xe1\x00\x22"
    + EXIF_MARK
    + b"MM\0*"
    + struct.pack(">IHHHIx", 8, 1, ORIENTATION_TAG, SHORT, 1)
)
_STORED_END = bytes(6)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Returns a JPEG with its orientation where `decode_stored` reads it."""
    return _STORED_START + bytes([orientation]) + _STORED_END + jpeg[2:]


def decode_stored(encoded: tf.Tensor) -> tf.Tensor:
    """Pixels [H, W, 3] uint8 of an image [] string from a record."""
    pixels = _plain(encoded)
    place = len(_STORED_START)
    start = tf.strings.substr(encoded, 0, place)

    def turned():
        byte = tf.strings.substr(encoded, place, 1)
        return _turned(pixels, tf.io.decode_raw(byte, tf.uint8)[0])

    return _three_channels(
        tf.cond(start == _STORED_START, turned, lambda: pixels)
    )


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Pixels of an image file: upright, without alpha, of 8 bits.

    Args:
      encoded: [] string, a JPEG, PNG, WebP, BMP or GIF, of which the first
        frame counts.

    Returns:
      [H, W, 3] uint8: turned by the EXIF orientation (JPEG, PNG, WebP), alpha
      (PNG, WebP) composited over white, 16 bits (PNG) scaled by `_true_range`.

    Raises:
      tf.errors.InvalidArgumentError: for a file that cannot be decoded, an
        animated WebP, a BMP with a palette, or over `MAXIMUM_PIXELS` pixels.
    """
    data = _padded(tf.io.decode_raw(encoded, tf.uint8))
    head = _numbers(data, 0, _HEAD)
    kind = _kind(head)
    with tf.control_dependencies(_checks(kind, head, encoded)):
        start = tf.constant(0, tf.int64)
        encoded = tf.strings.substr(encoded, start, _end_of_pixels(kind, head))
    metadata = _metadata(kind, head, data)
    pixels = tf.switch_case(
        kind,
        {
            _PNG: lambda: _decoded_png(encoded, head, metadata),
            _WEBP: lambda: _decoded_webp(encoded),
        },
        default=lambda: _plain(encoded),
    )
    orientation = _orientation(_padded(metadata.exif))
    return _three_channels(_turned(pixels, orientation))


def _plain(encoded):
    return _three_channels(
        tf.io.decode_image(encoded, channels=3, expand_animations=False)
    )


def _three_channels(pixels):
    """Tells TensorFlow the shape, which it does not know by itself."""
    return tf.ensure_shape(pixels, [None, None, 3])


def _turned(pixels, orientation):
    """Brings pixels [H, W, 3] of an EXIF orientation upright."""
    # 5 to 8 have rows and columns swapped. Then 2, 3, 6 and 7 are mirrored
    # from left to right, 3, 4, 7 and 8 from top to bottom.
    turn = (orientation - 1) % 4
    down = tf.where(turn >= 2, -1, 1)
    across = tf.where((turn == 1) | (turn == 2), -1, 1)
    return tf.switch_case(
        tf.cast(orientation > 1, tf.int32) + tf.cast(orientation > 4, tf.int32),
        [
            lambda: pixels,
            lambda: pixels[::down, ::across],
            lambda: tf.transpose(pixels, [1, 0, 2])[::down, ::across],
        ],
    )


def _padded(data):
    """Bytes [n] with zeros behind them, so that each place has a head."""
    return tf.concat([data, tf.zeros([_HEAD], tf.uint8)], 0)


def _numbers(data, place, length: int):
    """The bytes at `place`, [length] int64; all lie within `data`."""
    return tf.cast(tf.slice(data, [place], [length]), tf.int64)


def _part(data, place, size):
    """As many of the `size` bytes at `place` as there are, without padding."""
    end = tf.minimum(place + tf.maximum(size, 0), _end(data))
    return data[place:end]


def _end(data):
    return tf.size(data, tf.int64) - _HEAD


def _fields(head, *fields: tuple) -> list[tf.Tensor]:
    """Numbers within bytes [..., n] int64.

    Args:
      head: the bytes.
      *fields: (place, size) or (place, size, _LITTLE): the number of `size`
        bytes at `place`, the highest first or, if little, the lowest.

    Returns:
      [...] int64 for each of the fields.
    """
    factors = np.zeros((len(fields), head.shape[-1]), np.int64)
    for row, (place, size, *little) in zip(factors, fields, strict=True):
        powers = 256 ** np.arange(size)
        row[place : place + size] = powers if little else powers[::-1]
    return tf.unstack(tf.linalg.matvec(factors, head), axis=-1)


def _word(name: bytes) -> int:
    return int.from_bytes(name, "big")


def _kind(head):
    """[] int32: the format."""
    first, second, third = _fields(head, (0, 4), (4, 4), (8, 4))
    kinds = {
        _PNG: (first == _word(b"\x89PNG")) & (second == _word(b"\r\n\x1a\n")),
        _WEBP: (first == _word(b"RIFF")) & (third == _word(b"WEBP")),
        _JPEG: first // 256 == _word(b"\xff\xd8\xff"),
        _BMP: first // 256**2 == _word(b"BM"),
    }
    result = tf.constant(_OTHER)
    for kind, found in kinds.items():
        result = tf.where(found, kind, result)
    return result


def _checks(kind, head, encoded):
    """Assertions that must hold before anything is decoded."""
    height, width = tf.cond(
        kind == _JPEG,
        lambda: _size_of_jpeg(encoded),
        lambda: _size_of_others(kind, head),
    )
    first, name, flags = _fields(head, (0, 4), (12, 4), (20, 1))
    is_animated = (name == _word(b"VP8X")) & (flags // 2 % 2 == 1)
    checks = []
    passed = tf.constant(True)
    for condition, message in (
        # TensorFlow would decode a JPEG XL, of whatever size.
        (
            (kind != _OTHER) | (first == _word(b"GIF8")),
            "not a JPEG, PNG, WebP, BMP or GIF",
        ),
        # TensorFlow 2.21 writes beyond its memory for some of them.
        ((kind != _WEBP) | ~is_animated, "an animated WebP"),
        (
            (kind != _BMP) | _is_usable_bmp(head),
            "a BMP with a palette, or of an unusual kind",
        ),
        (
            height * width <= MAXIMUM_PIXELS,
            f"an image of more than {MAXIMUM_PIXELS:,} pixels",
        ),
    ):
        # They run side by side: the first that fails is to be the only one.
        checks.append(tf.debugging.Assert(condition | ~passed, [message]))
        passed &= condition
    return checks


def _is_usable_bmp(head):
    """As `headers.read_header` sees it."""
    size, bits, packing, *masks = _fields(
        head, (14, 4, _LITTLE), (28, 2, _LITTLE), (30, 4, _LITTLE),
        *((place, 4, _LITTLE) for place in (54, 58, 62)),
    )  # fmt: skip

    def is_one(value, of):
        return tf.reduce_any(value == tf.constant(of, tf.int64))

    is_usual = tf.reduce_all(tf.stack(masks) == BMP_MASKS)
    return (
        is_one(size, BMP_HEADERS)
        & is_one(bits, (24, 32))
        & (is_one(packing, BMP_PLAIN) | is_one(packing, BMP_MASKED) & is_usual)
    )


def _end_of_pixels(kind, head):
    """What may follow the pixels of a BMP is not for TensorFlow."""
    start, width, height, bits = _fields(
        head, (10, 4, _LITTLE), (18, 4, _LITTLE), (22, 4, _LITTLE),
        (28, 2, _LITTLE),
    )  # fmt: skip
    row = (width * bits // 8 + 3) // 4 * 4
    end = start + row * tf.minimum(height, 2**32 - height)
    return tf.where(kind == _BMP, end, tf.int64.max)


def _size_of_jpeg(encoded):
    shape = tf.image.extract_jpeg_shape(encoded, tf.int64)
    return shape[0], shape[1]


def _size_of_others(kind, head):
    name, *size_of_png = _fields(head, (12, 4), (20, 4), (16, 4))
    size_of_gif = _fields(head, (8, 2, _LITTLE), (6, 2, _LITTLE))
    height, width = _fields(head, (22, 4, _LITTLE), (18, 4, _LITTLE))
    # A BMP that lies upside down has a negative height.
    size_of_bmp = [tf.minimum(height, 2**32 - height), width]
    extended = _fields(head, (27, 3, _LITTLE), (24, 3, _LITTLE))
    lossy = _fields(head, (28, 2, _LITTLE), (26, 2, _LITTLE))
    (packed,) = _fields(head, (21, 4, _LITTLE))
    lossless = [packed // 2**14 % 2**14, packed % 2**14]
    size_of_webp = tf.where(
        name == _word(b"VP8X"),
        tf.stack(extended) + 1,
        tf.where(
            name == _word(b"VP8L"),
            tf.stack(lossless) + 1,
            tf.stack(lossy) % 2**14,
        ),
    )
    size = tf.where(
        kind == _PNG,
        size_of_png,
        tf.where(
            kind == _WEBP,
            size_of_webp,
            tf.where(kind == _BMP, size_of_bmp, size_of_gif),
        ),
    )
    return size[0], size[1]


def _decoded_png(encoded, head, metadata):
    def of_16_bits():
        deep = tf.io.decode_png(encoded, channels=4, dtype=tf.uint16)
        return _over_white(*_scaled(deep, metadata.significant_bits))

    def with_alpha():
        return _over_white(*_split(tf.io.decode_png(encoded, channels=4)))

    depth, colour = head[24], head[25]
    is_alpha = (colour == 4) | (colour == 6) | metadata.is_transparent
    return tf.switch_case(
        tf.where(depth == 16, 2, tf.cast(is_alpha, tf.int32)),
        # Where a gray of less than 8 bits has no alpha, TensorFlow would give
        # it a wrong one.
        [lambda: _plain(encoded), with_alpha, of_16_bits],
    )


def _decoded_webp(encoded):
    # A WebP has three channels or four, and only what it has may be asked for.
    pixels = tf.io.decode_image(encoded, expand_animations=False)
    pixels = tf.ensure_shape(pixels, [None, None, None])
    return tf.cond(
        tf.shape(pixels)[2] == 4,
        lambda: _over_white(*_split(pixels)),
        lambda: pixels,
    )


def _split(pixels):
    """Colours [H, W, 3] and alpha [H, W, 1] of pixels [H, W, 4]."""
    return pixels[..., :3], pixels[..., 3:]


def _over_white(colours, alpha):
    """[H, W, 3] uint8 from colours and alpha of 0 to 255."""

    def composited():
        a = tf.cast(alpha, tf.int32)
        mixed = a * tf.cast(colours, tf.int32) + (255 - a) * 255
        return tf.cast((mixed + 127) // 255, tf.uint8)

    return tf.cond(tf.reduce_all(alpha == 255), lambda: colours, composited)


def _scaled(deep, significant_bits):
    """Colours and alpha, uint8, of pixels [H, W, 4] uint16."""
    colours, alpha = (tf.cast(x, tf.int32) for x in _split(deep))
    white = _true_range(colours, significant_bits)
    return _to_8_bits(colours, white), _to_8_bits(alpha, 2**16 - 1)


def _to_8_bits(values, largest):
    """0 to `largest` -> 0 to 255, rounded."""
    return tf.cast((values * 255 + largest // 2) // largest, tf.uint8)


def _true_range(colours, significant_bits):
    """The value that stands for white in a PNG of 16 bits, [] int32.

    Many programs store 10, 12 or 14 bits as they are, so that white is far
    below 65535. Such pictures are known by their largest value: the smallest
    of `_DEPTHS` that holds it is the depth. A chunk sBIT says how many bits
    are significant; then the depth is that or, as the standard of PNG wants
    it, 16.
    """
    depths = tf.where(
        significant_bits > 0,
        tf.minimum(significant_bits, 16),
        tf.constant(_DEPTHS),
    )
    limits = tf.bitwise.left_shift(1, depths) - 1
    holds = limits >= tf.reduce_max(colours)
    return tf.reduce_min(tf.where(holds, limits, 2**16 - 1))


class _Metadata(NamedTuple):
    """What the segments of a file say beside its pixels.

    Attributes:
      exif: [n] uint8, its TIFF structure, empty without.
      significant_bits: [] int32, the largest number of a PNG's sBIT, 0 without.
      is_transparent: [] bool, whether a PNG has a chunk tRNS.
    """

    exif: tf.Tensor
    significant_bits: tf.Tensor
    is_transparent: tf.Tensor


def _metadata(kind, head, data) -> _Metadata:
    """Walks over the segments of a file, once."""
    end = _end(data)
    # A WebP that is not an extended one has no EXIF.
    (name,) = _fields(head, (12, 4))
    is_extended = name == _word(b"VP8X")
    is_known = (kind == _PNG) | (kind == _JPEG)
    is_known |= (kind == _WEBP) & is_extended
    start = tf.gather(tf.constant(_STARTS, tf.int64), kind)
    start = tf.where(is_known, start, end)

    def advance(place, exif, bits, transparency):
        segment = _segment(kind, _numbers(data, place, _SEGMENT))
        return (
            tf.where(segment.is_last, end, place + segment.size),
            tf.where(segment.is_exif & (exif == end), place, exif),
            tf.where(segment.is_bits & (bits == end), place, bits),
            tf.where(segment.is_transparency, place, transparency),
        )

    _, exif, bits, transparency = tf.while_loop(
        lambda place, *_: place + 4 <= end,
        advance,
        (start, end, end, end),
        maximum_iterations=MAXIMUM_SEGMENTS,
    )
    bits = tf.cast(_content(kind, data, bits)[:4], tf.int32)
    exif = _content(kind, data, exif)
    # Some programs write it into a WebP with the mark that a JPEG has.
    (mark,) = _fields(_numbers(_padded(exif), 0, 6), (0, 6))
    has_mark = (kind == _WEBP) & (mark == _word(EXIF_MARK))
    return _Metadata(
        exif[tf.where(has_mark, len(EXIF_MARK), 0) :],
        tf.reduce_max(tf.concat([[0], bits], 0)),
        transparency < end,
    )


class _Segment(NamedTuple):
    """What the first 12 bytes of a segment say, scalars.

    Attributes:
      size: int64, of all of it.
      begin: int64, where its content begins.
      length: int64, of the content.
      is_exif: bool.
      is_bits: bool, of a PNG: sBIT.
      is_transparency: bool, of a PNG: tRNS.
      is_last: bool, whether nothing of interest follows.
    """

    size: tf.Tensor
    begin: tf.Tensor
    length: tf.Tensor
    is_exif: tf.Tensor
    is_bits: tf.Tensor
    is_transparency: tf.Tensor
    is_last: tf.Tensor


def _segment(kind, head) -> _Segment:
    first, second, content, third = _fields(
        head, (0, 4), (4, 4), (4, 4, _LITTLE), (8, 2)
    )
    is_png, is_webp, is_jpeg = (kind == k for k in (_PNG, _WEBP, _JPEG))
    marker = first // 2**16
    # Between the segments of a JPEG may be padding, or damage.
    is_marked = (marker > 0xFF00) & (marker < 0xFFFF)
    of_jpeg = tf.where(is_marked, 2 + first % 2**16, 1)
    of_others = tf.where(is_png, 12 + first, 8 + content + content % 2)
    is_exif = tf.where(
        is_jpeg,
        (marker == 0xFF00 + APP1) & (second == _word(b"Exif")) & (third == 0),
        (is_png & (second == _word(b"eXIf")))
        | (is_webp & (first == _word(b"EXIF"))),
    )
    is_scan = marker == 0xFF00 + START_OF_SCAN
    return _Segment(
        tf.where(is_jpeg, of_jpeg, of_others),
        tf.where(is_jpeg, tf.constant(10, tf.int64), 8),
        tf.where(is_jpeg, of_jpeg - 10, tf.where(is_png, first, content)),
        is_exif,
        is_png & (second == _word(b"sBIT")),
        is_png & (second == _word(b"tRNS")),
        (is_exif & ~is_png) | (is_jpeg & is_scan),
    )


def _content(kind, data, place):
    """[n] uint8 of the segment at `place`; empty at the end of the file."""
    segment = _segment(kind, _numbers(data, place, _SEGMENT))
    return _part(data, place + segment.begin, segment.length)


def _orientation(tiff):
    """The orientation, [] int64 from 1 to 8, by a TIFF structure, padded."""
    mark, *places = _fields(
        _numbers(tiff, 0, 8), (0, 4), (4, 4), (4, 4, _LITTLE)
    )
    is_little = mark == _word(b"II*\0")

    def number(big, little):
        return tf.where(is_little, little, big)

    end = _end(tiff)
    place = tf.minimum(number(*places), end)
    counts = _fields(_numbers(tiff, place, 2), (0, 2), (0, 2, _LITTLE))
    space = tf.maximum(end - place - 2, 0) // 12
    count = tf.minimum(number(*counts), space)
    entries = tf.reshape(_part(tiff, place + 2, 12 * count), [-1, 12])
    # The first one counts; without any, a row of zeros.
    entries = tf.concat(
        [tf.cast(entries, tf.int64), tf.zeros([1, 12], tf.int64)], 0
    )
    tags = number(*_fields(entries, (0, 2), (0, 2, _LITTLE)))
    is_wanted = tf.concat([tags[:-1] == ORIENTATION_TAG, [True]], 0)
    entry = entries[tf.argmax(is_wanted)]
    kind, of_values, short, long = (
        number(*_fields(entry, (at, size), (at, size, _LITTLE)))
        for at, size in ((2, 2), (4, 4), (8, 2), (8, 4))
    )
    value = tf.where(kind == SHORT, short, long)
    is_valid = (
        (is_little | (mark == _word(b"MM\0*")))
        & ((kind == SHORT) | (kind == LONG))
        & (of_values == 1)
        & (value >= 1)
        & (value <= 8)
    )
    return tf.where(is_valid, value, 1)
