"""Backbones: sizes, preprocessing, weights, and what may go wrong."""

import urllib.error

import keras
import numpy as np
import pytest

import imcl_tf
from imcl_tf.backbones import make
from imcl_tf.backbones.make import backbone
from imcl_tf.backbones.pictures import PictureInput, Resizing, picture_format
from imcl_tf.backbones.preprocessing import (
    ApplicationPreprocessing,
    with_preprocessing,
)
from imcl_tf.backbones.statistics import (
    batch_normalizations,
    freeze_batch_statistics,
    frozen_statistics,
)
from imcl_tf.data import pipeline
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.data.pixels import decode_and_resize
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.settings import DEFAULT_METHOD
from imcl_tf.training import export

S = 64  # as small as leaves ResNet and VGG 2 x 2 positions at the end
APPLICATIONS = {
    "resnet101": (
        keras.applications.ResNet101,
        {"include_top": False, "pooling": "avg"},
        keras.applications.resnet.preprocess_input,
    ),
    "vgg16": (
        keras.applications.VGG16,
        {"include_top": True},
        keras.applications.vgg16.preprocess_input,
    ),
}


def pictures(size=S, count=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3)).astype(np.float32)


def model_part(model, output):
    return keras.Model(model.inputs[0], output)


@pytest.fixture(scope="module")
def resnet():
    return backbone("resnet101", image_size=S)


@pytest.fixture(
    scope="module",
    params=[pytest.param("resnet101", marks=pytest.mark.slow), "vgg16"],
)
def pretrained(request, tmp_path_factory):
    """(name, network of keras.applications, its weights file)."""
    make, options, _ = APPLICATIONS[request.param]
    network = make(weights=None, input_shape=(S, S, 3), **options)
    path = tmp_path_factory.mktemp(request.param) / "network.weights.h5"
    network.save_weights(path)
    yield request.param, network, path
    path.unlink()  # 150 MB


class TestArchitecture:
    def test_small_cnn(self):
        cnn = backbone("small_cnn")
        assert picture_format(cnn) == (64, Resizing()) and not cnn.pretrained
        assert cnn.output_shape == (None, 256)
        # 3x3 convolutions without bias, and four numbers per channel of
        # batch normalisation.
        channels = (3, 32, 64, 128, 256, 256)
        pairs = zip(channels, channels[1:], strict=False)
        expected = sum(9 * a * b + 4 * b for a, b in pairs)
        assert cnn.count_params() == expected == 980_704
        features = cnn(pictures(64))
        assert features.shape == (2, 256) and features.dtype == "float32"
        assert np.ptp(features, 0).max() > 0
        # Four poolings leave 4 x 4 positions, which are averaged.
        last = model_part(cnn, cnn.layers[-1].input)(pictures(64))
        assert last.shape == (2, 4, 4, 256)
        np.testing.assert_allclose(
            features, np.mean(last, (1, 2)), rtol=1e-4, atol=1e-6
        )

    def test_small_cnn_takes_plain_pixels(self):
        """0, 127.5 and 255 reach the first convolution as -1, 0 and 1."""
        model = backbone("small_cnn")
        first = next(
            layer
            for layer in model.layers
            if isinstance(layer, keras.layers.Conv2D)
        )
        pixels = np.zeros((1, 64, 64, 3), np.float32)
        pixels[0, 0, 0] = 127.5, 255, 0
        seen = model_part(model, first.input)(pixels)
        np.testing.assert_allclose(seen[0, 0, 0], [0, 1, -1], atol=1e-6)

    def test_other_image_size(self):
        cnn = backbone("small_cnn", image_size=96)
        assert cnn.input_shape == (None, 96, 96, 3)

    def test_resnet101(self, resnet):
        assert resnet.output_shape == (None, 2048)
        assert not resnet.pretrained
        # The published network: 42 658 176 parameters without classifier.
        assert resnet.count_params() == 42_658_176

    def test_default_sizes_are_those_of_the_papers(self):
        sizes = {n: size for n, (_, size, _) in make.BACKBONES.items()}
        assert sizes.pop("small_cnn") == 64
        assert set(sizes) == {"resnet101", "vgg16", "resnet_v1_101", "vgg_16"}
        assert set(sizes.values()) == {224}

    def test_bytes_are_as_good_as_floats(self):
        model = backbone("small_cnn", image_size=S)
        np.testing.assert_array_equal(
            model(pictures().astype(np.uint8)), model(pictures())
        )


CAFFE = ApplicationPreprocessing("vgg16")


