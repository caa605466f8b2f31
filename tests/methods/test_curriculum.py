"""`curriculum`: its loss by hand, its rounds, what thresholds bring."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.curriculum import (
    Curriculum,
    label_by_score,
    partial_bce,
)
from imcl_tf.methods.pseudo_labels import fill_unobserved
from tests.methods.common import B, batch_of, build, data_of, problem


def expected_loss(labels, logits, alpha=-4.45, beta=5.45, gamma=1.0):
    losses = []
    for y, z in zip(labels, logits.astype(float), strict=True):
        known = np.flatnonzero(y)
        total = sum(np.log1p(np.exp(-y[c] * z[c])) for c in known)
        rho = len(known) / len(y)
        g = alpha * rho**gamma + beta if len(known) else 0
        losses.append(g * total / len(y))
    return losses


def passes(features, labels, size=5):
    """The training set in order, as `begin_epoch` gets it."""
    index = tf.range(len(labels))
    inputs = {"inputs": features, "image_index": index}
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(size)


@pytest.mark.parametrize("g", [(-4.45, 5.45, 1.0), (1.0, 0.0, -1.0)])
def test_loss_by_hand(g):
    _, labels = problem()
    labels[3] = 0
    labels[4] = 1
    logits = np.random.default_rng(1).normal(0, 3, labels.shape)
    got = partial_bce(labels, logits.astype(np.float32), *g)
    np.testing.assert_allclose(got, expected_loss(labels, logits, *g), 1e-5)


def test_published_g():
    """Ten equal losses of 1: one known label counts g(0.1) / 10."""
    z = np.full((2, 10), np.log(np.e - 1), np.float32)
    labels = -np.ones((2, 10), np.int8)
    labels[1, 1:] = 0
    model = Curriculum(None, 10)
    got = partial_bce(
        labels, z, model.curriculum_alpha, model.curriculum_beta,
        model.curriculum_gamma,
    )  # fmt: skip
    np.testing.assert_allclose(got, [1.0, 0.5], rtol=2e-3)


def test_unobserved_and_saturated_labels_have_finite_gradients():
    labels = tf.constant([[0, 0, 0], [1, 0, -1], [-1, 0, 1]], tf.int8)
    values = [[1e4, -1e4, np.inf], [1e4, np.inf, 1e4], [1e4, -1e4, 1e4]]
    logits = tf.Variable(values, dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(partial_bce(labels, logits, 1.0, 0.0, -1.0))
    gradient = tape.gradient(loss, logits).numpy()
    np.testing.assert_allclose(
        gradient, [[0, 0, 0], [0, 0, 0.5], [0.5, 0, 0]], atol=1e-6
    )


def test_stricter_thresholds_label_less_and_better():
    rng = np.random.default_rng(0)
    true_scores = rng.normal(0, 2, (400, 20))
    truth = np.sign(true_scores).astype(np.int8)
    labels = np.where(rng.random(truth.shape) < 0.1, truth, 0).astype(np.int8)
    scores = tf.constant(true_scores + rng.normal(0, 2, truth.shape))
    counts, precisions = [], []
    for threshold in (0.1, 1, 2, 4):
        pseudo = label_by_score(labels, scores, threshold).numpy()
        np.testing.assert_array_equal(pseudo[labels != 0], 0)
        chosen = (np.abs(scores) >= threshold) & (labels == 0)
        np.testing.assert_array_equal(pseudo, np.sign(scores) * chosen)
        counts.append(chosen.sum())
        precisions.append((pseudo == truth)[chosen].mean())
        whole = fill_unobserved(labels, pseudo).numpy()
        np.testing.assert_array_equal(whole[labels != 0], labels[labels != 0])
    assert counts == sorted(counts, reverse=True) and counts[-1] > 100
    assert np.all(np.diff(precisions) > 0.03)


def test_rounds_label_afresh_from_the_current_model():
    features, labels = problem()
    model = build(
        Curriculum, curriculum_threshold=0.3, curriculum_round_epochs=2
    )
    model.prepare(data_of(labels))
    rng = np.random.default_rng(2)
    for epoch in range(5):
        model.begin_epoch(epoch, data_of(labels, features))
        assert int(model.epoch) == epoch
        pseudo = model.pseudo_labels.rows(tf.range(B)).numpy()
        if epoch % 2 == 0:
            z = model.scores(tf.constant(features)).numpy()
            sure = (np.abs(z) >= 0.3) & (labels == 0) & (epoch > 0)
            current = np.sign(z) * sure
            assert sure.any() == (epoch > 0)
        np.testing.assert_array_equal(pseudo, current)
        z = model.scores(tf.constant(features)).numpy()
        whole = np.where(labels == 0, pseudo, labels)
        index = rng.permutation(B)
        batch = batch_of(features[index], labels[index], index)
        loss = model.loss_terms(tf.constant(features[index]), batch)["loss"]
        expected = np.mean(expected_loss(whole, z))
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        unknown = batch_of(features, labels)
        loss = model.loss_terms(tf.constant(features), unknown)["loss"]
        expected = np.mean(expected_loss(labels, z))
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        kernel = model.classifier.kernel
        kernel.assign(keras.random.normal(kernel.shape, seed=epoch))


def test_training_lowers_the_loss():
    features, labels = problem()
    model = build(Curriculum)
    model.prepare(data_of(labels))
    history = model.fit(
        passes(features, labels), epochs=20, verbose=0, shuffle=False
    ).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
