"""The SavedModel, opened by a process that has TensorFlow alone."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf.backbones.make import backbone
from imcl_tf.backbones.pictures import PictureInput, Resizing
from imcl_tf.data.pixels import decode_and_resize
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.dictionary import Dictionary
from imcl_tf.ops.labels import LabelTable
from imcl_tf.settings import DEFAULT_METHOD
from imcl_tf.training.export import export

S = 32
NAMES = ("sea", "NA", "a, b", "über Wasser", "001")
# Keras and this project cannot even be imported there.
PROGRAM = """
import json, sys
sys.modules["imcl_tf"] = sys.modules["keras"] = None
import tensorflow as tf

def ask(path, images):
    model = tf.saved_model.load(path)
    serve = model.signatures["serving_default"]
    answers = [serve(images=tf.constant(images))]
    answers += [serve(images=tf.constant([image])) for image in images]
    signature = serve.structured_input_signature[1]
    return {
        "signatures": list(model.signatures),
        "inputs": {k: str(v) for k, v in signature.items()},
        "outputs": {k: v.dtype.name for k, v in answers[0].items()},
        "probabilities": [a["probabilities"].numpy().tolist()
                          for a in answers],
        "labels": [n.decode() for n in answers[0]["labels"].numpy()],
    }

models = sys.argv[1].split(",")
images = [open(path, "rb").read() for path in sys.argv[2:]]
answers = [ask(path, images) for path in models]
assert not [m for m in sys.modules if m.startswith("imcl_tf.")]
print(json.dumps(answers))
"""


def first_layer(model):
    (layer,) = (
        layer
        for layer in model.backbone.layers
        if isinstance(layer, PictureInput)
    )
    return layer


def make_model(method):
    keras.utils.set_random_seed(0)
    cnn = backbone("small_cnn", image_size=S)
    if method == "logistic":
        model = MultiLabelModel(cnn, len(NAMES), fixed_features=True)
    else:
        rng = np.random.default_rng(0)
        labels = rng.choice([-1, 0, 1], (20, len(NAMES))).astype(np.int8)
        graph = imcl_tf.LabelGraph.from_cooccurrence(labels, 2)
        model = imcl_tf.IMCL(cnn, len(NAMES), label_graph=graph)
        table = LabelTable(scipy.sparse.csr_array(labels))
        images = rng.integers(0, 256, (20, S, S, 3)).astype(np.uint8)
        model.dictionary = Dictionary(np.arange(20), table, 256, images)
    model.build((None, S, S, 3))
    model.classifier.set_weights(
        [w + 0.3 for w in model.classifier.get_weights()]
    )
    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files -> pixels at the size of the model; JPEG, PNG, grey PNG."""
    directory = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (S, S, 3)).astype(np.uint8)
    grey = rng.integers(0, 256, (S, S, 1)).astype(np.uint8)
    smooth = np.full((20, 50, 3), (10, 200, 90), np.uint8)
    jpeg = tf.io.encode_jpeg(smooth, quality=100)
    content = {
        "a.png": (tf.io.encode_png(colour), colour),
        "b.jpg": (
            jpeg,
            np.broadcast_to(tf.io.decode_jpeg(jpeg)[0, 0], colour.shape),
        ),
        "c": (tf.io.encode_png(grey), np.repeat(grey, 3, 2)),
    }
    result = {}
    for name, (encoded, pixels) in content.items():
        path = directory / name
        path.write_bytes(encoded.numpy())
        result[path] = pixels
    return result


def test_opens_with_tensorflow_alone(images, tmp_path):
    models = {m: make_model(m) for m in ("logistic", DEFAULT_METHOD)}
    for method, model in models.items():
        export(model, tmp_path / method, NAMES)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(models)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(models), *images],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for model, answer in zip(models.values(), answers, strict=True):
        assert "serving_default" in answer["signatures"]
        assert answer["inputs"] == {
            "images": str(tf.TensorSpec([None], tf.string, "images"))
        }
        assert answer["outputs"] == {
            "probabilities": "float32",
            "labels": "string",
        }
        assert tuple(answer["labels"]) == NAMES

        logits = model(np.stack([*images.values()])).numpy().astype(float)
        expected = 1 / (1 + np.exp(-logits))
        # Pictures differ, and so do answers.
        assert np.ptp(expected, 0).min() > 1e-3
        together, *alone = answer["probabilities"]
        np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            np.concatenate(alone), expected, rtol=1e-4, atol=1e-6
        )


