"""`selective`: which labels it ignores, and the prior it keeps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.asymmetric import asymmetric_entropy
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.selective import Selective, likeliest_unobserved
from tests.methods.common import B, C, batch_of, build, data_of, problem


def _batches(features, labels):
    """As those of training: a dict of inputs, and labels."""
    return tf.data.Dataset.from_tensor_slices(
        (
            {"inputs": features, "image_index": np.arange(len(features))},
            labels,
        )
    ).batch(5)


@pytest.mark.parametrize("count", [0, 1, 3, C, C + 2])
def test_likeliest_unobserved_labels_of_each_image(count):
    _, labels = problem()
    labels[0], labels[1] = 0, 1
    z = np.random.default_rng(1).normal(size=(B, C)).astype(np.float32)
    expected = np.zeros((B, C), bool)
    for i in range(B):
        unobserved = [c for c in range(C) if labels[i, c] == 0]
        unobserved.sort(key=lambda c, i=i: -z[i, c])
        expected[i, unobserved[:count]] = True
    got = likeliest_unobserved(tf.constant(labels), tf.constant(z), count)
    np.testing.assert_array_equal(got, expected)


def test_equal_likelihoods_still_ignore_no_more():
    labels = tf.zeros([2, C], tf.int8)
    got = likeliest_unobserved(labels, tf.zeros([2, C]), 4)
    np.testing.assert_array_equal(tf.math.count_nonzero(got, 1), [4, 4])


def test_loss_leaves_out_what_is_likely_and_what_is_frequent():
    features, labels = problem()
    model = build(Selective, selective_top_k=2, selective_prior_threshold=0.25)
    model.prior.assign(np.linspace(0, 0.4, C))
    z = model.scores(tf.constant(features)).numpy()
    terms = asymmetric_entropy(labels, z, 0.0, 1.0, 4.0).numpy()
    expected, ignored = 0.0, 0
    for i in range(B):
        unobserved = np.flatnonzero(labels[i] == 0)
        likely = set(unobserved[np.argsort(-z[i, unobserved])[:2]])
        for c in range(C):
            frequent = 0.4 * c / (C - 1) > 0.25
            if labels[i, c] == 0 and (c in likely or frequent):
                ignored += 1
            else:
                expected += terms[i, c]
    assert 2 * B < ignored < (labels == 0).sum()
    got = model.loss_terms(tf.constant(features), batch_of(features, labels))
    assert float(got["loss"]) == pytest.approx(expected / labels.size, rel=1e-5)


def test_prior_is_what_the_logistic_model_expects(tmp_path):
    features, labels = problem()
    logistic = build(MultiLabelModel, seed=3)
    logistic.classifier.bias.assign(np.linspace(-3, 3, C))
    expected = tf.sigmoid(logistic.scores(tf.constant(features)))
    expected = expected.numpy().mean(0)
    model = build(Selective)
    np.testing.assert_array_equal(model.prior, np.zeros(C))
    model.start_from(logistic)
    model.begin_epoch(0, data_of(labels, features))
    np.testing.assert_allclose(model.prior, expected, rtol=1e-5)

    model.classifier.bias.assign(np.zeros(C))
    model.begin_epoch(1, data_of(labels, features))
    np.testing.assert_allclose(model.prior, expected, rtol=1e-5)

    model.fit(features, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.prior, model.prior)
    batch = batch_of(features, labels)
    features = tf.constant(features)
    np.testing.assert_array_equal(
        loaded.loss_terms(features, batch)["loss"],
        model.loss_terms(features, batch)["loss"],
    )


def test_ignored_and_saturated_labels_have_finite_gradients():
    model = build(Selective, selective_top_k=1)
    labels = np.repeat(np.array([[1], [-1], [0]], np.int8), 3, 1)
    labels = np.tile(labels, (1, 3))
    z = tf.Variable(np.tile([[-1e4, 0.0, 1e4]], (3, 3)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = model.entropy(labels, z)
    slopes = tape.gradient(loss, z).numpy()
    assert np.isfinite(slopes).all()
    assert (slopes[2] == 0).any() and (slopes[2] == 1).sum() == 2


def test_fit_sees_the_prior_of_the_first_epoch():
    """Compiled before, the step still ignores what the prior says."""
    features, labels = problem()
    model = build(Selective, selective_top_k=0, selective_prior_threshold=0)
    batch = batch_of(features, labels)
    before = model.evaluation_step(batch)[1]["loss"]
    model.begin_epoch(0, data_of(labels, features))
    after = model.evaluation_step(batch)[1]["loss"]
    z = model.scores(tf.constant(features))
    terms = asymmetric_entropy(labels, z, 0.0, 1.0, 4.0).numpy()
    assert float(before) == pytest.approx(terms.mean(), rel=1e-5)
    observed = terms[labels != 0].sum() / labels.size
    assert float(after) == pytest.approx(observed, rel=1e-5)
    fitted = model.fit(features, labels, epochs=20, verbose=0).history["loss"]
    assert fitted[-1] < 0.5 * fitted[0]
