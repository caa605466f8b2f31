"""SPLC: unobserved labels that the model finds present count as present."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch
from imcl_tf.methods.hill import focal_entropy
from imcl_tf.settings import METHOD_OPTIONS


def focal_margin_loss(
    labels: tf.Tensor,
    present: tf.Tensor,
    logits: tf.Tensor,
    margin: float,
    gamma: float,
) -> tf.Tensor:
    """Focal loss of every label, with a margin for observed positives.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}; z - margin is the logit where +1.
      present: [B, C] bool, what counts as present.
      logits: [B, C] float32, z.
      margin: >= 0.
      gamma: focal exponent of present and absent labels, >= 0.

    Returns:
      [B, C] float32 >= 0.
    """
    logits = tf.where(labels > 0, logits - margin, logits)
    return focal_entropy(tf.where(present, logits, -logits), gamma)


@register_method("splc")
class SPLC(MultiLabelModel):
    """Self-paced loss correction of the focal margin loss.

    Zhang et al., "Simple and Robust Loss Design for Multi-Label Learning with
    Missing Labels", 2021 (arXiv 2112.07368), with the authors' values (tau is
    0.65 in theirs where COCO has 75 % of its positives left). An unobserved
    label is a negative here, but after the first passes over the training set a
    positive wherever the model itself says p > tau at that step. The paper has
    no observed negatives; such are never corrected. As in the authors' code a
    corrected label has no margin. The loss is averaged over labels and
    images; theirs is summed over labels.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["splc"]

    def present(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns what counts as present [B, C] bool, at this epoch."""
        missed = (labels == 0) & (tf.sigmoid(logits) > self.splc_threshold)
        return (labels > 0) | (
            missed & (self.epoch.value >= self.splc_first_epoch)
        )

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        logits = self.scores(features)
        loss = focal_margin_loss(
            batch.labels,
            self.present(batch.labels, logits),
            logits,
            self.splc_margin,
            self.splc_gamma,
        )
        return {"loss": tf.reduce_mean(loss)}
