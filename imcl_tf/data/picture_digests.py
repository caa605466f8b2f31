"""Digests of the contents of many files, each file hashed once.

A file of digests remembers what each file was like when it was hashed: size,
times and inode. As long as they stay, to know a file's digest takes a look at
its directory entry. What was written in the last seconds is hashed again, for
a change within a tick of the clock would leave no trace.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from imcl_tf.data.kept import read_arrays
from imcl_tf.files import locked, replacing

_SIZE = 32
SETTLED = 2 * 10**9  # ns


class _Known(NamedTuple):
    """Attributes: names [N] bytes, states [N, 4] int64, digests [N, 32]."""

    names: np.ndarray
    states: np.ndarray
    digests: np.ndarray


_NOTHING = _Known(
    np.zeros(0, bytes),
    np.zeros((0, 4), np.int64),
    np.zeros((0, _SIZE), np.uint8),
)


class PictureDigests:
    """SHA-256 of the contents of files of a directory.

    Args:
      directory: that the files lie in.
      cache: file that remembers digests. What is damaged there is ignored.
    """

    def __init__(self, directory: Path, cache: Path | None = None):
        self._directory, self._cache = directory, cache
        self._known = _read(cache) if cache else _NOTHING
        self._now, self._new = time.time_ns(), False

    def __call__(self, names: Sequence[str]) -> np.ndarray:
        """The digests of files.

        Args:
          names: N distinct paths below the directory; links are followed.

        Returns:
          [N, 32] uint8; zeros for a file that cannot be read.
        """
        paths = [os.path.join(self._directory, name) for name in names]
        encoded = np.array([os.fsencode(name) for name in names], bytes)
        states = np.array([*map(file_state, paths)], np.int64).reshape(-1, 4)
        digests, found = self._remembered(encoded, states)
        new = np.flatnonzero(~found & states.any(axis=1))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = pool.map(_digest, [paths[i] for i in new])
            for i, digest in zip(new, contents, strict=True):
                digests[i] = np.frombuffer(digest, np.uint8)
        settled = digests.any(axis=1) & (
            states[:, 1:3].max(axis=1) < self._now - SETTLED
        )
        self._known = _Known(
            encoded[settled], states[settled], digests[settled]
        )
        self._new |= len(new) > 0
        return digests

    def _remembered(self, encoded, states) -> tuple[np.ndarray, np.ndarray]:
        """The known digests, zeros for the others; [N] bool, which are known.

        Args:
          encoded: [N] bytes, names.
          states: [N, 4] int, what the files are like.
        """
        places = pd.Index(self._known.names).get_indexer(pd.Index(encoded))
        found = places >= 0
        same = self._known.states[places[found]] == states[found]
        found[found] = same.all(axis=1)
        digests = np.zeros((len(encoded), _SIZE), np.uint8)
        digests[found] = self._known.digests[places[found]]
        return digests, found

    def save(self):
        """Writes what is known to the cache, if it can be written."""
        if self._cache and self._new:
            keep_arrays(self._cache, **self._known._asdict())


def file_state(path: str | os.PathLike) -> tuple[int, int, int, int]:
    """Size, times and inode of a file, zeros if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return bytes(_SIZE)


def _read(cache: Path) -> _Known:
    try:
        known = _Known(**read_arrays(cache, *_Known._fields))
    except (OSError, ValueError):
        return _NOTHING
    size = len(known.names) if known.names.ndim else -1
    fits = (
        known.names.dtype.kind == "S"
        and known.states.dtype == np.int64
        and known.digests.dtype == np.uint8
        and known.states.shape == (size, 4)
        and known.digests.shape == (size, _SIZE)
        and len(np.unique(known.names)) == size
    )
    return known if fits else _NOTHING


def keep_arrays(cache: Path, **arrays: np.ndarray):
    """Writes a .npz if that is possible, whole or not at all.

    Whoever else may write it at the same time.
    """
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        # `data_prep.clean` leaves alone what is being written.
        with locked(cache.parent, shared=True), replacing(cache) as new:
            np.savez(new, **arrays)  # type: ignore[arg-type]
