"""The runs of a plan: which there are, where they lie, which can be done now.

All lie in one directory, RUNS/runs, each named by a digest of its settings and
its data, so that cells of several plans share what they have in common: a cell
that is in two tables, and the logistic model that cells start from.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from eval.plan import Plan, trials
from eval.texts import in_words
from imcl_tf import main as program
from imcl_tf.backbones.make import source_files
from imcl_tf.data.kept import parse_json
from imcl_tf.data.label_updates import files_digest
from imcl_tf.files import replacing
from imcl_tf.options import Value
from imcl_tf.settings import (
    EXPORT,
    FILES,
    OBJECTS,
    PROGRAM_DATA,
    RUN,
    known_options,
)
from imcl_tf.training.workdir import RESULTS, Workdir

# What no result depends on: where things lie; those of PROGRAM_DATA are in the
# digests of the data.
_PLACES = {
    *(option.name for option in (*FILES, *PROGRAM_DATA, EXPORT)),
    "init_from", "seed",
}  # fmt: skip
_DEFAULTS = {name: str(x.default) for name, x in known_options().items()}
_DIVERGED = "diverged.txt"  # in the workdir of a trial
_NAMES_FILE = ("backbone_weights", "label_graph", "label_vectors")


class Cell(NamedTuple):
    """A run of a table.

    Attributes:
      row: name.
      column: name.
      seed: of the run.
    """

    row: str
    column: str
    seed: str

    def __str__(self) -> str:
        column = f", {self.column}" if self.column else ""
        return f"{self.row}{column}, seed {self.seed}"


class Work(NamedTuple):
    """A run that is to be done.

    Attributes:
      name: of its directory, and of its claim.
      settings: of `imcl_tf.main`.
      tuning: whether it is a trial: its test is not looked at.
      words: what it is.
      start: the run of the logistic model that it starts from, if any.
    """

    name: str
    settings: dict[str, Value]
    tuning: bool
    words: str
    start: Work | None = None


class Schedule:
    """The runs of a plan on one data set.

    Args:
      plan: rows and columns.
      chosen: settings of all runs, as `imcl_tf.main.current_settings` returns.
      place: RUNS.
      seeds: the first one is that of trials.
      tuned: FLAG -> values to choose from, of rows and columns that do not
        say what it is.
      digests: of the data.
    """

    def __init__(
        self,
        plan: Plan,
        chosen: dict[str, Value],
        place: Path,
        seeds: list[str],
        tuned: dict[str, tuple[str, ...]],
        digests: dict[str, str],
    ):
        self._plan, self._chosen, self._seeds = plan, chosen, seeds
        self._place, self._tuned, self._digests = place, tuned, digests
        self._finished: dict[str, dict[str, Any]] = {}

    def cells(self) -> list[Cell]:
        """A row after another for each seed, that seeds can be compared."""
        return [
            Cell(row, column, seed)
            for seed in self._seeds
            for row, column in self._plan.cells()
        ]

    def directory(self, name: str) -> Path:
        """Where a run lies."""
        return self._place / "runs" / name

    def results(self, work: Work) -> dict[str, Any] | None:
        """The results of a run, None until it is finished."""
        if (self.directory(work.name) / _DIVERGED).is_file():
            return {"validation_mAP": -math.inf}
        if work.name not in self._finished:
            file = self.directory(work.name) / RESULTS
            if not file.is_file():
                return None
            try:
                found = parse_json(file.read_bytes())
                if not work.tuning and "mAP" not in found:
                    return None
                float(found["validation_mAP"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{file} is damaged ({error}); remove its directory to "
                    "have it run again"
                ) from error
            self._finished[work.name] = found
        return self._finished[work.name]

    def options(self, cell: Cell) -> list[dict[str, str]]:
        """The settings that a cell may have; several are trials."""
        rows = {row.name: row.flags for row in self._plan.rows}
        columns = {column.name: column.flags for column in self._plan.columns}
        return trials(self._tuned | rows[cell.row] | columns[cell.column])

    def settings(self, cell: Cell) -> dict[str, str]:
        """What all seeds of a cell have in common, and may not share with
        cells of that name elsewhere: FLAG -> value other than the default,
        several to choose from apart by "|"; a digest of each file.
        """
        found = [
            _depends_on(self._settings(cell, option))
            for option in self.options(cell)
        ]
        names = {name for parts in found for name in parts}
        return {
            name: "|".join(dict.fromkeys(x.get(name, "") for x in found))
            for name in sorted(names)
            if any(x.get(name) != _DEFAULTS.get(name) for x in found)
        }

    def open(self, cell: Cell) -> list[Work]:
        """The unfinished runs of a cell that wait for no other."""
        if waiting := self._waiting(self._trials(cell)):
            return waiting
        final = self.final(cell)
        return self._waiting([final] if final else [])

    def count(self, cells: list[Cell]) -> tuple[int, int]:
        """How many runs of these cells are finished, and how many there are."""
        runs: dict[str, Work] = {}
        unknown = 0
        for cell in cells:
            final = self.final(cell)
            unknown += not final
            for work in [*self._trials(cell), *([final] if final else [])]:
                runs[work.name] = work
                if work.start:
                    runs[work.start.name] = work.start
        done = sum(bool(self.results(work)) for work in runs.values())
        return done, len(runs) + unknown

    def final(self, cell: Cell) -> Work | None:
        """The run whose results are the cell's; None until it is chosen."""
        chosen = self.choice(cell)
        if chosen is None:
            return None
        settings = self._settings(cell, chosen)
        start = self._start(settings, cell)
        if _is_start(settings):
            return start
        return self._work(settings, False, str(cell), start)

    def choice(self, cell: Cell) -> dict[str, str] | None:
        """What validation chose of a cell's options, the first of equals."""
        options, trials = self.options(cell), self._trials(cell)
        if not trials:
            return options[0]
        found = [results for x in trials if (results := self.results(x))]
        means = [results["validation_mAP"] for results in found]
        if len(found) < len(trials) or max(means) == -math.inf:
            return None
        return options[means.index(max(means))]

    def chosen(self, cell: Cell) -> dict[str, str]:
        """What of a cell's options was chosen, {} where there is no choice."""
        found = self.choice(cell)
        if found is None or len({x.name for x in self._trials(cell)}) < 2:
            return {}
        return _differing(found, self.options(cell))

    def has_diverged(self, cell: Cell) -> bool:
        """Whether every trial of a cell has, so that it has no final run."""
        found = [self.results(work) for work in self._trials(cell)]
        means = [results and results["validation_mAP"] for results in found]
        return bool(means) and set(means) == {-math.inf}

    def forget_divergence(self, cell: Cell):
        """Has the trials of a cell that diverged tried again."""
        for work in self._trials(cell):
            note = self.directory(work.name) / _DIVERGED
            note.unlink(missing_ok=True)

    def note_divergence(self, work: Work, error: FloatingPointError):
        """Makes a trial that diverged the worst of all, not an open one."""
        with replacing(self.directory(work.name) / _DIVERGED) as new:
            new.write_text(f"{error}\n", "utf-8")

    def _waiting(self, runs: list[Work]) -> list[Work]:
        """Those that are not finished; before them what they start from."""
        waiting = []
        for work in runs:
            if self.results(work):
                continue
            if work.start and not self.results(work.start):
                work = work.start
            if work not in waiting:
                waiting.append(work)
        return waiting

    def _trials(self, cell: Cell) -> list[Work]:
        """The trials of a cell, on the first seed; none of a single option."""
        options = self.options(cell)
        first = cell._replace(seed=self._seeds[0])
        several = options if len(options) > 1 else []
        return [self._trial(first, option) for option in several]

    def _trial(self, cell: Cell, option: dict[str, str]) -> Work:
        settings = self._settings(cell, option)
        start = self._start(settings, cell)
        if _is_start(settings):  # which it is itself
            return start
        tried = in_words(_differing(option, self.options(cell)))
        return self._work(settings, True, f"{cell}, trial of {tried}", start)

    def _settings(self, cell, option) -> dict[str, Value]:
        return program.changed(self._chosen, option | {"seed": cell.seed})

    def _start(self, settings: dict[str, Value], cell: Cell) -> Work:
        """The logistic model that a run starts from."""
        plain = {
            option.name: option.default
            for option in RUN
            if option.name not in program.OF_INITIAL
            and option.name not in (*OBJECTS, "seed")
        }
        plain |= {"method": "logistic", "epochs": 0}
        words = f"logistic model of {cell.column or 'all'}, seed {cell.seed}"
        return self._work(settings | plain, False, words)

    def _work(self, settings, tuning, words, start=None) -> Work:
        if start:
            settings["init_from"] = str(self.directory(start.name))
        name = self._name(settings, tuning, start.name if start else "")
        return Work(name, settings, tuning, words, start)

    def _name(self, settings, tuning, start) -> str:
        """Method, seed and a digest of all that the results depend on."""
        own = settings | ({"init_from": ""} if start else {})
        text = json.dumps(
            [_depends_on(own), self._digests, start], sort_keys=True
        )
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        trial = "-trial" if tuning else ""
        return f"{settings['method']}-{digest}-seed-{settings['seed']}{trial}"


def _depends_on(settings: dict[str, Value]) -> dict[str, str]:
    """Settings that results depend on, digests for files, without the seed."""
    kept = program.replayed(settings, Path())
    parts = {name: str(x) for name, x in kept.items() if name not in _PLACES}
    for name in _NAMES_FILE:
        path = Path(str(kept.get(name) or "."))
        if path.is_file():
            parts[name] = _digest_of(path)
    if settings["init_from"]:
        model = Workdir(str(settings["init_from"])).logistic
        parts["init_from"] = _digest_of(model)
    if files := source_files(str(kept.get("backbone", ""))):
        parts["backbone"] = _digest_of(*files)
    return parts


@functools.cache
def _digest_of(*files: Path) -> str:
    return files_digest([*files])


def _differing(
    option: dict[str, str], options: list[dict[str, str]]
) -> dict[str, str]:
    """Those flags of an option that others set otherwise."""
    return {
        name: value
        for name, value in option.items()
        if any(other[name] != value for other in options)
    }


def _is_start(settings: dict[str, Value]) -> bool:
    """Whether a run is the logistic model that it would start from."""
    return (
        settings["method"] == "logistic"
        and not settings["epochs"]
        and settings["neighbors"] == "none"
        and not settings["completion_rounds"]
    )
