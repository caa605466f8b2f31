"""What plans came to: the runs of their cells, means over seeds, differences.

Reads what `eval.run` left in one directory or several; a cell counts from the
first that has it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from eval.reported import GROUPS
from eval.state import State, differing, read
from imcl_tf.files import make_directory
from imcl_tf.ops.bootstrap import resampled_means
from imcl_tf.ops.metrics import Support
from imcl_tf.report.contents import is_number, read_object, read_results
from imcl_tf.training.predictions import load
from imcl_tf.training.workdir import PREDICTIONS, PROVENANCE, RESULTS

FLAGS = flags.FLAGS
OURS = "imcl"
_TAILS = (2.5, 97.5)
_OF_PROVENANCE = {
    "processor", "cores", "accelerators", "commit", "seconds", "resumed"
}  # fmt: skip
# Measure -> its key in results.json.
MEASURES = {
    "validation": "validation_mAP",
    "all": "mAP",
    "all, empty = 0": "mAP_empty_zero",
}


class Spread(NamedTuple):
    """Values of several seeds.

    Attributes:
      mean: of them.
      deviation: their standard deviation, None of a single one.
      number: how many there are.
    """

    mean: float
    deviation: float | None
    number: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Sums up what is there; None if nothing is."""
        there = [x for x in values if x is not None]
        if not there:
            return None
        deviation = float(np.std(there, ddof=1)) if len(there) > 1 else None
        return cls(float(np.mean(there)), deviation, len(there))

    def __str__(self) -> str:
        if self.deviation is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


class Difference(NamedTuple):
    """How much better a row is than another one.

    Attributes:
      mean: of the seeds that both have, in points of test mAP.
      low: lower end of the 95 % interval.
      high: upper end.
      pairs: how many seeds both have.
    """

    mean: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


class Entry(NamedTuple):
    """A row of a column of a plan.

    Attributes:
      row: name.
      column: name.
      methods: of its runs.
      spreads: measure -> over seeds; no entry for what is missing.
      runs: seed -> workdir.
      logistic: seed -> workdir of the logistic model that the run starts from.
      chosen: what validation chose, FLAG -> value; several where seeds that
        were run by themselves chose otherwise.
      errors: of runs that failed, wherever they were tried.
    """

    row: str
    column: str
    methods: set[str]
    spreads: dict[str, Spread]
    runs: dict[str, Path]
    logistic: dict[str, Path]
    chosen: list[dict[str, str]]
    errors: list[str]


class Table(NamedTuple):
    """A plan as it was run.

    Attributes:
      name: of the plan.
      title: its heading.
      reported: key of the paper's numbers.
      seeds: wanted ones.
      entries: a column after another.
      command: that ran it, several apart by "&&".
      dataset: its name.
      own_dataset: name of that which the plan is meant for.
    """

    name: str
    title: str
    reported: str
    seeds: list[str]
    entries: list[Entry]
    command: str
    dataset: str
    own_dataset: str

    @property
    def heading(self) -> str:
        """The title; of other data than the plan's own also which."""
        other = self.dataset != self.own_dataset
        return f"{self.title} (here: {self.dataset})" if other else self.title


def read_tables(places: Sequence[Path]) -> list[Table]:
    """The plans that were run in some directories.

    Raises:
      ValueError: if there is none, if two are of one plan on different data
        or with different settings, or for a damaged file.
      OSError: if a directory cannot be read.
    """
    states: dict[str, list[tuple[Path, dict]]] = {}
    for place in places:
        if not place.is_dir():
            raise NotADirectoryError(f"runs: {place} is no directory")
        for file in sorted(place.glob("[!.]*.json")):
            state = read(file)
            if state is None:
                raise ValueError(f"{file} is not the state of a plan")
            states.setdefault(state["plan"], []).append((place, state))
    if not states:
        raise ValueError(
            f"runs: {', '.join(map(str, places))}: no plan was run there, "
            "expected what eval.run leaves"
        )
    return [*map(_table, states.values())]


def holds_plans(place: Path) -> bool:
    """Whether plans were run in a directory, which is no workdir of a run.

    Raises:
      ValueError: if a JSON file there is damaged.
    """
    return not (place / RESULTS).exists() and any(
        read(file) is not None for file in place.glob("[!.]*.json")
    )


def _table(states: list[tuple[Path, State]]) -> Table:
    (origin, first), *others = states
    for place, state in others:
        if difference := differing(first, state):
            raise ValueError(
                f"runs: plan {state['plan']} was run differently in {origin} "
                f"and {place}: {difference}; make a table of each"
            )
    cells = [cell for _, state in states for cell in state["cells"]]
    seeds = dict.fromkeys(cell["seed"] for cell in cells)
    keys = dict.fromkeys((cell["row"], cell["column"]) for cell in cells)
    entries = [_entry(*key, states) for key in keys]
    return Table(
        first["plan"], first["title"], first["reported"], [*seeds], entries,
        first["command"], first["dataset"], first["own_dataset"],
    )  # fmt: skip


