"""Unobserved labels completed from similar images, and the head solved again.

An extension of the paper: what IMCL's smoothness does step by step, done at
once. The most similar training images say how likely an unobserved label is;
where they are surest, the head is solved with that probability as its target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.special
import tensorflow as tf

from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.logistic import Head, LogisticSolver
from imcl_tf.ops.neighbors import evidence, nearest, of_unit_norm
from imcl_tf.training.heads import PENALTIES, best_of, stored_features

_NUMBER = 20
_TEMPERATURE = 0.05
# Shares of the unobserved labels, the surest ones, to try in each round.
_SHARES = (0.3, 1.0)
_PART = 1 << 24  # probabilities of neighbours at a time
_MOST_ENTRIES = 1 << 28


class Completion(NamedTuple):
    """A head solved with completed labels.

    Attributes:
      round: number of the round, 0 = the start.
      share: of the unobserved labels that were completed.
      head: the solved head.
      mean: its validation mAP in percent.
    """

    round: int
    share: float
    head: Head
    mean: float


def check_size(data: MultiLabelDataset, num_features: int):
    """Raises ValueError where labels or features do not fit into memory."""
    images = data.train.labels.shape[0]
    for what, size in ("labels", data.num_labels), ("features", num_features):
        if images * size > _MOST_ENTRIES:
            raise ValueError(
                f"completion_rounds: {images:,} training images of {size:,} "
                f"{what}, but at most {_MOST_ENTRIES:,} numbers fit into memory"
            )


def complete(
    model: MultiLabelModel, data: MultiLabelDataset, rounds: int
) -> list[Completion]:
    """Completes labels and solves the head again, round after round.

    Each round begins from the best head of the round before and tries two
    shares of the unobserved labels. The last round is one that gains nothing.

    Args:
      model: the solved logistic model; it is not changed.
      data: of feature records.
      rounds: at most.

    Returns:
      all that was tried, the start first.
    """
    features = stored_features(model, data.train)
    validation = stored_features(model, data.validation)
    solver = LogisticSolver(features)
    kernel, bias = model.classifier.get_weights()
    start = Head(kernel, bias, float(model.penalty))
    head, path = best_of([start], validation, data.validation, "completion")
    tried = [Completion(0, 0.0, head, path[0][1])]
    for number in range(1, rounds + 1):
        before = max(tried, key=lambda x: x.mean)
        shown = _shown(features, before.head)
        for share in _SHARES:
            targets = completed(data.train.labels, shown, share)
            head, path = best_of(
                solver.path(targets, PENALTIES), validation, data.validation,
                f"completion, round {number}, {share:.0%}",
            )  # fmt: skip
            mean = dict(path)[head.penalty]
            tried.append(Completion(number, share, head, mean))
        if max(tried, key=lambda x: x.mean) is before:
            break
    return tried


def completed(
    labels: scipy.sparse.csr_array, shown: np.ndarray, share: float
) -> scipy.sparse.csr_array:
    """Observed labels, and targets of the surest unobserved ones.

    Args:
      labels: [N, C] int8 csr_array, observed labels.
      shown: [N, C] float32, probabilities.
      share: of the unobserved labels to complete, in (0, 1].

    Returns:
      [N, C] float32 csr_array: 2 p - 1 of a probability p.

    Example:
      >>> import numpy as np, scipy.sparse
      >>> from imcl_tf.training.completion import completed
      >>> labels = scipy.sparse.csr_array(np.array([[1, 0, 0]], np.int8))
      >>> shown = np.array([[0.2, 0.5, 0.125]], np.float32)
      >>> completed(labels, shown, 0.5).toarray().tolist()
      [[1.0, 0.0, -0.75]]
    """
    targets = 2 * shown - 1
    sure = np.abs(targets)
    sure[labels.nonzero()] = -1
    wanted = round(share * (sure.size - labels.nnz))
    if not wanted:
        return labels.astype(np.float32)
    order = np.argpartition(-sure, wanted - 1, axis=None)[:wanted]
    rows, columns = np.unravel_index(order, sure.shape)
    more = scipy.sparse.csr_array(
        (targets[rows, columns], (rows, columns)), labels.shape
    )
    return labels.astype(np.float32) + more


def _shown(features: np.ndarray, head: Head) -> np.ndarray:
    """Probabilities [N, C] float32 that the nearest other images show."""
    unit = of_unit_norm(tf.constant(features))
    probabilities = tf.constant(
        scipy.special.expit(head.scores(features)).astype(np.float32)
    )
    number = min(_NUMBER, len(features) - 1)
    if not number:  # an image alone: the model says what it did
        return probabilities.numpy()
    shown = np.empty(probabilities.shape, np.float32)
    size = max(1, _PART // ((number + 1) * shown.shape[1]))
    for first in range(0, len(features), size):
        rows = slice(first, first + size)
        found = nearest(unit[rows], unit, number + 1)
        # An image is no neighbour of its own.
        own = tf.range(first, first + len(found.indices))[:, tf.newaxis]
        cosines = tf.where(found.indices == own, -np.inf, found.cosines)
        near = tf.gather(probabilities, found.indices)
        shown[rows] = evidence(cosines, near, _TEMPERATURE)
    return shown
