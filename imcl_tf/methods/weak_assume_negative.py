"""Weak Assume Negative (WAN): unobserved labels count as absent, a little."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.assume_negative import entropy_assuming_negative
from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch


@register_method("weak_assume_negative")
class WeakAssumeNegative(MultiLabelModel):
    """Assume Negative with unobserved labels weighted 1 / (C - 1).

    The "weak assume negative" loss L_WAN of Cole et al., "Multi-Label Learning
    from Single Positive Labels", CVPR 2021. An unobserved label is a negative
    here. The paper has one observed positive per image and no observed
    negatives; such count in full, as observed positives do. The loss is a
    mean over labels and images, as theirs.
    """

    TERMS = ("loss",)

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        entropy = entropy_assuming_negative(batch.labels, self.scores(features))
        weight = 1 / max(self.num_labels - 1, 1)
        entropy = tf.where(batch.labels == 0, weight * entropy, entropy)
        return {"loss": tf.reduce_mean(entropy)}