class TestCaffePreprocessing:
    def test_by_hand(self):
        """BGR less (103.939, 116.779, 123.68): red is all in the last."""
        layer = CAFFE
        image = np.array([[[[255, 0, 0], [1, 2, 3]]]], np.float32)
        expected = [[-103.939, -116.779, 131.32], [-100.939, -114.779, -122.68]]
        np.testing.assert_allclose(layer(image)[0, 0], expected, rtol=1e-5)

    def test_bytes_do_not_wrap_around(self):
        layer = CAFFE
        image = np.zeros((1, 1, 1, 3), np.uint8)
        np.testing.assert_allclose(
            layer(image)[0, 0, 0], [-103.939, -116.779, -123.68], rtol=1e-5
        )

    @pytest.mark.parametrize("name", APPLICATIONS)
    def test_as_keras_applications_does(self, name):
        expected = APPLICATIONS[name][2](pictures().copy())
        np.testing.assert_allclose(CAFFE(pictures()), expected, rtol=1e-5)

    def test_shape(self):
        layer = CAFFE
        assert layer.compute_output_shape((None, 5, 4, 3)) == (None, 5, 4, 3)


def test_slim_preprocessing_by_hand():
    """RGB less (123.68, 116.78, 103.94), of bytes as of floats."""
    inputs = keras.Input((1, 1, 3))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    model = make._from_slim(network, "none", PictureInput())
    pixels = np.array([[[[255, 0, 0]]], [[[1, 2, 3]]]], np.uint8)
    expected = [[131.32, -116.78, -103.94], [-122.68, -114.78, -100.94]]
    np.testing.assert_allclose(model(pixels), expected, rtol=1e-5)
    np.testing.assert_allclose(model(pixels / 1.0), expected, rtol=1e-5)


def test_resizing(resnet):
    """The originals cut out the centre; TF-Slim's resize as TF1 does."""
    found = {n: resizing for n, (_, _, resizing) in make.BACKBONES.items()}
    assert found == {
        "small_cnn": Resizing(shorter_side=0, tf1=False),
        "resnet101": Resizing(shorter_side=256, tf1=False),
        "vgg16": Resizing(shorter_side=256, tf1=False),
        "resnet_v1_101": Resizing(shorter_side=256, tf1=True),
        "vgg_16": Resizing(shorter_side=256, tf1=True),
    }
    assert picture_format(resnet) == (S, found["resnet101"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "regime"),
    [(DEFAULT_METHOD, "end_to_end"), ("logistic", "fixed_features")],
)
def test_a_run_resizes_all_its_images_alike(
    method, regime, prepared, tmp_path, monkeypatch
):
    """In training, dictionary, features, evaluation and the SavedModel."""

    def spy_on(module):
        def decode(encoded, *arguments):
            asked.add(arguments)
            return decode_and_resize(encoded, *arguments)

        asked = set()
        monkeypatch.setattr(module, "decode_and_resize", decode)
        return asked

    resizing = Resizing(256, tf1=True)
    spec = make.BACKBONES["small_cnn"]._replace(resizing=resizing)
    monkeypatch.setitem(make.BACKBONES, "small_cnn", spec)
    read, exported = spy_on(pipeline), spy_on(export)
    imcl_tf.run(
        open_source(prepared), backbone("small_cnn", image_size=32),
        method, tmp_path, epochs=0, initial_epochs=1, regime=regime,
        dictionary_size=5, graph_neighbors=2,
    )  # fmt: skip
    assert read == exported == {(32, resizing)}


