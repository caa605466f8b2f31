"""The initial logistic model on fixed features: solved, its penalty chosen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pipeline import Split, load_inputs
from imcl_tf.files import write_csv
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.logistic import Head, LogisticSolver
from imcl_tf.ops.metrics import AveragePrecision
from imcl_tf.training.progress import report

# Two per decade, the strongest first: each begins where the one before ended.
PENALTIES = tuple(float(f"{10 ** (-n / 2):.2g}") for n in range(2, 13))
# Weaker penalties to try after the best one so far.
_PATIENCE = 2
# Features in memory, [N, d] numbers; of more images, as many as fit.
_MOST_NUMBERS = 1 << 28
_ROWS = 1024


class SolvedHead(NamedTuple):
    """A head and how it was chosen.

    Attributes:
      head: the chosen one.
      path: (penalty, validation mAP in percent) of each one solved.
      is_whole: whether all training images were in memory.
    """

    head: Head
    path: list[tuple[float, float]]
    is_whole: bool


def fits_in_memory(data: MultiLabelDataset) -> bool:
    """Whether the training features fit into memory, to be solved."""
    return data.train.labels.shape[0] * data.train.num_features <= _MOST_NUMBERS


def solve_head(
    model: MultiLabelModel,
    data: MultiLabelDataset,
    penalty: float = 0.0,
    most_numbers: int | None = None,
    seed: int = 0,
) -> SolvedHead:
    """Solves the classifier on fixed features.

    Args:
      model: how it represents features counts, its weights do not.
      data: of feature records.
      penalty: 0 = the best of `PENALTIES` on validation.
      most_numbers: N times d at most, None = 2^28; of more images a random part
        is taken.
      seed: of that part.

    Returns:
      `SolvedHead`.

    Raises:
      ValueError: for features that are not finite.
    """
    train, size = data.train, data.train.num_features
    number = train.labels.shape[0]
    most = max(1, (most_numbers or _MOST_NUMBERS) // size)
    rows = np.arange(number)
    if number > most:
        rows = np.random.default_rng(seed).choice(number, most, replace=False)
        rows.sort()
    solver = LogisticSolver(stored_features(model, train, rows))
    validation = stored_features(model, data.validation)
    penalties = [penalty] if penalty else PENALTIES
    head, path = best_of(
        solver.path(train.labels[rows], penalties), validation,
        data.validation, "logistic model",
    )  # fmt: skip
    return SolvedHead(head, path, len(rows) == number)


def best_of(
    heads: Iterable[Head], features: np.ndarray, split: Split, what: str
) -> tuple[Head, list[tuple[float, float]]]:
    """Takes heads as long as weaker penalties may be better.

    Chance moves the mAP of a single penalty, so that its mean with those of
    the penalties beside it counts.

    Args:
      heads: of weaker and weaker penalties.
      features: [n, d] float32 of the images of `split`.
      split: validation.
      what: they are, for the lines of progress.

    Returns:
      the chosen head, and (penalty, mAP in percent) of each taken.
    """
    found: list[Head] = []
    means: list[float] = []
    for head in heads:
        mean = _mean_precision(head, features, split)
        report(f"{what}: penalty {head.penalty:g}, validation mAP {mean:.2f}")
        found.append(head)
        means.append(mean)
        if len(means) - np.argmax(means) > _PATIENCE:
            break
    path = [
        (head.penalty, mean) for head, mean in zip(found, means, strict=True)
    ]
    return found[np.argmax(_with_neighbors(means))], path


def _with_neighbors(means: list[float]) -> np.ndarray:
    """The mean of each number and those beside it."""
    padded = np.pad(means, 1, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 3).mean(1)


def write_path(path: list[tuple[float, float]], file: Path):
    """Writes the penalties tried and their validation mAP."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [(f"{penalty:g}", f"{mean:.4f}") for penalty, mean in path]
    write_csv(file, ("penalty", "validation_mAP"), rows)


def stored_features(
    model: MultiLabelModel, split: Split, rows: np.ndarray | None = None
) -> np.ndarray:
    """Features [n, d] float32 of a split's images, as `model` has them.

    Args:
      model: computes them of pictures, represents those of feature records.
      split: the images.
      rows: [n] distinct image numbers, ascending, None = all.
    """
    if rows is None:
        rows = np.arange(split.labels.shape[0])
    if not split.num_features:
        return _computed_features(model, split)[rows]
    features = load_inputs(split, rows, (split.num_features,))
    for part in np.array_split(features, max(1, len(features) // _ROWS)):
        part[:] = model.represent(tf.constant(part)).numpy()
    return features


def _computed_features(model, split) -> np.ndarray:
    batches = model.evaluation_batches(split)
    spec = batches.element_spec[0]["inputs"]
    run = tf.function(
        lambda inputs: model.features_of(inputs, training=False),
        # The last minibatch may be smaller: one function for all.
        input_signature=[tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)],
        autograph=False,
    )  # fmt: skip
    return np.concatenate([run(x["inputs"]).numpy() for x, _ in batches])


def _mean_precision(head: Head, features: np.ndarray, split: Split) -> float:
    """Validation mAP in percent."""
    precision = AveragePrecision(split.labels.shape[1])
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        precision.update(split.labels[rows], head.scores(features[rows]))
    return 100 * precision.mean()
