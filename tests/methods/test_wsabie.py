"""`wsabie`: what it samples against exact odds, its loss against loops."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.wsabie import (
    WSABIE,
    draw_violators,
    truncated_svd,
    warp,
)
from tests.methods.common import B, C, D, batch_of, build, problem

# One positive above, among and below ten negatives of one image.
NEGATIVES = np.arange(10.0)
POSITIVES = np.array([12.0, 9.5, 8.5, 5.5, 1.5, -2.0])
VIOLATING = np.array([0, 1, 2, 5, 9, 10])


def ranked(num_images):
    """Labels and scores of `NEGATIVES`, `POSITIVES` and a hidden label."""
    scores = np.concatenate([NEGATIVES, POSITIVES, [99.0]]).astype(np.float32)
    labels = np.repeat([-1, 1, 0], [len(NEGATIVES), len(POSITIVES), 1])
    repeat = (num_images, 1)
    return np.tile(labels.astype(np.int8), repeat), np.tile(scores, repeat)


def odds_of_rank(m, n):
    """P(floor(n / draws) = r) for r in [0, n], draws one after the other."""
    odds, survival = np.zeros(n + 1), 1.0
    for draws in range(1, n + 1):
        odds[n // draws] += survival * m / n
        survival *= 1 - m / n
    odds[0] = survival
    return odds


def test_rank_estimate_has_the_odds_of_sampling():
    """Means, too: E floor(n / draws) is near the true rank m, never below.

    Six standard errors of 20,000 images: chance fails once in 10^7 seeds, and
    the seed is fixed.
    """
    labels, scores = ranked(20_000)
    draws = draw_violators(labels, scores, [3, 4])
    ranks = draws.rank.numpy()[:, len(NEGATIVES) : -1]
    n, means = len(NEGATIVES), []
    for rank, m in zip(ranks.T, VIOLATING, strict=True):
        odds = odds_of_rank(m, n)
        shares = np.bincount(rank, minlength=n + 1) / len(rank)
        bound = 6 * np.sqrt(odds * (1 - odds) / len(rank)) + 1e-12
        assert (np.abs(shares - odds) <= bound).all(), m
        means.append(odds @ np.arange(n + 1))
    np.testing.assert_allclose(ranks.mean(0), means, atol=0.15)
    assert means[0] == 0 and means[-1] == n
    assert (np.diff(means) > 0).all()
    assert (means[1:] >= VIOLATING[1:] - 1e-9).all()


def test_violators_are_uniform_among_those_that_violate():
    labels, scores = ranked(20_000)
    draws = draw_violators(labels, scores, [5, 6])
    for column, m in enumerate(VIOLATING, len(NEGATIVES)):
        found = draws.violator.numpy()[
            draws.rank.numpy()[:, column] > 0, column
        ]
        shares = np.bincount(found, minlength=C) / max(len(found), 1)
        assert set(found) == set(range(len(NEGATIVES) - m, len(NEGATIVES)))
        if m:
            bound = 6 * np.sqrt((1 - 1 / m) / m / len(found)) + 1e-12
            assert np.abs(shares[10 - m : 10] - 1 / m).max() <= bound


def test_loss_is_the_sum_over_positives():
    _, labels = problem()
    scores = np.random.default_rng(1).normal(size=(B, C)).astype(np.float32)
    draws = draw_violators(labels, scores, [7, 8])
    rank, violator = draws.rank.numpy(), draws.violator.numpy()
    expected = np.zeros(B)
    for i, u in zip(*np.nonzero(labels > 0), strict=True):
        if rank[i, u]:
            margin = 1 - scores[i, u] + scores[i, violator[i, u]]
            assert margin > 0 and labels[i, violator[i, u]] == -1
            expected[i] += margin * sum(1 / r for r in range(1, rank[i, u] + 1))
    assert expected.max() > 1
    np.testing.assert_allclose(warp(labels, scores, draws), expected, rtol=1e-5)


def test_hidden_labels_do_not_matter():
    _, labels = problem(2)
    scores = np.random.default_rng(3).normal(size=(B, C)).astype(np.float32)
    other = np.where(labels == 0, 50 * scores[::-1], scores)
    losses = [
        warp(labels, s, draw_violators(labels, s, [1, 2]))
        for s in (scores, other)
    ]
    np.testing.assert_array_equal(*losses)


def test_gradient_is_finite_everywhere():
    labels = tf.constant(
        [[1, 1, 0], [-1, 0, -1], [0, 0, 0], [1, -1, -1], [1, -1, -1]], tf.int8
    )
    far = [[1e4, -1e4, 1e4]] * 4 + [[-1e4, 1e4, 1e4]]
    scores = tf.Variable(far)
    with tf.GradientTape() as tape:
        draws = draw_violators(labels, scores, [0, 0])
        loss = warp(labels, scores, draws)
    gradient = tape.gradient(loss, scores).numpy()
    np.testing.assert_array_equal(loss.numpy()[:3], [0, 0, 0])
    np.testing.assert_array_equal(gradient[:3], np.zeros((3, 3)))
    assert float(loss[4]) == pytest.approx(1.5 * 20_001)
    assert np.isfinite(gradient).all() and gradient[4, 0] == -1.5


def logistic(scale=1.0):
    model = build(MultiLabelModel)
    rng = np.random.default_rng(9)
    model.classifier.set_weights(
        [scale * rng.normal(size=(D, C)), rng.normal(size=C)]
    )
    return model


def test_starts_as_the_logistic_model():
    features = tf.constant(problem()[0])
    expected = logistic().scores(features).numpy()
    free, bounded, small = (
        build(WSABIE, **options)
        for options in (
            {"wsabie_norm": 100.0}, {"wsabie_norm": 0.5},
            {"wsabie_norm": 100.0, "wsabie_dimension": 2},
        )
    )  # fmt: skip
    for model in (free, bounded, small):
        model.start_from(logistic())
    np.testing.assert_allclose(free.scores(features), expected, atol=1e-4)
    ratio = bounded.scores(features) / expected
    np.testing.assert_allclose(ratio, np.full((B, C), ratio[0, 0]), rtol=1e-3)
    assert 0 < ratio[0, 0] < 1
    kernel, bias = logistic().classifier.get_weights()
    left, values, right = np.linalg.svd(kernel)
    best = left[:, :2] * values[:2] @ right[:2]
    np.testing.assert_allclose(
        small.scores(features), features @ best + bias, atol=1e-4
    )


def test_boost_is_of_the_scores_of_each_position():
    features = problem()[0].reshape(2, 2, 3, D)
    plain, boosted = build(WSABIE), build(WSABIE, boost_factor=5.0)
    for model in (plain, boosted):
        model.start_from(logistic())
    scores = plain.scores(tf.reshape(features, [-1, D])).numpy()
    scores = scores.reshape(2, 6, C)
    np.testing.assert_allclose(
        boosted.scores(tf.constant(features)),
        np.where(scores > 0, 5 * scores, scores).mean(1),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def test_norms_stay_bounded_and_the_loss_falls():
    features, labels = problem(4)
    batch, largest = batch_of(features, labels), {}
    for bound in (2.0, 100.0):
        model = build(WSABIE, wsabie_norm=bound)
        model.start_from(logistic(3.0))
        losses = []
        for _ in range(30):
            losses.append(model.loss_terms(batch.inputs, batch)["loss"].numpy())
            model.train_step((batch.inputs, batch.labels))
        assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
        (v,), (w, _) = (
            layer.get_weights() for layer in (model.embedding, model.classifier)
        )
        largest[bound] = [
            np.linalg.norm(v, axis=1).max(), np.linalg.norm(w, axis=0).max()
        ]  # fmt: skip
    assert max(largest[2.0]) < 2.0 + 1e-5
    assert min(largest[100.0]) > 2.1


def test_draws_change_from_step_to_step_and_repeat():
    features, labels = problem(5)
    batch = batch_of(features, labels)
    model = build(WSABIE)
    losses = []
    for step in (0, 1, 0):
        model.optimizer.iterations.assign(step)
        losses.append(float(model.evaluation_step(batch)[1]["loss"]))
    assert losses[0] == losses[2] != losses[1]
    model.compiled = False  # as it is before `compile`
    eager = model.loss_terms(tf.constant(features), batch)["loss"]
    assert float(eager) == pytest.approx(losses[0])


def test_fit_and_reload(tmp_path):
    features, labels = problem(6)
    batch = batch_of(features, labels)
    model = build(WSABIE, wsabie_dimension=3, wsabie_norm=0.7)
    model.start_from(logistic())
    eager = float(model.loss_terms(batch.inputs, batch)["loss"])
    history = model.fit(
        features, labels, batch_size=B, shuffle=False, verbose=0
    ).history
    assert history["loss"] == [pytest.approx(eager, rel=1e-5)]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for _ in range(2):
        np.testing.assert_array_equal(
            again.scores(features), model.scores(features)
        )
        for either in (model, again):
            either.fit(features, labels, batch_size=B, shuffle=False, verbose=0)


def test_truncated_svd_is_the_same_each_time():
    matrix = np.random.default_rng(0).normal(size=(40, 30))
    first, second = truncated_svd(matrix, 7), truncated_svd(matrix, 7)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_truncated_svd_of_zeros():
    for matrix in (np.zeros((30, 20)), scipy.sparse.csr_array((30, 20))):
        left, values, right = truncated_svd(matrix, 4)
        assert (left.shape, right.shape) == ((30, 4), (4, 20))
        np.testing.assert_array_equal(values, np.zeros(4))
        assert not left.any() and not right.any()
