"""Tables of plans, from runs that are written by hand."""

import csv
import json

import numpy as np
import pytest
import scipy.sparse

import imcl_tf
from eval import outcomes, reported, tables
from imcl_tf.training.predictions import Predictions, load, save
from tests import programs

SUPPORT = {"labels": 3, "num_labels": 4, "positives": 9, "negatives": 20}


def write_run(place, name, method, seed, warnings=(), commit="0" * 40):
    """A run whose scores are random; returns its test mAP in percent."""
    rng = np.random.default_rng([seed, len(name), ord(name[0])])
    labels = np.random.default_rng(0).choice([-1, 1], (40, 4))
    scores = rng.normal(size=labels.shape) + labels
    run = place / "runs" / name
    run.mkdir(parents=True)
    kept = scipy.sparse.csr_array(labels.astype(np.int8))
    top = scores.argmax(1)[:, np.newaxis]
    save(Predictions(np.zeros(0, "S"), kept, scores.ravel(), top),
         run / "test_predictions.npz")  # fmt: skip
    (run / "labels.txt").write_text("a\nb\nc\nd\n")
    ap = 100 * imcl_tf.average_precision(labels.astype(np.int8), scores)
    results = {
        "method": method, "mAP": ap.mean(), "mAP_empty_zero": ap.mean() / 2,
        "validation_mAP": 50.0 + len(method) + seed, "mAP_support": SUPPORT,
        "mAP_groups": [*ap, None], "warnings": [*warnings],
    }  # fmt: skip
    (run / "results.json").write_text(json.dumps(results))
    machine = {"cores": 2, "accelerators": ["GPU x"] * (method == "imcl")}
    machine |= {
        "processor": "CPU y", "seconds": 60.0 + 1000 * seed,
        "resumed": seed == 2, "commit": commit,
    }  # fmt: skip
    (run / "provenance.json").write_text(json.dumps(machine))
    return ap.mean()


def cell(row, seed, run, column="fixed_features", logistic=None, **more):
    more = {"chosen": {}, "error": None, "settings": {}} | more
    return {
        "row": row, "column": column, "seed": str(seed), "run": run,
        "logistic": logistic or run, **more,
    }  # fmt: skip


def write_state(place, cells, **more):
    state = {
        "plan": "table1", "title": "Table 1", "cells": cells,
        "reported": "table1_open_images_test", "digests": {"labels": "a"},
        "dataset": "folder", "own_dataset": "open_images", "command": "run",
    }  # fmt: skip
    (place / "table1.json").write_text(json.dumps(state | more))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two directories of one plan, and test mAPs by row and seed."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    maps = {
        ("logistic", 0): write_run(one, "l0", "logistic", 0, ["Doubtful."]),
        ("logistic", 1): write_run(two, "l1", "logistic", 1),
        ("imcl", 0): write_run(one, "i0", "imcl", 0),
        ("imcl", 1): write_run(two, "i1", "imcl", 1),
        ("lsep", 0): write_run(one, "s0", "lsep", 0),
    }
    write_state(one, [
        cell("logistic", 0, "l0"), cell("logistic", 1, None),
        cell("imcl", 0, "i0", logistic="l0", chosen={"epochs": "2"}),
        cell("imcl", 1, None), cell("lsep", 0, "s0", logistic="l0"),
        cell("wsabie", 0, None, error="wsabie: broken"),
        cell("logistic", 1, None, error="logistic: broken"),
    ])  # fmt: skip
    write_state(two, [
        cell("logistic", 1, "l1"), cell("imcl", 1, "i1", logistic="l1"),
        cell("hill", 1, None),
    ])  # fmt: skip
    return one, two, maps


@pytest.fixture(scope="module")
def table(made):
    (found,) = outcomes.read_tables(made[:2])
    return found


def of_row(table, row):
    return next(entry for entry in table.entries if entry.row == row)


def test_what_a_killed_process_left_unfinished_is_no_plan(tmp_path):
    write_run(tmp_path, "l", "logistic", 0)
    write_state(tmp_path, [cell("logistic", 0, "l")])
    kept = tmp_path / "table1.json"
    unfinished = tmp_path / ".unfinished-0-table1.json"
    unfinished.write_text(kept.read_text().replace("Table 1", "Stale"))
    assert outcomes.holds_plans(tmp_path)
    (table,) = outcomes.read_tables([tmp_path])
    assert table.title == "Table 1"
    kept.unlink()
    assert not outcomes.holds_plans(tmp_path)


