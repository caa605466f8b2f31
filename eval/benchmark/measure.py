"""How things are measured: in processes of their own, as ratios of pairs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[2]
# What most sections share: the size of Open Images.
LABELS, LABELS_PER_IMAGE = 5000, 9
BATCH, FEATURES, NEIGHBORS = 32, 2048, 5
DICTIONARY = 10_000
# Runs a command and tells its seconds and its peak memory in bytes. Not from
# the benchmark itself, whose own memory Linux would count as the command's.
_LAUNCHER = """
import json, os, resource, subprocess, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
seconds = time.perf_counter() - start
peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, peak, done.stdout.decode()]))
sys.exit(done.returncode)
"""


class Figure(NamedTuple):
    """Attributes: what: was measured; value; unit; bar: the most it may be,
    None = without."""

    what: str
    value: float
    unit: str
    bar: float | None = None


class Measured(NamedTuple):
    """Attributes: seconds; peak: memory in bytes; output: printed."""

    seconds: float
    peak: int
    output: str


def measure(*arguments: str) -> Measured:
    """Runs Python with `arguments` on two cores.

    Raises:
      ChildProcessError: if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,  # TensorFlow's lines about missing GPUs too
    )
    if done.returncode:
        sys.stderr.buffer.write(done.stderr)
        raise ChildProcessError(f"python {' '.join(arguments)} failed")
    return Measured(*json.loads(done.stdout))


def call(function: Callable, *arguments: str | float) -> Measured:
    """Runs a function of a module by `measure`; it prints its result."""
    # Not __module__: of the program itself that is __main__.
    spec = sys.modules[function.__module__].__spec__
    assert spec is not None
    given = ", ".join(map(repr, arguments))
    return measure(
        "-c", f"import {spec.name} as m; m.{function.__name__}({given})"
    )


def printed(run: Measured) -> Any:
    """What the last line of a run says, in JSON."""
    return json.loads(run.output.splitlines()[-1])


def called(
    what: str, bar: float | None, function: Callable, *arguments: str | float
) -> Figure:
    """`Figure` of the median ratio that a function prints in its process."""
    ratios = printed(call(function, *arguments))
    return Figure(what, statistics.median(ratios), "x", bar)


def print_ratios(run: Callable, floor: Callable, repeats: int):
    """Prints seconds of `run` over those of `floor`, in pairs."""

    def seconds(function) -> float:
        start = time.perf_counter()
        tf.nest.map_structure(np.asarray, function())
        return time.perf_counter() - start

    run(), floor()
    print(json.dumps([seconds(run) / seconds(floor) for _ in range(repeats)]))


def ratio(what: str, runs: list[Measured], floors: list[Measured]) -> Figure:
    pairs = zip(runs, floors, strict=True)
    median = statistics.median(a.seconds / b.seconds for a, b in pairs)
    return Figure(what, median, "x")
