"""Latent noise: what is in an image, and what of it people mention."""

from __future__ import annotations

import keras
import tensorflow as tf

from imcl_tf.methods.base import (
    MultiLabelModel,
    register_method,
)
from imcl_tf.methods.batches import Batch
from imcl_tf.ops import losses
from imcl_tf.settings import METHOD_OPTIONS

# Initially r_{1|1} = 0.95 and r_{1|0} = 0.05; nearer 1 and 0, the sigmoid is
# so flat that the relevance hardly learns.
_INITIAL_RELEVANCE_LOGIT = 3.0


def mention_logits(
    visual: tf.Tensor, if_present: tf.Tensor, if_absent: tf.Tensor
) -> tf.Tensor:
    """Logit of p = r_{1|1} v + r_{1|0} (1 - v), computed in log space.

    Args:
      visual: [B, C] float32, logits of v, the label being present.
      if_present: [B, C] float32, logits of r_{1|1}, it being mentioned if it
        is present.
      if_absent: [B, C] float32, logits of r_{1|0}, it being mentioned if not.

    Returns:
      [B, C] float32, finite, log p - log(1 - p).
    """

    def log_of_mixture(sign):
        present = tf.math.log_sigmoid(sign * if_present)
        absent = tf.math.log_sigmoid(sign * if_absent)
        present += tf.math.log_sigmoid(visual)
        absent += tf.math.log_sigmoid(-visual)
        return tf.reduce_logsumexp(tf.stack([present, absent]), 0)

    return log_of_mixture(1.0) - log_of_mixture(-1.0)


@register_method("latent_noise")
class LatentNoise(MultiLabelModel):
    """Classifiers of presence seen through classifiers of relevance.

    Misra et al., "Seeing through the Human Reporting Bias: Visual Classifiers
    from Noisy Human-Centric Labels", CVPR 2016, fig. 3: p(mentioned) =
    r_{1|1} v + r_{1|0} (1 - v), where v = p(present | image) is the classifier
    and r_{1|1}, r_{1|0} = p(mentioned | present or not, image) are two linear
    classifiers of the same feature. Minimises cross-entropy on the mention:
    +1 is mentioned, -1 is not.

    Differs from the paper, where every label without a mention is a negative:
    unobserved labels do not count, and the loss is averaged over the observed
    labels of the minibatch, as the logistic model's.

    The relevance starts as a constant, so both kinds of scores start with the
    ranking of the logistic model.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["latent_noise"]

    def __init__(
        self, backbone: keras.layers.Layer | None, num_labels: int, **kwargs
    ):
        super().__init__(backbone, num_labels, **kwargs)
        self.if_present, self.if_absent = (
            keras.layers.Dense(
                num_labels,
                kernel_initializer="zeros",
                bias_initializer=keras.initializers.Constant(bias),
                name=name,
                dtype="float32",
            )
            for name, bias in (
                ("mentioned_if_present", _INITIAL_RELEVANCE_LOGIT),
                ("mentioned_if_absent", -_INITIAL_RELEVANCE_LOGIT),
            )
        )

    def build_head(self, feature_shape: tuple):
        super().build_head(feature_shape)
        self.if_present.build(feature_shape)
        self.if_absent.build(feature_shape)

    def scores(self, features: tf.Tensor) -> tf.Tensor:
        if self.latent_noise_scores == "visual":
            return super().scores(features)
        return self.mention_logits(features)

    def mention_logits(self, features: tf.Tensor) -> tf.Tensor:
        """Returns logits of p(mentioned), [B, C], of features [B, d]."""
        visual = super().scores(features)
        if features.shape.rank == 4:
            features = tf.reduce_mean(features, [1, 2])
        return mention_logits(
            visual, self.if_present(features), self.if_absent(features)
        )

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        logits = self.mention_logits(features)
        entropy = losses.cross_entropy(batch.labels, logits)
        return {"loss": losses.mean_over_observed(entropy, batch.labels)}
