"""What a run adds to training: evaluation, checkpoints, learning rates."""

from __future__ import annotations

import collections
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import keras
import tensorflow as tf

from imcl_tf.files import write_csv
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.epochs import StepCallback
from imcl_tf.methods.finite import Skipped
from imcl_tf.training.identity import ELSE

# Terms that metrics.csv has a column for whatever the method: 0 where a method
# has no such term.
_COMMON_TERMS = (
    "loss", "logistic_loss", "label_smoothness", "feature_smoothness"
)  # fmt: skip


class Evaluation(StepCallback):
    """Evaluates on validation before training and after each round.

    Adds `val_mAP` (percent), `val_` loss terms and `learning_rate` to the
    logs, where the progress bar, TensorBoard and later callbacks find them,
    and writes one row per split to `metrics.csv`. The last columns say on how
    many labels, observed positives and observed negatives the mAP rests.

    Args:
      batches: validation minibatches, (inputs, labels).
      metrics_file: where the rows go, header first.
      steps_per_epoch: minibatches of one pass over the training set.
      first_step: 0; or the step of a resumed run, whose rows the file holds.

    Attributes:
      past: validation mAP of the rounds before `first_step`.
      rounds: steps at which these were evaluated.

    Raises:
      ValueError: if the file of a resumed run is damaged.

    Example:
      >>> import imcl_tf, numpy as np, pathlib, tensorflow as tf
      >>> features = np.eye(2, dtype=np.float32)
      >>> data = features, np.array([[1, -1], [-1, 1]], np.int8)
      >>> batches = tf.data.Dataset.from_tensor_slices(data).batch(2)
      >>> evaluation = imcl_tf.Evaluation(
      ...     batches, pathlib.Path("metrics.csv"), steps_per_epoch=1)
      >>> model = imcl_tf.MultiLabelModel(None, 2)
      >>> model.compile("rmsprop")
      >>> history = model.fit(batches, verbose=0, callbacks=[evaluation])
      >>> pathlib.Path("metrics.csv").read_text().split(",")[:4]
      ['step', 'epoch', 'split', 'mAP']
    """

    def __init__(
        self,
        batches: tf.data.Dataset,
        metrics_file: Path,
        steps_per_epoch: int,
        first_step: int = 0,
    ):
        super().__init__()
        self._batches = batches
        self._file = metrics_file
        self._steps_per_epoch = steps_per_epoch
        self._rows = _rows_until(metrics_file, first_step) if first_step else []
        evaluated = [row for row in self._rows if row[2] == "validation"]
        self.rounds = [int(row[0]) for row in evaluated]
        try:
            self.past = [float(row[3]) for row in evaluated]
        except ValueError as error:
            raise damaged(metrics_file, error) from error
        self._latest = self.past[-1] if self.past else math.nan

    def on_train_begin(self, logs: dict | None = None):
        super().on_train_begin(logs)
        if not self.past:
            cast(dict, logs).update(self._evaluate({}))

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        self.step += 1
        if logs is not None:
            logs["val_mAP"] = self._latest

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        logs = cast(dict, logs)
        logs.update(self._evaluate(logs))

    def _evaluate(self, training: dict) -> dict:
        precision, terms = self.model.run_over(self._batches)
        # As in the file, so that a resumed run decides alike.
        self._latest = round(100 * precision.mean(), 4)
        rate = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )
        if training:
            self._add_row("train", "", training, rate, ("", "", ""))
        support = precision.support()
        self._add_row(
            "validation", f"{self._latest:.4f}", terms, rate,
            (support.labels, support.positives, support.negatives),
        )  # fmt: skip
        header = (
            "step", "epoch", "split", "mAP", *self._terms(), "learning_rate",
            "mAP_labels", "mAP_positives", "mAP_negatives",
        )  # fmt: skip
        write_csv(self._file, header, self._rows)
        return {
            "val_mAP": self._latest,
            **{f"val_{name}": value for name, value in terms.items()},
            "learning_rate": rate,
        }

    def _terms(self) -> tuple[str, ...]:
        own = (t for t in self.model.TERMS if t not in _COMMON_TERMS)
        return (*_COMMON_TERMS, *own)

    def _add_row(self, split, mean, terms, rate, support):
        self._rows.append(
            [
                self.step,
                f"{self.step / self._steps_per_epoch:.4g}",
                split,
                mean,
                *(f"{terms.get(name, 0.0):.6g}" for name in self._terms()),
                f"{rate:.6g}",
                *support,
            ]
        )


