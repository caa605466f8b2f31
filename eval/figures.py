"""Draws plans that were run, as PNG, SVG and CSV files.

    python -m eval.figures --runs=DIR --out=DIR/figures

NAME_gains: test mAP above that of the logistic model that a run starts from,
mean and standard deviation over seeds. A plan whose columns are shares of
observed labels becomes lines, as figure 3 of the paper; any other one a dot for
each row, as figure 4.

NAME_found_N, for column N of a plan with several methods: test images with the
ground-truth labels that each row finds, as figure 2.

NAME_similarities, for a plan with IMCL: the graphs of similar images and of
labels at the start and at the end of training, as figure 1 (right), for the
row that is best on validation.

The latter two are of the first seed. Their pictures are read from the data set
that the runs' flags name; where it has none, their names stand there.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.FIGURES)

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from eval import qualitative
from eval.outcomes import (
    OURS,
    Entry,
    Spread,
    Table,
    asked_for,
    columns_of,
    gains,
)
from eval.schedule import Cell
from imcl_tf import program
from imcl_tf.files import fail, replacing, write_csv
from imcl_tf.report.contents import read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLAGS = flags.FLAGS
_FOUND_IMAGES = 6
_SHARE = re.compile(r"([\d.]+) %")
# Where a row is further below logistic than _FAR points, the scale is linear
# up to _NEAR points from 0 only, so that the others stay apart.
_FAR, _NEAR = 5, 3
_FAR_TICKS = -50, -20, -10, -5, -3, -2, -1, 0, 1, 2, 3, 5, 10
# The palette of Okabe and Ito: distinct in any kind of colour vision.
_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
    "#999999", "#F0E442",
)  # fmt: skip
_MARKERS = "osD^vP*X"
_BLACK = "#000000"


class Point(NamedTuple):
    """What a figure shows of a row in a column.

    Attributes:
      row: name.
      column: name.
      gain: test mAP above the logistic model's, over seeds.
    """

    row: str
    column: str
    gain: Spread


def points(table: Table) -> list[Point]:
    """The entries that were run, in the order of the plan."""
    found = []
    for entry in table.entries:
        gain = Spread.of(gains(entry.runs, entry.logistic))
        if gain:
            found.append(Point(entry.row, entry.column, gain))
    return found


def missing_shares(columns: Sequence[str]) -> list[float] | None:
    """Percent of missing labels of columns "n %"; None if others are there."""
    found = [_SHARE.fullmatch(column) for column in columns]
    if len(columns) < 2 or not all(found):
        return None
    return [100 - float(share[1]) for share in found if share]


def draw(table: Table) -> Figure:
    """Draws a plan, see the module."""
    shares = missing_shares(columns_of(table))
    if shares is None:
        return _dots(table)
    return _lines(table, dict(zip(columns_of(table), shares, strict=True)))


def _lines(table: Table, shares: dict[str, float]) -> Figure:
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    found = points(table)
    styles = _styles(table.entries)
    for row in dict.fromkeys(point.row for point in found):
        own = sorted(
            (shares[p.column], p.gain.mean, _bar(p))
            for p in found
            if p.row == row
        )
        missing, means, deviations = zip(*own, strict=True)
        axes.errorbar(
            missing, means, deviations, label=row, capsize=2, markersize=5,
            **styles[row],
        )  # fmt: skip
    axes.axhline(0, color="grey", linewidth=0.8)
    if min((point.gain.mean for point in found), default=0) < -_FAR:
        axes.set_yscale("symlog", linthresh=_NEAR, linscale=2)
        low, high = axes.get_ylim()
        axes.set_yticks([x for x in _FAR_TICKS if low <= x <= high])
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(sorted(shares.values()))
    axes.set_xlabel("labels missing in training, percent")
    axes.set_ylabel("test mAP above logistic, points")
    axes.grid(linewidth=0.3)
    figure.suptitle(table.heading, fontsize=10)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def _dots(table: Table) -> Figure:
    from matplotlib.figure import Figure  # an extra

    columns = columns_of(table)
    rows = [*dict.fromkeys(entry.row for entry in table.entries)]
    figure = Figure(
        figsize=(2.5 + 3.2 * len(columns), 1.4 + 0.28 * len(rows)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    found, styles = points(table), _styles(table.entries)
    for column, axes in zip(columns, panels, strict=True):
        for point in found:
            if point.column == column:
                axes.errorbar(
                    point.gain.mean, rows.index(point.row), capsize=2,
                    xerr=_bar(point),
                    **styles[point.row] | {"linestyle": "none"},
                )  # fmt: skip
        shown = {point.row for point in found if point.column == column}
        if not shown:
            axes.set_xticks([])
        for row in rows:
            if row not in shown:
                axes.text(0, rows.index(row), "  missing", va="center")
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("test mAP above logistic, points")
        axes.set_title(column, fontsize=9)
        axes.grid(axis="x", linewidth=0.3)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].invert_yaxis()  # rows in the order of the table
    figure.suptitle(table.heading, fontsize=10)
    return figure


def _bar(point: Point) -> float:
    """Half the length of its bar; of one seed, NaN: there is none."""
    deviation = point.gain.deviation
    return math.nan if deviation is None else deviation


def _styles(entries: list[Entry]) -> dict[str, dict]:
    """Row -> how it is drawn: IMCL black, each other one its own way."""
    rows = [*dict.fromkeys(entry.row for entry in entries)]
    others = [row for row in rows if not row.startswith(OURS)]
    ours = [row for row in rows if row.startswith(OURS)]
    styles = {
        row: {
            "color": _COLOURS[n % len(_COLOURS)],
            "marker": _MARKERS[n % len(_MARKERS)],
            "linestyle": "-" if n < len(_COLOURS) else "--",
            "linewidth": 1.0,
        }
        for n, row in enumerate(others)
    }
    lines = itertools.cycle(("-", "--", ":", "-."))
    for row, line in zip(ours, lines, strict=False):
        styles[row] = {
            "color": _BLACK, "marker": "o", "linestyle": line, "linewidth": 2.0
        }  # fmt: skip
    return styles


class Drawing(NamedTuple):
    """A figure and its numbers.

    Attributes:
      name: of its files.
      figure: what is drawn.
      header: of its CSV file.
      rows: of it.
    """

    name: str
    figure: Figure
    header: Sequence[str]
    rows: Sequence[Sequence]


def drawings(table: Table, images: Sequence[str]) -> Iterator[Drawing]:
    """Every figure of a plan, see the module.

    Args:
      table: the plan as it was run.
      images: names of the test images that figure 2 shows; empty = those with
        most labels.

    Raises:
      ValueError: for an image that cannot be shown, or a damaged run.
      OSError: if a file cannot be read.
    """
    yield Drawing(
        f"{table.name}_gains", draw(table),
        ("column", "row", "gain", "deviation", "seeds"),
        [
            (x.column, x.row, x.gain.mean, x.gain.deviation, x.gain.number)
            for x in points(table)
        ],
    )  # fmt: skip
    for number, column in enumerate(columns_of(table), 1):
        entries = [x for x in table.entries if x.column == column]
        if len({name for x in entries for name in x.methods}) > 1:
            name = f"{table.name}_found_{number}"
            yield _found(name, table.heading, entries, images)
    ours = [x for x in table.entries if OURS in x.methods]
    if ours:
        best = max(ours, key=lambda x: x.spreads["validation"].mean)
        yield from _similarities(table, best)


def _found(
    name: str, heading: str, entries: list[Entry], images: Sequence[str]
) -> Drawing:
    """Figure 2 of the rows of a column that have the first seed."""
    seed = next(seed for x in entries for seed in x.runs)
    where = ", ".join(filter(None, (entries[0].column, f"seed {seed}")))
    runs = {x.row: read_run(x.runs[seed]) for x in entries if seed in x.runs}
    first = next(iter(runs.values()))
    found = qualitative.found_labels([*runs.values()], images, _FOUND_IMAGES)
    tiles = qualitative.tiles_of(first, "test", [x.image for x in found])
    figure = qualitative.draw_found(
        f"{heading}\n{where}", found, [*runs], len(first.label_names), tiles
    )
    rows = [
        (one.name, label, row, rank or "")
        for one in found
        for label, ranks in zip(one.labels, one.ranks.tolist(), strict=True)
        for row, rank in zip(runs, ranks, strict=True)
    ]
    return Drawing(name, figure, ("image", "label", "row", "rank"), rows)


def _similarities(table: Table, entry: Entry) -> Iterator[Drawing]:
    """Figure 1 of a row's first seed; none where the run kept nothing."""
    seed, path = next(iter(entry.runs.items()))
    run = read_run(path)
    shown = qualitative.edges(run)
    if shown:
        cell = Cell(entry.row, entry.column, seed)
        figure = qualitative.draw_edges(
            f"{table.heading}\n{cell}", shown,
            qualitative.tiles_of_edges(run, shown),
        )  # fmt: skip
        name = f"{table.name}_similarities"
        yield Drawing(name, figure, qualitative.Edge._fields, shown)


def main(argv: list[str]):
    try:
        tables, out = asked_for(argv)
        for table in tables:
            for drawing in drawings(table, FLAGS.image):
                for kind in ("png", "svg"):
                    with replacing(out / f"{drawing.name}.{kind}") as new:
                        drawing.figure.savefig(new, format=kind, dpi=150)
                write_csv(
                    out / f"{drawing.name}.csv", drawing.header, drawing.rows
                )
                print(f"{out / drawing.name}.png")
    except (ValueError, OSError, ImportError) as error:
        fail(error)


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
