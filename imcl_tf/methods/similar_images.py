"""The similar images of each image: candidates, solver, what is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.batches import (
    Batch,
    TrainingData,
    require_numbers,
    whole_minibatch,
)
from imcl_tf.methods.class_onehot import ClassOneHot
from imcl_tf.methods.dictionary import (
    Dictionary,
    DictionaryRefresh,
    class_balanced_subset,
)
from imcl_tf.methods.fixed_similarities import FixedSimilarities
from imcl_tf.methods.pictures import Pictures
from imcl_tf.ops import workers
from imcl_tf.ops.similarity import SOLVERS, Similarities


class Neighbors(NamedTuple):
    """The selected images: features [B, k, d], labels and logits [B, k, C]."""

    features: tf.Tensor
    labels: tf.Tensor
    logits: tf.Tensor


_DICTIONARY_SIZE = 10_000  # where dictionary_size is -1
_REFRESHED = 64  # entries of the dictionary at a time
_LITTLE = 1e-12  # a squared norm that is divided by


class SimilarImages(MultiLabelModel):
    """A model that finds the similar images of each image of a minibatch.

    Steps 3 to 6 of Algorithm 1. A subclass has the options declared here, and
    says what stands for the labels of an image: both methods map observed
    labels [n, C] int8 and logits [n, C] to [n, C] float32, `label_targets` to
    y of eq. (3), `label_atoms` to A y.
    """

    label_targets: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    label_atoms: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    lambda_y: float
    lambda_f: float
    num_neighbors: int
    solver: str
    solver_threshold: float
    loss_scale: str
    image_similarity: str
    class_weight: float
    dictionary_size: int
    dictionary_refresh: int
    dictionary_gradient: str

    def __init__(self, *arguments, **kwargs):
        super().__init__(*arguments, **kwargs)
        self._dictionary: Dictionary | None = None
        self.class_onehot: ClassOneHot | None = None
        self.fixed_similarities: FixedSimilarities | None = None

    @property
    def dictionary(self) -> Dictionary | None:
        """Further candidates; None = the minibatch alone."""
        return self._dictionary

    @dictionary.setter
    def dictionary(self, dictionary: Dictionary | None):
        self._dictionary = dictionary
        self.forget_traces()

    def prepare(self, data: TrainingData):
        """Makes the dictionary and the class one-hots.

        Raises:
          ValueError: for data without the classes that `class_weight` needs,
            or without the numbers that a dictionary needs.
        """
        if self.dictionary is not None:
            require_numbers(data, "a dictionary")
        renewed = self._prepared_for is not None
        super().prepare(data)
        if self.class_weight:
            require_numbers(data, "class_weight")
            if not data.classes.size:
                raise ValueError(
                    "class_weight > 0: the training images have no classes"
                )
            self.class_onehot = ClassOneHot(data.classes, self.class_weight)
        # With dictionary_size=0 one that was set by hand stays.
        if self.dictionary_size and (self.dictionary is None or renewed):
            self.dictionary = self._make_dictionary(data)
        if self.image_similarity == "fixed":
            if self.dictionary is None:
                raise ValueError("image_similarity=fixed needs a dictionary")
            self.fixed_similarities = FixedSimilarities(
                data.labels.shape[0], self.num_neighbors
            )

    def _make_dictionary(self, data: TrainingData) -> Dictionary | None:
        """The dictionary, still empty; `begin_training` fills it."""
        if self.dictionary_size > 0:
            require_numbers(data, "dictionary_size > 0")
        if self.dictionary_size < 0 and not data.numbered:
            logging.warning(
                "IMCL without a dictionary: the training data have no "
                "image_index, so the candidates are the minibatch alone"
            )
            return None
        size = self.dictionary_size
        chosen = class_balanced_subset(
            data.labels, _DICTIONARY_SIZE if size < 0 else size, data.seed
        )
        return Dictionary(chosen, data.label_table, self._num_features(data))

    def _num_features(self, data: TrainingData) -> int:
        if self.fixed_features and len(data.input_shape) == 1:
            return data.input_shape[0]
        return self.backbone.compute_output_shape((None, *data.input_shape))[-1]

    def callbacks(
        self, data: TrainingData, log_dir: str | None = None
    ) -> list[keras.callbacks.Callback]:
        """The refresh of the dictionary, pictures, and the base's."""
        pictures = [Pictures(data, log_dir)] if log_dir else []
        return [
            DictionaryRefresh(data, self.dictionary_refresh),
            *pictures,
            *super().callbacks(data, log_dir),
        ]

    def begin_training(self, data: TrainingData):
        """Fills the dictionary and fixes similarities under the current model.

        What was loaded with the weights of a run that is resumed stays.
        """
        dictionary = self.dictionary
        if dictionary is not None:
            if dictionary.inputs is None:
                dictionary.store_inputs(
                    data.load_inputs(dictionary.own_index.numpy())
                )
            if not dictionary.filled:
                self.refresh_dictionary()
        fixed = self.fixed_similarities
        if fixed is not None and not fixed.solved:
            self.fix_similarities(data.one_pass())

    def training_state(self) -> dict[str, tf.Variable]:
        state = super().training_state()
        for part in (self.dictionary, self.fixed_similarities):
            if part is not None:
                state |= part.state()
        return state

    def find_similar(
        self, features: tf.Tensor, logits: tf.Tensor, batch: Batch
    ) -> Similarities:
        """Similar images of each image of a minibatch under the current model.

        Candidate i < B is image i of the minibatch, candidate B + m is image m
        of the dictionary. No gradient flows through the result.
        """
        size = tf.shape(features)[0]
        own = tf.range(size)
        if self.image_similarity == "none":
            weights = tf.ones([size, 1])
            return Similarities(own[:, tf.newaxis], weights, weights)
        if self.fixed_similarities is not None:
            return self.fixed_similarities.of(batch.image_index, size)
        # A worker looks among its share of the candidates.
        rows = workers.current().rows
        label_atoms = [self.label_atoms(rows(batch.labels), rows(logits))]
        feature_atoms, numbers = [rows(features)], [rows(batch.image_index)]
        exclude, sizes = [own], [size]
        if self.dictionary is not None:
            stored = self.dictionary
            # An image of the minibatch may stand in the dictionary as well.
            slots = stored.slots_of(batch.image_index)
            exclude.append(tf.where(slots < 0, -1, slots + size))
            stored_features, stored_atoms = stored.read()
            label_atoms.append(stored_atoms)
            feature_atoms.append(stored_features)
            numbers.append(stored.own_index)
            sizes.append(len(stored))
        targets = self.label_targets(batch.labels, logits)
        found = self._solve(
            self._join_classes(targets, batch.image_index), features,
            tuple(map(self._join_classes, label_atoms, numbers)),
            tuple(feature_atoms), tf.stack(exclude, 1), sizes,
        )  # fmt: skip
        return Similarities(*map(tf.stop_gradient, found))

    @functools.cached_property
    def similar_step(self) -> Callable[[Batch], Similarities]:
        """`find_similar` of a minibatch, outside training, compiled."""
        return tf.function(
            self._find_similar, autograph=False, reduce_retracing=True
        )

    def _find_similar(self, batch: Batch) -> Similarities:
        features = self.features_of(batch.inputs, training=False)
        features, batch = whole_minibatch(features, batch)
        return self.find_similar(features, self.scores(features), batch)

    def _solve(
        self, targets, features, label_atoms, feature_atoms, exclude, sizes
    ):  # fmt: skip
        options = {"sizes": sizes} if workers.current().number > 1 else {}
        if self.solver == "released":
            options["threshold"] = self.solver_threshold
        scale_y = scale_f = tf.ones([])
        if self.loss_scale == "common":
            # A score is quadratic in the target and does not depend on the
            # norm of an atom.
            scale_y, scale_f = tf.unstack(
                tf.sqrt(mean_squares(targets, features))
            )
        found = SOLVERS[self.solver](
            targets / scale_y, features / scale_f, label_atoms, feature_atoms,
            self.num_neighbors, self.lambda_y, self.lambda_f, exclude,
            **options,
        )  # fmt: skip
        return Similarities(
            found.indices,
            found.label_weights * scale_y,
            found.feature_weights * scale_f,
        )

    def _candidates(self, batch: Batch):
        """Image numbers of the candidates, in the order of `find_similar`."""
        if self.dictionary is None:
            return batch.image_index
        return tf.concat([batch.image_index, self.dictionary.image_index], 0)

    def _onehots(self) -> ClassOneHot:
        if self.class_onehot is None:
            raise ValueError(
                "class_weight > 0 needs model.class_onehot, the classes of the "
                "training images, which prepare makes"
            )
        return self.class_onehot

    def _join_classes(self, vectors, image_index):
        """y or A y of images, [n, C], with their class part: [n, C + K]."""
        if not self.class_weight:
            return vectors
        return self._onehots().join(vectors, image_index)

    def neighbors(
        self,
        similarities: Similarities,
        features: tf.Tensor,
        logits: tf.Tensor,
        batch: Batch,
    ) -> Neighbors:
        """The selected images; unused slots hold some image, at weight 0."""
        size, chosen = tf.shape(features)[0], similarities.indices
        inside = tf.where((chosen >= 0) & (chosen < size), chosen, 0)
        in_batch = Neighbors(
            *(tf.gather(x, inside) for x in (features, batch.labels, logits))
        )
        if self.dictionary is None:
            return in_batch
        outside = chosen >= size
        slots = tf.where(outside, chosen - size, 0)
        stored = self._dictionary_features(slots)
        labels = tf.reshape(
            self.dictionary.labels(tf.reshape(slots, [-1])),
            tf.shape(in_batch.labels),
        )
        in_dictionary = Neighbors(stored, labels, self.scores(stored))
        return Neighbors(
            *(
                tf.where(outside[:, :, tf.newaxis], a, b)
                for a, b in zip(in_dictionary, in_batch, strict=True)
            )
        )

    def _dictionary_features(self, slots):
        """Features [B, k, d] of dictionary entries [B, k]."""
        values = self._encode_entries
        if self.fixed_features or self.dictionary_gradient == "stored":
            values = self._stored_entries
        flat = tf.reshape(slots, [-1])
        features = self.dictionary.rows_of(flat, values)
        shape = tf.concat([tf.shape(slots), features.shape[1:]], 0)
        return tf.reshape(features, shape)

    def _stored_entries(self, rows):
        return tf.cast(tf.gather(self.dictionary.features, rows), tf.float32)

    def _encode_entries(self, rows):
        distinct, position = tf.unique(rows)
        # Inference mode: these images must not move the batch statistics.
        features = self.features_of(
            tf.gather(self.dictionary.inputs, distinct), training=False
        )
        return tf.gather(features, position)

    @functools.cached_property
    def encode(self) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        """Inputs and labels of candidates -> features [n, d], atoms [n, C]."""
        return tf.function(self._encode, autograph=False, reduce_retracing=True)

    def _encode(self, inputs: tf.Tensor, labels: tf.Tensor):
        features = self.features_of(inputs, training=False)
        return features, self.label_atoms(labels, self.scores(features))

    def refresh_dictionary(self, slots: np.ndarray | None = None):
        """Brings entries of the dictionary, if any, up to date with the model.

        Args:
          slots: [n] int, distinct entries; None = all.
        """
        if self.dictionary is None:
            return
        if slots is None:
            self.dictionary.is_filled.assign(True)
        slots = self.dictionary.own_slots(slots)
        parts = max(1, -(-len(slots) // _REFRESHED))
        for part in np.array_split(slots, parts) if len(slots) else ():
            self.dictionary.refresh(self.encode, tf.constant(part, tf.int32))

    def fix_similarities(self, batches: Iterable[tuple]):
        """Solves the similarities of all training images once and keeps them.

        For `image_similarity="fixed"`: the candidates are the dictionary, as
        last refreshed.

        Args:
          batches: iterable of the training set, ({"inputs", "image_index"},
            labels), each image at least once.

        Raises:
          ValueError: without a dictionary.
        """
        if self.dictionary is None:
            raise ValueError("image_similarity=fixed needs a dictionary")
        # Plain dictionary positions: the minibatch changes from step to step.
        rows, parts = [], []
        for data in batches:
            batch = Batch.unpack(data)
            rows.append(np.asarray(batch.image_index))
            parts.append(self._similar_in_dictionary(batch))
        numbers = np.concatenate(rows)
        if self.fixed_similarities is None:
            self.fixed_similarities = FixedSimilarities(
                numbers.max() + 1, self.num_neighbors
            )
        self.fixed_similarities.store(
            numbers,
            Similarities(
                *(np.concatenate(x) for x in zip(*parts, strict=True))
            ),
        )

    @functools.cached_property
    def _similar_in_dictionary(self) -> Callable[[Batch], Similarities]:
        return tf.function(
            self._solve_in_dictionary, autograph=False, reduce_retracing=True
        )

    def _solve_in_dictionary(self, batch: Batch) -> Similarities:
        features = self.features_of(batch.inputs, training=False)
        features, batch = whole_minibatch(features, batch)
        targets = self.label_targets(batch.labels, self.scores(features))
        stored = cast(Dictionary, self.dictionary)
        stored_features, stored_atoms = stored.read()
        return self._solve(
            self._join_classes(targets, batch.image_index), features,
            self._join_classes(stored_atoms, stored.own_index),
            stored_features, stored.slots_of(batch.image_index),
            [len(stored)],
        )  # fmt: skip


def mean_squares(*vectors: tf.Tensor) -> tf.Tensor:
    """Mean squared norm of the rows of each [B, n], as constants."""
    means = [tf.reduce_mean(tf.reduce_sum(tf.square(x), 1)) for x in vectors]
    return tf.stop_gradient(tf.maximum(tf.stack(means), _LITTLE))
