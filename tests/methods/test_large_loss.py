"""`large_loss`: the share of each epoch, and the three schemes by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.large_loss import LargeLoss, largest
from tests.methods.common import B, C, batch_of, build, data_of, problem

SCHEMES = ("reject", "correct_temporary", "correct_permanent")


def make(scheme, delta, labels):
    model = build(LargeLoss, large_loss=scheme, large_loss_delta=delta)
    model.prepare(data_of(labels))
    return model


def entropies(model, features):
    """-log p and -log(1 - p), float64."""
    z = model.scores(tf.constant(features)).numpy().astype(float)
    return np.log1p(np.exp(-z)), np.log1p(np.exp(z))


def chosen(negative, unobserved, percent):
    """The pairs of largest loss, by sorting."""
    pairs = sorted(
        zip(*np.nonzero(unobserved), strict=True), key=lambda p: -negative[p]
    )
    return pairs[: math.ceil(len(pairs) * Fraction(str(percent)) / 100)]


def expected(scheme, labels, positive, negative, percent):
    """The loss, and the entries that were chosen."""
    entropy = np.where(labels > 0, positive, negative)
    pairs = chosen(negative, labels == 0, percent)
    for pair in pairs:
        entropy[pair] = 0 if scheme == "reject" else positive[pair]
    return entropy.mean(), pairs


@pytest.mark.parametrize(
    "percent", ["0", "0.1", "0.3", "7", "55", "100", "300"]
)
@pytest.mark.parametrize("count", [0, 1, 100, 1000, 3000])
def test_share_is_exact_also_of_equal_losses(percent, count):
    rng = np.random.default_rng(count)
    candidates = rng.permutation(np.arange(4000) < count).reshape(40, 100)
    number = math.ceil(min(1, Fraction(percent) / 100) * count)
    share = tf.cast(1, tf.float64) * float(percent) / 100
    for values in (rng.random((40, 100)), np.zeros((40, 100))):
        marks = largest(values.astype(np.float32), candidates, share).numpy()
        assert marks.sum() == number
        assert not marks[~candidates].any()
        if 0 < number < count:
            rest = values[candidates & ~marks]
            assert values[marks].min() >= rest.max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_loss_by_hand_in_each_epoch(scheme):
    features, labels = problem()
    model = make(scheme, 5.0, labels)
    positive, negative = entropies(model, features)
    index = np.arange(B)
    for epoch in (0, 1, 2, 7):
        model.begin_epoch(epoch, None)
        epochs = min(epoch, 1) if scheme == "correct_permanent" else epoch
        value, pairs = expected(scheme, labels, positive, negative, 5 * epochs)
        assert len(pairs) == math.ceil(0.05 * epochs * (labels == 0).sum())
        batch = batch_of(features, labels)
        _, terms = model.evaluation_step(batch)
        assert float(terms["loss"]) == pytest.approx(value, rel=1e-5)
        if scheme != "correct_permanent":
            assert model.pseudo_labels is None
            batch = batch_of(features, labels, index)
            loss = model.loss_terms(tf.constant(features), batch)["loss"]
            assert float(loss) == pytest.approx(value, rel=1e-5)
    count = model.evaluation_step.experimental_get_tracing_count()
    assert count == 1  # of one graph for all epochs


def test_flips_for_good_stay_with_their_image():
    features, labels = problem()
    model = make("correct_permanent", 10.0, labels)
    positive, negative = entropies(model, features)
    stored = np.zeros_like(labels)
    rng = np.random.default_rng(0)
    for epoch in (0, 1, 1, 2, 2):
        model.begin_epoch(epoch, None)
        index = rng.permutation(B)[:8]
        known = np.where(labels == 0, stored, labels)[index]
        value, pairs = expected(
            "correct_permanent", known, positive[index], negative[index],
            10 * min(epoch, 1),
        )  # fmt: skip
        assert bool(pairs) == (epoch > 0)
        for row, column in pairs:
            stored[index[row], column] = 1
        batch = batch_of(features[index], labels[index], index)
        _, terms = model.evaluation_step(batch)
        assert float(terms["loss"]) == pytest.approx(value, rel=1e-5)
        # The same images from outside the training set change nothing.
        model.evaluation_step(batch_of(features[index], labels[index]))
        np.testing.assert_array_equal(
            model.pseudo_labels.rows(tf.range(B)), stored
        )
    assert not stored[labels != 0].any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_are_finite(scheme):
    labels = np.zeros((4, C), np.int8)
    labels[1], labels[2] = 1, -1
    features = np.zeros((4, 6), np.float32)
    features[:, 0] = [1e4, -1e4, 1e4, 0]
    model = make(scheme, 20.0, labels)
    model.begin_epoch(1, None)
    for rows in (slice(None), slice(1, 3)):  # also without an unobserved one
        batch = batch_of(features[rows], labels[rows])
        with tf.GradientTape() as tape:
            terms = model.loss_terms(batch.inputs, batch)
        for gradient in tape.gradient(terms["loss"], model.trainable_variables):
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_keeps_flips_and_lowers_the_loss(scheme):
    features, labels = problem()
    model = make(scheme, 10.0, labels)
    model.begin_epoch(1, None)
    inputs = {"inputs": features, "image_index": tf.range(B)}
    losses = [model.train_on_batch(inputs, labels) for _ in range(9)]
    assert losses[-1] < losses[0]
    if scheme == "correct_permanent":
        left = np.sum(labels == 0)
        for _ in range(9):
            left -= math.ceil(left / 10)
        pseudo = model.pseudo_labels.rows(tf.range(B)).numpy()
        assert np.sum(pseudo == 1) == np.sum(labels == 0) - left
