"""Encoded images -> pixels of one size, and random crops of those."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.backbones.pictures import SQUASHED, Resizing
from imcl_tf.data.decoding import decode_stored

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


def augmented(
    ds: tf.data.Dataset,
    image_size: int,
    seed: int,
    first_step: int = 0,
    minimum_area: float = 0.8,
) -> tf.data.Dataset:
    """Crops each image at random, back to its size, and mirrors every other.

    Args:
      ds: (image_index [B], images [B, S, S, 3] uint8).
      image_size: S.
      seed: of crops and mirroring, together with the step.
      first_step: number of the first minibatch.
      minimum_area: of a crop, as a share of the image, in (0, 1].

    Returns:
      elements as those of `ds`.
    """

    def crop(batch, step):
        index, images = batch
        size = tf.shape(images)[0]
        u = tf.random.stateless_uniform([4, size], tf.stack([seed, step]))
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
        images = tf.image.crop_and_resize(
            images, boxes, tf.range(size), [image_size, image_size]
        )
        return index, tf.cast(tf.round(images), tf.uint8)

    steps = tf.data.Dataset.counter(first_step)
    return tf.data.Dataset.zip(ds, steps).map(
        crop, num_parallel_calls=tf.data.AUTOTUNE
    )
