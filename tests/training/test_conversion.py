"""Exports that take pixels: a plain SavedModel, ONNX and LiteRT."""

import json
import sys

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from google.protobuf import text_format  # which TensorFlow requires

import imcl_tf
from imcl_tf.methods.base import METHODS
from imcl_tf.training.conversion import check_convertible, converted
from tests.methods.common import C, D, build, problem, tiny_cnn

CONVERTED = ("onnx", "litert")
FORMATS = ("pixels", *CONVERTED)
# Of every tensor of a graph, in the text of its nodes.
STRINGS = "type: DT_STRING"


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(float)))


def of_pixels(backbone):
    keras.utils.set_random_seed(0)
    model = imcl_tf.MultiLabelModel(backbone, C)
    model.build(backbone.input_shape)
    model.classifier.set_weights(
        [w + 0.3 for w in model.classifier.get_weights()]
    )
    return model


def random_pixels(number, size=8):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (number, size, size, 3)).astype(np.uint8)


def answers(path, format, inputs):
    """Names of inputs and outputs, and the probabilities of each of `inputs`.

    By the runtime of the format alone.
    """
    if format == "pixels":
        loaded = tf.saved_model.load(str(path))
        (serve,) = loaded.signatures.values()
        (name,) = serve.structured_input_signature[1]
        outputs = [serve(**{name: tf.constant(x)}) for x in inputs]
        names = name, *outputs[0]
        return names, [x["probabilities"].numpy() for x in outputs]
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path))
        names = [x.name for x in session.get_inputs() + session.get_outputs()]
        return (*names,), [session.run(None, {names[0]: x})[0] for x in inputs]
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    run = litert.Interpreter(str(path)).get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    names = name, *run.get_output_details()
    return names, [run(**{name: x})["probabilities"] for x in inputs]


@pytest.fixture(scope="module")
def network():
    return of_pixels(tiny_cnn())


def file_of(directory, format):
    name = {"pixels": "plain", "onnx": "m.onnx", "litert": "m.tflite"}[format]
    return directory / "below" / name


class TestAnswers:
    @pytest.mark.parametrize("format", FORMATS)
    def test_of_pixels(self, network, format, tmp_path):
        path = file_of(tmp_path, format)
        imcl_tf.export_as(network, path, format)
        inputs = [random_pixels(1), random_pixels(5)]
        names, found = answers(path, format, inputs)
        assert names == ("pixels", "probabilities")
        kernel, bias = network.classifier.get_weights()
        for x, y in zip(inputs, found, strict=True):
            assert y.dtype == np.float32 and y.shape == (len(x), C)
            logits = network.backbone(x).numpy() @ kernel + bias
            np.testing.assert_allclose(y, sigmoid(logits), atol=1e-5)
        assert np.ptp(found[1], axis=0).min() > 1e-4  # pictures differ
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("format", FORMATS)
    def test_of_features_by_neighbors(self, format, tmp_path):
        """With observed labels, through IMCL's label graph."""
        features, labels = problem(1)
        graph = imcl_tf.LabelGraph.from_cooccurrence(labels, 3)
        model = build(imcl_tf.IMCL, label_graph=graph, unit_norm=True)
        mixing = imcl_tf.Mixing(0.6, 4, observed=True)
        stored = features / np.linalg.norm(features, axis=1, keepdims=True)
        neighbors = imcl_tf.TrainingNeighbors(
            stored, scipy.sparse.csr_array(labels), mixing
        )
        model.training_neighbors = neighbors
        path = file_of(tmp_path, format)
        imcl_tf.export_as(model, path, format)
        assert model.training_neighbors is neighbors
        inputs = [problem(2)[0][:1], problem(3)[0]]
        names, found = answers(path, format, inputs)
        assert names == ("features", "probabilities")
        kernel, bias = model.classifier.get_weights()
        for x, y in zip(inputs, found, strict=True):
            unit = x / np.linalg.norm(x, axis=1, keepdims=True)
            cosines = unit @ stored.T.astype(float)
            nearest = np.argsort(-cosines, 1, kind="stable")[:, :4]
            weights = np.exp(np.take_along_axis(cosines, nearest, 1) / 0.05)
            weights /= weights.sum(1, keepdims=True)
            theirs = sigmoid(stored @ kernel + bias)
            theirs = np.where(labels == 0, theirs, labels > 0)
            related = (2 * theirs - 1) @ graph.to_scipy().toarray().T
            theirs = np.clip((1 + related) / 2, 0, 1)[nearest]
            shown = np.einsum("bk,bkc->bc", weights, theirs)
            own = sigmoid(unit @ kernel + bias)
            # Stored in half precision: three digits.
            np.testing.assert_allclose(y, 0.4 * own + 0.6 * shown, atol=2e-3)
            # But the same in every format.
            same = sigmoid(model(x).numpy())
            np.testing.assert_allclose(y, same, atol=2e-5)

    @pytest.mark.parametrize("format", CONVERTED)
    @pytest.mark.parametrize(
        "method", [n if n == "fast0tag"
                   else pytest.param(n, marks=pytest.mark.slow)
                   for n in METHODS],
    )  # fmt: skip
    def test_of_each_method(self, method, format):
        """`converted` compares them itself."""
        model = build(imcl_tf.method(method))
        content = converted(model, format)
        assert len(content) > 4 * D  # at least its weights

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["small_cnn", "keras:MobileNetV2"])
    @pytest.mark.parametrize("format", FORMATS)
    def test_of_a_network(self, name, format, tmp_path):
        model = of_pixels(imcl_tf.backbone(name))
        size = imcl_tf.picture_format(model.backbone).image_size
        inputs = [random_pixels(1, size), random_pixels(5, size)]
        kernel, bias = model.classifier.get_weights()
        # Those of random weights may all be near 0.
        logits = model.backbone(inputs[1]).numpy() @ kernel
        size_of = np.sqrt(np.mean(np.square(logits)))
        model.classifier.set_weights([kernel / size_of, bias])
        path = file_of(tmp_path, format)
        imcl_tf.export_as(model, path, format)
        _, found = answers(path, format, inputs)
        assert np.abs(found[1] - 0.5).mean() > 0.1
        for x, y in zip(inputs, found, strict=True):
            np.testing.assert_allclose(y, sigmoid(model(x).numpy()), atol=1e-5)


