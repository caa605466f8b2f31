"""One page about a run or several, in one HTML file that needs no other.

    python -m eval.report --runs=runs/mine --out=report.html

Each --runs is a workdir, a directory that holds some at any depth, such as
that of `eval.compare`, or one in which `eval.run` ran plans: then the page
begins with their tables, and calls each run by its row, column and seed.
Pictures are read from the data set that a run's flags name, which is opened as
for training.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program as start

    ARGUMENTS = start.start(__doc__, options.REPORT)

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from eval.outcomes import Table, holds_plans, read_tables
from eval.schedule import Cell
from eval.tables import to_texts
from imcl_tf.files import fail
from imcl_tf.report.contents import find_runs
from imcl_tf.report.page import write_report

FLAGS = flags.FLAGS
INITIAL = "initial logistic model"


def write(places: Sequence[Path], out: Path):
    """Writes a page about what lies in some places.

    Args:
      places: workdirs, directories that hold some, and those of plans.
      out: the HTML file.

    Raises:
      ValueError: if there is no finished run, or for a damaged file.
      OSError: if a file cannot be read or written.
    """
    plans = [place for place in places if holds_plans(place)]
    tables = read_tables(plans) if plans else []
    names = run_names(tables)
    if plans and not names:
        raise ValueError(f"{plans[0]}: no run of a plan is finished there")
    others = [place for place in places if place not in plans]
    write_report(
        [*names, *find_runs(others)], out, names=names,
        tables=[to_texts(table) for table in tables],
    )  # fmt: skip


def run_names(tables: Sequence[Table]) -> dict[Path, str]:
    """What the runs of plans are, the initial logistic models last.

    Returns:
      workdir -> the row, column and seed of each cell that has the run, with
      its plan where there are several.
    """
    cells: dict[Path, list[str]] = {}
    starts: dict[Path, str] = {}
    for table in tables:
        plan = f"{table.name}: " if len(tables) > 1 else ""
        for entry in table.entries:
            for seed, run in entry.runs.items():
                cell = Cell(entry.row, entry.column, seed)
                cells.setdefault(run, []).append(f"{plan}{cell}")
            for seed, run in entry.logistic.items():
                starts[run] = str(Cell(INITIAL, entry.column, seed))
    named = {run: "; ".join(names) for run, names in cells.items()}
    return named | {run: x for run, x in starts.items() if run not in named}


def main(argv: list[str]):
    """Runs what the flags say."""
    out = Path(FLAGS.out)
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        if not FLAGS.runs:
            raise ValueError("--runs must name the workdir of a run")
        if not FLAGS.out:
            raise ValueError("--out must name the HTML file to write")
        if not out.absolute().parent.is_dir():
            raise FileNotFoundError(f"--out={out}: no such directory")
        write([Path(place) for place in FLAGS.runs], out)
    except (ValueError, OSError) as error:
        fail(error)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    start.run(main, ARGUMENTS)
