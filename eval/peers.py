"""Peers: what scikit-learn makes of the same features and labels.

`LOGISTIC` is one LogisticRegression per label on its observed entries. `KNN` is
the mean label of the k training images of largest cosine, where the logistic
model's probabilities stand for unobserved labels. Both choose on validation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.special
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits  # scikit-learn requires it

from imcl_tf.data.kept import parse_json
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pipeline import load_inputs
from imcl_tf.files import replacing
from imcl_tf.ops.metrics import AveragePrecision
from imcl_tf.training.progress import report

LOGISTIC = "scikit-learn logistic (same features)"
KNN = "kNN (same features)"
# C times the mean squared norm of the features, so that these suit all of them.
STRENGTHS = tuple(float(f"{10 ** (n / 2):.2g}") for n in range(-3, 9))
NUMBERS = (5, 10, 20, 40)
# Weaker penalties to try after the best one so far.
_PATIENCE = 3


class Examples(NamedTuple):
    """A split in memory.

    Attributes:
      features: [N, d] float32.
      labels: [N, C] int8 csr_array, the observed ones.
    """

    features: np.ndarray
    labels: scipy.sparse.csr_array


class Linear(NamedTuple):
    """Classifiers of all labels.

    Attributes:
      unit_norm: whether features are brought to unit norm.
      strength: C of LogisticRegression.
      kernel: [d, C] float64.
      bias: [C] float64, infinite where a single value was observed.
    """

    unit_norm: bool
    strength: float
    kernel: np.ndarray
    bias: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits [n, C] of features [n, d]."""
        used = normalize(features) if self.unit_norm else features
        return used @ self.kernel + self.bias


def peers(data: MultiLabelDataset, file: Path) -> dict[str, dict]:
    """Results of both peers; those in `file` if they are of the same data.

    Args:
      data: of feature records, with the training labels that are observed.
      file: JSON of the results, written once both are known.

    Returns:
      `LOGISTIC` and `KNN` -> "validation_mAP" and "mAP" in percent,
      "mAP_support", "chosen" and "tried".
    """
    splits = {name: _read(split) for name, split in data.splits.items()}
    identity = _identity(splits)
    if file.is_file():
        kept = parse_json(file.read_bytes())
        if kept["identity"] == identity:
            return kept["results"]
    linear, of_linear = logistic(splits)
    of_neighbors = neighbors(splits, linear)
    results = {LOGISTIC: of_linear, KNN: of_neighbors}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as path:
        kept = {"identity": identity, "results": results}
        path.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    return results


def logistic(splits: dict[str, Examples]) -> tuple[Linear, dict[str, Any]]:
    """The classifiers of the best validation mAP, and their results.

    Args:
      splits: "train", "validation" and "test".
    """
    validation = splits["validation"]
    found: list[tuple[float, Linear]] = []
    for unit_norm in (False, True):
        path: list[tuple[float, Linear]] = []
        for model in _path(splits["train"], unit_norm):
            scores = model.scores(validation.features)
            mean = 100 * _precision(validation, scores).mean()
            norm = ", unit norm" if unit_norm else ""
            report(
                f"{LOGISTIC}: C {model.strength:.3g}{norm}, validation mAP "
                f"{mean:.2f}"
            )
            path.append((mean, model))
            if len(path) - _best(path) > _PATIENCE:
                break
        found += path
    mean, model = found[_best(found)]
    tried = [
        {"C": m.strength, "unit_norm": m.unit_norm, "validation_mAP": mean}
        for mean, m in found
    ]
    test = model.scores(splits["test"].features)
    chosen = {"C": model.strength, "unit_norm": model.unit_norm}
    return model, _results(splits["test"], test, mean, chosen, tried)


def neighbors(splits: dict[str, Examples], model: Linear) -> dict[str, Any]:
    """Results of the nearest training images, k chosen on validation.

    Args:
      splits: "train", "validation" and "test".
      model: says what unobserved training labels are.
    """
    train, validation = splits["train"], splits["validation"]
    observed = train.labels.toarray()
    shown = scipy.special.expit(model.scores(train.features))
    shown = np.where(observed != 0, observed > 0, shown)
    index = NearestNeighbors(metric="cosine", algorithm="brute")
    index.fit(train.features)
    most = min(max(NUMBERS), len(shown))
    near = index.kneighbors(validation.features, most, return_distance=False)
    found = [
        (100 * _precision(validation, _shown_by(shown, near[:, :k])).mean(), k)
        for k in NUMBERS
    ]
    mean, k = found[_best(found)]
    near = index.kneighbors(
        splits["test"].features, min(k, most), return_distance=False
    )
    tried = [{"k": k, "validation_mAP": mean} for mean, k in found]
    scores = _shown_by(shown, near)
    return _results(splits["test"], scores, mean, {"k": k}, tried)


def _read(split) -> Examples:
    rows = np.arange(sum(split.lengths))
    features = load_inputs(split, rows, (split.num_features,))
    return Examples(features, split.labels)


def _identity(splits: dict[str, Examples]) -> str:
    """A digest of all that the results depend on."""
    digest = hashlib.sha256(repr((STRENGTHS, NUMBERS, _PATIENCE)).encode())
    for features, labels in splits.values():
        for part in (features, labels.indptr, labels.indices, labels.data):
            digest.update(repr((part.shape, part.dtype)).encode())
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def _path(train: Examples, unit_norm: bool) -> Iterator[Linear]:
    """Classifiers for each of `STRENGTHS`, each from the one before."""
    features, labels = train
    features = normalize(features) if unit_norm else features
    squared_norm = float(np.square(features).sum(1).mean()) or 1.0
    columns = scipy.sparse.csc_array(labels)
    models = [
        LogisticRegression(warm_start=True, max_iter=1000)
        for _ in range(labels.shape[1])
    ]
    kernel = np.zeros((features.shape[1], len(models)))
    bias = np.zeros(len(models))
    for strength in STRENGTHS:
        for j, model in enumerate(models):
            part = slice(columns.indptr[j], columns.indptr[j + 1])
            rows, values = columns.indices[part], columns.data[part]
            if values.size and values.min() < values.max():
                model.set_params(C=strength / squared_norm)
                with threadpool_limits(1):  # threads wait more than they add
                    model.fit(features[rows], values)
                kernel[:, j], bias[j] = model.coef_[0], model.intercept_[0]
            elif values.size:
                bias[j] = values[0] * np.inf
        yield Linear(
            unit_norm, strength / squared_norm, kernel.copy(), bias.copy()
        )


def _shown_by(shown: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Means [n, C] of the rows `near` [n, k] of `shown` [N, C]."""
    total = np.zeros((len(near), shown.shape[1]))
    for rows in near.T:  # [n, k, C] would be large
        total += shown[rows]
    return total / near.shape[1]


def _best(found: list[tuple]) -> int:
    """Where the highest mean is, the first of equals."""
    return max(range(len(found)), key=lambda i: found[i][0])


def _precision(examples: Examples, scores: np.ndarray) -> AveragePrecision:
    precision = AveragePrecision(examples.labels.shape[1])
    precision.update(examples.labels, scores)
    return precision


def _results(test, scores, validation_mean, chosen, tried) -> dict[str, Any]:
    precision = _precision(test, scores)
    return {
        "validation_mAP": validation_mean,
        "mAP": 100 * precision.mean(),
        "mAP_support": precision.support()._asdict(),
        "chosen": chosen,
        "tried": tried,
    }
