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

    Example:
      >>> import imcl_tf
      >>> imcl_tf.Mixing(0.5)
      Mixing(share=0.5, number=20, temperature=0.05, observed=False)
    """

    share: float
    number: int = 20
    temperature: float = 0.05
    observed: bool = False

    def checked(self) -> Mixing:
        """Returns itself.

        Raises:
          ValueError: for a number out of range.
        """
        if not (
            0 <= self.share <= 1 and self.number >= 1 and self.temperature > 0
        ):
            raise ValueError(
                "share must lie in [0, 1], number be at least 1 and "
                f"temperature above 0, got {self}"
            )
        return self


class TrainingNeighbors:
    """M training images in half precision, which a model's predictions mix in.

    Their labels are the model's own probabilities, computed from what is
    stored: no [M, C] is kept.

    Args:
      features: [M, d] float32, as the model represents them.
      labels: [M, C] int8 csr_array, observed labels.
      mixing: how they count.

    Raises:
      ValueError: for numbers out of range or that do not fit.

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
        features: np.ndarray,
        labels: scipy.sparse.csr_array,
        mixing: Mixing,
    ):
        if features.ndim != 2 or not len(features):
            raise ValueError(
                f"features must be [M, d], M >= 1, got {features.shape}"
            )
        if len(features) != labels.shape[0]:
            raise ValueError(
                f"{len(features)} images have features, {labels.shape[0]} have "
                "labels"
            )
        self.mixing = mixing.checked()
        double = features.astype(np.float64)  # squares of 1e20 are no float32
        norms = np.linalg.norm(double, axis=1, keepdims=True)
        unit = double / np.where(norms == 0, 1, norms)
        self._unit = tf.Variable(unit.astype(np.float16), trainable=False)
        self._norms = tf.Variable(norms.astype(np.float32), trainable=False)
        self._labels = labels
        self._table: LabelTable | None = None

    def mixed_by(self, mixing: Mixing) -> TrainingNeighbors:
        """The same images, which count in another way."""
        other = copy.copy(self)
        other.mixing = mixing.checked()
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
            scores, self.shown(features, model), self.mixing.share
        )

    def shown(self, features: tf.Tensor, model: MultiLabelModel) -> tf.Tensor:
        """Probabilities [B, C] that training images similar to B have."""
        return evidence(*self.look_up(features, model), self.mixing.temperature)

    def look_up(
        self, features: tf.Tensor, model: MultiLabelModel
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds similar training images, the most similar one first.

        Args:
          features: [B, d] float32.
          model: see `mix`.

        Returns:
          their cosines [B, k] and the probabilities of their labels [B, k, C].
        """
        # Read once: to gather from a variable makes each of its reads a copy.
        stored = tf.convert_to_tensor(self._unit)
        found = nearest(features, stored, self.mixing.number)
        chosen = tf.reshape(found.indices, [-1])
        unit = tf.cast(tf.gather(stored, chosen), tf.float32)
        own = model.scores(unit * tf.gather(self._norms, chosen))
        probabilities = tf.sigmoid(own)
        if self.mixing.observed:
            labels = self._observed().rows(chosen)
            probabilities = tf.where(
                labels == 0, probabilities, tf.cast(labels > 0, tf.float32)
            )
        probabilities = model.propagated(probabilities)
        shape = tf.concat([tf.shape(found.indices), [model.num_labels]], 0)
        return found.cosines, tf.reshape(probabilities, shape)

    def _observed(self) -> LabelTable:
        if self._table is None:
            with tf.init_scope():  # not a tensor of the graph being traced
                self._table = LabelTable(self._labels)
        return self._table
