"""What a run says of its test images, kept for tables, figures and reports."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse

from imcl_tf.data.kept import read_arrays
from imcl_tf.data.pipeline import Split
from imcl_tf.files import replacing
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.metrics import AveragePrecision

# Labels kept of each image, as many as figure 2 looks at.
_TOP = 50
# Points that a mean may differ by when it is computed again.
_SAME = 0.01
_ARRAYS = "image_ids", "indptr", "indices", "values", "scores", "top", "shape"


class Predictions(NamedTuple):
    """Scores of a split's observed labels, and the likeliest labels.

    Attributes:
      image_ids: [N] bytes, the images' names; [0] where they are not known.
      labels: [N, C] int8 csr_array, observed entries -1 or +1, columns sorted.
      scores: [P] float, of the P observed entries in their order: logits, but
        for methods whose scores are others.
      top: [N, K] int, the K = min(50, C) labels of highest score, the highest
        first.
    """

    image_ids: np.ndarray
    labels: scipy.sparse.csr_array
    scores: np.ndarray
    top: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """[P] int, the image of each observed entry."""
        counts = np.diff(self.labels.indptr)
        return np.repeat(np.arange(len(counts)), counts)

    def most_present(self, number: int) -> np.ndarray:
        """[n] int: images with most labels observed present, at most `number`.

        Those that have the same ones come after all others, but for the
        first. None without such a label.
        """
        present = self.labels > 0
        counts = present.sum(1)
        # Images of the same labels have the same sum of random numbers.
        sums = present @ np.random.default_rng(0).random(present.shape[1])
        is_again = np.ones(len(counts), bool)
        is_again[np.unique(sums, return_index=True)[1]] = False
        order = np.lexsort((-counts, is_again))
        return order[counts[order] > 0][:number]

    def precision(self) -> AveragePrecision:
        """The average precision of these scores."""
        precision = AveragePrecision(self.labels.shape[1])
        precision.add_entries(
            self.labels.indices, self.scores, self.labels.data > 0
        )
        return precision


def predict_split(
    model: MultiLabelModel, split: Split, batch_size: int = 32
) -> tuple[AveragePrecision, Predictions]:
    """Evaluates a model and keeps what it says.

    Args:
      model: see `evaluate`.
      split: whose images are scored once.
      batch_size: images at a time.

    Returns:
      what `evaluate` returns, and the predictions.

    Raises:
      FloatingPointError: see `evaluate`.

    Example:
      >>> import imcl_tf
      >>> from imcl_tf.training.predictions import predict_split
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> backbone = imcl_tf.backbone("small_cnn", image_size=32)
      >>> model = imcl_tf.MultiLabelModel(backbone, data.num_labels)
      >>> precision, predictions = predict_split(model, data.test)
      >>> len(predictions.scores) == data.test.labels.nnz
      True
    """
    number = min(_TOP, model.num_labels)
    dtype = np.min_scalar_type(model.num_labels - 1)
    top: list[np.ndarray] = []

    def keep(scores: np.ndarray):
        top.append(_highest(scores, number).astype(dtype))

    batches = model.evaluation_batches(split, batch_size)
    precision, _ = model.run_over(batches, keep)
    return precision, Predictions(
        split.image_ids,
        split.labels.sorted_indices(),
        precision.scores(),
        np.concatenate(top),
    )


def _highest(scores: np.ndarray, number: int) -> np.ndarray:
    """[B, number] int: labels of highest scores [B, C], the highest first."""
    found = np.argpartition(-scores, number - 1, axis=1)[:, :number]
    found.sort(axis=1)  # of equal scores the first label comes first
    order = np.argsort(-np.take_along_axis(scores, found, 1), 1, kind="stable")
    return np.take_along_axis(found, order, 1)


def save(predictions: Predictions, path: Path):
    """Writes predictions, for `load`."""
    labels = predictions.labels
    with replacing(path) as new, new.open("wb") as file:
        np.savez(
            file,
            image_ids=predictions.image_ids,
            indptr=labels.indptr,
            indices=labels.indices,
            values=labels.data,
            shape=np.array(labels.shape),
            scores=predictions.scores,
            top=predictions.top,
        )


def load(path: Path, mean: float) -> Predictions:
    """Reads what `save` wrote.

    Args:
      path: the file.
      mean: their mAP, in percent, as the run's results say.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged, or of another run.
    """
    try:
        found = read_arrays(path, *_ARRAYS)
        labels = scipy.sparse.csr_array(
            (found["values"], found["indices"], found["indptr"]),
            tuple(found["shape"].tolist()),
        )
        labels.check_format()
        if len(found["scores"]) != labels.nnz:
            raise ValueError(
                f"{len(found['scores'])} scores of {labels.nnz} labels"
            )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    predictions = Predictions(
        found["image_ids"], labels, found["scores"], found["top"]
    )
    own = 100 * predictions.precision().mean()
    if not abs(own - mean) < _SAME:  # NaN is not, either
        raise ValueError(
            f"{path} is of another run: its mAP is {own:.2f}, that of the "
            f"results {mean:.2f}"
        )
    return predictions