def test_means_over_the_seeds_of_all_directories(made, table):
    maps = [made[2]["imcl", seed] for seed in (0, 1)]
    spread = of_row(table, "imcl").spreads["all"]
    assert spread.mean == pytest.approx(np.mean(maps))
    assert spread.deviation == pytest.approx(np.std(maps, ddof=1))
    alone = of_row(table, "lsep").spreads["all"]
    assert (alone.deviation, alone.number) == (None, 1)
    assert "group5" not in of_row(table, "imcl").spreads  # no label is in it
    assert not of_row(table, "wsabie").spreads


def test_differences_are_of_pairs(made, table):
    """Of equal seeds; and less uncertain than each of the two."""
    maps = made[2]
    imcl = of_row(table, "imcl")
    found = outcomes.difference(imcl.runs, imcl.logistic)
    gains = [maps["imcl", n] - maps["logistic", n] for n in (0, 1)]
    assert found.mean == pytest.approx(np.mean(gains))
    assert found.low < found.mean < found.high and found.pairs == 2
    lsep = of_row(table, "lsep")
    against = outcomes.difference(imcl.runs, lsep.runs)
    assert against.mean == pytest.approx(maps["imcl", 0] - maps["lsep", 0])
    assert outcomes.difference(imcl.runs, imcl.runs) is None
    assert outcomes.difference(imcl.runs, {}) is None


def test_an_interval_lies_around_the_difference(tmp_path):
    """A row of perfect scores has 100 of any images that are drawn: the
    interval is the other one's spread. Images that are drawn twice rank that
    one higher on average, by a point here, which would shift it.
    """
    for name, seed in (("l0", 0), ("p0", 0)):
        write_run(tmp_path, name, "logistic", seed)
    file = tmp_path / "runs/p0/results.json"
    results = json.loads(file.read_text())
    kept = load(tmp_path / "runs/p0/test_predictions.npz", results["mAP"])
    perfect = kept._replace(scores=kept.labels.data.astype(float))
    save(perfect, tmp_path / "runs/p0/test_predictions.npz")
    file.write_text(json.dumps(results | {"mAP": 100.0}))
    found = outcomes.difference(
        {"0": tmp_path / "runs/p0"}, {"0": tmp_path / "runs/l0"}
    )
    labels = kept.labels.toarray()
    scores = kept.scores.reshape(labels.shape)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        images = rng.integers(len(labels), size=len(labels))
        ap = imcl_tf.average_precision(labels[images], scores[images])
        drawn.append(100 * np.nanmean(ap))
    mean = json.loads((tmp_path / "runs/l0/results.json").read_text())["mAP"]
    assert np.mean(drawn) - mean > 0.5
    low, high = np.percentile(np.mean(drawn) - drawn, [2.5, 97.5])
    assert found.mean == pytest.approx(100 - mean)
    assert found.low == pytest.approx(100 - mean + low, abs=1)
    assert found.high == pytest.approx(100 - mean + high, abs=1)


def test_the_best_baseline_is_that_on_validation(table):
    """50 + 8 letters + seeds 0 and 1: logistic has the most."""
    assert outcomes.best_baseline(table.entries).row == "logistic"
    others = [entry for entry in table.entries if entry.row != "logistic"]
    assert outcomes.best_baseline(others).row == "lsep"
    assert outcomes.best_baseline([of_row(table, "imcl")]) is None


def test_the_best_baseline_is_of_most_seeds(tmp_path):
    """A better one of a single seed is none; differences say their pairs."""
    cells = []
    for seed in (0, 1):
        for method in ("lsep", "imcl", "logistic"):
            name = f"{method}{seed}"
            run = name if (method, seed) != ("logistic", 1) else None
            if run:
                write_run(tmp_path, name, method, seed)
            cells.append(cell(method, seed, run, logistic="logistic0"))
    write_state(tmp_path, cells)
    (table,) = outcomes.read_tables([tmp_path])
    assert outcomes.best_baseline(table.entries).row == "lsep"  # 54.5 < 58
    for entry in table.entries:
        entry.logistic.pop("1", None)
    (part,) = tables.to_texts(table).parts
    number = part.header.index("less logistic")
    texts = {row[0]: row[number] for row in part.rows}
    assert texts["imcl"].endswith("] (1 of its 2 seeds)")
    assert texts["logistic"] == ""


