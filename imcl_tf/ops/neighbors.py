"""What the most similar training images show: an extension of the paper.

IMCL finds similar images in training and forgets them. Here a prediction mixes
the classifier's probability p_ji with that of the k training images whose
features have the largest cosine with f_i:

    q_ji = (1 - s) p_ji + s sum_i' w_i'i y_ji',    w_.i = softmax(cos / t)

Share s = 0 is the paper.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# Of what neighbours show: keeps logits of mixed probabilities finite.
_LITTLE = 1e-7
# Numbers of the stored features that are cast at a time: memory of that size is
# used again, where a copy of all would be fresh memory in every call.
_BLOCK = 1 << 21
# Cosines are multiples of this: what differs by rounding alone is a tie.
_RESOLUTION = 2.0**-18


class Nearest(NamedTuple):
    """The most similar images of each image, the most similar one first.

    Attributes:
      indices: [B, k] int32, rows of the stored features.
      cosines: [B, k] float32, of the angle to them.
    """

    indices: tf.Tensor
    cosines: tf.Tensor


def nearest(features: tf.Tensor, stored: tf.Tensor, number: int) -> Nearest:
    """Finds the stored features of the largest cosine.

    Args:
      features: [B, d] float.
      stored: [M, d] float, of unit norm.
      number: k >= 1; M where there are fewer.

    Returns:
      `Nearest`; of images whose cosines round to the same multiple of 4e-6
      the first ones.

    Example:
      >>> import numpy as np
      >>> from imcl_tf.ops.neighbors import nearest
      >>> stored = np.eye(3, dtype=np.float32)
      >>> nearest(np.array([[1, 2, 0]], np.float32), stored, 2).indices.numpy()
      array([[1, 0]], dtype=int32)
    """
    unit = of_unit_norm(tf.cast(features, tf.float32))
    images, size = stored.shape
    step = max(1, _BLOCK // size)

    def next_block(first, found):
        part = tf.cast(stored[first : first + step], tf.float32)
        # The large matrix on the left: half the time on a CPU.
        product = tf.matmul(part, unit, transpose_b=True)
        return first + step, tf.concat([found, product], 0)

    # A loop: of blocks side by side the executor would cast all first.
    _, cosines = tf.while_loop(
        lambda first, _: first < images,
        next_block,
        (0, tf.zeros((0, tf.shape(unit)[0]))),
        (tf.TensorShape([]), tf.TensorShape([None, None])),
        parallel_iterations=1,
    )
    cosines = _RESOLUTION * tf.round(tf.transpose(cosines) / _RESOLUTION)
    cosines, indices = tf.math.top_k(cosines, min(number, images))
    return Nearest(indices, cosines)


def of_unit_norm(features: tf.Tensor) -> tf.Tensor:
    """f / ||f|| of features [..., d] of any size; 0 of those that are 0."""
    # Squares of 1e20 or 1e-20 are beyond single precision.
    largest = tf.reduce_max(tf.abs(features), -1, keepdims=True)
    return tf.math.l2_normalize(tf.math.divide_no_nan(features, largest), -1)


def evidence(
    cosines: tf.Tensor, probabilities: tf.Tensor, temperature: float
) -> tf.Tensor:
    """What similar images show: their mean, the more similar counting more.

    Args:
      cosines: [B, k] float32.
      probabilities: [B, k, C] float32, labels of those images.
      temperature: t > 0; large = all k count alike.

    Returns:
      [B, C] float32.
    """
    weights = tf.nn.softmax(cosines / temperature)
    return tf.linalg.matvec(probabilities, weights, transpose_a=True)


def mixed_logits(
    logits: tf.Tensor, shown: tf.Tensor, share: float
) -> tf.Tensor:
    """Logits of (1 - s) sigmoid(z) + s q.

    Args:
      logits: [B, C] float32, z.
      shown: [B, C] float32, q, probabilities.
      share: s in [0, 1].

    Returns:
      [B, C] float32, whose sigmoid is the mixture; z itself for s = 0.

    Example:
      >>> import numpy as np
      >>> from imcl_tf.ops.neighbors import mixed_logits
      >>> z, q = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
      >>> round(float(mixed_logits(z, q, 0.5)[0, 0]), 4)  # log(3 / 1)
      1.0986
    """
    if not share:  # also where the sigmoid is 0 or 1 in single precision
        return logits
    shown = tf.clip_by_value(shown, _LITTLE, 1 - _LITTLE)
    # Both probabilities as they are: 1 - p of a large p would lose digits.
    present = (1 - share) * tf.sigmoid(logits) + share * shown
    absent = (1 - share) * tf.sigmoid(-logits) + share * (1 - shown)
    return tf.math.log(present) - tf.math.log(absent)
