"""Fast0Tag: an image is a direction along which its labels rank first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch, TrainingData
from imcl_tf.methods.wsabie import truncated_svd
from imcl_tf.settings import METHOD_OPTIONS

_WORD = re.compile(r"[^\W_]+")
_DIMENSION = 300
# Scores beyond any other, of pairs that do not count: exp(-2e9) = 0.
_FAR = 1e9
# Positives of an image whose pairs are in memory at a time.
_BLOCK = 16


@tf.custom_gradient
def _sum_over_pairs(positives, negatives):
    """sum_{u, v} log(1 + exp(s_v - s_u)) of [B, P] and [B, N], [B]."""

    def differences():
        return negatives[:, tf.newaxis] - positives[:, :, tf.newaxis]

    def gradient(upstream):
        # Found anew: stored, the pairs of all blocks would fill the memory.
        slopes = tf.sigmoid(differences()) * upstream[:, tf.newaxis, tf.newaxis]
        return -tf.reduce_sum(slopes, 2), tf.reduce_sum(slopes, 1)

    return tf.reduce_sum(tf.nn.softplus(differences()), [1, 2]), gradient


def rank_net(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Mean over u in P, v in N of log(1 + exp(s_v - s_u)) of each image.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}; P is where +1, N where -1.
      scores: [B, C] float32, s.

    Returns:
      [B] float32 >= 0, 0 for an image without an observed pair.
    """

    def padded(where, filler):
        return tf.ragged.boolean_mask(scores, where).to_tensor(filler)

    positives, negatives = padded(labels > 0, _FAR), padded(labels < 0, -_FAR)
    size, longest = tf.unstack(tf.shape(positives))
    # At least one: map_fn cannot tell the shape of the sum of no block.
    number = tf.maximum(-(-longest // _BLOCK), 1)
    positives = tf.pad(
        positives,
        [[0, 0], [0, number * _BLOCK - longest]],
        constant_values=_FAR,
    )
    blocks = tf.reshape(positives, [size, number, _BLOCK])
    sums = tf.map_fn(
        lambda block: _sum_over_pairs(block, negatives),
        tf.transpose(blocks, [1, 0, 2]),
    )
    pairs = tf.math.count_nonzero(
        labels > 0, 1, dtype=tf.float32
    ) * tf.math.count_nonzero(labels < 0, 1, dtype=tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(sums, 0), pairs)


def cooccurrence_vectors(
    labels: scipy.sparse.csr_array, dimension: int
) -> np.ndarray:
    """Label vectors from labels that are observed positive together.

    With n(j, j') the number of images where both are, n(j, j) included, and M
    the matrix of max(0, log(n(j, j') n / (n(j) n(j')))), n(j) and n sums over
    n(j, j'), the vectors are U sqrt(S) of its singular value decomposition
    (Levy, Goldberg, "Neural Word Embedding as Implicit Matrix Factorization",
    NIPS 2014).

    Args:
      labels: [N, C] int8 csr_array in {-1, 0, +1}.
      dimension: D.

    Returns:
      [C, D] float32; columns beyond C are 0, and so is the vector of a label
      without positives.
    """
    positives = (labels > 0).astype(np.int32)
    counts = (positives.T @ positives).tocoo()
    totals = counts.sum(0).astype(float)
    row, column = counts.coords
    information = np.log(
        counts.data * totals.sum() / (totals[row] * totals[column])
    )
    matrix = scipy.sparse.csr_array(
        (np.maximum(information, 0).astype(np.float32), (row, column)),
        shape=counts.shape,
    )
    rank = min(dimension, len(totals))
    left, values, _ = truncated_svd(matrix, rank)
    return np.pad(left * np.sqrt(values), [(0, 0), (0, dimension - rank)])


def file_dimension(path: str | Path) -> int:
    """Returns D of a file of word vectors, see `read_label_vectors`.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if its first line is none of such a file.
    """
    with _open(path) as file:
        fields = file.readline().split()
    if len(fields) == 2 and all(field.isdecimal() for field in fields):
        return int(fields[1])  # word2vec: number of words, dimension
    if len(fields) < 3:
        raise ValueError(f"{path}: expected lines of a word and its vector")
    return len(fields) - 1


def read_label_vectors(
    path: str | Path, label_names: Sequence[str]
) -> np.ndarray:
    """Reads label vectors from a text file of GloVe or word2vec.

    A line is a word and D numbers, apart by spaces; word2vec writes a line
    `words D` ahead. A label's vector is the mean of those of its words that
    have one. Case does not matter; of equal words the first counts.

    Args:
      path: of the file, UTF-8.
      label_names: C names; words are runs of letters and digits.

    Returns:
      [C, D] float32.

    Raises:
      OSError: if the file cannot be read.
      ValueError: for a broken line, or naming labels without any vector.
    """
    dimension = file_dimension(path)
    words_of = [_WORD.findall(name.casefold()) for name in label_names]
    wanted = {word for words in words_of for word in words}
    vectors = {}
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            word = line.partition(" ")[0].casefold()
            if word not in wanted or word in vectors:
                continue
            values = line.rstrip().split(" ")[1:]
            # GloVe has words with spaces; word2vec's first line has a 1.
            if len(values) > dimension or (number == 1 and len(values) == 1):
                continue
            vectors[word] = _vector(values, dimension, f"{path}: line {number}")
    found = [
        [vectors[word] for word in words if word in vectors]
        for words in words_of
    ]
    missing = [
        name for name, of_label in zip(label_names, found, strict=True)
        if not of_label
    ]  # fmt: skip
    if missing:
        raise ValueError(
            f"{path}: no vector for {len(missing)} of {len(found)} labels, "
            f"such as {', '.join(missing[:3])}"
        )
    return np.array([np.mean(of_label, 0) for of_label in found], np.float32)


def _open(path):
    # Words may hold other line ends, and bytes that are not UTF-8.
    return open(path, encoding="utf-8", errors="replace", newline="\n")


def _vector(values, dimension, where):
    try:
        vector = np.array(values, np.float32)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if len(vector) != dimension or not np.isfinite(vector).all():
        raise ValueError(f"{where}: expected {dimension} finite numbers")
    return vector


@register_method("fast0tag")
class Fast0Tag(MultiLabelModel):
    """Labels ranked by their vectors along a direction found from the image.

    Zhang, Gong, Shah, "Fast Zero-Shot Image Tagging", CVPR 2016, sec. 4.2: the
    RankNet loss with weights 1 / (|P| |N|), averaged over images. What differs:
    pairs are of observed labels; the net is smaller, one hidden layer beside a
    linear map; f may be trained too; label vectors are scaled to length 1, and
    need no text: see `cooccurrence_vectors`.

    The linear map starts as the least squares fit of the logistic model's
    scores by label vectors, the hidden layer without effect: scores start as
    those of the logistic model, projected on what the vectors can tell apart.
    `start_from` needs the vectors, so `prepare` comes first.

    The vectors are the kernel [D, C] of `classifier`, which is not trained.
    Only `prepare` reads their file; a model with a `fast0tag_dimension`, as a
    saved one has, is made without it.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["fast0tag"]
    fast0tag_dimension: int

    def __init__(
        self, backbone: keras.layers.Layer | None, num_labels: int, **kwargs
    ):
        super().__init__(backbone, num_labels, **kwargs)
        if not self.fast0tag_dimension:
            self.fast0tag_dimension = (
                file_dimension(self.label_vectors)
                if self.label_vectors
                else _DIMENSION
            )
        self.linear = _dense(self.fast0tag_dimension, "linear")
        self.hidden = _dense(self.fast0tag_hidden, "hidden", activation="relu")
        self.beside = _dense(
            self.fast0tag_dimension, "beside",
            use_bias=False, kernel_initializer="zeros",
        )  # fmt: skip
        self.classifier.use_bias = False
        self.classifier.trainable = False
        self.has_vectors = self.add_weight(
            shape=(),
            initializer="zeros",
            name="has_vectors",
            dtype="int32",
            trainable=False,
        )

    def build_head(self, feature_shape: tuple):
        shape = feature_shape[:-1]
        self.linear.build(feature_shape)
        self.hidden.build(feature_shape)
        self.beside.build((*shape, self.fast0tag_hidden))
        super().build_head((*shape, self.fast0tag_dimension))

    def scores(self, features: tf.Tensor) -> tf.Tensor:
        directions = self.linear(features) + self.beside(self.hidden(features))
        return super().scores(directions)

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        loss = rank_net(batch.labels, self.scores(features))
        return {"loss": tf.reduce_mean(loss)}

    def prepare(self, data: TrainingData):
        """Sets the label vectors, unless the model was saved with them.

        Raises:
          OSError: if their file cannot be read.
          ValueError: if it is broken, lacks a label, or has another dimension.
        """
        super().prepare(data)
        if self.has_vectors.numpy():
            return
        if self.label_vectors:
            vectors = read_label_vectors(self.label_vectors, data.label_names)
        else:
            vectors = cooccurrence_vectors(data.labels, self.fast0tag_dimension)
        if vectors.shape[1] != self.fast0tag_dimension:
            raise ValueError(
                f"fast0tag_dimension is {self.fast0tag_dimension}, but "
                f"{self.label_vectors} has vectors of {vectors.shape[1]}"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # What rounding leaves of a vector that is 0 stays next to 0.
        if not self.classifier.built:
            self.classifier.build((None, self.fast0tag_dimension))
        self.classifier.set_weights([(vectors / np.maximum(lengths, 1e-4)).T])
        self.has_vectors.assign(1)

    def start_from(self, logistic: MultiLabelModel):
        kernel, bias = logistic.classifier.get_weights()
        (vectors,) = self.classifier.get_weights()
        inverse = np.linalg.pinv(vectors, rcond=1e-5)
        self.linear.set_weights([kernel @ inverse, bias @ inverse])


def _dense(units, name, **kwargs):
    return keras.layers.Dense(units, name=name, dtype="float32", **kwargs)
