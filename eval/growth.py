"""How Algorithm 2's time and memory grow with each of its sizes.

    python -m eval.growth --out=growth.csv

writes each run's seconds and bytes, beside it growth.png, and prints the
exponents of fitted powers against those of the counts of operations and of
numbers held. Needs the extra [plots].
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.GROWTH)

import itertools
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags

from eval.benchmark.measure import BATCH, FEATURES, LABELS, NEIGHBORS, call
from imcl_tf.files import (
    fail,
    in_existing_directory,
    replacing,
    write_csv,
)
from imcl_tf.ops.similarity import joint_nonnegative_omp

FLAGS = flags.FLAGS


class Size(NamedTuple):
    """The size of a problem: M candidates, C labels, B images, k neighbours."""

    M: int = 8_000
    C: int = LABELS
    B: int = BATCH
    k: int = NEIGHBORS

    @property
    def operations(self) -> int:
        """Multiplications of the products of residuals and atoms."""
        return self.k * self.B * self.M * (self.C + FEATURES)

    @property
    def numbers(self) -> int:
        """Held: atoms, and the growing QR of each image, at each of k sizes."""
        rows = self.M + self.B * self.k * (self.k + 1) // 2
        return rows * (self.C + FEATURES)


class Point(NamedTuple):
    """A run. Attributes: name, of what varies; size; seconds; bytes."""

    name: str
    size: Size
    seconds: float
    bytes: int


RANGES = {
    "M": (2_000, 4_000, 8_000, 16_000, 32_000),
    "C": (1_000, 2_000, 4_000, 8_000, 16_000),
    "B": (16, 32, 64, 128, 256),
    "k": (1, 2, 4, 8, 16),
}


def curves(scale: float, repeats: int) -> list[Point]:
    """Runs every size of `RANGES`, the others as they are by default."""
    base = Size(M=max(int(Size().M * scale), 32), C=max(int(LABELS * scale), 8))
    nothing = call(solve, 1, 1, 1, 1, 1).peak
    points = []
    for name, value in _values():
        if name in "MC":
            value = max(int(value * scale), 4)
        size = base._replace(**{name: value})
        run = call(solve, *size, repeats)
        seconds = json.loads(run.output.splitlines()[-1])
        points.append(Point(name, size, seconds, max(run.peak - nothing, 1)))
    return points


def _values() -> Iterable[tuple[str, int]]:
    for name, values in RANGES.items():
        yield from zip(itertools.repeat(name), values)


def solve(m: int, c: int, b: int, k: int, repeats: int):
    """Prints the median seconds of Algorithm 2 on random numbers."""

    def random(*shape):
        # tf.random scales the numbers, in a second array of the size.
        return tf.raw_ops.StatelessRandomUniform(shape=shape, seed=shape)

    y, f = random(b, c), random(b, FEATURES)
    atoms_y, atoms_f = random(m, c), random(m, FEATURES)

    def run() -> float:
        start = time.perf_counter()
        joint_nonnegative_omp(y, f, atoms_y, atoms_f, k).indices.numpy()
        return time.perf_counter() - start

    run()
    print(json.dumps(statistics.median(run() for _ in range(repeats))))


def exponent(values: Iterable[float], of: Iterable[float]) -> float:
    """The power of `of` that fits `values` best, both on log scales."""
    slope, _ = np.polyfit(np.log([*of]), np.log([*values]), 1)
    return float(slope)


def fits(points: list[Point]) -> list[tuple[str, float, float, float, float]]:
    """Name and exponents of seconds, operations, bytes and numbers, by name."""
    rows = []
    for name in RANGES:
        own = [point for point in points if point.name == name]
        of = [getattr(point.size, name) for point in own]
        rows.append(
            (
                name,
                exponent((p.seconds for p in own), of),
                exponent((p.size.operations for p in own), of),
                exponent((p.bytes for p in own), of),
                exponent((p.size.numbers for p in own), of),
            )
        )
    return rows


def plot(points: list[Point], path: Path):
    """Draws the points, and their counts through the last of them."""
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, len(RANGES), sharey="row")
    for column, name in zip(axes.T, RANGES, strict=True):
        own = [point for point in points if point.name == name]
        of = [getattr(point.size, name) for point in own]
        for axis, measured, counted, label in (
            (column[0], "seconds", "operations", "seconds"),
            (column[1], "bytes", "numbers", "bytes"),
        ):
            values = [getattr(point, measured) for point in own]
            counts = [getattr(point.size, counted) for point in own]
            counts = np.array(counts) * values[-1] / counts[-1]
            axis.loglog(of, values, "o-", label="measured")
            axis.loglog(of, counts, "--", label=f"as {counted} grow")
            axis.set(xlabel=name, ylabel=label)
            axis.set_xticks(of, map(str, of))
            axis.minorticks_off()
            axis.legend()
    figure.savefig(path, format="png")


def main(argv: list[str]):
    del argv
    try:
        out = in_existing_directory(Path(FLAGS.out))
        points = curves(FLAGS.scale, FLAGS.repeats)
        write_csv(
            out,
            ("name", *Size._fields, "seconds", "bytes"),
            [(p.name, *p.size, p.seconds, p.bytes) for p in points],
        )
        with replacing(out.with_suffix(".png")) as new:
            plot(points, new)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    print("| | time | operations | memory | numbers |\n|---|---|---|---|---|")
    for name, *exponents in fits(points):
        numbers = " | ".join(f"{x:.2f}" for x in exponents)
        print(f"| {name} | {numbers} |")


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
