"""IMCL: interactive multi-label CNN learning (paper, Algorithm 1)."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from imcl_tf import losses
from imcl_tf.dictionary import Dictionary
from imcl_tf.label_graph import LabelGraph
from imcl_tf.labels import impute
from imcl_tf.multilabel import (
    Batch,
    MultiLabelModel,
    Option,
    mean_over_observed,
    method,
)
from imcl_tf.similarity import SOLVERS, Similarities


class Neighbors(NamedTuple):
    """The selected images: features [B, k, d], labels and logits [B, k, C]."""

    features: tf.Tensor
    labels: tf.Tensor
    logits: tf.Tensor


_REFRESHED = 64  # entries of the dictionary at a time
_SIMILARITY = ("learned", "fixed", "none")
_FORM = ("paper", "released")


@method("imcl")
class IMCL(MultiLabelModel):
    """A multi-label CNN regularised by label and feature smoothness.

    Minimises eq. (1), L_c + L_s, with L_s = lambda_y l_y + lambda_f l_f of
    eq. (7). An image without any similar image has no smoothness loss.

    Args:
      backbone: layer or model, images -> features [B, d]; None where the
        inputs are the features.
      num_labels: C.
      label_graph: A, a `LabelGraph` of C labels; None = identity.
      lambda_y: weight >= 0 of the label smoothness, eq. (5).
      lambda_f: weight >= 0 of the feature smoothness, eq. (6).
      num_neighbors: k >= 1, similar images per image, eq. (8).
      **kwargs: further `OPTIONS`, and arguments of `MultiLabelModel`. Where
        they choose between the paper and the released code:

        solver: "paper" is Algorithm 2.
        imputation: see `imcl_tf.labels.impute`. The released code also
          applies A to imputed labels alone and then writes the observed ones
          over the result.
        reconstruction: "tanh" is eq. (5), "linear" released.
        loss_scale: "initial" averages L_c over observed labels and multiplies
          each lambda by the initial ratio L_c / l (released), taken from the
          first minibatch; "absolute" is eq. (1) per image.
        graph_update: "alternate" steps on A first, then on w and theta
          (Algorithm 1); "joint" steps on all at once (released).
        image_similarity: "fixed", see `fix_similarities`; "none", an image's
          only neighbour is itself.
        label_similarity: "fixed", A stays; "none", A = I stays.
        class_weight: a, magnitude of the one-hot of an image's class that is
          joined to its y in eq. (5) and in the solver (sec. 4.6). The tanh of
          eq. (5) is of the labels alone: it cannot reach a > 1.

    Attributes:
      dictionary: `Dictionary` or None; further candidates. What it stores is
        saved with the weights, to be loaded into one of the same size.
      classes: [N] int, class in [0, K) of each training image, -1 = unknown,
        or None; see `class_weight`. Images of no number or class have a zero
        vector in place of the one-hot. Not saved.

    Raises:
      ValueError: if an argument is out of range.
    """

    boostable = False
    OPTIONS = (
        Option("lambda_y", 1.0, "Weight of eq. (5).", least=0),
        Option("lambda_f", 0.5, "Weight of eq. (6).", least=0),
        Option("num_neighbors", 5, "k, similar images per image.", least=1),
        Option(
            "solver", "paper", "Of the image similarities.", choices=_FORM
        ),
        Option(
            "solver_threshold", 1e-6, "Least score, released solver.",
            least=1e-30,
        ),
        Option("imputation", "paper", "Of unobserved labels.", choices=_FORM),
        Option(
            "positive_ratio", 2.0, "c: label targets lie in [-1/c, 1].",
            least=1,
        ),
        Option(
            "reconstruction", "tanh", "Form of eq. (5).",
            choices=("tanh", "linear"),
        ),
        Option(
            "loss_scale", "initial",
            "lambda times the initial ratio of the losses, or lambda as it is.",
            choices=("initial", "absolute"),
        ),
        Option(
            "graph_update", "alternate",
            "Step on A before the CNN (Algorithm 1) or together with it.",
            choices=("alternate", "joint"),
        ),
        Option("image_similarity", "learned", "Ablation.", choices=_SIMILARITY),
        Option("label_similarity", "learned", "Ablation.", choices=_SIMILARITY),
        Option(
            "dictionary_gradient", "stored",
            "What a selected dictionary image brings: its feature of the last "
            "refresh, or a new forward pass with gradient.",
            choices=("stored", "full"),
        ),
        Option(
            "class_weight", 0.0,
            "a, magnitude of the class one-hot in eq. (5); 0 = without (CUB).",
            least=0,
        ),
    )  # fmt: skip

    def __init__(
        self,
        backbone,
        num_labels: int,
        label_graph: LabelGraph | None = None,
        lambda_y: float = 1.0,
        lambda_f: float = 0.5,
        num_neighbors: int = 5,
        **kwargs,
    ):
        super().__init__(
            backbone,
            num_labels,
            lambda_y=lambda_y,
            lambda_f=lambda_f,
            num_neighbors=num_neighbors,
            **kwargs,
        )
        if self.image_similarity == self.label_similarity == "none":
            self.lambda_y = 0.0  # nothing relates to anything: logistic
        if label_graph is None or self.label_similarity == "none":
            label_graph = LabelGraph.identity(num_labels)
        if label_graph.num_labels != num_labels:
            raise ValueError(
                f"the label graph has {label_graph.num_labels} labels, the "
                f"model {num_labels}"
            )
        label_graph.trainable = self.label_similarity == "learned"
        self.label_graph = label_graph
        self.graph_optimizer = None
        # Initial L_c / l_y and L_c / l_f; 0 = not measured yet.
        self.initial_ratios = self.add_weight(
            shape=(2,),
            initializer="zeros",
            name="initial_ratios",
            dtype="float32",
            trainable=False,
        )
        self.dictionary: Dictionary | None = None
        self.classes: np.ndarray | None = None
        self._fixed: Similarities | None = None

    def compile(self, optimizer="rmsprop", graph_optimizer=None, **kwargs):
        """Sets the optimizers.

        Args:
          optimizer: of theta and w.
          graph_optimizer: of A; None = a copy of `optimizer`.
          **kwargs: of `MultiLabelModel.compile`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        self.graph_optimizer = (
            type(self.optimizer).from_config(self.optimizer.get_config())
            if graph_optimizer is None
            else keras.optimizers.get(graph_optimizer)
        )

    def head_variables(self):
        return self.classifier.trainable_variables

    def variable_groups(self):
        groups = super().variable_groups()
        edges = self.label_graph.trainable_variables
        return groups + ([(self.graph_optimizer, edges)] if edges else [])

    def _optimizer_names(self):
        return (*super()._optimizer_names(), "graph_optimizer")

    def training_state(self):
        if self.dictionary is None:
            return super().training_state()
        return super().training_state() | {
            "dictionary_features": self.dictionary.features,
            "dictionary_label_atoms": self.dictionary.label_atoms,
        }

    def train_step(self, data):
        """Algorithm 1 on one minibatch."""
        batch = Batch.unpack(data)
        with tf.GradientTape() as tape:
            features = self.features_of(batch.inputs, training=True)
            logits = self.scores(features)
            # Adaptive similarity learning: the CNN is fixed (steps 3 to 6).
            with tape.stop_recording():
                similar = self.find_similar(features, logits, batch)
            found = similar, self.neighbors(similar, features, logits, batch)
            if self.graph_update == "alternate":
                with tape.stop_recording():
                    self._step_on_graph(features, batch, logits, *found)
            # Constrained CNN learning: the similarities are fixed (7 to 9).
            terms = self.loss_terms(features, batch, logits, *found)
        self.initial_ratios.assign(terms.pop("ratios"))
        groups = self.variable_groups()
        if self.graph_update == "alternate":
            groups = super().variable_groups()
        self.minimize(tape, terms["loss"], groups)
        return self.track(terms)

    def _step_on_graph(self, *state):
        """One gradient step on eq. (7) with respect to A."""
        edges = self.label_graph.trainable_variables
        if not edges:
            return
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([edge.value for edge in edges])
            terms = self.loss_terms(*state)
        self.graph_optimizer.apply(tape.gradient(terms["loss"], edges), edges)

    def loss_terms(
        self, features, batch, logits=None, similarities=None, neighbors=None
    ):
        """Eqs. (1), (2), (5) to (7) of a minibatch; also the new `ratios` [2].

        Args:
          features: [B, d] float32.
          batch: of B images.
          logits: [B, C], similarities and neighbors: of these images; what is
            None is found here.
        """
        if logits is None:
            logits = self.scores(features)
        if similarities is None:
            similarities = self.find_similar(features, logits, batch)
        if neighbors is None:
            neighbors = self.neighbors(similarities, features, logits, batch)
        logistic = losses.cross_entropy(batch.labels, logits)
        label = losses.label_smoothness(
            self.label_targets(batch.labels, logits),
            self._reconstruct_labels(similarities.label_weights, neighbors),
            self.reconstruction,
        )
        feature = losses.feature_smoothness(
            features,
            losses.combine(similarities.feature_weights, neighbors.features),
        )
        related = tf.cast(similarities.indices[:, 0] >= 0, tf.float32)
        smoothness = tf.stack(
            [tf.reduce_mean(label * related), tf.reduce_mean(feature * related)]
        )
        if self.loss_scale == "initial":
            logistic = mean_over_observed(logistic, batch.labels)
            measured = tf.stop_gradient(
                tf.math.divide_no_nan(logistic, smoothness)
            )
            ratios = tf.where(
                self.initial_ratios > 0, self.initial_ratios, measured
            )
        else:
            logistic = tf.reduce_mean(logistic)
            ratios = tf.ones([2])
        if self.class_weight:
            # After the ratios: it is constant in w, theta and A, so it must
            # not change how much the rest of l_y counts.
            side = self._class_smoothness(similarities, batch)
            smoothness += tf.stack([tf.reduce_mean(side * related), 0.0])
        lambdas = tf.constant([self.lambda_y, self.lambda_f])
        return {
            "loss": logistic + tf.reduce_sum(lambdas * ratios * smoothness),
            "logistic_loss": logistic,
            "label_smoothness": smoothness[0],
            "feature_smoothness": smoothness[1],
            "ratios": ratios,
        }

    def find_similar(self, features, logits, batch: Batch) -> Similarities:
        """Similar images of each image of a minibatch under the current model.

        Candidate i < B is image i of the minibatch, candidate B + m is image m
        of the dictionary. No gradient flows through the result.
        """
        size = tf.shape(features)[0]
        own = tf.range(size)
        if self.image_similarity == "none":
            weights = tf.ones([size, 1])
            return Similarities(own[:, tf.newaxis], weights, weights)
        if self._fixed is not None:
            indices, c, c_bar = (
                tf.gather(x, tf.maximum(batch.image_index, 0))
                for x in self._fixed
            )
            known = (batch.image_index >= 0)[:, tf.newaxis] & (indices >= 0)
            return Similarities(tf.where(known, indices + size, -1), c, c_bar)
        label_atoms = [self.label_atoms(batch.labels, logits)]
        feature_atoms, numbers = [features], [batch.image_index]
        exclude = [own]
        if self.dictionary is not None:
            stored = self.dictionary
            # An image of the minibatch may stand in the dictionary as well.
            slots = stored.slots_of(batch.image_index)
            exclude.append(tf.where(slots < 0, -1, slots + size))
            label_atoms.append(stored.label_atoms)
            feature_atoms.append(stored.features)
            numbers.append(stored.image_index)
        targets = self.label_targets(batch.labels, logits)
        found = self._solve(
            self._join_classes(targets, batch.image_index), features,
            tuple(map(self._join_classes, label_atoms, numbers)),
            tuple(feature_atoms), tf.stack(exclude, 1),
        )  # fmt: skip
        return Similarities(*map(tf.stop_gradient, found))

    def _solve(self, targets, features, label_atoms, feature_atoms, exclude):
        options = {}
        if self.solver == "released":
            options["threshold"] = self.solver_threshold
        return SOLVERS[self.solver](
            targets, features, label_atoms, feature_atoms,
            self.num_neighbors, self.lambda_y, self.lambda_f, exclude,
            **options,
        )  # fmt: skip

    def _candidates(self, batch: Batch):
        """Image numbers of the candidates, in the order of `find_similar`."""
        if self.dictionary is None:
            return batch.image_index
        return tf.concat([batch.image_index, self.dictionary.image_index], 0)

    def _class_part(self, image_index):
        """One-hot vectors [..., K] of magnitude a of images [...]."""
        if self.classes is None:
            raise ValueError(
                "class_weight > 0 needs model.classes, the class of each "
                "training image"
            )
        # The last entry stands for -1, an image of no number.
        classes = np.append(np.asarray(self.classes, np.int32), np.int32(-1))
        image_index = tf.where(image_index < 0, len(classes) - 1, image_index)
        return tf.one_hot(
            tf.gather(classes, image_index), classes.max() + 1,
            on_value=self.class_weight,
        )  # fmt: skip

    def _join_classes(self, vectors, image_index):
        """y or A y of images, [n, C], with their class part: [n, C + K]."""
        if not self.class_weight:
            return vectors
        classes = tf.cast(self._class_part(image_index), vectors.dtype)
        return tf.concat([vectors, classes], 1)

    def _class_smoothness(self, similarities: Similarities, batch: Batch):
        """The class part of eq. (5), without tanh, [B]."""
        chosen = tf.maximum(similarities.indices, 0)  # unused: weight 0
        classes = self._class_part(tf.gather(self._candidates(batch), chosen))
        return losses.label_smoothness(
            self._class_part(batch.image_index),
            losses.combine(similarities.label_weights, classes),
            "linear",
        )

    def label_targets(self, labels, logits):
        """y of eq. (3), [..., C]."""
        return impute(labels, logits, self.imputation, self.positive_ratio)

    def label_atoms(self, labels, logits):
        """A y of candidates, [n, C]."""
        targets = self.label_targets(labels, logits)
        if self.imputation == "paper":
            return self.label_graph(targets)
        unobserved = tf.zeros_like(labels)
        propagated = self.label_graph(self.label_targets(unobserved, logits))
        return tf.where(labels == 0, propagated, targets)

    def _reconstruct_labels(self, weights, neighbors: Neighbors):
        """sum_i' c_i'i A y_i', [B, C]."""
        if self.imputation == "paper":
            # A is linear: one product for the sum, not one per neighbour.
            targets = self.label_targets(neighbors.labels, neighbors.logits)
            return self.label_graph(losses.combine(weights, targets))
        flat = [-1, self.num_labels]
        atoms = self.label_atoms(
            tf.reshape(neighbors.labels, flat),
            tf.reshape(neighbors.logits, flat),
        )
        return losses.combine(
            weights, tf.reshape(atoms, tf.shape(neighbors.logits))
        )

    def neighbors(
        self, similarities: Similarities, features, logits, batch: Batch
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
        if self.fixed_features or self.dictionary_gradient == "stored":
            stored = tf.gather(self.dictionary.features, slots)
            return tf.cast(stored, tf.float32)
        distinct, position = tf.unique(tf.reshape(slots, [-1]))
        # Inference mode: these images must not move the batch statistics.
        features = self.features_of(
            tf.gather(self.dictionary.inputs, distinct), training=False
        )
        return tf.gather(features, tf.reshape(position, tf.shape(slots)))

    @tf.function(autograph=False, reduce_retracing=True)
    def encode(self, inputs, labels):
        """Features [n, d] and label atoms [n, C] of candidate images."""
        features = self.features_of(inputs, training=False)
        return features, self.label_atoms(labels, self.scores(features))

    def refresh_dictionary(self, slots=None):
        """Brings entries of the dictionary, if any, up to date with the model.

        Args:
          slots: [n] int, distinct entries; None = all.
        """
        if self.dictionary is None:
            return
        if slots is None:
            slots = np.arange(len(self.dictionary))
        for part in np.array_split(slots, -(-len(slots) // _REFRESHED)):
            self.dictionary.refresh(self.encode, tf.constant(part, tf.int32))

    def fix_similarities(self, batches):
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
            rows.append(batch.image_index)
            parts.append(self._similar_in_dictionary(batch))
        order = tf.argsort(tf.concat(rows, 0), stable=True)
        self._fixed = Similarities(
            *(
                tf.gather(tf.concat(x, 0), order)
                for x in zip(*parts, strict=True)
            )
        )

    @tf.function(autograph=False, reduce_retracing=True)
    def _similar_in_dictionary(self, batch: Batch) -> Similarities:
        features = self.features_of(batch.inputs, training=False)
        targets = self.label_targets(batch.labels, self.scores(features))
        stored = self.dictionary
        return self._solve(
            self._join_classes(targets, batch.image_index), features,
            self._join_classes(stored.label_atoms, stored.image_index),
            stored.features, stored.slots_of(batch.image_index),
        )  # fmt: skip

    def get_config(self):
        return {
            **super().get_config(),
            "label_graph": keras.saving.serialize_keras_object(
                self.label_graph
            ),
        }

    @classmethod
    def from_config(cls, config):
        graph = keras.saving.deserialize_keras_object(config["label_graph"])
        return super().from_config({**config, "label_graph": graph})
