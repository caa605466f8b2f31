"""Makes the tables of plans that were run, the paper's numbers beside them.

    python -m eval.tables --runs=DIR --out=DIR/tables

Reads what `eval.run` left in one directory or several; a cell counts from the
first that has it. Writes NAME.md and NAME.csv for each plan: validation and
test mAP, mean and deviation over seeds, both conventions for labels without
average precision, the paper's number, and the difference to the logistic model
that a run starts from and to the best baseline on validation, with a 95 %
interval: test images are drawn anew a thousand times, the same ones for both,
and the differences' deviations from their mean are put around the difference.
What was not run is shown as missing.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.TABLES)

import collections
import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from eval.reported import GROUPS, reported
from eval.state import State, differing, read
from eval.texts import in_words, markdown
from imcl_tf import program
from imcl_tf.data.kept import parse_json
from imcl_tf.files import fail, replacing, write_csv
from imcl_tf.ops.bootstrap import resampled_means
from imcl_tf.ops.metrics import Support
from imcl_tf.report.plan import PlanPart, PlanTable
from imcl_tf.training.predictions import load
from imcl_tf.training.workdir import PREDICTIONS, PROVENANCE, RESULTS

FLAGS = flags.FLAGS
OURS = "imcl"
_TAILS = (2.5, 97.5)
_COMMIT = 10  # characters
# Measure -> its key in results.json.
_MEASURES = {
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
      errors: of runs that failed.
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
      command: that ran it.
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
    found = []
    for name, of_plan in states.items():
        with _as_left(name):
            found.append(_table(of_plan))
    return found


@contextlib.contextmanager
def _as_left(name: str) -> Iterator[None]:
    """Says of files that are damaged which plan they belong to."""
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"runs: {name}.json, or results of its runs, are not what eval.run "
            f"leaves: {error} is missing or wrong; run the plan again"
        ) from error


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
    seeds = dict.fromkeys(c["seed"] for _, s in states for c in s["cells"])
    entries: list[Entry] = []
    for cell in first["cells"]:
        key = cell["row"], cell["column"]
        if key not in [(entry.row, entry.column) for entry in entries]:
            entries.append(_entry(*key, states))
    return Table(
        first["plan"], first["title"], first["reported"], [*seeds], entries,
        first["command"], first["dataset"], first["own_dataset"],
    )  # fmt: skip


def _entry(row: str, column: str, states) -> Entry:
    runs: dict[str, Path] = {}
    logistic: dict[str, Path] = {}
    chosen: list[dict[str, str]] = []
    errors = []
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
                errors.append(cell["error"])
    results = [_results(run) for run in runs.values()]
    values = {
        name: [found[key] for found in results]
        for name, key in _MEASURES.items()
    }
    for number, group in enumerate(GROUPS):
        values[group] = [found["mAP_groups"][number] for found in results]
    spreads = {name: Spread.of(x) for name, x in values.items()}
    return Entry(
        row, column, {found["method"] for found in results},
        {name: x for name, x in spreads.items() if x}, runs, logistic, chosen,
        errors,
    )  # fmt: skip


@functools.cache
def _read(file: Path) -> dict[str, Any]:
    try:
        return parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _results(run: Path) -> dict[str, Any]:
    return _read(run / RESULTS)


@functools.cache
def _resampled(run: Path) -> np.ndarray:
    """Test mAP in percent of images that are drawn anew."""
    kept = load(run / PREDICTIONS)
    return 100 * resampled_means(kept.labels, kept.scores)


def gains(runs: dict[str, Path], others: dict[str, Path]) -> list[float]:
    """How much better runs are on test than others, for seeds of both.

    Args:
      runs: seed -> workdir.
      others: the same.
    """
    return [
        _results(run)["mAP"] - _results(others[seed])["mAP"]
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


def asked_for() -> tuple[list[Table], Path]:
    """The tables of --runs, and the directory --out, which is made.

    Raises:
      ValueError: if a flag is missing, and see `read_tables`.
      OSError: if a directory cannot be read or made.
    """
    if not FLAGS.runs or not FLAGS.out:
        raise ValueError("--runs and --out must be given")
    tables = read_tables([Path(place) for place in FLAGS.runs])
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    return tables, out


def columns_of(table: Table) -> list[str]:
    """Names of the columns, each once."""
    return [*dict.fromkeys(entry.column for entry in table.entries)]


def to_markdown(table: Table) -> str:
    """A table for each column of a plan."""
    texts = to_texts(table)
    parts = [f"## {texts.title}", f"`{texts.command}`", *texts.notes]
    for column, part in zip(columns_of(table), texts.parts, strict=True):
        parts.append(markdown(part.header, part.rows))
        warnings = _warnings(_of_column(table, column))
        parts += [*part.notes, *(f"Warning: {text}" for text in warnings)]
    return "\n\n".join(parts) + "\n"


def to_texts(table: Table) -> PlanTable:
    """The same as texts, for any form; what runs warned of is left out.

    Raises:
      ValueError: if a run's files are damaged.
      OSError: if one cannot be read.
    """
    notes = []
    if table.reported and table.dataset != table.own_dataset:
        notes.append(
            f"The paper's numbers are of {table.own_dataset}, these of "
            f"{table.dataset}."
        )
    with _as_left(table.name):
        parts = [_part(table, column) for column in columns_of(table)]
    return PlanTable(table.heading, table.command, notes, parts)


def _of_column(table: Table, column: str) -> list[Entry]:
    return [entry for entry in table.entries if entry.column == column]


def _part(table: Table, column: str) -> PlanPart:
    paper = reported(table.reported)
    entries = _of_column(table, column)
    best = best_baseline(entries)
    names = [*_MEASURES, *GROUPS]
    printed = sorted(
        {name for x in entries for name in paper.get((x.row, column), ())}
    )
    # Which may be the logistic model itself.
    others = [best] if best and best.runs != best.logistic else []
    header = [
        column or "row", *names, *(f"paper, {x}" for x in printed),
        "less logistic", *(f"less {x.row}" for x in others), "seeds", "chosen",
    ]  # fmt: skip
    rows = []
    for entry in entries:
        numbers = paper.get((entry.row, column), {})
        rows.append([
            entry.row,
            *(str(entry.spreads.get(name, "missing")) for name in names),
            *(f"{numbers[x]:.2f}" if x in numbers else "" for x in printed),
            _difference(entry, entry.logistic),
            *(_difference(entry, x.runs) for x in others),
            f"{len(entry.runs)} of {len(table.seeds)}",
            " or ".join(map(in_words, entry.chosen)),
        ])  # fmt: skip
    return PlanPart(header, rows, _notes(entries))


def _difference(entry: Entry, others: dict[str, Path]) -> str:
    """In words, "" where there is none."""
    found = difference(entry.runs, others)
    if found is None or found.pairs == len(entry.runs):
        return str(found or "")
    return f"{found} ({found.pairs} of its {len(entry.runs)} seeds)"


def _notes(entries: list[Entry]) -> list[str]:
    """What failed, what means rest on and where runs ran, each once."""
    notes = [error for entry in entries for error in entry.errors[:1]]
    notes += [
        f"Test mAP over {Support(**found['mAP_support'])}."
        for found in _all_results(entries)
    ]
    return [*dict.fromkeys(notes), *_machines(entries)]


def _machines(entries: list[Entry]) -> list[str]:
    """Where runs ran, how long the longest took, and by which code."""
    seconds: dict[str, list[float]] = {}
    number: collections.Counter[str] = collections.Counter()
    commits = set()
    for run in (run for x in entries for run in x.runs.values()):
        if not (run / PROVENANCE).is_file():
            continue
        found = _read(run / PROVENANCE)
        machine = ", ".join([
            f"{found['processor']} ({found['cores']} cores)",
            *found["accelerators"],
        ])  # fmt: skip
        number[machine] += 1
        commit, *changed = (found["commit"] or "no checkout").split("-")
        commits.add("-".join([commit[:_COMMIT], *changed]))
        if not found["resumed"]:  # the time of its last process alone
            seconds.setdefault(machine, []).append(found["seconds"])
    lines = []
    for machine, runs in number.items():
        whole = seconds.get(machine)
        most = f", at most {max(whole):,.0f} s" if whole else ""
        lines.append(f"Run on {machine}: {runs} runs{most}.")
    if len(commits) > 1:
        lines.append(f"Run by different commits: {', '.join(sorted(commits))}.")
    return lines


def _warnings(entries: list[Entry]) -> list[str]:
    """What runs warned of, each once."""
    found = _all_results(entries)
    texts = (text for results in found for text in results.get("warnings", ()))
    return [*dict.fromkeys(texts)]


def _all_results(entries: list[Entry]) -> list[dict[str, Any]]:
    return [_results(run) for x in entries for run in x.runs.values()]


def to_rows(table: Table) -> list[tuple]:
    """A line for each row, column and measure, for the CSV file."""
    paper = reported(table.reported)
    rows = []
    for entry in table.entries:
        numbers = paper.get((entry.row, entry.column), {})
        for name in (*_MEASURES, *GROUPS):
            spread = entry.spreads.get(name)
            rows.append((
                entry.column, entry.row, name,
                f"{spread.mean:.4f}" if spread else "",
                f"{spread.deviation:.4f}"
                if spread and spread.deviation is not None else "",
                spread.number if spread else 0, numbers.get(name, ""),
            ))  # fmt: skip
    return rows


def main(argv: list[str]):
    del argv
    try:
        tables, out = asked_for()
        texts = {table.name: to_markdown(table) for table in tables}
        for table in tables:
            with replacing(out / f"{table.name}.md") as new:
                new.write_text(texts[table.name], "utf-8")
            write_csv(
                out / f"{table.name}.csv",
                ("column", "row", "measure", "mean", "deviation", "seeds",
                 "paper"),
                to_rows(table),
            )  # fmt: skip
    except (ValueError, OSError) as error:
        fail(error)
    print("\n".join(texts.values()))


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
