"""Checkpoints of a run: written whole, and the last good one is found again."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import keras
from absl import logging

from imcl_tf.files import replacing
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.epochs import StepCallback
from imcl_tf.training.callbacks import validation_mean
from imcl_tf.training.identity import ELSE

BEST, LATEST, PREVIOUS = "best.keras", "latest.keras", "previous.keras"


def is_whole(file: Path) -> bool:
    """Whether a checkpoint is there and every byte as it was written.

    Args:
      file: a .keras file, whose parts have checksums.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError):
        return False


def load_latest(model: MultiLabelModel, directory: Path) -> bool:
    """Loads the latest whole checkpoint: weights and all that training needs.

    Args:
      model: compiled, with built optimizers.
      directory: of the checkpoints.

    Returns:
      whether there was one.

    Raises:
      ValueError: if there are checkpoints, but none is whole.
    """
    files = [directory / LATEST, directory / PREVIOUS]
    there = [file for file in files if file.exists()]
    for file in there:
        if is_whole(file):
            model.load_weights(file)
            return True
        logging.warning("resume: %s is damaged and passed over", file)
    if there:
        raise ValueError(
            f"resume: no checkpoint in {directory} is whole; {ELSE}"
        )
    return False


def load_best(model: MultiLabelModel, directory: Path):
    """Loads the checkpoint of the best validation mAP.

    Raises:
      ValueError: if it is damaged or missing.
    """
    if not is_whole(directory / BEST):
        raise ValueError(
            f"resume: {directory / BEST} is damaged or missing; {ELSE}"
        )
    model.load_weights(directory / BEST)


class BestCheckpoint(StepCallback):
    """Keeps the model of the best validation mAP, and the latest ones.

    The file of each is written beside its place and then moved there. The
    latest but one is kept as well, should the latest be damaged.

    `fit` raises ValueError for a mAP that is not a finite number.

    Args:
      directory: gets `best.keras`, `latest.keras` and `previous.keras`.
      past: validation mAP of the rounds before, where a run is resumed.
      every: steps between checkpoints within a round; 0 = at its end alone.

    Attributes:
      best_file: path of `best.keras`.
      latest_file: path of `latest.keras`.
      saved_step: step of the latest checkpoint.

    Example:
      >>> import imcl_tf, pathlib
      >>> imcl_tf.BestCheckpoint(pathlib.Path("run")).best_file.name
      'best.keras'
    """

    def __init__(
        self, directory: Path, past: Sequence[float] = (), every: int = 0
    ):
        super().__init__()
        self.best_file = directory / BEST
        self.latest_file = directory / LATEST
        self.saved_step = 0
        self._best = max(past, default=-math.inf)
        self._every = every

    def on_train_begin(self, logs: dict | None = None):
        super().on_train_begin(logs)
        self.saved_step = self.step
        if "val_mAP" in cast(dict, logs):
            self.on_epoch_end(-1, logs)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        self.step += 1
        # The end of a round is saved after its evaluation.
        is_last = batch + 1 == self.params["steps"] or self.model.stop_training
        if self._every and self.step % self._every == 0 and not is_last:
            self._save(is_best=False)

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        mean = validation_mean(logs)
        self._save(is_best=mean > self._best)
        self._best = max(mean, self._best)

    def _save(self, is_best: bool):
        with replacing(self.latest_file) as path:
            self.model.save(path)
            # The latest one last: a run is resumed from it.
            if is_best:
                with replacing(self.best_file) as best:
                    shutil.copyfile(path, best)
            if self.latest_file.exists():
                os.replace(
                    self.latest_file, self.latest_file.with_name(PREVIOUS)
                )
        self.saved_step = self.step


class ContinuedRound(keras.callbacks.Callback):
    """Gives a round that began before a resume its running means back.

    Args:
      model: as it was loaded; `fit` sets its running means to 0.
    """

    def __init__(self, model: MultiLabelModel):
        super().__init__()
        self._means = [
            keras.ops.convert_to_numpy(v)
            for metric in model.metrics
            for v in metric.variables
        ]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        variables = (v for m in self.model.metrics for v in m.variables)
        for variable, value in zip(variables, self._means, strict=True):
            variable.assign(value)
