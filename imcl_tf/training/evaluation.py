"""Average precision of a model on a split, and the figures made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.pipeline import Batches, Split
from imcl_tf.files import write_csv
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.metrics import AveragePrecision, Support

_NUM_GROUPS = 5


def evaluate(
    model: MultiLabelModel,
    data: Split | Batches | tf.data.Dataset,
    batch_size: int = 32,
) -> AveragePrecision:
    """Runs a model over a split.

    Args:
      model: compiled or not.
      data: the split, such as `load_dataset(...).test`; or minibatches of
        (inputs, labels [B, C] int8 in {-1, 0, +1}).
      batch_size: images at a time, of a split.

    Returns:
      `AveragePrecision` of the observed labels, eq. (9): `per_label` [C] and
      `mean` in [0, 1].

    Raises:
      FloatingPointError: if a score is not a finite number.
      ValueError: if the model is none of this package, or the data do not
        fit it or hold no image.

    Example:
      >>> import imcl_tf, numpy as np
      >>> features = np.eye(2, dtype=np.float32)
      >>> labels = np.array([[1, -1], [-1, 1]], np.int8)
      >>> model = imcl_tf.MultiLabelModel(None, 2)
      >>> model.build((None, 2))
      >>> model.classifier.set_weights([np.eye(2), np.zeros(2)])
      >>> float(imcl_tf.evaluate(model, (features, labels)).mean())
      1.0
    """
    if not isinstance(model, MultiLabelModel):
        raise ValueError(
            f"evaluate takes a MultiLabelModel, such as imcl_tf.IMCL, got "
            f"{model!r:.100}"
        )
    batches = model.evaluation_batches(data, batch_size)
    return model.run_over(batches)[0]


def scores(
    precision: AveragePrecision, observed: scipy.sparse.csr_array
) -> dict:
    """mAP in percent: both conventions, by groups, and what each rests on.

    Groups are a fifth of the labels each, ranked by their number of
    annotations in training, fewest first (sec. 4.5).

    Args:
      precision: filled.
      observed: [N, C] training labels.

    Raises:
      ValueError: if no label has an average precision.
    """
    per_label = 100 * precision.per_label()
    positives, negatives = precision.positives(), precision.negatives()
    annotations = np.bincount(observed.indices, minlength=len(per_label))
    order = np.argsort(annotations, kind="stable")
    groups = np.array_split(order, _NUM_GROUPS)
    skip = 100 * precision.mean()
    return {
        "mAP": skip,
        "mAP_empty_skip": skip,
        "mAP_empty_zero": 100 * precision.mean(empty="zero"),
        "mAP_support": precision.support()._asdict(),
        "mAP_groups": [_mean(per_label[group]) for group in groups],
        "mAP_groups_support": [
            Support.of(positives[group], negatives[group])._asdict()
            for group in groups
        ],
    }


def _mean(values) -> float | None:
    """Mean of the labels that have an AP; JSON has no NaN."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def write_average_precision(
    precision: AveragePrecision, label_names: tuple[str, ...], file: Path
):
    """Writes label, AP in percent (empty where it has none) and counts."""
    columns = (
        precision.per_label(), precision.positives(), precision.negatives()
    )  # fmt: skip
    rows = (
        (name, "" if np.isnan(ap) else f"{100 * ap:.4f}", *counts)
        for name, ap, *counts in zip(label_names, *columns, strict=True)
    )
    write_csv(file, ("label", "AP", "positives", "negatives"), rows)
