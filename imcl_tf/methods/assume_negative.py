"""Assume Negative (AN): unobserved labels count as absent."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch


def entropy_assuming_negative(
    labels: tf.Tensor, logits: tf.Tensor
) -> tf.Tensor:
    """Binary cross-entropy of every label, an unobserved one taken as absent.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}.
      logits: [B, C] float32, z.

    Returns:
      [B, C] float32 >= 0.
    """
    present = tf.cast(labels > 0, tf.float32)
    return tf.nn.sigmoid_cross_entropy_with_logits(present, logits)


@register_method("assume_negative")
class AssumeNegative(MultiLabelModel):
    """Logistic regression with every unobserved label as a negative.

    The naive AN of Kim et al., "Large Loss Matters in Weakly Supervised
    Multi-Label Classification", CVPR 2022, sec. 3.1. The loss is averaged
    over labels and images, as theirs.
    """

    TERMS = ("loss",)

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        entropy = entropy_assuming_negative(batch.labels, self.scores(features))
        return {"loss": tf.reduce_mean(entropy)}
