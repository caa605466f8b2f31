"""Several runs in one table, their warnings, and means over seeds."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imcl_tf.report.contents import Run, number_in

# Of equal settings runs may differ in these: where they are, and chance.
_PLACES = {
    "workdir", "init_from", "resume", "seed", "data_dir", "search", "budget",
}  # fmt: skip
_MOST_SETTINGS = 6


class Line(NamedTuple):
    """A run in the table of all.

    Attributes:
      name: its path, from where all runs lie.
      texts: method, regime, seed and data set.
      numbers: validation mAP, test mAP by both conventions, that of the
        initial logistic model, and seconds; None where it is not known.
    """

    name: str
    texts: tuple[str, ...]
    numbers: tuple[float | None, ...]


class Summary(NamedTuple):
    """Runs of equal data and settings but for the seed, one of each seed.

    Attributes:
      method: of them.
      dataset: of them.
      settings: what they do not share with all other runs, up to six.
      seeds: of them.
      means: of validation mAP and test mAP by both conventions.
      deviations: the standard deviations between seeds, n - 1 in the
        denominator.
    """

    method: str
    dataset: str
    settings: str
    seeds: list[str]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


class PlanPart(NamedTuple):
    """The rows of one column of a plan, as texts.

    Attributes:
      header: [n] names; all but the first and the last are of numbers.
      rows: of n texts each.
      notes: sentences below.
    """

    header: list[str]
    rows: list[list[str]]
    notes: list[str]


class PlanTable(NamedTuple):
    """The table of a plan, as texts.

    Attributes:
      title: its heading.
      command: that ran the plan.
      notes: sentences above.
      parts: of its columns.
    """

    title: str
    command: str
    notes: list[str]
    parts: list[PlanPart]


def names(
    paths: Sequence[Path], given: Mapping[Path, str] | None = None
) -> list[str]:
    """What runs are called.

    Args:
      paths: their workdirs.
      given: workdir -> name. Others are called by their path from where all
        of these lie.
    """
    known = {path.resolve(): name for path, name in (given or {}).items()}
    found = [known.get(path.resolve(), "") for path in paths]
    others = [p for p, name in zip(paths, found, strict=True) if not name]
    if others:
        # A single one lies in its parent.
        parts = [
            p if others[1:] else p.parent for p in map(Path.absolute, others)
        ]
        root = os.path.commonpath(parts)
    return [
        name or os.path.relpath(path, root)
        for path, name in zip(paths, found, strict=True)
    ]


def lines(runs: Sequence[Run], names: Sequence[str]) -> list[Line]:
    """The table of all runs."""
    return [
        Line(name, _texts(run), _numbers(run))
        for name, run in zip(names, runs, strict=True)
    ]


def warnings(runs: Sequence[Run], names: Sequence[str]) -> dict[str, list[str]]:
    """What runs warned of -> the names of those that did."""
    found: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for text in run.warnings:
            found.setdefault(text, []).append(name)
    return found


def _texts(run: Run) -> tuple[str, ...]:
    results = run.results
    keys = "method", "regime", "seed", "dataset"
    return tuple(str(results.get(key, "")) for key in keys)


def _means(run: Run) -> tuple[float | None, ...]:
    keys = "validation_mAP", "mAP", "mAP_empty_zero"
    return tuple(number_in(run.results.get(key)) for key in keys)


def _numbers(run: Run) -> tuple[float | None, ...]:
    others = run.initial.get("mAP"), run.provenance.get("seconds")
    return *_means(run), *map(number_in, others)


def summaries(runs: Sequence[Run]) -> list[Summary]:
    """Means and deviations of runs of several seeds, in the runs' order."""
    settings = [_settings(run) for run in runs]
    texts = [
        json.dumps([x, _data(run)], sort_keys=True)
        for x, run in zip(settings, runs, strict=True)
    ]
    every = set(itertools.chain(*settings))
    differing = [
        name
        for name in sorted(every)
        if len({x.get(name) for x in settings}) > 1 and name != "method"
    ]
    found = []
    for text in dict.fromkeys(texts):
        of_seeds: dict[str, int] = {}
        for i, x in enumerate(texts):
            if x == text:  # one that was repeated counts once
                of_seeds.setdefault(str(runs[i].results.get("seed")), i)
        of_text = [*of_seeds.values()]
        group = [runs[i] for i in of_text]
        means = [_means(run) for run in group]
        if len(group) < 2 or any(x is None for row in means for x in row):
            continue
        own = settings[of_text[0]]
        shown = [f"{name}={own[name]}" for name in differing if name in own][
            :_MOST_SETTINGS
        ]
        values = np.array(means, float)
        method, _, _, dataset = _texts(group[0])
        found.append(
            Summary(
                method, dataset, ", ".join(shown), [*of_seeds],
                tuple(values.mean(0).tolist()),
                tuple(values.std(0, ddof=1).tolist()),
            )
        )  # fmt: skip
    return found


def _settings(run: Run) -> dict[str, str]:
    """What a run depends on, apart from chance."""
    shown = {k: x for k, x in run.settings.items() if k not in _PLACES}
    method, regime, _, dataset = _texts(run)
    return shown | {"method": method, "regime": regime, "dataset": dataset}


def _data(run: Run) -> dict[str, str]:
    """Digests of a run's data; labels that are hidden are so by chance."""
    digests = run.results.get("digests")
    if not isinstance(digests, dict):  # of a damaged file
        return {}
    settings = run.settings
    none_hidden = (
        settings.get("observed_fraction", "1") in {"1", "1.0"}
        and settings.get("observed_rule") != "single_positive"
    )
    return {
        name: digest
        for name, digest in digests.items()
        if none_hidden or name != "training labels"
    }
