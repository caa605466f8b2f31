"""Algorithm 2: goldens, NumPy references, and results by hand."""

import numpy as np
import pytest
import scipy.optimize

from imcl_tf.ops.similarity import joint_nonnegative_omp, released_omp
from tests import oracles
from tests.ops.omp_problems import (
    SOLVERS,
    assert_same,
    assert_well_formed,
    both,
    golden,
    problem,
)

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
    (3, 300, 300, 80, 5, 1.0, 0.01),
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
