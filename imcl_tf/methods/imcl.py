"""IMCL: interactive multi-label CNN learning (paper, Algorithm 1)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import keras
import tensorflow as tf

from imcl_tf.methods import label_graph as graphs
from imcl_tf.methods.base import (
    register_method,
)
from imcl_tf.methods.batches import (
    Batch,
    TrainingData,
    whole_minibatch,
)
from imcl_tf.methods.label_graph import LabelGraph
from imcl_tf.methods.similar_images import (
    Neighbors,
    SimilarImages,
    mean_squares,
)
from imcl_tf.ops import losses
from imcl_tf.ops.labels import impute
from imcl_tf.ops.similarity import Similarities
from imcl_tf.settings import METHOD_OPTIONS


@register_method("imcl")
class IMCL(SimilarImages):
    """A multi-label CNN regularised by label and feature smoothness.

    Minimises eq. (1), L_c + L_s, with L_s = lambda_y l_y + lambda_f l_f of
    eq. (7). An image without any similar image has no smoothness loss.

    Args:
      backbone: layer or model, images -> features [B, d]; None where the
        inputs are the features.
      num_labels: C.
      label_graph: A, a `LabelGraph` of C labels; or how `prepare` makes it
        from the training labels: "cooccurrence", "identity", or a file of
        `imcl_tf.methods.label_graph.save`.
      lambda_y: weight >= 0 of the label smoothness, eq. (5).
      lambda_f: weight >= 0 of the feature smoothness, eq. (6).
      num_neighbors: k >= 1, similar images per image, eq. (8).
      **kwargs: further `OPTIONS`, and arguments of `MultiLabelModel`. Where
        they choose between the paper and the released code:

        solver: "paper" is Algorithm 2.
        imputation: see `imcl_tf.ops.labels.impute`. The released code also
          applies A to imputed labels alone and then writes the observed ones
          over the result.
        reconstruction: "tanh" is eq. (5), "linear" released.
        loss_scale: "common" (an extension) averages L_c over observed labels
          and divides l_y, l_f, and the terms of Algorithm 2's selection, by
          the means of ||y||^2 and ||f||^2 over the minibatch; "initial"
          averages L_c over observed labels and multiplies each lambda by the
          initial ratio L_c / l (released), taken from the first minibatch;
          "absolute" is eq. (1) per image.
        graph_update: "alternate" steps on A first, then on w and theta
          (Algorithm 1); "joint" steps on all at once (released).
        image_similarity: "fixed", see `fix_similarities`; "none", an image's
          only neighbour is itself.
        label_similarity: "fixed", A stays; "none", A = I stays.
        class_weight: a, magnitude of the one-hot of an image's class that is
          joined to its y in eq. (5) and in the solver (sec. 4.6). The tanh of
          eq. (5) is of the labels alone: it cannot reach a > 1.
        dictionary_size: -1 takes 10,000 where the training data number their
          images, none elsewhere; more than 0 needs the numbers.

    Attributes:
      label_graph: the `LabelGraph`; None until `prepare` makes it.
      dictionary: `Dictionary` or None; further candidates. What it stores is
        saved with the weights, to be loaded into one of the same size.
      class_onehot: `ClassOneHot` of the training images, or None; see
        `class_weight`. Not saved.

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> import imcl_tf, numpy as np
      >>> features = np.random.default_rng(0).random((8, 5), np.float32)
      >>> labels = np.array([[1, -1, 0], [0, 1, -1]] * 4, np.int8)
      >>> model = imcl_tf.IMCL(None, 3, "identity", num_neighbors=2)
      >>> model.compile("rmsprop")
      >>> history = model.fit(features, labels, verbose=0)
      >>> sorted(history.history)[:2]
      ['feature_smoothness', 'label_smoothness']
    """

    TERMS = ("loss", "logistic_loss", "label_smoothness", "feature_smoothness")

    boostable = False
    OPTIONS = METHOD_OPTIONS["imcl"]
    label_graph: LabelGraph | None

    def __init__(
        self,
        backbone: keras.layers.Layer | None,
        num_labels: int,
        label_graph: LabelGraph | str = "cooccurrence",
        lambda_y: float = 1.0,
        lambda_f: float = 0.5,
        num_neighbors: int = 5,
        **kwargs,
    ):
        graph = label_graph if isinstance(label_graph, LabelGraph) else None
        super().__init__(
            backbone,
            num_labels,
            label_graph="identity" if graph else label_graph,
            lambda_y=lambda_y,
            lambda_f=lambda_f,
            num_neighbors=num_neighbors,
            **kwargs,
        )
        if self.image_similarity == self.label_similarity == "none":
            self.lambda_y = 0.0  # nothing relates to anything: logistic
        self._graph_kind = cast(str, self.label_graph)
        self._graph_source = graphs.Source("" if graph else self._graph_kind)
        self.label_graph = None
        if self.label_similarity == "none":
            graph = None
            self._graph_kind = "identity"
            self._graph_source = graphs.Source("identity")
        if self._graph_kind == "identity":
            self._set_graph(graph or LabelGraph.identity(num_labels))
        self.graph_optimizer = None
        # Initial L_c / l_y and L_c / l_f; 0 = not measured yet.
        self.initial_ratios = self.add_weight(
            shape=(2,),
            initializer="zeros",
            name="initial_ratios",
            dtype="float32",
            trainable=False,
        )

    @property
    def _graph(self) -> LabelGraph:
        """`label_graph`, once `prepare` has made it."""
        if self.label_graph is None:
            raise ValueError(
                "the label graph comes from the training labels: call fit or "
                "prepare first, or give label_graph"
            )
        return self.label_graph

    def _set_graph(self, graph: LabelGraph):
        if graph.num_labels != self.num_labels:
            raise ValueError(
                f"the label graph has {graph.num_labels} labels, the model "
                f"{self.num_labels}"
            )
        # Keras lets a built layer have no new weights; A's edges are known
        # only when the training labels are.
        self._tracker.unlock()
        self.label_graph = graph
        if self.built:
            self._tracker.lock()

    def prepare(self, data: TrainingData):
        """Makes the label graph, and what finds similar images.

        Raises:
          ValueError: for a graph of other labels, and see `SimilarImages`.
        """
        super().prepare(data)
        if self.label_graph is None:
            self._set_graph(self._make_graph(data))

    def _make_graph(self, data: TrainingData) -> LabelGraph:
        if self._graph_kind == "cooccurrence":
            return LabelGraph.from_cooccurrence(
                data.labels, self.graph_neighbors, self.graph_self_weight
            )
        if not Path(self._graph_kind).is_file():
            raise ValueError(
                "label_graph must be cooccurrence, identity or the file of a "
                f"label graph, got {self._graph_kind!r}"
            )
        self._graph_source = graphs.load_source(self._graph_kind)
        return graphs.load(self._graph_kind, data.label_names)

    def compile(  # type: ignore[override]
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        graph_optimizer: str | keras.optimizers.Optimizer | None = None,
        **kwargs,
    ):
        """Sets the optimizers.

        Args:
          optimizer: of theta and w.
          graph_optimizer: of A; None = one like `optimizer`, at the rate
            `graph_learning_rate` and without weight decay.
          **kwargs: of `MultiLabelModel.compile`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        if graph_optimizer is None:
            config = self.optimizer.get_config()
            if config.get("weight_decay"):
                config["weight_decay"] = 0.0
            if self.graph_learning_rate:
                config["learning_rate"] = self.graph_learning_rate
            self.graph_optimizer = type(self.optimizer).from_config(config)
        else:
            self.graph_optimizer = keras.optimizers.get(graph_optimizer)

    def head_variables(self) -> list:
        return self.classifier.trainable_variables

    def variable_groups(self) -> list:
        groups = super().variable_groups()
        edges = self._learned_edges()
        return groups + ([(self.graph_optimizer, edges)] if edges else [])

    def _learned_edges(self) -> list:
        """The variables of A that a step changes."""
        if self.label_graph is None or self.label_similarity != "learned":
            return []
        return self.label_graph.trainable_variables

    def _optimizer_names(self):
        return (*super()._optimizer_names(), "graph_optimizer")

    def load_weights(self, filepath: str | Path, **kwargs):
        """As that of Keras.

        Raises:
          ValueError: if the model has no label graph yet to load A into.
        """
        if self.label_graph is None:
            raise ValueError(
                "load_weights: the label graph comes from the training labels: "
                "call prepare first, or keras.saving.load_model in its place"
            )
        super().load_weights(filepath, **kwargs)

    def write_extras(
        self, directory: Path, label_names: tuple[str, ...], labels_digest: str
    ):
        """Writes the learned A, label_graph.npz."""
        source = self._graph_source
        # What A knew of other labels at the start it still knows.
        if not source.may_know_others(labels_digest):
            source = graphs.Source("learned", labels_digest)
        graphs.save(
            directory / "label_graph.npz", self._graph, label_names, source
        )

    def train_step(self, data: tuple) -> dict:
        """Algorithm 1 on one minibatch.

        Raises:
          ValueError: if there is a dictionary and the images have no number:
            an image would be found most similar to itself.
        """
        if self.dictionary is not None and not isinstance(data[0], dict):
            raise ValueError(
                "a dictionary needs the number of each training image: give "
                '({"inputs": ..., "image_index": ...}, labels)'
            )
        batch = Batch.unpack(data)
        before = self.moving_state()
        with tf.GradientTape() as tape:
            features = self.features_of(batch.inputs, training=True)
            features, batch = whole_minibatch(features, batch)
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
            terms = self.add_regularization(terms)
        ratios = terms.pop("ratios")
        groups = self.variable_groups()
        if self.graph_update == "alternate":
            groups = super().variable_groups()
        is_finite = self.minimize(tape, terms["loss"], groups, before)
        self.last_step.note(is_finite, batch.image_index)
        if self.loss_scale == "initial":
            self.initial_ratios.assign(
                tf.where(is_finite, ratios, self.initial_ratios)
            )
        return self.track(terms, is_finite)

    def moving_state(self) -> list[tuple[tf.Variable, tf.Tensor]]:
        """With A, which has made its step when the loss of w is known."""
        state = super().moving_state()
        edges = self._learned_edges()
        if self.graph_update != "alternate" or not edges:
            return state
        optimizer = cast(keras.Optimizer, self.graph_optimizer)
        variables = [*edges, *optimizer.variables]
        return state + [(v.value, tf.identity(v.value)) for v in variables]

    def _step_on_graph(self, *state):
        """One gradient step on eq. (7) with respect to A."""
        edges = self._learned_edges()
        if not edges:
            return
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([edge.value for edge in edges])
            terms = self.loss_terms(*state)
        self.minimize(tape, terms["loss"], [(self.graph_optimizer, edges)])

    def loss_terms(
        self,
        features: tf.Tensor,
        batch: Batch,
        logits: tf.Tensor | None = None,
        similarities: Similarities | None = None,
        neighbors: Neighbors | None = None,
    ) -> dict:
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
        targets = self.label_targets(batch.labels, logits)
        label = losses.label_smoothness(
            targets,
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
        ratios = tf.ones([2])
        if self.loss_scale == "absolute":
            logistic = tf.reduce_mean(logistic)
        else:
            logistic = losses.mean_over_observed(logistic, batch.labels)
        if self.loss_scale == "common":
            ratios = 1 / mean_squares(targets, features)
        elif self.loss_scale == "initial":
            measured = tf.stop_gradient(
                tf.math.divide_no_nan(logistic, smoothness)
            )
            ratios = tf.where(
                self.initial_ratios > 0, self.initial_ratios, measured
            )
        if self.class_weight:
            # After the ratios: it is constant in w, theta and A, so it must
            # not change how much the rest of l_y counts.
            side = self._onehots().smoothness(
                similarities, batch.image_index, self._candidates(batch)
            )
            smoothness += tf.stack([tf.reduce_mean(side * related), 0.0])
        lambdas = tf.constant([self.lambda_y, self.lambda_f])
        return {
            "loss": logistic + tf.reduce_sum(lambdas * ratios * smoothness),
            "logistic_loss": logistic,
            "label_smoothness": smoothness[0],
            "feature_smoothness": smoothness[1],
            "ratios": ratios,
        }

    def label_targets(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """y of eq. (3), [..., C]."""
        return impute(labels, logits, self.imputation, self.positive_ratio)

    def label_atoms(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """A y of candidates, [n, C]."""
        targets = self.label_targets(labels, logits)
        if self.imputation == "paper":
            return self._graph(targets)
        unobserved = tf.zeros_like(labels)
        propagated = self._graph(self.label_targets(unobserved, logits))
        return tf.where(labels == 0, propagated, targets)

    def _reconstruct_labels(self, weights, neighbors: Neighbors):
        """sum_i' c_i'i A y_i', [B, C]."""
        if self.imputation == "paper":
            # A is linear: one product for the sum, not one per neighbour.
            targets = self.label_targets(neighbors.labels, neighbors.logits)
            return self._graph(losses.combine(weights, targets))
        flat = [-1, self.num_labels]
        atoms = self.label_atoms(
            tf.reshape(neighbors.labels, flat),
            tf.reshape(neighbors.logits, flat),
        )
        return losses.combine(
            weights, tf.reshape(atoms, tf.shape(neighbors.logits))
        )

    def propagated(
        self, probabilities: tf.Tensor, dense: bool = False
    ) -> tf.Tensor:
        """(1 + A y) / 2 of y = 2 p - 1, within [0, 1]."""
        related = self._graph.propagate(2 * probabilities - 1, dense)
        return tf.clip_by_value((1 + related) / 2, 0, 1)

    def get_config(self) -> dict:
        graph = self.label_graph
        return {
            **super().get_config(),
            "label_graph": self._graph_kind
            if graph is None
            else keras.saving.serialize_keras_object(graph),
        }

    @classmethod
    def from_config(cls, config: dict) -> IMCL:
        graph = config["label_graph"]
        if not isinstance(graph, str):
            graph = keras.saving.deserialize_keras_object(graph)
        return super().from_config({**config, "label_graph": graph})
