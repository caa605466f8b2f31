"""Draws results.png from the table of docs/results.md.

python docs/figures/results.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DOCS = Path(__file__).resolve().parents[1]
START = "logistic"  # where every method starts
OURS = re.compile("IMCL")
_VALUE = re.compile(r"([\d.]+) ± ([\d.]+)")


def read_table(text: str) -> tuple[list[str], dict[str, list[tuple]]]:
    """Returns the columns' names, and method -> (mean, deviation) of each."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[x.strip() for x in row.strip("|").split("|")] for row in rows]
    table = {}
    for name, *values in cells[2:]:
        found = [_VALUE.search(value) for value in values]
        if not all(found):
            break
        table[name] = [(float(m[1]), float(m[2])) for m in found]
    return cells[0][1:], table


def draw(columns: list[str], table: dict[str, list[tuple]], file: Path):
    """Writes one panel for each data set, a dot for each method and regime."""
    names = sorted(table, key=lambda name: table[name][0][0])
    figure, panels = plt.subplots(
        1, 2, figsize=(8.4, 5.4), sharey=True, layout="constrained"
    )
    for panel, first in zip(panels, (0, 2), strict=True):
        for offset, column in ((0.16, first), (-0.16, first + 1)):
            regime = columns[column].split(", ")[1]
            for y, name in enumerate(names):
                mean, deviation = table[name][column]
                panel.errorbar(
                    mean, y + offset, xerr=deviation, markersize=4.5,
                    fmt="o" if offset > 0 else "s", elinewidth=1,
                    color="#c1121f" if OURS.search(name) else "#335c81",
                    markerfacecolor=None if offset > 0 else "white",
                    label=regime if y == 0 else None,
                )  # fmt: skip
        panel.axvline(table[START][first][0], color="grey", lw=0.8, ls=":")
        panel.set_title(columns[first].split(", ")[0], fontsize=10)
        panel.set_xlabel("test mAP, percent")
        panel.grid(axis="y", lw=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    for label in panels[0].get_yticklabels():
        if OURS.search(label.get_text()):
            label.set_color("#c1121f")
    panels[0].legend(loc="upper left", fontsize=8, frameon=False)
    figure.savefig(file, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    page = (DOCS / "results.md").read_text()
    draw(*read_table(page), DOCS / "figures" / "results.png")
