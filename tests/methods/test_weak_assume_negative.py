"""`weak_assume_negative` against its sum written out."""

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.weak_assume_negative import WeakAssumeNegative
from tests.methods.common import C, D, batch_of, build, problem


def test_loss_is_the_weighted_mean():
    features, labels = problem()
    model = build(WeakAssumeNegative)
    z = model.scores(tf.constant(features)).numpy().astype(float)
    expected = 0.0
    for y_i, z_i in zip(labels, z, strict=True):
        for y, value in zip(y_i, z_i, strict=True):
            p = 1 / (1 + np.exp(-value))
            loss = -np.log(p) if y == 1 else -np.log(1 - p)
            expected += loss / (C - 1) if y == 0 else loss
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    assert float(terms["loss"]) == pytest.approx(expected / z.size, rel=1e-5)


def test_unobserved_labels_pull_as_much_as_one_positive():
    """With one observed positive and p = 1/2, pulls on the bias cancel."""
    model = build(WeakAssumeNegative)
    features, labels = np.zeros((1, D), np.float32), np.zeros((1, C), np.int8)
    labels[0, 4] = 1
    with tf.GradientTape() as tape:
        loss = model.loss_terms(
            tf.constant(features), batch_of(features, labels)
        )["loss"]
    pull = tape.gradient(loss, model.classifier.bias.value).numpy()
    assert pull[4] == pytest.approx(-0.5 / C)
    assert pull.sum() == pytest.approx(0, abs=1e-6)


def test_one_label_in_all():
    model = build(WeakAssumeNegative, num_labels=1)
    features, _ = problem()
    labels = np.zeros((len(features), 1), np.int8)
    p = tf.sigmoid(model.scores(tf.constant(features))).numpy().astype(float)
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    expected = -np.log(1 - p).mean()
    assert float(terms["loss"]) == pytest.approx(expected, rel=1e-5)


def test_fit_lowers_the_loss():
    features, labels = problem()
    model = build(WeakAssumeNegative)
    fitted = model.fit(features, labels, epochs=20, verbose=0).history["loss"]
    assert fitted[-1] < 0.5 * fitted[0]
