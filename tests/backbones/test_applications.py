"""The networks of keras.applications, against keras.applications."""

import inspect

import keras
import numpy as np
import pytest

from imcl_tf.backbones import applications
from imcl_tf.backbones.graphs import without_pooling
from imcl_tf.backbones.make import backbone
from imcl_tf.backbones.pictures import Resizing, picture_format

S = 96  # large enough for all of them
# With the preprocessing within the network, as Caffe, and in [-1, 1].
KINDS = ("MobileNetV3Small", "VGG16", "MobileNet")
SIZES = {
    "MobileNetV3Small": 224, "Xception": 299, "InceptionV3": 299,
    "EfficientNetB1": 240, "NASNetLarge": 331, "VGG16": 224,
}  # fmt: skip


def pictures():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, S, S, 3)).astype(np.uint8)


def check(name, path):
    """As the network of keras.applications on what its own module makes."""
    function = getattr(keras.applications, name)
    model = backbone(f"keras:{name}", image_size=S)
    assert not model.pretrained
    assert picture_format(model) == (S, Resizing())  # squashed, not cropped
    network = function(
        include_top=False, pooling="avg", weights=None, input_shape=(S, S, 3)
    )
    network.set_weights(model.get_weights())
    preprocess = inspect.getmodule(function).preprocess_input
    expected = network(preprocess(pictures().astype(np.float32)))
    assert np.std(expected) > 0
    np.testing.assert_allclose(
        model(pictures()), expected, rtol=1e-3, atol=1e-4 * np.std(expected)
    )
    model.save(path / "model.keras")
    loaded = keras.saving.load_model(path / "model.keras")
    np.testing.assert_allclose(
        loaded(pictures()), model(pictures()), rtol=1e-5, atol=1e-6
    )
    keras.backend.clear_session()


@pytest.mark.parametrize("name", KINDS)
def test_three_kinds(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", applications.networks())
def test_every_network(name):
    """The network within sees what its own module makes of the pictures."""
    model = backbone(f"keras:{name}", image_size=S)
    preprocess = inspect.getmodule(
        getattr(keras.applications, name)
    ).preprocess_input
    expected = model.layers[-1](preprocess(pictures().astype(np.float32)))
    np.testing.assert_allclose(
        model(pictures()), expected, rtol=1e-3, atol=1e-4 * np.std(expected)
    )
    assert expected.shape[0] == 2 and expected.ndim == 2
    keras.backend.clear_session()


def test_networks_are_those_of_keras():
    """All that is called in capitals, and nothing else."""
    names = {x for x in dir(keras.applications) if x[0].isupper()}
    assert set(applications.networks()) == names and len(names) > 35


def test_own_size():
    assert backbone("keras:MobileNet").input_shape == (None, 224, 224, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_own_sizes(name):
    assert backbone(f"keras:{name}").input_shape[1] == SIZES[name]
    keras.backend.clear_session()


def test_a_layer_and_its_feature_map():
    model = backbone("keras:MobileNetV2", image_size=32, layer="out_relu")
    whole = backbone("keras:MobileNetV2", image_size=32)
    whole.set_weights(model.get_weights())
    images = pictures()[:, :32, :32]
    np.testing.assert_allclose(model(images), whole(images), rtol=1e-5)
    for network in (model, whole):
        maps = without_pooling(network)(images)
        assert maps.shape == (2, 1, 1, 1280)


def test_weights_file(tmp_path):
    network = backbone("keras:MobileNetV3Small", image_size=32).layers[-1]
    network.save_weights(tmp_path / "small.weights.h5")
    model = backbone(
        "keras:MobileNetV3Small", str(tmp_path / "small.weights.h5"), 32
    )
    assert model.pretrained
    for one, two in zip(network.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("name", "near"),
    [("mobilenetv2", "MobileNetV2"), ("Resnet50", "ResNet50"),
     ("zzz", "ConvNeXtBase.*Xception")],
)  # fmt: skip
def test_an_unknown_name(name, near):
    with pytest.raises(ValueError, match=f"no '{name}', expected .*{near}"):
        backbone(f"keras:{name}")


def test_too_small():
    with pytest.raises(ValueError, match="keras:Xception of 32 pixels"):
        backbone("keras:Xception", image_size=32)
