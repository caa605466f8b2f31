"""Algorithm 2: the corner cases by name, and excluded candidates."""

import numpy as np
import pytest

from imcl_tf.ops.similarity import joint_nonnegative_omp, released_omp
from tests import oracles
from tests.ops.omp_problems import (
    SOLVERS,
    assert_same,
    assert_well_formed,
    both,
    problem,
)

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
