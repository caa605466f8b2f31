"""Whether one set of scores is better than another by more than chance."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from imcl_tf.ops.metrics import AveragePrecision

_GROUPS = 20


def mean_precisions(
    labels: scipy.sparse.csr_array, scores: np.ndarray, groups: int = _GROUPS
) -> np.ndarray:
    """mAP of all images, then without each of some groups of them.

    Args:
      labels: [N, C] int8, observed entries -1 or +1, columns sorted.
      scores: [P] float, of the P observed entries in their order.
      groups: G, of equal size, drawn at random once and for all.

    Returns:
      [1 + G] float64 in [0, 1]; NaN where no label has an average precision.
    """
    number = labels.shape[0]
    group = np.random.default_rng(0).permutation(number) % groups
    of_entry = np.repeat(group, np.diff(labels.indptr))
    kept = [np.ones(len(scores), bool)]
    kept += [of_entry != g for g in range(groups)]
    return np.array([_mean(labels, scores, x) for x in kept])


def _mean(labels, scores, kept) -> float:
    precision = AveragePrecision(labels.shape[1])
    precision.add_entries(
        labels.indices[kept], scores[kept], labels.data[kept] > 0
    )
    return precision.mean() if precision.support().labels else np.nan


def difference(better: np.ndarray, simpler: np.ndarray) -> tuple[float, float]:
    """How much better, and the standard error of that.

    Images are left out in groups (delete-a-group jackknife), the same ones of
    both, so that what is hard for both does not count.

    Args:
      better: [1 + G] of `mean_precisions`.
      simpler: [1 + G], of the same labels.

    Returns:
      the difference of the mAPs, and its standard error.

    Example:
      >>> import numpy as np
      >>> from imcl_tf.ops.jackknife import difference
      >>> gain, error = difference(np.array([0.5, 0.4, 0.6]), np.zeros(3))
      >>> round(gain, 2), round(error, 2)
      (0.5, 0.1)
    """
    gains = better - simpler
    return float(gains[0]), standard_error(gains)


def standard_error(means: np.ndarray) -> float:
    """Standard error of a mean, from what it is without some groups.

    Args:
      means: [1 + G], of all and then without each of G groups; NaN where it
        is undefined.

    Returns:
      the delete-a-group jackknife's standard error of the first; infinite where
      the mean is undefined without one of the groups.

    Example:
      >>> import numpy as np
      >>> from imcl_tf.ops.jackknife import standard_error
      >>> round(standard_error(np.array([0.5, 0.4, 0.6])), 2)
      0.1
    """
    left_out = means[1:]
    if not np.isfinite(left_out).all():  # all of it may be that group's doing
        return np.inf
    number = len(left_out)
    spread = ((left_out - left_out.mean()) ** 2).sum()
    return float(np.sqrt((number - 1) / number * spread))
