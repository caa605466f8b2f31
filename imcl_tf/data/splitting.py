"""Splits a data set into train, validation and test where its user did not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

from imcl_tf.data.records import SPLITS
from imcl_tf.files import locked, write_csv

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
    stratification (Sechidis et al., ECML PKDD 2011). Then images are moved
    until each split has each label present and absent, where three images do.

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
    chosen = _stratified(has, shares, seed)
    _complete(chosen, has)
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


def _stratified(has, shares, seed) -> np.ndarray:
    """[G] int: splits of groups with labels [G, 2C], near the shares."""
    # Here, for it imports scikit-learn, which takes a second.
    from iterstrat.ml_stratifiers import IterativeStratification

    number = has.sum(axis=0)
    rarest = np.argsort(number, kind="stable")
    rarest = rarest[number[rarest] > 0][
        : int((MOST_WORK / has.shape[0]) ** 0.5)
    ]
    chosen = IterativeStratification(
        has[:, rarest].toarray(),
        shares,
        np.random.RandomState(seed % 2**32),  # of any size, or below zero
    )
    for split in range(len(SPLITS)):
        if split not in chosen:
            largest = np.bincount(chosen).argmax()
            chosen[np.flatnonzero(chosen == largest)[0]] = split
    return chosen


def _complete(chosen: np.ndarray, has):
    """Moves groups so that every split has every label that three have.

    The rarest label first. A group is moved that leaves its own split with
    another one of each of its labels, and of these the one with fewest.

    Args:
      chosen: [G] int, the splits of groups; changed.
      has: [G, 2C] bool csr_array.
    """
    counts = np.stack(
        [has[chosen == split].sum(axis=0) for split in range(len(SPLITS))]
    )
    by_column, total = has.tocsc(), counts.sum(axis=0)
    wanting = np.flatnonzero((counts == 0).any(axis=0) & (total >= len(SPLITS)))
    sizes = np.bincount(chosen, minlength=len(SPLITS))
    for column in wanting[np.argsort(total[wanting], kind="stable")]:
        having = by_column.indices[slice(*by_column.indptr[column:][:2])]
        for split in np.flatnonzero(counts[:, column] == 0):
            spare = [
                (len(labels), group, labels)
                for group in having
                for labels in [has.indices[slice(*has.indptr[group:][:2])]]
                if counts[chosen[group], labels].min() > 1
                and sizes[chosen[group]] > 1
            ]
            if not spare:
                continue
            _, group, labels = min(spare, key=lambda x: x[:2])
            sizes[[chosen[group], split]] += [-1, 1]
            counts[chosen[group], labels] -= 1
            counts[split, labels] += 1
            chosen[group] = split


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
    # Two programs may do this at once; `data_prep.clean` leaves them alone.
    with locked(path.parent, shared=True):
        write_csv(path, ("image", "split"), rows)
