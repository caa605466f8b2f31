"""Runs, exports and predictions on features without pictures."""

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.training.export import export
from tests import programs
from tests.methods.common import tiny_cnn

LABELS = ("sea", "a, b")
IDS = [f"{i}" for i in range(24)]
SPLITS = ("train", "train", "validation", "test")
DIMENSIONS = 4
FEW = {
    "epochs": 1, "initial_epochs": 1, "batch_size": 4, "num_neighbors": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(len(IDS), DIMENSIONS)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    """A folder of tables, and f.npz beside them."""
    path = tmp_path_factory.mktemp("features")
    with (path / "labels.csv").open("w") as file:
        file.write("image,sea,sky\n")
        for name, row in zip(IDS, rows, strict=True):
            file.write(f"{name},{1 if row[0] > 0 else -1},"
                       f"{1 if row[1] > 0 else -1}\n")  # fmt: skip
    with (path / "splits.csv").open("w") as file:
        file.write("image,split\n")
        file.writelines(f"{i},{SPLITS[int(i) % 4]}\n" for i in IDS)
    np.savez(path / "f.npz", ids=IDS, features=rows)
    return path


@pytest.fixture(scope="module")
def data(folder):
    return imcl_tf.load_dataset("folder", folder, features=folder / "f.npz")


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(float)))


@pytest.mark.parametrize("method", ["logistic", "imcl"])
def test_a_run(data, rows, method, tmp_path):
    """Its export says of features what the run was evaluated on."""
    results = imcl_tf.run(data, None, method, tmp_path, **FEW)
    assert results["regime"] == "fixed_features"
    assert json.loads((tmp_path / "results.json").read_text()) == results
    again = imcl_tf.run(data, None, method, tmp_path, resume=True, **FEW)
    assert again == results
    found, labels = imcl_tf.predict_features(tmp_path / "saved_model", rows)
    assert labels == ["sea", "sky"]
    assert found.shape == (24, 2) and np.ptp(found, axis=0).min() > 0.01
    # The rows of the test split are among those of the file.
    where = [int(i) for i in data.test.image_ids]
    precision = imcl_tf.AveragePrecision(2)
    precision.update(data.test.labels.toarray(), found[where])
    assert results["mAP"] == pytest.approx(100 * precision.mean())


def test_fit_without_a_run(data):
    for fixed in (True, False):  # without a backbone they are the same
        model = imcl_tf.IMCL(None, 2, fixed_features=fixed, num_neighbors=2)
        model.compile("rmsprop")
        model.fit(
            data.train.batches(4), validation_data=data.validation, verbose=0
        )
        assert model.dictionary is not None
        assert 0 <= imcl_tf.evaluate(model, data.test).mean() <= 1


class TestRefused:
    def test_a_network_beside_features(self, data, tmp_path):
        network = tiny_cnn()
        with pytest.raises(ValueError, match="the backbone must be None, got"):
            imcl_tf.run(data, network, "logistic", tmp_path / "never")

    def test_a_regime_that_trains_one(self, data, tmp_path):
        with pytest.raises(ValueError, match="regime must be fixed_features"):
            imcl_tf.run(
                data, None, "logistic", tmp_path / "never", regime="end_to_end"
            )
        assert not (tmp_path / "never").exists()

    def test_the_sign_alone_of_numbers(self, folder, tmp_path):
        one = tmp_path / "one.npz"
        np.savez(one, ids=IDS, features=np.arange(1.0, 25)[:, np.newaxis])
        data = imcl_tf.load_dataset("folder", folder, features=one)
        with pytest.raises(ValueError, match="give --nounit_norm"):
            imcl_tf.run(data, None, "logistic", tmp_path / "run")
        assert not (tmp_path / "run").exists()
        results = imcl_tf.run(
            data, None, "logistic", tmp_path / "run", unit_norm=False
        )
        assert results["mAP_support"]["labels"] == 2

    def test_positions_of_none(self, data, tmp_path):
        with pytest.raises(ValueError, match="boost: fixed features have no"):
            imcl_tf.run(data, None, "logistic", tmp_path / "never", boost=True)


@pytest.fixture(scope="module")
def of_features(tmp_path_factory):
    """A model without a network, exported."""
    keras.utils.set_random_seed(0)
    model = imcl_tf.MultiLabelModel(None, 2)
    model.build((None, DIMENSIONS))
    path = tmp_path_factory.mktemp("model") / "saved_model"
    export(model, path, LABELS)
    return model, path


