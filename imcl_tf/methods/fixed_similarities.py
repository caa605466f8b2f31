"""Image similarities that are solved once and kept (ablation of table 4)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from imcl_tf.ops.similarity import Similarities


class FixedSimilarities:
    """The similar images of all training images.

    Args:
      num_images: N.
      num_neighbors: k.

    Attributes:
      is_solved: [] bool, whether `store` has been called.
      kept: `Similarities` [N, k], candidates being the dictionary.
    """

    def __init__(self, num_images: int, num_neighbors: int):
        shape = num_images, num_neighbors
        self.is_solved = tf.Variable(False, trainable=False)
        self.kept = Similarities(
            *(
                tf.Variable(tf.zeros(shape, dtype), trainable=False)
                for dtype in (tf.int32, tf.float32, tf.float32)
            )
        )

    @property
    def solved(self) -> bool:
        """Whether the similarities have been stored."""
        return bool(self.is_solved.numpy())

    def store(self, image_index: np.ndarray, similarities: Similarities):
        """Keeps the similarities of images [n], distinct; [n, k] each."""
        for variable, rows in zip(self.kept, similarities, strict=True):
            whole = np.zeros(variable.shape, variable.dtype.as_numpy_dtype)
            whole[image_index] = rows
            variable.assign(whole)
        self.is_solved.assign(True)

    def of(self, image_index: tf.Tensor, offset: tf.Tensor) -> Similarities:
        """Returns what is kept of images [B] int32, none where it is -1.

        Args:
          image_index: the images' numbers.
          offset: [] int32, candidates before those of the dictionary.
        """
        indices, c, c_bar = (
            tf.gather(x, tf.maximum(image_index, 0)) for x in self.kept
        )
        known = (image_index >= 0)[:, tf.newaxis] & (indices >= 0)
        return Similarities(tf.where(known, indices + offset, -1), c, c_bar)

    def state(self) -> dict[str, tf.Variable]:
        """Returns what is saved with the weights, by name."""
        names = ("indices", "label_weights", "feature_weights")
        kept = zip(names, self.kept, strict=True)
        return {
            "fixed_similarities_solved": self.is_solved,
            **{f"fixed_{name}": variable for name, variable in kept},
        }
