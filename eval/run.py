"""Runs a plan: every cell of a table or figure, for several seeds.

    python -m eval.run --plan=flags/table1 --runs=DIR

Takes the flags of `imcl_tf.main` too, which win over the plan's, and --data, a
data set in the place of the plan's own. What is finished is not run again, and
what broke is resumed. Several processes, also of several machines, may run one
plan in one directory: each run is done by one of them, and a run whose process
died is taken over. One logistic model of each kind, and one set of stored
features, serve all runs. With other --seeds than before a plan keeps what it
has of those.

Writes DIR/NAME.json, which `eval.tables` reads; DIR/runs with a workdir for
each run; and DIR/logs with what each printed. A run that fails is listed at
the end, and tried again by the next call.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from eval import plan as plans
    from imcl_tf import main as training
    from imcl_tf import program as start

    ARGUMENTS = start.start(__doc__, options.RUN, training.GROUPS, plans.parse)

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags, logging

from eval import plan as plans
from eval import state
from eval.claims import Claims
from eval.schedule import Cell, Schedule, Work
from imcl_tf import main as program
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.files import fail, make_directory, replacing
from imcl_tf.program import values
from imcl_tf.settings import FOLDER
from imcl_tf.training.workdir import WorkdirInUseError

FLAGS = flags.FLAGS
# Seconds between two looks at what other processes have done.
_POLL = 5.0
# Seconds between two warnings of the same.
_SELDOM = 600
# Set in the environment of the processes that `side_by_side` starts.
_BESIDE = "IMCL_TF_RUN_BESIDE"
_DIVERGED = "training diverged in every trial; lower the rates"
_ERRORS = (
    ValueError, OSError, ImportError, FloatingPointError, tf.errors.OpError,
)  # fmt: skip


class Worker:
    """Does runs of a plan, one at a time, until none is left.

    Args:
      plan: whose runs these are.
      schedule: of the plan.
      cells: those to do.
      data: with all labels.
      place: DIR.
    """

    def __init__(
        self,
        plan: plans.Plan,
        schedule: Schedule,
        cells: list[Cell],
        data: MultiLabelDataset,
        place: Path,
    ):
        self._plan, self._schedule, self._cells = plan, schedule, cells
        self._data, self._place = data, place
        self._claims = Claims(place / "claims")
        self._seconds: list[float] = []
        for name in ("errors", "logs"):
            (place / name).mkdir(exist_ok=True)

    def forget_failures(self):
        """Has what failed tried again: also where all trials diverged."""
        for error in (self._place / "errors").glob("[!.]*"):
            error.unlink(missing_ok=True)
        for cell in self._cells:
            if self._schedule.has_diverged(cell):
                self._schedule.forget_divergence(cell)

    def work(self) -> dict[str, str]:
        """Does what is left; returns run -> error of those that failed."""
        while runs := self._open():
            if not self._do_one_of(runs):
                time.sleep(_POLL)  # others do what is left
        self._write()
        return self._failed() | {
            str(cell): f"{cell}: {_DIVERGED}"
            for cell in self._cells
            if self._schedule.has_diverged(cell)
        }

    def _open(self) -> list[Work]:
        """The runs that can be done now, those with others before them last."""
        failed = self._failed()
        found: dict[str, Work] = {}
        for cell in self._cells:
            for work in self._schedule.open(cell):
                if work.name not in failed:
                    found.setdefault(work.name, work)
        return [*found.values()]

    def _failed(self) -> dict[str, str]:
        found = {}
        for file in (self._place / "errors").glob("[!.]*.txt"):
            # Another call may have it tried again just now.
            with contextlib.suppress(FileNotFoundError):
                found[file.stem] = file.read_text("utf-8").strip()
        return found

    def _do_one_of(self, runs: list[Work]) -> bool:
        """Does the first run that no one else does; False = there is none."""
        for work in runs:
            with self._claims.claimed(work.name) as claim:
                if claim is None:
                    continue
                try:
                    if not self._schedule.results(work):
                        self._do(work)
                except WorkdirInUseError as error:
                    # Whoever was cut off for long, and has lost its claim,
                    # still trains there.
                    logging.log_every_n_seconds(
                        logging.WARNING, "%s", _SELDOM, error
                    )
                    continue
                except KeyboardInterrupt:
                    if not claim.is_lost:
                        raise
                    logging.warning(
                        "%s: taken over by another process, which had not "
                        "heard of this one for long", work.name,
                    )  # fmt: skip
                return True
        return False

    def _do(self, work: Work):
        begun = time.monotonic()
        directory = self._schedule.directory(work.name)
        directory.parent.mkdir(exist_ok=True)
        try:
            with _logged(self._place / "logs" / f"{work.name}.txt"):
                results = program.run(
                    self._data, work.settings, directory, tuning=work.tuning
                )
        except FloatingPointError as error:
            if not work.tuning:
                self._note_failure(work, error)
                return
            self._schedule.note_divergence(work, error)
            results = {"validation_mAP": -math.inf}
        except WorkdirInUseError:
            raise
        except _ERRORS as error:
            self._note_failure(work, error)
            return
        seconds = time.monotonic() - begun
        self._seconds.append(seconds)
        self._write()
        done, total = self._schedule.count(self._cells)
        print(
            f"{self._plan.name}: {done} of {total} runs done"
            f"{self._time_left(total - done)}; {work.words}: validation mAP "
            f"{results['validation_mAP']:.2f} in {seconds:.0f} s",
            flush=True,
        )

    def _note_failure(self, work: Work, error: Exception):
        words = f"{work.words}: {' '.join(str(error).split())}"
        with replacing(self._place / "errors" / f"{work.name}.txt") as new:
            new.write_text(words + "\n", "utf-8")
        logging.warning("%s", words)

    def _time_left(self, number: int) -> str:
        """How long the others will take, if they are like those done here."""
        if not number:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        minutes = mean * number / max(1, self._claims.number()) / 60
        return f", about {max(1, round(minutes))} min left"

    def _write(self):
        """Writes what `eval.tables` reads, of the whole plan."""
        failed = self._failed()
        whole = {
            "plan": self._plan.name,
            "title": self._plan.title,
            "reported": self._plan.reported,
            "rows": [row.name for row in self._plan.rows],
            "columns": [column.name for column in self._plan.columns],
            "dataset": self._data.name,
            "own_dataset": self._plan.dataset,
            "digests": self._data.digests(),
            "command": shlex.join(["python", "-m", "eval.run", *sys.argv[1:]]),
            "cells": [
                self._state_of(cell, failed) for cell in self._schedule.cells()
            ],
        }
        state.write(whole, self._place)

    def _state_of(self, cell: Cell, failed: dict[str, str]) -> dict[str, Any]:
        schedule = self._schedule
        final = schedule.final(cell)
        done = final is not None and schedule.results(final)
        error = next(
            (
                failed[work.name]
                for work in schedule.open(cell)
                if work.name in failed
            ),
            _DIVERGED if schedule.has_diverged(cell) else None,
        )
        return cell._asdict() | {
            "settings": schedule.settings(cell),
            "run": final.name if final and done else None,
            "logistic": (final.start or final).name if final else None,
            "chosen": schedule.chosen(cell),
            "error": error,
        }


@contextlib.contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Writes what a run prints and warns of to a file."""
    handlers = [
        logging.get_absl_handler().python_handler,
        *tf.get_logger().handlers,
    ]
    with file.open("a", encoding="utf-8") as log:
        before = [handler.setStream(log) for handler in handlers]
        try:
            with contextlib.redirect_stdout(log):
                yield
        finally:
            for handler, stream in zip(handlers, before, strict=True):
                handler.setStream(stream)


