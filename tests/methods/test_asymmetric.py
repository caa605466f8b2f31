"""`asymmetric` against the terms of each kind of label."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.assume_negative import entropy_assuming_negative
from imcl_tf.methods.asymmetric import Asymmetric, asymmetric_entropy
from tests.methods.common import B, C, batch_of, build, problem


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_loss_has_an_exponent_for_each_kind_of_label(margin):
    features, labels = problem()
    model = build(
        Asymmetric,
        asymmetric_gamma_positive=0.5,
        asymmetric_gamma_negative=1.5,
        asymmetric_gamma_unobserved=3.0,
        asymmetric_margin=margin,
    )
    z = model.scores(tf.constant(features)).numpy().astype(float)
    expected = np.zeros(z.shape)
    for at in np.ndindex(*z.shape):
        p = 1 / (1 + np.exp(-z[at]))
        shifted = max(p - margin, 0)
        expected[at] = {
            1: -((1 - p) ** 0.5) * np.log(p),
            -1: -(shifted**1.5) * np.log(1 - shifted),
            0: -(shifted**3) * np.log(1 - shifted),
        }[labels[at]]
    assert (expected[labels != 1] == 0).any() == (margin > 0)
    got = model.entropy(labels, tf.constant(z, tf.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    assert float(terms["loss"]) == pytest.approx(expected.mean(), rel=1e-4)


def test_without_exponents_it_is_assume_negative():
    _, labels = problem(1)
    z = keras.random.normal((B, C))
    np.testing.assert_allclose(
        asymmetric_entropy(labels, z, 0.0, 0.0, 0.0),
        entropy_assuming_negative(labels, z),
        rtol=1e-5,
    )


def test_focal_weights_are_constants_of_the_gradient():
    labels = np.array([[1, -1, 0]], np.int8)
    z = tf.Variable([[0.4, -0.7, 1.1]])
    with tf.GradientTape() as tape:
        loss = asymmetric_entropy(labels, z, 1.0, 2.0, 4.0)
    p = 1 / (1 + np.exp([-0.4, 0.7, -1.1]))
    # Of cross-entropy p - 1 and p, times the weights (1 - p) and p^gamma.
    slopes = [[(p[0] - 1) * (1 - p[0]), p[1] ** 3, p[2] ** 5]]
    np.testing.assert_allclose(tape.gradient(loss, z), slopes, rtol=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_saturated_logits_have_finite_gradients(margin):
    labels = np.repeat(np.array([[1], [-1], [0]], np.int8), 3, 1)
    z = tf.Variable([[-1e4, 0.0, 1e4]] * 3)
    with tf.GradientTape() as tape:
        loss = asymmetric_entropy(labels, z, 0.5, 0.0, 0.5, margin)
    slopes = tape.gradient(loss, z).numpy()
    assert np.isfinite(loss).all() and np.isfinite(slopes).all()
    assert slopes[0, 0] == -1 and loss[0, 2] == 0
    if margin == 0:  # no clipped logarithm: the pull does not end
        assert slopes[1, 2] == 1


def test_fit_lowers_the_loss():
    features, labels = problem()
    model = build(Asymmetric)
    fitted = model.fit(features, labels, epochs=20, verbose=0).history["loss"]
    assert fitted[-1] < 0.5 * fitted[0]
