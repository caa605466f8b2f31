"""Trials of auto: what is compared, and what is taken."""

import csv
import json

import pytest

from imcl_tf.training.trials import explained
from tests.training.trials import trials_of


def test_a_trial_must_beat_the_simpler_by_its_error(tmp_path):
    trials = trials_of(tmp_path, {"b": 0.02, "c": 2.0, "d": 1.9})
    for name in "abcd":
        trials.attempt(name, {"method": name})
    a, b, c, d = trials.done
    assert a.is_chosen and c.is_chosen and trials.best is c
    assert 0 < c.error < c.gain
    assert b.is_chosen == (b.gain > b.error)
    before = b if b.is_chosen else a
    assert c.gain == pytest.approx(c.mean - before.mean)
    assert not d.is_chosen and d.gain < 0
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [*"abcd"]
    assert [row["chosen"] for row in rows] == [
        str(int(t.is_chosen)) for t in trials.done
    ]
    found = explained(trials.done)
    assert found["settings"] == {"method": "c"}
    assert f"chose c: validation mAP {c.mean:.2f}" in found["why"]
    assert f"The best of the others is d, {d.mean:.2f}." in found["why"]


def test_parts_are_compared_together(tmp_path):
    """Scores of two halves of the images are those of the whole."""
    whole = trials_of(tmp_path / "whole", {"b": 1.0})
    halves = trials_of(tmp_path / "halves", {"b": 1.0}, parts=2)
    for name in "ab":
        whole.attempt(name, {"method": name})
        halves.attempt(name, {"method": name})
    for one, two in zip(whole.done, halves.done, strict=True):
        assert two.mean == pytest.approx(one.mean)
        assert two.error == pytest.approx(one.error)
        assert len(two.results) == 2
    why = explained(halves.done)["why"]
    assert "2-fold cross-validation" in why and "validation mAP" not in why


def test_an_error_that_is_not_known_proves_nothing(tmp_path, monkeypatch):
    trials = trials_of(tmp_path, {"b": 2.0})
    trials.attempt("a", {"method": "a"})
    monkeypatch.setattr(
        "imcl_tf.training.trials.difference", lambda *_: (0.4, float("inf"))
    )
    assert not trials.attempt("b", {"method": "b"}).is_chosen
    found = explained(trials.done)
    assert found["trials"][1]["standard_error"] is None
    json.dumps(found, allow_nan=False)
