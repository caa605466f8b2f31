"""Splits a data set into train, validation and test where its user did not."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from imcl_tf.data.records import SPLITS
from imcl_tf.files import write_csv

# Iterative stratification looks at N K numbers for each of K labels. Where that
# is more than this, a minute's work, only the rarest labels are balanced: of
# the others, each split gets its share by chance.
MOST_WORK = 2e10


def read_shares(text: str) -> np.ndarray:
    """Reads "80/10/10".

    Returns:
      [3] float, the shares of train, validation and test.

    Raises:
      ValueError: unless it is three positive numbers whose sum is 100.
    """
    try:
        shares = np.array([float(part) for part in text.split("/")])
    except ValueError:
        shares = np.zeros(0)
    # A number that is not finite has no such sum.
    if shares.shape != (3,) or not (shares > 0).all() or shares.sum() != 100:
        raise ValueError(
            "split_shares must be three numbers above 0 whose sum is 100, for "
            f"train, validation and test, such as 80/10/10, got {text!r}"
        )
    return shares / 100


def made_splits(
    image_ids: Sequence[str],
    labels: scipy.sparse.csr_array,
    groups: np.ndarray,
    shares: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Splits images so that each split has its share of every label.

    Observed present and observed absent labels are balanced alike, by iterative
    stratification (Sechidis et al., ECML PKDD 2011). First, the splits get a
    present and an absent observation of each label that has enough.

    Args:
      image_ids: N distinct names. Their order does not matter.
      labels: [N, C] int8, observed entries -1 or +1.
      groups: [N] int; images of one group stay together.
      shares: [3], see `read_shares`.
      seed: another one makes another split.

    Returns:
      [N] int, indices in `records.SPLITS`.

    Raises:
      ValueError: if there are fewer than three groups.
    """
    order = _shuffled(image_ids, seed)
    members = pd.factorize(groups[order])[0]
    number = int(members.max(initial=-1)) + 1
    if number < len(SPLITS):
        raise ValueError(
            f"{len(image_ids)} images of {number} different looks cannot be "
            f"split into {', '.join(SPLITS)}; give them in splits.csv"
        )
    together = scipy.sparse.csr_array(
        (np.ones(len(order), np.int32), (members, order)),
        shape=(number, len(order)),
    )
    both = scipy.sparse.hstack([labels > 0, labels < 0], format="csr")
    has = scipy.sparse.csr_array(together @ both.astype(np.int32) > 0)
    sizes = np.bincount(members)
    target = np.maximum(shares * len(order), 1.0)
    chosen = _covered(has, sizes, target)
    rest = np.flatnonzero(chosen < 0)
    left = target - np.bincount(
        chosen[chosen >= 0], sizes[chosen >= 0], len(SPLITS)
    )
    left = np.maximum(left, 0)
    if rest.size:
        chosen[rest] = _stratified(has[rest], left / left.sum(), seed)
    splits = np.empty(len(order), int)
    splits[order] = chosen[members]
    return splits


def _shuffled(image_ids: Sequence[str], seed: int) -> np.ndarray:
    """An order of the images that depends on their names and the seed."""
    keys = [
        hashlib.sha256(f"{seed}\0{name}".encode()).digest()
        for name in image_ids
    ]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), int)


def _covered(has, sizes, target) -> np.ndarray:
    """[G] int: the split of some groups, so that all have all labels; else -1.

    The rarest label first, and for it the group that has most of what a split
    still lacks.

    Args:
      has: [G, 2C] bool csr_array.
      sizes: [G] int, images of each.
      target: [3] float, images that a split should have.
    """
    chosen = np.full(has.shape[0], -1)
    by_column, room = has.tocsc(), np.maximum(target, 1)
    lacks = np.ones((len(SPLITS), has.shape[1]), np.int32)
    number = np.diff(by_column.indptr)
    # The smallest split first: it has least to choose from by itself.
    for column in np.argsort(number, kind="stable"):
        for split in np.argsort(target, kind="stable"):
            having = by_column.indices[slice(*by_column.indptr[column:][:2])]
            free = having[chosen[having] < 0]
            free = free[sizes[free] <= room[split]]
            if not lacks[split, column] or not free.size:
                continue
            gains = has[free] @ lacks[split]
            best = free[gains.argmax()]
            chosen[best] = split
            room[split] -= sizes[best]
            lacks[split, has.indices[slice(*has.indptr[best:][:2])]] = 0
    return chosen


def _stratified(has, shares, seed) -> np.ndarray:
    """[G] int: splits of groups with labels [G, 2C], near the shares."""
    # Here, for it imports scikit-learn, which takes a second.
    from iterstrat.ml_stratifiers import IterativeStratification

    number = has.sum(axis=0)
    rarest = np.argsort(number, kind="stable")
    rarest = rarest[number[rarest] > 0][
        : int((MOST_WORK / has.shape[0]) ** 0.5)
    ]
    return IterativeStratification(
        has[:, rarest].toarray(),
        shares,
        np.random.RandomState(seed % 2**32),  # of any size, or below zero
    )


def read_kept(path: Path, image_ids: Sequence[str]) -> np.ndarray | None:
    """Reads a split that `keep` wrote.

    Args:
      path: of the file.
      image_ids: N names, sorted.

    Returns:
      [N] int, indices in `records.SPLITS`; None if it is not there, damaged,
      or of other images.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return None
    if [*table.columns] != ["image", "split"] or (
        [*table["image"]] != [*image_ids]
    ):
        return None
    splits = pd.Index(SPLITS).get_indexer(pd.Index(table["split"]))
    return None if (splits < 0).any() else splits


def keep(path: Path, image_ids: Sequence[str], splits: np.ndarray):
    """Writes a split as a user's splits.csv, sorted by name.

    Raises:
      OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = sorted(zip(image_ids, np.array(SPLITS)[splits], strict=True))
    # Two programs may do this at once.
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        write_csv(Path(place, path.name), ("image", "split"), rows)
        os.replace(Path(place, path.name), path)