class TestExport:
    def test_serves_features(self, of_features, rows):
        model, path = of_features
        signatures = tf.saved_model.load(str(path)).signatures
        assert {*signatures} == {"serving_default", "features"}
        kernel, bias = model.classifier.get_weights()
        for serve in signatures.values():
            (spec,) = serve.structured_input_signature[1].values()
            assert spec == tf.TensorSpec([None, 4], tf.float32, "features")
            answer = serve(features=tf.constant(rows))
            assert answer["labels"].numpy().tolist() == [
                name.encode() for name in LABELS
            ]
            np.testing.assert_allclose(
                answer["probabilities"],
                sigmoid(rows @ kernel + bias),
                rtol=1e-4,
            )

    def test_a_network_has_a_signature_of_its_features(self, tmp_path):
        keras.utils.set_random_seed(0)
        network = tiny_cnn()
        model = imcl_tf.MultiLabelModel(network, 2)
        model.build((None, 8, 8, 3))
        export(model, tmp_path / "saved_model", LABELS)
        images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3))
        features = network(images.astype(np.float32)).numpy()
        found, _ = imcl_tf.predict_features(tmp_path / "saved_model", features)
        expected = sigmoid(model(images.astype(np.float32)).numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-4)


class TestPredict:
    def test_a_file_in_parts(self, of_features, folder, rows):
        _, path = of_features
        whole, labels = imcl_tf.predict_features(path, rows)
        parts, _ = imcl_tf.predict_features(path, folder / "f.npz", 7)
        assert labels == [*LABELS] and whole.shape == (24, 2)
        np.testing.assert_allclose(whole, parts, rtol=1e-5)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (np.zeros((2, 5)), "rows of 5 features; the model takes 4"),
            (np.zeros(4), r"numbers \[N, d\], neither of them 0, got \[4\]"),
            (np.zeros((0, 4)), r"neither of them 0, got \[0, 4\]"),
            (np.full((2, 4), "x"), "of type <U1"),
            (np.diag([1, 1, np.nan, 1]), "row 2: column 2 is not finite"),
            (np.diag([1, 1e300, 1, 1]), "row 1: column 1 is not finite"),
        ],
    )
    def test_refused(self, of_features, features, message):
        with pytest.raises(ValueError, match=message):
            imcl_tf.predict_features(of_features[1], features)

    def test_neither_pictures(self, of_features, tmp_path):
        with pytest.raises(ValueError, match="model takes features, not image"):
            imcl_tf.predict_images(of_features[1], [tmp_path / "a.jpg"])

    def test_program(self, of_features, rows, tmp_path):
        """What cannot be labelled is named, and the rest is labelled."""
        model, path = of_features
        bad = rows[:3].copy()
        bad[1, 3] = np.inf
        np.savez(tmp_path / "f.npz", ids=["a", "b", "c"], features=bad)
        out = tmp_path / "out.csv"
        done = programs.run(
            "imcl_tf.predict", f"--model={path}", "--top=1", f"--csv={out}",
            f"--features={tmp_path / 'f.npz'}",
        )  # fmt: skip
        assert done.returncode == 1
        lines = [x for x in done.stderr.splitlines() if "imcl_tf:" in x]
        assert lines == [
            f"imcl_tf: error: {tmp_path / 'f.npz'}: b: column 3 is not finite"
        ]
        assert done.stdout.splitlines()[::2] == ["a", "c"]
        with out.open(newline="") as file:
            found = [(x["image"], x["label"], float(x["probability"]))
                     for x in csv.DictReader(file)]  # fmt: skip
        expected = sigmoid(model(rows[:3]).numpy())
        assert [x[:2] for x in found] == [
            (name, label) for name in "ac" for label in LABELS
        ]
        np.testing.assert_allclose(
            [x[2] for x in found], expected[[0, 2]].ravel(), atol=1e-5
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a.jpg", "--features=f.npz"], "place of images, got a.jpg"),
            (["--features=none.npz"], "none.npz: no such file"),
        ],
    )  # fmt: skip
    def test_program_refuses(self, of_features, arguments, message):
        done = programs.run(
            "imcl_tf.predict", f"--model={of_features[1]}", *arguments
        )
        assert done.returncode == 1 and not done.stdout
        assert done.stderr.count("imcl_tf:") == 1 and message in done.stderr
        assert "Traceback" not in done.stderr


def test_training_program_replays_itself(folder, tmp_path):
    """By flags.cfg, which holds nothing that has no effect."""
    first = tmp_path / "first"
    done = programs.run(
        "imcl_tf.main", "--dataset=folder", f"--data_dir={folder}",
        f"--features={folder / 'f.npz'}", f"--workdir={first}",
        "--method=logistic", "--initial_epochs=1", "--epochs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (first / "flags.cfg").read_text()
    assert "--regime=fixed_features\n" in text and "backbone" not in text
    again = programs.run(
        "imcl_tf.main", f"--flagfile={first / 'flags.cfg'}",
        f"--workdir={tmp_path / 'again'}",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    results = [
        json.loads((place / "results.json").read_text())
        for place in (first, tmp_path / "again")
    ]
    assert results[0]["mAP"] == results[1]["mAP"]
