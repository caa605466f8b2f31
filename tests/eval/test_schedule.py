"""Runs of a plan are other runs where their results may be others."""

from pathlib import Path

import pytest

from eval.plan import Plan, Variant
from eval.schedule import Cell, Schedule
from imcl_tf.settings import known_options


@pytest.fixture
def settings():
    return {
        option.name: option.default for option in known_options().values()
    } | {"workdir": "", "method": "lsep", "regime": "fixed_features"}


def names(settings, place):
    plan = Plan(
        "p", "P", "", "folder", (Variant("row", {}),), (Variant("", {}),)
    )
    schedule = Schedule(plan, settings, place, ["0"], {}, {"labels": "d"})
    final = schedule.final(Cell("row", "", "0"))
    return final.start.name, final.name


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
