"""A stage of a run: one model, trained by `fit` on a schedule."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import keras

from imcl_tf.data.pipeline import Batches, MultiLabelDataset
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.epochs import steps_taken
from imcl_tf.settings import BOTH_STAGES, INITIAL_STAGE, JIT, METHOD_STAGE
from imcl_tf.training.callbacks import (
    LATEST,
    BestCheckpoint,
    Evaluation,
    RateDecay,
    RateDrop,
    StopAfter,
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
    steps = min(schedule.evaluate_every or batches.steps_per_epoch, total)
    latest = directory / "checkpoints" / LATEST
    first_step = 0
    if latest.is_file():  # the run is resumed
        model.load_weights(latest)
        first_step = steps_taken(model)
    evaluation = Evaluation(
        model.evaluation_batches(data.validation, batches.batch_size),
        directory / "metrics.csv", batches.steps_per_epoch, first_step,
    )  # fmt: skip
    checkpoint = BestCheckpoint(directory / "checkpoints", evaluation.past)
    callbacks = [evaluation]
    if schedule.rate_decay < 1:
        callbacks.append(RateDecay(schedule.rate_decay, past=evaluation.past))
    callbacks.append(checkpoint)  # with the rates of the next round
    if schedule.rate_drop_epoch:
        callbacks.append(
            RateDrop(schedule.rate_drop_epoch, batches.steps_per_epoch)
        )
    board = keras.callbacks.TensorBoard(
        directory / "tensorboard", write_graph=False
    )
    # Rounds; the last of an earlier end may have been a shorter one.
    first_round = -(-first_step // steps)
    rounds = -(-(total - first_step) // steps)
    if rounds:
        model.fit(
            batches,
            epochs=first_round + rounds,
            initial_epoch=first_round,
            steps_per_epoch=steps,
            callbacks=[*callbacks, StopAfter(total), board],
            verbose=1 if sys.stdout.isatty() else 2,
        )
    if schedule.keep == "best":
        model.load_weights(checkpoint.best_file)


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


def _compile(model, schedule):
    def rmsprop(rate):
        return keras.optimizers.RMSprop(
            rate, rho=0.9, momentum=schedule.momentum,
            epsilon=schedule.epsilon,
            weight_decay=schedule.weight_decay or None,
        )  # fmt: skip

    backbone = None
    if schedule.backbone_learning_rate and not model.fixed_features:
        backbone = rmsprop(schedule.backbone_learning_rate)
    model.compile(
        rmsprop(schedule.learning_rate),
        backbone_optimizer=backbone,
        jit_compile=schedule.jit,
    )
    # Built now, so that a checkpoint of the untrained model has their state.
    model.build_optimizers()
