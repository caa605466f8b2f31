"""The optimizers of a model: what each steps on, and the step."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from imcl_tf.backbones.depth import layer_groups
from imcl_tf.backbones.statistics import (
    batch_normalizations,
    share_batch_statistics,
    synchronize_batch_statistics,
    trains_statistics,
)
from imcl_tf.methods.averages import WeightAverage
from imcl_tf.methods.batches import KERAS_ARGUMENTS, refuse
from imcl_tf.methods.finite import LastStep, Skipped, is_finite
from imcl_tf.ops import workers
from imcl_tf.settings import ON_NAN


class MultiOptimizerModel(keras.Model):
    """A model whose head and backbone may have optimizers of their own.

    A subclass has a `backbone`, of weights w, and says with `fixed_features`
    whether these stay as they are.
    """

    backbone: Any
    fixed_features: bool
    # Set by `compile`.
    clip_norm = 0.0
    layer_decay = 1.0
    ema_decay = 0.0
    on_nan = "stop"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.average: WeightAverage | None = None
        self.last_step = LastStep()
        self.skipped: list[Skipped] = []
        self.backbone_optimizer = None
        self._layer_optimizers: list = []
        self._xla_backbone = None

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        backbone_optimizer: str | keras.optimizers.Optimizer | None = None,
        jit_compile: bool = False,
        clip_norm: float = 0.0,
        layer_decay: float = 1.0,
        ema_decay: float = 0.0,
        on_nan: str = "stop",
        **kwargs,
    ):
        """Sets the optimizers.

        Args:
          optimizer: of theta, and of w where `backbone_optimizer` is None.
          backbone_optimizer: of w.
          jit_compile: compile the CNN with XLA. What comes after it never is:
            XLA has no sparse product, which A needs.
          clip_norm: largest norm of the gradient of all variables that step
            together, on all devices; 0 = not clipped.
          layer_decay: factor in (0, 1] of the rate of w from the head to the
            last layers, and from each group of layers to the one below it, see
            `imcl_tf.backbones.depth.layer_groups`; 1 = one rate for all. The
            optimizer's rate is then a number, not a schedule.
          ema_decay: in [0, 1), of the moving average of the weights per step,
            see `imcl_tf.methods.averages.WeightAverage`; 0 = no average. What
            is evaluated, and what `fit` leaves, is the average.
          on_nan: what happens at a minibatch whose loss or gradient is not
            finite. No step is made on it; then `fit` raises
            `NonFiniteLossError` ("stop"), or leaves it out, warns, and adds it
            to `skipped` ("skip").
          **kwargs: of `keras.Model.compile`. The loss is the model's own:
            loss, metrics and their weights must not be given.

        Raises:
          ValueError: for what cannot be honoured.
        """
        refuse(**{k: kwargs.pop(k, None) for k in KERAS_ARGUMENTS})
        if kwargs.get("steps_per_execution", 1) != 1:
            raise ValueError(
                "steps_per_execution must be 1: methods act between steps"
            )
        _check_range("clip_norm", clip_norm, clip_norm >= 0)
        _check_range("layer_decay", layer_decay, 0 < layer_decay <= 1)
        _check_range("ema_decay", ema_decay, 0 <= ema_decay < 1)
        if on_nan not in ON_NAN:
            raise ValueError(
                f"on_nan must be one of {', '.join(ON_NAN)}, got {on_nan!r}"
            )
        super().compile(optimizer=optimizer, jit_compile=False, **kwargs)
        self.clip_norm = float(clip_norm)
        self.layer_decay = float(layer_decay)
        self.ema_decay = float(ema_decay)
        self.on_nan = on_nan
        self.average = None
        self._layer_optimizers = []
        self.backbone_optimizer = _optimizer(backbone_optimizer)
        several = self.distribute_strategy.num_replicas_in_sync > 1
        if workers.current().number > 1:
            if jit_compile and trains_statistics(self.backbone):
                raise ValueError(
                    "jit: XLA cannot compile the exchange between workers of "
                    "batch statistics, which are trained here; begin with "
                    "trained weights, or leave it out"
                )
            share_batch_statistics(self.backbone)
        for name in ("optimizer", "backbone_optimizer"):
            _refuse_optimizer(name, getattr(self, name), several)
        if several:
            synchronize_batch_statistics(self.backbone)
        self.forget_traces()
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
        } | {
            name: getattr(self, name)
            for name in ("clip_norm", "layer_decay", "ema_decay", "on_nan")
        }

    def compile_from_config(self, config: dict):
        self.compile(
            **{
                name: keras.saving.deserialize_keras_object(value)
                for name, value in config.items()
            }
        )
        if self.built:
            self.build_optimizers()

    def _optimizer_names(self):
        return ("optimizer", "backbone_optimizer")

    def forget_traces(self):
        """Drops compiled steps: they hold parts of the earlier model or data.

        Is called where such a part changes: `prepare`, `compile`, a new
        dictionary.
        """
        self.train_function = None
        for name in [*vars(self)]:
            made_by = getattr(type(self), name, None)
            if isinstance(made_by, functools.cached_property):
                del self.__dict__[name]

    def minimize(
        self,
        tape: tf.GradientTape,
        loss: tf.Tensor,
        groups: list,
        kept: Sequence[tuple[tf.Variable, tf.Tensor]] = (),
    ) -> tf.Tensor:
        """One step of each optimizer of `groups` on its variables.

        No step is made where the loss or a gradient is not finite; it counts
        as one in `iterations`, which say how many minibatches were seen.

        Args:
          tape: that recorded the loss.
          loss: [] float32.
          groups: [(optimizer, variables)].
          kept: variables, with the values that they get back where no step is
            made.

        Returns:
          [] bool, whether the step was made.
        """
        gradients = _gradients_of(
            tape, loss, [variables for _, variables in groups]
        )
        if self.clip_norm:
            flat = clipped(tf.nest.flatten(gradients), self.clip_norm)
            gradients = tf.nest.pack_sequence_as(gradients, flat)
        finite = is_finite(loss, tf.nest.flatten(gradients))

        def apply(gradients):
            for (optimizer, variables), gradient in zip(
                groups, gradients, strict=True
            ):
                optimizer.apply(gradient, variables)

        def decide(strategy, gradients, finite, values):
            def leave_out():
                for (variable, _), value in zip(kept, values, strict=True):
                    strategy.extended.update(variable, _assign, (value,))
                for optimizer, _ in groups:
                    optimizer.iterations.assign_add(1)

            tf.cond(
                strategy.experimental_local_results(finite)[0],
                lambda: strategy.extended.call_for_each_replica(
                    apply, (gradients,)
                ),
                leave_out,
            )

        # A condition around what optimizers of several devices do must be that
        # of all devices at once.
        tf.distribute.get_replica_context().merge_call(
            decide, (gradients, finite, [value for _, value in kept])
        )
        return finite

    def moving_state(self) -> list[tuple[tf.Variable, tf.Tensor]]:
        """Returns what a step changes before its loss is known, as it is now.

        These are the statistics of batch normalisations.
        """
        if self.fixed_features:
            return []
        variables = [
            v.value
            for layer in batch_normalizations(self.backbone)
            if layer.trainable
            for v in layer.variables
            if not v.trainable
        ]
        return [(v, tf.identity(v)) for v in variables]

    def variable_groups(self) -> list:
        """Returns [(optimizer, trainable variables)], each variable once."""
        theta = self.head_variables()
        w = [] if self.fixed_features else self.backbone.trainable_variables
        if self.layer_decay < 1 and w:
            groups = layer_groups(self.backbone)
            by_depth = zip(self._layer_optimizers, groups, strict=True)
            return [(self.optimizer, theta), *by_depth]
        if self.backbone_optimizer is None:
            return [(self.optimizer, theta + w)]
        return [(self.optimizer, theta)] + (
            [(self.backbone_optimizer, w)] if w else []
        )

    def head_variables(self) -> list:
        """Returns the trainable variables that are not of the backbone."""
        w = {id(variable) for variable in self.backbone.trainable_variables}
        return [v for v in self.trainable_variables if id(v) not in w]

    def _make_layer_optimizers(self):
        """One for each group of layers, the last layers' first."""
        first = self.backbone_optimizer or self.optimizer
        config = first.get_config()
        rates = [
            config["learning_rate"] * self.layer_decay ** (level + 1)
            for level, _ in enumerate(layer_groups(self.backbone))
        ]
        self._layer_optimizers = [
            type(first).from_config(config | {"learning_rate": rate})
            for rate in rates
        ]

    def build_optimizers(self):
        """Makes the optimizers, their variables and the average of weights.

        Keras makes the variables of the first optimizer alone, and under a
        tf.distribute strategy the others could not be made within a step.
        """
        by_depth = self.layer_decay < 1 and not self.fixed_features
        if by_depth and not self._layer_optimizers:
            self._make_layer_optimizers()
        for optimizer, variables in self.variable_groups():
            if not optimizer.built:
                optimizer.build(variables)
        if self.ema_decay and self.average is None:
            self.average = WeightAverage(self._averaged(), self.ema_decay)

    def _averaged(self) -> list:
        """The trained weights, and the statistics that move with them."""
        trained = [v for _, group in self.variable_groups() for v in group]
        if self.fixed_features:
            return trained
        layers = batch_normalizations(self.backbone)
        return trained + [
            v for layer in layers for v in layer.variables if not v.trainable
        ]

    @property
    def optimizers(self) -> list:
        """Every optimizer in use."""
        return [optimizer for optimizer, _ in self.variable_groups()]


