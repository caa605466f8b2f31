"""Pages of plans: their tables, and what their runs are called."""

import html
import json
import re

import numpy as np
import pytest

from eval import outcomes, report, tables
from tests.report.made import HOSTILE, write_plan, write_run
from tests.report.test_page import words

NAMES = [
    "logistic, fixed_features, seed 0",
    "imcl, fixed_features, seed 0",
    "imcl, fixed_features, seed 1",
    "initial logistic model, fixed_features, seed 0",
    "initial logistic model, fixed_features, seed 1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    write_plan(path, np.random.default_rng(0))
    return path


@pytest.fixture(scope="module")
def text(place):
    """The page without its scripts."""
    report.write([place], place / "page.html")
    text = (place / "page.html").read_text("utf-8")
    return re.sub(r"<script.*?</script>", "", text, flags=re.S)


def cells_of(text, label):
    """Cells of the table whose region has a label, row by row."""
    (table,) = re.findall(
        rf'aria-label="{label}.*?<table.*?</table>', text, re.S
    )
    return [
        [
            html.unescape(re.sub("<[^>]+>", "", cell)).replace("−", "-").strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)
        ]
        for row in re.findall("<tr>.*?</tr>", table, re.S)
    ]


def test_a_table_is_that_of_eval_tables(place, text):
    (table,) = outcomes.read_tables([place])
    lines = tables.to_markdown(table).splitlines()
    expected = [
        [
            re.sub(r"\\([|<])", r"\1", cell.strip())
            for cell in re.split(r" \| ", line[1:-1])
        ]
        for line in lines
        if line.startswith("| ") and "---" not in line
    ]
    found = cells_of(text, "Table of the plan")
    assert found == expected
    by_row = {row[0]: dict(zip(found[0], row, strict=True)) for row in found}
    assert by_row["imcl"]["paper, all"] == "76.72"
    assert " ± " in by_row["imcl"]["all"]
    assert re.match(r"[+-]\d+\.\d+ \[", by_row["imcl"]["less logistic"])
    assert by_row[HOSTILE[0]]["all"] == "missing"
    assert by_row["logistic"]["seeds"] == "1 of 2"


def test_runs_are_called_by_row_column_and_seed(place, text):
    rows = cells_of(text, "Table of all runs")
    assert [row[0] for row in rows[1:]] == NAMES
    means = [
        json.loads((place / f"runs/{name}/results.json").read_text())["mAP"]
        for name in ("1b0", "2c0", "2c1", "0a0", "0a1")
    ]
    test = rows[0].index("test")
    assert [row[test] for row in rows[1:]] == [f"{x:.2f}" for x in means]
    assert re.findall(r"<summary><h2>(.*?)</h2>", text) == NAMES
    assert "Several seeds" not in text  # the plan's table has their means


def test_a_page_begins_with_the_title_and_what_runs_warned_of(text):
    shown = words(text)
    first = shown.index("Doubtful. In imcl, fixed_features, seed 0; imcl, f")
    assert shown.index(f"Table 1 {HOSTILE[2]} (here: folder)") < first
    assert first < shown.index("Results") < shown.index("All runs")
    assert shown.count("1 warning ") == 2  # of both runs that warn
    assert f"{HOSTILE[1]} failed" in shown
    assert "numbers are of open_images, these of folder" in shown
    assert "<img src=x" not in text


def test_several_plans_and_a_run_beside_them(place, tmp_path):
    rng = np.random.default_rng(1)
    write_plan(tmp_path / "other", rng, plan="table2")
    write_run(tmp_path / "own", rng)
    out = tmp_path / "page.html"
    report.write([place, tmp_path / "own", tmp_path / "other"], out)
    rows = cells_of(out.read_text("utf-8"), "Table of all runs")
    names = [row[0] for row in rows[1:]]
    assert names == [
        *(f"table1: {name}" for name in NAMES[:3]),
        *(f"table2: {name}" for name in NAMES[:3]),
        *NAMES[3:], *NAMES[3:], "own",
    ]  # fmt: skip


def test_a_run_of_several_cells_has_the_names_of_all(tmp_path):
    write_plan(tmp_path, np.random.default_rng(0))
    state = json.loads((tmp_path / "table1.json").read_text())
    state["cells"][0] |= {"run": "2c0"}
    (tmp_path / "table1.json").write_text(json.dumps(state))
    names = report.run_names(outcomes.read_tables([tmp_path]))
    assert names[tmp_path / "runs/2c0"] == "; ".join(NAMES[:2])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "table1.json is damaged"),
        ('{"plan": "p", "cells": []}', "is damaged: title is None"),
        ('{"plan": "p"}', "no finished run there"),
        ("[]", "no finished run there"),
    ],
)
def test_what_is_no_state_of_a_plan(tmp_path, state, message):
    (tmp_path / "table1.json").write_text(state)
    with pytest.raises(ValueError, match=message):
        report.write([tmp_path], tmp_path / "page.html")


def test_a_plan_without_a_finished_run(tmp_path):
    write_plan(tmp_path, np.random.default_rng(0))
    state = json.loads((tmp_path / "table1.json").read_text())
    state["cells"] = [cell | {"run": None} for cell in state["cells"]]
    (tmp_path / "table1.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="no run of a plan is finished"):
        report.write([tmp_path], tmp_path / "page.html")
