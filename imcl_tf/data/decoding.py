"""Image files -> pixels, all within TensorFlow's graph.

`decode` takes any image file; an exported model calls it. `decode_stored`
takes what `images.stored_form` makes of a file for the records; it is about as
fast as `tf.io.decode_image` and gives the same pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import tensorflow as tf

from imcl_tf.data.headers import (
    APP1,
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
_SEGMENT = 12  # bytes of the head of a segment, or more
_HEAD = 32  # the same of a file
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
        encoded = tf.identity(encoded)
    pixels = tf.switch_case(
        kind,
        {
            _PNG: lambda: _decoded_png(encoded, data),
            _WEBP: lambda: _decoded_webp(encoded),
        },
        default=lambda: _plain(encoded),
    )
    exif = tf.switch_case(
        kind,
        {
            _PNG: lambda: _exif_of_png(data),
            _WEBP: lambda: _exif_of_webp(data),
            _JPEG: lambda: _exif_of_jpeg(data),
        },
        default=lambda: data[:0],
    )
    orientation = _orientation(_padded(exif))
    return _three_channels(
        tf.cond(
            orientation > 1,
            lambda: _turned(pixels, orientation),
            lambda: pixels,
        )
    )


def _plain(encoded):
    return _three_channels(
        tf.io.decode_image(encoded, channels=3, expand_animations=False)
    )


def _three_channels(pixels):
    """Tells TensorFlow the shape, which it does not know by itself."""
    return tf.ensure_shape(pixels, [None, None, 3])


def _turned(pixels, orientation):
    """Brings pixels [H, W, 3] of an EXIF orientation upright."""
    pixels = tf.cond(
        orientation > 4,
        lambda: tf.transpose(pixels, [1, 0, 2]),
        lambda: pixels,
    )
    # 5 to 8 have rows and columns swapped. Then 2, 3, 6 and 7 are mirrored
    # from left to right, 3, 4, 7 and 8 from top to bottom.
    turn = (orientation - 1) % 4
    down = tf.where(turn >= 2, -1, 1)
    across = tf.where((turn == 1) | (turn == 2), -1, 1)
    return pixels[::down, ::across]


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


def _little(digits):
    """[...] int64, the numbers of bytes [..., n], the lowest first."""
    factors = [256**i for i in range(digits.shape[-1])]
    return tf.reduce_sum(digits * tf.constant(factors, tf.int64), -1)


def _big(digits):
    """As `_little`, the highest first."""
    factors = [256**i for i in reversed(range(digits.shape[-1]))]
    return tf.reduce_sum(digits * tf.constant(factors, tf.int64), -1)


def _is(digits, text: bytes):
    """Whether bytes [n] are `text`."""
    return tf.reduce_all(digits == tf.constant(list(text), tf.int64))


def _kind(head):
    """[] int32: the format."""
    kinds = {
        _PNG: _is(head[:8], b"\x89PNG\r\n\x1a\n"),
        _WEBP: _is(head[:4], b"RIFF") & _is(head[8:12], b"WEBP"),
        _JPEG: _is(head[:3], b"\xff\xd8\xff"),
        _BMP: _is(head[:2], b"BM"),
    }
    result = tf.constant(_OTHER)
    for kind, found in kinds.items():
        result = tf.where(found, kind, result)
    return result


def _checks(kind, head, encoded):
    """Assertions that must hold before anything is decoded."""
    height, width = tf.switch_case(
        kind,
        {
            _PNG: lambda: (_big(head[20:24]), _big(head[16:20])),
            _WEBP: lambda: _size_of_webp(head),
            _JPEG: lambda: _size_of_jpeg(encoded),
            # Of a negative height if it lies upside down.
            _BMP: lambda: (
                tf.minimum(_little(head[22:26]), 2**32 - _little(head[22:26])),
                _little(head[18:22]),
            ),
            _OTHER: lambda: (_little(head[8:10]), _little(head[6:8])),
        },
    )
    is_animated = _is(head[12:16], b"VP8X") & (head[20] // 2 % 2 == 1)
    has_colours = (head[28] == 24) | (head[28] == 32)
    return [
        tf.debugging.Assert(condition, [message])
        for condition, message in (
            (
                height * width <= MAXIMUM_PIXELS,
                f"an image of more than {MAXIMUM_PIXELS:,} pixels",
            ),
            # TensorFlow 2.21 writes beyond its memory for some of them.
            ((kind != _WEBP) | ~is_animated, "an animated WebP"),
            # TensorFlow takes the palette's indices for gray values.
            ((kind != _BMP) | has_colours, "a BMP with a palette"),
        )
    ]


def _size_of_jpeg(encoded):
    shape = tf.image.extract_jpeg_shape(encoded, tf.int64)
    return shape[0], shape[1]


def _size_of_webp(head):
    """(height, width) by the first chunk: extended, lossless or lossy."""
    packed = _little(head[21:25])
    is_lossless = _is(head[12:16], b"VP8L")
    simple = tf.where(
        is_lossless,
        [1 + packed // 2**14 % 2**14, 1 + packed % 2**14],
        [_little(head[28:30]) % 2**14, _little(head[26:28]) % 2**14],
    )
    extended = [1 + _little(head[27:30]), 1 + _little(head[24:27])]
    size = tf.where(_is(head[12:16], b"VP8X"), extended, simple)
    return size[0], size[1]


def _decoded_png(encoded, data):
    def of_16_bits():
        deep = tf.io.decode_png(encoded, channels=4, dtype=tf.uint16)
        bits = tf.concat([[0], _chunk_before_pixels(data, b"sBIT")], 0)
        return _over_white(*_scaled(deep, tf.reduce_max(bits)))

    def with_alpha():
        return _over_white(*_split(tf.io.decode_png(encoded, channels=4)))

    def of_8_bits():
        is_alpha = (data[25] == 4) | (data[25] == 6)
        is_alpha |= tf.size(_chunk_before_pixels(data, b"tRNS")) > 0
        # Without alpha, TensorFlow gives gray of less than 8 bits a wrong one.
        return tf.cond(is_alpha, with_alpha, lambda: _plain(encoded))

    return tf.cond(data[24] == 16, of_16_bits, of_8_bits)


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


def _chunk_before_pixels(data, name: bytes):
    """Content of a PNG's chunk, [n] int32, empty without."""

    def step(place, head):
        is_last = _is(head[4:8], b"IDAT")
        return place + 12 + _big(head[:4]), _is(head[4:8], name), is_last

    chunk = _found(data, 8, step, lambda head: (8, _big(head[:4])))
    return tf.cast(chunk, tf.int32)


