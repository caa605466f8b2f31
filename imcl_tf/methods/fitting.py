"""`fit` and `evaluate` on partial labels: what they take, refuse and do."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.backbones.pictures import picture_format
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pipeline import Batches, Split
from imcl_tf.data.tensors import WRONG_VALUE, TensorBatches
from imcl_tf.methods.averages import AverageWeights
from imcl_tf.methods.batches import (
    Batch,
    TrainingData,
    identity,
    refuse,
)
from imcl_tf.methods.epochs import SameSteps, steps_taken
from imcl_tf.methods.finite import FiniteLoss, NonFiniteLossError
from imcl_tf.methods.optimization import MultiOptimizerModel
from imcl_tf.ops import workers
from imcl_tf.ops.labels import check_labels
from imcl_tf.ops.metrics import (
    AveragePrecision,
    Support,
    observed_counts,
    require_support,
)


class PartialLabelFitting(MultiOptimizerModel):
    """A model whose `fit` is a method of learning from partial labels.

    A subclass has `num_labels`, takes features where `fixed_features` says so,
    and defines `callbacks` and `evaluation_step`.
    """

    TERMS: tuple[str, ...] = ("loss",)
    num_labels: int
    callbacks: Callable[..., list]
    evaluation_step: Any  # tf.function, `Batch` -> (scores, loss terms)
    _prepared_for: weakref.ref | None = None
    _is_joined = False  # whether all workers have begun with the same weights

    def prepare(self, data: TrainingData) -> None:
        """Notes which training data the model is for.

        `fit` calls it before the first step on new training data; the model
        need not be built yet. A method builds here what it needs from the
        training labels, and raises ValueError for what the data do not allow.

        Args:
          data: training data, `Batches` or `TensorBatches`; `labels` [N, C]
            are read when they are asked for.
        """
        if self._prepared_for is not None:
            self.forget_traces()
        # Weak: the model must not hold the data, nor export them.
        self._prepared_for = weakref.ref(identity(data))

    def fit(
        self,
        x: TrainingData | tf.data.Dataset | np.ndarray | None = None,
        y: np.ndarray | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        validation_data: Split | Batches | tf.data.Dataset | None = None,
        callbacks: Sequence[keras.callbacks.Callback]
        | keras.callbacks.Callback
        | None = None,
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
          batch_size: B, for arrays alone.
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
          ValueError: for a model that is not compiled, for what cannot be
            honoured, data that the method cannot use, or validation data in
            which no label has an observed positive and an observed negative.
          FloatingPointError: see `on_nan` of `compile`; also if a validation
            score is not finite.
        """
        if not self.compiled:
            raise ValueError("compile the model before fit")
        refuse(
            sample_weight=sample_weight,
            class_weight=class_weight,
            validation_split=validation_split,
        )
        if y is not None:
            x, y = np.asarray(x) if isinstance(x, list) else x, _dense(y)
        data = self._training_data(x, y, batch_size)
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        callbacks = [*(callbacks or ())]
        if validation_data is not None:
            given = validation_data
            validation_data = self.evaluation_batches(
                given, getattr(data, "batch_size", 32)
            )
            _check_support(
                given
                if isinstance(given, Split | Batches)
                else validation_data,
                kwargs.get("validation_steps"),
            )
        with self.distribute_strategy.scope(), _one_line_for_wrong_data():
            self._make_ready(data)
            if isinstance(data, Batches):
                x = data.training(first_step=steps_taken(self))
                steps_per_epoch = steps_per_epoch or data.steps_per_epoch
            elif y is None:
                x = data.training()
            # Keras shuffles arrays alone, and warns where it is asked to
            # shuffle anything else.
            kwargs.setdefault("shuffle", y is not None)
            return super().fit(
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                validation_data=validation_data,
                callbacks=[
                    FiniteLoss(data),
                    *([AverageWeights(self.average)] if self.average else []),
                    *([SameSteps()] if workers.current().number > 1 else []),
                    *self.callbacks(data, _log_dir(callbacks)), *callbacks,
                ],
                steps_per_epoch=steps_per_epoch,
                **kwargs,
            )  # fmt: skip

    def _make_ready(self, data: TrainingData):
        """Prepares the model for new data, and builds what is not built."""
        known = self._prepared_for
        if known is None or known() is not identity(data):
            self.prepare(data)
        self._build_for(data)
        self.build_optimizers()
        if workers.current().number > 1:
            self._join_workers()

    def _join_workers(self):
        """Begins as worker 0 does, but with random numbers of its own."""
        self._is_joined = True
        state = [*self.variables]
        for optimizer in self.optimizers:
            state += optimizer.variables
        workers.same_as_first([variable.value for variable in state])
        # Else dropout would leave out the same of each worker's images. What
        # comes after the features is the same on all.
        for layer in self.backbone._flatten_layers():
            for generator in layer._seed_generators:
                own = generator.state + [workers.current().index, 0]
                generator.state.assign(own)

    def _training_data(self, x, y, batch_size) -> TrainingData:
        if isinstance(x, Split):
            raise ValueError("fit takes minibatches: give Split.batches(32)")
        if isinstance(x, Batches | tf.data.Dataset) and batch_size:
            raise ValueError(
                "batch_size is for arrays, the data come in minibatches: give "
                "Split.batches(batch_size) or Dataset.batch(batch_size)"
            )
        if isinstance(x, Batches):
            return self.sized(x)
        if not isinstance(x, tf.data.Dataset):
            if y is None:
                raise ValueError(
                    "fit takes Batches, a tf.data.Dataset of (inputs, labels) "
                    f"or two arrays, got {type(x).__name__} without labels"
                )
            x = tf.data.Dataset.from_tensor_slices((x, y))
            x = x.batch(32 if batch_size is None else batch_size)
        return TensorBatches(x, self.num_labels)

    def sized(self, batches: Batches) -> Batches:
        """Returns `batches` with pictures of the size that the model takes.

        Raises:
          ValueError: if the model takes features and these are pictures, or
            the other way round.
        """
        without = isinstance(self.backbone, keras.layers.Identity)
        takes_features = self.fixed_features or without
        if takes_features != bool(batches.split.num_features):
            raise ValueError(
                "fixed_features: the model takes features, the data are "
                "pictures: make them by imcl_tf.fixed_features(data, backbone)"
                if takes_features
                else "the data are features: the model needs "
                "fixed_features=True"
            )
        if batches.input_shape:
            return batches
        return batches.sized(*picture_format(self.backbone))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: `fit` has built the model.

        Keras would average the first minibatch over the devices of a strategy,
        and fail where these have unequal shares.
        """

    def _build_for(self, data: TrainingData):
        """Builds the model, as Keras does not where it takes features."""
        if self.built:
            return
        shape = data.input_shape
        if self.fixed_features and getattr(self.backbone, "inputs", None):
            shape = self.backbone.input_shape[1:]
        self.build((None, *shape))

    def evaluation_batches(
        self,
        data: Split | Batches | tf.data.Dataset | tuple,
        batch_size: int = 32,
    ) -> tf.data.Dataset:
        """Returns the minibatches to evaluate on.

        Args:
          data: `Split`, `Batches` or tf.data.Dataset of (inputs, labels).
          batch_size: B, of a split.

        Raises:
          ValueError: if the data are something else.
        """
        if isinstance(data, Split):
            data = data.batches(batch_size)
        if isinstance(data, Batches):
            return self.sized(data).one_pass()
        if isinstance(data, MultiLabelDataset):
            raise ValueError(
                "the data to evaluate on must be a split of the data set, such "
                "as data.test"
            )
        if isinstance(data, tuple):
            data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
        if not isinstance(data, tf.data.Dataset):
            raise ValueError(
                "the data to evaluate on must be a split, minibatches, a "
                "tf.data.Dataset of (inputs, labels) or two arrays, got "
                f"{type(data).__name__}"
            )
        return data

    def run_over(
        self,
        batches: tf.data.Dataset,
        see: Callable[[np.ndarray], None] = lambda scores: None,
    ) -> tuple[AveragePrecision, dict[str, float]]:
        """Scores every image of a data set once.

        Args:
          batches: (inputs, labels) or ({"inputs", ...}, labels); they count
            as images outside the training set.
          see: called with the scores [b, C] of each minibatch.

        Returns:
          the filled `AveragePrecision`, and the mean of each loss term.

        Raises:
          FloatingPointError: if a score is not a finite number.
          ValueError: if there is no image.
        """
        if self.average is None:
            return self._run_over(batches, see)
        with self.average.in_place():
            return self._run_over(batches, see)

    def _run_over(self, batches, see):
        precision = AveragePrecision(self.num_labels)
        sums, images = dict.fromkeys(self.TERMS, 0.0), 0
        step = None
        for data in batches:
            batch = Batch.unpack(data)
            # No image of the training set, whatever number it has.
            batch = batch._replace(image_index=-tf.ones_like(batch.image_index))
            if step is None:  # traced once, though the last batch is smaller
                step = self.evaluation_step.get_concrete_function(batch.spec())
            scores, terms = step(batch)
            if not np.isfinite(scores).all():
                raise FloatingPointError(
                    "training diverged: a score is not finite; lower the rates"
                )
            size = len(batch.labels)
            precision.update(batch.labels.numpy(), scores.numpy())
            see(scores.numpy())
            images += size
            for name in self.TERMS:
                sums[name] += float(terms[name]) * size
        if not images:
            raise ValueError("the data to evaluate on hold no image")
        return precision, {name: x / images for name, x in sums.items()}

    def train_on_batch(self, *arguments, **kwargs) -> list | dict | float:
        """One step, as that of Keras.

        Raises:
          ValueError: for a model compiled with `ema_decay`, and where workers
            have not begun with `fit`, or have other minibatches.
          FloatingPointError: see `on_nan` of `compile`.
        """
        if self.average is not None:
            raise ValueError(
                "train_on_batch: fit alone keeps the average of ema_decay"
            )
        if workers.current().number > 1 and not self._is_joined:
            raise ValueError(
                "train_on_batch: several workers begin with fit, which gives "
                "all the same weights"
            )
        with _one_line_for_wrong_data():
            logs = super().train_on_batch(*arguments, **kwargs)
        if self.on_nan == "stop" and not self.last_step.is_finite.numpy():
            raise NonFiniteLossError(
                "training diverged: the loss of the minibatch, or its "
                "gradient, is not finite; lower the learning rates"
            )
        return logs

    def predict(self, x: Any, *arguments, **kwargs) -> np.ndarray:
        """Returns the logits [N, C] of inputs, as `keras.Model.predict`.

        Raises:
          ValueError: for a `Split` or `Batches`.
        """
        if isinstance(x, Split | Batches):
            raise ValueError(
                "predict takes inputs, as arrays or a tf.data.Dataset, got "
                f"{type(x).__name__}; evaluate takes those"
            )
        return super().predict(x, *arguments, **kwargs)

    def evaluate(
        self,
        x: Split | Batches | tf.data.Dataset | np.ndarray | None = None,
        y: np.ndarray | None = None,
        *,
        batch_size: int | None = None,
        sample_weight: Any = None,
        steps: int | None = None,
        return_dict: bool = False,
        verbose: str | int = "auto",
        callbacks: keras.callbacks.CallbackList | None = None,
        _use_cached_eval_dataset: bool = False,
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
          verbose: without effect, nothing is printed.
          callbacks: must be None; `fit` gives its own list, which nothing
            here calls.

        Returns:
          [loss terms ..., mAP], or name -> value.

        Raises:
          ValueError: for what cannot be honoured, or if no label has an
            observed positive and an observed negative.
        """
        # What `keras.Model.fit` gives; there are no Keras metrics to cache.
        del verbose, _use_cached_eval_dataset
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = None
        refuse(sample_weight=sample_weight, callbacks=callbacks)
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        batches = self.evaluation_batches(
            x if y is None else (x, y), batch_size or 32
        )
        precision, terms = self.run_over(
            batches.take(steps) if steps else batches
        )
        logs = terms | {"mAP": 100 * precision.mean()}
        return logs if return_dict else list(logs.values())


