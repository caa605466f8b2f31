"""Assume Negative with label smoothing (AN-LS)."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch
from imcl_tf.settings import METHOD_OPTIONS


@register_method("smoothed_assume_negative")
class SmoothedAssumeNegative(MultiLabelModel):
    """Assume Negative with targets 1 - smoothing and smoothing, not 1 and 0.

    The "assume negative loss with label smoothing" L_AN-LS of Cole et al.,
    "Multi-Label Learning from Single Positive Labels", CVPR 2021, with the
    coefficient as in the authors' code. An unobserved label is a negative
    here. The loss is averaged over labels and images, as theirs.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["smoothed_assume_negative"]

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        targets = tf.where(batch.labels > 0, 1 - self.smoothing, self.smoothing)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(
            targets, self.scores(features)
        )
        return {"loss": tf.reduce_mean(entropy)}
