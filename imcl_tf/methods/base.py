"""What every method shares: a CNN f_w, classifiers theta, and their training.

A method is a subclass of `MultiLabelModel`: `OPTIONS` declares its
hyper-parameters, `loss_terms` is its loss, and `scores`, where it is not the
classifier of eq. (2), ranks the labels. `prepare` builds what it needs from
the training labels and `callbacks` names what happens during training, so that
a plain `fit` is the method. `@register_method("name")` makes it a `--method`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from imcl_tf.backbones.statistics import (
    frozen_statistics,
    restore_frozen_statistics,
)
from imcl_tf.methods.batches import (
    Batch,
    TrainingData,
    require_numbers,
    whole_minibatch,
)
from imcl_tf.methods.epochs import EpochStart
from imcl_tf.methods.fitting import PartialLabelFitting
from imcl_tf.methods.neighbors import TrainingNeighbors
from imcl_tf.methods.pseudo_labels import PseudoLabels
from imcl_tf.ops import losses
from imcl_tf.ops.neighbors import of_unit_norm
from imcl_tf.options import Option

METHODS: dict[str, type[MultiLabelModel]] = {}
_STATE = "state_"


def register_method(name: str) -> Callable[[type], type]:
    """Class decorator: makes a model a method, `--method=name`.

    Args:
      name: of the method.

    Returns:
      a decorator of subclasses of `MultiLabelModel`, which then load by
      `keras.saving.load_model`.

    Example:
      >>> import imcl_tf
      >>> @imcl_tf.register_method("plain")
      ... class Plain(imcl_tf.MultiLabelModel):
      ...     '''Eq. (2) under another name.'''
      >>> imcl_tf.method("plain") is Plain
      True
    """

    def register(cls):
        METHODS[name] = cls
        return keras.saving.register_keras_serializable("imcl_tf")(cls)

    return register


def registered_name(cls: type[MultiLabelModel]) -> str:
    """What a method is registered as; the class's name where it is not."""
    names = (name for name, known in METHODS.items() if known is cls)
    return next(names, cls.__name__)


