"""What every method shares: a CNN f_w, classifiers theta, and their training.

A method is a subclass of `MultiLabelModel`: `OPTIONS` declares its
hyper-parameters, `loss_terms` is its loss, and `scores`, where it is not the
classifier of eq. (2), ranks the labels. `prepare` builds what it needs from
the training labels and `callbacks` names what happens during training, so that
a plain `fit` is the method. `@register_method("name")` makes it a `--method`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from imcl_tf.backbones.make import picture_format
from imcl_tf.data.pipeline import Batches, Split
from imcl_tf.data.tensors import TensorBatches
from imcl_tf.methods.pseudo_labels import PseudoLabels
from imcl_tf.ops import losses
from imcl_tf.ops.metrics import AveragePrecision
from imcl_tf.options import Option

TrainingData = Batches | TensorBatches
METHODS: dict[str, type[MultiLabelModel]] = {}
_STATE = "state_"
# Arguments of Keras that would change what a method minimises or reports.
_NOT_OURS = {
    "loss": "the loss is the method's own",
    "loss_weights": "the loss is the method's own",
    "metrics": "use imcl_tf.AveragePrecision, which skips unobserved labels",
    "weighted_metrics": "sample weights do not enter the losses",
    "sample_weight": "sample weights do not enter the losses",
    "class_weight": "labels are weighted by the method",
    "validation_split": "give validation_data",
}


def refuse(**arguments):
    """Raises ValueError for the first Keras argument that is given.

    Args:
      **arguments: of `compile` or `fit`, name -> value; what is empty or 0
        is not given.
    """
    for name, value in arguments.items():
        if value is not None and not _is_empty(value):
            raise ValueError(f"{name} cannot be honoured: {_NOT_OURS[name]}")


def _is_empty(value) -> bool:
    return isinstance(value, (int, float, list, tuple, dict)) and not value


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


class Batch(NamedTuple):
    """A minibatch.

    Attributes:
      inputs: [B, H, W, 3] uint8 or float images in [0, 255], or [B, d] float
        features.
      labels: [B, C] int8 in {-1, 0, +1}, 0 = unobserved.
      image_index: [B] int32, number of the image in the training set, -1 where
        it is not a training image.

    Example:
      >>> import imcl_tf, numpy as np
      >>> batch = imcl_tf.Batch.unpack((np.zeros((2, 3)), np.ones((2, 4))))
      >>> batch.image_index.numpy().tolist()  # images of no number
      [-1, -1]
    """

    inputs: tf.Tensor
    labels: tf.Tensor
    image_index: tf.Tensor

    @classmethod
    def unpack(cls, data: tuple) -> Batch:
        """From (inputs, labels); inputs may be a dict with `image_index`."""
        inputs, labels, *weights = data
        refuse(sample_weight=next(iter(weights), None))
        if isinstance(inputs, dict):
            return cls(inputs["inputs"], labels, inputs["image_index"])
        unknown = tf.fill([tf.shape(labels)[0]], -1)
        return cls(inputs, labels, unknown)


@register_method("logistic")
class MultiLabelModel(keras.Model):
    """Logistic regression of C labels on a CNN feature, by eq. (2) alone.

    Args:
      backbone: layer or model, images -> features [B, d], or [B, h, w, d] for
        `boost_factor`; None where the inputs are the features.
      num_labels: C.
      fixed_features: True = `fit` and `evaluate` take features [B, d] in place
        of images and w stays as it is; calling the model still takes images.
      boost_factor: alpha of BoostLU (Kim et al., CVPR 2023), for features
        [B, h, w, d]: at each position a positive logit counts alpha times,
        a negative one once; a label's logit is the mean over positions.
      **kwargs: `OPTIONS` of the method, and arguments of `keras.Model`.

    Attributes:
      boostable: class attribute, whether `boost_factor` may be more than 1.
      epoch: [] int32, passes over the training set that are complete.
      pseudo_labels: `PseudoLabels` of the training images, for methods that
        make them in `prepare`, or None. Saved, but not exported.
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
        boost_factor: float = 1.0,
        **kwargs,
    ):
        options = {
            option.name: option.checked(kwargs.pop(option.name, option.default))
            for option in self.OPTIONS
        }
        super().__init__(**kwargs)
        if num_labels < 1:
            raise ValueError(f"num_labels must be >= 1, got {num_labels}")
        if boost_factor < 1:
            raise ValueError(f"boost_factor must be >= 1, got {boost_factor}")
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
        self.num_labels = int(num_labels)
        self.fixed_features = bool(fixed_features)
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
        self.pseudo_labels: PseudoLabels | None = None
        self.backbone_optimizer = None
        self._xla_backbone = None
        self._prepared_for = _nothing
        self._term_means = [keras.metrics.Mean(name) for name in self.TERMS]

    def build(self, input_shape: tuple | dict[str, tuple]):
        shape = input_shape
        if isinstance(input_shape, dict):
            shape = input_shape["inputs"]
        if not self.backbone.built:
            self.backbone.build(shape)
        self.build_head(self.backbone.compute_output_shape(shape))
        self.built = True

    def build_head(self, feature_shape: tuple):
        """Builds what comes after the features, of shape `feature_shape`."""
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
        return self.scores(tf.cast(features, tf.float32))

    def features_of(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns features [B, d] float32 of what `fit` takes."""
        if not self.fixed_features:
            if not self.built:  # `fit` never calls the model itself
                self.build(inputs.shape)
            cnn = self._xla_backbone or self.backbone
            inputs = cnn(inputs, training=training)
        return tf.cast(inputs, tf.float32)

    def scores(self, features: tf.Tensor) -> tf.Tensor:
        """Returns what ranks the labels, [B, C] float32, of features [B, d].

        Higher is likelier; the sigmoid of it is exported as probability. Here
        the logits z of eq. (2).
        """
        logits = self.classifier(features)
        if features.shape.rank == 4:
            logits = tf.where(logits > 0, self.boost_factor * logits, logits)
            logits = tf.reduce_mean(logits, [1, 2])
        return logits

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        """The loss of a minibatch and its parts, the scalars of `TERMS`.

        Here eq. (2), averaged over the observed labels of the minibatch.
        """
        entropy = losses.cross_entropy(batch.labels, self.scores(features))
        loss = mean_over_observed(entropy, batch.labels)
        return {"loss": loss, "logistic_loss": loss}

    def start_from(self, logistic: MultiLabelModel):
        """Takes over the classifier of a logistic model of the same w."""
        self.classifier.set_weights(logistic.classifier.get_weights())

    def prepare(self, data: TrainingData):
        """Builds what the method needs from the training labels.

        `fit` calls it before the first step on new training data; the model
        need not be built yet. An override raises ValueError for what the data
        do not allow.

        Args:
          data: training data, `Batches` or `TensorBatches`; `labels` [N, C]
            are read when they are asked for.
        """
        # Weak: the model must not hold the data, nor export them.
        self._prepared_for = weakref.ref(_identity(data))

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

    @tf.function(autograph=False, reduce_retracing=True)
    def score_step(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns scores [B, C] of what `fit` takes, outside training."""
        return self.scores(self.features_of(inputs, training=False))

    @tf.function(autograph=False, reduce_retracing=True)
    def evaluation_step(self, batch: Batch) -> tuple[tf.Tensor, dict]:
        """Returns scores [B, C] and the loss terms, outside training."""
        features = self.features_of(batch.inputs, training=False)
        return self.scores(features), self.loss_terms(features, batch)

    def fit(
        self,
        x: TrainingData | tf.data.Dataset | np.ndarray | None = None,
        y: np.ndarray | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        validation_data: Split | Batches | tf.data.Dataset | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        steps_per_epoch: int | None = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        validation_split: float = 0.0,
        **kwargs,
    ) -> keras.callbacks.History:
        """Trains by the method: `prepare` and `callbacks` are part of it.

        Args:
          x: `Batches` of `Split.batches`; or a tf.data.Dataset of (inputs,
            labels), where the inputs may be the dictionary {"inputs",
            "image_index"}; or an array of inputs [N, ...].
          y: [N, C] int8, the labels of an array.
          batch_size: B, for arrays.
          epochs: passes over the training data, or rounds of
            `steps_per_epoch`.
          validation_data: `Split`, `Batches` or a tf.data.Dataset of (inputs,
            labels), evaluated after each epoch: `val_mAP` in percent beside
            the loss terms.
          callbacks: further ones.
          steps_per_epoch: minibatches in an epoch; None = all of them once.
          sample_weight: must be None.
          class_weight: must be None.
          validation_split: must be 0.
          **kwargs: of `keras.Model.fit`.

        Returns:
          keras.callbacks.History.

        Raises:
          ValueError: for what cannot be honoured, or data that the method
            cannot use.
        """
        refuse(
            sample_weight=sample_weight,
            class_weight=class_weight,
            validation_split=validation_split,
        )
        data = self._training_data(x, y, batch_size)
        if self._prepared_for() is not _identity(data):
            self.prepare(data)
        self._build_for(data)
        self.build_optimizers()
        if isinstance(data, Batches):
            x = data.training(first_step=steps_taken(self))
            steps_per_epoch = steps_per_epoch or data.steps_per_epoch
        if validation_data is not None:
            validation_data = self.evaluation_batches(
                validation_data, getattr(data, "batch_size", 32)
            )
        boards = (
            callback.log_dir
            for callback in callbacks
            if isinstance(callback, keras.callbacks.TensorBoard)
        )
        log_dir = next(boards, None)
        # Keras shuffles arrays alone, and warns where it is asked to shuffle
        # anything else.
        kwargs.setdefault("shuffle", y is not None)
        return super().fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            validation_data=validation_data,
            callbacks=[*self.callbacks(data, log_dir), *callbacks],
            steps_per_epoch=steps_per_epoch,
            **kwargs,
        )

    def _training_data(self, x, y, batch_size) -> TrainingData:
        if isinstance(x, Split):
            raise ValueError("fit takes minibatches: give Split.batches(32)")
        if isinstance(x, Batches):
            return self.sized(x)
        if not isinstance(x, tf.data.Dataset):
            if y is None:
                raise ValueError(
                    "fit takes Batches, a tf.data.Dataset of (inputs, labels) "
                    f"or two arrays, got {type(x).__name__} without labels"
                )
            x = tf.data.Dataset.from_tensor_slices((x, y))
            x = x.batch(batch_size or 32)
        return TensorBatches(x)

    def sized(self, batches: Batches) -> Batches:
        """Returns `batches` with pictures of the size that the model takes.

        Raises:
          ValueError: if the model takes features and these are pictures, or
            the other way round.
        """
        if self.fixed_features != bool(batches.split.num_features):
            raise ValueError(
                "fixed_features: the model takes features, the data are "
                "pictures: make them by imcl_tf.fixed_features(data, backbone)"
                if self.fixed_features
                else "the data are features: the model needs "
                "fixed_features=True"
            )
        if batches.input_shape:
            return batches
        return batches.sized(*picture_format(self.backbone))

    def _build_for(self, data: TrainingData):
        """Builds the model, as Keras does not where it takes features."""
        if self.built:
            return
        shape = data.input_shape
        if self.fixed_features and getattr(self.backbone, "inputs", None):
            shape = self.backbone.input_shape[1:]
        self.build((None, *shape))

    def build_optimizers(self):
        """Makes the optimizers' variables.

        Keras makes those of the first optimizer alone, and under a
        tf.distribute strategy the others could not be made within a step.
        """
        for optimizer, variables in self.variable_groups():
            if not optimizer.built:
                optimizer.build(variables)

    def evaluation_batches(
        self,
        data: Split | Batches | tf.data.Dataset | tuple,
        batch_size: int = 32,
    ) -> tf.data.Dataset:
        """Returns the minibatches to evaluate on.

        Args:
          data: `Split`, `Batches` or tf.data.Dataset of (inputs, labels).
          batch_size: B, of a split.
        """
        if isinstance(data, Split):
            data = data.batches(batch_size)
        if isinstance(data, Batches):
            return self.sized(data).one_pass()
        if isinstance(data, tuple):
            data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
        return data

    def run_over(
        self, batches: tf.data.Dataset
    ) -> tuple[AveragePrecision, dict[str, float]]:
        """Scores every image of a data set once.

        Args:
          batches: (inputs, labels) or ({"inputs", ...}, labels); they count
            as images outside the training set.

        Returns:
          the filled `AveragePrecision`, and the mean of each loss term.

        Raises:
          FloatingPointError: if a score is not a finite number.
          ValueError: if there is no image.
        """
        precision = AveragePrecision(self.num_labels)
        sums, images = dict.fromkeys(self.TERMS, 0.0), 0
        for inputs, labels in batches:
            if isinstance(inputs, dict):
                inputs = inputs["inputs"]
            batch = Batch.unpack((inputs, labels))
            scores, terms = self.evaluation_step(batch)
            if not np.isfinite(scores).all():
                raise FloatingPointError(
                    "training diverged: a score is not finite; lower the rates"
                )
            precision.update(labels.numpy(), scores.numpy())
            images += len(labels)
            for name in self.TERMS:
                sums[name] += float(terms[name]) * len(labels)
        if not images:
            raise ValueError("the data to evaluate on hold no image")
        return precision, {name: x / images for name, x in sums.items()}

    def evaluate(
        self,
        x: Split | Batches | tf.data.Dataset | np.ndarray | None = None,
        y: np.ndarray | None = None,
        *,
        batch_size: int | None = None,
        sample_weight: Any = None,
        steps: int | None = None,
        return_dict: bool = False,
        **kwargs,
    ) -> dict[str, float] | list[float]:
        """Returns mAP in percent and the means of the loss terms.

        Args:
          x: `Split`, `Batches`, a tf.data.Dataset of (inputs, labels), or
            inputs [N, ...].
          y: [N, C] int8, the labels of an array.
          batch_size: B, of a split or an array.
          sample_weight: must be None.
          steps: minibatches to evaluate on; None = all.
          return_dict: a dictionary in the place of a list.
          **kwargs: of `keras.Model.evaluate`, without effect on the result.

        Returns:
          [loss terms ..., mAP], or name -> value.
        """
        del kwargs
        refuse(sample_weight=sample_weight)
        batches = self.evaluation_batches(
            x if y is None else (x, y), batch_size or 32
        )
        precision, terms = self.run_over(
            batches.take(steps) if steps else batches
        )
        logs = terms | {"mAP": 100 * precision.mean()}
        return logs if return_dict else list(logs.values())

    def train_step(self, data: tuple) -> dict:
        batch = Batch.unpack(data)
        with tf.GradientTape() as tape:
            features = self.features_of(batch.inputs, training=True)
            terms = self.loss_terms(features, batch)
            terms = self.add_regularization(terms)
        self.minimize(tape, terms["loss"], self.variable_groups())
        return self.track(terms)

    def add_regularization(self, terms: dict) -> dict:
        """Returns `terms` with the regularisers of the layers in the loss.

        Those of a fixed backbone do not count: its weights stay.
        """
        fixed = self.backbone.losses if self.fixed_features else []
        fixed = {id(loss) for loss in fixed}
        added = [loss for loss in self.losses if id(loss) not in fixed]
        if not added:
            return terms
        return terms | {"loss": terms["loss"] + tf.add_n(added)}

    def test_step(self, data: tuple) -> dict:
        return self.track(self.evaluation_step(Batch.unpack(data))[1])

    def minimize(self, tape: tf.GradientTape, loss: tf.Tensor, groups: list):
        """One step of each optimizer of `groups` on its variables."""
        gradients = tape.gradient(loss, [variables for _, variables in groups])
        for (optimizer, variables), gradient in zip(
            groups, gradients, strict=True
        ):
            optimizer.apply(gradient, variables)

    def variable_groups(self) -> list:
        """Returns [(optimizer, trainable variables)], each variable once."""
        theta = self.head_variables()
        w = [] if self.fixed_features else self.backbone.trainable_variables
        if self.backbone_optimizer is None:
            return [(self.optimizer, theta + w)]
        return [(self.optimizer, theta)] + (
            [(self.backbone_optimizer, w)] if w else []
        )

    def head_variables(self) -> list:
        """Returns the trainable variables that are not of the backbone."""
        w = {id(variable) for variable in self.backbone.trainable_variables}
        return [v for v in self.trainable_variables if id(v) not in w]

    @property
    def optimizers(self) -> list:
        """Every optimizer in use."""
        return [optimizer for optimizer, _ in self.variable_groups()]

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        backbone_optimizer: str | keras.optimizers.Optimizer | None = None,
        jit_compile: bool = False,
        **kwargs,
    ):
        """Sets the optimizers.

        Args:
          optimizer: of theta, and of w where `backbone_optimizer` is None.
          backbone_optimizer: of w.
          jit_compile: compile the CNN with XLA. What comes after it never is:
            XLA has no sparse product, which A needs.
          **kwargs: of `keras.Model.compile`. The loss is the model's own:
            loss, metrics and their weights must not be given.

        Raises:
          ValueError: for what cannot be honoured.
        """
        refuse(**{k: kwargs.pop(k, None) for k in _NOT_OURS})
        if kwargs.get("steps_per_execution", 1) != 1:
            raise ValueError(
                "steps_per_execution must be 1: methods act between steps"
            )
        super().compile(optimizer=optimizer, jit_compile=False, **kwargs)
        self.backbone_optimizer = _optimizer(backbone_optimizer)
        self._xla_backbone = None
        if jit_compile:
            self._xla_backbone = tf.function(
                self.backbone.__call__, autograph=False, jit_compile=True
            )

    def get_compile_config(self) -> dict | None:
        if not self.compiled:
            return None
        return {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in self._optimizer_names()
            if getattr(self, name) is not None
        }

    def compile_from_config(self, config: dict):
        self.compile(
            **{
                name: keras.saving.deserialize_keras_object(value)
                for name, value in config.items()
            }
        )
        self.build_optimizers()

    def _optimizer_names(self):
        return ("optimizer", "backbone_optimizer")

    def track(self, terms: dict) -> dict:
        """Adds `terms` to the running means of the epoch and returns these."""
        for mean in self._term_means:
            mean.update_state(terms[mean.name])
        return {mean.name: mean.result() for mean in self._term_means}

    def write_extras(self, directory: Path, label_names: tuple[str, ...]):
        """Writes what the method learned beside its weights; nothing here.

        Args:
          directory: workdir of the run.
          label_names: C names.
        """

    def training_state(self) -> dict[str, tf.Variable]:
        """Returns what a resumed run needs beside weights, by name.

        It is saved with the weights and loaded where a model has it; it is not
        exported.
        """
        if self.pseudo_labels is None:
            return {}
        return {"pseudo_labels": self.pseudo_labels.packed}

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
            "boost_factor": self.boost_factor,
            **{
                option.name: getattr(self, option.name)
                for option in self.OPTIONS
            },
        }

    @classmethod
    def from_config(cls, config: dict) -> MultiLabelModel:
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


