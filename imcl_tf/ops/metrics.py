"""Average precision over partially observed labels: one definition.

Source: Huynh & Elhamifar, "Interactive Multi-Label CNN Learning with Partial
Labels", CVPR 2020, eq. (9):

    AP_c = (1 / N_c) * sum_k Precision(k, c) * rel(k, c)

where k runs over the images whose label c is observed, by decreasing score,
rel(k, c) is 1 if the k-th of them is positive, else 0, and N_c is the number
of positives. Images of equal score share one threshold, so the value does not
depend on their order; it is scikit-learn's `average_precision_score` computed
on the observed entries of each label.

A label without an observed positive has no AP, and neither has one without an
observed negative: every ranking of positives alone has precision 1.
"""

from typing import Any, NamedTuple

import numpy as np


def average_precision(labels: Any, scores: Any) -> np.ndarray:
    """Average precision of each label, from all images at once.

    Args:
        labels: [N, C], see `AveragePrecision.update`.
        scores: [N, C], see `AveragePrecision.update`.

    Returns:
        [C] float64 in [0, 1], NaN where a label lacks an observed positive or
        an observed negative.

    Raises:
        ValueError: as `AveragePrecision.update`, or if C is 0.

    Example:
      >>> import imcl_tf
      >>> labels = [[1, 1], [-1, 0], [1, -1]]
      >>> scores = [[0.9, 0.1], [0.8, 0.9], [0.7, 0.2]]
      >>> imcl_tf.average_precision(labels, scores).round(4).tolist()
      [0.8333, 0.5]
    """
    labels, scores = _matrices(labels, scores)
    accumulator = AveragePrecision(labels.shape[1])
    accumulator.update(labels, scores)
    return accumulator.per_label()


class Support(NamedTuple):
    """What a mean average precision rests on.

    Attributes:
        labels: number of labels with an observed positive and an observed
            negative, which alone have an average precision.
        num_labels: C.
        positives: number of observed positives of these labels.
        negatives: number of their observed negatives.

    Example:
      >>> import imcl_tf
      >>> precision = imcl_tf.AveragePrecision(2)
      >>> precision.update([[1, 1], [-1, 1]], [[0.9, 0.2], [0.1, 0.8]])
      >>> print(precision.support())
      1 of 2 labels, 1 entries observed present, 1 absent
    """

    labels: int
    num_labels: int
    positives: int
    negatives: int

    @classmethod
    def of(cls, positives: np.ndarray, negatives: np.ndarray) -> "Support":
        """From the observed positives and negatives of each label, [C]."""
        both = (positives > 0) & (negatives > 0)
        return cls(
            int(both.sum()),
            len(both),
            int(positives[both].sum()),
            int(negatives[both].sum()),
        )

    def __str__(self) -> str:
        return (
            f"{self.labels:,} of {self.num_labels:,} labels, "
            f"{self.positives:,} entries observed present, "
            f"{self.negatives:,} absent"
        )


