"""Whole runs of a few steps: how many, in what order, and on what."""

import csv
import json
import re
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.labels import hide_labels
from tests import programs
from tests.methods.common import tiny_cnn
from tests.methods.test_every_method import keep_checkpoint

# 23 training images: 4 steps an epoch.
FAST = {
    "regime": "fixed_features", "batch_size": 7, "initial_epochs": 0,
    "learning_rate": 0.05, "tuning": True, "initial_head": "trained",
    "unit_norm": False,
}  # fmt: skip
STEPS = 4


class Counting(MultiLabelModel):
    """Logistic regression that notes which passes begin."""

    begun = ()

    def begin_epoch(self, epoch, data):
        Counting.begun = (*Counting.begun, epoch)
        super().begin_epoch(epoch, data)


@pytest.fixture(scope="module")
def source(prepared):
    return open_source(prepared)


def run(source, workdir, method="logistic", **arguments):
    keras.utils.set_random_seed(3)
    return imcl_tf.run(source, tiny_cnn(), method, workdir, **FAST | arguments)


def rows_of(workdir):
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (int(row["step"]), float(row["epoch"]))
        for row in rows
        if row["split"] == "validation"
    ]


@pytest.mark.parametrize(
    ("every", "epochs", "steps"),
    [
        (3, 2, [0, 3, 6, 8]),
        (5000, 1, [0, 4]),
        (0, 2, [0, 4, 8]),
    ],
)
def test_trains_exactly_the_epochs_asked_for(
    source, tmp_path, every, epochs, steps
):
    """The last round is shorter, and no further pass begins."""
    Counting.begun = ()
    run(source, tmp_path, Counting, evaluate_every=every, epochs=epochs)
    assert rows_of(tmp_path) == [(n, n / STEPS) for n in steps]
    assert Counting.begun == tuple(range(epochs))


def test_more_epochs_are_as_if_asked_for_at_once(source, tmp_path):
    def kept(place, **arguments):
        return run(
            source, tmp_path / place, keep="latest", learning_rate=0.5,
            **arguments,
        )  # fmt: skip

    results = kept("whole", epochs=3)
    short = kept("parts", epochs=1)
    more = kept("parts", epochs=3, resume=True)
    assert more == results != short
    whole, parts = (tmp_path / x / "metrics.csv" for x in ("whole", "parts"))
    assert parts.read_text() == whole.read_text()
    with pytest.raises(ValueError, match="--epochs=3, --epochs=2; only more"):
        kept("parts", epochs=2, resume=True)


@pytest.mark.slow
def test_more_epochs_after_a_shorter_round(source, tmp_path):
    """Rounds of 3 steps from step 4 on, also when resumed at step 7."""
    for epochs in (1, 3):
        run(
            source, tmp_path, epochs=epochs, evaluate_every=3, resume=True,
            tuning=False,
        )  # fmt: skip
    assert [step for step, _ in rows_of(tmp_path)] == [0, 3, 4, 7, 10, 12]


def test_a_resumed_run_needs_the_labels_it_began_with(source, tmp_path):
    """The same arguments as before, without text of settings."""
    run(source, tmp_path, epochs=1)
    assert run(source, tmp_path, epochs=1, resume=True) == json.loads(
        (tmp_path / "results.json").read_text()
    )
    turned = source._replace(
        train=source.train._replace(labels=-source.train.labels)
    )
    with pytest.raises(ValueError, match="since then: training labels;"):
        run(turned, tmp_path, epochs=1, resume=True)
    with pytest.raises(ValueError, match="--learning_rate=0.05, --learning_r"):
        run(source, tmp_path, epochs=1, resume=True, learning_rate=0.06)
    digests = json.loads((tmp_path / "results.json").read_text())["digests"]
    assert digests == source.digests()


def test_digests_tell_what_changed(source):
    def differing(data):
        before, now = source.digests(), data.digests()
        return {name for name in before if before[name] != now[name]}

    test = source.test
    fewer = hide_labels(source.train.labels, 0.5, 0, "per_label")
    train = source.train._replace(labels=fewer)
    assert differing(source._replace(train=train)) == {"training labels"}
    assert differing(source._replace(test=test._replace(labels=-test.labels)))
    assert differing(source._replace(test=test._replace(digest="x"))) == {
        "pictures"
    }
    assert differing(
        source._replace(test=test._replace(image_ids=test.image_ids[::-1]))
    ) == {"splits"}


@pytest.mark.usefixtures("without_export")
def test_init_from_a_run_that_saw_more_labels(source, tmp_path):
    run(source, tmp_path / "all", epochs=0, tuning=False)
    options = {"init_from": str(tmp_path / "all"), "epochs": 1}
    with pytest.raises(ValueError, match="all was trained on .* labels that"):
        run(source, tmp_path / "some", observed_fraction=0.3, **options)
    assert not (tmp_path / "some").exists()
    run(source, tmp_path / "other", observed_fraction=1.0, **options)
    with pytest.raises(ValueError, match="all is the workdir itself"):
        run(source, tmp_path / "all", **options)


