"""A stage of a run: one model, trained by `fit` on a schedule."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np

from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pipeline import Batches
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.epochs import steps_taken
from imcl_tf.methods.finite import NonFiniteLossError
from imcl_tf.settings import BOTH_STAGES, INITIAL_STAGE, JIT, METHOD_STAGE
from imcl_tf.training.callbacks import (
    Evaluation,
    RateDecay,
    RateDrop,
    RateSchedule,
    SkippedMinibatches,
    StopAfter,
    damaged,
)
from imcl_tf.training.checkpoints import (
    BestCheckpoint,
    ContinuedRound,
    load_best,
    load_latest,
)


def initial_schedule(given: dict) -> SimpleNamespace:
    """The options that the initial model trains with, as the method's own."""
    return SimpleNamespace(
        **{option.name: option.default for option in METHOD_STAGE}
        | {option.name: given[option.name] for option in (*BOTH_STAGES, JIT)}
        | {
            option.name.removeprefix("initial_"): given[option.name]
            for option in INITIAL_STAGE
        }
    )


def check_schedules(given: dict, steps_per_epoch: int, is_solved: bool):
    """Raises ValueError for options of a run's schedules that contradict.

    Args:
      given: option -> value.
      steps_per_epoch: on the training set.
      is_solved: whether the initial model is solved, or loaded, not trained.
    """
    cosine = given["rate_schedule"] == "cosine"
    if cosine and given["rate_drop_epoch"]:
        raise ValueError(
            f"rate_drop_epoch={given['rate_drop_epoch']} is of "
            "rate_schedule=plateau, got rate_schedule=cosine; set one of them"
        )
    warmup = given["warmup_epochs"]
    for name in ["epochs"] if is_solved else ["initial_epochs", "epochs"]:
        if 0 < given[name] <= warmup:
            raise ValueError(
                f"warmup_epochs must be less than {name}={given[name]}, got "
                f"{warmup:g}"
            )
    steps = math.ceil(warmup * steps_per_epoch)
    if 0 < given["max_steps"] <= steps:
        raise ValueError(
            f"warmup_epochs={warmup:g} are {steps} steps; expected less than "
            f"max_steps={given['max_steps']}"
        )


