"""What every method does by the same code: train, save, export, resume."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.methods.base import METHODS
from imcl_tf.ops.labels import hide_labels
from imcl_tf.training.checkpoints import BestCheckpoint
from tests.methods.common import tiny_cnn

SHOWN = {"observed_fraction": 0.5, "observed_rule": "per_image", "seed": 3}
COMMON = {
    **SHOWN, "regime": "fixed_features", "batch_size": 5,
    "dictionary_refresh": 5, "settings": "--some=settings\n",
    "initial_epochs": 0, "learning_rate": 0.05, "graph_learning_rate": 0.5,
    "checkpoint_every": 3,
    # Traced in half the time.
    "num_neighbors": 2, "cnn_rnn_units": 16, "cnn_rnn_length": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def source(prepared):
    return open_source(prepared)


@pytest.fixture(scope="module")
def other(source):
    """The same data set, the sign of every hidden training label turned."""
    full = source.train.labels
    shown = hide_labels(full, 0.5, SHOWN["seed"], "per_image")
    turned = scipy.sparse.csr_array(2 * shown - full)
    assert (turned != full).nnz > 20
    return source._replace(train=source.train._replace(labels=turned))


@pytest.fixture(scope="module")
def initial(source, tmp_path_factory):
    """Workdir of a logistic model that did not train."""
    workdir = tmp_path_factory.mktemp("initial")
    run(source, workdir, method="logistic", epochs=0)
    return workdir


def run(source, workdir, method, **arguments):
    keras.utils.set_random_seed(3)
    return imcl_tf.run(
        source, tiny_cnn(), method, workdir, **COMMON | arguments
    )


def keep_checkpoint(monkeypatch, workdir, copy, step):
    """Copies `workdir` as the next run leaves it with its checkpoint of `step`.

    Of the initial model's, where that trains so many steps.
    """
    save = BestCheckpoint._save

    def kept(self, is_best):
        save(self, is_best)
        if self.step == step and not copy.exists():
            shutil.copytree(workdir, copy)

    monkeypatch.setattr(BestCheckpoint, "_save", kept)


# These have a state and hooks unlike the others'.
SPECIAL = "entropy_maximisation", "imcl"


@pytest.mark.parametrize(
    "method",
    [
        name if name in SPECIAL else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(METHODS)
    ],
)
def test_method(method, source, other, initial, tmp_path, monkeypatch):
    """Hidden labels do not leak, a resumed run is the run, what is saved is
    what is exported."""
    arguments = {
        "method": method, "init_from": str(initial), "epochs": 2,
    }  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with monkeypatch.context() as context:
        keep_checkpoint(context, whole, parts, step=6)  # amid the second epoch
        results = run(source, whole, **arguments)
    assert 0 < results["mAP"] <= 100
    resumed = run(other, parts, resume=True, tuning=True, **arguments)
    assert resumed.items() < results.items()  # all but those of test
    table = (whole / "metrics.csv").read_text()
    assert (parts / "metrics.csv").read_text() == table
    # It did train: another loss on validation in the end.
    losses = [
        row["loss"]
        for row in csv.DictReader(table.splitlines())
        if row["split"] == "validation"
    ]
    assert len(losses) == 3 and losses[0] != losses[2]

    model = keras.saving.load_model(whole / "checkpoints/best.keras")
    exported = tf.saved_model.load(str(whole / "saved_model"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3))
    pixels = tf.constant(pixels, tf.uint8)
    outputs = exported.signatures["serving_default"](
        images=tf.map_fn(tf.io.encode_png, pixels, tf.string)
    )
    scores = model(pixels)
    np.testing.assert_allclose(
        outputs["probabilities"], tf.sigmoid(scores), atol=1e-5
    )


@pytest.mark.slow
def test_resumed_in_the_initial_stage(source, tmp_path, monkeypatch):
    """End to end, with crops, in the middle of an epoch of 5 minibatches."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = {
        "method": "logistic", "regime": "end_to_end", "tuning": True,
        "epochs": 1, "evaluate_every": 3, "initial_epochs": 1,
        "initial_learning_rate": 0.01, "initial_epsilon": 1.0,
    }  # fmt: skip
    with monkeypatch.context() as context:
        keep_checkpoint(context, whole, parts, step=3)
        results = run(source, whole, **arguments)
    assert run(source, parts, resume=True, **arguments) == results
    for name in ("initial/metrics.csv", "metrics.csv"):
        assert (parts / name).read_text() == (whole / name).read_text()
    rows = (whole / "initial/metrics.csv").read_text().splitlines()
    steps = [line.split(",")[0] for line in rows if "validation" in line]
    assert steps == ["0", "3", "6"]


def test_resume_of_other_settings_is_refused(source, initial, tmp_path):
    arguments = {
        "method": "logistic", "init_from": str(initial), "tuning": True,
    }  # fmt: skip
    run(source, tmp_path, epochs=0, **arguments)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError, match="other settings: --more, --some"):
        run(
            source, tmp_path, epochs=1, resume=True,
            **arguments | {"settings": "--more\n"},
        )  # fmt: skip
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    "method",
    ["assume_negative", pytest.param("logistic", marks=pytest.mark.slow)],
)
def test_boosted_methods_train_end_to_end(method, source, initial, tmp_path):
    results = run(
        source, tmp_path, method=method, boost=True, regime="end_to_end",
        init_from=str(initial), epochs=1,
    )  # fmt: skip
    # Of the model it started from, though w has changed since.
    before = json.loads((initial / "results.json").read_text())
    assert results["initial_logistic"]["mAP"] == pytest.approx(before["mAP"])
    assert before["mAP"] != results["mAP"]
    model = keras.saving.load_model(tmp_path / "checkpoints/best.keras")
    pixels = tf.random.stateless_uniform((2, 8, 8, 3), [1, 2], 0, 255.0)
    features = model.features_of(pixels, training=False)
    assert features.shape.rank == 4
    logits = features @ model.classifier.kernel + model.classifier.bias
    boosted = np.where(logits > 0, 5 * logits.numpy(), logits.numpy())
    np.testing.assert_allclose(
        model(pixels), boosted.mean((1, 2)), rtol=1e-4, atol=1e-5
    )


def test_a_map_of_unit_norm_scores_as_its_mean():
    model = imcl_tf.MultiLabelModel(None, 3, unit_norm=True)
    model.build((None, 2, 3, 5))
    maps = np.random.default_rng(0).normal(size=(4, 2, 3, 5)).astype("f4")
    mean = maps.mean((1, 2))
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    kernel, bias = model.classifier.get_weights()
    np.testing.assert_allclose(
        model.scores(model.represent(tf.constant(maps))), unit @ kernel + bias,
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regime": "fixed_features"}, "fixed features have no positions"),
        ({"method": "cnn_rnn"}, "boost_factor"),
        ({"method": "imcl"}, "boost_factor"),
    ],
)
def test_what_cannot_be_boosted(arguments, message, source, tmp_path):
    arguments = {"method": "logistic", "regime": "end_to_end"} | arguments
    with pytest.raises(ValueError, match=message):
        run(
            source, tmp_path / "never", boost=True, epochs=1, **arguments,
        )  # fmt: skip
    assert not (tmp_path / "never").exists()
