"""TF-Slim's networks and checkpoints, against the tf_slim package."""

import importlib.util
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.backbones import make, slim
from imcl_tf.backbones.make import backbone

v1 = tf.compat.v1

# Writes TF-Slim's networks with random weights as checkpoints, and what they
# make of two pictures. Needs the former Keras: a process of its own.
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf
import tf_keras.src.legacy_tf_layers as legacy
sys.modules["tf_keras.legacy_tf_layers"] = legacy  # where TensorFlow looks
import tf_slim
from tf_slim.nets import resnet_v1, vgg

v1 = tf.compat.v1
v1.disable_eager_execution()
rng = np.random.default_rng(0)

def random_value(variable):
    kind, shape = variable.op.name.split("/")[-1], variable.shape.as_list()
    if kind == "gamma":
        return rng.uniform(0.1, 0.6, shape)
    if kind == "moving_variance":
        return rng.uniform(0.05, 1, shape)
    if kind == "weights":
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        return rng.standard_normal(shape, "f") * np.float32(deviation)
    return rng.normal(0, 0.3, shape)

def pictures(size):
    # One bright and one dark, in patches: noise would average out.
    patches = rng.integers(0, 256, (2, size // 8 + 1, size // 8 + 1, 3))
    patches[1] //= 4
    return patches.repeat(8, 1).repeat(8, 2)[:, :size, :size].astype(np.uint8)

def write(make, scope, feature, sizes, version):
    with tf.Graph().as_default(), v1.Session() as session:
        side = sizes[0] if len(sizes) == 1 else None
        pixels = v1.placeholder(tf.float32, [None, side, side, 3])
        with tf_slim.arg_scope(scope):
            make(pixels - [123.68, 116.78, 103.94], 7, is_training=False)
        v1.train.create_global_step()
        variables = v1.global_variables()
        session.run(
            [v.initializer for v in variables],
            {v.initializer.inputs[1]: random_value(v) for v in variables},
        )
        known = {}
        for size in sizes:
            known[f"pixels {size}"] = pictures(size)
            known[f"features {size}"] = session.run(
                feature, {pixels: known[f"pixels {size}"]}).squeeze((1, 2))
        saver = v1.train.Saver(write_version=version)
        saver.save(session, f"./{make.__name__}.ckpt", write_meta_graph=False)
        np.savez(f"{make.__name__}.npz", **known)

write(resnet_v1.resnet_v1_101, resnet_v1.resnet_arg_scope(),
      "resnet_v1_101/pool5:0", [224, 299], 1)
write(vgg.vgg_16, vgg.vgg_arg_scope(), "vgg_16/fc7/Relu:0", [224], 2)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directory where the program wrote."""
    for package in ("tf_slim", "tf_keras"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"needs {package}")
    directory = tmp_path_factory.mktemp("tf_slim")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    yield directory
    shutil.rmtree(directory)  # 700 MB


@pytest.mark.slow  # builds both of TF-Slim's networks, and writes 700 MB
class TestAsTfSlim:
    @pytest.mark.parametrize(
        "name, size",
        [("resnet_v1_101", 224), ("resnet_v1_101", 299), ("vgg_16", 224)],
    )
    def test_features(self, written, name, size):
        model = backbone(name, str(written / f"{name}.ckpt"), size)
        assert model.pretrained
        with np.load(written / f"{name}.npz") as known:
            pixels = known[f"pixels {size}"]
            expected = known[f"features {size}"]
        scale = expected.max()
        # Pictures differ, and so do features; not all are cut to 0.
        assert np.abs(expected[0] - expected[1]).max() > 0.1 * scale
        assert (expected > 0).mean() > 0.1
        np.testing.assert_allclose(
            model(pixels), expected, rtol=0, atol=1e-4 * scale
        )


@pytest.fixture(scope="module")
def resnet():
    return slim.resnet_v1_101(224)


class TestResnetV1101:
    def test_blocks_stride_in_their_last_unit(self, resnet):
        """56 pixels after the first pooling; the last block does not."""
        sizes = {
            (block, unit): resnet.get_layer(
                f"block{block}.unit_{unit}.bottleneck_v1.conv3"
            ).output.shape[1:3]
            for block, units in enumerate((3, 4, 23, 3), 1)
            for unit in range(1, units + 1)
        }
        expected = {}
        for block, (units, size) in enumerate(
            ((2, 56), (3, 28), (22, 14), (3, 7)), 1
        ):
            expected |= {
                (block, unit + 1): (size,) * 2 for unit in range(units)
            }
            if block < 4:
                expected[block, units + 1] = (size // 2,) * 2
        assert sizes == expected

    def test_number_of_weights(self, resnet):
        """Convolutions without bias, and four numbers a channel."""
        expected = 7 * 7 * 3 * 64 + 4 * 64
        width = 64
        for filters, units in ((64, 3), (128, 4), (256, 23), (512, 3)):
            expected += (width + 4) * 4 * filters  # shortcut
            for _ in range(units):
                expected += (width + 9 * filters + 4 * filters) * filters
                expected += 4 * (2 + 4) * filters
                width = 4 * filters
        assert resnet.count_params() == expected
        assert resnet.output_shape == (None, 2048)

    def test_normalization(self, resnet):
        found = [
            (layer.epsilon, layer.momentum)
            for layer in resnet.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        assert found == [(1e-5, 0.997)] * (1 + 3 * 33 + 4)


def test_vgg_16_needs_224_pixels():
    with pytest.raises(ValueError, match="224 pixels.*got 223"):
        slim.vgg_16(223)


class TestLoadCheckpoint:
    """On a small network, and checkpoints written here."""

    def make_model(self):
        inputs = keras.Input((4, 4, 3))
        x = keras.layers.Conv2D(2, 3, use_bias=False, name="unit_1.conv1")(
            inputs
        )
        x = keras.layers.BatchNormalization(name="unit_1.conv1.BatchNorm")(x)
        x = keras.layers.Conv2D(5, 1, name="fc6")(x)
        return keras.Model(inputs, x, name="net")

    @pytest.fixture
    def values(self):
        """Of all its variables, under TF-Slim's names, and of two others."""
        shapes = {
            "net/unit_1/conv1/weights": (3, 3, 3, 2),
            "net/unit_1/conv1/BatchNorm/gamma": (2,),
            "net/unit_1/conv1/BatchNorm/beta": (2,),
            "net/unit_1/conv1/BatchNorm/moving_mean": (2,),
            "net/unit_1/conv1/BatchNorm/moving_variance": (2,),
            "net/fc6/weights": (1, 1, 2, 5),
            "net/fc6/biases": (5,),
            "net/logits/weights": (1, 1, 5, 9),
            "global_step": (),
        }
        rng = np.random.default_rng(0)
        return {
            name: rng.uniform(1, 2, shape).astype("f")
            for name, shape in shapes.items()
        }

    def write(self, path, values, version):
        with tf.Graph().as_default(), v1.Session() as session:
            for name, value in values.items():
                v1.get_variable(name, initializer=value)
            session.run(v1.global_variables_initializer())
            v1.train.Saver(write_version=version).save(
                session, str(path), write_meta_graph=False
            )
        return str(path)

    @pytest.mark.parametrize("version", [1, 2])
    def test_by_name(self, values, version, tmp_path):
        path = self.write(tmp_path / "net.ckpt", values, version)
        assert (tmp_path / "net.ckpt").is_file() == (version == 1)
        model = self.make_model()
        slim.load_checkpoint(model, path)
        got = model.get_weights()
        for value, expected in zip(got, [*values.values()][:7], strict=True):
            np.testing.assert_array_equal(value, expected)

    @pytest.mark.parametrize("version", [1, 2])
    def test_number_of_classes(self, values, version, tmp_path):
        path = self.write(tmp_path / "net.ckpt", values, version)
        assert slim.num_classes(path, "net") == 9
        assert slim.num_classes(path, "other") == 0

    @pytest.mark.parametrize(
        ("classes", "data_set"), [(5000, "open_images"), (1000, "")]
    )
    def test_whose_labels_it_was_trained_on(self, classes, data_set, tmp_path):
        """Open Images v2 has 5,000 trainable classes, ImageNet 1,000."""
        logits = np.zeros((1, 1, 2, classes), "f")
        values = {"resnet_v1_101/logits/weights": logits}
        path = self.write(tmp_path / "net.ckpt", values, 2)
        assert make._trained_on("resnet_v1_101", path) == data_set
        for name, weights in (("vgg_16", path), ("resnet_v1_101", "none")):
            assert make._trained_on(name, weights) == ""

    def test_names_with_dots_survive_saving(self, values, tmp_path):
        model = self.make_model()
        slim.load_checkpoint(model, self.write(tmp_path / "net", values, 2))
        model.save(tmp_path / "net.keras")
        model.export(tmp_path / "saved_model", verbose=False)
        exported = tf.saved_model.load(str(tmp_path / "saved_model"))
        images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("f")
        for loaded in (
            keras.models.load_model(tmp_path / "net.keras"),
            exported.serve,
        ):
            np.testing.assert_allclose(loaded(images), model(images), rtol=1e-5)

    @pytest.mark.parametrize(
        "name",
        [
            "net/unit_1/conv1/weights",
            "net/unit_1/conv1/BatchNorm/moving_variance",
            "net/fc6/biases",
        ],
    )
    @pytest.mark.parametrize("fault", ["missing", "of another shape"])
    def test_what_does_not_fit_is_named(self, values, name, fault, tmp_path):
        wrong = dict(values)
        last = "net/fc6/biases"  # wrong as well; the first one is named
        for key in (name, last):
            if fault == "missing":
                wrong.pop(key, None)
            else:
                wrong[key] = np.zeros((7, *values[key].shape), "f")
        path = self.write(tmp_path / "net.ckpt", wrong, 2)
        model = self.make_model()
        before = model.get_weights()
        with pytest.raises(ValueError) as caught:
            slim.load_checkpoint(model, path)
        shape = list(values[name].shape)
        assert str(caught.value) == (
            f"{path} holds no {name}"
            if fault == "missing"
            else f"{name} has shape {[7, *shape]} in {path}, expected {shape}"
        )
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    @pytest.fixture
    def refusal(self, resnet, monkeypatch):
        """What `backbone` says of a checkpoint that does not fit."""

        def refusal(path):
            # The network does not depend on it, and is not made again.
            monkeypatch.setattr(slim, "resnet_v1_101", lambda size: resnet)
            with pytest.raises(ValueError) as caught:
                backbone("resnet_v1_101", path, 224)
            message = str(caught.value)
            assert "\n" not in message and len(message) < 500
            assert path in message and "resnet_v1_101" in message
            return message

        return refusal

    def test_checkpoint_of_another_network(self, values, refusal, tmp_path):
        """A prefix counts as a file; the message is the program's one line."""
        path = self.write(tmp_path / "net.ckpt", values, 2)
        words = f"{path} holds no resnet_v1_101/conv1/weights"
        assert words in refusal(path)

    def test_no_checkpoint(self, refusal, tmp_path):
        path = tmp_path / "net.ckpt"
        path.write_text("<html>404</html>")
        refusal(str(path))