@pytest.fixture(scope="module")
def model():
    return make_model("logistic")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Where `model` lies, its variables before, and how many are trainable.

    There was an older export.
    """
    path = tmp_path_factory.mktemp("exported") / "saved_model"
    (path / "assets").mkdir(parents=True)
    (path / "assets" / "stale").write_text("old")
    (path / "saved_model.pb").write_text("old")
    before = [v.numpy() for v in model.variables]
    trainable = len(model.trainable_variables)
    export(model, path, NAMES)
    return path, before, trainable


class TestExport:
    def test_replaces_an_older_one(self, exported):
        path, *_ = exported
        assert [p.name for p in path.parent.iterdir()] == ["saved_model"]
        assert not (path / "assets" / "stale").exists()
        assert (path / "saved_model.pb").read_bytes() != b"old"

    def test_full_disk_leaves_the_older_one(self, model, tmp_path, small_disk):
        path = tmp_path / "saved_model"
        path.mkdir()
        (path / "saved_model.pb").write_text("old")
        with (
            small_disk(1_000_000),
            pytest.raises((OSError, tf.errors.OpError)),
        ):
            export(model, path, NAMES)
        assert [p.name for p in tmp_path.iterdir()] == ["saved_model"]
        assert (path / "saved_model.pb").read_text() == "old"

    def test_holds_what_predicts_once_and_nothing_else(self, tmp_path):
        """Neither optimizers nor the dictionary."""
        model = make_model(DEFAULT_METHOD)
        model.compile("adam")
        model.build_optimizers()
        export(model, tmp_path / "saved_model", NAMES)
        stored = tf.train.load_checkpoint(
            str(tmp_path / "saved_model" / "variables" / "variables")
        ).get_variable_to_shape_map()
        del stored["_CHECKPOINTABLE_OBJECT_GRAPH"]
        predicting = [*model.backbone.weights, *model.classifier.weights]
        assert sorted(stored.values()) == sorted(
            list(weight.shape) for weight in predicting
        )

    def test_model_goes_on_training(self, model, exported):
        """Exporting changes neither weights nor what may be trained."""
        _, before, trainable = exported
        for old, new in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(old, new.numpy())
        assert len(model.trainable_variables) == trainable

    def test_resizes_as_evaluation_does(self, model, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (40, 70, 3)).astype(np.uint8)
        pixels[:, :20] = 0  # cut off
        encoded = tf.io.encode_png(pixels)
        path, resizing = tmp_path / "saved_model", Resizing(256, tf1=True)
        monkeypatch.setattr(first_layer(model), "resizing", resizing)
        export(model, path, NAMES)
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        answer = serve(images=encoded[tf.newaxis])["probabilities"]
        expected, squashed = (
            tf.sigmoid(model(decode_and_resize(encoded, S, r)[tf.newaxis]))
            for r in (resizing, Resizing())
        )
        np.testing.assert_allclose(answer, expected, rtol=1e-4)
        assert np.abs(answer - squashed).max() > 1e-3

    def test_what_is_no_image_is_refused(self, exported, images):
        path, *_ = exported
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        good = next(iter(images)).read_bytes()
        # Its first bytes would be the size of a huge GIF.
        with pytest.raises(tf.errors.InvalidArgumentError, match="not a JPEG"):
            serve(images=tf.constant([good, b"<html><body>404"]))


def test_nothing_else_is_replaced(model, tmp_path):
    """A folder of pictures, say; an empty one is."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.jpg").write_bytes(b"a")
    for place in (pictures, pictures / "a.jpg"):
        with pytest.raises(FileExistsError, match="is no exported model"):
            export(model, place, NAMES)
    assert (pictures / "a.jpg").read_bytes() == b"a"
    place = tmp_path / "empty"
    place.mkdir()
    export(model, place, NAMES)
    assert (place / "saved_model.pb").is_file()
