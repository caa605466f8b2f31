"""Searches settings on the validation split: a grid, or random ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from imcl_tf.files import write_csv

_KEYS = {"grid", "random", "trials", "seed"}
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
    try:
        spec = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    kinds = [
        k for k in ("grid", "random") if isinstance(spec, dict) and k in spec
    ]
    if len(kinds) != 1 or not spec[kinds[0]] or set(spec) - _KEYS:
        raise ValueError(f"{file}: expected {_FORMS}")
    axes = spec[kinds[0]]
    if not isinstance(axes, dict):
        raise ValueError(f"{file}: expected {_FORMS}")
    if kinds == ["grid"]:
        for name, values in axes.items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"{file}: {name} must be a list of values")
        choices: Iterable[Sequence] = itertools.product(*axes.values())
    else:
        number, seed = spec.get("trials", 10), spec.get("seed", 0)
        for name, value, least in (("trials", number, 1), ("seed", seed, 0)):
            if not (isinstance(value, int) and value >= least):
                raise ValueError(f"{file}: {name} must be a number >= {least}")
        rng = np.random.default_rng(seed)
        choices = (
            [_draw(file, rng, name, axis) for name, axis in axes.items()]
            for _ in range(number)
        )
    trials = [dict(zip(axes, map(_text, c), strict=True)) for c in choices]
    return [t for i, t in enumerate(trials) if t not in trials[:i]]


def _draw(file, rng, name, axis):
    if isinstance(axis, list) and axis:
        return axis[rng.integers(len(axis))]
    try:
        low, high, log = axis["low"], axis["high"], axis.get("log")
        if log and not low > 0:
            raise ValueError(f"{file}: {name}: low must be > 0 with log")
        if isinstance(low, int) and isinstance(high, int) and not log:
            return int(rng.integers(low, high, endpoint=True))
        bounds = np.log([low, high]) if log else (low, high)
        value = rng.uniform(*bounds)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{file}: {name} must be a list of values or low and high"
        ) from error
    # Four digits of a drawn number are enough.
    return float(f"{np.exp(value) if log else value:.4g}")


def _text(value) -> str:
    """As on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


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
        name = ",".join(f"{key}={value}" for key, value in settings.items())
        workdir = directory / "trials" / name.replace("/", "_")
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
