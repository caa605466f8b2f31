"""WSABIE: images and labels in one low-dimensional space, WARP loss."""

from __future__ import annotations

from typing import NamedTuple, cast

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch
from imcl_tf.settings import METHOD_OPTIONS

_SEED = 2011


def truncated_svd(
    matrix: np.ndarray | scipy.sparse.csr_array, rank: int
) -> tuple:
    """The largest singular values of a matrix, always the same ones.

    Args:
      matrix: [m, n] float, dense or scipy.sparse.
      rank: r in [1, min(m, n)].

    Returns:
      U [m, r], values [r], V^T [r, n].
    """
    rows, columns = matrix.shape
    if not (matrix != 0).sum():  # svds raises for a matrix of zeros
        shapes = (rows, rank), rank, (rank, columns)
        return tuple(np.zeros(shape, matrix.dtype) for shape in shapes)
    if rank < min(matrix.shape):
        start = np.random.default_rng(0).normal(size=min(matrix.shape))
        return scipy.sparse.linalg.svds(
            matrix, rank, v0=start.astype(matrix.dtype)
        )
    if scipy.sparse.issparse(matrix):
        matrix = cast(scipy.sparse.csr_array, matrix).toarray()
    return np.linalg.svd(matrix, full_matrices=False)


class Draws(NamedTuple):
    """What the sampling of WARP found for each label as the positive u.

    Attributes:
      rank: [B, C] int32, estimated rank of u, 0 = too good to be found wrong.
      violator: [B, C] int32, the v that violates the margin, where rank > 0.
    """

    rank: tf.Tensor
    violator: tf.Tensor


def draw_violators(
    labels: tf.Tensor, scores: tf.Tensor, seed: tf.Tensor
) -> Draws:
    """Draws observed negatives v of an image until 1 - s_u + s_v > 0.

    Draws are with replacement. If m of n negatives violate the margin, then
    the number of the first draw that does so is geometric with p = m / n, and
    v is uniform among the m: both are drawn as such, in place of a loop. The
    rank estimate is floor(n / draws), so that more than n draws count as none.
    Its mean is above m unless m is 0 or n.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}.
      scores: [B, C] float32, s.
      seed: [2] int32.

    Returns:
      `Draws`, of use where a label is +1.
    """
    scores = tf.stop_gradient(scores)
    negatives = tf.where(labels < 0, -scores, np.inf)
    order = tf.argsort(negatives, 1)
    violating = tf.searchsorted(
        tf.gather(negatives, order, batch_dims=1), 1.0 - scores
    )
    m = tf.cast(violating, tf.float32)
    n = tf.reduce_sum(tf.cast(labels < 0, tf.float32), 1, keepdims=True)
    shape = tf.concat([[2], tf.shape(scores)], 0)
    chance, place = tf.unstack(tf.random.stateless_uniform(shape, seed))
    draws = 1.0 + tf.floor(
        tf.math.log1p(-chance) / tf.math.log1p(-tf.math.divide_no_nan(m, n))
    )
    rank = tf.cast(tf.where(violating > 0, n // draws, 0.0), tf.int32)
    which = tf.cast(place * m, tf.int32)
    return Draws(rank, tf.gather(order, which, batch_dims=1))


def warp(labels: tf.Tensor, scores: tf.Tensor, draws: Draws) -> tf.Tensor:
    """sum_{u in P} L(rank) [1 - s_u + s_v]_+ with L(r) = sum_{i <= r} 1 / i.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}; P is where +1.
      scores: [B, C] float32, s.
      draws: rank and v of each u.

    Returns:
      [B] float32 >= 0, 0 for an image without an observed pair.
    """
    harmonic = np.cumsum(1 / np.arange(1, scores.shape[1] + 1))
    harmonic = np.append(0.0, harmonic).astype(np.float32)
    weight = tf.where(labels > 0, tf.gather(harmonic, draws.rank), 0.0)
    other = tf.gather(scores, draws.violator, batch_dims=1)
    return tf.reduce_sum(weight * tf.nn.relu(1.0 - scores + other), 1)


@register_method("wsabie")
class WSABIE(MultiLabelModel):
    """Labels ranked by (V f) . w_j in a joint space of D dimensions.

    Weston, Bengio, Usunier, "WSABIE: Scaling Up To Large Vocabulary Image
    Annotation", IJCAI 2011: the model of sec. 2, the loss of sec. 3, columns of
    V and W of bounded norm. What differs: negatives are observed ones, their
    number takes the place of Y - 1; a step takes all positives of a minibatch,
    their losses summed over labels and averaged over images; f may be trained
    too; scores have a bias per label, not bounded. WARP compares labels of one
    image, and the model it starts from tells frequent labels from rare ones by
    its bias; without one the joint space would have to learn that again.

    V and W start as the truncated singular value decomposition of the logistic
    classifier: where D = min(d, C) scores start as its own. If the bound is too
    small for that all of them are scaled down alike, which keeps the ranking.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["wsabie"]

    def build_head(self, feature_shape: tuple):
        dimension = min(
            self.wsabie_dimension, feature_shape[-1], self.num_labels
        )
        self.embedding = keras.layers.Dense(
            dimension,
            use_bias=False,
            kernel_constraint=keras.constraints.MaxNorm(
                self.wsabie_norm, axis=1
            ),
            name="embedding",
            dtype="float32",
        )
        self.embedding.build(feature_shape)
        self.classifier.kernel_constraint = keras.constraints.MaxNorm(
            self.wsabie_norm, axis=0
        )
        super().build_head((*feature_shape[:-1], dimension))

    def scores(self, features: tf.Tensor) -> tf.Tensor:
        return super().scores(self.embedding(features))

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        scores = self.scores(features)
        step = self.optimizer.iterations if self.compiled else 0
        seed = tf.stack([tf.cast(step, tf.int32), _SEED])
        draws = draw_violators(batch.labels, scores, seed)
        return {"loss": tf.reduce_mean(warp(batch.labels, scores, draws))}

    def start_from(self, logistic: MultiLabelModel):
        kernel, bias = logistic.classifier.get_weights()
        left, values, right = truncated_svd(kernel, self.embedding.units)
        root = np.sqrt(values)
        v, w = left * root, root[:, np.newaxis] * right
        norm_v = np.linalg.norm(v, axis=1).max()
        norm_w = np.linalg.norm(w, axis=0).max()
        # With equal norms both are as far below the bound as they can be.
        norm = np.sqrt(norm_v * norm_w)
        target = min(norm, self.wsabie_norm)
        self.embedding.set_weights([v * target / norm_v])
        self.classifier.set_weights(
            [w * target / norm_w, bias * (target / norm) ** 2]
        )
