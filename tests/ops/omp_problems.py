"""Goldens, problems and checks that the tests of Algorithm 2 share."""

import pathlib

import numpy as np
import pytest

from imcl_tf.ops.similarity import joint_nonnegative_omp, released_omp
from tests import oracles

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
SOLVERS = {
    "paper": (joint_nonnegative_omp, oracles.joint_nonnegative_omp),
    "released": (released_omp, oracles.released_omp),
}
both = pytest.mark.parametrize("name", SOLVERS)


def golden(number):
    """Inputs and results of a problem: `paper_*` and, released, `authors_*`."""
    with np.load(GOLDENS / f"omp_{number}.npz") as arrays:
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
