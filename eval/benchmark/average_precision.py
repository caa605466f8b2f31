"""Average precision against scikit-learn."""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np

from eval.benchmark.measure import (
    LABELS,
    LABELS_PER_IMAGE,
    Figure,
    call,
    printed,
)
from imcl_tf.ops.metrics import AveragePrecision


def average_precision(scale: float, repeats: int) -> list[Figure]:
    """`AveragePrecision` of Open Images' test set."""
    images = max(int(125_436 * scale), 100)
    runs = [call(time_average_precision, images) for _ in range(repeats)]
    found = np.array([printed(r) for r in runs])
    ratio, difference, _ = np.median(found, 0)
    return [
        Figure("time to that of scikit-learn", ratio, "x", 1 / 30),
        Figure("largest difference", difference, "", 1e-12),
        Figure("memory", found[:, 2].max() / 1e6, "MB", 200),
    ]


def time_average_precision(images: int):
    """Prints seconds over scikit-learn's, the difference, bytes of memory."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    labels = np.zeros((images, LABELS), np.int8)
    observed = rng.integers(0, LABELS, (images, LABELS_PER_IMAGE))
    values = rng.choice(np.array([-1, 1], np.int8), observed.shape)
    np.put_along_axis(labels, observed, values, 1)
    scores = rng.random((images, LABELS), np.float32)

    def ours():
        precision = AveragePrecision(LABELS)
        for i in range(0, images, 128):
            precision.update(labels[i : i + 128], scores[i : i + 128])
        return precision.per_label()

    start = time.perf_counter()
    found = ours()
    middle = time.perf_counter()
    expected = np.full(LABELS, np.nan)
    for j in range(LABELS):
        known = labels[:, j] != 0
        present = labels[known, j] > 0
        if present.any() and not present.all():
            expected[j] = average_precision_score(present, scores[known, j])
    end = time.perf_counter()
    tracemalloc.start()
    ours()
    _, memory = tracemalloc.get_traced_memory()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    difference = float(np.nanmax(np.abs(found - expected)))
    print(json.dumps([(middle - start) / (end - middle), difference, memory]))
