"""Vision models of KerasHub, from presets that are made here."""

import importlib.util

import keras
import numpy as np
import pytest

from imcl_tf.backbones.graphs import without_pooling
from imcl_tf.backbones.make import backbone, check
from imcl_tf.backbones.pictures import Resizing, picture_format

keras_hub = pytest.importorskip("keras_hub", reason="needs imcl_tf[hub]")
S = 32
TRANSFORMER = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8}
ENCODER = TRANSFORMER | {"intermediate_dim": 8}
TEXT = ENCODER | {
    "vocabulary_size": 10, "embedding_dim": 8, "max_sequence_length": 5
}  # fmt: skip


def vit(**arguments):
    network = keras_hub.models.ViTBackbone(
        (S, S, 3), 16, mlp_dim=8, **TRANSFORMER, **arguments
    )
    return network, lambda x: network(x)[:, 0]


def vit_without_class_token():
    network, _ = vit(use_class_token=False)
    return network, lambda x: np.mean(network(x), 1)


def dinov2():
    network = keras_hub.models.DINOV2Backbone(
        16, image_shape=(S, S, 3), position_embedding_shape=(48, 48, 3),
        num_register_tokens=2, **ENCODER,
    )  # fmt: skip
    return network, lambda x: network({"images": x})[:, 0]


def parts(name):
    """Vision and text encoder of a model of both."""
    module = importlib.import_module(f"keras_hub.src.models.{name.lower()}")
    home = module.__name__ + f".{name.lower()}"
    encoders = [
        getattr(
            importlib.import_module(f"{home}_{kind}_encoder"),
            f"{name}{kind.capitalize()}Encoder",
        )
        for kind in ("vision", "text")
    ]
    vision = encoders[0](16, image_shape=(S, S, 3), **ENCODER)
    return vision, encoders[1](**TEXT)


def clip():
    vision, text = parts("CLIP")
    network = keras_hub.models.CLIPBackbone(vision, text, projection_dim=4)
    return network, lambda x: vision({"images": x})[:, 0]


def siglip():
    vision, text = parts("SigLIP")
    network = keras_hub.models.SigLIPBackbone(vision, text)
    return network, lambda x: vision({"images": x})


def resnet():
    network = keras_hub.models.ResNetBackbone(
        [64], [3], [64, 64], [1, 1], [1, 2], "basic_block"
    )
    return network, lambda x: np.mean(network(x), (1, 2))


MAKERS = (vit, vit_without_class_token, dinov2, clip, siglip, resnet)
CONVERTERS = {
    vit: "ViT", vit_without_class_token: "ViT", dinov2: "DINOV2",
    clip: "CLIP", siglip: "SigLIP", resnet: "ResNet",
}  # fmt: skip


def save(make, path):
    network, features = make()
    rng = np.random.default_rng(0)  # some weights begin as zeros
    network.set_weights(
        [w + rng.normal(0, 0.1, w.shape) for w in network.get_weights()]
    )
    converter = getattr(keras_hub.layers, f"{CONVERTERS[make]}ImageConverter")(
        image_size=(S, S), scale=[0.01, 0.02, 0.03], offset=[-1.0, -2.0, -3.0]
    )
    network.save_to_preset(path)
    converter.save_to_preset(path)
    # What DINOv2 interpolates of its weights, it does when they are loaded.
    network.load_weights(path / "model.weights.h5")
    return features


def pictures(size=S):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("make", MAKERS)
def test_features(make, tmp_path):
    """Class token, mean of tokens or positions, or the vision encoder's."""
    features = save(make, tmp_path / "my preset")
    model = backbone(f"kerashub:{tmp_path}/my preset")
    assert model.pretrained and model.name == "my_preset"
    assert picture_format(model) == (S, Resizing())
    pixels = np.float32(pictures() * [0.01, 0.02, 0.03] - [1.0, 2.0, 3.0])
    expected = np.asarray(features(pixels))
    assert expected.std(0).max() > 0
    np.testing.assert_allclose(
        model(pictures()), expected, rtol=1e-4, atol=1e-5
    )
    model.save(tmp_path / "model.keras")
    for loaded in (
        keras.saving.load_model(tmp_path / "model.keras"),
        backbone(tmp_path / "model.keras"),
    ):
        np.testing.assert_allclose(
            loaded(pictures()), model(pictures()), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("make", "possible"), [(vit, False), (clip, False), (dinov2, True),
                           (resnet, True)]
)  # fmt: skip
def test_another_size(make, possible, tmp_path):
    save(make, tmp_path)
    if possible:
        model = backbone(f"kerashub:{tmp_path}", image_size=48)
        assert picture_format(model).image_size == 48
        assert np.ptp(model(pictures(48)), 0).max() > 0
        return
    with pytest.raises(ValueError, match="no pictures of 48 pixels") as caught:
        backbone(f"kerashub:{tmp_path}", image_size=48)
    assert "\n" not in str(caught.value)


def test_feature_map(tmp_path):
    save(resnet, tmp_path / "resnet")
    model = backbone(f"kerashub:{tmp_path}/resnet")
    maps = without_pooling(model)(pictures())
    assert maps.shape == (2, 4, 4, 64)
    np.testing.assert_allclose(
        np.mean(maps, (1, 2)), model(pictures()), rtol=1e-4, atol=1e-5
    )
    save(vit, tmp_path / "vit")
    with pytest.raises(ValueError, match="boost: .*vit .*feature map"):
        without_pooling(backbone(f"kerashub:{tmp_path}/vit"))


def test_what_is_no_preset(tmp_path):
    for name in (f"{tmp_path}", "no_such_preset"):
        with pytest.raises(ValueError, match=f"kerashub:{name}") as caught:
            backbone(f"kerashub:{name}")
        assert "\n" not in str(caught.value)


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="backbone_layer: .*of its own"):
        check("kerashub:x", "none", layer="y")
    with pytest.raises(ValueError, match="brings its own.*imagenet"):
        check("kerashub:x", "imagenet")


def test_without_keras_hub(monkeypatch):
    """As importlib has it where the package is not installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'imcl_tf\[hub\]'"):
        backbone("kerashub:vit")
