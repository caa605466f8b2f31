"""Labels in {-1, 0, +1}: checks, hiding, and imputation (eq. 3).

+1 present, -1 absent, 0 unobserved. Whole data sets are scipy.sparse arrays
[N, C] that store the observed entries alone; minibatches are dense int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf


def check_labels(labels: Any) -> np.ndarray | scipy.sparse.csr_array:
    """Returns `labels` after checking its rank and values.

    Args:
      labels: [N, C] array or scipy.sparse array of any numeric dtype.

    Returns:
      [N, C] int8, a NumPy array or a scipy.sparse.csr_array without explicit
      zeros.

    Raises:
      ValueError: if the rank is not 2 or a value is not -1, 0 or 1 (NaN too).

    Example:
      >>> import imcl_tf
      >>> imcl_tf.check_labels([[1.0, 0.0, -1.0]]).dtype.name
      'int8'
    """
    sparse = scipy.sparse.issparse(labels)
    if sparse:
        # Other formats have no flat .data, and entries stored twice add up.
        labels = scipy.sparse.csr_array(labels, copy=True)
        labels.sum_duplicates()
    else:
        labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(
            f"labels must have shape [N, C], got shape {labels.shape}"
        )
    values = labels.data if sparse else labels
    wrong = ~np.isin(values, (-1, 0, 1))
    if wrong.any():
        raise ValueError(
            f"labels must be -1, 0 or 1, got {values[wrong].flat[0]}"
        )
    labels = labels.astype(np.int8)
    if sparse:
        labels.eliminate_zeros()
    return labels


def hide_labels(
    labels: Any,
    observed_fraction: float,
    seed: int,
    rule: str = "per_label",
) -> scipy.sparse.csr_array:
    """Keeps a random share of the observed labels, hides the others.

    per_label: every observed entry stays with probability
               `observed_fraction`; besides, each label keeps at least one of
               its positives and one of its negatives (released code for CUB).
    per_image: of n observed entries each image keeps `observed_fraction` * n,
               rounded, at least 1 (paper, sec. 4.6).
    single_positive: of its observed positives each image keeps one, and
               nothing else (Cole et al., CVPR 2021); for a fraction of 1.

    What a fraction keeps, larger ones of the same rule and seed keep too.

    Args:
      labels: [N, C], an array or scipy.sparse array in {-1, 0, +1}.
      observed_fraction: in (0, 1].
      seed: of the choice.
      rule: "per_label", "per_image" or "single_positive".

    Returns:
      [N, C] int8 csr_array, a subset of the entries of `labels`.

    Raises:
      ValueError: if `observed_fraction` is out of range, or not 1 for
        "single_positive", `rule` unknown, or `labels` are not as
        `check_labels` asks.

    Example:
      >>> import imcl_tf, numpy as np
      >>> labels = np.ones((10, 4), np.int8)
      >>> imcl_tf.hide_labels(labels, 0.5, seed=0, rule="per_image").nnz
      20
    """
    if rule not in HIDING_RULES:
        raise ValueError(
            f"rule must be one of {', '.join(HIDING_RULES)}, got {rule!r}"
        )
    if not 0 < observed_fraction <= 1:
        raise ValueError(
            f"observed_fraction must be in (0, 1], got {observed_fraction}"
        )
    if rule == SINGLE_POSITIVE and observed_fraction != 1:
        raise ValueError(
            f"{SINGLE_POSITIVE} keeps one label of each image: "
            f"observed_fraction must be 1, got {observed_fraction}"
        )
    labels = scipy.sparse.csr_array(check_labels(labels))
    if observed_fraction == 1 and rule != SINGLE_POSITIVE:
        return labels
    entries = labels.tocoo()
    priority = np.random.default_rng(seed).random(entries.nnz)
    keep = HIDING_RULES[rule](entries, priority, observed_fraction)
    return scipy.sparse.csr_array(
        (entries.data[keep], (entries.row[keep], entries.col[keep])),
        shape=labels.shape,
    )


def _keep_per_label(entries, priority, fraction):
    keep = priority < fraction
    for sign in (-1, 1):
        of_sign = entries.data == sign
        first = np.ones(entries.shape[1])
        np.minimum.at(first, entries.col[of_sign], priority[of_sign])
        keep |= priority == first[entries.col]
    return keep


def _keep_per_image(entries, priority, fraction):
    observed = np.bincount(entries.row, minlength=entries.shape[0])
    wanted = np.maximum(np.rint(fraction * observed), 1)
    ends = np.cumsum(observed) - observed + wanted
    # Image by image, the entries of each in random order. One stable sort of
    # nearly sorted numbers is much faster than `np.lexsort`.
    order = np.argsort(entries.row + priority, kind="stable")
    keep = np.empty(entries.nnz, bool)
    keep[order] = np.arange(entries.nnz) < np.repeat(ends, observed)
    return keep


def _keep_single_positive(entries, priority, fraction):
    positive = entries.data > 0
    first = np.ones(entries.shape[0])
    np.minimum.at(first, entries.row[positive], priority[positive])
    return positive & (priority == first[entries.row])


SINGLE_POSITIVE = "single_positive"
HIDING_RULES = {
    "per_label": _keep_per_label,
    "per_image": _keep_per_image,
    SINGLE_POSITIVE: _keep_single_positive,
}


def rows_alone(
    labels: scipy.sparse.csr_array, kept: np.ndarray
) -> scipy.sparse.csr_array:
    """Hides all labels of some images.

    Args:
      labels: [N, C] csr_array.
      kept: [N] bool, whether an image keeps its labels.

    Returns:
      [N, C] csr_array; the rows of the others are empty.

    Example:
      >>> import numpy as np, scipy.sparse
      >>> from imcl_tf.ops.labels import rows_alone
      >>> labels = scipy.sparse.csr_array(np.eye(2, dtype=np.int8))
      >>> rows_alone(labels, np.array([False, True])).toarray().tolist()
      [[0, 0], [0, 1]]
    """
    counts = np.diff(labels.indptr)
    of_entry = np.repeat(kept, counts)
    ends = np.cumsum(np.where(kept, counts, 0))
    return scipy.sparse.csr_array(
        (
            labels.data[of_entry],
            labels.indices[of_entry],
            np.concatenate([[0], ends]).astype(labels.indptr.dtype),
        ),
        labels.shape,
    )


class LabelTable:
    """The observed labels of a whole split, looked up by image number in TF.

    Args:
      labels: [N, C] int8 csr_array, observed entries -1 or +1.
    """

    def __init__(self, labels: scipy.sparse.csr_array):
        self.num_images, self.num_labels = labels.shape
        # Column and sign in one integer: +(j + 1) present, -(j + 1) absent.
        signed = (labels.indices.astype(np.int32) + 1) * labels.data
        self._signed = tf.RaggedTensor.from_row_splits(
            tf.constant(signed, tf.int32),
            tf.constant(labels.indptr, tf.int64),
            validate=False,
        )

    def rows(self, image_index: tf.Tensor) -> tf.Tensor:
        """Returns the labels [B, C] int8 of images `image_index` [B]."""
        signed = tf.gather(self._signed, image_index)
        columns = tf.abs(signed.flat_values) - 1
        # Not `signed.value_rowids()`, which is slow to trace.
        images = tf.searchsorted(
            signed.row_splits,
            tf.range(tf.size(columns, tf.int64)),
            side="right",
        )
        entries = tf.stack([images - 1, columns], 1)
        shape = [tf.size(image_index), self.num_labels]
        dense = tf.scatter_nd(entries, tf.sign(signed.flat_values), shape)
        return tf.ensure_shape(
            tf.cast(dense, tf.int8), [image_index.shape[0], self.num_labels]
        )


def impute(
    labels: tf.Tensor,
    logits: tf.Tensor,
    imputation: str = "paper",
    positive_ratio: float = 2.0,
) -> tf.Tensor:
    """Label targets y (eq. 3): observed label, else from the prediction.

    With c = `positive_ratio` the range is [-1/c, 1], "so that similarity
    learning focuses more on positive labels" (sec. 4.3):

    paper:    2 p - 1, then [-1, 1] mapped linearly to [-1/c, 1], observed
              labels too.
    released: (e^u - e^-u / c) / (e^u + e^-u) with u = z + log(1/c) / 2, which
              is 0 at z = 0; observed labels clipped to [-1/c, 10].

    Args:
      labels: [..., C] int8 in {-1, 0, +1}.
      logits: [..., C] float, z.
      imputation: "paper" or "released".
      positive_ratio: c >= 1.

    Returns:
      [..., C] float32 in [-1/c, 1], differentiable in `logits`.

    Raises:
      ValueError: for an unknown `imputation` or a ratio below 1.

    Example:
      >>> import imcl_tf, numpy as np
      >>> labels = np.array([[1, 0]], np.int8)
      >>> imcl_tf.impute(labels, np.zeros((1, 2), np.float32)).numpy().tolist()
      [[1.0, 0.25]]
    """
    if not positive_ratio >= 1:
        raise ValueError(f"positive_ratio must be >= 1, got {positive_ratio}")
    observed = tf.cast(labels, tf.float32)
    logits = tf.cast(logits, tf.float32)
    low = -1.0 / positive_ratio
    probabilities = tf.sigmoid(logits)
    if imputation == "released":
        # (e^u + low e^-u) / (e^u + e^-u) = low + (1 - low) sigmoid(2 u).
        shift = np.log(1.0 / positive_ratio)
        probabilities = tf.sigmoid(2.0 * logits + shift)
    elif imputation != "paper":
        raise ValueError(
            f"imputation must be paper or released, got {imputation!r}"
        )
    imputed = low + (1.0 - low) * probabilities
    return tf.where(labels == 0, imputed, tf.maximum(observed, low))
