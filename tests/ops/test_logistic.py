"""`LogisticSolver` against scikit-learn and SciPy without its scaling."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from sklearn.linear_model import LogisticRegression

from imcl_tf.ops import logistic
from imcl_tf.ops.logistic import LogisticSolver


def problem(num_images=60, size=7, num_labels=5, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(1, 2, (num_images, size)).astype(np.float32)
    slopes = rng.normal(0, 1, (size, num_labels))
    noisy = features @ slopes + rng.normal(0, 2, (num_images, num_labels))
    labels = np.where(noisy > 0, 1, -1) * (rng.random(noisy.shape) < 0.6)
    return features, labels.astype(np.int8)


@pytest.mark.parametrize(("num_images", "size"), [(60, 7), (20, 30)])
def test_each_label_is_that_of_scikit_learn(num_images, size):
    """With C = 1 / (penalty n), n the mean number of observed images."""
    features, labels = problem(num_images, size)
    head, weaker = LogisticSolver(features).path(
        scipy.sparse.csr_array(labels), [0.1, 0.03]
    )
    count = (labels != 0).sum() / labels.shape[1]
    for found in (head, weaker):
        for j in range(labels.shape[1]):
            seen = labels[:, j] != 0
            exact = LogisticRegression(
                C=1 / (found.penalty * count), tol=1e-8, max_iter=10_000
            ).fit(features[seen], labels[seen, j])
            np.testing.assert_allclose(
                found.kernel[:, j], exact.coef_[0], atol=2e-3
            )
            np.testing.assert_allclose(
                found.bias[j], exact.intercept_[0], rtol=1e-2, atol=5e-3
            )


def test_probabilities_as_targets():
    """A target 2 p - 1 counts p as present and 1 - p as absent."""
    features, _ = problem(num_labels=1)
    p = np.random.default_rng(1).random((60, 1))
    targets = scipy.sparse.csr_array(2 * p - 1)
    (head,) = LogisticSolver(features).path(targets, [0.2])

    def objective(theta):
        z = features @ theta[:-1] + theta[-1]
        entropy = np.logaddexp(0, z) - p[:, 0] * z
        return entropy.mean() + 0.1 * (theta[:-1] ** 2).sum()

    exact = scipy.optimize.minimize(objective, np.zeros(8), tol=1e-10).x
    np.testing.assert_allclose(head.kernel[:, 0], exact[:-1], atol=2e-3)
    np.testing.assert_allclose(head.bias[0], exact[-1], atol=5e-3)


def test_labels_without_both_signs_stay_finite():
    features, labels = problem()
    labels[:, 0] = 0
    labels[:, 1] = np.abs(labels[:, 1])
    (head,) = LogisticSolver(features).path(
        scipy.sparse.csr_array(labels), [1e-6]
    )
    scores = head.scores(features)
    assert np.isfinite(scores).all()
    assert (scores[:, 0] == 0).all()  # nothing is known
    assert (scores[labels[:, 1] > 0, 1] > 2).all()


def test_blocks_of_labels_change_nothing(monkeypatch):
    features, labels = problem()
    labels = scipy.sparse.csr_array(labels)
    solver = LogisticSolver(features)
    (whole,) = solver.path(labels, [0.1])
    monkeypatch.setattr(logistic, "_BLOCK", 2 * len(features))
    (blocks,) = solver.path(labels, [0.1])
    np.testing.assert_allclose(blocks.kernel, whole.kernel, atol=1e-3)


def test_one_seed_is_one_solution():
    features, labels = problem()
    labels = scipy.sparse.csr_array(labels)
    one, two = (
        next(LogisticSolver(features).path(labels, [0.01])) for _ in range(2)
    )
    np.testing.assert_array_equal(one.kernel, two.kernel)


def test_features_must_be_finite():
    features, _ = problem()
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="features must be finite"):
        LogisticSolver(features)
