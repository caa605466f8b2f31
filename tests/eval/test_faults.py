"""Runs that are killed end as those that are not; eval.faults in short."""

import json
import random
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from eval import faults
from tests import programs


@pytest.fixture(scope="module")
def survived(folder, tmp_path_factory):
    """(outcome, directory) of a run with a fault of each kind.

    On features, for which a program traces no network.
    """
    place = tmp_path_factory.mktemp("faults")
    ids = [name for names in folder.splits.values() for name in names]
    rows = np.random.default_rng(0).normal(size=(len(ids), 4))
    np.savez(place / "features.npz", ids=ids, features=rows)
    command = (
        "--dataset=folder", f"--data_dir={folder.path}", "--method=hill",
        f"--features={place / 'features.npz'}", "--initial_head=trained",
        "--initial_epochs=0", "--epochs=9", "--batch_size=4",
        "--checkpoint_every=1", "--evaluate_every=20",
    )  # fmt: skip
    # From a process that has not used TensorFlow.
    process = programs.FORKS.Process(target=_survive, args=(command, place))
    process.start()
    process.join()
    return json.loads((place / "outcome").read_text()), place


def _survive(command, place):
    rng = random.Random(0)
    outcome = faults.survive(command, faults.KINDS[::-1], rng, place)
    (place / "outcome").write_text(json.dumps(outcome))


def test_a_run_with_faults_is_the_run_without(survived):
    (suffered, runs, differences), _ = survived
    assert differences == []
    assert [kind for kind, _ in suffered] == [*faults.KINDS[::-1]]
    assert 1 <= runs <= len(suffered)


@pytest.fixture
def copy(survived, tmp_path):
    """A finished workdir, and another that is the same."""
    whole = survived[1] / "whole"
    shutil.copytree(whole, tmp_path / "copy")
    assert faults.differing(whole, tmp_path / "copy") == []
    return whole, tmp_path / "copy"


def test_every_difference_is_seen(copy):
    whole, other = copy
    results = json.loads((other / "results.json").read_text())
    results["mAP"] = np.nextafter(results["mAP"], 100)
    (other / "results.json").write_text(json.dumps(results))
    with (other / "metrics.csv").open("a") as file:
        file.write("\n")
    (other / "average_precision.csv").unlink()
    (other / "checkpoints" / "latest.keras").unlink()
    assert faults.differing(whole, other) == [
        "copy: average_precision.csv is missing",
        "copy: checkpoints/latest.keras is missing",
        "copy: metrics.csv: content",
        "copy: results.json: mAP",
    ]


def test_a_bit_of_a_weight_is_seen(copy, tmp_path):
    whole, other = copy
    part, name = "model.weights.h5", "classifier/vars/0"
    original = whole / "checkpoints" / "best.keras"
    with zipfile.ZipFile(original) as archive:
        weights = archive.extract(part, tmp_path)
    with h5py.File(weights, "r+") as file:
        file[name][0, 0] = np.nextafter(file[name][0, 0], np.float32(99))
    with zipfile.ZipFile(other / "checkpoints" / "best.keras", "w") as archive:
        archive.write(weights, part)
    assert faults.differing(whole, other) == [
        f"copy: checkpoints/best.keras: {name}"
    ]
