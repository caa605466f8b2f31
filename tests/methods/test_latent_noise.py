"""`latent_noise` against NumPy, and on a planted labelling bias."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.latent_noise import LatentNoise, mention_logits
from tests.methods.common import B, C, D, batch_of, build, problem


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def dense(layer, features):
    kernel, bias = (w.astype(float) for w in layer.get_weights())
    return features @ kernel + bias


def randomized(**options):
    """A model whose relevance depends on the image."""
    model = build(LatentNoise, **options)
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(5)
    for layer in (model.if_present, model.if_absent):
        layer.set_weights([rng.normal(size=(D, C)), rng.normal(size=C)])
    return model


def probabilities(model, features):
    """v and p(mentioned) of each label, [B, C] each."""
    v, present, absent = (
        sigmoid(dense(layer, features))
        for layer in (model.classifier, model.if_present, model.if_absent)
    )
    return v, present * v + absent * (1 - v)


def test_loss_is_cross_entropy_of_the_observed_mentions():
    features, labels = problem()
    model = randomized()
    _, p = probabilities(model, features)
    terms = [
        -np.log(p[i, c] if labels[i, c] > 0 else 1 - p[i, c])
        for i in range(B)
        for c in range(C)
        if labels[i, c]
    ]
    got = model.loss_terms(tf.constant(features), batch_of(features, labels))
    assert float(got["loss"]) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("scores", ["visual", "relevance"])
def test_scores_are_one_of_the_two_outputs(scores, tmp_path):
    features, _ = problem()
    model = randomized(latent_noise_scores=scores)
    expected = probabilities(model, features)[scores == "relevance"]
    got = model.scores(tf.constant(features))
    np.testing.assert_allclose(sigmoid(got), expected, rtol=1e-4)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded.scores(tf.constant(features)), got)


def test_spatial_features_count_by_their_mean():
    features, labels = problem()
    spatial = tf.random.stateless_normal([B, 2, 3, D], [0, 1])
    mean = tf.reduce_mean(spatial, [1, 2])
    model = randomized()
    np.testing.assert_allclose(
        model.mention_logits(spatial), model.mention_logits(mean), atol=1e-4
    )


def test_starts_with_the_ranking_of_the_logistic_model():
    features, _ = problem()
    logistic = build(MultiLabelModel, seed=7)
    expected = logistic.scores(tf.constant(features)).numpy()
    for scores in ("visual", "relevance"):
        model = build(LatentNoise, latent_noise_scores=scores)
        model.start_from(logistic)
        got = model.scores(tf.constant(features)).numpy()
        np.testing.assert_array_equal(got.argsort(1), expected.argsort(1))


def test_saturated_logits_stay_finite():
    extremes = np.float32([-1e4, -30, 0, 30, 1e4])
    grid = np.stack(np.meshgrid(extremes, extremes, extremes), -1)
    logits = [tf.Variable(grid[..., i].reshape(5, 25)) for i in range(3)]
    for sign in (-1, 1):
        with tf.GradientTape() as tape:
            found = mention_logits(*logits)
            loss = tf.nn.softplus(sign * found)
        assert np.isfinite(found).all() and np.isfinite(loss).all()
        for gradient in tape.gradient(loss, logits):
            assert np.isfinite(gradient).all()


def test_recovers_a_planted_labelling_bias():
    """Present labels are mentioned with a probability that the image shows."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, D)).astype(np.float32)
    directions = rng.normal(size=(D, C))
    directions[-1] = 0  # the last feature governs the mention alone
    present = features @ directions / np.linalg.norm(directions, axis=0) > 0.3
    keep = sigmoid(3 * features[:, -1:])
    mentioned = present & (rng.random(present.shape) < keep)
    labels = np.where(mentioned, 1, -1).astype(np.int8)

    def train(cls, epochs, start=None):
        keras.utils.set_random_seed(0)
        model = cls(None, C)
        model.build((None, D))
        if start is not None:
            model.start_from(start)
        model.compile(keras.optimizers.Adam(0.05))
        model.fit(features, labels, 100, epochs, verbose=0)
        return model

    logistic = train(MultiLabelModel, 15)
    model = train(LatentNoise, 25, logistic)
    for c in range(C):
        found = sigmoid(dense(model.if_present, features)[:, c])
        assert np.corrcoef(found, keep[:, 0])[0, 1] > 0.95
    biased, visual = (
        [average_precision(present[:, c], scores[:, c]) for c in range(C)]
        for scores in (
            dense(logistic.classifier, features),
            model.scores(tf.constant(features)).numpy(),
        )
    )
    assert max(biased) < 0.9 and min(visual) > 0.98


def average_precision(truth, scores):
    hits = truth[np.argsort(-scores)]
    return (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
