"""`lsep` against the double sum, and its limit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.lsep import LSEP, log_sum_exp_pairwise
from tests.methods.common import B, C, batch_of, build, problem


def test_loss_is_the_double_sum():
    _, labels = problem()
    scores = np.random.default_rng(1).normal(size=(B, C)).astype(np.float32)
    expected = [
        np.log1p(
            sum(
                np.exp(z[v] - z[u])
                for v in np.flatnonzero(y < 0)
                for u in np.flatnonzero(y > 0)
            )
        )
        for y, z in zip(labels, scores, strict=True)
    ]
    got = log_sum_exp_pairwise(labels, scores)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    model = build(LSEP)
    features, _ = problem(2)
    loss = model.loss_terms(tf.constant(features), batch_of(features, labels))
    scores = model.scores(tf.constant(features))
    expected = np.mean(log_sum_exp_pairwise(labels, scores))
    assert float(loss["loss"]) == pytest.approx(expected)


def test_limit_is_the_ranking_hinge():
    """At large scale t: loss / t -> max(0, max over pairs of z_v - z_u)."""
    _, labels = problem(3)
    z = np.random.default_rng(4).normal(size=(B, C)).astype(np.float32)
    margins = [
        max([0.0] + [a - b for a in x[y < 0] for b in x[y > 0]])
        for y, x in zip(labels, z, strict=True)
    ]
    assert 0.0 in margins and max(margins) > 1
    got = log_sum_exp_pairwise(labels, 1e4 * z) / 1e4
    np.testing.assert_allclose(got, margins, atol=1e-3)


def test_image_without_a_pair_has_no_loss_and_no_gradient():
    labels = tf.constant([[1, 1, 0], [-1, 0, -1], [0, 0, 0]], tf.int8)
    scores = tf.Variable(keras.random.normal((3, 3)))
    with tf.GradientTape() as tape:
        loss = log_sum_exp_pairwise(labels, scores)
    np.testing.assert_array_equal(loss, [0, 0, 0])
    np.testing.assert_array_equal(tape.gradient(loss, scores), np.zeros((3, 3)))
