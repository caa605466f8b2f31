"""Figures of plans: what is drawn, read off Matplotlib's own objects."""

import json

import numpy as np
import pytest

from eval import figures, outcomes, qualitative
from imcl_tf.report.contents import read_run
from tests import programs
from tests.eval.test_tables import cell, write_run, write_state
from tests.report.made import write_run as write_whole_run

SHARES = {"10 %": 90.0, "50 %": 50.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A plan of shares, and test mAP by row, column and seed."""
    place = tmp_path_factory.mktemp("runs")
    cells, maps = [], {}
    for column in SHARES:
        for seed in (0, 1):
            names = {}
            for row in ("logistic", "lsep", "imcl (a = 0)"):
                method = row.split()[0]
                name = names[row] = f"{'xyz'[seed]}{column[0]}{row[:4]}"
                maps[row, column, seed] = write_run(place, name, method, seed)
                cells.append(cell(row, seed, name, column, names["logistic"]))
        cells.append(cell("wsabie", 0, None, column))
    write_state(place, cells, plan="figure3", title="Figure 3")
    return place, maps


def test_lines_are_gains_over_missing_labels(made):
    place, maps = made
    (table,) = outcomes.read_tables([place])
    axes = figures.draw(table).axes[0]
    drawn = {c.get_label(): c.lines[0] for c in axes.containers}
    assert set(drawn) == {"logistic", "lsep", "imcl (a = 0)"}
    for row, line in drawn.items():
        missing, gains = line.get_xdata(), line.get_ydata()
        assert missing.tolist() == [50.0, 90.0]
        for share, gain in zip(missing, gains, strict=True):
            column = f"{100 - share:.0f} %"
            expected = np.mean([
                maps[row, column, n] - maps["logistic", column, n]
                for n in (0, 1)
            ])  # fmt: skip
            assert gain == pytest.approx(expected)
    assert drawn["imcl (a = 0)"].get_color() == "#000000"
    assert axes.get_yscale() == "linear"


def test_a_row_far_below_does_not_hide_the_others(made, monkeypatch):
    (table,) = outcomes.read_tables([made[0]])
    gains = {"logistic": 0.0, "lsep": -14.0, "imcl (a = 0)": 2.5}
    monkeypatch.setattr(
        figures, "points",
        lambda table: [
            figures.Point(row, "10 %", outcomes.Spread(x, 0.1, 2))
            for row, x in gains.items()
        ],
    )  # fmt: skip
    axes = figures.draw(table).axes[0]
    axes.figure.canvas.draw()
    places = axes.transData.transform([(0, x) for x in (0, 1, 2, -7, -14)])
    zero, one, two, below, far = places[:, 1]
    assert two - one == pytest.approx(one - zero)
    assert below - far < one - zero
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert ticks == ["−10", "−5", "−3", "−2", "−1", "0", "1", "2", "3"]


def test_dots_have_a_panel_for_each_column(made):
    (table,) = outcomes.read_tables([made[0]])
    names = {"10 %": "end_to_end", "50 %": "fixed_features"}
    entries = [x._replace(column=names[x.column]) for x in table.entries]
    figure = figures.draw(table._replace(entries=entries))
    assert [axes.get_title() for axes in figure.axes] == [*names.values()]
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert rows == ["logistic", "lsep", "imcl (a = 0)", "wsabie"]
    places = {c.lines[0].get_ydata()[0] for c in figure.axes[0].containers}
    assert places == {0, 1, 2}
    (missing,) = figure.axes[0].texts
    assert (missing.get_text().strip(), missing.get_position()[1]) == (
        "missing", 3
    )  # fmt: skip
    assert figure.axes[0].get_xticks().size
    none = [
        x._replace(runs={}, logistic={}, spreads={}, methods=set())
        if x.column == "end_to_end" else x
        for x in entries
    ]  # fmt: skip
    empty, full = figures.draw(table._replace(entries=none)).axes
    assert len(empty.texts) == 4
    assert full.get_xticks().size and not empty.get_xticks().size


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        (["10 %", "100 %"], [90.0, 0.0]),
        (["10 %"], None),
        (["10 %", "fixed"], None),
        ([""], None),
    ],
)
def test_shares_are_read_off_the_columns(columns, missing):
    assert figures.missing_shares(columns) == missing


def test_the_program(made, tmp_path):
    def run(*more):
        return programs.run(
            "eval.figures", f"--runs={made[0]}", f"--out={tmp_path}/out", *more
        )

    done = run()
    assert done.returncode == 0, done.stderr
    for name in ("figure3_gains", "figure3_found_1", "figure3_found_2"):
        path = tmp_path / f"out/{name}"
        assert path.with_suffix(".png").read_bytes()[1:4] == b"PNG"
        assert "<svg" in path.with_suffix(".svg").read_text()
        assert f"{path}.png\n" in done.stdout
    lines = (tmp_path / "out/figure3_gains.csv").read_text().splitlines()
    assert lines[0] == "column,row,gain,deviation,seeds" and len(lines) == 7
    # Runs that are written by hand have neither flags nor similarities.
    assert "names in the place of pictures" in done.stderr
    assert not (tmp_path / "out/figure3_similarities.csv").exists()

    done = run("--image=no.jpg")
    assert done.returncode == 1
    assert "--image: no test image is named no.jpg" in done.stderr


def test_similarities_are_of_the_best_row_on_validation(tmp_path):
    rows = "imcl (a = 1)", "imcl (a = 2)"
    for number in range(len(rows)):
        run = tmp_path / f"runs/{number}"
        write_whole_run(run, np.random.default_rng(number), "abcd")
        results = json.loads((run / "results.json").read_text())
        results |= {"validation_mAP": 60 - number, "mAP_groups": [None] * 5}
        (run / "results.json").write_text(json.dumps(results))
    cells = [cell(row, 0, str(n), "") for n, row in enumerate(rows)]
    write_state(tmp_path, cells)
    (table,) = outcomes.read_tables([tmp_path])
    gains, drawing = figures.drawings(table, [])  # of one method: no figure 2
    assert gains.name == "table1_gains"
    assert drawing.name == "table1_similarities"
    assert drawing.rows == qualitative.edges(read_run(tmp_path / "runs/0"))
    title = drawing.figure.get_suptitle()
    assert title == "Table 1 (here: folder)\nimcl (a = 1), seed 0"


def test_a_single_seed_has_no_bar(made, tmp_path):
    """Nor one of length 0, which would mean that seeds agree."""
    for name, row in (("l", "logistic"), ("i", "imcl")):
        write_run(tmp_path, name, row, 0)
    write_state(
        tmp_path,
        [cell(row, 0, row[0], "10 %", "l") for row in ("logistic", "imcl")],
    )
    for place, number in ((tmp_path, 0), (made[0], 6)):
        (table,) = outcomes.read_tables([place])
        drawn = [
            segment
            for axes in figures.draw(table).axes
            for container in axes.containers
            for bar in container[2]
            for segment in bar.get_segments()
        ]
        whole = [x for x in drawn if len(x) and np.isfinite(x).all()]
        assert len(whole) == number
