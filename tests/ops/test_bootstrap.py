"""Resampled means, against the average precision of what was drawn."""

import numpy as np
import scipy.sparse

import imcl_tf
from imcl_tf.ops.bootstrap import resampled_means


def problem(images=30, labels=5):
    rng = np.random.default_rng(2)
    observed = rng.choice([-1, 0, 1], (images, labels)).astype(np.int8)
    observed[:, 3] = np.abs(observed[:, 3])  # never absent: no precision
    scores = rng.integers(0, 6, (images, labels)).astype(float)  # many equal
    return observed, scores


def test_as_if_the_drawn_images_were_the_data():
    observed, scores = problem()
    kept = scipy.sparse.csr_array(observed)
    found = resampled_means(kept, scores[observed != 0], repeats=50, seed=7)
    drawn = np.random.default_rng(7).integers(30, size=(50, 30))
    for mean, rows in zip(found, drawn, strict=True):
        expected = np.nanmean(
            imcl_tf.average_precision(observed[rows], scores[rows])
        )
        np.testing.assert_allclose(mean, expected, rtol=1e-12)


def test_many_images_are_drawn_in_parts(monkeypatch):
    observed, scores = problem()
    kept, entries = scipy.sparse.csr_array(observed), scores[observed != 0]
    whole = resampled_means(kept, entries, repeats=7)
    monkeypatch.setattr("imcl_tf.ops.bootstrap._WEIGHTS", 90)  # 3 at a time
    np.testing.assert_array_equal(
        resampled_means(kept, entries, repeats=7), whole
    )


def test_no_label_with_a_precision():
    labels = scipy.sparse.csr_array(np.ones((3, 2), np.int8))
    found = resampled_means(labels, np.arange(6.0), repeats=4)
    assert found.shape == (4,) and np.isnan(found).all()
