"""How time and memory grow, with sizes and with the number of workers.

    python -m eval.growth [SECTION] [--out=growth.csv]

similarity  Algorithm 2 by each of its sizes, as without a section: writes each
            run's seconds and bytes, beside it growth.png, and prints the
            exponents of fitted powers against those of the counts of
            operations and of numbers held. Needs the extra [plots].
workers     A step of IMCL on a small CNN in 1, 2 and 3 processes of one thread,
            against the ideal: of n processes on p cores min(n, p) times the
            speed of one.
estimate    Bytes that are sent, memory and seconds of a step of Open Images'
            size for 1 to 64 workers, from counts and from parts that are
            measured here.
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

from eval import scaling, step_parts, worker_steps
from eval.benchmark.measure import BATCH, FEATURES, LABELS, NEIGHBORS, call
from eval.texts import markdown
from imcl_tf.files import (
    fail,
    in_existing_directory,
    replacing,
    write_csv,
)
from imcl_tf.ops.similarity import joint_nonnegative_omp
from imcl_tf.training.provenance import processor

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
        """Held, as float32: atoms, and what the regressions of each image
        hold at each of k sizes: 1 + t rows in float64."""
        rows = self.M + 2 * self.B * (self.k + self.k * (self.k + 1) // 2)
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


def similarity():
    """Writes and prints how Algorithm 2 grows."""
    out = in_existing_directory(Path(FLAGS.out))
    points = curves(FLAGS.scale, FLAGS.repeats)
    write_csv(
        out,
        ("name", *Size._fields, "seconds", "bytes"),
        [(p.name, *p.size, p.seconds, p.bytes) for p in points],
    )
    with replacing(out.with_suffix(".png")) as new:
        plot(points, new)
    print("| | time | operations | memory | numbers |\n|---|---|---|---|---|")
    for name, *exponents in fits(points):
        numbers = " | ".join(f"{x:.2f}" for x in exponents)
        print(f"| {name} | {numbers} |")


def workers():
    """Prints the steps of several workers."""
    rows = worker_steps.measured(FLAGS.scale, FLAGS.repeats)
    titles = (name.replace("_", " ") for name in worker_steps.Row._fields)
    print(
        f"On {rows[0].cores} cores of {processor()}; the ideal of n workers "
        "on p cores is min(n, p) times the speed of one.\n"
    )
    print(markdown([*titles], [[f"{x:.3g}" for x in row] for row in rows]))


def estimate():
    """Prints the costs of a step of 1 to 64 workers."""
    parts = step_parts.measure_parts(FLAGS.scale, FLAGS.repeats)
    if FLAGS.cnn_seconds:
        parts = parts._replace(update=0.0, image=FLAGS.cnn_seconds)
    print(scaling.report(parts))


SECTIONS = {
    "similarity": similarity, "workers": workers, "estimate": estimate
}  # fmt: skip


def main(argv: list[str]):
    try:
        name, *others = argv[1:] or ["similarity"]
        if others or name not in SECTIONS:
            raise ValueError(
                f"expected one section of {', '.join(SECTIONS)}, got "
                f"{' '.join(argv[1:])!r}"
            )
        SECTIONS[name]()
    except (ValueError, OSError, ImportError) as error:
        fail(error)


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