def _rows_until(file: Path, step: int) -> list[list[str]]:
    """Rows of a CSV file up to a step, which is the first column."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            header, *rows = csv.reader(lines)
        if {*map(len, rows)} - {len(header)}:
            raise ValueError("rows of other lengths than the header")
        return [row for row in rows if int(row[0]) <= step]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise damaged(file, error) from error


def damaged(file: Path, reason: object) -> ValueError:
    """What is wrong with a CSV file of a run that is resumed."""
    return ValueError(
        f"resume: {file} is damaged or missing ({reason}); {ELSE}"
    )


def validation_mean(logs: dict | None) -> float:
    """The `val_mAP` of `Evaluation`; NaN would be neither better nor worse."""
    mean = cast(dict, logs)["val_mAP"]
    if not math.isfinite(mean):
        raise ValueError(f"val_mAP must be a finite number, got {mean}")
    return mean


class SkippedMinibatches(keras.callbacks.Callback):
    """Lists the images of the minibatches that `on_nan` leaves out.

    Args:
      file: CSV file that gets `step,image`, where there is one.
      model: that is trained; what the file says is added to its `skipped`.
      first_step: 0; or the step of a resumed run, whose rows the file holds.
    """

    def __init__(self, file: Path, model: MultiLabelModel, first_step: int):
        super().__init__()
        self._file = file
        rows = _rows_until(file, first_step) if file.exists() else []
        images = collections.defaultdict(list)
        for step, image in rows:
            images[int(step)].append(image)
        model.skipped[:] = [Skipped(*item) for item in images.items()]
        self._listed = len(model.skipped)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        skipped = self.model.skipped
        if len(skipped) > self._listed:
            rows = [(s.step, image) for s in skipped for image in s.images]
            write_csv(self._file, ("step", "image"), rows)
            self._listed = len(skipped)


class RateDecay(keras.callbacks.Callback):
    """Multiplies the rates when validation degrades (sec. 4.3).

    As in the released code, "degrades" means that an exponential moving
    average of validation mAP falls. `fit` raises ValueError for a mAP that is
    not a finite number.

    Args:
      factor: of all learning rates.
      weight: of the newest mAP in the average, in (0, 1].
      past: validation mAP of the rounds before, where a run is resumed.

    Example:
      >>> import imcl_tf
      >>> decay = imcl_tf.RateDecay(factor=0.8)  # for `fit`
    """

    def __init__(
        self,
        factor: float = 0.8,
        weight: float = 0.3,
        past: Sequence[float] = (),
    ):
        super().__init__()
        self._factor, self._weight = factor, weight
        self._average: float | None = None
        for mean in past:
            self._update(mean)

    def _update(self, mean) -> bool:
        """Takes the next mAP into the average; whether that falls."""
        before = mean if self._average is None else self._average
        self._average = before + self._weight * (mean - before)
        return self._average < before

    def on_train_begin(self, logs: dict | None = None):
        if "val_mAP" in cast(dict, logs):
            self._average = validation_mean(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        if self._update(validation_mean(logs)):
            _scale_rates(self.model, self._factor)


class RateDrop(StepCallback):
    """Multiplies the rates once, when a pass begins (sec. 4.3, MS-COCO).

    Args:
      epoch: passes over the training set before that, >= 1.
      steps_per_epoch: minibatches of one pass over the training set.
      factor: of all learning rates.

    Example:
      >>> import imcl_tf
      >>> drop = imcl_tf.RateDrop(epoch=2, steps_per_epoch=100)
    """

    def __init__(self, epoch: int, steps_per_epoch: int, factor: float = 0.1):
        super().__init__()
        self._at = epoch * steps_per_epoch
        self._factor = factor

    def on_train_batch_begin(self, batch: int, logs: dict | None = None):
        # Not at the end of the step before: an evaluation in between reports
        # the rate of what it evaluates.
        if self.step == self._at:
            _scale_rates(self.model, self._factor)
        self.step += 1


class RateSchedule(StepCallback):
    """Sets the rates before each step: warm-up, then a cosine to 0.

    Step t of a warm-up of n steps has (t + 1) / n of the full rates, step t
    after it (1 + cos(pi (t - n) / (total - n))) / 2.

    Args:
      rates: full ones, of `model.optimizers` in their order.
      warmup_steps: n >= 0.
      total_steps: after which the cosine would be 0; 0 = no cosine, after the
        warm-up the rates are left to others.

    Example:
      >>> from imcl_tf.training.callbacks import RateSchedule
      >>> schedule = RateSchedule([0.1], warmup_steps=2, total_steps=6)
      >>> [schedule.factor(step) for step in range(5)]
      [0.5, 1.0, 1.0, 0.8535533905932737, 0.5]
    """

    def __init__(
        self, rates: Sequence[float], warmup_steps: int, total_steps: int = 0
    ):
        super().__init__()
        self._rates = rates
        self._warmup, self._total = warmup_steps, total_steps

    def factor(self, step: int) -> float | None:
        """The share of the full rates that a step has; None = not set here."""
        if step < self._warmup:
            return (step + 1) / self._warmup
        if not self._total:
            return None
        done = (step - self._warmup) / (self._total - self._warmup)
        return (1 + math.cos(math.pi * done)) / 2

    def on_train_begin(self, logs: dict | None = None):
        super().on_train_begin(logs)
        self._optimizers = self.model.optimizers

    def on_train_batch_begin(self, batch: int, logs: dict | None = None):
        factor = self.factor(self.step)
        if factor is not None:
            for optimizer, rate in zip(
                self._optimizers, self._rates, strict=True
            ):
                optimizer.learning_rate = rate * factor
        self.step += 1


class StopAfter(StepCallback):
    """Ends training after a number of steps, amid a round too.

    Args:
      steps: minibatches since the beginning, of a resumed run too.

    Example:
      >>> from imcl_tf.training.callbacks import StopAfter
      >>> stop = StopAfter(1000)  # for `fit`
    """

    def __init__(self, steps: int):
        super().__init__()
        self._steps = steps

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        self.step += 1
        if self.step >= self._steps:
            # Keras still ends the round: it is evaluated and saved.
            self.model.stop_training = True


def _scale_rates(model, factor):
    for optimizer in model.optimizers:
        optimizer.learning_rate.assign(optimizer.learning_rate * factor)