def _assign(copy, value):
    copy.assign(value)


def _gradients_of(
    tape: tf.GradientTape, loss: tf.Tensor, variables: list
) -> list:
    """Returns this device's part of the gradient of `loss`.

    Each device and worker has the loss of the whole minibatch. Optimizers add
    up the gradients of the devices; those of the workers are added up here.
    """
    parts = tf.distribute.get_strategy().num_replicas_in_sync
    parts *= workers.current().number
    gradients = tape.gradient(
        loss, variables, output_gradients=tf.constant(1.0 / parts)
    )
    return _summed(gradients)


def _summed(gradients: list) -> list:
    """The gradients of all workers together, in one exchange."""
    if workers.current().number == 1:
        return gradients
    flat = [x for x in tf.nest.flatten(gradients) if x is not None]
    flat = [tf.convert_to_tensor(x) for x in flat]
    joined = tf.concat([tf.reshape(x, [-1]) for x in flat], 0)
    parts = tf.split(
        workers.all_sum(joined), tf.stack([tf.size(x) for x in flat]),
        num=len(flat),
    )  # fmt: skip
    whole = iter(
        tf.reshape(part, tf.shape(x))
        for part, x in zip(parts, flat, strict=True)
    )
    return [
        [None if x is None else next(whole) for x in group]
        for group in gradients
    ]