@register_method("logistic")
class MultiLabelModel(PartialLabelFitting):
    """Logistic regression of C labels on a CNN feature, by eq. (2) alone.

    Args:
      backbone: layer or model, images -> features [B, d], or [B, h, w, d] for
        `boost_factor`; None where the inputs are the features.
      num_labels: C.
      fixed_features: True = `fit` and `evaluate` take features [B, d] in place
        of images and w stays as it is; calling the model still takes images.
      unit_norm: True = features are brought to unit norm: f / ||f||. Those of
        a map are divided by the norm of their mean.
      boost_factor: alpha of BoostLU (Kim et al., CVPR 2023), for features
        [B, h, w, d]: at each position a positive logit counts alpha times,
        a negative one once; a label's logit is the mean over positions.
      **kwargs: `OPTIONS` of the method, and arguments of `keras.Model`.

    Attributes:
      boostable: class attribute, whether `boost_factor` may be more than 1.
      feature_shape: (d,), or (h, w, d), once it is built.
      epoch: [] int32, passes over the training set that are complete.
      penalty: [] float32 >= 0; the loss gets penalty/2 times the mean over
        labels of ||theta_j||^2.
      training_neighbors: `TrainingNeighbors` that predictions mix in, or None.
        Saved by `export` alone.
      pseudo_labels: `PseudoLabels` of the training images, for methods that
        make them in `prepare`, or None. Saved, but not exported.
      average: `WeightAverage` of a model compiled with `ema_decay`, or None.
        Saved, but not exported.
      TERMS: class attribute, names of the scalars of `loss_terms`; "loss" is
        what is minimised.

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> import imcl_tf, numpy as np
      >>> features = np.eye(4, dtype=np.float32)
      >>> labels = np.array([[1, -1], [1, 0], [-1, 1], [0, 1]], np.int8)
      >>> model = imcl_tf.MultiLabelModel(None, 2)
      >>> model.compile("rmsprop")
      >>> history = model.fit(features, labels, verbose=0)
      >>> model(features).shape.as_list()
      [4, 2]
    """

    OPTIONS: tuple[Option, ...] = ()
    TERMS: tuple[str, ...] = ("loss", "logistic_loss")
    boostable = True

    def __init__(
        self,
        backbone: keras.layers.Layer | None,
        num_labels: int,
        *,
        fixed_features: bool = False,
        unit_norm: bool = False,
        boost_factor: float = 1.0,
        **kwargs,
    ):
        options = {
            option.name: option.checked(kwargs.pop(option.name, option.default))
            for option in self.OPTIONS
        }
        super().__init__(**kwargs)
        if not isinstance(num_labels, int | np.integer) or num_labels < 1:
            raise ValueError(
                f"num_labels must be an integer >= 1, got {num_labels!r}"
            )
        num_labels = int(num_labels)
        for name, flag in (
            ("fixed_features", fixed_features), ("unit_norm", unit_norm)
        ):  # fmt: skip
            if not isinstance(flag, bool | np.bool_):
                raise ValueError(f"{name} must be True or False, got {flag!r}")
        if not 1 <= boost_factor < math.inf:
            raise ValueError(
                f"boost_factor must be finite and >= 1, got {boost_factor}"
            )
        if boost_factor > 1 and not self.boostable:
            raise ValueError(
                f"boost_factor: the scores of {type(self).__name__} are not "
                "those of a linear classifier of each position"
            )
        for name, value in options.items():
            setattr(self, name, value)
        self.backbone = (
            keras.layers.Identity() if backbone is None else backbone
        )
        self.num_labels = num_labels
        self.fixed_features = bool(fixed_features)
        self.unit_norm = bool(unit_norm)
        self.boost_factor = float(boost_factor)
        # float32 logits: under mixed precision p would saturate.
        self.classifier = keras.layers.Dense(
            num_labels, name="classifier", dtype="float32"
        )
        self.epoch = self.add_weight(
            shape=(),
            initializer="zeros",
            name="epoch",
            dtype="int32",
            trainable=False,
        )
        self.penalty = self.add_weight(
            shape=(),
            initializer="zeros",
            name="penalty",
            dtype="float32",
            trainable=False,
        )
        self.feature_shape: tuple[int, ...] = ()
        self.pseudo_labels: PseudoLabels | None = None
        self._training_neighbors: TrainingNeighbors | None = None
        self._term_means = [keras.metrics.Mean(name) for name in self.TERMS]

    def build(self, input_shape: tuple | dict[str, tuple]):
        shape = input_shape
        if isinstance(input_shape, dict):
            shape = input_shape["inputs"]
        if not self.backbone.built:
            self.backbone.build(shape)
        feature_shape = self.backbone.compute_output_shape(shape)
        self.build_head(feature_shape)
        self.feature_shape = tuple(feature_shape[1:])
        self.built = True

    def build_head(self, feature_shape: tuple):
        """Builds what comes after the features, of shape `feature_shape`.

        Raises:
          ValueError: for a `boost_factor` without a feature map to boost.
        """
        if self.boost_factor > 1 and len(feature_shape) != 4:
            raise ValueError(
                "boost_factor needs features [B, h, w, d], got "
                f"{list(feature_shape)}: see imcl_tf.backbones.graphs."
                "without_pooling"
            )
        if not self.classifier.built:
            self.classifier.build(feature_shape)

    def call(
        self,
        inputs: tf.Tensor | dict[str, tf.Tensor],
        training: bool | None = None,
    ) -> tf.Tensor:
        """Returns scores [B, C] float32 of images [B, H, W, 3]."""
        if isinstance(inputs, dict):
            inputs = inputs["inputs"]
        features = self.backbone(inputs, training=training)
        return self.predictions(self.represent(features))

    def features_of(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns features [B, d] float32 of what `fit` takes."""
        if not self.fixed_features:
            if not self.built:  # `fit` never calls the model itself
                self.build(inputs.shape)
            cnn = self._xla_backbone or self.backbone
            inputs = cnn(inputs, training=training)
        return self.represent(inputs)

    def set_inputs(self, fixed_features: bool, unit_norm: bool):
        """Changes what `fit` takes, see the arguments of the model."""
        self.fixed_features, self.unit_norm = fixed_features, unit_norm
        self.forget_traces()

    def represent(self, features: tf.Tensor) -> tf.Tensor:
        """f, float32, of what the CNN returns or a record holds."""
        features = tf.cast(features, tf.float32)
        if not self.unit_norm:
            return features
        if features.shape.rank < 4:
            return of_unit_norm(features)
        # Of a map, the mean is what has unit norm elsewhere.
        mean = tf.reduce_mean(features, [1, 2], keepdims=True)
        norm = tf.norm(mean, axis=-1, keepdims=True)
        return tf.math.divide_no_nan(features, norm)

    @property
    def training_neighbors(self) -> TrainingNeighbors | None:
        """Training images that predictions mix in; None = the classifier."""
        return self._training_neighbors

    @training_neighbors.setter
    def training_neighbors(self, neighbors: TrainingNeighbors | None):
        self._training_neighbors = neighbors
        self.forget_traces()

    def predictions(self, features: tf.Tensor) -> tf.Tensor:
        """Returns what ranks the labels in evaluation and prediction, [B, C].

        `scores`, or with `training_neighbors` their mixture with what these
        show. The sigmoid of it is exported as probability.
        """
        scores = self.scores(features)
        if self._training_neighbors is None:
            return scores
        return self._training_neighbors.mix(features, scores, self)

    def propagated(
        self, probabilities: tf.Tensor, dense: bool = False
    ) -> tf.Tensor:
        """What labels [n, C] say of related ones; here nothing: themselves.

        Args:
          probabilities: [n, C] float32.
          dense: do without sparse operations.
        """
        del dense
        return probabilities

    def scores(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the scores of the labels, [B, C] float32, of features [B, d].

        Higher is likelier. Here the logits z of eq. (2).
        """
        logits = self.classifier(features)
        if features.shape.rank == 4:
            logits = tf.where(logits > 0, self.boost_factor * logits, logits)
            logits = tf.reduce_mean(logits, [1, 2])
        return logits

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        """The loss of a minibatch and its parts, the scalars of `TERMS`.

        Here eq. (2), averaged over the observed labels of the minibatch.

        Args:
          features: [B, d] float32, or [B, h, w, d].
          batch: of the same B images. On several devices or workers both are
            those of the whole minibatch, on each, but for `batch.inputs`.
        """
        entropy = losses.cross_entropy(batch.labels, self.scores(features))
        loss = losses.mean_over_observed(entropy, batch.labels)
        return {"loss": loss, "logistic_loss": loss}

    def start_from(self, logistic: MultiLabelModel):
        """Takes over theta and penalty of a logistic model of the same w."""
        self.classifier.set_weights(logistic.classifier.get_weights())
        self.penalty.assign(logistic.penalty)

    def callbacks(
        self, data: TrainingData, log_dir: str | None = None
    ) -> list[keras.callbacks.Callback]:
        """Returns the callbacks that are part of the method.

        `fit` puts them before those that it is given.

        Args:
          data: training data.
          log_dir: directory of the TensorBoard callback among those, or None.
        """
        del log_dir
        return [EpochStart(data)]

    def begin_epoch(self, epoch: int, data: TrainingData):
        """Is called before each pass over the training set.

        Args:
          epoch: passes before this one, from 0.
          data: training data; `one_pass` is the training set in order and not
            augmented.
        """
        del data
        self.epoch.assign(epoch)

    def make_pseudo_labels(self, data: TrainingData):
        """Sets `pseudo_labels`, all 0.

        Raises:
          ValueError: if the data do not number their images.
        """
        require_numbers(data, type(self).__name__)
        self.pseudo_labels = PseudoLabels(*data.labels.shape)

    def pseudo_labels_of(self, batch: Batch) -> tf.Tensor:
        """Returns the pseudo-labels [B, C] int8 of a minibatch, 0 = none.

        A model that was loaded to predict or to be evaluated has none at all.
        """
        if self.pseudo_labels is None:
            return tf.zeros_like(batch.labels)
        return self.pseudo_labels.rows(batch.image_index)

    @functools.cached_property
    def score_step(self) -> Callable[[Batch], tf.Tensor]:
        """Scores [B, C] of a minibatch, outside training, compiled."""
        return tf.function(self._score, autograph=False, reduce_retracing=True)

    def _score(self, batch: Batch) -> tf.Tensor:
        features = self.features_of(batch.inputs, training=False)
        return self.scores(whole_minibatch(features, batch)[0])

    @functools.cached_property
    def evaluation_step(self) -> Callable[[Batch], tuple[tf.Tensor, dict]]:
        """Scores [B, C] and the loss terms, outside training, compiled."""
        return tf.function(
            self._evaluate_batch, autograph=False, reduce_retracing=True
        )

    def _evaluate_batch(self, batch: Batch) -> tuple[tf.Tensor, dict]:
        features = self.features_of(batch.inputs, training=False)
        features, batch = whole_minibatch(features, batch)
        return self.predictions(features), self.loss_terms(features, batch)

    def train_step(self, data: tuple) -> dict:
        batch = Batch.unpack(data)
        before = self.moving_state()
        with tf.GradientTape() as tape:
            features = self.features_of(batch.inputs, training=True)
            features, batch = whole_minibatch(features, batch)
            terms = self.loss_terms(features, batch)
            terms = self.add_regularization(terms)
        groups = self.variable_groups()
        is_finite = self.minimize(tape, terms["loss"], groups, before)
        self.last_step.note(is_finite, batch.image_index)
        return self.track(terms, is_finite)

    def add_regularization(self, terms: dict) -> dict:
        """Returns `terms` with penalty and regularisers in the loss.

        The regularisers are those of the layers. Those of a fixed backbone do
        not count: its weights stay.
        """
        fixed = self.backbone.losses if self.fixed_features else []
        fixed = {id(loss) for loss in fixed}
        added = [loss for loss in self.losses if id(loss) not in fixed]
        if self.classifier.trainable_variables:
            added.append(self._penalized())
        if not added:
            return terms
        return terms | {"loss": terms["loss"] + tf.add_n(added)}

    def _penalized(self):
        # Squares that do not count would take a fifth of a step with 5,000
        # labels and 2,048 features.
        kernel = tf.convert_to_tensor(self.classifier.kernel)
        penalty = tf.convert_to_tensor(self.penalty)
        return tf.cond(
            penalty > 0,
            lambda: penalty / 2 * tf.reduce_sum(kernel**2) / self.num_labels,
            lambda: tf.constant(0.0),
        )

    def test_step(self, data: tuple) -> dict:
        return self.track(self.evaluation_step(Batch.unpack(data))[1])

    def track(self, terms: dict, counts: tf.Tensor | bool = True) -> dict:
        """Adds `terms` to the running means of the epoch and returns these.

        Args:
          terms: name -> [].
          counts: [] bool, whether they are added.
        """
        weight = tf.cast(counts, tf.float32)
        for mean in self._term_means:
            term = tf.where(counts, terms[mean.name], 0.0)
            mean.update_state(term, sample_weight=weight)
        return {mean.name: mean.result() for mean in self._term_means}

    def write_extras(
        self, directory: Path, label_names: tuple[str, ...], labels_digest: str
    ):
        """Writes what the method learned beside its weights; nothing here.

        Args:
          directory: workdir of the run.
          label_names: C names.
          labels_digest: of the training labels, see
            `imcl_tf.data.records.labels_digest`.
        """

    def training_state(self) -> dict[str, tf.Variable]:
        """Returns what a resumed run needs beside weights, by name.

        It is saved with the weights and loaded where a model has it; it is not
        exported.
        """
        state = {
            f"epoch_{mean.name}_{variable.name}": variable
            for mean in self._term_means
            for variable in mean.variables
        }
        if self.average is not None:
            state |= self.average.state()
        if self.pseudo_labels is None:
            return state
        return state | {"pseudo_labels": self.pseudo_labels.packed}

    def save_own_variables(self, store: MutableMapping[str, Any]):
        super().save_own_variables(store)
        for name, variable in self.training_state().items():
            store[_STATE + name] = variable.numpy()

    def load_own_variables(self, store: Mapping[str, Any]):
        own = {name: store[name] for name in store.keys()}  # noqa: SIM118
        state = {
            name: own.pop(name) for name in [*own] if name.startswith(_STATE)
        }
        super().load_own_variables(own)
        for name, variable in self.training_state().items():
            if _STATE + name in state:
                variable.assign(state[_STATE + name][()])

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return self._term_means

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_labels": self.num_labels,
            "fixed_features": self.fixed_features,
            "unit_norm": self.unit_norm,
            "boost_factor": self.boost_factor,
            "frozen_statistics": frozen_statistics(self.backbone),
            **{
                option.name: getattr(self, option.name)
                for option in self.OPTIONS
            },
        }

    @classmethod
    def from_config(cls, config: dict) -> MultiLabelModel:
        config = dict(config)
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        restore_frozen_statistics(backbone, config.pop("frozen_statistics", []))
        return cls(**{**config, "backbone": backbone})
