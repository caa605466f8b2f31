"""Entropy maximisation with asymmetric pseudo-labels (EM + APL)."""

from __future__ import annotations

from typing import cast

import keras
import numpy as np
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch, TrainingData
from imcl_tf.methods.pseudo_labels import PseudoLabels
from imcl_tf.settings import METHOD_OPTIONS

# Scores are ranked by bins of 1/32 over [-16, 16].
_BINS, _PER_UNIT = 1024, 32


def weighted_entropy(
    labels: tf.Tensor,
    pseudo_labels: tf.Tensor,
    soft_labels: tf.Tensor,
    logits: tf.Tensor,
    alpha: float,
    beta: float,
) -> tf.Tensor:
    """Cross-entropy of each label with its target.

    Observed: the label, weight 1. Negative pseudo-label: the soft label,
    weight beta. Else: the prediction itself, weight -alpha, so that it is
    -alpha times the entropy of p.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}.
      pseudo_labels: [B, C] int8 in {-1, 0}, for unobserved labels.
      soft_labels: [C] float32 in [0, 1].
      logits: [B, C] float32, z.
      alpha: >= 0.
      beta: >= 0.

    Returns:
      [B, C] float32.
    """
    marked = pseudo_labels < 0
    targets = tf.where(marked, soft_labels, tf.sigmoid(logits))
    weights = tf.where(marked, beta, -alpha)
    observed = labels != 0
    targets = tf.where(observed, tf.cast(labels > 0, tf.float32), targets)
    weights = tf.where(observed, 1.0, weights)
    return weights * tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)


class _Lowest:
    """Finds the `quota` [C] lowest scores of each label, minibatch-wise.

    Args:
      counts: [_BINS, C] int, histogram of the scores of each label.
      quota: [C] int.
    """

    def __init__(self, counts: np.ndarray, quota: np.ndarray):
        below = np.cumsum(counts, 0)
        self._last = (below < quota).sum(0)
        below = np.vstack([np.zeros_like(quota), below])
        # How many of the last bin belong to it: the first that come.
        self._left = quota - below[self._last, np.arange(len(quota))]

    def __call__(self, bins: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Returns which of the next minibatch, [B, C] bool."""
        tied = candidates & (bins == self._last)
        tied &= np.cumsum(tied, 0) <= self._left
        self._left = self._left - tied.sum(0)
        return tied | (candidates & (bins < self._last))


def _bins(scores):
    return np.clip((scores * _PER_UNIT + _BINS / 2), 0, _BINS - 1).astype(int)


@register_method("entropy_maximisation")
class EntropyMaximisation(MultiLabelModel):
    """Unobserved labels are kept uncertain; the least likely become negative.

    Zhou, Chen, Wang, Heng, "Acknowledging the Unknown for Multi-label Learning
    with Single Positive Labels", ECCV 2022: EM loss and asymmetric
    pseudo-labelling (APL). After the warm-up, before each of the next
    `entropy_maximisation_rounds` epochs, 1 / rounds of the share of each
    label's unobserved images, those of lowest score among the ones that have
    none yet, get a negative pseudo-label for good. The paper trains 10 epochs,
    5 of them before the first marks; alpha and beta are the authors' for COCO.

    Differences: the paper has a single positive per image; here observed
    negatives count, with the weight of positives. The released code keeps p of
    the time of marking as each pseudo-label's soft value, which takes a byte or
    more per pair; here a label has one, the mean of these, so marked images of
    a label are drawn to one score where theirs stay apart. Scores are ranked to
    1/32, so that two passes over the training set without its score matrix are
    enough.

    Attributes:
      soft_labels: [C] float32, mean p of each label's marked images.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["entropy_maximisation"]

    def __init__(
        self, backbone: keras.layers.Layer | None, num_labels: int, **kwargs
    ):
        super().__init__(backbone, num_labels, **kwargs)
        self.soft_labels = self.add_weight(
            shape=(self.num_labels,),
            initializer="zeros",
            name="soft_labels",
            dtype="float32",
            trainable=False,
        )

    def prepare(self, data: TrainingData):
        super().prepare(data)
        self.make_pseudo_labels(data)

    def begin_epoch(self, epoch: int, data: TrainingData):
        """As the base; passes over the data twice where it gives marks."""
        super().begin_epoch(epoch, data)
        done = epoch - self.entropy_maximisation_warmup
        if 0 <= done < self.entropy_maximisation_rounds:
            self._mark_lowest(done, data)

    def _mark_lowest(self, done: int, data):
        """Gives pseudo-labels, after `done` such rounds."""
        counts = np.zeros((_BINS, self.num_labels), np.int32)
        unobserved = np.zeros(self.num_labels, int)
        for batch, candidates, scores in self._candidates(data):
            columns = np.nonzero(candidates)[1]
            np.add.at(counts, (_bins(scores)[candidates], columns), 1)
            unobserved += (batch.labels.numpy() == 0).sum(0)

        share = self.entropy_maximisation_share
        share /= self.entropy_maximisation_rounds
        quota = np.floor(share * unobserved + 1e-6).astype(int)
        lowest = _Lowest(counts, quota)
        total = np.zeros(self.num_labels)
        pseudo_labels = cast(PseudoLabels, self.pseudo_labels)
        for batch, candidates, scores in self._candidates(data):
            chosen = lowest(_bins(scores), candidates)
            total += np.where(chosen, tf.sigmoid(scores), 0).sum(0)
            marks = pseudo_labels.rows(batch.image_index)
            marks = tf.where(chosen, tf.constant(-1, tf.int8), marks)
            pseudo_labels.update(batch.image_index, marks)
        # Every round has the same quota, so the mean of means is the mean.
        mean = total / np.maximum(quota, 1)
        self.soft_labels.assign_add((mean - self.soft_labels) / (done + 1))

    def _candidates(self, data):
        """Yields minibatches, [B, C] whether still free, scores [B, C]."""
        for minibatch in data.one_pass():
            batch = Batch.unpack(minibatch)
            marks = self.pseudo_labels_of(batch)
            free = (batch.labels == 0) & (marks == 0)
            yield batch, free.numpy(), self.score_step(batch).numpy()

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        entropy = weighted_entropy(
            batch.labels,
            self.pseudo_labels_of(batch),
            tf.convert_to_tensor(self.soft_labels),
            self.scores(features),
            self.entropy_maximisation_alpha,
            self.entropy_maximisation_beta,
        )
        return {"loss": tf.reduce_mean(entropy)}
