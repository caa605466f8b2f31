"""Backbones of Keras files, against the networks that were saved."""

from pathlib import Path

import keras
import numpy as np
import pytest
from absl import logging

from imcl_tf.backbones.graphs import without_pooling
from imcl_tf.backbones.make import backbone
from imcl_tf.backbones.pictures import PictureInput, Resizing, picture_format
from imcl_tf.backbones.statistics import frozen_statistics
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.settings import BACKBONE_INPUTS

layers = keras.layers
S = 8
LITE0 = Path(__file__).parents[3] / "shared/backbones/efficientnet_lite0.keras"


def pictures(size=S):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, size, size, 3)).astype(np.uint8)


def convolutions(size=S):
    """A network within a network, which ends in a classifier."""
    inner_input = keras.Input((size, size, 4))
    x = layers.Conv2D(5, 3, padding="same", name="inner_conv")(inner_input)
    inner = keras.Model(inner_input, layers.ReLU(name="relu")(x), name="inner")
    images = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(images)
    x = inner(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(2, activation="softmax", name="classes")(x)
    return keras.Model(images, x, name="convolutions")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(network, its file)."""
    network = convolutions()
    path = tmp_path_factory.mktemp("files") / "My net (1).keras"
    network.save(path)
    return network, path


def save(tmp_path, inputs, outputs):
    path = tmp_path / "network.keras"
    keras.Model(inputs, outputs).save(path)
    return path


def refused(path, *words, **arguments):
    """The file is refused in one line that names it and has `words`."""
    with pytest.raises(ValueError) as caught:
        backbone(path, **arguments)
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message
    assert "\n" not in message and len(message) < 600


def test_features_are_those_of_the_network(saved):
    network, path = saved
    model = backbone(path)
    assert model.pretrained and not model.of_run and not model.trained_on
    assert model.name == "My_net__1_"
    assert picture_format(model) == (S, Resizing())
    assert frozen_statistics(model) == ["norm"]
    expected = network(pictures().astype(np.float32))
    for images in (pictures(), pictures().astype(np.float32)):
        np.testing.assert_array_equal(model(images), expected)


@pytest.mark.parametrize("layer", ["pool", "inner", "inner_conv", "relu"])
def test_layer(saved, layer):
    """Its output, averaged over positions; also of a network within."""
    network, path = saved
    model = backbone(path, layer=layer)
    images = pictures().astype(np.float32)
    inner = network.get_layer("inner")
    norm = keras.Model(network.input, network.get_layer("norm").output)
    maps = norm(images)
    if layer == "inner_conv":
        maps = inner.get_layer("inner_conv")(maps)
    else:
        maps = inner(maps)
    expected = np.mean(maps, (1, 2))
    np.testing.assert_allclose(model(images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        without_pooling(model)(images), maps, rtol=1e-5, atol=1e-6
    )


def test_an_unknown_layer(saved):
    refused(saved[1], "'inner_con'", "inner_conv, inner", layer="inner_con")
    refused(saved[1], "'zzz'", "classes", layer="zzz")


def test_another_size(saved):
    """Convolutions of the same weights; networks within follow."""
    network, path = saved
    other = convolutions(12)
    other.set_weights(network.get_weights())
    model = backbone(path, image_size=12)
    assert picture_format(model).image_size == 12
    images = pictures(12)
    np.testing.assert_array_equal(model(images), other(images / 1.0))
    cut = backbone(path, image_size=12, layer="inner_conv")
    assert cut.output_shape == (None, 5)


def test_a_size_that_the_weights_do_not_allow(tmp_path):
    images = keras.Input((S, S, 3))
    x = layers.Dense(2, name="dense")(layers.Flatten(name="flat")(images))
    path = save(tmp_path, images, x)
    assert backbone(path).output_shape == (None, 2)
    refused(path, "8 x 8 alone, not of 12", image_size=12)
    # What comes after the layer has no say.
    assert backbone(path, image_size=4, layer="flat").output_shape == (None, 48)


def test_any_size(tmp_path):
    images = keras.Input((None, None, 3))
    path = save(tmp_path, images, layers.Conv2D(2, 3)(images))
    refused(path, "None x None", "image_size")
    assert backbone(path, image_size=6).input_shape == (None, 6, 6, 3)


@pytest.mark.parametrize(
    ("expected", "pixel"),
    [
        ("pixels", [0, 51, 255]),
        ("unit", [0, 0.2, 1]),
        ("signed", [-1, -0.6, 1]),
        # Blue first, less (103.939, 116.779, 123.68).
        ("caffe", [151.061, -65.779, -123.68]),
        # Less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).
        ("torch", [-2.1179039, -1.1428571, 2.64]),
    ],
)
def test_what_the_network_takes(tmp_path, expected, pixel):
    images = keras.Input((1, 1, 3))
    path = save(tmp_path, images, layers.Flatten()(images))
    model = backbone(path, input=expected)
    one = np.array([[[[0, 51, 255]]]], np.uint8)
    np.testing.assert_allclose(model(one)[0], pixel, rtol=1e-5, atol=1e-6)


def test_tokens_are_averaged(tmp_path):
    images = keras.Input((2, 2, 3))
    path = save(tmp_path, images, layers.Reshape((4, 3))(images))
    model = backbone(path)
    expected = pictures(2).mean((1, 2))
    np.testing.assert_allclose(model(pictures(2)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="boost: .*feature map"):
        without_pooling(model)


def test_a_sequential_model(tmp_path):
    network = keras.Sequential(
        [keras.Input((S, S, 3)), layers.Conv2D(2, 3, name="conv"),
         layers.GlobalMaxPooling2D()]
    )  # fmt: skip
    path = tmp_path / "network.keras"
    network.save(path)
    images = pictures() / 1.0
    np.testing.assert_array_equal(backbone(path)(images), network(images))
    assert backbone(path, image_size=5, layer="conv").output_shape == (None, 2)


def test_a_network_within_one_of_any_size(tmp_path):
    images, maps = keras.Input((None, None, 3)), keras.Input((None, None, 8))
    inner = keras.Model(maps, layers.Conv2D(4, 3)(maps))
    x = inner(layers.Conv2D(8, 3, strides=2)(images))
    network = keras.Model(images, layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "network.keras"
    network.save(path)
    model = backbone(path, image_size=40)
    assert model.input_shape == (None, 40, 40, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 3))
    np.testing.assert_allclose(model(pixels), network(pixels), rtol=1e-5)


def test_whole_numbers_are_pixels(tmp_path):
    """A scaled picture would be all zeros and ones."""
    images = keras.Input((S, S, 3), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(images))
    path = save(tmp_path, images, x)
    found = backbone(path)(pictures())
    np.testing.assert_allclose(found, pictures().mean((1, 2)) / 255, rtol=1e-5)
    for given in BACKBONE_INPUTS[1:]:
        with pytest.raises(ValueError, match=f"takes uint8, .* got {given}"):
            backbone(path, input=given)


def test_a_model_that_was_not_built(tmp_path):
    path = tmp_path / "network.keras"
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([layers.Conv2D(8, 3)]).save(path)
    with pytest.raises(ValueError, match="before it had the shape of its inp"):
        backbone(path)


def test_errors_have_no_colours(tmp_path):
    """Keras prints its own in bold."""
    images = keras.Input((S, S, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(images))
    path = save(tmp_path, images, x)
    with pytest.raises(ValueError, match="Computed output size") as caught:
        backbone(path, image_size=2)
    assert "\x1b" not in str(caught.value)


def test_an_input_by_its_name_and_a_list_of_one_output(tmp_path):
    images = keras.Input((S, S, 3), name="images")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(images))
    path = save(tmp_path, {"images": images}, [x])
    model = MultiLabelModel(backbone(path), 3)
    model.build((None, S, S, 3))
    expected = keras.Model(images, x)(pictures() / 1.0)
    found = model.backbone(pictures())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_of_this_package_gives_its_backbone(tmp_path):
    """As it was trained, with its resizing; also one without its pooling."""
    images = keras.Input((S, S, 3))
    x = layers.Conv2D(4, 3)(PictureInput(256, True)(images))
    network = keras.Model(images, layers.GlobalAveragePooling2D()(x))
    for part, boost in ((network, 1.0), (without_pooling(network), 2.0)):
        model = MultiLabelModel(part, 3, boost_factor=boost)
        model.build((None, S, S, 3))
        model.save(tmp_path / "best.keras")
        loaded = backbone(tmp_path / "best.keras")
        assert loaded.of_run
        assert picture_format(loaded) == (S, Resizing(256, True))
        np.testing.assert_allclose(
            loaded(pictures()), network(pictures() / 1.0), rtol=1e-5, atol=1e-6
        )


def test_what_is_no_picture_network(tmp_path):
    inputs = keras.Input((3,))
    refused(save(tmp_path, inputs, layers.Dense(2)(inputs)), "(None, 3)")
    gray = keras.Input((S, S, 1))
    refused(save(tmp_path, gray, layers.Conv2D(2, 3)(gray)), "[B, S, S, 3]")
    wide = keras.Input((S, 6, 3))
    path = save(tmp_path, wide, layers.Conv2D(2, 3)(wide))
    refused(path, "8 x 6", "image_size")
    assert backbone(path, image_size=6).input_shape == (None, 6, 6, 3)
    images = keras.Input((S, S, 3))
    x = layers.Conv2D(2, 3)(images)
    refused(save(tmp_path, images, [x, x]), "backbone_layer")
    refused(save(tmp_path, [images, gray], x), "[B, S, S, 3]")
    volume = layers.Reshape((6, 6, 1, 2))(x)
    refused(save(tmp_path, images, volume), "[B, h, w, d]")


def test_damaged_files(saved, tmp_path):
    content = saved[1].read_bytes()
    for number, damaged in enumerate((b"", b"<html>", content[:2000])):
        path = tmp_path / f"{number}.keras"
        path.write_bytes(damaged)
        refused(path, "cannot make", "not a whole .keras file")


def test_a_layer_that_keras_does_not_know(tmp_path):
    class Unknown(layers.Layer):
        def call(self, inputs):
            return inputs

    images = keras.Input((S, S, 3))
    refused(save(tmp_path, images, Unknown()(images)), "Unknown")


def test_code_in_a_file_is_not_run(tmp_path):
    mark = str(tmp_path / "ran")
    images = keras.Input((S, S, 3))
    x = layers.Lambda(lambda x: (open(mark, "w").close(), x)[1])(images)
    path = save(tmp_path, images, x)
    Path(mark).unlink(missing_ok=True)
    refused(path, "Lambda")
    assert not Path(mark).exists()


def test_a_classifier_on_top_is_named(saved, caplog):
    """Its probabilities are poor features."""
    logging.set_verbosity(logging.WARNING)
    backbone(saved[1])
    (record,) = caplog.records
    assert "classes" in record.getMessage()
    assert "--backbone_layer" in record.getMessage()
    caplog.clear()
    backbone(saved[1], layer="pool")
    assert not caplog.records


def test_arguments_that_do_not_fit(saved):
    refused(saved[1], "brings its own", weights="imagenet")
    with pytest.raises(ValueError, match="small_cnn takes pixels, got unit"):
        backbone("small_cnn", input="unit")
    with pytest.raises(ValueError, match="backbone_input.*pixels.*'bytes'"):
        backbone(saved[1], input="bytes")
    with pytest.raises(FileNotFoundError, match="none.keras: no such file"):
        backbone("none.keras")
    with pytest.raises(ValueError, match="FILE.keras, keras:NAME.*'net.h5'"):
        backbone("net.h5")


@pytest.mark.skipif(not LITE0.is_file(), reason=f"{LITE0.name} is not there")
def test_a_pretrained_network():
    """EfficientNet-Lite0 tells a smooth picture from a noisy one."""
    network = keras.saving.load_model(LITE0, compile=False)
    model = backbone(LITE0)
    images = pictures(224)
    np.testing.assert_array_equal(model(images), network(images / 1.0))
    small = backbone(LITE0, image_size=128)
    assert small.output_shape == (None, 1280)
    assert without_pooling(small).output_shape == (None, 4, 4, 1280)
