"""Image files: is one usable, what is unusual about it, what is stored.

Records hold what `decoding.decode_stored` turns into the pixels that
`decoding.decode` makes of the file: the file as it came wherever that does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from imcl_tf.data import decoding, headers

_END_OF_IMAGE = b"\xff\xd9"


class Inspection(NamedTuple):
    """What is to know about an image file.

    Attributes:
      problem: why it cannot be used, None if it can.
      kind: see `headers.Header`.
      orientation: see there.
      is_one_colour: whether all its pixels are the same.
      stored: what a record holds: the file as it came; or a PNG of 8-bit RGB
        if it has alpha or 16 bits or is a PNG or WebP that lies turned; or a
        turned JPEG with its orientation at the start. b"" with a problem.
    """

    problem: str | None
    kind: str = "unknown"
    orientation: int = 1
    is_one_colour: bool = False
    stored: bytes = b""

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
      `Inspection`; no problem means that `decoding.decode` decodes it.
    """
    return inspect_all([encoded])[0]


def inspect_all(files: Sequence[bytes]) -> list[Inspection]:
    """`inspect` of each file, in less time where files are small and whole."""
    found = [_of_header(encoded) for encoded in files]
    plain = [i for i, x in enumerate(found) if x.stored]
    for i, result in zip(
        plain, _check([found[i].stored for i in plain]), strict=True
    ):
        if isinstance(result, str):
            found[i] = found[i]._replace(problem=result, stored=b"")
        else:
            found[i] = found[i]._replace(is_one_colour=result)
    return [
        inspection
        if inspection.problem or inspection.stored
        else _redrawn(encoded, inspection)
        for encoded, inspection in zip(files, found, strict=True)
    ]


def _of_header(encoded) -> Inspection:
    """By the header alone; without `stored` if the pixels must be redrawn."""
    format_ = headers.format_of(encoded)
    if format_ is None:
        return Inspection(headers.what_else(encoded))
    header = headers.read_header(encoded)
    kind, orientation = header.kind, header.orientation
    problem = _unusable(header)
    if problem:
        return Inspection(problem, kind, orientation)
    if kind in ("alpha", "16-bit", "16-bit alpha"):
        return Inspection(None, kind, orientation)
    if format_ == "BMP" and header.height:
        # Some programs add zeros, or a colour profile; TensorFlow wants none.
        encoded = encoded[: headers.bmp_end(encoded)]
    if orientation == 1:
        return Inspection(None, kind, stored=encoded)
    stored = b""
    if format_ == "JPEG":
        stored = decoding.with_orientation(encoded, orientation)
    return Inspection(None, kind, orientation, stored=stored)


def _unusable(header) -> str | None:
    if header.unusable:
        return header.unusable
    number = header.height * header.width
    if number > decoding.MAXIMUM_PIXELS:
        return (
            f"{header.width} x {header.height} pixels; at most "
            f"{decoding.MAXIMUM_PIXELS:,} expected"
        )
    return None


def _redrawn(encoded, inspection) -> Inspection:
    """The same with a PNG of the pixels as `stored`."""
    try:
        pixels = _decoded(encoded)
    except tf.errors.InvalidArgumentError:
        return inspection._replace(problem=_damage(encoded))
    return inspection._replace(
        is_one_colour=bool(_is_one_colour(pixels)),
        stored=tf.io.encode_png(pixels).numpy(),
    )


def _check(files: list[bytes]) -> list[bool | str]:
    """Whether each of the files is of one colour, or what is wrong with it."""
    try:
        return _are_one_colour(tf.constant(files, tf.string)).numpy().tolist()
    except tf.errors.InvalidArgumentError:
        if len(files) == 1:
            return [_damage(files[0])]
    return [result for encoded in files for result in _check([encoded])]


@tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
def _decoded(encoded):
    return decoding.decode(encoded)


@tf.function(
    autograph=False, input_signature=[tf.TensorSpec([None], tf.string)]
)
def _are_one_colour(files):
    """Decodes in one call from Python, not one for each file."""
    return tf.map_fn(
        lambda encoded: _is_one_colour(
            tf.io.decode_image(encoded, channels=3, expand_animations=False)
        ),
        files,
        fn_output_signature=tf.bool,
        parallel_iterations=1,
    )


def _is_one_colour(pixels):
    def like_the_first(some):
        return tf.reduce_all(some == pixels[:1, :1])

    # A few pixels tell most pictures apart.
    return tf.cond(
        like_the_first(pixels[::32, ::32]),
        lambda: like_the_first(pixels),
        lambda: tf.constant(False),
    )


def _damage(encoded) -> str:
    """What is wrong with a file that cannot be decoded."""
    format_ = headers.format_of(encoded)
    is_cut = format_ == "PNG" and b"IEND" not in encoded
    if format_ == "JPEG":
        # Not from the start: a thumbnail within EXIF has an end of its own.
        scan = max(
            (place for _, place, _ in headers.jpeg_segments(encoded)), default=0
        )
        is_cut = encoded.find(_END_OF_IMAGE, scan) < 0
    if format_ == "WebP":
        (size,) = struct.unpack("<I", encoded[4:8])
        is_cut = len(encoded) < 8 + size
    return f"truncated {format_}" if is_cut else f"a damaged {format_}"