def test_logistic_is_compared_with_once(table):
    """It is the best baseline, and what all start from."""
    (part,) = tables.to_texts(table).parts
    assert part.header.count("less logistic") == 1


def test_markdown(table, made):
    text = tables.to_markdown(table)
    lines = {
        line.split(" | ")[0].strip("| "): [x.strip() for x in line.split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    names = lines["fixed_features"]
    imcl = dict(zip(names, lines["imcl"], strict=True))
    assert imcl["validation"] == "54.50 ± 0.71" and imcl["seeds"] == "2 of 2"
    assert imcl["paper, all"] == "76.72" and imcl["paper, group5"] == "86.32"
    assert imcl["group5"] == "missing" and imcl["chosen"] == "epochs 2"
    assert imcl["less logistic"].startswith(("+", "-"))
    wsabie = dict(zip(names, lines["wsabie"], strict=True))
    assert wsabie["all"] == "missing" and wsabie["paper, all"] == "75.86"
    logistic = dict(zip(names, lines["logistic"], strict=True))
    assert logistic["less logistic"] == ""
    for words in ("wsabie: broken", "Warning: Doubtful.", "3 of 4 labels",
                  "numbers are of open_images, these of folder.",
                  "Run on CPU y (2 cores): 3 runs, at most 1,060 s.",
                  "Run on CPU y (2 cores), GPU x: 2 runs, at most 1,060 s.",
                  ):  # fmt: skip
        assert text.count(words) == 1
    assert "| hill | missing |" in text  # a row that the second has alone
    assert "logistic: broken" not in text  # the second has it done


def test_names_end_no_cell_and_begin_no_tag(tmp_path):
    write_run(tmp_path, "l0", "logistic", 0)
    write_state(tmp_path, [cell("a | <b>", 0, "l0")], title="<i> | x")
    text = tables.to_markdown(*outcomes.read_tables([tmp_path]))
    assert text.startswith(r"## \<i> \| x ")
    assert r"| a \| \<b> | 58.00 |" in text


def test_more_than_flags_is_refused(made, tmp_path):
    for program in ("eval.tables", "eval.figures"):
        out = tmp_path / "out"
        done = programs.run(
            program, f"--runs={made[0]}", f"--out={out}", "extra"
        )
        assert done.returncode == 1 and not out.exists()
        assert "error: unexpected argument 'extra'" in done.stderr


def test_the_program_writes_both_forms(made, tmp_path):
    one, two, maps = made
    done = programs.run(
        "eval.tables", f"--runs={one}", f"--runs={two}",
        f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/table1.md").read_text() in done.stdout + "\n"
    with (tmp_path / "out/table1.csv").open(newline="") as file:
        rows = {(x["row"], x["measure"]): x for x in csv.DictReader(file)}
    found = rows["imcl", "all"]
    mean = np.mean([maps["imcl", 0], maps["imcl", 1]])
    assert float(found["mean"]) == pytest.approx(mean, abs=1e-4)
    assert (found["seeds"], found["paper"]) == ("2", "76.72")
    assert rows["wsabie", "all"]["mean"] == ""


@pytest.mark.parametrize(
    ("file", "damaged", "words"),
    [
        ("results.json", "{", "is damaged: not a whole JSON"),
        ("results.json", "[]", "is damaged: expected a JSON object"),
        ("results.json", "{}", "expected a number mAP"),
        ("results.json", {"mAP": None}, "expected a number mAP"),
        ("results.json", {"mAP": float("nan")}, "expected a number mAP"),
        ("results.json", {"validation_mAP": "9"}, "validation_mAP is '9'"),
        ("results.json", {"mAP_groups": []}, r"mAP_groups is \[\]"),
        ("results.json", {"mAP_support": {}}, r"mAP_support is {}"),
        ("results.json", {"method": None}, "method is None"),
        ("results.json", {"mAP": 3.0}, "predictions.npz is of another run: "),
        ("provenance.json", "{", "is damaged: not a whole JSON"),
        ("provenance.json", "{}", "accelerators is missing"),
    ],
)
def test_a_damaged_run_is_named(tmp_path, file, damaged, words):
    for name, method in (("l0", "logistic"), ("i0", "imcl")):
        write_run(tmp_path, name, method, 0)
    write_state(
        tmp_path, [cell("imcl", 0, "i0", logistic="l0"),
                   cell("logistic", 0, "l0")],
    )  # fmt: skip
    path = tmp_path / "runs/i0" / file
    if isinstance(damaged, dict):
        damaged = json.dumps(json.loads(path.read_text()) | damaged)
    path.write_text(damaged)
    with pytest.raises(ValueError, match=words) as caught:
        tables.to_texts(*outcomes.read_tables([tmp_path]))
    assert "i0" in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_that_is_gone(tmp_path):
    write_state(tmp_path, [cell("logistic", 0, "l0")])
    with pytest.raises(FileNotFoundError, match="l0.*; run the plan again"):
        outcomes.read_tables([tmp_path])


def test_times_of_resumed_runs_and_commits(tmp_path):
    """Seed 2 was resumed: how long it took is not known."""
    for seed in range(3):
        commit = "ab" * 20 + "-changed" * (seed > 1)
        write_run(tmp_path, f"l{seed}", "logistic", seed, commit=commit)
    write_state(tmp_path, [cell("logistic", n, f"l{n}") for n in range(3)])
    text = tables.to_markdown(*outcomes.read_tables([tmp_path]))
    assert "Run on CPU y (2 cores): 3 runs, at most 1,060 s." in text
    assert "different commits: ababababab, ababababab-changed." in text


def test_seeds_that_chose_otherwise(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, f"l{seed}", "lsep", seed)
    write_state(tmp_path, [
        cell("lsep", seed, f"l{seed}", chosen={"learning_rate": rate})
        for seed, rate in ((0, "0.1"), (1, "0.01"))
    ])  # fmt: skip
    (part,) = tables.to_texts(*outcomes.read_tables([tmp_path])).parts
    assert part.rows[0][-1] == "learning_rate 0.1 or learning_rate 0.01"


def test_what_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="no plan was run there"):
        outcomes.read_tables([tmp_path])
    write_state(tmp_path, [cell("imcl", 2, None)], digests={"labels": "b"})
    with pytest.raises(
        ValueError, match="table1 was run differently in .*: labels of the data"
    ):
        outcomes.read_tables([made[0], tmp_path])
    other = cell("imcl", 2, None, settings={"epochs": "3"})
    write_state(tmp_path, [other])
    with pytest.raises(
        ValueError, match="imcl, fixed_features: --epochs not given, 3; make"
    ):
        outcomes.read_tables([made[0], tmp_path])
    write_state(tmp_path, [{"row": "imcl", "seed": "0"}])
    with pytest.raises(
        ValueError, match="table1.json is damaged: a cell has no column"
    ):
        outcomes.read_tables([tmp_path])


def test_numbers_of_the_paper():
    """Some of each table, as printed."""
    table1 = reported.reported("table1_open_images_test")
    assert table1["curriculum", "end_to_end"]["all"] == 77.05
    assert table1["imcl", "fixed_features"]["group2"] == 71.36
    assert len(table1) == 18
    name = "table2_open_images_validation_fixed_features"
    table2 = reported.reported(name)
    assert table2["lambda_f=2", ""] == {"validation": 78.17}
    table4 = reported.reported("table4_open_images_group5_fixed_features")
    assert table4["learned/learned (wiki)", ""] == {"group5": 86.32}
    table3 = reported.reported("table3_open_images_test_fixed_features")
    assert table3["wiki", ""]["all"] == 76.74
    with pytest.raises(ValueError, match="'table5' is no key"):
        reported.reported("table5")


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4"])
def test_plans_have_the_rows_of_the_paper(name):
    text = (programs.ROOT / "flags" / f"{name}.cfg").read_text()
    key = text.partition("--reported=")[2].split()[0]
    rows = {
        line.removeprefix("--row=").partition(":")[0]
        for line in text.splitlines()
        if line.startswith("--row=")
    }
    assert {row for row, _ in reported.reported(key)} == rows
