"""`hill` against its terms, and its slope."""

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.hill import Hill, focal_entropy, hill_loss
from tests.methods.common import batch_of, build, problem


def test_loss_is_the_hill_of_negatives_and_focal_of_positives():
    features, labels = problem()
    model = build(Hill)
    z = model.scores(tf.constant(features)).numpy().astype(float)
    expected = 0.0
    for y, value in zip(labels.ravel(), z.ravel(), strict=True):
        p = 1 / (1 + np.exp(-value))
        p_margin = 1 / (1 + np.exp(1 - value))
        if y == 1:
            expected -= (1 - p_margin) ** 2 * np.log(p_margin)
        else:
            expected += (1.5 - p) * p**2
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    assert float(terms["loss"]) == pytest.approx(expected / z.size, rel=1e-5)


def test_likely_negatives_are_let_go():
    """At lambda = 1.5 the slope in z is 3 p^2 (1 - p)^2: a hill at 1/2."""
    z = tf.Variable(np.linspace(-6, 6, 25, dtype=np.float32)[np.newaxis])
    for label in (0, -1):
        labels = tf.fill(z.shape, tf.constant(label, tf.int8))
        with tf.GradientTape() as tape:
            loss = hill_loss(labels, z, 1.5, 1.0, 2.0)
        p = 1 / (1 + np.exp(-z.numpy().astype(float)))
        slopes = tape.gradient(loss, z).numpy()
        np.testing.assert_allclose(
            slopes, 3 * p**2 * (1 - p) ** 2, rtol=1e-3, atol=1e-6
        )
        assert slopes.argmax() == 12


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient(gamma):
    """Against central differences in float64, and finite where saturated."""
    z = np.array([-30.0, -2, 0, 1, 5, -1e4, 1e4])

    def focal(z):
        return (1 + np.exp(z)) ** -gamma * np.logaddexp(0, -z)

    variable = tf.Variable(z, dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = focal_entropy(variable, gamma)
    slopes = tape.gradient(loss, variable).numpy()
    np.testing.assert_allclose(loss[:5], focal(z[:5]), rtol=1e-5)
    expected = (focal(z[:5] + 1e-5) - focal(z[:5] - 1e-5)) / 2e-5
    np.testing.assert_allclose(slopes[:5], expected, rtol=1e-4)
    np.testing.assert_array_equal(loss[5:], [1e4, 0])
    np.testing.assert_array_equal(slopes[5:], [-1, 0])


def test_saturated_logits_have_finite_gradients():
    labels = np.repeat(np.array([[1], [-1], [0]], np.int8), 3, 1)
    z = tf.Variable([[-1e4, 0.0, 1e4]] * 3)
    with tf.GradientTape() as tape:
        loss = hill_loss(labels, z, 1.5, 1.0, 2.0)
    assert np.isfinite(loss).all()
    assert np.isfinite(tape.gradient(loss, z)).all()


def test_fit_lowers_the_loss():
    features, labels = problem()
    model = build(Hill)
    fitted = model.fit(features, labels, epochs=20, verbose=0).history["loss"]
    assert fitted[-1] < 0.5 * fitted[0]
