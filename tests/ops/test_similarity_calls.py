"""Algorithm 2: types, compilation, cost, errors, the released rules."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.ops import similarity
from imcl_tf.ops.similarity import joint_nonnegative_omp, released_omp
from tests import oracles
from tests.ops.omp_problems import (
    SOLVERS,
    assert_same,
    assert_well_formed,
    both,
    problem,
)

# The released solver's own rules.


def test_released_candidate_zero_is_only_a_first_choice():
    """Its index marks an unused slot there: after a first choice it stops."""
    y, f = [[3.0, 2, 1]], [[3.0, 2, 1]]
    eye = np.eye(3)
    # In order 0, 1, 2 by score: 0 is first.
    found = released_omp(y, f, eye, eye, 3, 1.0, 1.0)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2]])
    # Now candidate 0 is the second best: the image stops there.
    atoms = eye[[1, 0, 2]]
    found = released_omp(y, f, atoms, atoms, 3, 1.0, 1.0)
    np.testing.assert_array_equal(found.indices, [[1, -1, -1]])
    np.testing.assert_allclose(found.label_weights, [[3, 0, 0]], atol=1e-6)
    # Algorithm 2 knows no such rule.
    found = joint_nonnegative_omp(y, f, atoms, atoms, 3, 1.0, 1.0)
    np.testing.assert_array_equal(found.indices, [[1, 0, 2]])


@pytest.mark.parametrize(
    ("threshold", "expected"),
    # Scores 2 (y^2 + f^2 / 2) with unit atoms: 2 * 1.5 * (4, 1, 1/4)
    [(20.0, []), (5.0, [0]), (1.0, [0, 1]), (1e-6, [0, 1, 2])],
)
def test_released_threshold(threshold, expected):
    x = [[2.0, 1, 0.5]]
    found = released_omp(
        x, x, np.eye(3), np.eye(3), 3, 4.0, 2.0, threshold=threshold
    )
    padded = expected + [-1] * (3 - len(expected))
    np.testing.assert_array_equal(found.indices, [padded])


def test_released_score_needs_positive_signs():
    """Opposite signs cancel: score 0, though both shares are large."""
    y, f = [[1.0, 1]], [[1.0, 1]]
    atoms_y, atoms_f = [[1.0, 0], [0, 1]], [[-1.0, 0], [0, 0.1]]
    # Candidate 0: (1 + 1) * (1 - 1) = 0; candidate 1: (1 + 1) * 2 = 4.
    found = released_omp(y, f, atoms_y, atoms_f, 2, 1.0, 1.0)
    np.testing.assert_array_equal(found.indices, [[1, -1]])
    np.testing.assert_allclose(found.feature_weights, [[10, 0]], rtol=1e-6)


# Types, compilation, cost.


@both
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "list"])
def test_input_types(name, dtype):
    solver, _ = SOLVERS[name]
    arrays = problem(12)
    if dtype == "list":
        rounded, inputs = arrays, [a.tolist() for a in arrays]
    else:
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        inputs = [a.astype(kind) for a in arrays]
        rounded = [a.astype(np.float32) for a in inputs]
    expected = solver(*rounded, 4)
    assert (expected.indices.numpy() >= 0).any()
    got = solver(*inputs, 4)
    assert_well_formed(got, 16, 4, 40)
    np.testing.assert_array_equal(got.indices, expected.indices)
    for a, b in zip(got[1:], expected[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_float16_sums_do_not_overflow():
    """||f||^2 = 64 * 100^2 = 640,000 > 65,504: computed in float32."""
    f = np.full((2, 64), 100, np.float16)
    y = np.ones((2, 3), np.float16)
    found = joint_nonnegative_omp(y, f, y, f, 1, exclude=[0, 1])
    np.testing.assert_array_equal(found.indices, [[1], [0]])
    np.testing.assert_allclose(found.feature_weights, [[1], [1]], rtol=1e-6)


@both
def test_eager_and_compiled_with_unknown_batch_size(name):
    solver, _ = SOLVERS[name]

    def spec(n):
        return tf.TensorSpec([None, n])

    @tf.function(
        input_signature=[
            spec(12), spec(10), spec(12), spec(10),
            tf.TensorSpec([None], tf.int32),
        ]
    )  # fmt: skip
    def compiled(y, f, atoms_y, atoms_f, exclude):
        found = solver(y, f, atoms_y, atoms_f, 4, 1.0, 0.5, exclude=exclude)
        assert found.indices.shape.as_list() == [None, 4]
        assert found.label_weights.shape.as_list() == [None, 4]
        return found

    for b in (1, 16):
        arrays = [tf.constant(x) for x in problem(13, b=b)]
        exclude = tf.range(b)
        expected = solver(*arrays, 4, 1.0, 0.5, exclude)
        assert isinstance(expected, imcl_tf.Similarities)
        got = compiled(*arrays, exclude)
        np.testing.assert_array_equal(got.indices, expected.indices)
        for a, b in zip(got[1:], expected[1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    empty = compiled(*(x[:0] for x in arrays[:2]), *arrays[2:], exclude[:0])
    assert empty.indices.shape == (0, 4)


@both
def test_images_do_not_influence_each_other(name):
    solver, _ = SOLVERS[name]
    y, f, atoms_y, atoms_f = problem(14)
    together = solver(y, f, atoms_y, atoms_f, 4)
    order = np.random.default_rng(0).permutation(16)
    shuffled = solver(y[order], f[order], atoms_y, atoms_f, 4)
    assert_same(shuffled, [x.numpy()[order] for x in together], atol=1e-6)
    alone = solver(y[5:6], f[5:6], atoms_y, atoms_f, 4)
    assert_same(alone, [x.numpy()[5:6] for x in together], atol=1e-6)


def test_no_retracing():
    """New data and new lambdas of the same shapes reuse the graph."""
    count = similarity._pursue.experimental_get_tracing_count
    for solver, _ in SOLVERS.values():
        solver(*problem(15), 3, 1.0, 0.5)
        before = count()
        found = solver(*problem(16), 3, 1.0, 0.5)
        other = solver(*problem(16), 3, 0.1, 0.7)
        assert count() == before
        assert (found.indices.numpy() != other.indices.numpy()).any()


@pytest.mark.parametrize("threshold", [None, 1e-6])
def test_graph_does_not_grow_with_the_minibatch(threshold):
    """A handful of batched operations per step, none per image."""

    def operations(b):
        spec = [
            tf.TensorSpec(shape)
            for shape in ([b, 12], [b, 10], [40, 12], [40, 10])
        ]
        concrete = tf.function(
            similarity._pursue.python_function, autograph=False
        ).get_concrete_function(
            *spec[:2], *((x,) for x in spec[2:]),
            tf.TensorSpec([b, 1], tf.int32), None,
            tf.TensorSpec([]), tf.TensorSpec([]), 5, threshold,
        )  # fmt: skip
        definition = concrete.graph.as_graph_def()
        nodes = list(definition.node)
        for function in definition.library.function:
            nodes += function.node_def
        return [node.op for node in nodes]

    few, many = operations(2), operations(19)
    assert len(few) == len(many)
    loops = {"While", "StatelessWhile", "Map", "MapDefun", "PyFunc", "If"}
    assert not loops & set(many)


# At the door.


def arguments(**changed):
    y, f, atoms_y, atoms_f = problem(17, b=3, m=5)
    return {
        "label_targets": y, "features": f,
        "label_atoms": atoms_y, "feature_atoms": atoms_f,
        **changed,
    }  # fmt: skip


@both
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label_targets": np.zeros(12)}, r"label_targets.*rank 2.*\(12,\)"),
        ({"features": np.zeros((3, 10, 1))}, "features must have rank 2"),
        ({"label_atoms": np.zeros(12)}, "label_atoms must have rank 2"),
        ({"feature_atoms": 1.0}, "feature_atoms must have rank 2"),
        ({"label_targets": np.zeros((3, 11))}, "labels.*11 and 12"),
        ({"features": np.zeros((3, 9))}, "feature dimensions.*9 and 10"),
        ({"features": np.zeros((4, 10))}, "images.*3 and 4"),
        ({"feature_atoms": np.zeros((6, 10))}, "candidates.*5 and 6"),
        (
            {
                "label_atoms": np.zeros((0, 12)),
                "feature_atoms": np.zeros((0, 10)),
            },
            "at least one candidate",
        ),
        ({"num_neighbors": 0}, "num_neighbors must be >= 1, got 0"),
        ({"num_neighbors": -2}, "num_neighbors must be >= 1, got -2"),
        ({"lambda_y": -1.0}, "lambdas must be >= 0"),
        ({"lambda_f": -0.1}, "lambdas must be >= 0"),
        ({"lambda_f": float("nan")}, "lambda"),
        ({"lambda_y": float("nan"), "lambda_f": 0.0}, "lambda"),
    ],
)
def test_errors_at_the_door(name, changed, message):
    with pytest.raises(ValueError, match=message):
        SOLVERS[name][0](**arguments(**changed))


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_atoms_in_parts_are_those_in_one(name, dtype):
    """Of any type."""
    y, f, *atoms = problem(18, b=6, m=20)
    atoms = [x.astype(dtype) for x in atoms]
    exclude = np.arange(6, dtype=np.int32) + 5
    solver = SOLVERS[name][0]
    whole = solver(y, f, *atoms, 5, exclude=exclude)
    assert len(np.unique(whole.indices)) > 6
    parts = [tuple(np.split(x, [3, 11])) for x in atoms]
    for got, expected in zip(
        solver(y, f, *parts, 5, exclude=exclude), whole, strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@both
@pytest.mark.parametrize("compiled", [False, True])
def test_more_dimensions_than_vectors(name, compiled):
    """Within a minibatch: run in another basis, to the same result."""
    y, f, atoms_y, atoms_f = problem(19, b=9, m=9, c=200, d=60)
    atoms_y[3] = atoms_f[3] = 0
    exclude = np.arange(9, dtype=np.int32)
    solver, reference = SOLVERS[name]

    def solve(*arrays):
        return solver(*arrays, 5, 1.0, 0.5, exclude)

    if compiled:  # of unknown sizes
        spec = [tf.TensorSpec([None, x.shape[1]]) for x in (y, f) * 2]
        solve = tf.function(solve, input_signature=spec, autograph=False)
    found = solve(*map(tf.constant, (y, f, atoms_y, atoms_f)))
    assert (found.indices.numpy()[:, 1] >= 0).any()
    expected = oracles.solve_all(
        reference, y, f, atoms_y, atoms_f, 5, 1.0, 0.5, exclude
    )
    assert_same(found, expected)


def test_shortened_vectors_keep_their_inner_products():
    y, _, atoms, _ = problem(20, b=6, m=4, c=50)
    atoms[1] *= 1e4
    short_y, (short,) = similarity._shorten(
        tf.constant(y), (tf.constant(atoms),)
    )
    assert short_y.shape == (6, 10) and short.shape == (4, 10)
    vectors = np.concatenate([y, atoms]).astype(float)
    short = np.concatenate([short_y, short]).astype(float)
    norms = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(
        (short @ short.T) / np.outer(norms, norms),
        (vectors @ vectors.T) / np.outer(norms, norms),
        atol=1e-6,
    )
    # But not in as many dimensions, nor of more atoms than targets.
    for targets, many in ((y[:, :10], atoms[:, :10]), (y[:3], atoms)):
        same_y, (same,) = similarity._shorten(
            tf.constant(targets), (tf.constant(many),)
        )
        np.testing.assert_array_equal(same_y, targets)
        np.testing.assert_array_equal(same, many)


def test_what_is_not_finite_does_not_raise():
    """Training tells of it by its scores."""
    y, f, atoms_y, atoms_f = problem(21, b=4, m=4, c=50, d=40)
    y[1, 0] = atoms_y[2, 3] = np.nan
    found = joint_nonnegative_omp(y, f, atoms_y, atoms_f)
    assert found.indices.shape == (4, 5)


def test_parts_of_the_atoms_must_agree():
    y, f, atoms_y, atoms_f = problem(17, b=3, m=5)
    with pytest.raises(ValueError, match="blocks of atoms .* 2 and 1"):
        joint_nonnegative_omp(y, f, (atoms_y, atoms_y), atoms_f)
    with pytest.raises(ValueError, match="candidates must agree, got 2 and 3"):
        joint_nonnegative_omp(
            y, f, tuple(np.split(atoms_y, [2])), tuple(np.split(atoms_f, [3]))
        )


@both
@pytest.mark.parametrize(
    "exclude", [0, [0], [0, 1], [[0], [1]], [[[0]], [[1]], [[2]]]]
)
def test_exclude_of_the_wrong_shape(name, exclude):
    """3 images want [3] or [3, E]; [1] must not stand for all of them."""
    with pytest.raises(ValueError, match="exclude"):
        SOLVERS[name][0](**arguments(exclude=exclude))


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), None])
def test_released_threshold_must_be_positive(threshold):
    """None would even mean Algorithm 2."""
    with pytest.raises(ValueError, match="threshold"):
        released_omp(**arguments(threshold=threshold))


def test_released_needs_a_lambda():
    with pytest.raises(ValueError, match="lambda_y or lambda_f > 0"):
        released_omp(**arguments(lambda_y=0.0, lambda_f=0.0))


def test_solvers_by_name():
    assert similarity.SOLVERS["paper"] is joint_nonnegative_omp
    assert similarity.SOLVERS["released"] is released_omp
    assert imcl_tf.joint_nonnegative_omp is joint_nonnegative_omp
