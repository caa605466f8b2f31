"""`entropy_maximisation`: its loss by hand, its marks against sorting."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.entropy_maximisation import (
    EntropyMaximisation,
    weighted_entropy,
)
from tests.methods.common import B, C, batch_of, build, data_of, problem

N = 200
PREFIX = "entropy_maximisation_"


def make(labels, **options):
    options = {PREFIX + name: value for name, value in options.items()}
    model = build(EntropyMaximisation, **options)
    model.prepare(data_of(labels))
    return model


def passes(features, labels):
    inputs = {"inputs": features, "image_index": tf.range(len(labels))}
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(32)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def expected_loss(labels, marks, soft, z, alpha, beta):
    total = 0
    for b, c in np.ndindex(labels.shape):
        p = sigmoid(float(z[b, c]))
        if labels[b, c] == 1:
            total -= np.log(p)
        elif labels[b, c] == -1:
            total -= np.log(1 - p)
        elif marks[b, c] == -1:
            s = soft[c]
            total -= beta * (s * np.log(p) + (1 - s) * np.log(1 - p))
        else:
            total += alpha * (p * np.log(p) + (1 - p) * np.log(1 - p))
    return total / labels.size


def test_loss_by_hand():
    features, labels = problem()
    model = make(labels, alpha=0.3, beta=0.7)
    rng = np.random.default_rng(0)
    marks = -rng.integers(0, 2, labels.shape) * (labels == 0)
    soft = rng.random(C).astype(np.float32)
    model.soft_labels.assign(soft)
    model.pseudo_labels.update(tf.range(B), tf.constant(marks, tf.int8))
    z = model.scores(tf.constant(features)).numpy()
    batches = {
        0: batch_of(features, labels),
        1: batch_of(features, labels, np.arange(B)),
    }
    for known, batch in batches.items():
        got = model.loss_terms(batch.inputs, batch)["loss"]
        expected = expected_loss(labels, known * marks, soft, z, 0.3, 0.7)
        assert float(got) == pytest.approx(expected, rel=1e-5)


def test_gradient_drives_unobserved_labels_towards_one_half():
    """d(-alpha H)/dz = alpha z p (1 - p); finite where p saturates."""
    values = [[0.0, 1, -2, 5, 1e4, -1e4]]
    z = tf.Variable(values, dtype=tf.float32)
    labels = tf.zeros(z.shape, tf.int8)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(
            weighted_entropy(labels, labels, tf.zeros(6), z, 0.2, 0.0)
        )
    x = np.array(values[0][:4])
    expected = [*(0.2 * x * sigmoid(x) * sigmoid(-x)), 0, 0]
    np.testing.assert_allclose(
        tape.gradient(loss, z)[0], expected, rtol=1e-4, atol=1e-7
    )


def test_rounds_mark_the_lowest_of_each_label():
    features, labels = problem(1, num_images=N)
    model = make(labels, share=0.6, warmup=2, rounds=3)
    quota = np.floor(0.2 * (labels == 0).sum(0) + 1e-9).astype(int)
    before, marked_p = np.zeros_like(labels), [[] for _ in range(C)]
    for epoch in range(8):
        z = model.scores(tf.constant(features)).numpy()
        model.begin_epoch(epoch, data_of(labels, features))
        marks = model.pseudo_labels.rows(tf.range(N)).numpy()
        new = (marks != 0) & (before == 0)
        np.testing.assert_array_equal(marks[before != 0], -1)
        in_round = 2 <= epoch < 5
        np.testing.assert_array_equal(new.sum(0), quota * in_round)
        for c in range(C * in_round):
            free = z[(labels[:, c] == 0) & (before[:, c] == 0), c]
            lowest = np.sort(free)[: quota[c]]
            chosen = np.sort(z[new[:, c], c])
            np.testing.assert_allclose(chosen, lowest, atol=1 / 32)
            marked_p[c] += list(sigmoid(chosen))
        if in_round:
            np.testing.assert_allclose(
                model.soft_labels, [np.mean(p) for p in marked_p], rtol=1e-4
            )
        before = marks
        kernel = model.classifier.kernel
        kernel.assign(keras.random.normal(kernel.shape, seed=epoch))
    assert not before[labels != 0].any()


@pytest.mark.parametrize("value", [0.25, -1e4])
def test_equal_scores_are_marked_in_order(value):
    labels = np.zeros((N, C), np.int8)
    model = make(labels, share=0.5, warmup=1, rounds=1)
    model.classifier.set_weights([np.zeros((6, C)), np.full(C, value)])
    model.begin_epoch(1, data_of(labels, np.zeros((N, 6), np.float32)))
    marks = model.pseudo_labels.rows(tf.range(N)).numpy()
    expected = np.where(np.arange(N) < N / 2, -1, 0)[:, np.newaxis]
    np.testing.assert_array_equal(marks, np.tile(expected, C))


def test_soft_labels_are_saved(tmp_path):
    features, labels = problem()
    model = make(labels, warmup=1)
    model.fit(passes(features, labels), epochs=3, verbose=0, shuffle=False)
    model.begin_epoch(1, data_of(labels, features))
    assert model.soft_labels.numpy().any()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    batch = batch_of(features, labels)
    np.testing.assert_array_equal(loaded.soft_labels, model.soft_labels)
    for ours, theirs in zip(
        model.evaluation_step(batch), loaded.evaluation_step(batch), strict=True
    ):
        tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


def test_training_lowers_the_loss():
    features, labels = problem()
    model = make(labels)
    history = model.fit(
        passes(features, labels), epochs=30, verbose=0, shuffle=False
    ).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
