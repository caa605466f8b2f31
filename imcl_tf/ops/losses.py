"""The loss of the paper on tensors: eqs. (2), (5) and (6).

Everything is float32 and per image [B]; sums, weights and scales over images
belong to the model.
"""

from __future__ import annotations

import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Eq. (2): cross-entropy over the observed labels of each image.

    -[1(y = +1) log p + 1(y = -1) log(1 - p)] = log(1 + exp(-y z)).

    Args:
      labels: [B, C] int8 in {-1, 0, +1}, 0 = unobserved.
      logits: [B, C] float, z.

    Returns:
      [B] float32, sums over observed labels, 0 for an image without any.

    Example:
      >>> import imcl_tf, numpy as np
      >>> labels = np.array([[1, 0, -1]], np.int8)
      >>> loss = imcl_tf.cross_entropy(labels, np.zeros((1, 3), np.float32))
      >>> round(float(loss[0]), 4)  # 2 log 2: the unobserved label has none
      1.3863
    """
    signs = tf.cast(labels, tf.float32)
    # 0 * inf is NaN: an unobserved label must not see its logit at all.
    logits = tf.where(signs == 0, 0.0, tf.cast(logits, tf.float32))
    return tf.reduce_sum(tf.nn.softplus(-signs * logits) * tf.abs(signs), 1)


def mean_over_observed(per_image: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Sum of `per_image` [B] divided by the observed entries of the batch."""
    observed = tf.math.count_nonzero(labels, dtype=tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(per_image), observed)


def combine(weights: tf.Tensor, neighbors: tf.Tensor) -> tf.Tensor:
    """Sums `neighbors` [B, k, n] with `weights` [B, k] to [B, n]."""
    return tf.linalg.matvec(neighbors, weights, transpose_a=True)


def label_smoothness(
    label_targets: tf.Tensor, reconstructed: tf.Tensor, form: str = "tanh"
) -> tf.Tensor:
    """Eq. (5): || y_i - tanh(sum_i' c_i'i A y_i') ||^2.

    Args:
      label_targets: [B, C] float32, y.
      reconstructed: [B, C] float32, sum_i' c_i'i A y_i'.
      form: "tanh", or "linear" as in the released code.

    Returns:
      [B] float32 >= 0.

    Raises:
      ValueError: for an unknown `form`.

    Example:
      >>> import imcl_tf, numpy as np
      >>> y = np.array([[1.0, -1.0]], np.float32)
      >>> imcl_tf.label_smoothness(y, y, "linear").numpy().tolist()
      [0.0]
    """
    if form == "tanh":
        reconstructed = tf.tanh(reconstructed)
    elif form != "linear":
        raise ValueError(f"reconstruction must be tanh or linear, got {form!r}")
    return tf.reduce_sum(tf.square(label_targets - reconstructed), 1)


def feature_smoothness(
    features: tf.Tensor, reconstructed: tf.Tensor
) -> tf.Tensor:
    """Eq. (6): || f_i - sum_i' cbar_i'i f_i' ||^2.

    Args:
      features: [B, d] float32, f.
      reconstructed: [B, d] float32, sum_i' cbar_i'i f_i'.

    Returns:
      [B] float32 >= 0.

    Example:
      >>> import imcl_tf, numpy as np
      >>> f = np.array([[3.0, 4.0]], np.float32)
      >>> imcl_tf.feature_smoothness(f, f).numpy().tolist()
      [0.0]
    """
    return tf.reduce_sum(tf.square(features - reconstructed), 1)
