"""What workers take: a step of a small model, and an exchange.

The functions run in a process of their own, see `eval.loopback`.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from eval.loopback import run_workers
from imcl_tf.backbones.make import backbone
from imcl_tf.methods.imcl import IMCL
from imcl_tf.ops import workers

NUMBERS = (1, 2, 3)
_LABELS, _SIZE, _BATCH, _STEPS = 100, 96, 48, 8
_FIRST = 2  # steps that are not counted: they trace, and warm up
_LARGE = 16_000_000  # numbers, 64 MB


class Row(NamedTuple):
    """Steps of n workers.

    Attributes:
      workers: n.
      cores: p, that they have together.
      seconds: of a step, the median.
      images_per_second: of the minibatch that they share.
      speed: to that of one worker, the median of pairs.
      to_ideal: `speed` over min(n, p).
      processor_seconds: of worker 0 in a step, the median.
      divided: those of one worker over n times these, the median of pairs: 1
        if the workers did nothing twice and their exchanges were free. Other
        programs at work change it little.
    """

    workers: int
    cores: int
    seconds: float
    images_per_second: float
    speed: float
    to_ideal: float
    processor_seconds: float
    divided: float


def measured(scale: float, repeats: int) -> list[Row]:
    """Steps of 1, 2 and 3 workers on the same minibatches.

    Args:
      scale: share of the pixels of an image, and of the images.
      repeats: rounds, in each of which all numbers of workers have a turn.

    Raises:
      ChildProcessError: if a worker fails.
    """
    size = max(int(_SIZE * scale), 32)
    batch_size = max(int(_BATCH * scale), len(NUMBERS))
    rounds = [
        {
            number: run_workers(number, take_steps, size, batch_size, _STEPS)
            for number in NUMBERS
        }
        for _ in range(repeats)
    ]
    return [_row(number, batch_size, rounds) for number in NUMBERS]


def _row(number, batch_size, rounds):
    cores = len(os.sched_getaffinity(0))
    seconds, busy = (
        statistics.median(one[number][i] for one in rounds) for i in range(2)
    )
    speed, less_busy = (
        statistics.median(one[1][i] / one[number][i] for one in rounds)
        for i in range(2)
    )
    return Row(
        number, cores, seconds, batch_size / seconds,
        speed, speed / min(number, cores), busy, less_busy / number,
    )  # fmt: skip


def take_steps(size: int, batch_size: int, steps: int):
    """Prints a step's median seconds, and those of this process's threads.

    A step of IMCL on `small_cnn`, with a dictionary and its refresh.

    Args:
      size: S, pixels.
      batch_size: B, of all workers together.
      steps: that are counted.
    """
    _start()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    number = (_FIRST + steps) * batch_size
    images = rng.integers(0, 256, (number, size, size, 3)).astype(np.uint8)
    labels = rng.integers(-1, 2, (number, _LABELS)).astype(np.int8)
    named = {
        "inputs": images,
        "image_index": np.arange(number, dtype=np.int32),
    }
    data = tf.data.Dataset.from_tensor_slices((named, labels))
    cnn = backbone("small_cnn", image_size=size)
    model = IMCL(cnn, _LABELS, dictionary_size=number // 2)
    model.compile("rmsprop")
    clock = _Clock()
    model.fit(data.batch(batch_size), callbacks=[clock], verbose=0)
    taken = np.diff(clock.ends, axis=0)[_FIRST - 1 :]
    print(json.dumps(np.median(taken, 0).tolist()))
    workers.leave()


class _Clock(keras.callbacks.Callback):
    """Notes when each step ends: what is between them is a step."""

    def __init__(self):
        super().__init__()
        self.ends: list[tuple[float, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        self.ends.append((time.perf_counter(), time.process_time()))


def time_exchange(repeats: int):
    """Prints seconds of an exchange of one number, and of a byte that is sent.

    A byte is sent, received and added. Each of two workers sends as many bytes
    as the sum has.
    """
    _start()
    one, large = tf.zeros([1]), tf.zeros([_LARGE])
    add = tf.function(workers.all_sum, autograph=False, reduce_retracing=True)
    little = _median(lambda: add(one), 50 * repeats)
    much = _median(lambda: add(large), repeats)
    print(json.dumps([little, max(much - little, 0.0) / (4 * _LARGE)]))
    workers.leave()


def _median(function: Callable, repeats: int) -> float:
    def seconds():
        start = time.perf_counter()
        function().numpy()
        return time.perf_counter() - start

    seconds()
    return statistics.median(seconds() for _ in range(repeats))


def _start():
    if "TF_CONFIG" in os.environ:
        workers.start()