def _exif_of_png(data):
    def step(place, head):
        return place + 12 + _big(head[:4]), _is(head[4:8], b"eXIf"), False

    return _found(data, 8, step, lambda head: (8, _big(head[:4])))


def _exif_of_webp(data):
    is_extended = _is(_numbers(data, 12, 4), b"VP8X")

    def step(place, head):
        size = _little(head[4:8])
        after = place + 8 + size + size % 2
        return after, _is(head[:4], b"EXIF"), ~is_extended

    exif = _found(data, 12, step, lambda head: (8, _little(head[4:8])))
    # Some programs write it with the mark that a JPEG has.
    has_mark = _is(_numbers(_padded(exif), 0, len(EXIF_MARK)), EXIF_MARK)
    return exif[tf.where(has_mark, len(EXIF_MARK), 0) :]


def _exif_of_jpeg(data):
    def step(place, head):
        marker = head[1]
        is_segment = (head[0] == 255) & (marker != 0) & (marker != 255)
        after = place + tf.where(is_segment, 2 + _big(head[2:4]), 1)
        is_exif = (marker == APP1) & _is(head[4:10], EXIF_MARK)
        is_last = is_segment & (marker == START_OF_SCAN)
        return after, is_segment & is_exif, is_last

    return _found(data, 2, step, lambda head: (10, _big(head[2:4]) - 8))


def _found(data, start: int, step: Callable, payload: Callable):
    """Walks over the segments of a file to the one that is wanted.

    Args:
      data: bytes of the file, padded.
      start: place of the first segment.
      step: (place of a segment, its first 12 bytes) -> (place of the next one,
        whether this is the one, whether it is the last).
      payload: the first 12 bytes of the one -> (where its content begins in
        it, size of the content).

    Returns:
      [n] uint8, its content, or as much as is there; empty if there is none.
    """
    end = _end(data)

    def advance(place, _):
        after, is_it, is_last = step(place, _numbers(data, place, _SEGMENT))
        return (
            tf.where(is_it | is_last, end, after),
            tf.where(is_it, place, end),
        )

    _, place = tf.while_loop(
        lambda place, _: place + 4 <= end,
        advance,
        (tf.constant(start, tf.int64), end),
        maximum_iterations=MAXIMUM_SEGMENTS,
    )
    begin, size = payload(_numbers(data, place, _SEGMENT))
    return _part(data, place + begin, size)


def _orientation(tiff):
    """Of the first directory of a TIFF structure, padded; [] int64, 1 to 8."""
    mark = _numbers(tiff, 0, 4)
    is_little = _is(mark, b"II*\0")

    def number(digits):
        return tf.where(is_little, _little(digits), _big(digits))

    end = _end(tiff)
    place = tf.minimum(number(_numbers(tiff, 4, 4)), end)
    count = number(_numbers(tiff, place, 2))
    space = tf.maximum(end - place - 2, 0) // 12
    entries = _part(tiff, place + 2, 12 * tf.minimum(count, space))
    entries = tf.cast(tf.reshape(entries, [-1, 12]), tf.int64)
    wanted = entries[number(entries[:, :2]) == ORIENTATION_TAG]
    # The first one counts; without any, a row of zeros.
    entry = tf.concat([wanted[:1], tf.zeros([1, 12], tf.int64)], 0)[0]
    kind, of_values = number(entry[2:4]), number(entry[4:8])
    value = tf.where(kind == SHORT, number(entry[8:10]), number(entry[8:]))
    is_valid = (
        (is_little | _is(mark, b"MM\0*"))
        & ((kind == SHORT) | (kind == LONG))
        & (of_values == 1)
        & (value >= 1)
        & (value <= 8)
    )
    return tf.where(is_valid, value, 1)