def test_pixels_need_no_strings(network, tmp_path):
    """Neither within the graph nor as labels; each output has a row each."""
    imcl_tf.export_as(network, tmp_path / "plain", "pixels")
    imcl_tf.export(network, tmp_path / "usual", [*map(str, range(C))])
    found = {}
    for name in ("plain", "usual"):
        loaded = tf.saved_model.load(str(tmp_path / name))
        serve = loaded.signatures["serving_default"]
        graph = serve.graph.as_graph_def()
        found[name] = STRINGS in text_format.MessageToString(graph)
        if name == "plain":
            shapes = {k: x.as_list() for k, x in serve.output_shapes.items()}
            assert shapes == {"probabilities": [None, C]}
            with pytest.raises(
                tf.errors.InvalidArgumentError, match="not compatible with"
            ):
                serve(pixels=tf.constant(random_pixels(2, size=9)))
    assert found == {"plain": False, "usual": True}


class Strange(imcl_tf.MultiLabelModel):
    """Its scores come by an operation that other runtimes lack."""

    def scores(self, features):
        logits = super().scores(features)
        edges = tf.zeros([tf.shape(features)[0], 1])
        places = tf.searchsorted(edges, logits[:, :1], side="right")
        return logits + tf.cast(places, tf.float32)


class Random(imcl_tf.MultiLabelModel):
    """Its scores are others each time."""

    def scores(self, features):
        logits = super().scores(features)
        return logits + tf.random.uniform(tf.shape(logits))


