"""Pictures of the learned similarities, as NumPy images (figure 1, right)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse

_MOST_LABELS = 128
_MOST_IMAGES = 8
_BAR = 6


def label_graph(graph: scipy.sparse.csr_array) -> np.ndarray:
    """Draws A as a heat map: row j, column j', blue > 0, red < 0.

    Args:
      graph: [C, C]; the labels with the most edge weight are drawn, at most
        128.

    Returns:
      [S, S, 3] uint8 with S <= 512.
    """
    strength = abs(graph).sum(1) + abs(graph).sum(0)
    shown = np.sort(np.argsort(-strength, kind="stable")[:_MOST_LABELS])
    values = graph[shown][:, shown].toarray()
    values /= max(np.abs(values).max(initial=0), 1e-12)
    colours = np.ones((*values.shape, 3))
    colours[..., 0] -= np.maximum(values, 0)
    colours[..., 1] -= np.abs(values) * 0.7
    colours[..., 2] -= np.maximum(-values, 0)
    scale = max(1, 512 // len(shown))
    return np.kron(colours * 255, np.ones((scale, scale, 1))).astype(np.uint8)


def strongest_edges(
    graph: scipy.sparse.csr_array, names: tuple[str, ...], most: int = 30
) -> str:
    """Lists the largest weights between different labels, as Markdown.

    Args:
      graph: [C, C].
      names: C label names.
      most: rows.

    Returns:
      a table "label | is told by | weight".
    """
    edges = graph.tocoo()
    between = np.flatnonzero(edges.row != edges.col)
    strength = np.abs(edges.data[between])
    order = between[np.argsort(-strength, kind="stable")][:most]
    names = [name.replace("|", "\\|") for name in names]
    rows = [
        f"| {names[edges.row[e]]} | {names[edges.col[e]]} "
        f"| {edges.data[e]:.3f} |"
        for e in order
    ]
    return "\n".join(
        ["| label | is told by | weight |", "|---|---|---|", *rows]
    )


def similarities(
    indices: np.ndarray,
    weights: np.ndarray,
    image_index: np.ndarray,
    thumbnails: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Draws some images, each followed by its similar images.

    Args:
      indices: [B, k] int, candidates of each image, -1 = none.
      weights: [B, k] float, c; the bar below a neighbour is as long.
      image_index: [M] int, image number of each candidate, the B images of the
        minibatch first.
      thumbnails: image numbers [n], distinct -> [n, S, S, 3] uint8.

    Returns:
      [rows * (S + 6), (k + 1) * S, 3] uint8, at most 8 rows.
    """
    rows = np.arange(min(len(indices), _MOST_IMAGES))
    cells = np.concatenate([rows[:, np.newaxis], indices[rows]], 1)
    lengths = np.concatenate([np.zeros((len(rows), 1)), weights[rows]], 1)
    lengths /= max(lengths.max(initial=0), 1e-12)
    numbers, place = np.unique(image_index[cells], return_inverse=True)
    images = thumbnails(numbers)[place.reshape(cells.shape)]
    images[cells < 0] = 255
    size = images.shape[2]
    filled = np.arange(size) < lengths[:, :, np.newaxis] * size
    bars = np.where(filled[..., np.newaxis], (31, 119, 180), (255, 255, 255))
    bars = np.repeat(bars[:, :, np.newaxis], _BAR, 2).astype(np.uint8)
    tiles = np.concatenate([images, bars], 2)
    height = len(rows) * (size + _BAR)
    return tiles.swapaxes(1, 2).reshape(height, -1, 3)
