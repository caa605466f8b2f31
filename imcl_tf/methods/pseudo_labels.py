"""Pseudo-labels of the training images, kept and changed in TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_PER_BYTE = 4
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)


class PseudoLabels:
    """Labels in {-1, 0, +1} of N images, 0 = none, two bits each.

    A minibatch is read and written inside a step, without a round trip to the
    host. 1.1 GB hold a million images of 4,500 labels.

    Args:
      num_images: N.
      num_labels: C.

    Example:
      >>> import imcl_tf, numpy as np
      >>> pseudo = imcl_tf.PseudoLabels(num_images=3, num_labels=2)
      >>> pseudo.update(np.array([1]), np.array([[1, -1]], np.int8))
      >>> pseudo.rows(np.array([0, 1])).numpy().tolist()
      [[0, 0], [1, -1]]
    """

    def __init__(self, num_images: int, num_labels: int):
        self.num_images, self.num_labels = num_images, num_labels
        num_bytes = -(-num_labels // _PER_BYTE)
        # The last row stands for -1, an image of no number.
        self.packed = tf.Variable(
            tf.zeros([num_images + 1, num_bytes], tf.uint8), trainable=False
        )

    def rows(self, image_index: tf.Tensor) -> tf.Tensor:
        """Returns the labels [B, C] int8 of images [B] int32, 0 for -1."""
        packed = tf.gather(self.packed, self._row_of(image_index))
        codes = tf.bitwise.right_shift(packed[:, :, tf.newaxis], _SHIFTS)
        codes = tf.reshape(
            tf.bitwise.bitwise_and(codes, np.uint8(3)),
            [tf.shape(packed)[0], packed.shape[1] * _PER_BYTE],
        )
        codes = tf.cast(codes[:, : self.num_labels], tf.int8)
        return tf.where(codes == 2, tf.constant(-1, tf.int8), codes)

    def update(self, image_index: tf.Tensor, labels: tf.Tensor):
        """Replaces the labels of images [B], distinct or -1, by [B, C] int8.

        Images of number -1 are left out.
        """
        known = (image_index >= 0)[:, tf.newaxis]
        codes = tf.cast(
            tf.where(labels < 0, 2, tf.cast(labels, tf.int32)), tf.uint8
        )
        codes = tf.where(known, codes, tf.zeros_like(codes))
        missing = self.packed.shape[1] * _PER_BYTE - self.num_labels
        codes = tf.reshape(
            tf.pad(codes, [[0, 0], [0, missing]]),
            [tf.shape(codes)[0], self.packed.shape[1], _PER_BYTE],
        )
        packed = tf.reduce_sum(tf.bitwise.left_shift(codes, _SHIFTS), 2)
        self.packed.scatter_update(
            tf.IndexedSlices(packed, self._row_of(image_index))
        )

    def _row_of(self, image_index):
        return tf.where(image_index < 0, self.num_images, image_index)


def fill_unobserved(labels: tf.Tensor, pseudo_labels: tf.Tensor) -> tf.Tensor:
    """Returns `labels` [B, C] with `pseudo_labels` where none is observed."""
    return tf.where(labels == 0, pseudo_labels, labels)