class TestRefused:
    @pytest.mark.parametrize("format", CONVERTED)
    def test_an_operation(self, format, tmp_path):
        path = tmp_path / "old"
        path.write_bytes(b"old")
        words = f"export: {format} .* has no operation .*UpperBound"
        with pytest.raises(ValueError, match=words) as caught:
            imcl_tf.export_as(build(Strange), path, format)
        assert "\n" not in str(caught.value)
        assert [p.name for p in tmp_path.iterdir()] == ["old"]
        assert path.read_bytes() == b"old"

    def test_other_answers(self):
        with pytest.raises(ValueError, match="onnx gives probabilities that d"):
            check_convertible(build(Random), ["pixels", "onnx"])

    def test_half_precision(self, tmp_path):
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        try:
            model = of_pixels(tiny_cnn())
        finally:
            keras.mixed_precision.set_global_policy("float32")
        with pytest.raises(ValueError, match="litert knows no bfloat16"):
            imcl_tf.export_as(model, tmp_path / "a", "litert")
        imcl_tf.export_as(model, tmp_path / "a", "pixels")
        _, (found,) = answers(tmp_path / "a", "pixels", [random_pixels(3)])
        expected = sigmoid(model(random_pixels(3)).numpy())
        np.testing.assert_allclose(found, expected, atol=1e-2)

    def test_formats_and_places(self, network, tmp_path):
        export_as = imcl_tf.export_as
        with pytest.raises(ValueError, match=r"one of pixels, onnx, litert, g"):
            export_as(network, tmp_path / "a", "onxx")
        with pytest.raises(ValueError, match="must be built before"):
            export_as(
                imcl_tf.MultiLabelModel(None, 2), tmp_path / "a", "pixels"
            )
        with pytest.raises(IsADirectoryError, match="a file expected"):
            export_as(network, tmp_path, "onnx")
        (tmp_path / "mine").write_text("mine")
        with pytest.raises(FileExistsError, match="is no exported model"):
            export_as(network, tmp_path / "mine", "pixels")
        assert [p.name for p in tmp_path.iterdir()] == ["mine"]


LABELS = ("sea", "sky")
FEW = {
    "epochs": 1, "batch_size": 4, "neighbors": "given", "neighbor_number": 3
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("features")
    features = np.random.default_rng(0).normal(size=(24, 4))
    pairs = [
        f"{i},{name},{1 if x > 0 else -1}\n"
        for i, row in enumerate(features)
        for name, x in zip(LABELS, row[:2], strict=True)
    ]
    (path / "labels.csv").write_text("image,label,value\n" + "".join(pairs))
    splits = ("train", "train", "validation", "test")
    rows = [f"{i},{splits[i % 4]}\n" for i in range(24)]
    (path / "splits.csv").write_text("image,split\n" + "".join(rows))
    ids = [str(i) for i in range(24)]
    np.savez(path / "f.npz", ids=ids, features=features.astype(np.float32))
    return imcl_tf.load_dataset("folder", path, features=path / "f.npz")


class TestRuns:
    def test_a_finished_one_writes_what_it_lacks(self, data, tmp_path):
        """It is not trained again; more epochs set the exports aside."""

        def run(export, **more):
            return imcl_tf.run(
                data, None, "logistic", tmp_path, resume=True, export=export,
                **FEW | more,
            )  # fmt: skip

        def kept():
            return {p.name for p in tmp_path.iterdir()}

        first = run("pixels")
        assert "saved_model_pixels" in kept()
        written = (tmp_path / "checkpoints/logistic.keras").read_bytes()
        second = run("litert,onnx")
        assert second == first
        again = (tmp_path / "checkpoints/logistic.keras").read_bytes()
        assert again == written
        assert json.loads((tmp_path / "results.json").read_text()) == first
        names = {"saved_model_pixels", "model.onnx", "model.tflite"}
        assert names <= kept() and "earlier" not in kept()
        features = np.random.default_rng(1).normal(size=(5, 4))
        features = features.astype(np.float32)
        expected, _ = imcl_tf.predict_features(
            tmp_path / "saved_model", features
        )
        for name, format in zip(
            ("saved_model_pixels", "model.onnx", "model.tflite"),
            FORMATS, strict=True,
        ):  # fmt: skip
            _, (found,) = answers(tmp_path / name, format, [features])
            np.testing.assert_allclose(found, expected, atol=2e-5)
        when = {n: (tmp_path / n).stat().st_mtime_ns for n in names}
        assert run("pixels,onnx,litert") == run("") == first  # has them
        assert when == {n: (tmp_path / n).stat().st_mtime_ns for n in names}
        assert run("onnx", epochs=2)["mAP"] >= 0
        assert names & kept() == {"model.onnx"}

    def test_known_to_fail_before_it_begins(self, data, tmp_path, monkeypatch):
        def refused(error, words, method="logistic", **options):
            with pytest.raises(error, match=words):
                imcl_tf.run(data, None, method, tmp_path / "never", **options)
            assert not (tmp_path / "never").exists()

        refused(ValueError, "export must be any of pixels, ", export="onxx")
        refused(
            ValueError, "has no operation UpperBound", Strange, export="onnx"
        )
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        words = r"export: onnx needs onnxruntime: pip install 'imcl_tf\[onnx\]'"
        refused(ImportError, words, export="pixels,onnx")
