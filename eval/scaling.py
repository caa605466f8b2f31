"""What a step of n workers costs: bytes that are sent, memory and seconds.

Counted from the sizes, and from parts that are measured on this machine. What
is exchanged, and in which order, is in `imcl_tf.ops.workers` and where that is
called; a worker sends 2 (n - 1) / n times the bytes of each sum, around a ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from eval.benchmark.measure import (
    BATCH,
    DICTIONARY,
    FEATURES,
    LABELS,
    NEIGHBORS,
)
from eval.step_parts import Parts
from eval.texts import markdown
from imcl_tf.training.provenance import processor

NUMBERS = (1, 2, 4, 8, 16, 32, 64)
LINKS = (1, 10, 100)  # Gbit/s
_SINGLE, _HALF, _DOUBLE = 4, 2, 8  # bytes of a number
_OBSERVED = 9 * 3.6e6  # labels of Open Images


class Sizes(NamedTuple):
    """What decides the cost of a step; by default Open Images'.

    Attributes:
      batch_size: B, of all workers together.
      weights: numbers of w.
      labels: C.
      features: d.
      edges: of A.
      dictionary: M.
      neighbors: k.
      pixels: S, of an image of S x S x 3 bytes.
      refresh: images of the dictionary renewed in each step.
      statistics: channels of each batch normalisation whose statistics are
        trained; those of a network that begins with ImageNet's weights are not.
      record: bytes of an image's record, a JPEG of 500 x 375 pixels.
      shuffled: records that each worker holds to shuffle them.
    """

    batch_size: int = BATCH
    weights: int = 42_500_000
    labels: int = LABELS
    features: int = FEATURES
    edges: int = 95_000
    dictionary: int = DICTIONARY
    neighbors: int = NEIGHBORS
    pixels: int = 224
    refresh: int = 10
    statistics: tuple[int, ...] = ()
    record: int = 75_000
    shuffled: int = 10_000

    @property
    def trained(self) -> int:
        """Numbers of w, theta and A."""
        theta = (self.features + 1) * self.labels
        return self.weights + theta + self.edges


class Exchange(NamedTuple):
    """A sum over the workers. Attributes: what; numbers: float32 in it, or two
    for each int64; times: in a step."""

    what: str
    numbers: int
    times: int = 1


def exchanges(sizes: Sizes, number: int) -> list[Exchange]:
    """Returns the sums of a training step of `number` workers, none if 1."""
    if number == 1:
        return []
    images, k = sizes.batch_size, sizes.neighbors
    c, d = sizes.labels, sizes.features
    padded = math.ceil(images / number) * number
    return [
        *(Exchange("batch statistics", 3 * n, 2) for n in sizes.statistics),
        # First of all a number of the minibatch, in int64.
        Exchange("features", 2 * number),
        Exchange("features", padded * d),
        Exchange("scores of candidates", number * 2 * images, k),
        Exchange("their atoms", images * (c + d + 5), k),
        Exchange("neighbours' features", images * k * d),
        Exchange("gradient of A", sizes.edges),
        Exchange("gradients of w, theta", sizes.trained - sizes.edges),
    ]


def sent(sizes: Sizes, number: int) -> dict[str, float]:
    """Returns the bytes that each worker sends in a step, by what they are."""
    found: dict[str, float] = {}
    for what, numbers, times in exchanges(sizes, number):
        whole = _SINGLE * numbers * times * 2 * (number - 1) / number
        found[what] = found.get(what, 0) + whole
    return found


def memory(sizes: Sizes, parts: Parts, number: int) -> dict[str, float]:
    """Returns the bytes that a worker of `number` holds, by what they are."""
    images = sizes.batch_size
    own, stored = (math.ceil(n / number) for n in (images, sizes.dictionary))
    atom = sizes.labels + sizes.features
    # RMSprop with momentum has two states. Workers join all gradients in one
    # array, and have their sum in another.
    copies = 1 + 2 + 1 + 2 * (number > 1)
    return {
        "process": parts.process,
        # Column and sign of each, twice: one for SciPy, one for TensorFlow.
        "observed labels": _OBSERVED * (5 + _SINGLE),
        "records to shuffle": sizes.shuffled * sizes.record,
        "weights, optimizer, gradients": copies * _SINGLE * sizes.trained,
        "images in the CNN": own * parts.image_memory,
        "dictionary: images": stored * 3 * sizes.pixels**2,
        "dictionary: features, atoms": stored * _HALF * atom,
        "atoms in single precision": (stored + own) * _SINGLE * atom,
        "after the features": images * parts.repeated_memory,
    }


def seconds(
    sizes: Sizes, parts: Parts, number: int, link: float
) -> dict[str, float]:
    """Returns the seconds of a step of `number` workers, by what they are.

    Args:
      sizes: of the step.
      parts: see `Parts`.
      number: n >= 1.
      link: Gbit/s, both ways at once.
    """
    images = sizes.batch_size
    own, renewed = (math.ceil(n / number) for n in (images, sizes.refresh))
    candidates = math.ceil(sizes.dictionary / number) + own
    times = sum(one.times for one in exchanges(sizes, number))
    per_byte = parts.byte + 8e-9 / link
    return {
        # A forward pass is a third of forward and backward.
        "CNN": parts.update + parts.image * (own + renewed / 3),
        "repeated": parts.repeated + parts.repeated_image * images,
        "candidates": candidates * (parts.candidate + parts.product * images),
        "reading": parts.record * images + parts.decoding * own,
        # A sum takes 2 (n - 1) messages, one after another.
        "network": sum(sent(sizes, number).values()) * per_byte
        + times * 2 * (number - 1) * parts.message,
    }


def report(parts: Parts) -> str:
    """Everything as Markdown: the parts, then tables for two minibatches."""
    lines = [
        f"Measured on 2 cores of {processor()}, which each worker is taken to "
        "have:\n",
        markdown(
            ["part", "measured"],
            [[k, f"{v:.3g}"] for k, v in parts._asdict().items()],
        ),
        "\nTaken as given:\n",
        markdown(
            ["size", "given"],
            [[k, f"{v}"] for k, v in Sizes()._asdict().items()],
        ),
    ]
    for what, of in (
        (f"{BATCH} images in all", lambda n: Sizes()),
        (
            f"{BATCH} images for each worker",
            lambda n: Sizes(batch_size=BATCH * n),
        ),
    ):
        lines += [
            f"\nA minibatch of {what}: MB that a worker sends in a step:\n",
            _table({n: sent(of(n), n) for n in NUMBERS[1:]}, 1e6),
            "\nGB that a worker holds:\n",
            _table({n: memory(of(n), parts, n) for n in NUMBERS}, 1e9),
            "\nSeconds of a step, without the network:\n",
            _table({n: _alone(of(n), parts, n) for n in NUMBERS}, 1),
            "\nWith it, seconds of a step, and its images per second to those "
            "of one worker:\n",
            _steps(of, parts),
        ]
    return "\n".join(lines)


def _alone(sizes, parts, number):
    found = seconds(sizes, parts, number, LINKS[0])
    del found["network"]
    return found


def _table(rows, unit):
    """Values by name for each number of workers, and their sum."""
    return markdown(
        ["workers", *next(iter(rows.values())), "together"],
        [
            [
                f"{number}",
                *(_digits(value / unit) for value in values.values()),
                _digits(sum(values.values()) / unit),
            ]
            for number, values in rows.items()
        ],
    )


def _digits(value):
    return f"{float(f'{value:.3g}'):,g}"


def _steps(of: Callable[[int], Sizes], parts: Parts):
    def taken(number, link):
        return sum(seconds(of(number), parts, number, link).values())

    header, rows = ["workers"], [[f"{number}"] for number in NUMBERS]
    for link in LINKS:
        header += [f"{link} Gbit/s: seconds", "speed"]
        for row, number in zip(rows, NUMBERS, strict=True):
            speeds = [of(n).batch_size / taken(n, link) for n in (1, number)]
            row += [
                f"{taken(number, link):.3g}", f"{speeds[1] / speeds[0]:.3g}"
            ]  # fmt: skip
    return markdown(header, rows)