def side_by_side(number: int):
    """Runs this command in several processes, to the end of all."""
    cores = str(max(1, len(os.sched_getaffinity(0)) // number))
    environment = {
        "TF_NUM_INTRAOP_THREADS": cores,
        "TF_NUM_INTEROP_THREADS": cores,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    } | os.environ | {_BESIDE: "1"}  # fmt: skip
    command = [sys.executable, "-m", "eval.run", *sys.argv[1:]]
    processes = [
        subprocess.Popen(command, env=environment) for _ in range(number)
    ]
    try:
        statuses = [process.wait() for process in processes]
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        raise
    for status in statuses:
        if status < 0:
            logging.warning(
                "a process was ended by %s; what it did is done again",
                signal.Signals(-status).name,
            )


def _listing(plan: plans.Plan, schedule: Schedule, seeds: list[str]) -> str:
    """What --dry_run prints."""
    lines = [
        f"{plan.name}: {len(plan.rows)} rows, {len(plan.columns)} columns, "
        f"{len(seeds)} seeds"
    ]
    for row, column in plan.cells():
        options = schedule.options(Cell(row, column, seeds[0]))
        lines.append(f"{row}, {column}:" if column else f"{row}:")
        lines += [
            "  " + " ".join(f"--{name}={x}" for name, x in option.items())
            for option in options
        ]
    return "\n".join(lines)


def main(argv: list[str]):
    del argv
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    place = Path(FLAGS.runs)
    try:
        whole = plans.read()
        plan = whole._replace(
            rows=plans.named("rows", FLAGS.rows, whole.rows),
            columns=plans.named("columns", FLAGS.columns, whole.columns),
        )
        seeds = plans.listed("seeds", FLAGS.seeds)
        tuned = plans.flags_of("tune", FLAGS.tune, plans.options_of_rows())
        chosen = program.current_settings()
        if FLAGS.dry_run:
            schedule = Schedule(plan, chosen, place, seeds, tuned, {})
            print(_listing(plan, schedule, seeds))
            return
        make_directory("runs", place)
        if (file := place / f"{plan.name}.json").is_file():
            state.read(file)  # damage is found before any run
        data = load_dataset(
            FLAGS.dataset, FLAGS.data_dir, FLAGS.on_bad_image,
            **values(FOLDER),
        )  # fmt: skip
        schedule = Schedule(whole, chosen, place, seeds, tuned, data.digests())
        cells = [
            Cell(row, column, seed)
            for seed in seeds
            for row, column in plan.cells()
        ]
        worker = Worker(whole, schedule, cells, data, place)
        if _BESIDE in os.environ:
            worker.work()
            return
        worker.forget_failures()
        if FLAGS.jobs > 1:
            side_by_side(FLAGS.jobs)
        failed = [*worker.work().values()]
    except _ERRORS as error:
        fail(error)
    print(
        f"{plan.name}: eval.tables makes its table, eval.figures draws it and "
        f"eval.report writes a page about it, each with --runs={place}"
    )
    if failed:
        number = f"{len(failed)} runs, the first of them: " * (len(failed) > 1)
        fail(ValueError(f"failed: {number}{failed[0]}"))


if __name__ == "__main__":
    start.run(main, ARGUMENTS, "the same command continues")
