"""`--method=auto`: what it tries, what it takes and how it says so."""

import csv
import json

import numpy as np
import pytest
import scipy.sparse

import imcl_tf
from imcl_tf.training import auto as module
from imcl_tf.training.auto import Search, auto, explained
from imcl_tf.training.run import VALIDATION_SCORES

C, N = 3, 60


class Data:
    """Validation labels alone."""

    def __init__(self):
        rng = np.random.default_rng(0)
        labels = rng.choice([-1, 1], (N, C)).astype(np.int8)
        self.labels = labels
        self.validation = self
        self.labels = scipy.sparse.csr_array(labels)
        self.dense = labels


class Runs:
    """Leaves scores of a given quality in the place of training."""

    def __init__(self, data, quality):
        self._data, self._quality = data, quality
        self.made = []

    def __call__(self, settings, directory):
        self.made.append(directory.name)
        rng = np.random.default_rng(1)  # the same noise in all
        noise = rng.normal(size=(N, C))
        quality = self._quality.get(directory.name, 0.0)
        scores = quality * self._data.dense + noise
        directory.mkdir(parents=True)
        np.save(directory / VALIDATION_SCORES, scores.ravel())
        return {}


def search_of(tmp_path, quality, seconds=1e6):
    data = Data()
    return Search(data, Runs(data, quality), tmp_path, seconds)


def test_a_trial_must_beat_the_simpler_by_its_error(tmp_path):
    search = search_of(tmp_path, {"b": 0.02, "c": 2.0, "d": 1.9})
    for name in "abcd":
        search.attempt(name, {"method": name})
    a, b, c, d = search.trials
    assert a.is_chosen and c.is_chosen and search.best is c
    assert 0 < c.error < c.gain
    assert b.is_chosen == (b.gain > b.error)
    before = b if b.is_chosen else a
    assert c.gain == pytest.approx(c.mean - before.mean)
    assert not d.is_chosen and d.gain < 0
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [*"abcd"]
    assert [row["chosen"] for row in rows] == [
        str(int(t.is_chosen)) for t in search.trials
    ]
    found = explained(search.trials)
    assert found["settings"] == {"method": "c"}
    assert f"chose c: validation mAP {c.mean:.2f}" in found["why"]
    assert f"The best of the others is d, {d.mean:.2f}." in found["why"]


def test_logistic_is_the_choice_where_nothing_helps(tmp_path):
    search = search_of(tmp_path, {})
    for name, settings in module._proposals(search):
        search.attempt(name, settings)
    names = [trial.name for trial in search.trials]
    assert names[:3] == ["logistic", "neighbors", "imcl"]
    assert set(module._OTHERS) < set(names)
    assert explained(search.trials)["settings"] == {"method": "logistic"}
    assert "no other setting was better" in explained(search.trials)["why"]


def test_what_neighbours_gain_the_others_get(tmp_path):
    search = search_of(tmp_path, {"neighbors": 0.3, "imcl": 0.6, "imcl-3": 1.0})
    for name, settings in module._proposals(search):
        search.attempt(name, settings)
    by_name = {trial.name: trial.settings for trial in search.trials}
    assert by_name["imcl"]["neighbors"] == "chosen"
    # The fourth variation is one of the third, which was better.
    assert by_name["imcl-4"]["lambda_y"] == 5.0
    assert by_name["imcl-5"]["lambda_y"] == by_name["imcl-3"]["lambda_y"] == 0.2
    assert search.best.name == "imcl-3"


def test_the_budget_ends_the_search(tmp_path):
    search = search_of(tmp_path, {}, seconds=0.0)
    for name, settings in module._proposals(search):
        search.attempt(name, settings)
    assert [t.name for t in search.trials] == ["logistic", "neighbors"]


def test_a_run_and_its_resumption(tmp_path, monkeypatch):
    """On features whose neighbours tell what a plane cannot."""
    rng = np.random.default_rng(0)
    ids = [f"{i:03}" for i in range(240)]
    angle = rng.uniform(0, 2 * np.pi, 240)
    features = np.stack([np.cos(angle), np.sin(angle), 0 * angle + 0.1], 1)
    labels = np.where(np.sin(4 * angle) > 0, 1, -1)
    np.savez(tmp_path / "f.npz", ids=ids, features=features.astype("f4"))
    with (tmp_path / "labels.csv").open("w") as file:
        file.write("image,label,value\n")
        file.writelines(
            f"{i},x,{y}\n" for i, y in zip(ids, labels, strict=True)
        )
    with (tmp_path / "splits.csv").open("w") as file:
        splits = ["train"] * 160 + ["validation"] * 40 + ["test"] * 40
        file.write("image,split\n")
        file.writelines(f"{i},{s}\n" for i, s in zip(ids, splits, strict=True))
    data = imcl_tf.load_dataset("folder", tmp_path, features=tmp_path / "f.npz")
    arguments = {"seed": 3, "regime": "fixed_features"}
    results = auto(data, None, tmp_path / "run", budget=0.0, **arguments)
    chosen = results["chosen"]
    assert chosen["settings"] == {"method": "logistic", "neighbors": "chosen"}
    assert results["mAP"] > results["initial_logistic"]["mAP"] + 20
    assert results["neighbors"]["observed"]
    assert chosen["trials"][1]["validation_mAP"] == results["validation_mAP"]
    file = tmp_path / "run" / "results.json"
    assert json.loads(file.read_text()) == results
    # No trial has seen the test split.
    for trial in ("start", "logistic", "neighbors"):
        text = (tmp_path / "run/auto" / trial / "results.json").read_text()
        assert "mAP" not in json.loads(text)
    monkeypatch.setattr(module, "_proposals", stop_unless_finished(tmp_path))
    again = auto(
        data, None, tmp_path / "run", budget=0.0, resume=True, **arguments
    )
    assert again == results


def stop_unless_finished(tmp_path):
    """The same proposals; a trial that is begun anew would change its file."""
    before = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "run").rglob("metrics.csv")
    }
    proposals = module._proposals

    def checked(search):
        yield from proposals(search)
        for path, time in before.items():
            assert path.stat().st_mtime_ns == time

    return checked
