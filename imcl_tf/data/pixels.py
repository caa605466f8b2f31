"""Encoded images -> pixels of one size, and random changes of those."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from imcl_tf.backbones.pictures import SQUASHED, Resizing
from imcl_tf.data.decoding import decode_stored
from imcl_tf.ops.workers import ALONE, Workers

_LONGEST = 16  # times the shorter side
# What a minibatch's seed is folded with: one purpose each, and one for each
# place in a minibatch.
_COLOURS, _SQUARES, _CROPS = 1, 2, 3


def decode_and_resize(
    encoded: tf.Tensor,
    image_size: int,
    resizing: Resizing = SQUASHED,
    crop: Crop | None = None,
) -> tf.Tensor:
    """Decodes and resizes one image [] string of a record.

    Args:
      encoded: see `decoding.decode_stored`.
      image_size: S.
      resizing: to S x S.
      crop: what to show of that, in S x S pixels again; None = all of it.

    Returns:
      [S, S, 3] uint8.
    """
    return resized(decode_stored(encoded), image_size, resizing, crop)


class Crop(NamedTuple):
    """A square of a picture of S x S, drawn at random.

    Attributes:
      corner: [2] float32, its top and left as shares of S - 1.
      side: [] float32, as a share, in (0, 1].
      is_mirrored: [] bool, left to right.
    """

    corner: tf.Tensor
    side: tf.Tensor
    is_mirrored: tf.Tensor


def random_crop(seed: tf.Tensor, place: tf.Tensor, minimum_area: float) -> Crop:
    """Draws where a picture is cropped, and whether it is mirrored.

    Args:
      seed: [2] int, of the minibatch.
      place: [] int, of the picture in its minibatch.
      minimum_area: least share of the area, in (0, 1]; up to 1 all are
        equally likely, and so are all corners.

    Returns:
      `Crop`.
    """
    u = tf.random.stateless_uniform([4], _folded(seed, _CROPS + place))
    side = tf.sqrt(minimum_area + (1.0 - minimum_area) * u[0])
    return Crop(u[1:3] * (1.0 - side), side, u[3] < 0.5)


def resized(
    image: tf.Tensor,
    image_size: int,
    resizing: Resizing = SQUASHED,
    crop: Crop | None = None,
) -> tf.Tensor:
    """Resizes pixels [H, W, 3] uint8 to [S, S, 3] uint8; or a crop of those."""
    if resizing.shorter_side:
        image = _without_far_ends(image)
    before = tf.cast(tf.shape(image)[:2], tf.float32)
    size, start = tf.constant([image_size, image_size]), tf.zeros(2, tf.int32)
    if resizing.shorter_side:
        # Rounded down, as for the 341 pixels of the Open Images checkpoint.
        shorter_side = resizing.shorter_side * image_size // 224
        scale = shorter_side / tf.reduce_min(before)
        size = tf.cast(tf.round(before * scale), tf.int32)
        start = (size - image_size) // 2
    if crop is not None:
        scale = tf.cast(size, tf.float32) / before
        image = _resized_crop(
            image, image_size, scale, start, resizing.tf1, crop
        )
    elif resizing.tf1:
        image = tf.compat.v1.image.resize(tf.cast(image, tf.float32), size)
    else:
        image = tf.image.resize(image, size, antialias=True)
    if resizing.shorter_side and crop is None:
        # Not resize_with_crop_or_pad, whose checks take longer than the crop.
        start = tf.pad(start, [[0, 1]])
        image = tf.slice(image, start, [image_size, image_size, 3])
    # Means of bytes: there is nothing to clip.
    return tf.cast(tf.round(image), tf.uint8)


def _resized_crop(image, image_size, scale, start, tf1, crop):
    """A crop of the resized picture, from the picture itself.

    To resize once in place of twice takes half the time, and blurs less. Pixel
    n of the crop lies where pixel start + corner + side n of the resized
    picture does, at scale times the picture.
    """
    corner = tf.cast(start, tf.float32) + crop.corner * (image_size - 1.0)
    # Pixel n of a resized picture has its middle at n + 1/2; in TF1 it lies
    # where n / scale does.
    middle = scale / 2 if tf1 else 0.5
    if tf1:  # and may lie beyond the last one, which is repeated there
        image = tf.pad(image, [[0, 1], [0, 1], [0, 0]], "SYMMETRIC")
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=[image_size, image_size],
        scale=scale / crop.side,
        translation=0.5 - (corner + middle) / crop.side,
        kernel_type="triangle",
        antialias=not tf1,
    )[0]
    return tf.cond(
        crop.is_mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels
    )


def _without_far_ends(image):
    """The middle of a picture that is far longer than wide, or wider than long.

    The centre is cropped anyway: resizing all of 1 x 9,000 pixels would take
    7 GB.
    """
    size = tf.shape(image)[:2]
    longest = _LONGEST * tf.reduce_min(size)
    start = tf.pad(tf.maximum(size - longest, 0) // 2, [[0, 1]])
    size = tf.concat([tf.minimum(size, longest), [3]], 0)
    return tf.slice(image, start, size)


class Augmentation(NamedTuple):
    """How pictures are changed at random.

    Attributes:
      minimum_area: of a crop, as a share of the picture, in (0, 1].
      colour: brightness, contrast and saturation are multiplied by factors of
        1 - colour to 1 + colour; 0 = they stay.
      erased: side of the square that is grayed out in every other picture, at
        most, as a share of the picture's side; 0 = none.
    """

    minimum_area: float = 0.8
    colour: float = 0.0
    erased: float = 0.0


# Values of --augment_level.
AUGMENTATIONS = {
    "light": Augmentation(),
    "medium": Augmentation(0.5, colour=0.2),
    "strong": Augmentation(0.3, colour=0.4, erased=0.5),
}
_MIDDLE_GRAY = 127.5


def recoloured(
    ds: tf.data.Dataset,
    seed: int,
    first_step: int = 0,
    augmentation: Augmentation = AUGMENTATIONS["light"],
    share: Workers = ALONE,
) -> tf.data.Dataset:
    """Changes colours and grays out squares, all that is not a crop.

    Args:
      ds: (image_index [B], images [b, S, S, 3] uint8).
      seed: of all that is random, together with the step.
      first_step: number of the first minibatch.
      augmentation: how much is changed.
      share: whose rows of the minibatch the images are.

    Returns:
      elements as those of `ds`.
    """

    def change(batch, step):
        index, images = batch
        step_seed = tf.stack([seed, step])

        def drawn(number, purpose):
            """[number, b] random numbers of those of the whole minibatch."""
            u = tf.random.stateless_uniform(
                [number, tf.size(index)], _folded(step_seed, purpose)
            )
            return u[:, share.index :: share.number]

        images = tf.cast(images, tf.float32)
        if augmentation.colour:
            images = _recoloured(
                images, drawn(3, _COLOURS), augmentation.colour
            )
        if augmentation.erased:
            images = _erased(images, drawn(4, _SQUARES), augmentation.erased)
        return index, tf.cast(tf.round(images), tf.uint8)

    if not (augmentation.colour or augmentation.erased):
        return ds
    steps = tf.data.Dataset.counter(first_step)
    return tf.data.Dataset.zip(ds, steps).map(
        change, num_parallel_calls=tf.data.AUTOTUNE
    )


def _folded(seed, purpose):
    return tf.random.experimental.stateless_fold_in(seed, purpose)


def _recoloured(images, u, amount):
    """Images [B, S, S, 3] of other brightness, contrast and saturation."""
    factors = 1.0 + amount * (
        2.0 * u[..., tf.newaxis, tf.newaxis, tf.newaxis] - 1.0
    )
    images *= factors[0]
    mean = tf.reduce_mean(images, [1, 2, 3], keepdims=True)
    images = mean + factors[1] * (images - mean)
    gray = tf.image.rgb_to_grayscale(images)
    images = gray + factors[2] * (images - gray)
    return tf.clip_by_value(images, 0.0, 255.0)


def _erased(images, u, largest):
    """Images [B, S, S, 3], every other with a gray square within it."""
    shape = tf.shape(images)
    u = u[..., tf.newaxis]
    side = tf.where(u[0] < 0.5, largest * u[1], 0.0)
    # Middles of the pixels, as shares of the side.
    place = (tf.range(tf.cast(shape[1], tf.float32)) + 0.5) / tf.cast(
        shape[1], tf.float32
    )
    rows, columns = (
        (place >= start) & (place < start + side)
        for start in (u[2] * (1.0 - side), u[3] * (1.0 - side))
    )
    inside = rows[:, :, tf.newaxis] & columns[:, tf.newaxis]
    return tf.where(inside[..., tf.newaxis], _MIDDLE_GRAY, images)
