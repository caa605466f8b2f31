"""The label graph A as a Keras layer: product, gradient, weights, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods import label_graph
from imcl_tf.methods.label_graph import LabelGraph
from tests import programs
from tests.methods.graphs import dense, random_graph

# Product and gradient.


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_call_is_the_product(dtype):
    graph, a = random_graph(1)
    np.testing.assert_allclose(dense(graph), a, rtol=1e-6)
    y = np.random.default_rng(1).uniform(-0.5, 1, (7, 12)).astype(dtype)
    got = graph(tf.constant(y))
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, y.astype(float) @ a.T, atol=1e-5)


def test_call_compiled_with_unknown_batch_size():
    graph, a = random_graph(2)

    @tf.function(input_signature=[tf.TensorSpec([None, 12])])
    def compiled(y):
        result = graph(y)
        assert result.shape.as_list() == [None, 12]
        return result

    for b in (0, 1, 5):
        y = np.random.default_rng(b).normal(size=(b, 12)).astype(np.float32)
        np.testing.assert_allclose(compiled(y), y @ a.T, atol=1e-5)
        assert graph(y).shape == (b, 12)


@pytest.mark.parametrize("compiled", [False, True])
def test_gradient(compiled):
    """L = sum G * A y: dL/dA = G^T y on the support, dL/dy = G A."""
    graph, a = random_graph(3)
    rng = np.random.default_rng(3)
    y, upstream = rng.normal(size=(2, 6, 12)).astype(np.float32)

    def gradients(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            loss = tf.reduce_sum(upstream * graph(y))
        return tape.gradient(loss, [graph.edge_weights.value, y])

    if compiled:
        gradients = tf.function(gradients)
    by_weight, by_input = gradients(tf.constant(y))
    edges = graph.edges.numpy()
    full = upstream.T.astype(float) @ y
    np.testing.assert_allclose(
        by_weight, full[edges[:, 0], edges[:, 1]], atol=1e-5
    )
    np.testing.assert_allclose(by_input, upstream @ a, atol=1e-5)


def test_product_and_gradients_are_the_same_each_time():
    done = programs.run("tests.methods.graph_on_threads")
    assert done.returncode == 0, done.stderr


def test_gradient_numerically():
    """Through tanh, by central differences of the float64 formula."""
    graph, a = random_graph(4, c=6, k_a=3)
    rng = np.random.default_rng(4)
    y, target = rng.normal(size=(2, 5, 6)).astype(np.float32)
    with tf.GradientTape() as tape:
        residual = target - tf.tanh(graph(tf.constant(y)))
        loss = tf.reduce_sum(tf.square(residual))
    got = tape.gradient(loss, graph.edge_weights.value)

    def f(a):
        return ((target - np.tanh(y.astype(float) @ a.T)) ** 2).sum()

    for edge, (j, j2) in enumerate(graph.edges.numpy()):
        step = np.zeros_like(a)
        step[j, j2] = 1e-5
        numeric = (f(a + step) - f(a - step)) / 2e-5
        np.testing.assert_allclose(got[edge], numeric, rtol=1e-3, atol=1e-3)


def test_learning_leaves_the_support():
    graph, a = random_graph(5)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(graph.trainable_variables)
    gradient = tf.ones([graph.num_edges])
    optimizer.apply([gradient], graph.trainable_variables)
    np.testing.assert_allclose(
        dense(graph), np.where(a != 0, a - 0.1, 0), atol=1e-6
    )


def test_trainable_variables():
    graph, _ = random_graph(6)
    assert [v.name for v in graph.trainable_variables] == ["edge_weights"]
    fixed = [v.name for v in graph.non_trainable_variables]
    assert fixed == ["edges"]
    assert graph.edge_weights.shape == (graph.num_edges,)
    graph.trainable = False
    assert not graph.trainable_variables


def test_memory_at_full_size():
    """C = 5,000, k_a = 50: 250,000 weights, and nothing near C x C."""
    c, k_a, b = 5000, 50, 4
    rng = np.random.default_rng(0)
    indices = (np.arange(c)[:, None] + rng.permutation(c)[:k_a]) % c
    graph = LabelGraph.from_neighbors(indices, np.full((c, k_a), 1 / k_a))
    assert graph.edge_weights.shape == (250_000,)
    assert sum(np.prod(v.shape) for v in graph.trainable_variables) == 250_000
    assert graph.to_scipy().nnz == 250_000

    @tf.function(input_signature=[tf.TensorSpec([b, c])])
    def step(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            loss = tf.reduce_sum(tf.square(graph(y)))
        return tape.gradient(loss, [graph.edge_weights.value, y])

    concrete = step.get_concrete_function()
    # What a gradient needs: one number per edge and image. C x C is 25 times
    # more: 25,000,000.
    most = b * c * k_a
    at_edges = label_graph._at_edges.get_concrete_function(
        tf.TensorSpec([c, b]),
        tf.TensorSpec([c, b]),
        tf.TensorSpec([c * k_a, 2], tf.int64),
    )
    operations = concrete.graph.get_operations()
    calls = [o for o in operations if "Call" in o.type or "While" in o.type]
    (call,) = calls
    assert "at_edges" in call.get_attr("f").name
    operations += at_edges.graph.get_operations()
    types = {operation.type for operation in operations}
    assert "SparseMatrixMatMul" in types
    for operation in operations:
        for output in operation.outputs:
            assert output.shape.rank is not None, operation
            sizes = [n for n in output.shape if n is not None]
            assert sizes.count(c) <= 1, (operation, output.shape)
            assert np.prod(sizes, initial=1) <= most, (operation, output.shape)
    by_weight, by_input = concrete(tf.ones([b, c]))
    # A 1 = 1, so dL/da = 2 * 1 * 1 summed over the 4 images.
    np.testing.assert_allclose(by_weight, np.full(250_000, 8.0), rtol=1e-4)
    assert by_input.shape == (b, c)


# Saving.


def test_config_and_weights():
    graph, a = random_graph(7)
    other = LabelGraph.from_config(graph.get_config())
    assert (other.num_labels, other.num_edges) == (12, graph.num_edges)
    assert not dense(other).any()
    other.set_weights(graph.get_weights())
    np.testing.assert_array_equal(dense(other), dense(graph))
    y = tf.ones([2, 12])
    np.testing.assert_array_equal(other(y), graph(y))


@pytest.mark.parametrize("trainable", [True, False])
def test_saved_within_a_keras_model(tmp_path, trainable):
    graph, _ = random_graph(8)
    graph.trainable = trainable
    model = keras.Sequential([keras.layers.Input([12]), graph])
    assert model.output_shape == (None, 12)
    y = np.random.default_rng(8).normal(size=(3, 12)).astype(np.float32)
    expected = model(y)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(y), expected)
    assert isinstance(loaded.layers[-1], LabelGraph)
    assert loaded.layers[-1].trainable == trainable
    graph.edge_weights.assign(tf.zeros_like(graph.edge_weights))
    assert not np.asarray(model(y)).any()
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(y), expected)


def test_weights_stay_float32_under_mixed_precision():
    graph = LabelGraph(3, 4, dtype="mixed_float16")
    assert graph.edge_weights.dtype == "float32"
    graph.edges.assign([[0, 0], [1, 1], [1, 2], [2, 2]])
    graph.edge_weights.assign([1, 1, 1e-5, 1])
    # 1 + 1e-5 is 1 in float16.
    result = graph(tf.ones([1, 3]))
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, [[1, 1.00001, 1]], rtol=1e-7)
