"""Searches settings on the validation split: a grid, or random ones."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from imcl_tf.data.cells import read_text, shown
from imcl_tf.data.kept import parse_json
from imcl_tf.files import write_csv

_KEYS = {"grid", "random", "trials", "seed"}
_MAXIMUM = 10_000  # trials; more are a mistake
_FORMS = (
    '{"grid": {FLAG: [VALUE, ...]}} or '
    '{"random": {FLAG: ...}, "trials": n, "seed": s}'
)


def read_trials(file: Path) -> list[dict[str, str]]:
    """Reads which settings to try.

    The file is JSON: {"grid": {FLAG: [VALUE, ...], ...}}, all combinations; or
    {"random": {FLAG: [VALUE, ...] or {"low": x, "high": y, "log": true}, ...},
    "trials": n, "seed": 0}, n independent draws, of numbers uniform or, with
    "log", uniform in the logarithm; between two whole numbers, of whole ones.

    Args:
      file: to read.

    Returns:
      for each trial FLAG -> value, distinct.

    Raises:
      ValueError: if the file is not such.
      OSError: if it cannot be read.
    """
    spec = _read_json(file)
    kinds = [
        k for k in ("grid", "random") if isinstance(spec, dict) and k in spec
    ]
    if len(kinds) != 1 or not spec[kinds[0]] or set(spec) - _KEYS:
        raise ValueError(f"{file}: expected {_FORMS}")
    axes = spec[kinds[0]]
    if kinds == ["grid"] and set(spec) != {"grid"}:
        raise ValueError(f"{file}: trials and seed are for random, not a grid")
    if not isinstance(axes, dict):
        raise ValueError(f"{file}: expected {_FORMS}")
    for name, axis in axes.items():
        if not isinstance(axis, dict) or kinds == ["grid"]:
            _check_values(file, name, axis)
    if kinds == ["grid"]:
        number = math.prod(map(len, axes.values()))
        choices: Iterable[Sequence] = itertools.product(*axes.values())
    else:
        number = _number(file, spec, "trials", 10, 1)
        rng = np.random.default_rng(_number(file, spec, "seed", 0, 0))
        choices = (
            [_draw(file, rng, name, axis) for name, axis in axes.items()]
            for _ in range(number)
        )
    if number > _MAXIMUM:
        raise ValueError(f"{file}: {number} trials, at most {_MAXIMUM} can be")
    trials = [dict(zip(axes, map(_text, c), strict=True)) for c in choices]
    return list({tuple(trial.items()): trial for trial in trials}.values())


def _read_json(file: Path):
    text = read_text(file)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _check_values(file, name, values):
    if not isinstance(values, list) or not values:
        raise ValueError(f"{file}: {shown(name)} must be a list of values")
    for value in values:
        is_number = isinstance(value, int | float) and abs(value) < math.inf
        if not is_number and not isinstance(value, str):
            raise ValueError(
                f"{file}: {shown(name)} must be a list of numbers, texts, true "
                f"or false, got {json.dumps(value)[:50]}"
            )


def _number(file, spec, name, default, least) -> int:
    number = spec.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int):
        number = least - 1
    if number < least:
        raise ValueError(f"{file}: {name} must be a number >= {least}")
    return number


def _draw(file, rng, name, axis):
    if isinstance(axis, list):
        return axis[rng.integers(len(axis))]
    try:
        low, high, log = axis["low"], axis["high"], axis.get("log", False)
        if {type(low), type(high)} - {int, float} or type(log) is not bool:
            raise TypeError
        if not low <= high or set(axis) - {"low", "high", "log"}:
            raise KeyError
        if log and not low > 0:
            raise KeyError
        if isinstance(low, int) and isinstance(high, int) and not log:
            return int(rng.integers(low, high, endpoint=True))
        bounds = np.log([low, high]) if log else (float(low), float(high))
        value = rng.uniform(*bounds)
    except (
        TypeError, KeyError, AttributeError, OverflowError, ValueError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{file}: {shown(name)} must be a list of values or two numbers "
            "low <= high; log must be true or false, and low > 0 with it; got "
            f"{shown(json.dumps(axis))}"
        ) from error
    # Four digits of a drawn number are enough.
    return float(f"{np.exp(value) if log else value:.4g}")


def _text(value) -> str:
    """As on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _directory_name(settings: dict[str, str]) -> str:
    """The settings as they are if they make a file name, else a short one."""
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    name = re.sub(r"[^\w.,=+-]", "_", text)[:80]
    if name == text:
        return name
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def search(
    trials: list[dict[str, str]],
    train: Callable[[dict[str, str], Path], dict],
    directory: Path,
) -> dict[str, str]:
    """Trains each trial and returns the best on validation.

    Args:
      trials: FLAG -> value each, the same flags.
      train: settings, workdir -> results with `validation_mAP`; returns at
        once what has finished before, so that a search can be resumed.
      directory: gets `trials.csv`, a row per trial, and `trials/`.

    Returns:
      the settings of the best trial, the first of equals.

    Raises:
      ValueError: if every trial diverges, or a result has no validation mAP.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows, best, best_score = [], None, -np.inf
    for settings in trials:
        workdir = directory / "trials" / _directory_name(settings)
        try:
            score = train(settings, workdir)["validation_mAP"]
            if not np.isfinite(score):
                raise ValueError(
                    f"{workdir}: validation_mAP must be a finite number, got "
                    f"{score}"
                )
            rows.append([*settings.values(), f"{score:.4f}", ""])
        except FloatingPointError as error:
            score = -np.inf
            rows.append([*settings.values(), "", str(error)])
        header = (*trials[0], "validation_mAP", "error")
        write_csv(directory / "trials.csv", header, rows)
        if score > best_score:
            best, best_score = settings, score
    if best is None:
        raise ValueError(f"no trial of {directory}/trials.csv came through")
    return best
