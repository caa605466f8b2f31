"""Whole runs with the backbones that are not of this package."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.backbones.statistics import batch_normalizations
from imcl_tf.data.multi_label_dataset import open_source
from tests import programs

layers = keras.layers
S = 32
TINY = {
    "initial_epochs": 0, "epochs": 1, "batch_size": 16, "augment": False,
    "keep": "latest",
}  # fmt: skip


def save_file(path, seed=0):
    keras.utils.set_random_seed(seed)
    images = keras.Input((S, S, 3))
    x = layers.Conv2D(4, 3, 4)(layers.Rescaling(1 / 255)(images))
    x = layers.ReLU(name="map")(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    keras.Model(images, x).save(path / "net.keras")
    return str(path / "net.keras")


def save_preset(path):
    hub = pytest.importorskip("keras_hub", reason="needs imcl_tf[hub]")
    hub.models.ViTBackbone(
        (S, S, 3), 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
    ).save_to_preset(path)
    hub.layers.ViTImageConverter(
        image_size=(S, S), scale=1 / 255
    ).save_to_preset(path)
    return f"kerashub:{path}"


def png(pixels):
    return tf.io.encode_png(pixels).numpy()


@pytest.mark.parametrize(
    "kind",
    [
        "file",
        *(
            pytest.param(k, marks=pytest.mark.slow)
            for k in ("preset", "application")
        ),
    ],
)
def test_end_to_end(kind, prepared, tmp_path):
    """Trained, kept and exported, on the strategy of several devices."""
    name = {
        "file": lambda: save_file(tmp_path),
        "application": lambda: "keras:MobileNetV3Small",
        "preset": lambda: save_preset(tmp_path / "preset"),
    }[kind]()
    boost = {} if kind == "preset" else {"boost": True}
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        network = imcl_tf.backbone(name, image_size=S)
        before = [w.numpy() for w in network.trainable_variables]
        results = imcl_tf.run(
            open_source(prepared), network, "logistic",
            tmp_path / "run", **TINY, **boost,
        )  # fmt: skip
    assert 0 <= results["mAP"] <= 100
    changed = [
        not np.array_equal(old, new.numpy())
        for old, new in zip(before, network.trainable_variables, strict=True)
    ]
    assert np.mean(changed) > 0.8  # a few weights may have no gradient
    # Weights that were random, and had no initial epoch, keep theirs in motion.
    moving = [x.trainable for x in batch_normalizations(network)]
    assert any(moving) == (kind == "application")

    model = keras.saving.load_model(tmp_path / "run/checkpoints/best.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, S, S, 3), np.uint8)
    exported = tf.saved_model.load(tmp_path / "run/saved_model")
    found = exported.signatures["serving_default"](
        images=tf.constant([*map(png, images)])
    )
    expected = 1 / (1 + np.exp(-model(images)))
    np.testing.assert_allclose(
        found["probabilities"], expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.usefixtures("without_export")
def test_what_resume_compares(prepared, tmp_path):
    """File, layer and pixels."""
    path = save_file(tmp_path)

    def run(layer="", pixels="pixels"):
        network = imcl_tf.backbone(path, layer=layer, input=pixels)
        flags = f"--backbone={path}\n--backbone_layer={layer}\n"
        return imcl_tf.run(
            open_source(prepared), network, "logistic",
            tmp_path / "run", regime="fixed_features", initial_epochs=0,
            epochs=0, resume=True,
            settings=f"{flags}--backbone_input={pixels}\n",
        )  # fmt: skip

    results = run()
    assert run() == results
    with pytest.raises(ValueError, match="resume: .*--backbone_layer=pool"):
        run(layer="pool")
    with pytest.raises(ValueError, match="resume: .*--backbone_input=unit"):
        run(pixels="unit")
    save_file(tmp_path, seed=1)
    with pytest.raises(ValueError, match="resume: .*backbone_file"):
        run()


def test_random_weights_are_named(folder, tmp_path):
    done = programs.run(
        "imcl_tf.main", "--dataset=folder", f"--data_dir={folder.path}",
        f"--workdir={tmp_path}/run", "--observed_fraction=0",
    )  # fmt: skip
    assert done.returncode == 1
    warning, error = (
        x for x in done.stderr.splitlines() if x.startswith("imcl_")
    )
    assert "small_cnn begins with random weights" in warning
    assert "keras:EfficientNetV2B0" in warning and "observed_fraction" in error
