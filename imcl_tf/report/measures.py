"""Curves of precision and calibration: arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def precision_recall(
    scores: np.ndarray, positive: np.ndarray, most: int = 40
) -> np.ndarray:
    """Recall and precision of one label, at a few thresholds.

    Among all thresholds at which a further positive is found, those are kept
    that are closest to an even spacing of recall, and the last one.

    Args:
      scores: [n], of the images on which the label is observed.
      positive: [n] bool.
      most: points, at least 2.

    Returns:
      [points, 2] float, recall (ascending, 1 at the end) and precision in
      [0, 1]; [0, 2] without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(positive[order])
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    ends = ends[: len(scores)]
    found = hits[ends]
    ends = ends[np.diff(found, prepend=0) > 0]
    if not ends.size:
        return np.zeros((0, 2))
    if len(ends) > most:
        wanted = np.linspace(hits[ends[0]], hits[-1], most)
        ends = ends[np.unique(np.searchsorted(hits[ends], wanted))]
    points = hits[ends] / hits[-1], hits[ends] / (ends + 1)
    return np.stack(points, 1)


class Reliability(NamedTuple):
    """Probabilities against what was observed, by bins of probability.

    Attributes:
      counts: [b] int, observed entries of each bin.
      claimed: [b] float, their mean probability, NaN of an empty bin.
      observed: [b] float, the share of them that are present, as well.
      error: expected calibration error: the mean over entries of the distance
        between both in their bin; NaN without entries.
    """

    counts: np.ndarray
    claimed: np.ndarray
    observed: np.ndarray
    error: float


def reliability(
    probabilities: np.ndarray, positive: np.ndarray, bins: int = 10
) -> Reliability:
    """Bins of equal width over [0, 1]; the last one holds 1 too.

    Args:
      probabilities: [n] in [0, 1].
      positive: [n] bool.
      bins: b.
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = [
        np.bincount(place, values, bins)
        for values in (probabilities, positive.astype(float))
    ]
    nothing = np.full(bins, np.nan)
    claimed, observed = (
        np.divide(x, counts, out=nothing.copy(), where=counts > 0) for x in sums
    )
    distance = np.abs(sums[0] - sums[1]).sum()
    error = distance / len(place) if len(place) else np.nan
    return Reliability(counts, claimed, observed, float(error))


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Probabilities of logits [n], in double precision."""
    return 1 / (1 + np.exp(-np.clip(scores.astype(float), -700, 700)))
