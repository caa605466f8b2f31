"""How a training step is compiled: traced once, without the host, by XLA."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf import train
from imcl_tf.callbacks import DictionaryRefresh
from imcl_tf.dataset import open_source
from imcl_tf.dictionary import Dictionary
from imcl_tf.label_graph import LabelGraph
from imcl_tf.labels import LabelTable
from imcl_tf.model import IMCL
from imcl_tf.multilabel import METHODS

ROOT = Path(__file__).resolve().parents[1]
C, SIZE, N = 6, 8, 20


def images_and_labels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, SIZE, SIZE, 3)).astype(np.uint8)
    return images, rng.choice([-1, 0, 1], (N, C)).astype(np.int8)


def small_model(dictionary_gradient="stored"):
    """IMCL with a CNN of one convolution and a dictionary of ten images."""
    images, labels = images_and_labels()
    cnn = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model = IMCL(
        cnn, C, LabelGraph.from_cooccurrence(labels, 3),
        dictionary_gradient=dictionary_gradient,
    )  # fmt: skip
    model.build((None, SIZE, SIZE, 3))
    table = LabelTable(scipy.sparse.csr_array(labels))
    model.dictionary = Dictionary(np.arange(10), images[:10], table, 4)
    return model


def losses(jit, policy, strategy):
    """Of two epochs."""
    images, labels = images_and_labels()
    inputs = {"inputs": images, "image_index": np.arange(N, dtype=np.int32)}
    batches = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8)
    scope = tf.distribute.get_strategy()
    if strategy == "mirrored":
        scope = tf.distribute.MirroredStrategy(["CPU:0"])
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    try:
        with scope.scope():
            model = small_model()
            rmsprop = keras.optimizers.RMSprop(0.01, momentum=0.9, epsilon=1)
            model.compile(rmsprop, jit_compile=jit)
            model.refresh_dictionary()
            return model.fit(
                batches, epochs=2, shuffle=False, verbose=0,
                callbacks=[DictionaryRefresh(5)],
            ).history["loss"]  # fmt: skip
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="module")
def plain():
    return losses(False, "float32", "none")


@pytest.mark.parametrize("strategy", ["none", "mirrored"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_combinations_train_alike(jit, policy, strategy, plain):
    """XLA, half precision and strategies: the losses of the plain step."""
    found = losses(jit, policy, strategy)
    assert plain[1] < 0.97 * plain[0]
    if policy == "float32":
        np.testing.assert_allclose(found, plain, rtol=1e-4)
    else:
        # In time other rounding chooses other images.
        assert found[0] == pytest.approx(plain[0], rel=1e-2)
        assert found[1] < 0.99 * found[0]


def train_on_two_devices():
    """In a process of its own: devices are made before TensorFlow starts."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    images, labels = images_and_labels()
    inputs = {"inputs": images, "image_index": np.arange(N, dtype=np.int32)}
    batches = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = small_model()
        model.compile(keras.optimizers.RMSprop(0.01, epsilon=1))
        for optimizer, variables in model.variable_groups():
            optimizer.build(variables)
        model.refresh_dictionary()
        before = model.dictionary.label_atoms.numpy()
        model.fit(
            batches, shuffle=False, verbose=0,
            callbacks=[DictionaryRefresh(3)],
        )  # fmt: skip
    for stored in (model.dictionary.features, model.dictionary.label_atoms):
        first, second = (copy.numpy() for copy in stored.values)
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all() and first.any(1).all()
    changed = (before != model.dictionary.label_atoms.numpy()).any(1)
    assert changed[:9].all() and not changed[9:].any()


def test_two_devices():
    """Each has the whole dictionary, and both the same."""
    code = "from tests import test_compiled as t; t.train_on_two_devices()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("method", ["imcl", "logistic", "selective"])
@pytest.mark.parametrize("regime", train.REGIMES)
def test_a_step_is_traced_once(method, regime, prepared, tmp_path, monkeypatch):
    """In two epochs, with smaller last minibatches, refreshes and rounds."""
    traces = []

    def counting(name):
        function = getattr(METHODS[method], name)

        def counted(self, *arguments):
            traces.append(name)
            return function(self, *arguments)

        monkeypatch.setattr(METHODS[method], name, counted)

    counting("train_step")
    counting("scores")
    seen = []

    class Watch(DictionaryRefresh):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            seen.append(len(traces))

    monkeypatch.setattr(train, "DictionaryRefresh", Watch)
    train.run(
        open_source(prepared), tmp_path, method=method, regime=regime,
        schedule=train.Schedule(2, 0.01), image_size=32, batch_size=7,
        initial_schedule=train.Schedule(0, 0.1), tuning=True,
        dictionary_refresh=4,
    )  # fmt: skip
    assert traces.count("train_step") == 1
    if method == "imcl":  # nor anything else after the first step
        assert len(seen) > 4 and len(set(seen)) == 1


@pytest.mark.parametrize("gradient", ["stored", "full"])
def test_nothing_of_a_step_runs_on_the_host(gradient):
    """No call of Python, in the step or any function that it calls."""
    images, labels = images_and_labels()
    model = small_model(gradient)
    model.compile(keras.optimizers.RMSprop(0.01, momentum=0.9))
    data = {"inputs": images, "image_index": np.arange(N, dtype=np.int32)}
    data = tf.nest.map_structure(tf.constant, (data, labels))
    step = tf.function(model.train_step, autograph=False)
    graph = step.get_concrete_function(data).graph.as_graph_def()
    nodes = [
        *graph.node,
        *(n for f in graph.library.function for n in f.node_def),
    ]
    operations = {node.op for node in nodes}
    assert {"Conv2D", "SparseMatrixMatMul", "ArgMax"} <= operations
    of_python = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "Print", "PrintV2"}
    assert not operations & of_python
