"""Pictures of the learned similarities (figure 1, right), for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.methods.batches import Batch, TrainingData

_MAXIMUM_LABELS = 128
_MAXIMUM_IMAGES = 8
_BAR = 6
_SIDE = 64  # pixels of a thumbnail


def label_graph(graph: scipy.sparse.csr_array) -> np.ndarray:
    """Draws A as a heat map: row j, column j', blue > 0, red < 0.

    Args:
      graph: [C, C]; the labels with the most edge weight are drawn, at most
        128.

    Returns:
      [S, S, 3] uint8 with S <= 512.
    """
    strength = abs(graph).sum(1) + abs(graph).sum(0)
    shown = np.sort(np.argsort(-strength, kind="stable")[:_MAXIMUM_LABELS])
    values = graph[shown][:, shown].toarray()
    values /= max(np.abs(values).max(initial=0), 1e-12)
    colours = np.ones((*values.shape, 3))
    colours[..., 0] -= np.maximum(values, 0)
    colours[..., 1] -= np.abs(values) * 0.7
    colours[..., 2] -= np.maximum(-values, 0)
    scale = max(1, 512 // len(shown))
    return np.kron(colours * 255, np.ones((scale, scale, 1))).astype(np.uint8)


def strongest_edges(
    graph: scipy.sparse.csr_array, names: tuple[str, ...], maximum: int = 30
) -> str:
    """Lists the largest weights between different labels, as Markdown.

    Args:
      graph: [C, C].
      names: C label names.
      maximum: number of rows.

    Returns:
      a table "label | follows from | weight".
    """
    edges = graph.tocoo()
    between = np.flatnonzero(edges.row != edges.col)
    strength = np.abs(edges.data[between])
    order = between[np.argsort(-strength, kind="stable")][:maximum]
    shown = [name.replace("|", "\\|") for name in names]
    rows = [
        f"| {shown[edges.row[e]]} | {shown[edges.col[e]]} "
        f"| {edges.data[e]:.3f} |"
        for e in order
    ]
    return "\n".join(
        ["| label | follows from | weight |", "|---|---|---|", *rows]
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
    rows = np.arange(min(len(indices), _MAXIMUM_IMAGES))
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


class Pictures(keras.callbacks.Callback):
    """TensorBoard images as figure 1 (right): A and image similarities.

    Args:
      data: training data; image similarities are drawn where these are
        numbered pictures.
      log_dir: TensorBoard's directory; the images go to `similarities` there.
    """

    def __init__(self, data: TrainingData, log_dir: str | Path):
        super().__init__()
        self._data = data
        self._writer = tf.summary.create_file_writer(
            str(Path(log_dir) / "similarities")
        )
        self._batch = None
        if data.has_pictures:
            self._batch = Batch.unpack(next(iter(data.one_pass().take(1))))

    def on_train_begin(self, logs: dict | None = None):
        self._write(0)

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        self._write_graph(epoch + 1)

    def on_train_end(self, logs: dict | None = None):
        self._write(self.params["epochs"])
        self._writer.close()

    def _write_graph(self, step):
        picture = label_graph(self.model.label_graph.to_scipy())
        with self._writer.as_default(step):
            tf.summary.image("label_graph", picture[np.newaxis])

    def _write(self, step):
        model = self.model
        self._write_graph(step)
        edges = strongest_edges(
            model.label_graph.to_scipy(), self._data.label_names
        )
        with self._writer.as_default(step):
            tf.summary.text("label_graph/strongest_edges", edges)
        if self._batch is None:
            return
        # For any size of minibatch, as in training: the solver is traced once.
        solve = model.similar_step.get_concrete_function(self._batch.spec())
        found = solve(self._batch)
        numbers = self._batch.image_index.numpy()
        if model.dictionary is not None:
            numbers = np.append(numbers, model.dictionary.image_index.numpy())
        montage = similarities(
            found.indices.numpy(),
            found.label_weights.numpy(),
            numbers,
            self._data.thumbnails,
        )
        with self._writer.as_default(step):
            tf.summary.image("similarities", montage[np.newaxis])
