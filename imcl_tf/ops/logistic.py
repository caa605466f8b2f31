"""Logistic regression of many labels on fixed features, solved exactly.

With w fixed, eq. (2) with a penalty on theta is convex, and a sum over labels:

    sum_j  1/n  sum_{i: j in Omega_i} log(1 + exp(-y_ji z_ji))
           + penalty/2 ||theta_j||^2,          z_ji = theta_j . f_i + b_j

where n is the mean number of observed images of a label. Up to a factor C that
is `mean_over_observed` of eq. (2) plus penalty/2 times the mean of
||theta_j||^2, so a penalty means the same for one label and for a thousand.
Biases have next to no penalty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse
import scipy.special

# Keeps the bias of a label finite that is only ever observed present.
_BIAS_PENALTY = 1e-6
# Scores of a block of labels, [N, block], take at most so many numbers.
_BLOCK = 1 << 24
_TOLERANCE = 1e-4
_MOST_STEPS = 1000


class Head(NamedTuple):
    """A solved classifier theta.

    Attributes:
      kernel: [d, C] float32.
      bias: [C] float32.
      penalty: it was solved for.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits [n, C] of features [n, d]."""
        return features @ self.kernel + self.bias


class LogisticSolver:
    """Solves heads on some features, for any labels and penalties.

    The features are rotated to their principal axes once. In these a diagonal
    scaling makes the Hessian close to the identity for any penalty, so that
    L-BFGS needs some twenty steps where it would need hundreds.

    Args:
      features: [N, d] float32.

    Raises:
      ValueError: if the features are not finite.

    Example:
      >>> import numpy as np, scipy.sparse
      >>> from imcl_tf.ops.logistic import LogisticSolver
      >>> features = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
      >>> labels = scipy.sparse.csr_array([[1], [-1], [0]])
      >>> head, = LogisticSolver(features).path(labels, [0.1])
      >>> (head.scores(features[:2]) > 0).ravel().tolist()
      [True, False]
    """

    def __init__(self, features: np.ndarray):
        if not np.isfinite(features).all():
            raise ValueError("features must be finite numbers")
        # In double precision: near the optimum, L-BFGS would not find a lower
        # value among single ones.
        self._mean = features.mean(0, dtype=np.float64)
        centred = features.astype(np.float64) - self._mean
        # The smaller one of the two Gram matrices has all axes.
        self._axes, self._variances = _principal_axes(centred)
        self._rotated = centred @ self._axes

    def path(
        self,
        targets: scipy.sparse.sparray,
        penalties: Iterable[float],
    ) -> Iterator[Head]:
        """Solves for one penalty after the other, each from the one before.

        Args:
          targets: [N, C], stored entries are observed: -1 absent, +1 present,
            or in between, 2 p - 1 of a probability p.
          penalties: > 0, best from the largest to the smallest.

        Yields:
          the solved `Head` of each penalty.
        """
        rotated = np.zeros((self._rotated.shape[1] + 1, targets.shape[1]))
        blocks = _blocks(targets)
        for penalty in penalties:
            for columns, entries in blocks:
                rotated[:, columns] = self._solve(
                    entries, rotated[:, columns], penalty
                )
            yield self._from_axes(rotated, penalty)

    def _from_axes(self, rotated: np.ndarray, penalty: float) -> Head:
        kernel = self._axes @ rotated[:-1]
        bias = rotated[-1] - self._mean @ kernel
        return Head(kernel.astype(np.float32), bias.astype(np.float32), penalty)

    def _solve(self, entries: _Entries, start: np.ndarray, penalty: float):
        """The solution [r + 1, c] of a block of c labels."""
        # The curvature of the loss is at most 1/4.
        scale = 1 / np.sqrt(np.append(self._variances / 4 + penalty, 1 / 4))
        scale = scale[:, np.newaxis]
        rates = np.full_like(scale, penalty)
        rates[-1] = _BIAS_PENALTY
        gradient = np.zeros(entries.shape)

        def objective(flat):
            theta = scale * flat.reshape(start.shape)
            scores = self._rotated @ theta[:-1] + theta[-1]
            z = scores.ravel()[entries.places]
            loss = np.logaddexp(0, z) - entries.probabilities * z
            gradient.ravel()[entries.places] = (
                scipy.special.expit(z) - entries.probabilities
            ) / entries.mean_count
            slope = rates * theta
            slope[:-1] += self._rotated.T @ gradient
            slope[-1] += gradient.sum(0)
            value = loss.sum() / entries.mean_count
            value += (rates * theta * theta).sum() / 2
            return value, (scale * slope).ravel()

        found = scipy.optimize.minimize(
            objective, (start / scale).ravel(), jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _MOST_STEPS, "gtol": _TOLERANCE, "ftol": 1e-9,
                "maxcor": 10,
            },
        )  # fmt: skip
        return scale * found.x.reshape(start.shape)


def _principal_axes(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal axes [d, r] of rows [N, d], and the variances [r] there."""
    number, size = centred.shape
    if size <= number:
        variances, axes = scipy.linalg.eigh(centred.T @ centred / number)
        return axes, np.maximum(variances, 0)
    # theta lies in the span of the rows: fewer axes than d are enough.
    axes, _ = scipy.linalg.qr(centred.T, mode="economic")
    inner = centred @ axes
    variances, within = scipy.linalg.eigh(inner.T @ inner / number)
    return axes @ within, np.maximum(variances, 0)


class _Entries(NamedTuple):
    """The observed entries of a block of labels.

    shape: (N, c); places: [P] in the flattened block; probabilities: [P],
    targets; mean_count: n of the objective.
    """

    shape: tuple[int, int]
    places: np.ndarray
    probabilities: np.ndarray
    mean_count: float


def _blocks(targets) -> list[tuple[slice, _Entries]]:
    number, labels = targets.shape
    by_label = scipy.sparse.csc_array(targets)
    mean_count = max(by_label.nnz, 1) / labels
    width = max(1, _BLOCK // number)
    blocks = []
    for first in range(0, labels, width):
        columns = slice(first, min(first + width, labels))
        part = scipy.sparse.coo_array(by_label[:, columns])
        blocks.append((
            columns,
            _Entries(
                part.shape,
                part.row.astype(np.int64) * part.shape[1] + part.col,
                ((1 + part.data.astype(np.float64)) / 2),
                mean_count,
            ),
        ))  # fmt: skip
    return blocks