@contextlib.contextmanager
def _one_line_for_wrong_data() -> Iterator[None]:
    """Makes ValueError of what wrong labels or other minibatches raise."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if WRONG_VALUE in error.message:
            raise ValueError(
                f"{WRONG_VALUE}; the training data hold other values"
            ) from error
        if workers.OTHERS in error.message:
            raise ValueError(workers.OTHERS) from error
        raise


def _check_support(data: Split | Batches | tf.data.Dataset, steps: int | None):
    """Raises ValueError before training if `data` can have no mAP.

    As many minibatches are read as it takes to find a label that has one.
    """
    if isinstance(data, Split | Batches):
        labels: Any = [data.labels]
    else:
        labels = (
            Batch.unpack(x).labels.numpy() for x in data.take(steps or -1)
        )
    positives = negatives = np.zeros(0, int)
    for part in labels:
        if not len(positives):
            positives = negatives = np.zeros(part.shape[1], int)
        counts = observed_counts(part)
        positives, negatives = positives + counts[0], negatives + counts[1]
        if Support.of(positives, negatives).labels:
            return
    try:
        require_support(positives, negatives)
    except ValueError as error:
        raise ValueError(f"validation_data: {error}") from error


def _dense(labels) -> np.ndarray:
    """[N, C] int8 of labels that `check_labels` takes."""
    labels = check_labels(labels)
    return labels.toarray() if scipy.sparse.issparse(labels) else labels


def _log_dir(callbacks) -> str | None:
    """The directory of the TensorBoard callback among these."""
    boards = (
        callback.log_dir
        for callback in callbacks
        if isinstance(callback, keras.callbacks.TensorBoard)
    )
    return next(boards, None)
