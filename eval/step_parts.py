"""Parts of a training step of Open Images' size, measured on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.optimize

from eval.benchmark.graph import skewed_labels
from eval.benchmark.input import split_of, steady_seconds, write_pictures
from eval.benchmark.measure import (
    BATCH,
    DICTIONARY,
    FEATURES,
    call,
    printed,
)
from eval.benchmark.step import (
    Problem,
    median,
    model_of_features,
    step_of,
)
from eval.loopback import run_workers
from eval.worker_steps import time_exchange
from imcl_tf.data.pipeline import training_batches
from imcl_tf.ops.workers import Workers
from imcl_tf.settings import DEFAULT_METHOD


class Parts(NamedTuple):
    """What was measured, or given.

    Attributes:
      update: seconds of a step of the CNN that do not depend on images.
      image: seconds of the CNN forward and backward, for an image.
      repeated: seconds of what follows the features, without candidates.
      repeated_image: of the same, for each image of the minibatch.
      candidate: seconds of Algorithm 2 for each candidate.
      product: the same for each candidate and image.
      record: seconds to read an image's record.
      decoding: seconds to decode and resize an image.
      message: seconds of a number that is sent from one worker to the next.
      byte: seconds of a byte that is sent, received and added, beyond those
        of the network.
      process: bytes of a process that trains nothing.
      image_memory: bytes that an image takes in the CNN.
      repeated_memory: bytes that an image takes after the features.
    """

    update: float
    image: float
    repeated: float
    repeated_image: float
    candidate: float
    product: float
    record: float
    decoding: float
    message: float
    byte: float
    process: float
    image_memory: float
    repeated_memory: float


def measure_parts(scale: float, repeats: int) -> Parts:
    """Measures `Parts` on this machine, each in a process of its own.

    Args:
      scale: share of the sizes, below 1 with `small_cnn`.
      repeats: of each.

    Raises:
      ChildProcessError: if a process fails.
    """
    cnn = "resnet101" if scale == 1 else "small_cnn"
    few, many, entries = (
        max(int(n * scale), 2) for n in (BATCH // 4, BATCH, DICTIONARY)
    )
    whole = {
        n: call(time_cnn, cnn, n, repeats) for n in (few, max(many, few + 1))
    }
    update, image = linear({n: printed(run) for n, run in whole.items()})
    _, image_memory = linear({n: run.peak for n, run in whole.items()})
    # Far apart, so that what they have in common is not lost in chance.
    after = {
        (b, m + b): call(time_after, b, m, repeats)
        for b in (few, 16 * few)
        for m in (max(entries // 10, 1), entries)
    }
    times = bilinear({size: printed(run) for size, run in after.items()})
    _, repeated_memory, *_ = bilinear(
        {size: run.peak for size, run in after.items()}
    )
    record, decoding = printed(call(time_reading, scale, repeats))
    little, byte = run_workers(2, time_exchange, repeats)
    return Parts(
        update=update,
        image=image,
        repeated=times[0],
        repeated_image=times[1],
        candidate=times[2],
        product=times[3],
        record=record,
        decoding=decoding,
        message=little / 2,
        byte=byte,
        process=call(do_nothing).peak,
        image_memory=image_memory,
        repeated_memory=repeated_memory,
    )


def linear(values: Mapping[int, float]) -> list[float]:
    """[a, b] >= 0 of a + b n, from values > 0 by n."""
    return _fitted([[1, n] for n in values], values.values())


def bilinear(values: Mapping[tuple[int, int], float]) -> list[float]:
    """[a, b, c, e] >= 0 of a + b B + c m + e B m, from values > 0 by (B, m)."""
    return _fitted([[1, b, m, b * m] for b, m in values], values.values())


def _fitted(rows, values):
    """Least squares of relative errors; nothing costs less than nothing."""
    rows, values = np.array(rows, float), np.array([*values])[:, np.newaxis]
    size = rows.max(0)
    found, _ = scipy.optimize.nnls(rows / size / values, np.ones(len(rows)))
    return (found / size).tolist()


def do_nothing():
    """Imports what a program that trains imports."""


def time_cnn(cnn: str, batch_size: int, repeats: int):
    """Prints the seconds of logistic's step less those after the features."""
    problem = Problem(batch_size, cnn)
    model = model_of_features(
        "logistic", problem.num_features, problem.labels, 0
    )
    step = problem.step_of(model, problem.features)
    whole = problem.seconds(repeats)
    print(json.dumps(max(whole - median(step, 5 * repeats), 0.0)))


def time_after(batch_size: int, size: int, repeats: int):
    """Prints the seconds of IMCL's step after the features.

    Args:
      batch_size: B.
      size: M.
      repeats: steps.
    """
    labels = skewed_labels(DICTIONARY / 3.6e6)
    model = model_of_features(DEFAULT_METHOD, FEATURES, labels, size)
    rng = np.random.default_rng(0)
    index = rng.permutation(labels.shape[0])[:batch_size].astype(np.int32)
    features = rng.random((batch_size, FEATURES), np.float32)
    step = step_of(model, features, index, labels)
    print(json.dumps(median(step, 5 * repeats)))


def time_reading(scale: float, repeats: int):
    """Prints the seconds of an image's record, and of decoding the image."""
    steps = max(int(20 * scale), 1) * repeats
    with tempfile.TemporaryDirectory() as scratch:
        write_pictures(scratch, max(int(200 * scale), 4))
        split, labels = split_of(scratch)
        # All images of a minibatch decoded, and one of them.
        taken = {
            BATCH // number: steady_seconds(
                training_batches(
                    split, labels, (224, 224, 3), BATCH, 0,
                    share=Workers(0, number),
                ),
                steps,
            ) / steps
            for number in (1, BATCH)
        }  # fmt: skip
    whole, decoding = linear(taken)
    print(json.dumps([whole / BATCH, decoding]))