def _entry(row: str, column: str, states) -> Entry:
    runs: dict[str, Path] = {}
    logistic: dict[str, Path] = {}
    chosen: list[dict[str, str]] = []
    errors: dict[str, str] = {}
    for place, state in states:
        for cell in state["cells"]:
            if (cell["row"], cell["column"]) != (row, column):
                continue
            if cell["chosen"] and cell["chosen"] not in chosen:
                chosen.append(cell["chosen"])
            if cell["run"] and cell["seed"] not in runs:
                runs[cell["seed"]] = place / "runs" / cell["run"]
                logistic[cell["seed"]] = place / "runs" / cell["logistic"]
            elif cell["error"]:
                errors[cell["seed"]] = cell["error"]
    results = [results_of(run) for run in runs.values()]
    values = {
        name: [found[key] for found in results]
        for name, key in MEASURES.items()
    }
    for number, group in enumerate(GROUPS):
        values[group] = [found["mAP_groups"][number] for found in results]
    spreads = {name: Spread.of(x) for name, x in values.items()}
    return Entry(
        row, column, {found["method"] for found in results},
        {name: x for name, x in spreads.items() if x}, runs, logistic, chosen,
        [text for seed, text in errors.items() if seed not in runs],
    )  # fmt: skip


@functools.cache
def results_of(run: Path) -> dict[str, Any]:
    """The results of a run.

    Raises:
      ValueError: if they are damaged.
      OSError: if they cannot be read.
    """
    try:
        found = read_results(run)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run / RESULTS}: no such file; run the plan again"
        ) from error
    groups, support = found.get("mAP_groups"), found.get("mAP_support")
    wrong = [key for key in MEASURES.values() if not is_number(found.get(key))]
    if not isinstance(groups, list) or len(groups) != len(GROUPS):
        wrong.append("mAP_groups")
    if not isinstance(support, dict) or {*support} != {*Support._fields}:
        wrong.append("mAP_support")
    if not isinstance(found.get("method"), str):
        wrong.append("method")
    if wrong:
        raise ValueError(
            f"{run / RESULTS} is damaged: {wrong[0]} is "
            f"{found.get(wrong[0])!r:.50}"
        )
    return found


@functools.cache
def provenance_of(run: Path) -> dict[str, Any] | None:
    """Where a run comes from, None if it does not say.

    Raises:
      ValueError: if the file is damaged.
      OSError: if it cannot be read.
    """
    file = run / PROVENANCE
    if not file.is_file():
        return None
    found = read_object(file)
    if missing := _OF_PROVENANCE - {*found}:
        raise ValueError(f"{file} is damaged: {min(missing)} is missing")
    return found


@functools.cache
def _resampled(run: Path) -> np.ndarray:
    """Test mAP in percent of images that are drawn anew."""
    kept = load(run / PREDICTIONS, results_of(run)["mAP"])
    return 100 * resampled_means(kept.labels, kept.scores)


def gains(runs: dict[str, Path], others: dict[str, Path]) -> list[float]:
    """How much better runs are on test than others, for seeds of both.

    Args:
      runs: seed -> workdir.
      others: the same.
    """
    return [
        results_of(run)["mAP"] - results_of(others[seed])["mAP"]
        for seed, run in runs.items()
        if seed in others
    ]


def difference(
    runs: dict[str, Path], others: dict[str, Path]
) -> Difference | None:
    """How much better runs are on test than others of the same seeds.

    The interval is that of the mean over seeds, for other test images.

    Args:
      runs: seed -> workdir.
      others: the same.

    Returns:
      None where there is no pair, or all are the same.
    """
    pairs = [(run, others[x]) for x, run in runs.items() if x in others]
    if not pairs or all(run == other for run, other in pairs):
        return None
    drawn = np.mean(
        [_resampled(run) - _resampled(other) for run, other in pairs], 0
    )
    # Images that are drawn twice shift mAP, one row's more than another's.
    spread = np.nanpercentile(drawn, _TAILS) - np.nanmean(drawn)
    mean = float(np.mean(gains(runs, others)))
    low, high = (mean + spread).tolist()
    return Difference(mean, low, high, len(pairs))


def best_baseline(entries: Sequence[Entry]) -> Entry | None:
    """The best row of another method than IMCL, on validation.

    It is one of those with most seeds: means of others are of fewer.
    """
    others = [x for x in entries if x.methods and OURS not in x.methods]
    most = max((len(x.runs) for x in others), default=0)
    return max(
        (x for x in others if len(x.runs) == most),
        key=lambda x: x.spreads["validation"].mean,
        default=None,
    )


def asked_for(argv: list[str]) -> tuple[list[Table], Path]:
    """The tables of --runs, and the directory --out, which is made.

    Args:
      argv: the program's name; more is refused.

    Raises:
      ValueError: if a flag is missing, and see `read_tables`.
      OSError: if a directory cannot be read or made.
    """
    if argv[1:]:
        raise ValueError(f"unexpected argument {argv[1]!r}")
    if not FLAGS.runs or not FLAGS.out:
        raise ValueError("--runs and --out must be given")
    tables = read_tables([Path(place) for place in FLAGS.runs])
    out = Path(FLAGS.out)
    make_directory("out", out)
    return tables, out


def columns_of(table: Table) -> list[str]:
    """Names of the columns, each once."""
    return [*dict.fromkeys(entry.column for entry in table.entries)]
