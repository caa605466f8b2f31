"""Hill: a loss of negatives that forgives very likely ones."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch
from imcl_tf.settings import METHOD_OPTIONS


def focal_entropy(logits: tf.Tensor, gamma: float) -> tf.Tensor:
    """-(1 - p)^gamma log p, the focal loss of present labels.

    That of absent ones is the same of -z. The gradient goes through the focal
    weight too, and is finite for every z.

    Args:
      logits: [B, C] float32, z.
      gamma: >= 0.

    Returns:
      [B, C] float32 >= 0.
    """
    # (1 - p)^gamma itself has no finite gradient where 1 - p is 0.
    weight = tf.exp(-gamma * tf.nn.softplus(logits))
    return weight * tf.nn.softplus(-logits)


def hill_loss(
    labels: tf.Tensor,
    logits: tf.Tensor,
    factor: float,
    margin: float,
    gamma: float,
) -> tf.Tensor:
    """(factor - p) p^2 of absent labels, focal margin loss of present ones.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}, 0 counts as absent.
      logits: [B, C] float32, z.
      factor: lambda of the paper; at 1.5 the slope in p ends where p is 1.
      margin: taken from z of present labels.
      gamma: focal exponent of present labels.

    Returns:
      [B, C] float32 >= 0.
    """
    present = tf.sigmoid(logits)
    return tf.where(
        labels > 0,
        focal_entropy(logits - margin, gamma),
        (factor - present) * tf.square(present),
    )


@register_method("hill")
class Hill(MultiLabelModel):
    """Hill loss of absent labels, focal margin loss of present ones.

    Zhang et al., "Simple and Robust Loss Design for Multi-Label Learning with
    Missing Labels", 2021 (arXiv 2112.07368), the Hill loss with the authors'
    values for all data sets. An unobserved label is a negative here, with the
    same loss as an observed one: the paper has no observed negatives. The loss
    is averaged over labels and images; the authors' is summed over labels.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["hill"]

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        loss = hill_loss(
            batch.labels,
            self.scores(features),
            self.hill_lambda,
            self.hill_margin,
            self.hill_gamma,
        )
        return {"loss": tf.reduce_mean(loss)}
