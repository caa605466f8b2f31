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
from pathlib import Path
from typing import Any

from eval.outcomes import (
    MEASURES,
    Entry,
    Table,
    asked_for,
    best_baseline,
    columns_of,
    difference,
    provenance_of,
    results_of,
)
from eval.reported import GROUPS, reported
from eval.texts import escaped, in_words, markdown
from imcl_tf import program
from imcl_tf.files import fail, replacing, write_csv
from imcl_tf.ops.metrics import Support
from imcl_tf.report.plan import PlanPart, PlanTable

_COMMIT = 10  # characters


def to_markdown(table: Table) -> str:
    """A table for each column of a plan."""
    texts = to_texts(table)
    title = f"## {escaped(texts.title)}"
    parts = [title, f"`{texts.command}`", *texts.notes]
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
    parts = [_part(table, column) for column in columns_of(table)]
    return PlanTable(table.heading, table.command, notes, parts)


def _of_column(table: Table, column: str) -> list[Entry]:
    return [entry for entry in table.entries if entry.column == column]


def _part(table: Table, column: str) -> PlanPart:
    paper = reported(table.reported)
    entries = _of_column(table, column)
    best = best_baseline(entries)
    names = [*MEASURES, *GROUPS]
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
        found = provenance_of(run)
        if found is None:
            continue
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
    return [results_of(run) for x in entries for run in x.runs.values()]


def to_rows(table: Table) -> list[tuple]:
    """A line for each row, column and measure, for the CSV file."""
    paper = reported(table.reported)
    rows = []
    for entry in table.entries:
        numbers = paper.get((entry.row, entry.column), {})
        for name in (*MEASURES, *GROUPS):
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
    try:
        tables, out = asked_for(argv)
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
