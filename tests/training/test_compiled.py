"""How a training step is compiled: traced once, without the host, by XLA."""

import itertools

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.methods.base import METHODS
from imcl_tf.methods.batches import Batch
from imcl_tf.methods.dictionary import Dictionary, DictionaryRefresh
from imcl_tf.methods.imcl import IMCL
from imcl_tf.methods.label_graph import LabelGraph
from imcl_tf.ops.labels import LabelTable
from imcl_tf.settings import DEFAULT_METHOD, REGIMES
from tests.methods.common import tiny_cnn

C, SIZE, N = 6, 8, 20
# Fewer than the 4 features: the least squares of more are ill-conditioned, and
# training would multiply rounding errors.
NEIGHBORS = 2


def images_and_labels():
    """Pictures of a colour each, with noise; labels of their colours."""
    rng = np.random.default_rng(0)
    colours = rng.random((N, 3))
    noise = rng.random((N, SIZE, SIZE, 3))
    images = 255 * (0.8 * colours[:, np.newaxis, np.newaxis] + 0.2 * noise)
    directions = rng.normal(size=(3, C))
    labels = np.sign(colours @ (directions - directions.mean(0)))
    observed = rng.random(labels.shape) < 0.7
    return images.astype(np.uint8), (labels * observed).astype(np.int8)


def small_model(**options):
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
        dictionary_size=0, num_neighbors=NEIGHBORS, loss_scale="initial",
        **options,
    )  # fmt: skip
    model.build((None, SIZE, SIZE, 3))
    table = LabelTable(scipy.sparse.csr_array(labels))
    model.dictionary = Dictionary(np.arange(10), table, 4, images[:10])
    return model


def losses(jit, policy, strategy):
    """The mean losses of three epochs."""
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
            model = small_model(dictionary_refresh=5)
            rmsprop = keras.optimizers.RMSprop(0.01, momentum=0.9, epsilon=1)
            model.compile(rmsprop, jit_compile=jit)
            return model.fit(batches, epochs=3, verbose=0).history["loss"]
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="module")
def plain():
    return losses(False, "float32", "none")


QUICK = {  # one setting differs from the plain step's; the rest is slow
    (False, "float32", "mirrored"), (False, "mixed_bfloat16", "none"),
    (True, "float32", "none"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("jit", "policy", "strategy"),
    [
        pytest.param(*x, marks=[] if x in QUICK else pytest.mark.slow)
        for x in itertools.product(
            (False, True),
            ("float32", "mixed_bfloat16"),
            ("none", "mirrored"),
        )
    ],
)
def test_combinations_train_alike(jit, policy, strategy, plain):
    """XLA, half precision and strategies: the losses of the plain step."""
    found = losses(jit, policy, strategy)
    fall = plain[0] - plain[-1]
    assert fall > 0.1 * plain[0]
    if policy == "float32":
        np.testing.assert_allclose(found, plain, rtol=1e-4)
    else:
        # Losses may differ by the share that features may, see ROUNDINGS, and
        # fall by half as much at least.
        np.testing.assert_allclose(found, plain, rtol=ROUNDINGS * 2.0**-8)
        assert found[0] - found[-1] > fall / 2


# One CPU rounds each product and sum to the 8 bits of bfloat16, another sums in
# float32 (AMX, AVX-512). At worst a feature of `small_model` is rounded so many
# times, each time by at most 2^-8: 1 / 255, a pixel times it, a weight, a
# product, 27 sums within 3 x 3 x 3 pixels with the bias, 36 sums over the
# positions with their division.
ROUNDINGS = 1 + 1 + 1 + 1 + 27 + 36


def test_half_precision_rounds_the_cnn_alone():
    """Features within the worst case of bfloat16, the loss of them float32."""
    images, labels = images_and_labels()
    batch = Batch(
        tf.constant(images), tf.constant(labels), tf.range(N, dtype=tf.int32)
    )
    features, terms = [], []
    for policy in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        keras.mixed_precision.set_global_policy(policy)
        try:
            model = small_model()
            features.append(model.features_of(batch.inputs, training=False))
            terms.append(model.loss_terms(features[-1], batch)["loss"])
            if policy == "float32":
                exact = model
        finally:
            keras.mixed_precision.set_global_policy("float32")
    assert model.backbone.compute_dtype == "bfloat16"
    assert features[1].dtype == terms[1].dtype == tf.float32
    # A sum's rounding error is a share of the sum of its absolute summands:
    # the features of weights without signs. (1 + u)^n - 1, u = 2^-8.
    (kernel, bias) = exact.backbone.get_weights()
    assert not bias.any()
    exact.backbone.set_weights([abs(kernel), bias])
    summed = exact.features_of(batch.inputs, training=False).numpy()
    worst = (1 + 2.0**-8) ** ROUNDINGS - 1
    assert 0.25 < worst < 0.31
    error = abs(features[1].numpy() - features[0].numpy())
    assert (error <= worst * summed).all() and error.any()
    # The same features give the same loss in either precision.
    exact.backbone.set_weights([kernel, bias])
    again = exact.loss_terms(features[1], batch)["loss"]
    np.testing.assert_allclose(terms[1], again, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "regime"),
    [
        pytest.param(
            method,
            regime,
            marks=[] if regime == "end_to_end" else pytest.mark.slow,
        )
        for method in (DEFAULT_METHOD, "selective")
        for regime in REGIMES
    ],
)
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

    refresh = DictionaryRefresh.on_train_batch_end

    def watched(self, batch, logs=None):
        refresh(self, batch, logs)
        seen.append(len(traces))

    monkeypatch.setattr(DictionaryRefresh, "on_train_batch_end", watched)
    imcl_tf.run(
        open_source(prepared), tiny_cnn(), method, tmp_path, regime=regime,
        epochs=2, learning_rate=0.01, batch_size=7, initial_epochs=0,
        tuning=True, dictionary_refresh=4, num_neighbors=NEIGHBORS,
    )  # fmt: skip
    assert traces.count("train_step") == 1
    if method == DEFAULT_METHOD:  # nor anything else after the first step
        assert len(seen) > 4 and len(set(seen)) == 1


@pytest.mark.parametrize("gradient", ["stored", "full"])
def test_nothing_of_a_step_runs_on_the_host(gradient):
    """No call of Python, in the step or any function that it calls."""
    images, labels = images_and_labels()
    model = small_model(dictionary_gradient=gradient)
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