def fit_stage(
    model: MultiLabelModel,
    data: MultiLabelDataset,
    images: Batches,
    schedule: SimpleNamespace,
    directory: Path,
):
    """Trains `model`; leaves it with its best or its latest weights."""
    if not schedule.epochs:
        return
    model.fixed_features = bool(data.train.num_features)
    batches = images.of_split(data.train)
    _compile(model, schedule)
    (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
    total = schedule.epochs * batches.steps_per_epoch
    if schedule.max_steps:
        total = min(total, schedule.max_steps)
    steps = min(schedule.evaluate_every or batches.steps_per_epoch, total)
    rates = [
        float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        for optimizer in model.optimizers
    ]
    resumed = load_latest(model, directory / "checkpoints")
    first_step = steps_taken(model) if resumed else 0
    evaluation = Evaluation(
        model.evaluation_batches(data.validation, batches.batch_size),
        directory / "metrics.csv", batches.steps_per_epoch, first_step,
    )  # fmt: skip
    checkpoint = BestCheckpoint(
        directory / "checkpoints", evaluation.past, schedule.checkpoint_every
    )
    callbacks = [
        SkippedMinibatches(
            directory / "skipped_minibatches.csv", model, first_step
        ),
        evaluation,
        # Before the checkpoint, which holds the rates of the next round.
        *_rate_callbacks(
            schedule, rates, total, batches.steps_per_epoch, evaluation.past
        ),
        StopAfter(total),
        checkpoint,
        keras.callbacks.TensorBoard(
            directory / "tensorboard", write_graph=False
        ),
    ]  # fmt: skip
    fit = functools.partial(_fit, model, batches, checkpoint)
    number = max(0, len(evaluation.past) - 1)
    done = 0
    if first_step:
        done = _steps_done([*evaluation.rounds, first_step], steps, directory)
    if done:  # the run ended amid a round
        fit(number, 1, steps - done, [ContinuedRound(model), *callbacks])
        number, first_step = number + 1, first_step + steps - done
    rounds = -(-(total - first_step) // steps)
    if rounds > 0:
        fit(number, rounds, steps, callbacks)
    if schedule.keep == "best":
        load_best(model, directory / "checkpoints")


def _steps_done(rounds, steps, directory):
    """Steps of the round amid which a run ended.

    Args:
      rounds: step 0, at which each further round ended, and the last one.
      steps: most of a round.
      directory: of the stage.
    """
    lengths = np.diff(rounds)
    # The end of a round is saved with its row. Where steps are lacking, so are
    # rows of the file.
    if rounds[0] or lengths[-1] >= steps or max(lengths) > steps:
        raise damaged(directory / "metrics.csv", "rows are missing")
    return int(lengths[-1])


def _fit(model, batches, checkpoint, number, rounds, steps, callbacks):
    """Trains for some rounds of `steps` minibatches, the first is `number`."""
    try:
        model.fit(
            batches,
            epochs=number + rounds,
            initial_epoch=number,
            steps_per_epoch=steps,
            callbacks=callbacks,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except NonFiniteLossError as error:
        raise NonFiniteLossError(
            f"{error}; the last good checkpoint, {checkpoint.latest_file}, is "
            f"of step {checkpoint.saved_step}"
        ) from error


def record_solved(
    model: MultiLabelModel,
    data: MultiLabelDataset,
    images: Batches,
    directory: Path,
):
    """Leaves what `fit_stage` does, of a model that needs no training."""
    batches = images.of_split(data.train)
    (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(
        model.evaluation_batches(data.validation, batches.batch_size),
        directory / "metrics.csv", batches.steps_per_epoch,
    )  # fmt: skip
    model.compile("rmsprop")
    callbacks = keras.callbacks.CallbackList(
        [evaluation, BestCheckpoint(directory / "checkpoints")], model=model
    )
    callbacks.on_train_begin({})


def _rate_callbacks(schedule, rates, total, steps_per_epoch, past):
    """What changes the learning rates during a stage of `total` steps."""
    cosine = schedule.rate_schedule == "cosine"
    warmup = math.ceil(schedule.warmup_epochs * steps_per_epoch)
    callbacks = []
    if cosine or warmup:
        callbacks.append(RateSchedule(rates, warmup, total if cosine else 0))
    if not cosine and schedule.rate_decay < 1:
        callbacks.append(RateDecay(schedule.rate_decay, past=past))
    if schedule.rate_drop_epoch:
        callbacks.append(RateDrop(schedule.rate_drop_epoch, steps_per_epoch))
    return callbacks


def _compile(model, schedule):
    backbone = None
    if schedule.backbone_learning_rate and not model.fixed_features:
        backbone = _optimizer(schedule, schedule.backbone_learning_rate)
    model.compile(
        _optimizer(schedule, schedule.learning_rate),
        backbone_optimizer=backbone,
        jit_compile=schedule.jit,
        clip_norm=schedule.clip_norm,
        layer_decay=schedule.layer_decay,
        on_nan=schedule.on_nan,
        ema_decay=schedule.ema_decay if schedule.ema else 0.0,
    )
    # Built now, so that a checkpoint of the untrained model has their state.
    model.build_optimizers()


def _optimizer(schedule, rate):
    if schedule.optimizer == "adamw":
        return keras.optimizers.AdamW(
            rate, beta_1=schedule.momentum, weight_decay=schedule.weight_decay
        )
    return keras.optimizers.RMSprop(
        rate, rho=0.9, momentum=schedule.momentum, epsilon=schedule.epsilon,
        weight_decay=schedule.weight_decay or None,
    )  # fmt: skip