def clipped(gradients: list, clip_norm: float) -> list:
    """Scales gradients so that their common norm is `clip_norm` at most.

    Args:
      gradients: this device's parts, of `_gradients_of`; None = no gradient.
      clip_norm: largest norm, of the gradients summed over the devices.

    Returns:
      the parts, all multiplied by one factor; NaN where the norm is no finite
      number.
    """
    whole = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        whole = context.all_reduce(tf.distribute.ReduceOp.SUM, whole)
    norm = tf.linalg.global_norm(whole)
    return tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)[0]


def _refuse_optimizer(name, optimizer, several_devices):
    """Raises ValueError for what no step here does."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"{name}: losses are not scaled, as mixed_float16 needs; use "
            "mixed_bfloat16"
        )
    if getattr(optimizer, "use_ema", False):
        raise ValueError(
            f"{name}: use_ema cannot be honoured, for an optimizer here has "
            "some of the model's variables; give compile an ema_decay"
        )
    if several_devices and any(
        getattr(optimizer, clip, None)
        for clip in ("clipnorm", "clipvalue", "global_clipnorm")
    ):
        raise ValueError(
            f"{name}: gradients cannot be clipped on several devices, for "
            "Keras clips each device's part of them; give compile a clip_norm"
        )


def _check_range(name, value, inside):
    if not inside or not math.isfinite(value):
        raise ValueError(f"{name} is out of range, got {value}")


def _optimizer(identifier):
    return None if identifier is None else keras.optimizers.get(identifier)
