"""`splc`: what it corrects, when, and with which loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.splc import SPLC
from tests.methods.common import D, batch_of, build, problem


def _expected(labels, z, correct):
    """The sum over labels, averaged over images; and how many change."""
    total, corrected = 0.0, 0
    for y, value in zip(labels.ravel(), z.ravel(), strict=True):
        p = 1 / (1 + np.exp(-value))
        if y == 1:
            p = 1 / (1 + np.exp(1 - value))
            total -= (1 - p) ** 2 * np.log(p)
        elif y == 0 and correct and p > 0.6:
            corrected += 1
            total -= (1 - p) ** 2 * np.log(p)
        else:
            total -= p**2 * np.log(1 - p)
    return total / labels.size, corrected


def test_loss_before_and_after_the_first_epoch():
    """In one compiled step, which reads the epoch anew."""
    features, labels = problem()
    model = build(SPLC)
    batch = batch_of(features, labels)
    z = model.scores(tf.constant(features)).numpy().astype(float)
    assert ((z > 0.5) & (labels == -1)).any()  # would be corrected, if 0
    losses = []
    for epoch, correct in ((0, False), (1, True), (2, True)):
        model.begin_epoch(epoch, None)
        scores, terms = model.evaluation_step(batch)
        expected, corrected = _expected(labels, z, correct)
        assert (corrected > 5) == correct
        assert float(terms["loss"]) == pytest.approx(expected, rel=1e-5)
        losses.append(float(terms["loss"]))
    assert losses[0] != losses[1] == losses[2]


def test_epoch_and_threshold_are_options(tmp_path):
    features, labels = problem()
    model = build(SPLC, splc_first_epoch=2, splc_threshold=0.9)
    model.fit(features, labels, verbose=0)
    model.begin_epoch(2, None)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    z = tf.constant([[3.0] * 3, [2.0] * 3])
    kinds = np.array([[1, 0, -1]] * 2, np.int8)
    np.testing.assert_array_equal(
        loaded.present(kinds, z), [[True, True, False], [True, False, False]]
    )
    loaded.begin_epoch(1, None)
    np.testing.assert_array_equal(
        loaded.present(kinds, z), [[True, False, False]] * 2
    )


def test_missing_positives_are_found():
    """Half of all positives are hidden; training on calls them present."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, D)).astype(np.float32)
    truth = np.where(features @ rng.normal(size=(D, 4)) > 0, 1, -1)
    hidden = rng.random(truth.shape) < 0.5
    labels = np.where(hidden & (truth == 1), 0, truth).astype(np.int8)
    model = build(SPLC, num_labels=4)
    model.begin_epoch(1, None)
    model.fit(features, labels, epochs=5, verbose=0)
    present = model.present(labels, model.scores(tf.constant(features)))
    present = present.numpy()
    missed = labels == 0
    assert present[missed].mean() > 0.8
    assert not present[labels == -1].any() and present[labels == 1].all()


def test_saturated_logits_have_finite_gradients():
    model = build(SPLC, num_labels=3, num_features=3)
    model.begin_epoch(1, None)
    model.classifier.kernel.assign(1e4 * np.eye(3))
    features = tf.constant([[-1.0, 0.0, 1.0]] * 3)
    labels = np.repeat(np.array([[1], [-1], [0]], np.int8), 3, 1)
    with tf.GradientTape() as tape:
        loss = model.loss_terms(features, batch_of(features, labels))["loss"]
    slopes = tape.gradient(loss, model.classifier.kernel.value)
    assert np.isfinite(loss) and np.isfinite(slopes).all()


def test_fit_lowers_the_loss():
    features, labels = problem()
    model = build(SPLC)
    fitted = model.fit(features, labels, epochs=20, verbose=0).history["loss"]
    assert fitted[-1] < 0.5 * fitted[0]
