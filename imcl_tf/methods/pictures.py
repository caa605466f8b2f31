"""The learned similarities (figure 1, right), kept and drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.kept import read_arrays
from imcl_tf.files import replacing
from imcl_tf.methods.batches import Batch, TrainingData
from imcl_tf.methods.epochs import steps_taken

START, END = "start.npz", "end.npz"
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


class Snapshot(NamedTuple):
    """The similarities at one moment of training.

    Attributes:
      edges: [E, 2] int32, the label graph's (j, j').
      edge_weights: [E] float32, a_{j', j}.
      image_index: [b] int32, numbers of some training images; [0] where these
        have none.
      neighbors: [b, k] int32, numbers of their similar images, -1 = none.
      label_weights: [b, k] float32, c.
      feature_weights: [b, k] float32, c-bar.
    """

    edges: np.ndarray
    edge_weights: np.ndarray
    image_index: np.ndarray
    neighbors: np.ndarray
    label_weights: np.ndarray
    feature_weights: np.ndarray


def save_snapshot(snapshot: Snapshot, path: Path):
    """Writes a snapshot, for `load_snapshot`."""
    with replacing(path) as new, new.open("wb") as file:
        np.savez_compressed(file, **snapshot._asdict())


def load_snapshot(path: Path) -> Snapshot:
    """Reads what `save_snapshot` wrote.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged.
    """
    return Snapshot(**read_arrays(path, *Snapshot._fields))


def similarities(
    snapshot: Snapshot, thumbnails: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Draws some images, each followed by its similar images.

    Args:
      snapshot: of b images with k similar images each; the bar below one is as
        long as its weight c.
      thumbnails: image numbers [n], distinct -> [n, S, S, 3] uint8.

    Returns:
      [rows * (S + 6), (k + 1) * S, 3] uint8, at most 8 rows.
    """
    rows = np.arange(min(len(snapshot.image_index), _MAXIMUM_IMAGES))
    own = snapshot.image_index[rows][:, np.newaxis]
    cells = np.concatenate([own, snapshot.neighbors[rows]], 1)
    lengths = np.concatenate(
        [np.zeros((len(rows), 1)), snapshot.label_weights[rows]], 1
    )
    lengths /= max(lengths.max(initial=0), 1e-12)
    numbers, place = np.unique(cells, return_inverse=True)
    is_image = numbers >= 0
    drawn = thumbnails(numbers[is_image])
    tiles = np.full((len(numbers), *drawn.shape[1:]), 255, np.uint8)
    tiles[is_image] = drawn
    images = tiles[place.reshape(cells.shape)]
    size = images.shape[2]
    filled = np.arange(size) < lengths[:, :, np.newaxis] * size
    bars = np.where(filled[..., np.newaxis], (31, 119, 180), (255, 255, 255))
    bars = np.repeat(bars[:, :, np.newaxis], _BAR, 2).astype(np.uint8)
    tiles = np.concatenate([images, bars], 2)
    height = len(rows) * (size + _BAR)
    return tiles.swapaxes(1, 2).reshape(height, -1, 3)


class Pictures(keras.callbacks.Callback):
    """Keeps and draws A and image similarities, as figure 1 (right) does.

    DIR/similarities gets TensorBoard's images and, as snapshots, `start.npz`
    and `end.npz`.

    Args:
      data: training data; image similarities are kept where these number their
        images, and drawn where they are pictures.
      log_dir: TensorBoard's directory, DIR.
    """

    def __init__(self, data: TrainingData, log_dir: str | Path):
        super().__init__()
        self._data = data
        self._place = Path(log_dir) / "similarities"
        self._writer = tf.summary.create_file_writer(str(self._place))
        self._batch = None
        if data.numbered:
            self._batch = Batch.unpack(next(iter(data.one_pass().take(1))))

    def on_train_begin(self, logs: dict | None = None):
        start = self._place / START
        # That of a run that is resumed stays.
        if not (steps_taken(self.model) and start.exists()):
            self._write(0, start)

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        self._write_graph(epoch + 1)

    def on_train_end(self, logs: dict | None = None):
        self._write(self.params["epochs"], self._place / END)
        self._writer.close()

    def _write_graph(self, step):
        picture = label_graph(self.model.label_graph.to_scipy())
        with self._writer.as_default(step):
            tf.summary.image("label_graph", picture[np.newaxis])

    def _write(self, step, path):
        self._write_graph(step)
        edges = strongest_edges(
            self.model.label_graph.to_scipy(), self._data.label_names
        )
        with self._writer.as_default(step):
            tf.summary.text("label_graph/strongest_edges", edges)
        snapshot = self._snapshot()
        save_snapshot(snapshot, path)
        if not (self._data.has_pictures and len(snapshot.image_index)):
            return
        montage = similarities(snapshot, self._data.thumbnails)
        with self._writer.as_default(step):
            tf.summary.image("similarities", montage[np.newaxis])

    def _snapshot(self) -> Snapshot:
        model, batch = self.model, self._batch
        graph = model.label_graph
        edges = graph.edges.numpy(), graph.edge_weights.numpy()
        if batch is None:
            none = np.zeros((0, 0), np.float32)
            empty = np.zeros(0, np.int32), np.zeros((0, 0), np.int32)
            return Snapshot(*edges, *empty, none, none)
        # For any size of minibatch, as in training: the solver is traced once.
        solve = model.similar_step.get_concrete_function(batch.spec())
        found = solve(batch)
        own = numbers = batch.image_index.numpy()
        if model.dictionary is not None:
            numbers = np.append(numbers, model.dictionary.image_index.numpy())
        chosen = found.indices.numpy()
        return Snapshot(
            *edges,
            own,
            np.where(chosen < 0, -1, numbers[chosen]).astype(np.int32),
            found.label_weights.numpy(),
            found.feature_weights.numpy(),
        )
