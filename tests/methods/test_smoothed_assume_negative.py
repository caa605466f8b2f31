"""`smoothed_assume_negative` against its sum, and where it is least."""

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.smoothed_assume_negative import SmoothedAssumeNegative
from tests.methods.common import C, D, batch_of, build, problem


def _loss(model, features, labels):
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    return float(terms["loss"])


def test_loss_is_the_smoothed_mean():
    features, labels = problem()
    model = build(SmoothedAssumeNegative, smoothing=0.2)
    z = model.scores(tf.constant(features)).numpy().astype(float)
    expected = 0.0
    for y_i, z_i in zip(labels, z, strict=True):
        for y, value in zip(y_i, z_i, strict=True):
            p = 1 / (1 + np.exp(-value))
            if y != 1:
                p = 1 - p
            expected += -0.8 * np.log(p) - 0.2 * np.log(1 - p)
    got = _loss(model, features, labels)
    assert got == pytest.approx(expected / z.size, rel=1e-5)


def test_loss_is_least_at_the_smoothed_targets():
    """By default at p = 0.9 of positives, p = 0.1 of all others."""
    model = build(SmoothedAssumeNegative)
    features = np.zeros((1, D), np.float32)
    labels = np.arange(C, dtype=np.int8)[np.newaxis] % 3 - 1
    model.classifier.bias.assign(np.where(labels[0] == 1, 1, -1) * np.log(9))
    with tf.GradientTape() as tape:
        loss = model.loss_terms(
            tf.constant(features), batch_of(features, labels)
        )["loss"]
    slopes = tape.gradient(loss, model.classifier.bias.value)
    np.testing.assert_allclose(slopes, np.zeros(C), atol=1e-6)


def test_fit_lowers_the_loss():
    features, labels = problem()
    model = build(SmoothedAssumeNegative)
    fitted = model.fit(features, labels, epochs=20, verbose=0).history["loss"]
    assert fitted[-1] < 0.8 * fitted[0]