def mean_over_observed(per_image: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Sum of `per_image` [B] divided by the observed entries of the batch."""
    observed = tf.math.count_nonzero(labels, dtype=tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(per_image), observed)


def _optimizer(identifier):
    return None if identifier is None else keras.optimizers.get(identifier)


def steps_taken(model: MultiLabelModel) -> int:
    """Minibatches that a compiled model has been trained on."""
    # Not int(): under a strategy the variable is one of several copies.
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def require_numbers(data: TrainingData, what: str):
    """Raises ValueError if the training data do not number their images."""
    if isinstance(data, TensorBatches) and not data.numbered:
        raise ValueError(
            f"{what} needs the number of each training image: give "
            '({"inputs": ..., "image_index": ...}, labels), or Split.batches'
        )


def _nothing():
    """A dead weak reference."""


def _identity(data: TrainingData):
    """What two views of the same training labels have in common."""
    return data.labels if isinstance(data, Batches) else data.dataset


class StepCallback(keras.callbacks.Callback):
    """Tracks the global step; after a resume it is `optimizer.iterations`."""

    def __init__(self):
        super().__init__()
        self.step = 0

    def on_train_begin(self, logs: dict | None = None):
        self.step = steps_taken(self.model)


class EpochStart(StepCallback):
    """Calls `begin_epoch` before each pass over the training data.

    Args:
      data: training data. Where the length of a pass is not known, an epoch
        of Keras counts as one.
    """

    def __init__(self, data: TrainingData):
        super().__init__()
        self._data = data

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        if not self._data.steps_per_epoch:
            self.model.begin_epoch(epoch, self._data)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None):
        if self._data.steps_per_epoch:
            epoch, within = divmod(self.step, self._data.steps_per_epoch)
            if within == 0:
                self.model.begin_epoch(epoch, self._data)
        self.step += 1
