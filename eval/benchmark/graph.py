"""Label graphs: co-occurrences, and the product A y."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from eval.benchmark.measure import (
    BATCH,
    LABELS,
    Figure,
    call,
    called,
    print_ratios,
)
from imcl_tf.methods.label_graph import LabelGraph


def graph(scale: float, repeats: int) -> list[Figure]:
    """`LabelGraph.from_cooccurrence` of Open Images' size, and A y."""
    with tempfile.TemporaryDirectory() as scratch:
        file = os.path.join(scratch, "labels.npz")
        scipy.sparse.save_npz(file, skewed_labels(scale), compressed=False)
        runs = [call(count_cooccurrences, file) for _ in range(repeats)]
    seconds, ratios = zip(*(json.loads(r.output) for r in runs), strict=True)
    return [
        Figure("co-occurrence graph", statistics.median(seconds), "s"),
        Figure("peak memory", max(run.peak for run in runs) / 1e9, "GB", 4),
        Figure(
            "time to that of the sparse product", statistics.median(ratios), "x"
        ),
        called("step on A to that of a dense A", 0.2, time_product, repeats),
    ]


def time_product(repeats: int):
    """Prints seconds of A y, gradients and step on A, over those of dense A."""
    rng = np.random.default_rng(0)
    neighbors = np.argsort(rng.random((LABELS, 200)), 1)[:, :50]
    neighbors = (neighbors + np.arange(LABELS)[:, np.newaxis]) % LABELS
    sparse = LabelGraph.from_neighbors(
        neighbors, np.full(neighbors.shape, 1 / 50)
    )
    dense = keras.layers.Dense(LABELS, use_bias=False)
    targets = tf.random.stateless_uniform([BATCH, LABELS], [0, 1], -0.5)
    dense.build(targets.shape)

    def step_of(layer):
        optimizer = keras.optimizers.RMSprop(0.01, rho=0.9, momentum=0.9)
        optimizer.build(layer.trainable_variables)

        @tf.function(autograph=False)
        def step():
            with tf.GradientTape() as tape:
                tape.watch(targets)
                loss = tf.reduce_sum(tf.square(layer(targets)))
            variables = layer.trainable_variables
            *own, of_targets = tape.gradient(loss, [*variables, targets])
            optimizer.apply(own, variables)
            return loss, of_targets

        return step

    print_ratios(step_of(sparse), step_of(dense), repeats)


def skewed_labels(scale: float) -> scipy.sparse.csr_array:
    """[3.6 million, 5,000] int8, about 20 million observed; the j-th label is
    observed 1 / j times as often as the first."""
    rng = np.random.default_rng(0)
    images, observed = max(int(3.6e6 * scale), 10), max(int(21e6 * scale), 60)
    often = 1 / np.arange(1, LABELS + 1)
    label = rng.choice(LABELS, observed, p=often / often.sum())
    # A pair drawn twice, every twentieth, counts once.
    cells = np.sort(rng.integers(0, images, observed) * LABELS + label)
    cells = cells[np.diff(cells, prepend=-1) > 0]
    values = rng.choice(np.array([-1, 1], np.int8), len(cells))
    return scipy.sparse.csr_array(
        (values, np.divmod(cells, LABELS)), (images, LABELS)
    )


def count_cooccurrences(file: str):
    """Prints the seconds of the graph, and their ratio to the product's."""
    labels = scipy.sparse.load_npz(file)
    start = time.perf_counter()
    positives = (labels > 0).astype(np.int32)
    positives.T @ positives
    middle = time.perf_counter()
    del positives
    LabelGraph.from_cooccurrence(labels, num_neighbors=50)
    end = time.perf_counter()
    print(json.dumps([end - middle, (end - middle) / (middle - start)]))
