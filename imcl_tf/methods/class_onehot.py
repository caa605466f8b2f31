"""The class one-hot that eq. (5) joins to an image's labels (sec. 4.6, CUB)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from imcl_tf.ops import losses
from imcl_tf.ops.similarity import Similarities


class ClassOneHot:
    """One-hot vectors of magnitude a of the training images' classes.

    Images of no number or class have a zero vector.

    Args:
      classes: [N] int, class in [0, K) of each training image, -1 = unknown.
      magnitude: a > 0.
    """

    def __init__(self, classes: np.ndarray, magnitude: float):
        # The last entry stands for -1, an image of no number.
        self._classes = np.append(np.asarray(classes, np.int32), np.int32(-1))
        self._magnitude = magnitude

    def of(self, image_index: tf.Tensor) -> tf.Tensor:
        """Returns the vectors [..., K] float32 of images [...] int32."""
        last = len(self._classes) - 1
        image_index = tf.where(image_index < 0, last, image_index)
        return tf.one_hot(
            tf.gather(self._classes, image_index),
            self._classes.max() + 1,
            on_value=self._magnitude,
        )

    def join(self, vectors: tf.Tensor, image_index: tf.Tensor) -> tf.Tensor:
        """Returns y or A y [n, C] with the vectors beside it, [n, C + K]."""
        classes = tf.cast(self.of(image_index), vectors.dtype)
        return tf.concat([vectors, classes], 1)

    def smoothness(
        self,
        similarities: Similarities,
        image_index: tf.Tensor,
        candidates: tf.Tensor,
    ) -> tf.Tensor:
        """The class part of eq. (5), without tanh.

        Args:
          similarities: of the images, [B, k].
          image_index: [B] int32, the images' numbers.
          candidates: [M] int32, the candidates' numbers.

        Returns:
          [B] float32.
        """
        chosen = tf.maximum(similarities.indices, 0)  # unused: weight 0
        classes = self.of(tf.gather(candidates, chosen))
        return losses.label_smoothness(
            self.of(image_index),
            losses.combine(similarities.label_weights, classes),
            "linear",
        )
