"""P-ASL: asymmetric focal loss for partly observed labels."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch
from imcl_tf.settings import METHOD_OPTIONS


def asymmetric_entropy(
    labels: tf.Tensor,
    logits: tf.Tensor,
    gamma_positive: float,
    gamma_negative: float,
    gamma_unobserved: float,
    margin: float = 0.0,
) -> tf.Tensor:
    """Focal cross-entropy of every label, an unobserved one taken as absent.

    (1 - p)^gamma (-log p) of observed positives, q^gamma (-log(1 - q)) of all
    others, where q = max(p - margin, 0). The focal weights count as constants:
    no gradient goes through them.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}.
      logits: [B, C] float32, z.
      gamma_positive: >= 0, of observed positives.
      gamma_negative: >= 0, of observed negatives.
      gamma_unobserved: >= 0, of unobserved labels.
      margin: in [0, 1], p below which an absent label has no loss.

    Returns:
      [B, C] float32 >= 0.
    """
    positive = labels > 0
    error = tf.where(
        positive,
        tf.sigmoid(-logits),
        tf.maximum(tf.sigmoid(logits) - margin, 0.0),
    )
    gamma = tf.where(
        positive,
        gamma_positive,
        tf.where(labels < 0, gamma_negative, gamma_unobserved),
    )
    entropy = tf.where(
        positive, tf.nn.softplus(-logits), _entropy_of_absent(logits, margin)
    )
    return tf.stop_gradient(error**gamma) * entropy


def _entropy_of_absent(logits, margin):
    if margin == 0:  # the logarithm of 1 - p could be infinite
        return tf.nn.softplus(logits)
    return -tf.math.log(tf.minimum(tf.sigmoid(-logits) + margin, 1.0))


@register_method("asymmetric")
class Asymmetric(MultiLabelModel):
    """Asymmetric loss with a focal exponent of its own for unobserved labels.

    The partial asymmetric loss (P-ASL) of Ben-Baruch et al., "Multi-label
    Classification with Partial Annotations using Class-aware Selective Loss",
    CVPR 2022; the probability margin is that of their "Asymmetric Loss For
    Multi-Label Classification", ICCV 2021. An unobserved label is a negative
    here.

    Defaults are those of the authors' commands for COCO with half of all labels
    hidden at random (the table beside them has asymmetric_gamma_positive = 1);
    with 1,000 labels per class of each sign observed they take
    asymmetric_gamma_negative = 3. Their code for partial labels has no margin
    and weighs the three kinds of labels alike, so weights are left out; it does
    not differentiate the focal weights, nor does this. It cuts logarithms at
    log(1e-8), where the gradient ends; here they are exact. The loss is a mean
    over labels and images, theirs a sum.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["asymmetric"]

    def entropy(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss of every label [B, C] float32."""
        return asymmetric_entropy(
            labels,
            logits,
            self.asymmetric_gamma_positive,
            self.asymmetric_gamma_negative,
            self.asymmetric_gamma_unobserved,
            self.asymmetric_margin,
        )

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        entropy = self.entropy(batch.labels, self.scores(features))
        return {"loss": tf.reduce_mean(entropy)}
