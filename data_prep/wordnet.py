"""Label graphs from WordNet: the similarity of Wu and Palmer (table 3).

WUP = 2 k / (i + j + 2 k), where k is the depth of the deepest common hypernym
of two synsets (a root has depth 1), and i and j are their distances to it. The
values are those of `wn.similarity.wup` with `simulate_root=True`: two synsets
without a common hypernym meet in an added root.
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

from data_prep.wikipedia import bare_name

_ROOT = "root"
_Node = wn.Synset | str  # a synset, or the added root
_BLOCK = 512


def find_nouns(
    label_names: Sequence[str],
    lexicon: str = "oewn:2024",
    directory: str | Path | None = None,
) -> list[wn.Synset | None]:
    """Looks up label names among the nouns of WordNet.

    Args:
      label_names: C names; their parts in parentheses are dropped.
      lexicon: NAME:VERSION of the lexicon, as `wn` writes it.
      directory: data directory of `wn`, None = its default.

    Returns:
      C synsets, each the first and most frequent sense of a name; None for a
      name that WordNet lacks.

    Raises:
      FileNotFoundError: if the directory holds no data of `wn`.
      ValueError: if the data lacks the lexicon.
    """
    place = Path(directory or wn.config.database_path.parent).expanduser()
    database = place / wn.config.database_path.name
    if not database.is_file():
        raise FileNotFoundError(
            f"{database}: no such file; to download it, run "
            f"`python -m wn --dir={place} download {lexicon}`"
        )
    wn.config.data_directory = place
    try:
        # The exact spelling first: "turkey" is not Turkey.
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
    """Finds the labels that are most similar to each label by WUP.

    If two synsets have several deepest common hypernyms, the nearest counts.

    Args:
      synsets: synsets of C labels, None for a label without synset.
      num_neighbors: k_a >= 1.

    Returns:
      [C, C] float64 csr_array. The row of a label with a synset holds its
      WUP in (0, 1] with its `num_neighbors` most similar labels, itself
      included; of equal ones, the smaller label numbers. Other rows are empty.

    Raises:
      ValueError: if the hypernyms of a synset form a cycle.
    """
    labels = np.array([j for j, s in enumerate(synsets) if s is not None], int)
    hypernyms = _hypernyms([s for s in synsets if s is not None])
    # Starts with empty arrays: there may be no label with a synset.
    rows, columns, values = [labels[:0]], [labels[:0]], [np.zeros(0)]
    for start in range(0, len(labels), _BLOCK):
        of_rows = labels[start : start + _BLOCK]
        block = _wup(hypernyms, start, len(of_rows), len(labels))
        best = np.argsort(-block, axis=1, kind="stable")[:, :num_neighbors]
        rows.append(np.repeat(of_rows, best.shape[1]))
        columns.append(labels[best].ravel())
        values.append(np.take_along_axis(block, best, 1).ravel())
    places = np.concatenate(rows), np.concatenate(columns)
    return scipy.sparse.csr_array(
        (np.concatenate(values), places), [len(synsets)] * 2
    )


class _Hypernym(NamedTuple):
    """A synset that is a hypernym of labels' synsets, or one of them.

    Attributes:
      depth: 0 for the added root, 1 for a root.
      below: [n] int, numbers of the labels' synsets below it, and its own.
      distances: [n] int, number of edges from each of them to it.
    """

    depth: int
    below: np.ndarray
    distances: np.ndarray


def _hypernyms(synsets: Sequence[wn.Synset]) -> list[_Hypernym]:
    """The given synsets and all their hypernyms, roots first."""
    parents: dict[wn.Synset, list[wn.Synset]] = {}
    agenda = set(synsets)
    while agenda:
        synset = agenda.pop()
        parents[synset] = synset.hypernyms()
        agenda.update(p for p in parents[synset] if p not in parents)
    depths: dict[_Node, int] = {_ROOT: 0}
    up: dict[_Node, dict[_Node, int]] = {_ROOT: {_ROOT: 0}}
    for synset in graphlib.TopologicalSorter(parents).static_order():
        above: Sequence[_Node] = parents[synset] or [_ROOT]
        depths[synset] = 1 + max(depths[parent] for parent in above)
        ways = [way for parent in above for way in up[parent].items()]
        # The shortest path to a hypernym comes last and replaces the others.
        ways.sort(key=lambda way: -way[1])
        up[synset] = {synset: 0, **{end: 1 + n for end, n in ways}}
    below: dict[_Node, list[tuple[int, int]]] = {}
    for number, synset in enumerate(synsets):
        for end in up[synset]:
            # A path by another branch may be shorter than the straight one.
            distance = min(up[synset][by] + n for by, n in up[end].items())
            below.setdefault(end, []).append((number, distance))
    return [
        _Hypernym(depths[end], *np.array(below[end]).T)
        for end in sorted(below, key=depths.__getitem__)
    ]


def _wup(
    hypernyms: Sequence[_Hypernym], start: int, num_rows: int, num_columns: int
) -> np.ndarray:
    """WUP [num_rows, num_columns] of the synsets from `start` on with all."""
    similarities = np.zeros((num_rows, num_columns))
    depths = np.full(similarities.shape, -1, np.int16)
    for depth, below, distances in hypernyms:
        first, last = np.searchsorted(below, (start, start + num_rows))
        cells = np.ix_(below[first:last] - start, below)
        # Like wn: the added root counts as deep as a root.
        twice = 2 * max(depth, 1)
        values = twice / (distances[first:last, np.newaxis] + distances + twice)
        equal = depths[cells] == depth
        similarities[cells] = np.maximum(values, equal * similarities[cells])
        depths[cells] = depth
    return similarities
