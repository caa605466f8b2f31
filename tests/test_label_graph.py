"""The label graph A: support, initial weights, product and gradient."""

import pathlib
import pickle
import tracemalloc

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf import label_graph
from imcl_tf.label_graph import LabelGraph
from tests import oracles

GOLDENS = pathlib.Path(__file__).parents[2] / "shared" / "goldens"


def random_labels(seed=0, n=60, c=15):
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.05, 0.6, c)
    labels = np.where(rng.random((n, c)) < rate, 1, -1)
    return np.where(rng.random((n, c)) < 0.7, labels, 0).astype(np.int8)


def random_graph(seed=0, c=12, k_a=4):
    """Random neighbours, random weights of both signs, some slots unused."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(c)[:k_a] for _ in range(c)])
    indices[rng.random((c, k_a)) < 0.2] = -1
    weights = rng.normal(size=(c, k_a)).astype(np.float32)
    dense = np.zeros((c, c))
    for j in range(c):
        for j2, a in zip(indices[j], weights[j], strict=True):
            if j2 >= 0:
                dense[j, j2] = a
    return LabelGraph.from_neighbors(indices, weights), dense


def dense(graph):
    matrix = graph.to_scipy()
    assert isinstance(matrix, scipy.sparse.csr_array)
    assert matrix.dtype == np.float32
    return matrix.toarray()


# Construction.


def test_identity():
    graph = imcl_tf.LabelGraph.identity(4)
    np.testing.assert_array_equal(dense(graph), np.eye(4))
    assert graph.num_labels == 4 and graph.num_edges == 4
    y = tf.random.stateless_normal([3, 4], [1, 2])
    np.testing.assert_array_equal(graph(y), y)


def test_from_neighbors_by_hand():
    """(A y)_0 = 2 y_0 - y_2, (A y)_1 = 0, (A y)_2 = 0.5 y_1."""
    graph = LabelGraph.from_neighbors(
        [[2, 0], [-1, -1], [-1, 1]], [[-1, 2], [np.nan, 7], [np.inf, 0.5]]
    )
    assert graph.num_labels == 3 and graph.num_edges == 3
    np.testing.assert_array_equal(
        dense(graph), [[2, 0, -1], [0, 0, 0], [0, 0.5, 0]]
    )
    np.testing.assert_array_equal(
        graph(tf.constant([[1.0, 10, 100], [0, 1, 0]])),
        [[-98, 0, 5], [0, 0, 0.5]],
    )


def test_edges_are_sorted_with_their_weights():
    """Row-major order, which the product asks for."""
    graph, a = random_graph()
    edges = graph.edges.numpy()
    keys = edges[:, 0] * 12 + edges[:, 1]
    assert (np.diff(keys) > 0).all()
    np.testing.assert_allclose(graph.edge_weights, a[edges[:, 0], edges[:, 1]])


def test_from_neighbors_keeps_edges_of_weight_zero():
    graph = LabelGraph.from_neighbors([[0, 1], [1, 0]], [[1, 0], [1, 0]])
    assert graph.num_edges == 4
    np.testing.assert_array_equal(dense(graph), np.eye(2))


def test_graph_without_edges():
    graph = LabelGraph.from_neighbors(np.full((3, 2), -1), np.zeros((3, 2)))
    assert graph.num_edges == 0
    np.testing.assert_array_equal(graph(tf.ones([2, 3])), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("indices", "weights", "message"),
    [
        ([[0], [1]], [[1, 2], [3, 4]], r"\[C, k_a\].*\(2, 1\) and \(2, 2\)"),
        ([0, 1], [1, 1], r"\[C, k_a\], got \(2,\)"),
        ([[0], [2]], [[1], [1]], r"\[-1, 2\)"),
        ([[0], [-2]], [[1], [1]], r"\[-1, 2\)"),
        ([[0, 0], [1, -1]], [[1, 2], [3, 4]], "only once"),
        ([[0, 1, 0], [1, 0, -1]], np.ones((2, 3)), "only once"),
        ([[0], [1]], [[1], [np.nan]], "finite"),
        ([[0], [1]], [[np.inf], [1]], "finite"),
    ],
)
def test_from_neighbors_errors(indices, weights, message):
    with pytest.raises(ValueError, match=message):
        LabelGraph.from_neighbors(indices, weights)


def test_from_neighbors_padding_may_repeat():
    graph = LabelGraph.from_neighbors(
        [[0, -1, -1], [1, -1, -1]], [[1, 5, 5], [1, 5, 5]]
    )
    np.testing.assert_array_equal(dense(graph), np.eye(2))


# Five images, labels: dog, pet, cat, snow. Observed positives 1, absent -1,
# unobserved 0.
FIVE = np.array(
    [
        [1, 1, -1, -1],
        [1, 1, 0, -1],
        [1, -1, 1, -1],
        [1, 1, 1, 0],
        [-1, 1, 1, -1],
    ],
    np.int8,
)


def test_from_cooccurrence_by_hand():
    """n = [[4, 3, 2, 0], [3, 4, 2, 0], [2, 2, 3, 0], [0, 0, 0, 0]].

    dog: dog 1, pet 3/4, cat 2/4, sum 9/4: 4/9, 3/9, 2/9.
    pet: dog 3/4, pet 1, cat 2/4: the same.
    cat: dog 2/3, pet 2/3, cat 1, sum 7/3: 2/7, 2/7, 3/7.
    snow has no positive and keeps itself.
    """
    graph = LabelGraph.from_cooccurrence(FIVE)
    assert graph.num_edges == 10
    np.testing.assert_allclose(
        dense(graph),
        [
            [4 / 9, 3 / 9, 2 / 9, 0],
            [3 / 9, 4 / 9, 2 / 9, 0],
            [2 / 7, 2 / 7, 3 / 7, 0],
            [0, 0, 0, 1],
        ],
        rtol=1e-6,
    )


def test_from_cooccurrence_keeps_the_most_frequent():
    """k_a = 2: dog keeps pet (3 > 2), pet keeps dog; cat's dog and pet tie
    at 2, the first stays. 1 / (1 + 3/4) = 4/7; 1 / (1 + 2/3) = 3/5.
    """
    graph = LabelGraph.from_cooccurrence(FIVE, 2)
    np.testing.assert_allclose(
        dense(graph),
        [
            [4 / 7, 3 / 7, 0, 0],
            [3 / 7, 4 / 7, 0, 0],
            [2 / 5, 0, 3 / 5, 0],
            [0, 0, 0, 1],
        ],
        rtol=1e-6,
    )
    alone = LabelGraph.from_cooccurrence(FIVE, 1)
    np.testing.assert_array_equal(dense(alone), np.eye(4))


def test_a_label_keeps_itself_though_others_are_as_frequent():
    """Label 1 is positive only where label 0 is: n(1, 0) = n(1, 1) = 2."""
    labels = [[1, 1, 1], [1, 1, 1], [1, -1, 1]]
    graph = LabelGraph.from_cooccurrence(labels, 2)
    # Label 2 and label 0 go together three times, label 1 ties: 0 first.
    np.testing.assert_allclose(
        dense(graph),
        [[1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0], [1 / 2, 0, 1 / 2]],
    )


def test_absence_together_is_no_cooccurrence():
    labels = np.array([[-1, -1], [-1, -1], [0, 0], [1, -1], [-1, 1]], np.int8)
    np.testing.assert_array_equal(
        dense(LabelGraph.from_cooccurrence(labels)), np.eye(2)
    )


@pytest.mark.parametrize("k_a", [1, 3, 15, 50])
def test_from_cooccurrence_against_the_reference(k_a):
    labels = random_labels()
    labels[:, 4] = -np.abs(labels[:, 4])
    graph = LabelGraph.from_cooccurrence(labels, k_a)
    got = dense(graph)
    np.testing.assert_allclose(
        got, oracles.cooccurrence_graph(labels, k_a), atol=1e-6
    )
    np.testing.assert_allclose(got.sum(1), np.ones(15), rtol=1e-6)
    assert ((got > 0).sum(1) <= k_a).all() and (np.diag(got) > 0).all()


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_from_cooccurrence_dense_is_sparse(kind):
    labels = random_labels(1)
    expected = dense(LabelGraph.from_cooccurrence(labels, 5))
    given = getattr(scipy.sparse, f"{kind}_array")(labels)
    np.testing.assert_array_equal(
        dense(LabelGraph.from_cooccurrence(given, 5)), expected
    )
    np.testing.assert_array_equal(
        dense(LabelGraph.from_cooccurrence(labels.astype(float), 5)), expected
    )


def test_from_cooccurrence_counts_beyond_int8():
    """300 images together: neither n nor the products may wrap at 127."""
    labels = np.ones((300, 2), np.int8)
    labels[:100, 1] = -1
    np.testing.assert_allclose(
        dense(LabelGraph.from_cooccurrence(labels)),
        # 1 / (1 + 200/300) = 3/5; n(1, 0) = n(1, 1) = 200.
        [[3 / 5, 2 / 5], [1 / 2, 1 / 2]],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("labels", "k_a", "message"),
    [
        (FIVE, 0, "num_neighbors must be >= 1, got 0"),
        (2 * FIVE, 5, "labels must be -1, 0 or 1"),
        (FIVE[0], 5, r"\[N, C\]"),
    ],
)
def test_from_cooccurrence_errors(labels, k_a, message):
    with pytest.raises(ValueError, match=message):
        LabelGraph.from_cooccurrence(labels, k_a)


def test_from_cooccurrence_leaves_its_input():
    labels = scipy.sparse.csr_array(random_labels(3))
    before = labels.toarray()
    LabelGraph.from_cooccurrence(labels, 3)
    np.testing.assert_array_equal(labels.toarray(), before)


def test_memory_of_from_cooccurrence():
    """Linear in observed labels and pairs: 2 GB at 20 and 25 millions."""
    rng = np.random.default_rng(4)
    n, c, observed = 100_000, 500, 500_000
    cells = np.unique(rng.integers(0, n * c, observed))
    labels = scipy.sparse.csr_array(
        (np.ones(len(cells), np.int8), (cells // c, cells % c)), (n, c)
    )
    tracemalloc.start()
    LabelGraph.from_cooccurrence(labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25 * observed + 60 * c**2


def test_from_similarities_by_hand():
    """Row 0: 0.8 + 0.4 + 1 = 2.2. Row 1: its own 0.2 counts as 1; label 0's
    0 is no edge. Row 2 is empty. Row 3: 3 + 1 = 4."""
    similarities = [
        [0, 0.8, 0.4, 0],
        [0, 0.2, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 3, 9],
    ]
    graph = LabelGraph.from_similarities(scipy.sparse.csr_array(similarities))
    assert graph.num_edges == 7
    np.testing.assert_allclose(
        dense(graph),
        [
            [1 / 2.2, 0.8 / 2.2, 0.4 / 2.2, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 0.75, 0.25],
        ],
        rtol=1e-6,
    )


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_from_similarities_keeps_the_largest(kind):
    """k_a = 3 of ten; 0.5 three times: the smaller label numbers stay."""
    row = [0.1, 0.5, 0.0, 0.9, 0.5, 0.2, 0.5, 0.3, 0.4, 0.1]
    full = np.zeros((10, 10))
    full[8] = row
    given = getattr(scipy.sparse, f"{kind}_array")(full)
    got = dense(LabelGraph.from_similarities(given, 3))
    expected = np.zeros(10)
    expected[[8, 3, 1]] = np.array([1, 0.9, 0.5]) / 2.4
    np.testing.assert_allclose(got[8], expected, rtol=1e-6)
    np.testing.assert_array_equal(given.toarray(), full)


def test_from_similarities_stored_zeros_and_disorder():
    """A stored 0 is no edge; entries stored twice add up."""
    values = [0.0, 0.25, 0.5, 0.25]
    given = scipy.sparse.csr_array(
        (values, [2, 1, 0, 1], [0, 4, 4, 4]), shape=(3, 3)
    )
    got = dense(LabelGraph.from_similarities(given))
    np.testing.assert_allclose(got[0], [2 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("similarities", "k_a", "message"),
    [
        (np.eye(3), 0, "num_neighbors must be >= 1, got 0"),
        (np.ones((3, 2)), 5, r"\[C, C\], got \(3, 2\)"),
        (-np.eye(3), 5, "finite and >= 0"),
        (np.diag([1, np.nan]), 5, "finite and >= 0"),
        (np.diag([1, np.inf]), 5, "finite and >= 0"),
    ],
)
def test_from_similarities_errors(similarities, k_a, message):
    with pytest.raises(ValueError, match=message):
        LabelGraph.from_similarities(scipy.sparse.csr_array(similarities), k_a)


@pytest.mark.parametrize("number", [1, 2])
def test_golden_orientation(number):
    """Row j of `graph` holds the weights into label j, which sum to 1."""
    path = GOLDENS / f"omp_{number}.npz"
    if not path.exists():
        pytest.skip(f"goldens are not part of the project: no {path}")
    with np.load(path) as arrays:
        g = dict(arrays)
    k_a = int((g["graph"] != 0).sum(1).max())
    order = np.argsort(-np.abs(g["graph"]), axis=1)[:, :k_a]
    graph = LabelGraph.from_neighbors(
        order, np.take_along_axis(g["graph"], order, 1)
    )
    np.testing.assert_array_equal(dense(graph), g["graph"])
    if number == 1:  # the other one is the identity
        assert (g["graph"] != g["graph"].T).any()
    np.testing.assert_allclose(
        graph(g["dict_label_targets"]),
        g["dict_label_targets"] @ g["graph"].T,
        atol=1e-5,
    )
    # As `from_cooccurrence` leaves them.
    np.testing.assert_allclose(g["graph"].sum(1), 1, rtol=1e-5)
    own = dense(LabelGraph.from_cooccurrence(random_labels(2), 4))
    np.testing.assert_allclose(own.sum(1), 1, rtol=1e-5)
    assert (np.abs(own.sum(0) - 1) > 0.01).any()


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


# One file.

NAMES = ("dog", "über sea", "a, b", "NA", "001", "dog ", "犬")


@pytest.fixture
def written(tmp_path):
    """A graph of NAMES in a file: (path, graph)."""
    graph, _ = random_graph(9, c=len(NAMES))
    path = tmp_path / "graph.npz"
    label_graph.save(path, graph, NAMES)
    return path, graph


def test_saved_and_loaded(written):
    path, graph = written
    for loaded in (
        label_graph.load(path, NAMES),
        label_graph.load(str(path), list(NAMES)),
        label_graph.load_named(path)[0],
    ):
        np.testing.assert_array_equal(loaded.edges, graph.edges)
        np.testing.assert_array_equal(loaded.edge_weights, graph.edge_weights)
        assert loaded.num_labels == len(NAMES)
    assert label_graph.load_named(path)[1] == NAMES
    assert [p.name for p in path.parent.iterdir()] == ["graph.npz"]


def test_the_file_speaks_for_itself(written):
    """NumPy alone reads it, without pickle."""
    path, graph = written
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["labels"].tolist() == list(NAMES)
        np.testing.assert_array_equal(arrays["edges"], graph.edges)
        np.testing.assert_array_equal(arrays["weights"], graph.edge_weights)


def test_size_of_the_file(tmp_path):
    """250,000 random weights of 4 bytes do not pack; little comes on top."""
    rng = np.random.default_rng(5)
    indices = np.argsort(rng.random((5000, 500)), axis=1)[:, :50]
    graph = LabelGraph.from_neighbors(indices, rng.random((5000, 50)))
    names = [f"a label's name {number}" for number in range(5000)]
    label_graph.save(tmp_path / "graph.npz", graph, names)
    assert (tmp_path / "graph.npz").stat().st_size < 2_000_000


def test_save_refuses_other_labels(tmp_path):
    path = tmp_path / "graph.npz"
    with pytest.raises(ValueError, match=f"{path}: 2 names for 3 labels"):
        label_graph.save(path, LabelGraph.identity(3), ["a", "b"])
    assert not path.exists()


def test_save_leaves_what_was_there(written, small_disk):
    path, graph = written
    before = path.read_bytes()
    with small_disk(100), pytest.raises(OSError, match="graph.npz"):
        label_graph.save(path, graph, NAMES)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["graph.npz"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:6], "7 labels, the data set has 6; label 6 is '犬', .* None"),
        ((*NAMES, "x"), "7 labels, the data set has 8; label 7 is None, .*'x'"),
        (
            (*NAMES[:2], "cat", *NAMES[3:]),
            "has 7; label 2 is 'a, b', in the data set 'cat'",
        ),
        ((*NAMES[:4], *NAMES[5:], "001"), "label 4 is '001', .* 'dog '"),
        ((), "has 0; label 0 is 'dog'"),
    ],
)
def test_load_refuses_other_labels(written, names, message):
    path, _ = written
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        label_graph.load(path, names)


def test_load_without_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="graph.npz"):
        label_graph.load(tmp_path / "graph.npz", NAMES)


GOOD = {
    "edges": np.array([[0, 0], [1, 1]]),
    "weights": np.ones(2, np.float32),
    "labels": np.array(["a", "b"]),
}


@pytest.mark.parametrize(
    "change",
    [
        {"edges": np.array([[0, 0], [1, 2]])},
        {"edges": np.array([[0, 0], [-1, 1]])},
        {"edges": np.array([[0, 0], [0, 0]])},
        {"edges": np.array([[0.0, 0], [1, 1]])},
        {"edges": np.array([0, 1])},
        {"weights": np.ones(3)},
        {"weights": np.array([1, np.nan])},
        {"weights": np.array(["1", "2"])},
        {"weights": np.array([1, None])},  # pickled
        {"edges": None},
        {"weights": None},
        {"labels": None},
    ],
)
def test_load_foreign_arrays(tmp_path, change):
    path = tmp_path / "graph.npz"
    np.savez(path, **GOOD)
    assert label_graph.load(path, ["a", "b"]).num_edges == 2
    arrays = {k: v for k, v in (GOOD | change).items() if v is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"^{path}: not a label graph: "):
        label_graph.load(path, ["a", "b"])


@pytest.mark.parametrize("keep", [0, 1, 30, 200, 400, -1])
def test_load_cut_file(written, keep):
    path, _ = written
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"^{path}: not a label graph: "):
        label_graph.load(path, NAMES)


def test_load_damaged_file(written):
    """Every 5th byte, changed, is either of no matter or found out."""
    path, graph = written
    good = path.read_bytes()
    found = 0
    for place in range(0, len(good), 5):
        bad = bytearray(good)
        bad[place] ^= 255
        path.write_bytes(bytes(bad))
        try:
            loaded = label_graph.load(path, NAMES)
        except ValueError as error:
            found += 1
            assert str(error).startswith(f"{path}: ")
        else:
            np.testing.assert_array_equal(loaded.to_scipy().toarray(),
                                          dense(graph))  # fmt: skip
    assert found > len(good) / 5 / 2


@pytest.mark.parametrize("content", [b"", b"label,weight\n", pickle.dumps([1])])
def test_load_other_files(tmp_path, content):
    path = tmp_path / "graph.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: not a label graph: "):
        label_graph.load(path, NAMES)


def test_load_npy_file(tmp_path):
    np.save(tmp_path / "graph.npy", np.ones(3))
    with pytest.raises(ValueError, match="not a label graph: "):
        label_graph.load(tmp_path / "graph.npy", NAMES)
