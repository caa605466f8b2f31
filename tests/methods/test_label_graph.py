"""The label graph A: support and initial weights."""

import pathlib
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.label_graph import LabelGraph
from tests import oracles
from tests.methods.graphs import dense, random_graph, random_labels

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


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
    with np.load(GOLDENS / f"omp_{number}.npz") as arrays:
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


@pytest.mark.parametrize("columns", [3, 5])
def test_targets_of_other_labels_are_refused(columns):
    graph = LabelGraph.identity(4)
    with pytest.raises(ValueError, match=r"must be \[B, 4\], got"):
        graph(np.ones((2, columns), np.float32))


def test_the_weight_of_a_label_itself():
    """The others of a row share the rest in their proportions."""
    graph = LabelGraph.from_neighbors(
        [[0, 1, 2], [1, -1, -1], [2, 0, -1]],
        [[0.2, 0.6, 0.2], [0.4, 0.0, 0.0], [0.5, 0.5, 0.0]],
    )
    found = graph.with_self_weight(0.6).to_scipy().toarray()
    np.testing.assert_allclose(
        found, [[0.6, 0.3, 0.1], [0, 1, 0], [0.4, 0, 0.6]], rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"self_weight must be in \(0, 1\]"):
        graph.with_self_weight(1.5)
    labels = [[1, 1, -1], [1, 1, 1]]
    graph = LabelGraph.from_cooccurrence(labels, 3, self_weight=0.5)
    found = graph.to_scipy().toarray()
    np.testing.assert_allclose(found.diagonal(), 0.5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_propagation_is_the_call():
    graph = LabelGraph.from_cooccurrence(
        np.random.default_rng(0).choice([-1, 1], (20, 6)), 3
    )
    y = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(graph.propagate(tf.constant(y)), graph(y))
    np.testing.assert_allclose(
        graph.propagate(tf.constant(y), dense=True), graph(y), atol=1e-6
    )
