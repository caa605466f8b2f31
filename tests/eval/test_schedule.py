"""Runs of a plan are other runs where their results may be others."""

from pathlib import Path

import pytest

from eval.plan import Plan, Variant
from eval.schedule import Cell, Schedule
from imcl_tf import main as program
from imcl_tf.data.label_updates import files_digest
from imcl_tf.settings import known_options


@pytest.fixture
def settings():
    program.define_flags()
    return {
        option.name: option.default for option in known_options().values()
    } | {"workdir": "", "method": "lsep", "regime": "fixed_features"}


DATA = {"labels": "d"}
CELL = Cell("row", "", "0")


def schedule_of(settings, place, seed="0", **flags):
    """A schedule of one cell, `CELL` but for its seed."""
    row, column = Variant("row", flags), Variant("", {})
    plan = Plan("p", "P", "", "folder", (row,), (column,))
    return Schedule(plan, settings, place, [seed], {}, DATA)


def names(settings, place):
    final = schedule_of(settings, place).final(CELL)
    return (final.start or final).name, final.name


def test_another_logistic_model_to_start_from(settings, tmp_path):
    found = [names(settings, tmp_path)]
    for number in range(2):
        start = tmp_path / f"start{number}"
        (start / "checkpoints").mkdir(parents=True)
        Path(start, "checkpoints/logistic.keras").write_text(f"{number}")
        found.append(names(settings | {"init_from": str(start)}, tmp_path))
    starts, finals = zip(*found, strict=True)
    assert len(set(starts)) == len(set(finals)) == 3
    start.rename(tmp_path / "moved")
    moved = settings | {"init_from": str(tmp_path / "moved")}
    assert names(moved, tmp_path) == found[-1]


def test_places_make_no_other_run(settings, tmp_path):
    found = names(settings, tmp_path)
    assert names(settings | {"workdir": "w"}, tmp_path / "there") == found
    assert names(settings | {"epochs": 7}, tmp_path) != found


def test_settings_of_a_cell_are_those_of_all_its_seeds(settings, tmp_path):
    """And name what a table cannot mix: values, files and what is tuned."""
    graph = tmp_path / "graph.npz"
    graph.write_bytes(b"1")
    flags = {"epochs": ("5",), "penalty": ("0.1", "1")}

    def found(seed, **changes):
        schedule = schedule_of(settings | changes, tmp_path, seed, **flags)
        return schedule.settings(CELL._replace(seed=seed))

    ours = {"method": "imcl", "label_graph": str(graph)}
    first = found("0", **ours)
    assert first == found("7", **ours, data_dir="elsewhere")
    assert first["epochs"] == "5" and first["penalty"] == "0.1|1.0"
    assert found("0")["method"] == "lsep" and "seed" not in first
    assert first["label_graph"] == files_digest([graph])
    assert found("0", batch_size=7)["batch_size"] == "7"
    assert "batch_size" not in first


def test_a_logistic_row_that_is_trained_is_a_run_of_its_own(settings, tmp_path):
    """Its start alone may be unsolved, where features fill the memory."""
    for epochs, is_start in ((0, True), (2, False)):
        start, final = names(
            settings | {"method": "logistic", "epochs": epochs}, tmp_path
        )
        assert (start == final) == is_start


def test_results_that_are_damaged_are_named(settings, tmp_path):
    for text in ("{", '{"mAP": 1}', '{"mAP": 1, "validation_mAP": null}'):
        start, _ = names(settings, tmp_path)
        place = tmp_path / "runs" / start
        place.mkdir(parents=True, exist_ok=True)
        (place / "results.json").write_text(text)
        with pytest.raises(
            ValueError, match=f"{start}/results.json is damaged"
        ):
            schedule_of(settings, tmp_path).open(CELL)
