"""How much a mean average precision depends on which images were drawn."""

from __future__ import annotations

import numpy as np
import scipy.sparse

_REPEATS = 1000
_WEIGHTS = 2**24  # at a time


def resampled_means(
    labels: scipy.sparse.csr_array,
    scores: np.ndarray,
    repeats: int = _REPEATS,
    seed: int = 0,
) -> np.ndarray:
    """mAP of images that are drawn anew, with replacement.

    Equal labels and seed draw equal images, so that scores of two models can be
    compared in pairs: the differences of what is returned for each.

    Args:
      labels: [N, C] int8, observed entries -1 or +1, columns sorted.
      scores: [P] float, of the P observed entries in their order.
      repeats: R, how often N images are drawn.
      seed: of the drawing.

    Returns:
      [R] float64 in [0, 1]; NaN where no label has an average precision.

    Example:
      >>> import numpy as np, scipy.sparse
      >>> from imcl_tf.ops.bootstrap import resampled_means
      >>> labels = scipy.sparse.csr_array(np.array([[1], [-1], [1], [-1]]))
      >>> means = resampled_means(labels, np.array([4.0, 3.0, 2.0, 1.0]))
      >>> bool(np.nanmin(means) < 0.6 < np.nanmax(means))
      True
    """
    number = labels.shape[0]
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(number), np.diff(labels.indptr))
    order = np.lexsort([-scores, labels.indices])
    columns = np.split(
        order, np.bincount(labels.indices, minlength=labels.shape[1]).cumsum()
    )[:-1]
    means = []
    size = max(1, min(repeats, _WEIGHTS // max(1, number)))
    for start in range(0, repeats, size):
        drawn = rng.integers(number, size=(min(size, repeats - start), number))
        weights = np.stack(
            [np.bincount(row, minlength=number) for row in drawn], 1
        ).astype(np.float32)  # whole numbers, up to N
        means.append(_means(columns, image, labels.data > 0, scores, weights))
    return np.concatenate(means)


def _means(columns, image, positive, scores, weights) -> np.ndarray:
    """mAP [r] of images that count as `weights` [N, r] says."""
    total = np.zeros(weights.shape[1])
    having = np.zeros(weights.shape[1], int)
    for entries in columns:
        hit = np.flatnonzero(positive[entries])
        if not 0 < len(hit) < len(entries):
            continue
        # Images of equal score share the threshold of the last of them.
        score = scores[entries]
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
        last = ends[np.searchsorted(ends, hit)]
        # All entries down to each threshold, and below the last one.
        limits, place = np.unique(last + 1, return_inverse=True)
        limits = np.unique([0, *limits, len(entries)])
        ranked = _sums(image[entries], limits, weights).cumsum(0)
        present = weights[image[entries[hit]]].astype(np.float64)
        found = present.cumsum(0)
        at_threshold = found[np.searchsorted(hit, last, "right") - 1]
        precision = at_threshold / np.maximum(ranked[place], 1)
        both = (found[-1] > 0) & (ranked[-1] > found[-1])
        sums = (present * precision).sum(0)
        total[both] += sums[both] / found[-1][both]
        having += both
    return np.where(having > 0, total / np.maximum(having, 1), np.nan)


def _sums(image, limits, weights) -> np.ndarray:
    """Sums of the weights [N, r] of images, from each limit to the next one."""
    shape = len(limits) - 1, len(weights)
    ones = np.ones(len(image), weights.dtype)
    parts = scipy.sparse.csr_array((ones, image, limits), shape)
    return (parts @ weights).astype(np.float64)
