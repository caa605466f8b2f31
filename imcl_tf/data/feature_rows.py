"""What is known of a file of features, remembered as long as it stays."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from imcl_tf.data.cells import shown
from imcl_tf.data.feature_files import FeatureFile, first_not_finite
from imcl_tf.data.image_names import Names
from imcl_tf.data.kept import read_arrays
from imcl_tf.data.picture_digests import SETTLED, file_state, keep_arrays
from imcl_tf.data.records import from_bytes, to_bytes


class _Known(NamedTuple):
    """What a pass over a file finds.

    Attributes:
      states: [F, 4] int64, what its files are like.
      num_features: [] int64, d.
      ids: [N] bytes.
      digests: [N, 32] uint8, SHA-256 of each row.
      wrong: [N] int32, the first column of a row that is not finite, or -1.
    """

    states: np.ndarray
    num_features: np.ndarray
    ids: np.ndarray
    digests: np.ndarray
    wrong: np.ndarray


class FeatureRows(Names):
    """The rows of a file of features as images of a folder.

    The first pass over the file is remembered: as long as the file stays, the
    next program does not read it.

    Args:
      file: of the features.
      cache: file that remembers, None = none. What is damaged there is
        ignored.

    Attributes:
      num_features: d.

    Raises:
      ValueError: if the file is not as it should be.
      OSError: if it cannot be read.
    """

    def __init__(self, file: FeatureFile, cache: Path | None = None):
        self.file, self._cache, self._now = file, cache, time.time_ns()
        states = np.array([*map(file_state, file.files)], np.int64)
        known = _remembered(cache, states) if cache else None
        self._is_new = known is None
        self._known = known or _looked_at(file, states)
        self.num_features = int(self._known.num_features)
        self._index = pd.Index(from_bytes(self._known.ids), dtype=object)
        super().__init__(file.path, self._index)

    def __call__(self, names: Sequence[str]) -> np.ndarray:
        """The digests [n, 32] uint8 of rows; zeros for one that is missing."""
        places = self._places(names)
        digests = self._known.digests[places]
        digests[places < 0] = 0
        return digests

    def groups(self, names: Sequence[str]) -> np.ndarray:
        """[n] int: groups of equal rows; a missing one is on its own."""
        places = self._places(names)
        alone = np.where(places < 0, np.arange(len(names)), -1)
        keys = np.column_stack([self(names), alone])
        return np.unique(keys, axis=0, return_inverse=True)[1].ravel()

    def save(self):
        """Remembers what is known, unless the file has just been written."""
        newest = self._known.states[:, 1:3].max()
        if self._cache and self._is_new and newest < self._now - SETTLED:
            keep_arrays(self._cache, **self._known._asdict())

    def check(self, image_ids: Sequence[str]):
        """Refuses rows that are missing or not finite, see `Names`."""
        super().check(image_ids)
        problems = self._problems(self._places(image_ids))
        wrong = [i for i, problem in enumerate(problems) if problem]
        if wrong:
            some = "; ".join(
                f"{shown(image_ids[i])}: {problems[i]}" for i in wrong[:5]
            )
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(
                f"{self.place}: features that are not finite in single "
                f"precision: {some}{more} ({len(wrong)} of {len(image_ids)} "
                "images); --on_bad_image=skip leaves such images out"
            )

    def read(self, names: Sequence[str]) -> tuple[np.ndarray, list[str | None]]:
        """Reads rows.

        Args:
          names: n ids.

        Returns:
          [n, d] float32, and what is wrong with each row, None if nothing.
        """
        places = self._places(names)
        # In the order of the file: a disk reads it once.
        order = np.argsort(places)
        rows = np.empty((len(names), self.num_features), np.float32)
        rows[order] = self.file.rows(np.maximum(places[order], 0))
        return rows, self._problems(places)

    def _problems(self, places: np.ndarray) -> list[str | None]:
        return [
            "no such id" if place < 0
            else f"column {column} is not finite" if column >= 0
            else None
            for place, column in zip(
                places.tolist(), self._known.wrong[places].tolist(), strict=True
            )
        ]  # fmt: skip

    def _places(self, names: Sequence[str]) -> np.ndarray:
        return self._index.get_indexer(pd.Index(names, dtype=object))


def _remembered(cache: Path, states: np.ndarray) -> _Known | None:
    """What the cache says of files of these states."""
    try:
        known = _Known(**read_arrays(cache, *_Known._fields))
    except (OSError, ValueError):
        return None
    number = known.ids.shape
    fits = (
        np.array_equal(known.states, states)
        and known.num_features.shape == ()
        and known.num_features.dtype.kind == "i"
        and known.ids.ndim == 1
        and known.ids.dtype.kind == "S"
        and known.digests.shape == (*number, 32)
        and known.digests.dtype == np.uint8
        and known.wrong.shape == number
        and known.wrong.dtype == np.int32
    )
    return known if fits else None


def _looked_at(file: FeatureFile, states: np.ndarray) -> _Known:
    """What a pass over the file finds."""
    number = len(file.ids)
    digests = np.zeros((number, 32), np.uint8)
    wrong = np.full(number, -1, np.int32)
    start = 0
    for rows in file.blocks():
        here = slice(start, start + len(rows))
        wrong[here] = first_not_finite(rows)
        digests[here] = _digests(rows)
        start += len(rows)
    return _Known(
        states, np.array(file.num_features), to_bytes(file.ids), digests, wrong
    )


def _digests(rows: np.ndarray) -> np.ndarray:
    """[n, 32] uint8: of each row's numbers, whatever type they came in."""
    rows = np.ascontiguousarray(rows, "<f4")
    joined = b"".join(hashlib.sha256(row).digest() for row in rows)
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)
