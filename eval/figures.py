"""Draws plans that were run: NAME.png, NAME.svg and NAME_gains.csv.

    python -m eval.figures --runs=DIR --out=DIR/figures

A plan whose columns are shares of observed labels becomes lines, as figure 3 of
the paper; any other one a dot for each row, the logistic model's and the best
of the others marked by lines, as figure 4. Both show test mAP above that of the
logistic model that a run starts from, mean and standard deviation over seeds.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.FIGURES)

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from eval.tables import Entry, Spread, Table, asked_for, columns_of, gains
from imcl_tf import program
from imcl_tf.files import fail, replacing, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARE = re.compile(r"([\d.]+) %")
# The palette of Okabe and Ito: distinct in any kind of colour vision.
_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
    "#999999", "#F0E442",
)  # fmt: skip
_MARKERS = "osD^vP*X"
_OURS = "#000000"


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
            (shares[p.column], p.gain.mean, p.gain.deviation or 0.0)
            for p in found
            if p.row == row
        )
        missing, means, deviations = zip(*own, strict=True)
        axes.errorbar(
            missing, means, deviations, label=row, capsize=2, markersize=5,
            **styles[row],
        )  # fmt: skip
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(sorted(shares.values()))
    axes.set_xlabel("labels missing in training, percent")
    axes.set_ylabel("test mAP above logistic, points")
    axes.set_title(table.heading, fontsize=10)
    axes.grid(linewidth=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
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
                    xerr=point.gain.deviation or 0.0,
                    **styles[point.row] | {"linestyle": "none"},
                )  # fmt: skip
        shown = {point.row for point in found if point.column == column}
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


def _styles(entries: list[Entry]) -> dict[str, dict]:
    """Row -> how it is drawn: IMCL black, each other one its own way."""
    rows = [*dict.fromkeys(entry.row for entry in entries)]
    others = [row for row in rows if not row.startswith("imcl")]
    ours = [row for row in rows if row.startswith("imcl")]
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
            "color": _OURS, "marker": "o", "linestyle": line, "linewidth": 2.0
        }  # fmt: skip
    return styles


def main(argv: list[str]):
    del argv
    try:
        tables, out = asked_for()
        figures = {table.name: draw(table) for table in tables}
        for table in tables:
            for kind in ("png", "svg"):
                with replacing(out / f"{table.name}.{kind}") as new:
                    figures[table.name].savefig(new, format=kind, dpi=150)
            rows = [
                (x.column, x.row, x.gain.mean, x.gain.deviation, x.gain.number)
                for x in points(table)
            ]
            header = "column", "row", "gain", "deviation", "seeds"
            write_csv(out / f"{table.name}_gains.csv", header, rows)
            print(f"{out / table.name}.png")
    except (ValueError, OSError, ImportError) as error:
        fail(error)


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
