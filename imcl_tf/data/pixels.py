"""Encoded images -> pixels of one size, and random changes of those."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from imcl_tf.backbones.pictures import SQUASHED, Resizing
from imcl_tf.data.decoding import decode_stored
from imcl_tf.ops.workers import ALONE, Workers

_LONGEST = 16  # times the shorter side


def decode_and_resize(
    encoded: tf.Tensor, image_size: int, resizing: Resizing = SQUASHED
) -> tf.Tensor:
    """Decodes and resizes one image [] string of a record.

    Args:
      encoded: see `decoding.decode_stored`.
      image_size: S.
      resizing: to S x S.

    Returns:
      [S, S, 3] uint8.
    """
    return resized(decode_stored(encoded), image_size, resizing)


def resized(
    image: tf.Tensor, image_size: int, resizing: Resizing = SQUASHED
) -> tf.Tensor:
    """Resizes pixels [H, W, 3] uint8 to [S, S, 3] uint8."""
    size = tf.constant([image_size, image_size])
    if resizing.shorter_side:
        image = _without_far_ends(image)
        before = tf.cast(tf.shape(image)[:2], tf.float32)
        # Rounded down, as for the 341 pixels of the Open Images checkpoint.
        shorter_side = resizing.shorter_side * image_size // 224
        scale = shorter_side / tf.reduce_min(before)
        size = tf.cast(tf.round(before * scale), tf.int32)
    if resizing.tf1:
        image = tf.compat.v1.image.resize(tf.cast(image, tf.float32), size)
    else:
        image = tf.image.resize(image, size, antialias=True)
    if resizing.shorter_side:
        # Not resize_with_crop_or_pad, whose checks take longer than the crop.
        start = tf.pad((size - image_size) // 2, [[0, 1]])
        image = tf.slice(image, start, [image_size, image_size, 3])
    # Means of bytes: there is nothing to clip.
    return tf.cast(tf.round(image), tf.uint8)


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


def augmented(
    ds: tf.data.Dataset,
    image_size: int,
    seed: int,
    first_step: int = 0,
    augmentation: Augmentation = AUGMENTATIONS["light"],
    share: Workers = ALONE,
) -> tf.data.Dataset:
    """Crops each image at random, back to its size, and mirrors every other.

    Args:
      ds: (image_index [B], images [b, S, S, 3] uint8).
      image_size: S.
      seed: of all that is random, together with the step.
      first_step: number of the first minibatch.
      augmentation: how much is cropped, and what else is done.
      share: whose rows of the minibatch the images are.

    Returns:
      elements as those of `ds`.
    """

    def change(batch, step):
        index, images = batch
        step_seed = tf.stack([seed, step])

        def drawn(number, purpose):
            """Random numbers [number, b] in [0, 1), of the rows of a share."""
            own_seed = _folded(step_seed, purpose) if purpose else step_seed
            shape = [number, tf.size(index)]
            u = tf.random.stateless_uniform(shape, own_seed)
            return u[:, share.index :: share.number]

        images = _cropped(
            images, image_size, drawn(4, 0), augmentation.minimum_area
        )
        if augmentation.colour:
            images = _recoloured(images, drawn(3, 1), augmentation.colour)
        if augmentation.erased:
            images = _erased(images, drawn(4, 2), augmentation.erased)
        return index, tf.cast(tf.round(images), tf.uint8)

    steps = tf.data.Dataset.counter(first_step)
    return tf.data.Dataset.zip(ds, steps).map(
        change, num_parallel_calls=tf.data.AUTOTUNE
    )


def _folded(seed, purpose):
    return tf.random.experimental.stateless_fold_in(seed, purpose)


def _cropped(images, image_size, u, minimum_area):
    """Random squares of images [B, S, S, 3], in their size, some mirrored."""
    side = tf.sqrt(minimum_area + (1.0 - minimum_area) * u[0])
    top, left = u[1] * (1.0 - side), u[2] * (1.0 - side)
    right = left + side
    # A box from right to left is a mirror image.
    mirror = u[3] < 0.5
    boxes = tf.stack(
        [
            top,
            tf.where(mirror, right, left),
            top + side,
            tf.where(mirror, left, right),
        ],
        1,
    )
    return tf.image.crop_and_resize(
        images, boxes, tf.range(tf.shape(images)[0]), [image_size, image_size]
    )


def _recoloured(images, u, amount):
    """Images [B, S, S, 3] of other brightness, contrast and saturation."""
    factors = u[:, :, tf.newaxis, tf.newaxis, tf.newaxis]
    factors = factors * (2.0 * amount) + (1.0 - amount)
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
