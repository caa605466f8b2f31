"""Curriculum: partial-BCE, and rounds that label what the model is sure of."""

from __future__ import annotations

from typing import cast

import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch, TrainingData
from imcl_tf.methods.pseudo_labels import PseudoLabels, fill_unobserved
from imcl_tf.ops import losses
from imcl_tf.settings import METHOD_OPTIONS


def partial_bce(
    labels: tf.Tensor,
    logits: tf.Tensor,
    alpha: float,
    beta: float,
    gamma: float,
) -> tf.Tensor:
    """g(rho) / C times the cross-entropy of the known labels of each image.

    g(rho) = alpha rho^gamma + beta; rho is the share of labels that are known.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}, 0 = unknown.
      logits: [B, C] float32, z.
      alpha: of g.
      beta: of g.
      gamma: of g, may be negative.

    Returns:
      [B] float32, 0 for an image without a known label.
    """
    known = tf.math.count_nonzero(labels, 1, dtype=tf.float32)
    # Without a known label the loss is 0 anyway, and 0^gamma may be infinite.
    rho = tf.maximum(known, 1.0) / logits.shape[1]
    weight = (alpha * rho**gamma + beta) / logits.shape[1]
    return weight * losses.cross_entropy(labels, logits)


def label_by_score(
    labels: tf.Tensor, scores: tf.Tensor, threshold: float
) -> tf.Tensor:
    """Labels the unobserved entries of which the model is sure.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}, observed labels.
      scores: [B, C] float32, z.
      threshold: theta > 0.

    Returns:
      [B, C] int8: +1 where z >= theta, -1 where z <= -theta, 0 elsewhere and
      wherever a label is observed.
    """
    sure = (labels == 0) & (tf.abs(scores) >= threshold)
    return tf.where(sure, tf.cast(tf.sign(scores), tf.int8), 0)


@register_method("curriculum")
class Curriculum(MultiLabelModel):
    """Partial-BCE on labels that grow in rounds, by the score threshold.

    Durand, Mehrasa, Mori, "Learning a Deep ConvNet for Multi-label
    Classification with Partial Labels", CVPR 2019: the loss of sec. 3.1, with
    the paper's g (gamma = 1, g(1) = 1, g(0.1) = 5), and of sec. 3.3 the
    strategy that labels by a threshold of the score z. A threshold theta of z
    is one of sigmoid(theta) and 1 - sigmoid(theta) of p. The graph neural
    network of sec. 3.2 is left out: the model is that of all methods.

    The loss is divided by C, as in the paper. The first round trains on
    observed labels alone, although it starts from a logistic model, which has
    another loss. Each later round labels all that is unobserved anew and trains
    the current model further; pseudo-labels count as known labels in rho.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["curriculum"]

    def prepare(self, data: TrainingData):
        super().prepare(data)
        self.make_pseudo_labels(data)

    def begin_epoch(self, epoch: int, data: TrainingData):
        super().begin_epoch(epoch, data)
        if epoch == 0 or epoch % self.curriculum_round_epochs:
            return
        pseudo_labels = cast(PseudoLabels, self.pseudo_labels)
        for minibatch in data.one_pass():
            batch = Batch.unpack(minibatch)
            labels = label_by_score(
                batch.labels,
                self.score_step(batch),
                self.curriculum_threshold,
            )
            pseudo_labels.update(batch.image_index, labels)

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        loss = partial_bce(
            fill_unobserved(batch.labels, self.pseudo_labels_of(batch)),
            self.scores(features),
            self.curriculum_alpha,
            self.curriculum_beta,
            self.curriculum_gamma,
        )
        return {"loss": tf.reduce_mean(loss)}
