"""Label graphs from WordNet: the similarity of Wu and Palmer (table 3).

WUP = 2 k / (i + j + 2 k), with k the depth (a root's is 1) of the deepest
common hypernym of two synsets, i and j their distances to it. As
`wn.similarity.wup` with `simulate_root=True`: two synsets without a common
hypernym meet in an added root.
"""

from __future__ import annotations

import graphlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import wn

from imcl_tf.wikipedia import bare_name

_ROOT = "root"
_BLOCK = 512


def find_nouns(
    label_names: Sequence[str],
    lexicon: str = "oewn:2024",
    directory: str | Path | None = None,
) -> list[wn.Synset | None]:
    """Looks label names up among WordNet's nouns.

    Args:
      label_names: C names; what they have in parentheses is dropped.
      lexicon: in the notation of `wn`, NAME:VERSION.
      directory: data directory of `wn`, None = its default.

    Returns:
      C first senses, the most frequent ones; None for a name not found.

    Raises:
      FileNotFoundError: if the directory has no data.
      ValueError: if the data lacks the lexicon.
    """
    place = Path(directory or wn.config.database_path.parent).expanduser()
    database = place / wn.config.database_path.name
    if not database.is_file():
        raise FileNotFoundError(
            f"{database}: no such file; `python -m wn --dir={place} "
            f"download {lexicon}` makes it"
        )
    wn.config.data_directory = place
    try:
        # Else "turkey" may turn out to be Turkey.
        exact = wn.Wordnet(lexicon, normalizer=None)
        any_case = wn.Wordnet(lexicon)
        return [
            next(
                (
                    synset
                    for wordnet in (exact, any_case)
                    for synset in wordnet.synsets(name, pos="n")
                ),
                None,
            )
            for name in (bare_name(name).lower() for name in label_names)
        ]
    except (wn.Error, sqlite3.DatabaseError) as error:
        raise ValueError(f"{database}: {error}") from error


def similarities(
    synsets: Sequence[wn.Synset | None], num_neighbors: int = 50
) -> scipy.sparse.csr_array:
    """The labels most similar to each label, by WUP.

    Of several deepest common hypernyms the nearest counts.

    Args:
      synsets: of C labels; None = none.
      num_neighbors: k_a >= 1.

    Returns:
      [C, C] float64 csr_array, WUP in (0, 1] of each label with a synset to
      its `num_neighbors` most similar ones, itself included, ties by label
      number; empty rows for the others.

    Raises:
      ValueError: if the hypernyms of a synset lead back to it.
    """
    labels = np.array([j for j, s in enumerate(synsets) if s is not None], int)
    hypernyms = _hypernyms([synsets[j] for j in labels])
    rows, columns, values = [], [], []
    for start in range(0, len(labels), _BLOCK):
        of_rows = labels[start : start + _BLOCK]
        block = _wup(hypernyms, start, len(of_rows), len(labels))
        best = np.argsort(-block, axis=1, kind="stable")[:, :num_neighbors]
        rows.append(np.repeat(of_rows, best.shape[1]))
        columns.append(labels[best].ravel())
        values.append(np.take_along_axis(block, best, 1).ravel())
    values, rows, columns = (
        np.concatenate([labels[:0], *parts])
        for parts in (values, rows, columns)
    )
    return scipy.sparse.csr_array(
        (values.astype(float), (rows, columns)), [len(synsets)] * 2
    )


class _Hypernym(NamedTuple):
    """A synset above labels.

    Attributes:
      depth: 0 for the added root, 1 for a root.
      below: [n] int, numbers of the synsets that it is above or equal to.
      distances: [n] int, edges between each of them and it.
    """

    depth: int
    below: np.ndarray
    distances: np.ndarray


def _hypernyms(synsets: Sequence[wn.Synset]) -> list[_Hypernym]:
    """All synsets above the given ones, these too, roots first."""
    parents, agenda = {}, set(synsets)
    while agenda:
        synset = agenda.pop()
        parents[synset] = synset.hypernyms()
        agenda.update(p for p in parents[synset] if p not in parents)
    depths, up = {_ROOT: 0}, {_ROOT: {_ROOT: 0}}
    for synset in graphlib.TopologicalSorter(parents).static_order():
        above = parents[synset] or [_ROOT]
        depths[synset] = 1 + max(depths[parent] for parent in above)
        ways = [way for parent in above for way in up[parent].items()]
        # The shortest way to each comes last and stays.
        ways.sort(key=lambda way: -way[1])
        up[synset] = {synset: 0} | {end: 1 + n for end, n in ways}
    below = {}
    for number, synset in enumerate(synsets):
        for end in up[synset]:
            # Not always straight up: by another branch it may be nearer.
            distance = min(up[synset][by] + n for by, n in up[end].items())
            below.setdefault(end, []).append((number, distance))
    return [
        _Hypernym(depths[end], *np.array(below[end]).T)
        for end in sorted(below, key=depths.get)
    ]


def _wup(
    hypernyms: Sequence[_Hypernym], start: int, num_rows: int, num_columns: int
) -> np.ndarray:
    """[num_rows, num_columns] float64, of synsets start, ... to all."""
    similarities = np.zeros((num_rows, num_columns))
    depths = np.full(similarities.shape, -1, np.int16)
    for depth, below, distances in hypernyms:
        first, last = np.searchsorted(below, (start, start + num_rows))
        cells = np.ix_(below[first:last] - start, below)
        # wn, too, counts the added root as deep as a root.
        twice = 2 * max(depth, 1)
        values = twice / (distances[first:last, np.newaxis] + distances + twice)
        equal = depths[cells] == depth
        similarities[cells] = np.maximum(values, equal * similarities[cells])
        depths[cells] = depth
    return similarities
