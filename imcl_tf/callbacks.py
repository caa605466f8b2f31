"""What happens around training: evaluation, decay, refresh, pictures."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from imcl_tf import pictures
from imcl_tf.files import replacing, write_csv
from imcl_tf.metrics import AveragePrecision
from imcl_tf.model import IMCL
from imcl_tf.multilabel import TERMS, Batch, MultiLabelModel

LATEST = "latest.keras"
METRICS = ("step", "epoch", "split", "mAP", *TERMS, "learning_rate")


def evaluate(
    model: MultiLabelModel, batches: tf.data.Dataset
) -> tuple[AveragePrecision, dict[str, float]]:
    """Runs a model over a split.

    Args:
      model: compiled or not.
      batches: ({"inputs", ...}, labels); they count as images outside the
        training set.

    Returns:
      the filled `AveragePrecision`, and the mean of each loss term.

    Raises:
      FloatingPointError: if a score is not a finite number.
    """

    precision = AveragePrecision(model.num_labels)
    sums, images = dict.fromkeys(TERMS, 0.0), 0
    for inputs, labels in batches:
        batch = Batch.unpack((inputs["inputs"], labels))
        scores, terms = model.evaluation_step(batch)
        if not np.isfinite(scores).all():
            raise FloatingPointError(
                "training diverged: a score is not finite; lower the rates"
            )
        precision.update(labels.numpy(), scores.numpy())
        images += len(labels)
        for name in TERMS:
            sums[name] += float(terms.get(name, 0.0)) * len(labels)
    return precision, {name: total / images for name, total in sums.items()}


class _Stepping(keras.callbacks.Callback):
    """Knows the step, in a run that goes on as well: the optimizer counts."""

    def __init__(self):
        super().__init__()
        self._step = 0

    def on_train_begin(self, logs=None):
        self._step = steps_taken(self.model)


def steps_taken(model: MultiLabelModel) -> int:
    """Minibatches that a compiled model has been trained on."""
    # Not int(): under a strategy the variable is one of several copies.
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


class Evaluation(_Stepping):
    """Evaluates on validation before training and after each round.

    Adds `val_mAP` (percent), `val_` loss terms and `learning_rate` to the
    logs, where the progress bar, TensorBoard and later callbacks find them,
    and writes one row per split to `metrics.csv`.

    Args:
      batches: of the validation split.
      metrics_file: where the rows go, header first.
      steps_per_epoch: minibatches of one pass over the training set.
      first_step: 0; or where a run goes on whose rows the file holds.

    Attributes:
      past: validation mAP of the rounds before `first_step`.
    """

    def __init__(
        self, batches, metrics_file: Path, steps_per_epoch: int, first_step=0
    ):
        super().__init__()
        self._batches = batches
        self._file = metrics_file
        self._steps_per_epoch = steps_per_epoch
        self._latest = math.nan
        self._rows = _rows_until(metrics_file, first_step) if first_step else []
        self.past = [
            float(mean)
            for _, _, split, mean, *_ in self._rows
            if split == "validation"
        ]

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if not self.past:
            logs.update(self._evaluate({}))

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if logs is not None:
            logs["val_mAP"] = self._latest

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self._evaluate(logs))

    def _evaluate(self, training: dict) -> dict:
        precision, terms = evaluate(self.model, self._batches)
        # As in the file, so that a run that goes on decides alike.
        self._latest = round(100 * precision.mean(), 4)
        rate = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )
        if training:
            self._add_row("train", "", training, rate)
        self._add_row("validation", f"{self._latest:.4f}", terms, rate)
        write_csv(self._file, METRICS, self._rows)
        return {
            "val_mAP": self._latest,
            **{f"val_{name}": value for name, value in terms.items()},
            "learning_rate": rate,
        }

    def _add_row(self, split, mean, terms, rate):
        self._rows.append(
            [
                self._step,
                f"{self._step / self._steps_per_epoch:.4g}",
                split,
                mean,
                *(f"{terms[name]:.6g}" for name in TERMS),
                f"{rate:.6g}",
            ]
        )


def _rows_until(metrics_file: Path, step: int) -> list[list[str]]:
    with metrics_file.open(newline="") as file:
        _, *rows = csv.reader(file)
    return [row for row in rows if int(row[0]) <= step]


class BestCheckpoint(keras.callbacks.Callback):
    """Keeps the model of the best validation mAP, and the latest one.

    Args:
      directory: gets `best.keras` and `latest.keras`.
      past: validation mAP of the rounds before, where a run goes on.
    """

    def __init__(self, directory: Path, past: Sequence[float] = ()):
        super().__init__()
        self.best_file = directory / "best.keras"
        self.latest_file = directory / LATEST
        self._best = max(past, default=-math.inf)

    def on_train_begin(self, logs=None):
        if "val_mAP" in logs:
            self.on_epoch_end(-1, logs)

    def on_epoch_end(self, epoch, logs=None):
        # The latest one last: from it a run goes on.
        if logs["val_mAP"] > self._best:
            self._best = logs["val_mAP"]
            self._save(self.best_file)
        self._save(self.latest_file)

    def _save(self, file):
        with replacing(file) as path:
            self.model.save(path)


class RateDecay(keras.callbacks.Callback):
    """Multiplies the rates when validation degrades (sec. 4.3).

    As in the released code, "degrades" means that an exponential moving
    average of validation mAP falls.

    Args:
      factor: of all learning rates.
      weight: of the newest mAP in the average, in (0, 1].
      past: validation mAP of the rounds before, where a run goes on.
    """

    def __init__(
        self,
        factor: float = 0.8,
        weight: float = 0.3,
        past: Sequence[float] = (),
    ):
        super().__init__()
        self._factor, self._weight = factor, weight
        self._average = None
        for mean in past:
            self._update(mean)

    def _update(self, mean) -> bool:
        """Takes the next mAP into the average; whether that falls."""
        before = mean if self._average is None else self._average
        self._average = before + self._weight * (mean - before)
        return self._average < before

    def on_train_begin(self, logs=None):
        if "val_mAP" in logs:
            self._average = logs["val_mAP"]

    def on_epoch_end(self, epoch, logs=None):
        if self._update(logs["val_mAP"]):
            _scale_rates(self.model, self._factor)


class RateDrop(_Stepping):
    """Multiplies the rates once, when a pass begins (sec. 4.3, MS-COCO).

    Args:
      epoch: passes over the training set before that, >= 1.
      steps_per_epoch: minibatches of one pass over the training set.
      factor: of all learning rates.
    """

    def __init__(self, epoch: int, steps_per_epoch: int, factor: float = 0.1):
        super().__init__()
        self._at = epoch * steps_per_epoch
        self._factor = factor

    def on_train_batch_begin(self, batch, logs=None):
        # Not at the end of the step before: an evaluation in between reports
        # the rate of what it evaluates.
        if self._step == self._at:
            _scale_rates(self.model, self._factor)
        self._step += 1


def _scale_rates(model, factor):
    for optimizer in model.optimizers:
        optimizer.learning_rate.assign(optimizer.learning_rate * factor)


class EpochStart(_Stepping):
    """Tells the model when a pass over the training set begins.

    Args:
      steps_per_epoch: minibatches of one pass.
      batches: the training set once, for `MultiLabelModel.begin_epoch`.
    """

    def __init__(self, steps_per_epoch: int, batches):
        super().__init__()
        self._steps_per_epoch, self._batches = steps_per_epoch, batches

    def on_train_batch_begin(self, batch, logs=None):
        epoch, within = divmod(self._step, self._steps_per_epoch)
        if within == 0:
            self.model.begin_epoch(epoch, self._batches)
        self._step += 1


class DictionaryRefresh(_Stepping):
    """Brings some of the dictionary up to date after each step, in turn.

    Args:
      number: of images in each step, >= 1; all if there are fewer.
    """

    def __init__(self, number: int):
        super().__init__()
        self._number = number

    def on_train_batch_end(self, batch, logs=None):
        size = len(self.model.dictionary)
        turn = self._number * self._step + np.arange(min(self._number, size))
        self.model.refresh_dictionary(turn % size)
        self._step += 1


class Pictures(keras.callbacks.Callback):
    """TensorBoard images as figure 1 (right): A and image similarities.

    Args:
      directory: of the event files.
      batch: a minibatch of the training set, ({"inputs", "image_index"},
        labels).
      thumbnails: image numbers [n] int -> [n, S, S, 3] uint8.
      label_names: C names.
    """

    def __init__(self, directory: Path, batch, thumbnails, label_names):
        super().__init__()
        self._writer = tf.summary.create_file_writer(str(directory))
        self._batch = Batch.unpack(batch)
        self._thumbnails = thumbnails
        self._names = label_names

    def on_train_begin(self, logs=None):
        self._write(0)

    def on_epoch_end(self, epoch, logs=None):
        graph = pictures.label_graph(self.model.label_graph.to_scipy())
        with self._writer.as_default(epoch + 1):
            tf.summary.image("label_graph", graph[np.newaxis])

    def on_train_end(self, logs=None):
        self._write(self.params["epochs"])
        self._writer.close()

    def _write(self, step):
        model: IMCL = self.model
        graph = model.label_graph.to_scipy()
        features = model.features_of(self._batch.inputs, training=False)
        logits = model.scores(features)
        found = model.find_similar(features, logits, self._batch)
        numbers = self._batch.image_index.numpy()
        if model.dictionary is not None:
            numbers = np.append(numbers, model.dictionary.image_index.numpy())
        montage = pictures.similarities(
            found.indices.numpy(),
            found.label_weights.numpy(),
            numbers,
            self._thumbnails,
        )
        with self._writer.as_default(step):
            tf.summary.image(
                "label_graph", pictures.label_graph(graph)[np.newaxis]
            )
            tf.summary.text(
                "label_graph/strongest_edges",
                pictures.strongest_edges(graph, self._names),
            )
            tf.summary.image("similarities", montage[np.newaxis])
