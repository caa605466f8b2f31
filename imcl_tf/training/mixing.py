"""Neighbours at prediction: stored after training, chosen on validation."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from imcl_tf.data.pipeline import MultiLabelDataset
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.dictionary import class_balanced_subset
from imcl_tf.methods.neighbors import Mixing, TrainingNeighbors
from imcl_tf.ops.metrics import AveragePrecision
from imcl_tf.ops.neighbors import mixed_logits
from imcl_tf.training.heads import stored_features
from imcl_tf.training.progress import report

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUMBERS = (10, 20, 40)
# Of the softmax of cosines: the nearest count most, or all k nearly alike.
TEMPERATURES = (0.05, 1.0)
# Labels of validation images that a choice rests on, at most.
_MOST_ENTRIES = 1 << 22
_PART = 1 << 24  # probabilities of neighbours at a time


def neighbors_of(
    model: MultiLabelModel,
    data: MultiLabelDataset,
    mixing: Mixing,
    most_images: int,
    seed: int = 0,
) -> TrainingNeighbors:
    """The training images that `model` is to mix in.

    Args:
      model: represents the features.
      data: of feature records.
      mixing: how they count.
      most_images: M at most, so chosen that rare labels are well represented.
      seed: of that choice.
    """
    rows = class_balanced_subset(data.train.labels, most_images, seed)
    features = stored_features(model, data.train, rows)
    return TrainingNeighbors(features, data.train.labels[rows], mixing)


def choose_mixing(
    model: MultiLabelModel,
    data: MultiLabelDataset,
    most_images: int,
    seed: int = 0,
) -> Mixing:
    """The mixing of the best validation mAP; share 0 if none is better.

    Args:
      model: whose neighbours are chosen; it is not changed.
      data: of feature records.
      most_images: see `neighbors_of`.
      seed: see there.
    """
    stored = neighbors_of(model, data, Mixing(0.0), most_images, seed)
    parts = [*_validation_parts(model, data, seed)]
    best, best_mean = Mixing(0.0), -1.0
    ways = itertools.product(NUMBERS, TEMPERATURES, (False, True))
    for number, temperature, observed in ways:
        way = Mixing(1.0, number, temperature, observed)
        for share, mean in _means(model, stored.mixed_by(way), parts).items():
            if mean > best_mean:
                best, best_mean = way._replace(share=share), mean
    report(f"neighbours: {best}, validation mAP {best_mean:.2f}")
    return best


def _validation_parts(model, data, seed):
    """(features, scores, labels) of validation images, some at a time."""
    split = data.validation
    number, labels = split.labels.shape
    rows = np.random.default_rng(seed).permutation(number)
    rows = np.sort(rows[: max(1, _MOST_ENTRIES // labels)])
    features = stored_features(model, split, rows)
    size = max(1, _PART // (max(NUMBERS) * labels))
    for start in range(0, len(rows), size):
        part = tf.constant(features[start : start + size])
        chosen = rows[start : start + size]
        yield part, model.scores(part), split.labels[chosen].toarray()


def _means(model, neighbors, parts) -> dict[float, float]:
    """Validation mAP in percent, by share."""
    precisions = {share: AveragePrecision(model.num_labels) for share in SHARES}
    for features, scores, labels in parts:
        shown = neighbors.shown(features, model)
        for share, precision in precisions.items():
            mixed = mixed_logits(scores, shown, share)
            precision.update(labels, mixed.numpy())
    return {share: 100 * p.mean() for share, p in precisions.items()}
