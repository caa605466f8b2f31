"""Training images that a prediction looks at beside the classifier."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.ops.labels import LabelTable
from imcl_tf.ops.neighbors import evidence, mixed_logits, nearest

if TYPE_CHECKING:
    from imcl_tf.methods.base import MultiLabelModel


class Mixing(NamedTuple):
    """How much similar training images count in a prediction.

    Attributes:
      share: s in [0, 1] of what they show; the rest is the classifier's.
      number: k >= 1, how many of them.
      temperature: t > 0 of their weights softmax(cos / t).
      observed: whether their observed labels count as such. Else all of their
        labels are the classifier's probabilities, smoother where few labels
        are observed.
      by: "features" or "logits", whose cosine says how similar images are.
        Logits are the classifier's, each label's brought to mean 0 and
        deviation 1 over the training images, so that rare labels count too.

    Example:
      >>> import imcl_tf
      >>> imcl_tf.Mixing(0.5, by="logits").number
      20
    """

    share: float
    number: int = 20
    temperature: float = 0.05
    observed: bool = False
    by: str = "features"

    def checked(self) -> Mixing:
        """Returns itself.

        Raises:
          ValueError: for a value out of range.
        """
        if not (
            0 <= self.share <= 1
            and self.number >= 1
            and self.temperature > 0
            and self.by in ("features", "logits")
        ):
            raise ValueError(
                "share must lie in [0, 1], number be at least 1, temperature "
                f"be above 0 and by be features or logits, got {self}"
            )
        return self


class TrainingNeighbors:
    """M training images in half precision, which a model's predictions mix in.

    Their labels are the model's own probabilities, computed from what is
    stored: not both features and probabilities are kept.

    Args:
      stored: [M, d] float32, features as the model represents them, or [M, C]
        float32, their logits (`MultiLabelModel.scores`), as `mixing.by` says.
      labels: [M, C] int8 csr_array, observed labels.
      mixing: how they count.

    Raises:
      ValueError: for values out of range or that do not fit.

    Example:
      >>> import imcl_tf, numpy as np, scipy.sparse
      >>> model = imcl_tf.MultiLabelModel(None, 1)
      >>> model.build((None, 2))
      >>> stored = np.eye(2, dtype=np.float32)
      >>> labels = scipy.sparse.csr_array(np.array([[1], [-1]], np.int8))
      >>> model.training_neighbors = imcl_tf.TrainingNeighbors(
      ...     stored, labels, imcl_tf.Mixing(1.0, 1, observed=True))
      >>> (model(stored) > 0).numpy().ravel().tolist()
      [True, False]
    """

    def __init__(
        self,
        stored: np.ndarray,
        labels: scipy.sparse.csr_array,
        mixing: Mixing,
    ):
        mixing.checked()
        if stored.ndim != 2 or not len(stored):
            raise ValueError(
                f"{mixing.by} must be [M, d], M >= 1, got {stored.shape}"
            )
        if len(stored) != labels.shape[0]:
            raise ValueError(
                f"{len(stored)} images have {mixing.by}, {labels.shape[0]} "
                "have labels"
            )
        self.mixing = mixing
        double = stored.astype(np.float64)  # squares of 1e20 are no float32
        self._mean = np.zeros(double.shape[1], np.float32)
        self._deviation = np.ones_like(self._mean)
        if mixing.by == "logits":
            self._mean, self._deviation = _mean_and_deviation(double)
            double = (double - self._mean) / self._deviation
        norms = np.linalg.norm(double, axis=1, keepdims=True)
        unit = double / np.where(norms == 0, 1, norms)
        self._unit = tf.Variable(unit.astype(np.float16), trainable=False)
        self._norms = tf.Variable(norms.astype(np.float32), trainable=False)
        self._labels = labels
        self._table: LabelTable | None = None
        self._is_dense = False

    def mixed_by(self, mixing: Mixing) -> TrainingNeighbors:
        """The same images, which count in another way.

        Raises:
          ValueError: for values out of range, or for another `by`.
        """
        if mixing.by != self.mixing.by:
            raise ValueError(
                f"by: {self.mixing.by} are stored, got {mixing.by!r}"
            )
        other = copy.copy(self)
        other.mixing = mixing.checked()
        return other

    def dense(self) -> TrainingNeighbors:
        """The same images, kept in single precision and without sparse arrays.

        For converters of exported models, which know no others; takes twice
        the memory and M C bytes more.
        """
        other = copy.copy(self)
        other._unit = tf.Variable(
            tf.cast(self._unit, tf.float32), trainable=False
        )
        other._is_dense = True
        return other

    def mix(
        self, features: tf.Tensor, scores: tf.Tensor, model: MultiLabelModel
    ) -> tf.Tensor:
        """Scores of images, mixed with what similar training images show.

        Args:
          features: [B, d] float32.
          scores: [B, C] float32, the classifier's.
          model: whose `scores` and `propagated` the stored images get.

        Returns:
          [B, C] float32, logits of the mixed probabilities.
        """
        return mixed_logits(
            scores, self.shown(features, scores, model), self.mixing.share
        )

    def shown(
        self, features: tf.Tensor, scores: tf.Tensor, model: MultiLabelModel
    ) -> tf.Tensor:
        """Probabilities [B, C] that training images similar to B have."""
        return evidence(
            *self.look_up(features, scores, model), self.mixing.temperature
        )

    def look_up(
        self, features: tf.Tensor, scores: tf.Tensor, model: MultiLabelModel
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds similar training images, the most similar one first.

        Args:
          features: [B, d] float32.
          scores: [B, C] float32, the classifier's.
          model: see `mix`.

        Returns:
          their cosines [B, k] and the probabilities of their labels [B, k, C].
        """
        by_logits = self.mixing.by == "logits"
        own = scores if by_logits else features
        # Read once: to gather from a variable makes each of its reads a copy.
        stored = tf.convert_to_tensor(self._unit)
        found = nearest(
            (own - self._mean) / self._deviation, stored, self.mixing.number
        )
        chosen = tf.reshape(found.indices, [-1])
        unit = tf.cast(tf.gather(stored, chosen), tf.float32)
        theirs = unit * tf.gather(self._norms, chosen)
        theirs = theirs * self._deviation + self._mean
        probabilities = tf.sigmoid(
            theirs if by_logits else model.scores(theirs)
        )
        if self.mixing.observed:
            labels = self._observed(chosen)
            probabilities = tf.where(
                labels == 0, probabilities, tf.cast(labels > 0, tf.float32)
            )
        probabilities = model.propagated(probabilities, self._is_dense)
        shape = tf.concat([tf.shape(found.indices), [model.num_labels]], 0)
        return found.cosines, tf.reshape(probabilities, shape)

    def _observed(self, chosen: tf.Tensor) -> tf.Tensor:
        """Labels [n, C] of stored images [n]."""
        if self._is_dense:
            labels = tf.gather(tf.constant(self._labels.toarray()), chosen)
            return tf.cast(labels, tf.int32)  # LiteRT compares no int8
        if self._table is None:
            with tf.init_scope():  # not a tensor of the graph being traced
                self._table = LabelTable(self._labels)
        return self._table.rows(chosen)


def _mean_and_deviation(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each label's, [C] float32; a deviation of 0 counts as 1."""
    deviation = logits.std(0)
    deviation = np.where(deviation == 0, 1, deviation)
    return logits.mean(0).astype(np.float32), deviation.astype(np.float32)