@pytest.mark.usefixtures("without_export")
def test_a_network_is_trained_from_the_solved_head(source, tmp_path):
    """Also by a run that begins where such a run began."""
    network = tiny_cnn()
    network.pretrained = True

    def run(workdir, **options):
        return imcl_tf.run(
            source, network, "logistic", workdir, **FAST | usual | options
        )

    usual = {
        "initial_head": "solved", "unit_norm": True, "tuning": False,
        "epochs": 0,
    }  # fmt: skip
    fixed = run(tmp_path / "fixed")
    usual["regime"] = "end_to_end"
    first = run(tmp_path / "first")
    init_from = str(tmp_path / "first")
    second = run(tmp_path / "second", init_from=init_from)
    for results in (first, second):
        assert results["penalty"] == fixed["penalty"] > 0
        assert results["validation_mAP"] == pytest.approx(
            fixed["validation_mAP"]
        )
        initial = results["initial_logistic"]["mAP"]
        assert initial == results["mAP"] == pytest.approx(fixed["mAP"])
    assert (tmp_path / "first/initial/penalties.csv").is_file()
    usual["initial_head"] = "trained"
    assert run(tmp_path / "trained", tuning=True)["penalty"] == 0


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(ValueError, match="load_dataset, got 'folder'"):
        run("folder", tmp_path)


def test_what_is_no_network_and_no_method(source, tmp_path):
    cnn = tiny_cnn()
    for network in ("small_cnn", None):
        with pytest.raises(ValueError, match=f"backbone.*got {network!r}"):
            imcl_tf.run(source, network, "logistic", tmp_path / "never")
    for method in (None, keras.Model, MultiLabelModel(cnn, 2)):
        with pytest.raises(ValueError, match="a method's name or its class"):
            imcl_tf.run(source, cnn, method, tmp_path / "never")
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        run(source, tmp_path / "never", seed=-1)
    with pytest.raises(ValueError, match="seed must be <= 4.29497e[+]09, got"):
        run(source, tmp_path / "never", seed=2**32)
    assert not (tmp_path / "never").exists()


def test_interrupted_program_says_how_to_continue(folder, tmp_path):
    """As with Ctrl-C amid training."""
    program = programs.Program(
        "imcl_tf.main", "--dataset=folder", f"--data_dir={folder.path}",
        f"--workdir={tmp_path / 'run'}", "--image_size=32", "--epochs=1000",
        "--initial_epochs=0", "--method=logistic", "--regime=end_to_end",
    )  # fmt: skip
    latest = tmp_path / "run" / "checkpoints" / "latest.keras"
    while not latest.exists() and program.is_running():
        time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    done = program.finish()
    assert done.returncode == 130, done.stderr
    lines = [
        x
        for x in done.stderr.splitlines()
        if x.startswith("imcl_tf:") and "WARNING" not in x
    ]
    assert lines == [
        "imcl_tf: interrupted; the same command with --resume continues the run"
    ]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob(".unfinished*"))
    keras.saving.load_model(latest)  # it is whole


class Poisoned(MultiLabelModel):
    """Logistic regression whose loss is NaN wherever image 5 is seen."""

    def loss_terms(self, features, batch):
        terms = super().loss_terms(features, batch)
        poison = tf.where(tf.reduce_any(batch.image_index == 5), np.nan, 0.0)
        return terms | {"loss": terms["loss"] + poison}


def test_a_loss_that_is_not_finite_stops_the_run(source, tmp_path):
    with pytest.raises(FloatingPointError) as caught:
        run(source, tmp_path, Poisoned, epochs=1, checkpoint_every=1)
    message = str(caught.value)
    step, saved = map(int, re.findall(r"of step (\d)", message))
    assert saved == step - 1
    assert source.train.image_ids[5].decode() in message.split("images: ")[1]
    assert str(tmp_path / "checkpoints" / "latest.keras") in message
    model = keras.saving.load_model(
        tmp_path / "checkpoints" / "latest.keras", {"Poisoned": Poisoned}
    )
    assert int(model.optimizer.iterations.numpy()) == saved


def test_minibatches_left_out_are_counted_and_named(
    source, tmp_path, monkeypatch
):
    """Also those before a run was resumed."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = {"epochs": 3, "checkpoint_every": 1, "on_nan": "skip"}
    with monkeypatch.context() as context:
        keep_checkpoint(context, whole, parts, step=7)
        results = run(source, whole, Poisoned, **arguments)
    assert results["skipped_minibatches"] == 3
    assert run(source, parts, Poisoned, resume=True, **arguments) == results
    table = (whole / "skipped_minibatches.csv").read_text()
    assert (parts / "skipped_minibatches.csv").read_text() == table
    rows = [*csv.DictReader(table.splitlines())]
    poison = source.train.image_ids[5].decode()
    steps = [int(row["step"]) for row in rows if row["image"] == poison]
    assert [(step - 1) // STEPS for step in steps] == [0, 1, 2]
    for step in steps:
        images = [row["image"] for row in rows if int(row["step"]) == step]
        assert len({*images}) == len(images) == (7 if step % STEPS else 2)
