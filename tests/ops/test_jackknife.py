"""The standard error of a difference, image group by image group."""

import numpy as np
import pytest
import scipy.sparse

import imcl_tf
from imcl_tf.ops.jackknife import difference, mean_precisions, standard_error


def problem():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], (40, 3)).astype(np.int8)
    scores = rng.normal(size=(2, 40, 3)) + labels * [[[0.5]], [[1.5]]]
    return labels, scores.astype(np.float32)


def test_mean_precisions_are_those_of_the_images_left():
    labels, scores = problem()
    sparse = scipy.sparse.csr_array(labels)
    found = mean_precisions(sparse, scores[0][labels != 0], groups=4)
    group = np.random.default_rng(0).permutation(40) % 4
    for g, mean in enumerate(found, -1):
        kept = group != g
        ap = imcl_tf.average_precision(labels[kept], scores[0][kept])
        assert mean == pytest.approx(np.nanmean(ap))


def test_error_is_that_of_a_delete_a_group_jackknife():
    labels, scores = problem()
    sparse = scipy.sparse.csr_array(labels)
    one, two = (mean_precisions(sparse, x[labels != 0], 5) for x in scores)
    gain, error = difference(two, one)
    without = (two - one)[1:]
    assert gain == pytest.approx(two[0] - one[0])
    squares = sum((x - sum(without) / 5) ** 2 for x in without)
    assert error == pytest.approx((4 / 5 * squares) ** 0.5)


def test_error_is_about_the_spread_over_samples():
    """Of the difference of two scores on fresh images."""
    rng = np.random.default_rng(1)
    gains, errors = [], []
    for _ in range(40):
        labels = rng.choice([-1, 1], (200, 2)).astype(np.int8)
        z = labels + rng.normal(size=(200, 2))
        both = [z + rng.normal(0, s, z.shape) for s in (0.5, 1.0)]
        sparse = scipy.sparse.csr_array(labels)
        means = [mean_precisions(sparse, x.ravel()) for x in both]
        gain, error = difference(*means)
        gains.append(gain)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.4)


def test_what_is_the_same_differs_by_nothing():
    labels, scores = problem()
    one = mean_precisions(
        scipy.sparse.csr_array(labels), scores[0][labels != 0]
    )
    assert difference(one, one) == (0.0, 0.0)


def test_what_rests_on_one_image_has_no_known_error():
    """The only positive: without it there is no average precision."""
    labels = np.full((40, 1), -1, np.int8)
    labels[7] = 1
    scores = np.random.default_rng(0).normal(size=(2, 40))
    means = [mean_precisions(scipy.sparse.csr_array(labels), x) for x in scores]
    assert np.isnan(means[0][1:]).sum() == 1
    assert standard_error(means[0]) == np.inf
    assert difference(*means)[1] == np.inf
