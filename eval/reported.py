"""The paper's numbers, by plan: what a table puts beside what was obtained."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

GROUPS = ("group1", "group2", "group3", "group4", "group5")
# Rows of table 4 in the order of the paper's.
_TABLE4 = (
    "none/none", "fixed/learned", "learned/fixed", "learned/learned",
    "learned/learned (wiki)",
)  # fmt: skip
_BASE = "lambda_y=1 (lambda_f=0.5 and k=5)"
Reported = dict[tuple[str, str], dict[str, float]]


def numbers() -> dict[str, Any]:
    """What `reported_numbers.json` holds."""
    file = importlib.resources.files("imcl_tf") / "reported_numbers.json"
    return json.loads(file.read_text("utf-8"))


def reported(key: str) -> Reported:
    """The numbers of one table, in percent.

    Args:
      key: of `reported_numbers.json`, "" = of none.

    Returns:
      (row, column) of the plan -> "all", "group1" ... "group5" or
      "validation" -> mAP; a column's name is "" where there is one alone.

    Raises:
      ValueError: for an unknown key.
    """
    if not key:
        return {}
    known = numbers()
    if key.startswith("table1") and key in known:
        table = known[key]
        return {
            (row, column): _of_groups(table["columns"], values)
            for column in ("end_to_end", "fixed_features")
            for row, values in table[column].items()
        }
    if key.startswith("table2") and key in known:
        return _of_table2(known[key])
    if key.startswith("table3") and key in known:
        table = known[key]
        return {
            (row, ""): _of_groups(table["columns"], table[row])
            for row in ("wiki", "wiki+wordnet", "cooccurrence")
        }
    if key.startswith("table4") and key in known:
        return {
            (row, ""): {"group5": entry["mAP"]}
            for row, entry in zip(_TABLE4, known[key], strict=True)
        }
    raise ValueError(f"reported: {key!r} is no key of reported_numbers.json")


def _of_groups(columns: list[str], values: list[float]) -> dict[str, float]:
    return dict(zip(columns, values, strict=True))


def _of_table2(table) -> Reported:
    """The cell that the three sweeps share is one row of the plan."""
    found: Reported = {}
    for sweep, values in table.items():
        name = sweep.partition(" at ")[0]
        for value, mean in values.items():
            row = f"{name}={value}"
            if row in ("lambda_y=1", "lambda_f=0.5", "k=5"):
                row = _BASE
            found[row, ""] = {"validation": mean}
    return found