class TestWeights:
    def test_file_is_loaded(self, pretrained):
        """Features are those of keras.applications on the same weights."""
        name, network, path = pretrained
        cnn = backbone(name, str(path), S)
        assert cnn.pretrained
        assert cnn.output_shape == (
            None, {"resnet101": 2048, "vgg16": 4096}[name]
        )  # fmt: skip
        output = network.output
        if name == "vgg16":  # fc7: what the classifier sees, rectified
            assert network.layers[-1].name == "predictions"
            output = network.layers[-1].input
        reference = keras.Model(network.input, output)
        preprocess = APPLICATIONS[name][2]
        expected = reference(preprocess(pictures().copy())).numpy()
        features = cnn(pictures()).numpy()
        assert expected.std() > 0 and expected.min() >= 0
        np.testing.assert_allclose(
            features, expected, rtol=1e-3, atol=1e-4 * expected.max()
        )

    def test_without_a_file_weights_are_random(self):
        models = [backbone("small_cnn", image_size=S) for _ in range(2)]
        one, two = (m(pictures()).numpy() for m in models)
        assert not np.allclose(one, two, rtol=0.01)

    def test_small_cnn_file_is_loaded(self, tmp_path):
        path = tmp_path / "small.weights.h5"
        model = backbone("small_cnn", image_size=48)
        rng = np.random.default_rng(0)
        model.set_weights(
            [w + rng.uniform(0.1, 0.2, w.shape) for w in model.get_weights()]
        )
        model.save_weights(path)
        loaded = backbone("small_cnn", str(path), 48)
        assert loaded.pretrained
        np.testing.assert_array_equal(loaded(pictures(48)), model(pictures(48)))

    def test_unknown_name(self):
        with pytest.raises(ValueError, match="small_cnn.*vgg16.*'alexnet'"):
            backbone("alexnet")

    def test_no_imagenet_weights_of_small_cnn(self):
        with pytest.raises(ValueError, match="small_cnn.*ImageNet"):
            backbone("small_cnn", "imagenet")

    @pytest.mark.parametrize("name", ["resnet_v1_101", "vgg_16"])
    def test_where_the_imagenet_weights_of_tf_slim_are(self, name):
        with pytest.raises(ValueError) as caught:
            backbone(name, "imagenet")
        message = str(caught.value)
        assert message.startswith(f"{name} takes a TF-Slim checkpoint")
        assert f"/models/{name}_2016_08_28.tar.gz" in message
        assert "\n" not in message

    def test_too_small_for_tf_slim(self):
        with pytest.raises(ValueError, match="vgg_16.*224 pixels.*got 64"):
            backbone("vgg_16", image_size=64)

    @pytest.mark.parametrize("name", make.BACKBONES)
    def test_missing_file(self, name, tmp_path):
        path = tmp_path / "none.weights.h5"
        with pytest.raises(FileNotFoundError, match="none.weights.h5"):
            backbone(name, str(path), S)

    @pytest.mark.parametrize(
        "file", ["a.weights.h5", "a.h5", "a.keras", "a.ckpt", "a"]
    )
    def test_no_weights_file(self, file, tmp_path):
        path = tmp_path / file
        path.write_text("<html>404</html>")
        one_line("small_cnn", path)

    def test_weights_of_another_network(self, tmp_path):
        path = tmp_path / "other.weights.h5"
        dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        dense.save_weights(path)
        one_line("small_cnn", path)
        one_line("vgg16", path)

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("resnet101", urllib.error.URLError(OSError(-2, "Not known"))),
            (
                "keras:MobileNet",
                urllib.error.HTTPError("url", 403, "Forbidden", {}, None),
            ),
            ("keras:MobileNet", ConnectionResetError(104, "Reset by peer")),
        ],
        ids=lambda value: getattr(type(value), "__name__", value),
    )
    def test_imagenet_without_network(self, monkeypatch, tmp_path, name, error):
        """urlretrieve raises as it does where no name is resolved, ..."""

        def offline(url, *_, **__):
            asked.append(url)
            raise error

        asked = []
        monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        with pytest.raises(ValueError) as caught:
            backbone(name, "imagenet", 128)
        assert len(asked) == 1
        message = str(caught.value)
        assert name in message and "imagenet" in message
        assert len(message) < 400 and "\n" not in message


def one_line(name, path):
    """The weights of `path` are refused in a line that names them."""
    with pytest.raises(ValueError) as caught:
        backbone(name, str(path), S)
    message = str(caught.value)
    assert str(path) in message and name in message
    assert "\n" not in message
    assert len(message) < 500


def test_saves_with_its_preprocessing(tmp_path):
    inputs = keras.Input((S, S, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, x, name="network")
    caffe = with_preprocessing(network, CAFFE, PictureInput(256))
    expected = network(keras.applications.vgg16.preprocess_input(pictures()))
    small = backbone("small_cnn", image_size=S)
    slim = make._from_slim(network, "none", PictureInput(256, True))
    for model in (caffe, small, slim):
        path = tmp_path / f"{model.name}.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
        assert loaded.name == model.name
        assert picture_format(loaded) == picture_format(model)
        np.testing.assert_allclose(
            loaded(pictures()), model(pictures()), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(caffe(pictures()), expected, rtol=1e-4)


class TestFreezeBatchStatistics:
    def test_nested_models_too(self):
        inner = backbone("small_cnn", image_size=S)
        inputs = keras.Input((S, S, 3))
        model = keras.Sequential([inputs, inner, keras.layers.Dense(2)])
        trainable = len(model.trainable_variables)

        before = [v.numpy() for v in model.non_trainable_variables]
        model(pictures(), training=True)
        changed = [
            not np.array_equal(old, new.numpy())
            for old, new in zip(
                before, model.non_trainable_variables, strict=True
            )
        ]
        assert any(changed)  # they do move before

        freeze_batch_statistics(model)
        before = [v.numpy() for v in model.variables]
        one = model(pictures(), training=True)
        for old, new in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(old, new.numpy())
        np.testing.assert_array_equal(one, model(pictures(), training=False))
        # Scales and shifts still learn, as convolutions and Dense do.
        assert len(frozen_statistics(model)) == 5
        freeze_batch_statistics(model)
        assert len(model.trainable_variables) == trainable == 3 * 5 + 2


def test_frozen_statistics_are_frozen_once_loaded(tmp_path):
    """And scales and shifts are trained, as Keras does not save."""
    network = backbone("small_cnn", image_size=S)
    batch_normalizations(network)[-1].trainable = False  # it as a whole
    freeze_batch_statistics(network)
    names = frozen_statistics(network)
    model = MultiLabelModel(network, 3)
    model.build((None, S, S, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert frozen_statistics(loaded.backbone) == names and len(names) == 4
    assert [v.shape for v in loaded.backbone.trainable_variables] == [
        v.shape for v in network.trainable_variables
    ]
    before = [v.numpy() for v in loaded.non_trainable_variables]
    loaded.features_of(pictures(), training=True)
    for old, new in zip(before, loaded.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
