"""Algorithm 2: goldens, NumPy references, and the corners by name."""

import pathlib

import ml_dtypes
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

import imcl_tf
from imcl_tf import similarity
from imcl_tf.similarity import joint_nonnegative_omp, released_omp
from tests import oracles

GOLDENS = pathlib.Path(__file__).parents[2] / "shared" / "goldens"
SOLVERS = {
    "paper": (joint_nonnegative_omp, oracles.joint_nonnegative_omp),
    "released": (released_omp, oracles.released_omp),
}
both = pytest.mark.parametrize("name", SOLVERS)


def golden(number):
    path = GOLDENS / f"omp_{number}.npz"
    if not path.exists():
        pytest.skip(f"goldens are not part of the project: no {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def problem(seed, b=16, m=40, c=12, d=10):
    """Correlated candidates; images near positive combinations of some."""
    rng = np.random.default_rng(seed)
    topics = rng.exponential(size=(m, 4))
    chosen = rng.exponential(size=(b, m)) * (rng.random((b, m)) < 4 / m)
    arrays = []
    for n in (c, d):
        atoms = topics @ rng.normal(size=(4, n)) + rng.normal(size=(m, n))
        images = chosen @ atoms + 0.3 * rng.normal(size=(b, n))
        arrays.append((images.astype("f"), atoms.astype("f")))
    (y, atoms_y), (f, atoms_f) = arrays
    return y, f, atoms_y, atoms_f


def assert_same(got, expected, atol=1e-4):
    np.testing.assert_array_equal(got[0], expected[0])
    for weights, reference in zip(got[1:], expected[1:], strict=True):
        np.testing.assert_allclose(weights, reference, rtol=1e-3, atol=atol)


def assert_well_formed(found, b, k, m):
    indices, *weights = (x.numpy() for x in found)
    assert indices.shape == (b, k) and indices.dtype == np.int32
    assert ((indices >= -1) & (indices < m)).all()
    used = indices >= 0
    # -1 only at the tail: never a used slot after an unused one.
    assert (np.diff(used.astype(int), axis=1) <= 0).all()
    for row in indices:
        chosen = row[row >= 0]
        assert len(set(chosen)) == len(chosen)
    for w in weights:
        assert w.shape == (b, k) and w.dtype == np.float32
        assert np.isfinite(w).all()
        assert (w[~used] == 0).all()
    return indices, *weights


# Goldens and references.


@pytest.mark.parametrize("number", [1, 2])
def test_golden_paper(number):
    g = golden(number)
    found = joint_nonnegative_omp(
        g["label_targets"], g["features"],
        g["dict_label_targets"] @ g["graph"].T, g["dict_features"],
        int(g["k"]), float(g["lambda_y"]), float(g["lambda_f"]),
    )  # fmt: skip
    np.testing.assert_array_equal(found.indices, g["paper_indices"])
    for name in ("label_weights", "feature_weights"):
        np.testing.assert_allclose(
            getattr(found, name), g[f"paper_{name}"], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("number", [1, 2])
def test_golden_released(number):
    g = golden(number)
    logits = g["features"] @ g["theta"]
    propagated = (
        oracles.impute_released(
            np.zeros_like(g["dict_labels"]), g["dict_features"] @ g["theta"]
        )
        @ g["graph"].T
    )
    atoms = np.where(
        g["dict_labels"] == 0, propagated, np.clip(g["dict_labels"], -0.5, 10)
    )
    found = released_omp(
        oracles.impute_released(g["labels"], logits), g["features"],
        atoms, g["dict_features"],
        int(g["k"]), float(g["lambda_y"]), float(g["lambda_f"]),
        threshold=1e-6,
    )  # fmt: skip
    unused = found.indices.numpy() < 0
    np.testing.assert_array_equal(
        np.where(unused, 0, found.indices), g["authors_indices"]
    )
    assert (g["authors_label_weights"][unused] == 0).all()
    assert (unused == (g["authors_label_weights"] == 0)).all()
    for name in ("label_weights", "feature_weights"):
        np.testing.assert_allclose(
            getattr(found, name), g[f"authors_{name}"], rtol=0, atol=1e-4
        )


# B, M, C, d, k, lambda_y, lambda_f
SIZES = [
    (1, 1, 1, 1, 1, 1.0, 0.5),
    (1, 30, 20, 15, 3, 0.5, 0.5),
    (24, 30, 12, 9, 3, 0.5, 0.5),
    (24, 60, 40, 24, 5, 1.0, 0.5),
    (24, 60, 5, 50, 5, 2.0, 0.5),
    (24, 25, 30, 4, 5, 1.0, 3.0),
    (24, 25, 3, 30, 5, 1.0, 0.5),  # k > C: a fourth atom depends
    (24, 25, 30, 2, 5, 1.0, 0.5),  # k > d
    (24, 60, 10, 10, 1, 0.0, 1.0),
    (24, 61, 10, 10, 5, 0.0, 1.0),
    (24, 60, 10, 10, 5, 1.0, 0.0),
    (8, 4, 10, 10, 5, 1.0, 0.5),  # k > M
    (3, 300, 300, 80, 8, 1.0, 0.01),
]


@both
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_against_the_reference(name, size):
    b, m, c, d, k, lambda_y, lambda_f = size
    solver, reference = SOLVERS[name]
    if name == "released":
        # From step min(C, d) on a residual is 0, and the sign of its
        # correlations (half of the released score) is rounding.
        k = max(1, min(k, c // 2, d // 2))
    y, f, atoms_y, atoms_f = problem(b + m + c + d + k, b, m, c, d)
    found = solver(y, f, atoms_y, atoms_f, k, lambda_y, lambda_f)
    assert_well_formed(found, b, k, m)
    assert_same(
        found,
        oracles.solve_all(
            reference, y, f, atoms_y, atoms_f, k, lambda_y, lambda_f
        ),
    )


@pytest.mark.parametrize("seed", range(5))
def test_minibatch_against_itself(seed):
    """The paper's case: candidates = images, none may pick itself."""
    y, f, *_ = problem(seed, b=32)
    atoms_y = (y + np.roll(y, 1, axis=1)) / 2
    own = np.arange(32)
    found = joint_nonnegative_omp(y, f, atoms_y, f, 5, exclude=own)
    assert (found.indices.numpy() != own[:, None]).all()
    assert_same(
        found,
        oracles.solve_all(
            oracles.joint_nonnegative_omp, y, f, atoms_y, f, 5, 1.0, 0.5, own
        ),
    )


@both
def test_scale_does_not_matter(name):
    """Units of y and f change the weights of the terms and nothing else."""
    y, f, atoms_y, atoms_f = problem(0)
    solver, _ = SOLVERS[name]
    expected = solver(y, f, atoms_y, atoms_f, 4, 1.0, 1.0)
    # Atoms times 8: the score stays, the weights shrink to an eighth.
    got = solver(y, f, atoms_y * 8, atoms_f * 0.5, 4, 1.0, 1.0)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_allclose(
        got.label_weights * 8, expected.label_weights, rtol=1e-5
    )
    np.testing.assert_allclose(
        got.feature_weights * 0.5, expected.feature_weights, rtol=1e-5
    )
    # Everything times 2^10: score times 2^20, same weights.
    got = solver(
        y * 1024, f * 1024, atoms_y * 1024, atoms_f * 1024, 4, 1.0, 1.0
    )
    assert_same(got, [x.numpy() for x in expected], atol=1e-6)


# By hand.


def test_by_hand():
    """One image, three candidates, C = 2, d = 2, lambda_y = 1, lambda_f = 2.

    y = (1, 1/2), f = (2, 0).
    atom 0: A y = (0, 1), f = (0, 3):  (1/2)^2 / 1 + 2 * 0           = 0.25
    atom 1: A y = (1, 0), f = (1, 1):  1^2 / 1    + 2 * (2^2 / 2)    = 5
    atom 2: A y = (1, 1), f = (1, 0):  (3/2)^2 / 2 + 2 * (2^2 / 1)   = 9.125
    First 2: c = (3/2) / 2 = 3/4, cbar = 2; r_y = (1/4, -1/4), r_f = 0.
    Then atom 0 scores 1/16, atom 1 scores 1/16: tie, atom 0 by its number,
    <r_y, (0, 1)> < 0: stop.
    """
    arrays = (
        [[1.0, 0.5]], [[2.0, 0.0]],
        [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]],
        [[0.0, 3.0], [1.0, 1.0], [1.0, 0.0]],
    )  # fmt: skip
    found = joint_nonnegative_omp(*arrays, 2, 1.0, 2.0)
    np.testing.assert_array_equal(found.indices, [[2, -1]])
    np.testing.assert_allclose(found.label_weights, [[0.75, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.feature_weights, [[2, 0]], rtol=1e-6)


def test_negative_weight_is_cut_and_keeps_its_slot():
    """f = (1, 2, 3) = a0 / 2 - a1 / 2 + a2, lambda_y = 0, lambda_f = 1.

    a0 = (1, 1, 3), a1 = (3, 3, 1), a2 = (2, 3, 2), squares 11, 19, 17.
    Scores 12^2 / 11 = 13.1, 12^2 / 19 = 7.6, 14^2 / 17 = 11.5: a0, weight
    12/11, r = (-1, 10, -3) / 11. Scores (24/11)^2 / 19 = 0.2505 of a1 and
    2^2 / 17 = 0.2353 of a2: a1. Weights (15/16, 3/16), r = (-1/2, 1/2, 0),
    <r, a2> = 1/2 > 0: a2. Then (1/2, -1/2, 1), cut to (1/2, 0, 1), not fitted
    again. Labels: y = (1, 1, 1) with the unit vectors, all weights 1.
    """
    features = np.array([[1.0, 1, 3], [3, 3, 1], [2, 3, 2]])
    arguments = np.ones((1, 3)), [[1.0, 2, 3]], np.eye(3), features
    found = joint_nonnegative_omp(*arguments, 4, 0.0, 1.0)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2, -1]])
    np.testing.assert_allclose(found.label_weights, [[1, 1, 1, 0]], atol=1e-5)
    np.testing.assert_allclose(
        found.feature_weights, [[0.5, 0, 1, 0]], atol=1e-5
    )
    # The released solver keeps the sign; candidate 0 was its first choice.
    found = released_omp(*arguments, 3, 0.0, 1.0)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2]])
    np.testing.assert_allclose(
        found.feature_weights, [[0.5, -0.5, 1]], atol=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_cut_least_squares_of_their_support(seed):
    """max(0, lstsq); where nothing was cut, it is the best nonnegative fit."""
    y, f, atoms_y, atoms_f = problem(seed, b=40, c=20, d=15)
    found = joint_nonnegative_omp(y, f, atoms_y, atoms_f, 5, 1.0, 0.5)
    indices, c, c_bar = assert_well_formed(found, 40, 5, 40)
    assert (c >= 0).all() and (c_bar >= 0).all()
    cut = 0
    for i in range(40):
        support = indices[i][indices[i] >= 0]
        if len(support) == 0:
            continue
        for target, atoms, weights in (
            (y[i], atoms_y[support], c[i]),
            (f[i], atoms_f[support], c_bar[i]),
        ):
            atoms = atoms.astype(float).T
            free = np.linalg.lstsq(atoms, target.astype(float), rcond=None)[0]
            np.testing.assert_allclose(
                weights[: len(support)], np.maximum(free, 0), atol=1e-4
            )
            residual = np.linalg.norm(target - atoms @ weights[: len(support)])
            _, best = scipy.optimize.nnls(atoms, target.astype(float))
            assert residual >= best - 1e-5
            if (free >= 0).all():
                np.testing.assert_allclose(residual, best, atol=1e-5)
            else:
                cut += 1
    assert 0 < cut < 40  # both cases were met


# Corners.


@both
def test_k_is_one(name):
    y, f, atoms_y, atoms_f = problem(1)
    solver, reference = SOLVERS[name]
    found = solver(y, f, atoms_y, atoms_f, 1, 1.0, 0.5)
    assert found.indices.shape == (16, 1)
    assert_same(
        found,
        oracles.solve_all(reference, y, f, atoms_y, atoms_f, 1, 1.0, 0.5),
    )


@both
@pytest.mark.parametrize("m", [1, 2, 4])
def test_fewer_candidates_than_k(name, m):
    y, f, atoms_y, atoms_f = problem(2, m=m)
    solver, reference = SOLVERS[name]
    found = solver(y, f, atoms_y, atoms_f, 5, 1.0, 0.5)
    indices, *_ = assert_well_formed(found, 16, 5, m)
    assert (indices[:, m:] == -1).all()
    assert (indices[:, 0] >= 0).any()
    assert_same(
        found,
        oracles.solve_all(reference, y, f, atoms_y, atoms_f, 5, 1.0, 0.5),
    )


def test_k_beyond_all_candidates_selects_each_once():
    """Positive orthogonal atoms: every candidate is admissible."""
    found = joint_nonnegative_omp(
        [[3.0, 2, 1]], [[3.0, 2, 1]], np.eye(3), np.eye(3), 7
    )
    np.testing.assert_array_equal(found.indices, [[0, 1, 2, -1, -1, -1, -1]])
    for weights in found[1:]:
        np.testing.assert_allclose(weights, [[3, 2, 1, 0, 0, 0, 0]], atol=1e-6)


def test_nearly_collinear_atoms():
    """All atoms within 1/100 of one direction: condition number about 300.

    One Gram-Schmidt pass in float32 is off by 300^2 * 6e-8 = 0.005 and more,
    two by 300 * 6e-8 = 2e-5.
    """
    rng = np.random.default_rng(0)
    common = rng.normal(size=40)
    common /= np.linalg.norm(common)
    atoms = common + 0.01 / np.sqrt(40) * rng.normal(size=(12, 40))
    atoms = atoms.astype(np.float32)
    mixture = rng.uniform(1, 2, size=(20, 12)) * (rng.random((20, 12)) < 0.4)
    y = (mixture @ atoms).astype(np.float32)
    found = joint_nonnegative_omp(y, y, atoms, atoms, 5, 1.0, 1.0)
    indices, c, c_bar = assert_well_formed(found, 20, 5, 12)
    assert (indices >= 0).sum() > 60
    np.testing.assert_array_equal(c, c_bar)
    for i in range(20):
        support = indices[i][indices[i] >= 0]
        free = np.linalg.lstsq(
            atoms[support].T.astype(float), y[i].astype(float), rcond=None
        )[0]
        np.testing.assert_allclose(
            c[i, : len(support)], np.maximum(free, 0), atol=5e-4
        )


def planted(seed, b, m, c, d, size):
    """y and f as positive combinations of the same `size` random atoms."""
    rng = np.random.default_rng(seed)
    atoms_y, atoms_f = rng.normal(size=(m, c)), rng.normal(size=(m, d))
    support = np.stack([rng.permutation(m)[:size] for _ in range(b)])
    c_true = rng.uniform(1, 2, size=(b, size))
    c_bar_true = rng.uniform(1, 2, size=(b, size))
    y = np.einsum("bs,bsn->bn", c_true, atoms_y[support])
    f = np.einsum("bs,bsn->bn", c_bar_true, atoms_f[support])
    arrays = tuple(x.astype(np.float32) for x in (y, f, atoms_y, atoms_f))
    return arrays, support, c_true, c_bar_true


@both
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_exact_recovery(name, scale):
    """A planted combination of 4 is found, and nothing besides when k = 7."""
    arrays, support, c, c_bar = planted(0, 20, 60, 300, 400, 4)
    arrays = [x * np.float32(scale) for x in arrays]
    # The released solver would follow the sign of rounding, so it gets k = 4.
    k = 7 if name == "paper" else 4
    found = SOLVERS[name][0](*arrays, k, 1.0, 0.5)
    indices, *weights = assert_well_formed(found, 20, k, 60)
    assert (indices[:, 4:] == -1).all()
    checked = 0
    for i in range(20):
        if name == "released" and 0 in support[i]:
            continue  # candidate 0 cannot be a later choice there
        order = np.argsort(support[i])
        got = np.argsort(indices[i, :4])
        np.testing.assert_array_equal(indices[i, got], support[i][order])
        for w, truth in zip(weights, (c, c_bar), strict=True):
            np.testing.assert_allclose(w[i, got], truth[i][order], atol=1e-4)
        checked += 1
    assert checked > 10


def test_duplicate_atoms():
    """Every candidate twice: the first copy is taken, with its full weight."""
    arrays, *_ = planted(1, 20, 30, 200, 300, 3)
    y, f, atoms_y, atoms_f = arrays
    once = joint_nonnegative_omp(y, f, atoms_y, atoms_f, 5)
    twice = joint_nonnegative_omp(
        y, f, np.concatenate([atoms_y] * 2), np.concatenate([atoms_f] * 2), 5
    )
    assert_same(twice, [x.numpy() for x in once], atol=1e-6)
    y, f, atoms_y, atoms_f = problem(3)
    atoms_y, atoms_f = np.repeat(atoms_y, 2, 0), np.repeat(atoms_f, 2, 0)
    for solver, reference in SOLVERS.values():
        found = solver(y, f, atoms_y, atoms_f, 5, 1.0, 0.5)
        assert_well_formed(found, 16, 5, 80)
        assert_same(
            found,
            oracles.solve_all(reference, y, f, atoms_y, atoms_f, 5, 1.0, 0.5),
        )


def test_dependent_atom_keeps_its_slot_with_weight_zero():
    """The example with the negative weight, and a fourth atom in its span.

    a3 = (0, 0, -1) scores 9 < 13.1, then (3/11)^2 = 0.074 < 0.2505, then 0.
    After the cut r = f - a0 / 2 - a2 = (-3/2, -3/2, -1/2), <r, a3> = 1/2 > 0:
    chosen, but a0, a1, a2 span all of R^3, so its weight is 0 and theirs stay
    as they are.
    """
    features = np.array([[1.0, 1, 3], [3, 3, 1], [2, 3, 2], [0, 0, -1]])
    found = joint_nonnegative_omp(
        np.ones((1, 4)), [[1.0, 2, 3]], np.eye(4), features, 4, 0.0, 1.0
    )
    np.testing.assert_array_equal(found.indices, [[0, 1, 2, 3]])
    np.testing.assert_allclose(found.label_weights, [[1, 1, 1, 1]], atol=1e-5)
    np.testing.assert_allclose(
        found.feature_weights, [[0.5, 0, 1, 0]], atol=1e-5
    )


@both
def test_zero_atoms_are_never_chosen(name):
    y, f, atoms_y, atoms_f = problem(4, m=20)
    solver, _ = SOLVERS[name]
    expected = solver(y, f, atoms_y, atoms_f, 5)
    # Zeros behind the others, so that the numbers stay; candidate 0 as before.
    padded = [np.concatenate([a, np.zeros_like(a)]) for a in (atoms_y, atoms_f)]
    assert_same(
        solver(y, f, *padded, 5), [x.numpy() for x in expected], atol=1e-6
    )
    nothing = [np.zeros_like(a) for a in (atoms_y, atoms_f)]
    indices, *weights = solver(y, f, *nothing, 5)
    assert (indices.numpy() == -1).all()
    for w in weights:
        assert (w.numpy() == 0).all()


def test_atom_that_is_zero_in_one_space_only():
    """<r, 0> = 0 is not positive: such a winner stops the image."""
    # Candidate 0 scores 0 + 0.5 * 9 = 4.5, candidate 1 1 + 0.5 * 0.5 = 1.25.
    found = joint_nonnegative_omp(
        [[1.0, 0]], [[3.0, 0.5]], [[0.0, 0], [1, 0]], [[1.0, 0], [0.0, 1]], 2
    )
    np.testing.assert_array_equal(found.indices, [[-1, -1]])
    # The released sum of signs is 1 + 0: accepted, with label weight 0.
    found = released_omp(
        [[1.0, 0]], [[3.0, 0.5]], [[0.0, 0], [1, 0]], [[1.0, 0], [0.0, 1]], 1
    )
    np.testing.assert_array_equal(found.indices, [[0]])
    np.testing.assert_array_equal(found.label_weights, [[0]])
    np.testing.assert_array_equal(found.feature_weights, [[3]])


@both
def test_zero_targets_select_nothing(name):
    y, f, atoms_y, atoms_f = problem(5)
    y[3], f[3] = 0, 0
    found = SOLVERS[name][0](y, f, atoms_y, atoms_f, 5)
    indices, c, c_bar = assert_well_formed(found, 16, 5, 40)
    assert (indices[3] == -1).all() and (indices[4] >= 0).any()
    assert (c[3] == 0).all() and (c_bar[3] == 0).all()


@both
def test_no_admissible_atom(name):
    """All atoms point away from the image in one of the two spaces."""
    y, f, atoms_y, atoms_f = (np.abs(x) + 0.1 for x in problem(6))
    for arguments in ((y, f, -atoms_y, atoms_f), (y, f, atoms_y, -atoms_f)):
        found = SOLVERS[name][0](*arguments, 5, 1.0, 1.0)
        assert (found.indices.numpy() == -1).all()
        assert (found.label_weights.numpy() == 0).all()
        assert (found.feature_weights.numpy() == 0).all()


def test_one_image_stops_the_others_go_on():
    y, f, atoms_y, atoms_f = problem(7)
    expected = joint_nonnegative_omp(y, f, atoms_y, atoms_f, 5)
    y[2] = 0  # and its features stay
    got = joint_nonnegative_omp(y, f, atoms_y, atoms_f, 5)
    others = np.arange(16) != 2
    assert (got.indices.numpy()[2] == -1).all()
    assert_same(
        [x.numpy()[others] for x in got],
        [x.numpy()[others] for x in expected],
        atol=1e-6,
    )


@pytest.mark.parametrize("impute", ["impute_paper", "impute_released"])
def test_all_labels_unobserved(impute):
    """Targets come from the prediction alone; nothing special happens."""
    rng = np.random.default_rng(8)
    f = np.abs(rng.normal(size=(20, 8)))
    logits = f @ rng.normal(size=(8, 15))
    y = getattr(oracles, impute)(np.zeros((20, 15), np.int8), logits)
    own = np.arange(20)
    for solver, reference in SOLVERS.values():
        found = solver(y, f, y, f, 4, 1.0, 0.5, own)
        indices, *_ = assert_well_formed(found, 20, 4, 20)
        assert (indices[:, 0] >= 0).sum() > 10
        assert_same(
            found, oracles.solve_all(reference, y, f, y, f, 4, 1.0, 0.5, own)
        )


# Exclusion.


@both
@pytest.mark.parametrize("width", [None, 1, 2])
def test_excluded_candidates(name, width):
    y, f, atoms_y, atoms_f = problem(9)
    solver, reference = SOLVERS[name]
    free = solver(y, f, atoms_y, atoms_f, 3, 1.0, 0.5).indices.numpy()
    assert (free[:, 1] >= 0).any()
    # What every image would take first (and second), for even images only.
    exclude = free[:, : width or 1].copy()
    exclude[1::2] = -1
    exclude = exclude[:, 0] if width is None else exclude
    found = solver(y, f, atoms_y, atoms_f, 3, 1.0, 0.5, exclude.astype("int32"))
    indices, *_ = assert_well_formed(found, 16, 3, 40)
    np.testing.assert_array_equal(indices[1::2], free[1::2])
    for i in range(0, 16, 2):
        assert not set(np.atleast_1d(exclude[i])) & set(
            indices[i][indices[i] >= 0]
        )
    assert (indices[::2] != free[::2]).any()
    assert_same(
        found,
        oracles.solve_all(
            reference, y, f, atoms_y, atoms_f, 3, 1.0, 0.5, exclude
        ),
    )


def test_exclude_minus_one_is_none():
    y, f, atoms_y, atoms_f = problem(10)
    expected = joint_nonnegative_omp(y, f, atoms_y, atoms_f, 3)
    for shape in ((16,), (16, 2)):
        got = joint_nonnegative_omp(
            y, f, atoms_y, atoms_f, 3, exclude=np.full(shape, -1)
        )
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@both
def test_all_candidates_excluded(name):
    y, f, atoms_y, atoms_f = problem(11, m=2)
    found = SOLVERS[name][0](
        y, f, atoms_y, atoms_f, 3, exclude=np.tile([[1, 0]], (16, 1))
    )
    assert (found.indices.numpy() == -1).all()
    for weights in found[1:]:
        assert (weights.numpy() == 0).all()


def test_a_single_image_has_no_neighbour_but_itself():
    """COCO's batch size 1 without a dictionary."""
    found = joint_nonnegative_omp(
        [[1.0, 1]], [[1.0]], [[1.0, 1]], [[1.0]], 3, exclude=[0]
    )
    np.testing.assert_array_equal(found.indices, [[-1, -1, -1]])


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
            tf.TensorSpec([b, 1], tf.int32),
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