def observed_counts(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Observed positives and negatives of each label, [C] int64 each.

    Args:
        labels: [N, C] in {-1, 0, +1}, NumPy array or scipy.sparse.
    """
    place, value = _nonzero(labels)
    column = place % labels.shape[1]
    positives, negatives = (
        np.bincount(column[value == sign], minlength=labels.shape[1])
        for sign in (1, -1)
    )
    return positives, negatives


def require_support(positives: np.ndarray, negatives: np.ndarray) -> None:
    """Refuses a mean average precision that no label has a part in.

    Args:
        positives: [C], number of observed positives of each label.
        negatives: [C], number of observed negatives.

    Raises:
        ValueError: if no label has both.
    """
    if not Support.of(positives, negatives).labels:
        raise ValueError(
            "mean average precision is undefined: of "
            f"{len(positives):,} labels none has both an observed positive and "
            f"an observed negative ({positives.sum():,} entries are observed "
            f"present, {negatives.sum():,} absent)"
        )


class AveragePrecision:
    """Streaming average precision; keeps the observed entries only.

    Kept per observed entry: label index (in the smallest unsigned dtype), score
    (in its own floating dtype) and whether it is positive (bool); 7 bytes with
    257 to 65,536 labels and float32 scores.

    Args:
        num_labels: C, at least 1.

    Raises:
        ValueError: if `num_labels` is less than 1.

    Example:
      >>> import imcl_tf
      >>> precision = imcl_tf.AveragePrecision(2)
      >>> precision.update([[1, -1]], [[0.9, 0.2]])
      >>> precision.update([[-1, 1]], [[0.1, 0.8]])
      >>> float(precision.mean())
      1.0
    """

    def __init__(self, num_labels: int):
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.num_labels = num_labels
        self._index = np.min_scalar_type(num_labels - 1)
        self._chunks = [
            (np.empty(0, self._index), np.empty(0, "f2"), np.empty(0, "?"))
        ]

    def update(self, labels: Any, scores: Any) -> None:
        """Adds a batch of images; a batch that raises adds nothing.

        Args:
            labels: [N, C] in {-1, 0, +1}, 0 = unobserved, of a signed dtype:
                array, tf.Tensor, or scipy.sparse matrix or array (what is not
                stored is unobserved).
            scores: [N, C] dense floating point, higher = more likely positive.
                Ties are judged in this dtype (bfloat16 is cast to float32,
                which is exact). Infinities are allowed, and so is anything
                where the label is unobserved.

        Raises:
            ValueError: if a shape is not [N, C], the shapes differ, the scores
                are not floating point, the labels are of a dtype without -1, a
                label is outside {-1, 0, +1}, or the score of an observed entry
                is NaN.
        """
        labels, scores = _matrices(labels, scores)
        if labels.shape[1] != self.num_labels:
            raise ValueError(
                f"expected C = {self.num_labels} labels (num_labels), got "
                f"shape {tuple(labels.shape)}"
            )
        place, value = _nonzero(labels)
        wrong = (value != 1) & (value != -1)
        if wrong.any():
            i = wrong.argmax()
            row, label = divmod(place[i], self.num_labels)
            raise ValueError(
                f"labels must be -1, 0 or +1, got {value[i]} at image "
                f"{row}, label {label}"
            )
        score = scores.reshape(-1)[place]  # in less time than by two indices
        if score.dtype.name == "bfloat16":
            score = score.astype(np.float32)
        wrong = np.isnan(score)
        if wrong.any():
            row, label = divmod(place[wrong.argmax()], self.num_labels)
            raise ValueError(
                "scores of observed entries must be numbers, got NaN at image "
                f"{row}, label {label}"
            )
        self.add_entries(place % self.num_labels, score, value == 1)

    def add_entries(
        self, label: np.ndarray, score: np.ndarray, positive: np.ndarray
    ) -> None:
        """Adds observed entries, [P] each.

        Args:
            label: label indices.
            score: floating point, no NaN.
            positive: bool.
        """
        if label.size:
            self._chunks.append((label.astype(self._index), score, positive))

    def scores(self) -> np.ndarray:
        """Scores [P] of the observed entries, in the order they came."""
        return self._observed()[1]

    def positives(self) -> np.ndarray:
        """Number of observed positives of each label, [C] int64."""
        label, _, positive = self._observed()
        return np.bincount(label[positive], minlength=self.num_labels)

    def negatives(self) -> np.ndarray:
        """Number of observed negatives of each label, [C] int64."""
        label, _, positive = self._observed()
        return np.bincount(label[~positive], minlength=self.num_labels)

    def is_chance(self) -> bool:
        """Whether each label has one score for all images that show it."""
        label, score, _ = self._observed()
        lowest = np.full(self.num_labels, np.inf)
        highest = -lowest
        np.minimum.at(lowest, label, score)
        np.maximum.at(highest, label, score)
        return bool((lowest >= highest).all())

    def per_label(self) -> np.ndarray:
        """Average precision of each label over all images seen, eq. (9).

        Returns:
            [C] float64 in [0, 1], NaN where a label lacks an observed positive
            or an observed negative.
        """
        label, _, _ = self._observed()
        order = np.argsort(label, kind="stable")  # up to 16 bits: radix sort
        # In blocks of labels, so that what each needs stays in the cache.
        lows = range(0, self.num_labels, 256)
        later = np.array(lows[1:], label.dtype)
        cuts = np.searchsorted(label, later, sorter=order)
        columns = [np.split(each[order], cuts) for each in self._observed()]
        blocks = [
            _per_label(
                (label - low).astype(np.uint8),
                score,
                positive,
                min(256, self.num_labels - low),
            )
            for low, label, score, positive in zip(lows, *columns, strict=True)
        ]
        return np.concatenate(blocks)

    def mean(self, empty: str = "skip") -> float:
        """Mean average precision over labels.

        Args:
            empty: what a label without an average precision counts for.
                "skip": nothing, the mean is over the other labels. "zero":
                AP 0, the mean is over all C labels (the convention of the
                paper's released code).

        Raises:
            ValueError: if `empty` is neither "skip" nor "zero", or if no label
                has an average precision.
        """
        if empty not in ("skip", "zero"):
            raise ValueError(f"empty must be 'skip' or 'zero', got {empty!r}")
        require_support(self.positives(), self.negatives())
        ap = self.per_label()
        defined = ~np.isnan(ap)
        count = defined.sum() if empty == "skip" else self.num_labels
        return float(ap[defined].sum() / count)

    def support(self) -> Support:
        """What the mean rests on: labels and observed entries."""
        return Support.of(self.positives(), self.negatives())

    def _observed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All observed entries: label, score, positive bool, each [M]."""
        # Kept merged, so that the next read need not copy them again.
        if len(self._chunks) > 1:
            label, score, positive = zip(*self._chunks, strict=True)
            self._chunks = [
                (
                    np.concatenate(label),
                    np.concatenate(score),
                    np.concatenate(positive),
                )
            ]
        return self._chunks[0]


def _per_label(
    label: np.ndarray, score: np.ndarray, positive: np.ndarray, num_labels: int
) -> np.ndarray:
    """`AveragePrecision.per_label` of these entries of up to 256 labels."""
    # A quarter of the time of np.lexsort: scores need no stable sort, and that
    # of 8 bits is a radix sort.
    order = np.argsort(-score)
    order = order[np.argsort(label[order], kind="stable")]
    label, score, positive = label[order], score[order], positive[order]
    first = np.searchsorted(label, np.arange(num_labels, dtype=label.dtype))
    # A threshold is a run of equal scores within a label.
    ends = np.ones(label.size, bool)
    ends[:-1] = (label[1:] != label[:-1]) | (score[1:] != score[:-1])
    last = np.flatnonzero(ends)
    entries = np.bincount(label, minlength=num_labels)
    # From here on an element for each positive; `last` is where its threshold
    # ends.
    hit = np.flatnonzero(positive)
    label = label[hit]
    last = last[np.searchsorted(last, hit)]
    # Counts run on from label to label, so take off the earlier labels'.
    found = np.cumsum(positive)[last] - np.searchsorted(hit, first)[label]
    ranked = last + 1 - first[label]
    total = np.bincount(label, found / ranked, num_labels)
    positives = np.bincount(label, minlength=num_labels)
    result = np.full(num_labels, np.nan)
    both = (positives > 0) & (positives < entries)
    return np.divide(total, positives, out=result, where=both)


def _matrices(labels: Any, scores: Any) -> tuple[Any, np.ndarray]:
    """Labels (still sparse if they were) and scores, of one shape [N, C]."""
    # Recognised by its method, not its type, so that scipy is not imported.
    labels = labels if hasattr(labels, "tocoo") else np.asarray(labels)
    scores = np.asarray(scores)
    for name, array in (("labels", labels), ("scores", scores)):
        if len(array.shape) != 2:
            raise ValueError(
                f"{name} must have shape [N, C], got {tuple(array.shape)}"
            )
    if labels.shape != scores.shape:
        raise ValueError(
            "labels and scores must have the same shape, got "
            f"{tuple(labels.shape)} and {scores.shape}"
        )
    if labels.dtype.kind in "bu":
        raise ValueError(
            "labels must be of a signed dtype, in which -1 is absent and 0 "
            f"unobserved, got {labels.dtype}"
        )
    if scores.dtype.kind != "f" and scores.dtype.name != "bfloat16":
        raise ValueError(f"scores must be floating point, got {scores.dtype}")
    return labels, scores


def _nonzero(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Place, row after row, and value of each nonzero entry, each [M].

    NaN is one.
    """
    if hasattr(labels, "tocoo"):
        # Sums entries stored twice and drops stored zeros, as toarray() would;
        # a copy, since that works in place.
        coo = labels.tocoo(copy=True)
        coo.sum_duplicates()
        stored = coo.data != 0
        row = coo.row[stored].astype(np.int64)
        return row * labels.shape[1] + coo.col[stored], coo.data[stored]
    labels = labels.reshape(-1)
    if labels.itemsize > 1 or labels.size % 8:
        # On booleans, ten times as fast as np.nonzero(labels).
        place = np.flatnonzero(labels != 0)
        return place, labels[place]
    # Few are nonzero: look for such words of eight, then within those.
    words = np.ascontiguousarray(labels).view(np.int64)
    word = np.flatnonzero(words != 0)
    found = words[word].view(labels.dtype)
    within = np.flatnonzero(found != 0)
    return 8 * word[within // 8] + within % 8, found[within]
