"""CSL: unobserved labels that may well be present are left out."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.asymmetric import Asymmetric
from imcl_tf.methods.base import register_method
from imcl_tf.methods.batches import Batch, TrainingData
from imcl_tf.settings import METHOD_OPTIONS


def likeliest_unobserved(
    labels: tf.Tensor, logits: tf.Tensor, count: int
) -> tf.Tensor:
    """Marks the unobserved labels of highest likelihood in each image.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}, 0 = unobserved.
      logits: [B, C] float32, z.
      count: labels per image, >= 0.

    Returns:
      [B, C] bool; all unobserved ones of an image that has no more of them.
    """
    unobserved = labels == 0
    likelihoods = tf.where(unobserved, logits, logits.dtype.min)
    columns = tf.math.top_k(likelihoods, min(count, logits.shape[1])).indices
    rows = tf.broadcast_to(
        tf.range(tf.shape(columns)[0])[:, tf.newaxis], tf.shape(columns)
    )
    marks = tf.scatter_nd(
        tf.stack([rows, columns], 2), tf.ones_like(columns), tf.shape(labels)
    )
    return unobserved & (marks > 0)


@register_method("selective")
class Selective(Asymmetric):
    """P-ASL without the unobserved labels that are likely to be present.

    The class-aware selective loss (CSL) of Ben-Baruch et al., "Multi-label
    Classification with Partial Annotations using Class-aware Selective Loss",
    CVPR 2022. An unobserved label is ignored if its p is among the highest of
    its image or if its prior is high; else it is a negative. Observed labels
    always count.

    A label's prior is its mean p over the training images by a temporary model
    that was trained on observed labels only. The logistic model of eq. (2) is
    such a model, so the prior is what this model says before its first step,
    once it has started from the logistic one (with --boost, boosted). Without a
    first `begin_epoch` the prior is 0, which ignores nothing.

    Defaults are the authors' for COCO with half of all labels hidden at
    random. Their code takes the likeliest K times B labels of a minibatch
    rather than K of each image, and averages p while the temporary model still
    trains.

    Attributes:
      prior: [C] float32 in [0, 1].
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["selective"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.prior = self.add_weight(
            shape=(self.num_labels,),
            initializer="zeros",
            name="prior",
            dtype="float32",
            trainable=False,
        )

    def begin_epoch(self, epoch: int, data: TrainingData):
        super().begin_epoch(epoch, data)
        if epoch == 0 and self.selective_prior_threshold < 1:
            self.prior.assign(self._mean_probabilities(data))

    def _mean_probabilities(self, data):
        total, images = 0.0, 0
        for minibatch in data.one_pass():
            batch = Batch.unpack(minibatch)
            present = tf.sigmoid(self.score_step(batch))
            total += tf.reduce_sum(tf.cast(present, tf.float64), 0)
            images += len(present)
        return total / images

    def entropy(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        ignored = likeliest_unobserved(labels, logits, self.selective_top_k)
        ignored |= (labels == 0) & (
            self.prior.value > self.selective_prior_threshold
        )
        return tf.where(ignored, 0.0, super().entropy(labels, logits))
