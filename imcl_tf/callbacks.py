"""What happens around training: evaluation, decay, refresh, pictures."""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from imcl_tf import pictures
from imcl_tf.files import replacing, write_csv
from imcl_tf.metrics import AveragePrecision
from imcl_tf.model import IMCL
from imcl_tf.multilabel import TERMS, Batch, MultiLabelModel

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
    """

    precision = AveragePrecision(model.num_labels)
    sums, images = dict.fromkeys(TERMS, 0.0), 0
    for inputs, labels in batches:
        batch = Batch.unpack((inputs["inputs"], labels))
        logits, terms = model.evaluation_step(batch)
        precision.update(labels.numpy(), logits.numpy())
        images += len(labels)
        for name in TERMS:
            sums[name] += float(terms.get(name, 0.0)) * len(labels)
    return precision, {name: total / images for name, total in sums.items()}


class Evaluation(keras.callbacks.Callback):
    """Evaluates on validation before training and after each round.

    Adds `val_mAP` (percent), `val_` loss terms and `learning_rate` to the
    logs, where the progress bar, TensorBoard and later callbacks find them,
    and writes one row per split to `metrics.csv`.

    Args:
      batches: of the validation split.
      metrics_file: where the rows go, header first.
      steps_per_epoch: minibatches of one pass over the training set.
    """

    def __init__(self, batches, metrics_file: Path, steps_per_epoch: int):
        super().__init__()
        self._batches = batches
        self._file = metrics_file
        self._steps_per_epoch = steps_per_epoch
        self._step = 0
        self._latest = math.nan
        self._rows = []

    def on_train_begin(self, logs=None):
        logs.update(self._evaluate({}))

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if logs is not None:
            logs["val_mAP"] = self._latest

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self._evaluate(logs))

    def _evaluate(self, training: dict) -> dict:
        precision, terms = evaluate(self.model, self._batches)
        self._latest = 100 * precision.mean()
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


class BestCheckpoint(keras.callbacks.Callback):
    """Keeps the model of the best validation mAP, and the latest one.

    Args:
      directory: gets `best.keras` and `latest.keras`.
    """

    def __init__(self, directory: Path):
        super().__init__()
        self.best_file = directory / "best.keras"
        self.latest_file = directory / "latest.keras"
        self._best = -math.inf

    def on_train_begin(self, logs=None):
        self.on_epoch_end(-1, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._save(self.latest_file)
        if logs["val_mAP"] > self._best:
            self._best = logs["val_mAP"]
            self._save(self.best_file)

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
    """

    def __init__(self, factor: float = 0.8, weight: float = 0.3):
        super().__init__()
        self._factor, self._weight = factor, weight
        self._average = None

    def on_train_begin(self, logs=None):
        self._average = logs["val_mAP"]

    def on_epoch_end(self, epoch, logs=None):
        before, now = self._average, logs["val_mAP"]
        self._average = before + self._weight * (now - before)
        if self._average < before:
            _scale_rates(self.model, self._factor)


class RateDrop(keras.callbacks.Callback):
    """Multiplies the rates once, when a pass begins (sec. 4.3, MS-COCO).

    Args:
      epoch: passes over the training set before that, >= 1.
      steps_per_epoch: minibatches of one pass over the training set.
      factor: of all learning rates.
    """

    def __init__(self, epoch: int, steps_per_epoch: int, factor: float = 0.1):
        super().__init__()
        self._at, self._step = epoch * steps_per_epoch, 0
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


class DictionaryRefresh(keras.callbacks.Callback):
    """Brings the stored features of the dictionary up to date.

    Args:
      every: steps between refreshes, >= 1.
    """

    def __init__(self, every: int):
        super().__init__()
        self._every, self._step = every, 0

    def on_train_begin(self, logs=None):
        self.model.refresh_dictionary()

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self._every == 0:
            self.model.refresh_dictionary()


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
        features, logits = model.forward(self._batch.inputs, training=False)
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
