"""Makes the table of docs/results.md, and draws results.png from it.

python docs/figures/results.py birds=runs/birds/table.json ... > table.md
python docs/figures/results.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DOCS = Path(__file__).resolve().parents[1]
START = "logistic"  # where every method starts
FULL = "logistic, all labels observed"
OURS = re.compile("IMCL|auto")
_VALUE = re.compile(r"([\d.]+) ± ([\d.]+)")


def to_markdown(tables: dict[str, list[dict]]) -> str:
    """One table of several data sets, rows as in the first of them.

    A cell is mAP ± deviation, and in brackets the share of the gap recovered.

    Args:
      tables: data set -> entries of its table.json, of one regime.
    """
    cells: dict[str, dict[str, str]] = {}
    for name, entries in tables.items():
        others = [entry for entry in entries if entry["row"] != FULL]
        best = max(np.mean(entry["mAP"]) for entry in others)
        for entry in entries:
            mean, deviation = (
                np.mean(entry["mAP"]),
                np.std(entry["mAP"], ddof=1),
            )
            text = f"{mean:.2f} ± {deviation:.2f}"
            if mean == best and entry["row"] != FULL:
                text = f"**{text}**"
            if entry.get("gap_share"):
                text += f" ({np.mean(entry['gap_share']):z.0f} %)"
            cells.setdefault(entry["row"], {})[name] = text
    lines = [f"| | {' | '.join(tables)} |", "|---" * (len(tables) + 1) + "|"]
    for row, line in cells.items():
        values = " | ".join(line.get(name, "") for name in tables)
        lines.append(f"| {row} | {values} |")
    return "\n".join(lines)


def read_table(text: str) -> tuple[list[str], dict[str, list]]:
    """Returns the first table's columns, and row -> (mean, deviation) of each.

    None where a data set has no such row.
    """
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    table = {}
    for name, *values in cells[2:]:
        found = [_VALUE.search(value) for value in values]
        table[name] = [m and (float(m[1]), float(m[2])) for m in found]
    return cells[0][1:], table


def draw(columns: list[str], table: dict[str, list], file: Path):
    """Writes a panel for each data set, a dot for each method.

    Lines are where every method starts and, if known, with all labels observed.
    """
    full = table.pop(FULL, [None] * len(columns))
    names = sorted(table, key=lambda name: table[name][0] or (0, 0))
    figure, panels = plt.subplots(
        1, len(columns), figsize=(2.6 + 2.2 * len(columns), 5.8), sharey=True,
        layout="constrained",
    )  # fmt: skip
    for number, (panel, title) in enumerate(zip(panels, columns, strict=True)):
        for y, name in enumerate(names):
            if table[name][number] is None:
                continue
            mean, deviation = table[name][number]
            panel.errorbar(
                mean, y, xerr=deviation, markersize=4.5, fmt="o", elinewidth=1,
                color="#c1121f" if OURS.search(name) else "#335c81",
            )  # fmt: skip
        panel.axvline(table[START][number][0], color="grey", lw=0.8, ls=":")
        if full[number]:
            panel.axvline(full[number][0], color="grey", lw=0.8, ls="--")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("test mAP, percent")
        panel.grid(axis="y", lw=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    for label in panels[0].get_yticklabels():
        if OURS.search(label.get_text()):
            label.set_color("#c1121f")
    figure.savefig(file, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    named = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if named:
        read = {
            name: json.loads(Path(x).read_text()) for name, x in named.items()
        }
        print(to_markdown(read))
    else:
        page = (DOCS / "results.md").read_text()
        draw(*read_table(page), DOCS / "figures" / "results.png")
