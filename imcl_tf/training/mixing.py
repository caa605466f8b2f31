"""Neighbours at prediction: stored after training, chosen on validation."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.dictionary import class_balanced_subset
from imcl_tf.methods.neighbors import Mixing, TrainingNeighbors
from imcl_tf.ops.jackknife import difference, mean_precisions
from imcl_tf.ops.metrics import AveragePrecision
from imcl_tf.ops.neighbors import evidence, mixed_logits
from imcl_tf.training.heads import stored_features
from imcl_tf.training.progress import report

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUMBERS = (10, 20, 40)
# Of the softmax of cosines: the nearest count most, or all k nearly alike.
TEMPERATURES = (0.05, 1.0)
# Labels of validation images that a choice rests on, at most.
_MOST_ENTRIES = 1 << 21
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
      most_images: M at most, so chosen that rare labels are well represented;
        those without any label are not among them.
      seed: of that choice.
    """
    labels = data.train.labels
    rows = class_balanced_subset(labels, most_images, seed)
    rows = rows[np.diff(labels.indptr)[rows] > 0]
    stored = stored_features(model, data.train, rows)
    if mixing.by == "logits":
        stored = _scores(model, stored)
    return TrainingNeighbors(stored, labels[rows], mixing)


def choose_mixing(
    model: MultiLabelModel,
    data: MultiLabelDataset,
    most_images: int,
    seed: int = 0,
) -> Mixing:
    """The mixing of the best validation mAP; share 0 if none is better.

    Neighbours by logits are taken where they are better than those by features
    by more than the standard error of that, and tried where logits are no more
    than features: what is stored does not grow with the labels.

    Args:
      model: whose neighbours are chosen; it is not changed.
      data: of feature records.
      most_images: see `neighbors_of`.
      seed: see there.
    """
    parts = [*_validation_parts(model, data, seed)]

    def best_by(by):
        way = Mixing(1.0, max(NUMBERS), by=by)
        stored = neighbors_of(model, data, way, most_images, seed)
        means: dict[Mixing, float] = {}
        for observed in (False, True):
            way = way._replace(observed=observed)
            means |= _means(model, stored.mixed_by(way), parts)
        best = max(means, key=lambda mixing: means[mixing])  # first of equals
        report(f"neighbours: {best}, validation mAP {means[best]:.2f}")
        return stored.mixed_by(best)

    best = best_by("features")
    if model.num_labels <= parts[0][0].shape[-1]:
        other = best_by("logits")
        gain, error = difference(
            *(_precisions(model, x, parts) for x in (other, best))
        )
        compared = (
            f"{100 * gain:+.2f} ± {100 * error:.2f}"
            if np.isfinite(error)
            else "not tried: there are too few validation images"
        )
        report(f"neighbours: by logits {compared}")
        best = other if gain > error else best
    return best.mixing


def _validation_parts(model, data, seed):
    """(features, scores, labels) of validation images, some at a time."""
    split = data.validation
    rows = np.flatnonzero(np.diff(split.labels.indptr))
    rows = np.random.default_rng(seed).permutation(rows)
    rows = np.sort(rows[: max(1, _MOST_ENTRIES // model.num_labels)])
    features = stored_features(model, split, rows)
    size = max(1, _PART // (max(NUMBERS) * model.num_labels))
    for start in range(0, len(rows), size):
        part = tf.constant(features[start : start + size])
        chosen = rows[start : start + size]
        yield part, model.scores(part), split.labels[chosen].toarray()


def _scores(model, features: np.ndarray) -> np.ndarray:
    """The classifier's, [n, C] float32."""
    parts = np.array_split(
        features, max(1, len(features) * model.num_labels // _PART)
    )
    return np.concatenate(
        [model.scores(tf.constant(part)).numpy() for part in parts]
    )


def _precisions(model, neighbors, parts) -> np.ndarray:
    """Validation mAPs of `mean_precisions`."""
    scores = [neighbors.mix(f, z, model).numpy()[y != 0] for f, z, y in parts]
    labels = np.concatenate([y for *_, y in parts])
    return mean_precisions(
        scipy.sparse.csr_array(labels), np.concatenate(scores)
    )


def _means(model, neighbors, parts) -> dict[Mixing, float]:
    """Validation mAP in percent of each way to mix in some neighbours.

    They are looked up once: fewer of them are the first ones.
    """
    precisions = {
        neighbors.mixing._replace(
            share=share, number=number, temperature=temperature
        ): AveragePrecision(model.num_labels)
        for share, number, temperature in itertools.product(
            SHARES, NUMBERS, TEMPERATURES
        )
    }
    for features, scores, labels in parts:
        cosines, shown = neighbors.look_up(features, scores, model)
        for (share, k, temperature, *_), precision in precisions.items():
            seen = evidence(cosines[:, :k], shown[:, :k], temperature)
            mixed = mixed_logits(scores, seen, share)
            precision.update(labels, mixed.numpy())
    return {mixing: 100 * p.mean() for mixing, p in precisions.items()}
