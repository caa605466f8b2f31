"""The label graph A: fixed sparse support, learned weights (paper, sec. 3.1).

(A y)_j = sum over j' in Q_j of a_{j',j} y_{j'}. Only the E edges are stored:
no array of C x C exists here, neither for the weights nor for their gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.kept import read_arrays
from imcl_tf.files import replacing
from imcl_tf.ops.labels import check_labels

_ARRAYS = "edges", "weights", "labels"  # of a file


class Source(NamedTuple):
    """Where a label graph comes from.

    Attributes:
      kind: how it was made: "cooccurrence", "learned", "identity", "wikipedia",
        "wikipedia_wordnet" or another word; "" = not known.
      labels_digest: `imcl_tf.data.records.labels_digest` of the labels that it
        was made from, "" = of none.
    """

    kind: str = ""
    labels_digest: str = ""

    def may_know_others(self, labels_digest: str) -> bool:
        """Whether the graph may come from other labels than these."""
        if not self.kind:
            return True
        return self.labels_digest not in ("", labels_digest)


@keras.saving.register_keras_serializable("imcl_tf")
class LabelGraph(keras.layers.Layer):
    """A as a Keras layer, [B, C] -> [B, C], with one weight per edge.

    Build one with `identity`, `from_cooccurrence`, `from_similarities` or
    `from_neighbors`, or `load` one; the constructor makes a graph of
    `num_edges` self-loops of label 0 for `load_weights` to fill.

    Args:
      num_labels: C.
      num_edges: E, number of (label, neighbour) pairs.
      **kwargs: of `keras.layers.Layer`; `trainable=False` freezes A.

    Attributes:
      weights of the layer: `edge_weights` [E] float32, trainable; `edges`
      [E, 2] int32, rows (j, j'), sorted.

    Raises:
      ValueError: if `num_labels` is not positive.

    Example:
      >>> import imcl_tf
      >>> graph = imcl_tf.LabelGraph.from_cooccurrence(
      ...     [[1, 1, -1], [1, 0, 1]], num_neighbors=2)
      >>> graph.to_scipy().shape
      (3, 3)
    """

    def __init__(self, num_labels: int, num_edges: int, **kwargs):
        super().__init__(**kwargs)
        self.num_labels, self.num_edges = int(num_labels), int(num_edges)
        if self.num_labels < 1:
            raise ValueError(f"num_labels must be >= 1, got {num_labels}")
        self.edge_weights = self.add_weight(
            shape=(self.num_edges,),
            initializer="zeros",
            name="edge_weights",
            dtype="float32",
            autocast=False,
        )
        self.edges = self.add_weight(
            shape=(self.num_edges, 2),
            initializer="zeros",
            name="edges",
            dtype="int32",
            trainable=False,
        )
        self.built = True

    @classmethod
    def identity(cls, num_labels: int) -> LabelGraph:
        """A = I, each label its only neighbour (the paper's choice for CUB)."""
        return cls.from_neighbors(
            np.arange(num_labels)[:, np.newaxis], np.ones((num_labels, 1))
        )

    @classmethod
    def from_cooccurrence(
        cls,
        labels: np.ndarray | scipy.sparse.csr_array,
        num_neighbors: int = 50,
        self_weight: float = 0.0,
    ) -> LabelGraph:
        """Connects each label to those it is most often observed with.

        With n(j, j') the number of images where both are observed positive,
        label j keeps its `num_neighbors` largest n(j, j') > 0, itself always
        included; weights start as n(j, j') / n(j, j), so that the self-weight
        is 1, then each label's incoming weights are divided by their sum.

        Args:
          labels: [N, C] in {-1, 0, +1}, dense or scipy.sparse.
          num_neighbors: k_a >= 1.
          self_weight: see `with_self_weight`; 0 leaves the weights as they
            are (released).

        Returns:
          A `LabelGraph`; a label without positives keeps itself alone.

        Raises:
          ValueError: if labels or `num_neighbors` are out of range.
        """
        labels = scipy.sparse.csr_array(check_labels(labels))
        # int32 holds any count of images and halves the product's time.
        positives = (labels > 0).astype(np.int32)
        counts = scipy.sparse.csr_array(positives.T @ positives)
        # At least 1: a label without positives has no counts to divide.
        own = np.maximum(counts.diagonal(), 1)
        rates = counts.data / np.repeat(own, np.diff(counts.indptr))
        graph = cls.from_similarities(
            scipy.sparse.csr_array(
                (rates, counts.indices, counts.indptr), shape=counts.shape
            ),
            num_neighbors,
        )
        return graph.with_self_weight(self_weight) if self_weight else graph

    def with_self_weight(self, weight: float) -> LabelGraph:
        """The same graph with another share of each label itself.

        Incoming weights that sum to one leave a label with many neighbours
        little weight of its own, and smear y over what occurs with it.

        Args:
          weight: in (0, 1], a_jj; the other weights into j are scaled to the
            sum 1 - weight. A label that is its only neighbour keeps 1.

        Returns:
          A `LabelGraph`.

        Raises:
          ValueError: if `weight` is out of range.
        """
        if not 0 < weight <= 1:
            raise ValueError(f"self_weight must be in (0, 1], got {weight}")
        rows, columns = self.edges.numpy().T
        weights = self.edge_weights.numpy().astype(np.float64)
        own = rows == columns
        others = np.bincount(rows[~own], weights[~own], self.num_labels)[rows]
        scaled = np.divide(
            (1 - weight) * weights, others, out=np.zeros_like(weights),
            where=others > 0,
        )  # fmt: skip
        scaled[own] = np.where(others[own] > 0, weight, 1.0)
        return self._from_edges(self.num_labels, rows, columns, scaled)

    @classmethod
    def from_similarities(
        cls, similarities: scipy.sparse.csr_array, num_neighbors: int = 50
    ) -> LabelGraph:
        """Connects each label to those it is most similar to.

        Label j keeps its `num_neighbors` largest similarities > 0, itself
        always included, ties by label number; its self-weight is 1, then its
        incoming weights are divided by their sum.

        Args:
          similarities: [C, C] scipy.sparse, >= 0, row j = similarities of j to
            other labels; the diagonal counts as 1.
          num_neighbors: k_a >= 1.

        Returns:
          A `LabelGraph`; a label similar to none keeps itself alone.

        Raises:
          ValueError: if a similarity or `num_neighbors` is out of range.
        """
        if num_neighbors < 1:
            raise ValueError(f"num_neighbors must be >= 1, got {num_neighbors}")
        similarities = scipy.sparse.csr_array(similarities, copy=True)
        if similarities.shape[0] != similarities.shape[1]:
            raise ValueError(
                f"similarities must have shape [C, C], got {similarities.shape}"
            )
        similarities.sum_duplicates()
        values = similarities.data
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError("similarities must be finite and >= 0")
        columns, weights = [], []
        bounds = itertools.pairwise(similarities.indptr)
        for j, (start, end) in enumerate(bounds):
            neighbor = similarities.indices[start:end]
            value = np.where(neighbor == j, 0, values[start:end])
            best = np.argsort(-value, kind="stable")[: num_neighbors - 1]
            best = best[value[best] > 0]
            columns.append([j, *neighbor[best]])
            row = np.array([1.0, *value[best]])
            weights.append(row / row.sum())
        rows = np.repeat(np.arange(len(columns)), [len(c) for c in columns])
        return cls._from_edges(
            len(columns), rows, np.concatenate(columns), np.concatenate(weights)
        )

    @classmethod
    def from_neighbors(
        cls, indices: np.ndarray, weights: np.ndarray
    ) -> LabelGraph:
        """A graph with given support and weights.

        Args:
          indices: [C, k_a] int, the labels j' in Q_j; -1 = no neighbour.
          weights: [C, k_a] float, a_{j',j}.

        Returns:
          A `LabelGraph` of C labels.

        Raises:
          ValueError: if shapes differ, an index is no integer in [-1, C), a
            label names a neighbour twice, or a weight is not finite.
        """
        indices, weights = np.asarray(indices), np.asarray(weights)
        if indices.ndim != 2 or indices.shape != weights.shape:
            raise ValueError(
                "indices and weights must both have shape [C, k_a], got "
                f"{indices.shape} and {weights.shape}"
            )
        if not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(
                f"neighbours must be integers, got {indices.dtype}"
            )
        num_labels = len(indices)
        if not ((indices >= -1) & (indices < num_labels)).all():
            raise ValueError(f"neighbours must lie in [-1, {num_labels})")
        used = indices >= 0
        if not np.isfinite(weights[used]).all():
            raise ValueError("label graph weights must be finite")
        rows = np.broadcast_to(np.arange(num_labels)[:, np.newaxis], used.shape)
        return cls._from_edges(
            num_labels, rows[used], indices[used], weights[used]
        )

    @classmethod
    def _from_edges(cls, num_labels, rows, columns, weights) -> LabelGraph:
        # The product needs them sorted.
        order = np.lexsort((columns, rows))
        edges = np.stack([rows, columns], 1)[order]
        if (edges[1:] == edges[:-1]).all(1).any():
            raise ValueError("a label may name a neighbour only once")
        graph = cls(num_labels, len(edges))
        graph.edges.assign(edges)
        graph.edge_weights.assign(weights[order])
        return graph

    def call(self, label_targets: tf.Tensor) -> tf.Tensor:
        """Returns A y.

        Args:
          label_targets: [B, C], y; computed in float32.

        Returns:
          [B, C] float32, differentiable in y and in the edge weights.

        Raises:
          ValueError: if `label_targets` have another number of columns.
        """
        label_targets = tf.cast(label_targets, tf.float32)
        if label_targets.shape[-1] not in (None, self.num_labels):
            raise ValueError(
                f"label_targets must be [B, {self.num_labels}], got "
                f"{label_targets.shape}"
            )
        product = _product(
            tf.convert_to_tensor(self.edge_weights),
            tf.transpose(label_targets),
            tf.cast(self.edges.value, tf.int64),
        )
        return tf.ensure_shape(tf.transpose(product), label_targets.shape)

    def propagate(self, labels: tf.Tensor, dense: bool = False) -> tf.Tensor:
        """Returns A y [n, C] of y [n, C], without a gradient.

        For exported models: a SavedModel does not hold that of a call.

        Args:
          labels: [n, C] float32, y.
          dense: by A as a matrix [C, C], for converters of models, which know
            no sparse product.
        """
        if dense:
            shape = [self.num_labels, self.num_labels]
            a = tf.scatter_nd(
                self.edges.value, tf.convert_to_tensor(self.edge_weights), shape
            )
            return tf.matmul(labels, a, transpose_b=True)
        return tf.transpose(
            _multiply(
                _compressed(
                    tf.convert_to_tensor(self.edge_weights),
                    tf.cast(self.edges.value, tf.int64),
                    tf.constant(self.num_labels, tf.int64),
                ),
                tf.transpose(labels),
            )
        )

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def to_scipy(self) -> scipy.sparse.csr_array:
        """Returns A as [C, C] float32 csr_array, row j = weights into j."""
        rows, columns = self.edges.numpy().T
        return scipy.sparse.csr_array(
            (self.edge_weights.numpy(), (rows, columns)),
            shape=(self.num_labels, self.num_labels),
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "num_edges": self.num_edges,
        }


@tf.custom_gradient
def _product(weights, y, edges):
    """A y, [C, B] of y [C, B], edge weights [E] and edges [E, 2] int64, sorted.

    Compressed rows: on a CPU several times as fast as
    `tf.sparse.sparse_dense_matmul` and its gradients.
    """
    a = _compressed(weights, edges, tf.shape(y, tf.int64)[0])

    def gradient(upstream):
        # Not transpose_a, which adds up parts in the order in which threads
        # finish: a run would not be the same twice.
        transposed = tf.raw_ops.SparseMatrixTranspose(input=a, type=tf.float32)
        of_y = _multiply(transposed, upstream)
        return _at_edges(upstream, y, edges), of_y, None

    return _multiply(a, y), gradient


def _compressed(weights, edges, size):
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=edges, values=weights, dense_shape=tf.stack([size, size])
    )


def _multiply(a, x):
    # Not an empty one, of a device that got no image: oneDNN refuses it.
    number = tf.shape(x)[1]
    x = tf.pad(x, [[0, 0], [0, tf.cast(number == 0, tf.int32)]])
    return tf.raw_ops.SparseMatrixMatMul(a=a, b=x)[:, :number]


# XLA makes one loop of it: no [E, B] is written and read again.
@tf.function(autograph=False, jit_compile=True)
def _at_edges(upstream, y, edges):
    """Entries (j, j') of upstream y^T, [E]."""
    rows, columns = tf.unstack(edges, axis=1)
    return tf.reduce_sum(tf.gather(upstream, rows) * tf.gather(y, columns), 1)


def save(
    path: str | Path,
    graph: LabelGraph,
    label_names: Sequence[str],
    source: Source = Source(),  # noqa: B008 (immutable)
):
    """Writes a graph to one small file that names its labels.

    Args:
      path: .npz to write: `edges` [E, 2] int32, `weights` [E] float32,
        `labels` [C] strings, `source` and `labels_digest` strings.
      graph: of C labels.
      label_names: C names.
      source: where it comes from.

    Raises:
      ValueError: if the number of names is not C.
    """
    if len(label_names) != graph.num_labels:
        raise ValueError(
            f"{path}: {len(label_names)} names for {graph.num_labels} labels"
        )
    with replacing(Path(path)) as new, new.open("wb") as file:
        np.savez_compressed(
            file,
            edges=graph.edges.numpy(),
            weights=graph.edge_weights.numpy(),
            labels=np.array(label_names, str),
            source=np.array(source.kind, str),
            labels_digest=np.array(source.labels_digest, str),
        )


def load(path: str | Path, label_names: Sequence[str]) -> LabelGraph:
    """Reads a graph of `save` that was made for these very labels.

    Args:
      path: .npz of `save`.
      label_names: C names of the data set, in its order.

    Returns:
      The `LabelGraph`.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is not a label graph, or one of other labels.
    """
    graph, names = load_named(path)
    pairs = itertools.zip_longest(names, label_names)
    for number, (name, expected) in enumerate(pairs):
        if name != expected:
            raise ValueError(
                f"{path}: a graph of {len(names)} labels, the data set has "
                f"{len(label_names)}; label {number} is {name!r}, in the data "
                f"set {expected!r}"
            )
    return graph


def load_named(path: str | Path) -> tuple[LabelGraph, tuple[str, ...]]:
    """Reads a graph of `save`: (the graph, names of its C labels).

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is not a label graph.
    """
    try:
        found = read_arrays(Path(path), *_ARRAYS)
        edges, weights, names = (found[name] for name in _ARRAYS)
        if names.dtype.kind != "U" or names.ndim != 1:
            raise ValueError("labels must be a list of names")
        rows, columns = edges.astype(np.int32, casting="same_kind").T
        # SciPy checks lengths and bounds.
        scipy.sparse.coo_array((weights, (rows, columns)), [len(names)] * 2)
        if not np.isfinite(weights).all():
            raise ValueError("weights must be finite")
        graph = LabelGraph._from_edges(len(names), rows, columns, weights)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a label graph: {reason}") from error
    return graph, tuple(names.tolist())


def load_source(path: str | Path) -> Source:
    """Reads where a graph of `save` comes from.

    Returns:
      `Source`; one that is not known for a file that does not say it.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is not such a file.
    """
    try:
        found = read_arrays(Path(path))
        if "source" not in found:
            return Source()
        texts = found["source"], found.get("labels_digest", np.array(""))
        if any(x.dtype.kind != "U" or x.ndim for x in texts):
            raise ValueError("source and labels_digest must be texts")
    except ValueError as error:
        raise ValueError(f"{path}: not a label graph: {error}") from error
    return Source(*map(str, texts))
