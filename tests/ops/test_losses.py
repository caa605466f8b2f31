"""Eqs. (2), (5) and (6) by hand and against their formulas."""

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.ops import losses
from tests import oracles


def problem(seed=0, b=20, c=9):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], size=(b, c)).astype(np.int8)
    return labels, rng.normal(scale=3, size=(b, c)).astype(np.float32)


# Eq. (2).


def test_cross_entropy_by_hand():
    """p = 3/4 at z = log 3, 1/2 at 0, 1/5 at -log 4.

    Image 0: + at 3/4, - at 1/2, + at 1/5: -log(3/4 * 1/2 * 1/5) = log(40/3).
    Image 1: - at 3/4, 0 at 1/2, - at 1/5: -log(1/4 * 4/5) = log 5.
    """
    logits = tf.constant([[np.log(3), 0, -np.log(4)]] * 2, tf.float32)
    labels = tf.constant([[1, -1, 1], [-1, 0, -1]], tf.int8)
    loss = losses.cross_entropy(labels, logits)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, [np.log(40 / 3), np.log(5)], rtol=1e-6)


def test_cross_entropy_against_the_logarithms():
    labels, logits = problem()
    expected = [
        oracles.cross_entropy(y, z) for y, z in zip(labels, logits, strict=True)
    ]
    for function in (losses.cross_entropy, tf.function(losses.cross_entropy)):
        loss = function(tf.constant(labels), tf.constant(logits))
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_unobserved_labels_have_no_influence():
    labels, logits = problem(1)
    other = np.where(labels == 0, -100 * logits + 7, logits)
    values, gradients = [], []
    for z in (logits, other):
        z = tf.constant(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = losses.cross_entropy(tf.constant(labels), z)
        values.append(loss.numpy())
        gradients.append(tape.gradient(loss, z).numpy())
    np.testing.assert_array_equal(*values)
    np.testing.assert_array_equal(*gradients)
    assert (gradients[0][labels == 0] == 0).all()
    # d/dz of -log p is p - 1, of -log(1 - p) is p.
    p = 1 / (1 + np.exp(-logits.astype(float)))
    expected = np.where(labels == 1, p - 1, p) * (labels != 0)
    np.testing.assert_allclose(gradients[0], expected, atol=1e-6)


def test_image_without_observed_labels():
    labels, logits = problem(2)
    labels[4] = 0
    z = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = losses.cross_entropy(tf.constant(labels), z)
    assert loss.numpy()[4] == 0 and (loss.numpy()[:4] > 0).all()
    assert (tape.gradient(loss, z).numpy()[4] == 0).all()


def test_extreme_logits_stay_finite():
    """Wrong by z costs |z|; right by z costs nothing."""
    logits = tf.constant([[1e4, -1e4], [-1e4, 1e4], [1e30, 200]])
    labels = tf.constant([[1, -1], [1, -1], [0, -1]], tf.int8)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.cross_entropy(labels, logits)
    np.testing.assert_allclose(loss, [0, 2e4, 200], rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(loss, logits), [[0, 0], [-1, 1], [0, 1]], atol=1e-6
    )


def test_half_precision_logits_are_summed_in_float32():
    labels = tf.ones([1, 5000], tf.int8)
    logits = tf.fill([1, 5000], tf.constant(-20, tf.float16))
    loss = losses.cross_entropy(labels, logits)
    assert loss.dtype == tf.float32  # 100,000 > 65,504
    np.testing.assert_allclose(loss, [1e5], rtol=1e-4)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_infinite_logit_of_an_unobserved_label(infinite):
    labels = tf.constant([[0, 1]], tf.int8)
    loss = losses.cross_entropy(labels, tf.constant([[infinite, 0.0]]))
    np.testing.assert_allclose(loss, [np.log(2)], rtol=1e-6)


# Eqs. (5) and (6).


def test_combine_by_hand():
    """1 * (1, 2, 3) + 2 * (0, 1, 0) = (1, 4, 3); -(1, 1, 1) + 0."""
    neighbors = tf.constant([[[1.0, 2, 3], [0, 1, 0]], [[1, 1, 1], [9, 9, 9]]])
    got = losses.combine(tf.constant([[1.0, 2], [-1, 0]]), neighbors)
    np.testing.assert_array_equal(got, [[1, 4, 3], [-1, -1, -1]])


def test_label_smoothness_by_hand():
    """y = (1, 0), sum = (log 2, -log 2): tanh(log 2) = (2 - 1/2) / (2 + 1/2)
    = 3/5, so (2/5)^2 + (3/5)^2 = 13/25. Linear: (1 - l)^2 + l^2, l = log 2.
    An image that nobody resembles: 1 + 0.
    """
    y = tf.constant([[1.0, 0], [1, 0]])
    total = tf.constant([[np.log(2), -np.log(2)], [0, 0]], tf.float32)
    tanh = losses.label_smoothness(y, total)
    np.testing.assert_allclose(tanh, [13 / 25, 1], rtol=1e-6)
    np.testing.assert_array_equal(
        losses.label_smoothness(y, total, "tanh"), tanh
    )
    linear = losses.label_smoothness(y, total, "linear")
    log2 = np.log(2)
    np.testing.assert_allclose(linear, [(1 - log2) ** 2 + log2**2, 1])


@pytest.mark.parametrize("form", ["tanh", "linear"])
def test_smoothness_of_combined_neighbours(form):
    rng = np.random.default_rng(3)
    y, f = rng.normal(size=(6, 5)), rng.normal(size=(6, 4))
    atoms_y, atoms_f = rng.normal(size=(6, 3, 5)), rng.normal(size=(6, 3, 4))
    c, c_bar = rng.random((6, 3)), rng.random((6, 3))
    c[2], c_bar[2] = 0, 0
    y_, f_, atoms_y_, atoms_f_, c_, c_bar_ = (
        tf.constant(x, tf.float32) for x in (y, f, atoms_y, atoms_f, c, c_bar)
    )
    got = losses.label_smoothness(y_, losses.combine(c_, atoms_y_), form)
    expected = [
        oracles.label_smoothness(y[i], c[i], atoms_y[i], form) for i in range(6)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    got = losses.feature_smoothness(f_, losses.combine(c_bar_, atoms_f_))
    expected = [
        oracles.feature_smoothness(f[i], c_bar[i], atoms_f[i]) for i in range(6)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_feature_smoothness_by_hand():
    """(3, 4) from (0, 0): 25; from itself: 0; from (4, 2): 1 + 4."""
    f = tf.constant([[3.0, 4]] * 3)
    got = losses.feature_smoothness(f, tf.constant([[0.0, 0], [3, 4], [4, 2]]))
    np.testing.assert_array_equal(got, [25, 0, 5])


def test_label_smoothness_error():
    with pytest.raises(ValueError, match="tanh or linear, got 'sigmoid'"):
        losses.label_smoothness(tf.zeros([1, 2]), tf.zeros([1, 2]), "sigmoid")
