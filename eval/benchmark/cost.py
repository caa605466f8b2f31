"""What each method costs: parameters, images per second and memory."""

from __future__ import annotations

import json
import sys

import numpy as np

from eval.benchmark.graph import skewed_labels
from eval.benchmark.measure import (
    BATCH,
    DICTIONARY,
    FEATURES,
    Figure,
    call,
    printed,
)
from eval.benchmark.step import (
    Problem,
    Timed,
    add_dictionary,
    make_model,
    median,
    step_of,
)
from eval.texts import markdown
from imcl_tf.methods.base import METHODS
from imcl_tf.settings import DEFAULT_METHOD

_MILLION, _GIGABYTE = 1e6, 1e9


def cost(scale: float, repeats: int) -> list[Figure]:
    """Parameters, training speed and peak memory of each method.

    A row's figures are named "ROW: COLUMN". End to end each has the whole step
    of logistic in common, and of its own what comes after the features, see
    `Problem`. Each memory is that of a process which takes two steps of the
    method and nothing else.
    """
    batch_size = max(int(BATCH * scale), 2)
    size = max(int(DICTIONARY * scale), batch_size)
    cnn = "resnet101" if scale == 1 else "small_cnn"
    rows = {name: (name, 0) for name in METHODS}
    rows |= {
        f"{DEFAULT_METHOD} (minibatch)": (DEFAULT_METHOD, 0),
        DEFAULT_METHOD: (DEFAULT_METHOD, size),
    }
    whole_step = printed(call(time_whole, batch_size, cnn, repeats))
    figures = []
    for number, (row, (method, entries)) in enumerate(rows.items()):
        print(f"cost: {number} of {len(rows)} rows", file=sys.stderr)
        whole = call(weigh, method, entries, batch_size, cnn)
        fixed = call(weigh_fixed, method, entries, batch_size)
        speed = call(time_cost, method, entries, batch_size, cnn, repeats)
        parameters, beside = printed(whole)
        more, on_features = printed(speed)
        figures += [
            Figure(f"{row}: {column}", value, unit)
            for column, value, unit in (
                ("parameters", parameters / _MILLION, "million"),
                ("beside the CNN", beside / _MILLION, "million"),
                ("end to end", batch_size / (whole_step + more), "images/s"),
                ("memory", whole.peak / _GIGABYTE, "GB"),
                ("fixed features", batch_size / on_features, "images/s"),
                ("memory there", fixed.peak / _GIGABYTE, "GB"),
            )
        ]
    return figures


def by_row(kind: str, figures: list[Figure]) -> str:
    """Figures named "ROW: COLUMN" as one Markdown table.

    Args:
      kind: heading of the rows.
      figures: those of a row side by side, of each row the same ones.
    """
    rows: dict[str, dict[str, str]] = {}
    for what, value, unit, _ in figures:
        row, column = what.split(": ")
        title = f"{column}, {unit}" if unit else column
        rows.setdefault(row, {})[title] = f"{value:.4g}"
    columns = [*next(iter(rows.values()))]
    return markdown(
        [kind, *columns],
        [[row, *cells.values()] for row, cells in rows.items()],
    )


def weigh(method: str, size: int, batch_size: int, cnn: str):
    """Takes two steps; prints the trainable parameters, and those of them
    that are not the CNN's."""
    problem = Problem(batch_size, cnn)
    model = problem.model(method, size)
    if size:
        model.refresh_dictionary(np.arange(min(batch_size, size)))
    problem.step_of(model, problem.images)()
    own, whole = (
        sum(int(np.prod(x.shape)) for x in part.trainable_variables)
        for part in (problem.backbone, model)
    )
    print(json.dumps([whole, whole - own]))


def weigh_fixed(method: str, size: int, batch_size: int):
    """Takes two steps on features."""
    _step_on_features(method, size, batch_size)()


def time_whole(batch_size: int, cnn: str, repeats: int):
    """Prints the median seconds of logistic's whole step."""
    print(json.dumps(Problem(batch_size, cnn).seconds(repeats)))


def time_cost(method: str, size: int, batch_size: int, cnn: str, repeats: int):
    """Prints seconds beyond logistic's whole step, and of one on features."""
    problem = Problem(batch_size, cnn)
    more = problem.more_seconds(method, 5 * repeats, size)
    if size:
        more += problem.refresh_seconds(5 * repeats)
    fixed = median(_step_on_features(method, size, batch_size), 5 * repeats)
    print(json.dumps([more, fixed]))


def _step_on_features(method: str, size: int, batch_size: int) -> Timed:
    labels = skewed_labels(DICTIONARY / 3.6e6)
    rng = np.random.default_rng(0)
    model = make_model(method, None, labels, fixed_features=True)
    if size:
        stored = rng.random((size, FEATURES), np.float32)
        add_dictionary(model, stored, labels)
    index = rng.permutation(labels.shape[0])[:batch_size].astype(np.int32)
    features = rng.random((batch_size, FEATURES), np.float32)
    return step_of(model, features, index, labels)
