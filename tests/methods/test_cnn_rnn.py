"""`cnn_rnn` against an LSTM and an exhaustive search in NumPy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.cnn_rnn import (
    CNNRNN,
    beam_search,
    label_sequences,
)
from tests.methods.common import batch_of, build, data_of, problem

C = 5
SIZES = {"cnn_rnn_embedding": 4, "cnn_rnn_units": 3}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def randomized(seed=0, num_labels=C, **options):
    """A model none of whose parts is without effect."""
    model = build(CNNRNN, num_labels=num_labels, **{**SIZES, **options})
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    # The labels so far say more than the image: later steps matter.
    for layer, factor in ((model.of_lstm, 3.0), (model.of_feature, 0.3)):
        layer.kernel.assign(factor * layer.kernel)
    return model


def of_no_labels(features):
    return batch_of(features, np.zeros((len(features), C), np.int8))


class ByHand:
    """The network on one image, one step at a time."""

    def __init__(self, model, feature):
        self.kernel, self.recurrent, self.lstm_bias = model.lstm.get_weights()
        self.embedding = model.embedding.numpy()
        self.bias = model.bias.numpy()
        self.of_lstm = model.of_lstm.kernel.numpy()
        self.image = feature @ model.of_feature.kernel.numpy()

    def start(self):
        return np.zeros(3), np.zeros(3)

    def step(self, last, state):
        """Probabilities of the next label and of the stop, new state."""
        h, c = state
        gates = self.embedding[last] @ self.kernel + h @ self.recurrent
        i, f, g, o = np.split(gates + self.lstm_bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        joint = h @ self.of_lstm + self.image
        return softmax(self.embedding @ joint + self.bias), (h, c)


def exhaustive(model, feature, length):
    """The best probability of each label over every path."""
    network = ByHand(model, feature)
    best = np.zeros(C)

    def follow(path, probability, state):
        last = path[-1] if path else C
        following, state = network.step(last, state)
        for label in set(range(C)) - set(path):
            after = probability * following[label]
            best[label] = max(best[label], after)
            if len(path) + 1 < length:
                follow([*path, label], after, state)

    follow([], 1.0, network.start())
    return best


@pytest.mark.parametrize("length", [1, 3, 9])
def test_wide_beam_is_exhaustive_search(length):
    features, _ = problem(num_labels=C)
    model = randomized(cnn_rnn_length=length, cnn_rnn_beam=120)
    expected = [exhaustive(model, f, length) for f in features]
    got = sigmoid(model.score_step(of_no_labels(features)))
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_beam_search_repeats_no_label():
    """Sharp tables of step and last label: repetitions would pay."""
    size, steps = 20, 4
    alpha = np.full(C + 1, 0.1)  # of the labels and the stop
    tables = np.random.default_rng(0).dirichlet(alpha, (size, steps, C + 1))
    tables = np.log(tables[..., :C] + 1e-9).astype(np.float32)

    def next_labels(last, state):
        (step,) = state
        at_step = tf.gather(tables, step[:, :, 0], batch_dims=1)
        return tf.gather(at_step, last, batch_dims=2), [step + 1]

    start = [tf.zeros([size, 1, 1], tf.int32)]
    got = beam_search(next_labels, start, C, 120, steps)
    expected = np.full((size, C), -np.inf)
    for table, best in zip(tables, expected, strict=True):
        for path in itertools.permutations(range(C), steps):
            total = 0.0
            for step, (last, label) in enumerate(
                itertools.pairwise((C, *path))
            ):
                total += table[step, last, label]
                best[label] = max(best[label], total)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_narrow_beam_is_a_lower_bound():
    features, _ = problem(num_labels=C, num_images=40)
    # A compiled method does not keep its model alive: each needs a name.
    greedy, exhaustive = (
        randomized(cnn_rnn_length=4, cnn_rnn_beam=beam) for beam in (1, 60)
    )
    narrow, wide = (
        model.score_step(of_no_labels(features)).numpy()
        for model in (greedy, exhaustive)
    )
    assert (narrow < wide + 1e-4).all() and (narrow < wide - 0.01).any()


def test_beam_of_one_follows_the_likeliest_label():
    features, _ = problem(num_labels=C)
    model = randomized(cnn_rnn_length=4, cnn_rnn_beam=1)
    expected = np.zeros((len(features), C))
    for feature, best in zip(features, expected, strict=True):
        network = ByHand(model, feature)
        state, path, live = network.start(), [C], 1.0
        for _ in range(4):
            following, state = network.step(path[-1], state)
            following *= live
            following[path] = 0  # no label twice, and no stop
            best[:] = np.maximum(best, following[:C])
            live = following.max()
            path.append(following.argmax())
    got = sigmoid(model.score_step(of_no_labels(features)))
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_sequences_are_the_most_frequent_first_and_stop():
    labels = tf.constant(
        [[1, 1, -1, 0, 1], [0, 0, 0, -1, 0], [1, 1, 1, 1, 1]], tf.int8
    )
    frequency = tf.constant([0, 7, 9, 7, 2])
    expected = [[1, 4, 0, 5, 5, 5], [5] * 6, [2, 1, 3, 4, 0, 5]]
    for length in (1, 3, 6):
        np.testing.assert_array_equal(
            label_sequences(labels, frequency, length),
            np.array(expected)[:, :length],
        )


@pytest.mark.parametrize("length", [2, 8])
def test_loss_is_the_cross_entropy_of_the_sequence(length):
    features, labels = problem(num_labels=C)
    labels[0], labels[1], labels[2] = 0, 1, -1
    model = randomized(cnn_rnn_length=length)
    model.prepare(data_of(labels))
    counts = (labels == 1).sum(0)
    losses = []
    for feature, row in zip(features, labels, strict=True):
        sequence = sorted(
            np.flatnonzero(row > 0), key=lambda c: (-counts[c], c)
        )
        network = ByHand(model, feature)
        state, last, loss = network.start(), C, 0.0
        for label in [*sequence, C][:length]:
            following, state = network.step(last, state)
            loss -= np.log(following[label])
            last = label
        losses.append(loss)
    got = model.loss_terms(tf.constant(features), batch_of(features, labels))
    assert float(got["loss"]) == pytest.approx(np.mean(losses), rel=1e-4)


def test_unobserved_labels_are_absent():
    features, labels = problem(num_labels=C)
    absent = np.where(labels == 0, -1, labels).astype(np.int8)
    losses = []
    for hidden in (labels, absent):
        model = randomized()
        model.prepare(data_of(hidden))
        terms = model.loss_terms(
            tf.constant(features), batch_of(features, hidden)
        )
        losses.append(float(terms["loss"]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("size", [2, 8])
def test_first_step_starts_as_the_logistic_model(size):
    features, _ = problem(num_labels=C)
    logistic = build(MultiLabelModel, seed=7, num_labels=C)
    kernel = logistic.classifier.kernel.numpy()
    bias = np.arange(C) / 3
    logistic.classifier.bias.assign(bias)
    left, sizes, right = np.linalg.svd(kernel)
    sizes[size:] = 0
    nearest = left[:, :C] * sizes @ right
    odds = np.exp(features @ nearest + bias)
    expected = odds / (1 + odds.sum(1, keepdims=True))  # the stop's is 1
    model = build(
        CNNRNN, num_labels=C, cnn_rnn_embedding=size, cnn_rnn_length=1
    )
    model.start_from(logistic)
    got = model.scores(tf.constant(features))
    np.testing.assert_allclose(sigmoid(got), expected, rtol=1e-3)


def test_saturated_scores_stay_finite():
    features, labels = problem(num_labels=C)
    model = randomized(cnn_rnn_beam=3)
    large = tf.constant(1e4 * features)
    with tf.GradientTape() as tape:
        loss = model.loss_terms(large, batch_of(features, labels))["loss"]
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)
    assert np.isfinite(model.scores(large)).all()


def test_learns_that_one_label_follows_another_and_reloads(tmp_path):
    """The feature shows label 3; label 1 always comes with it, and before."""
    features, _ = problem(num_images=400)
    labels = -np.ones((400, C), np.int8)
    labels[features[:, 0] > 0, 3] = 1
    labels[labels[:, 3] > 0, 1] = 1
    labels[features[:, 1] > 1, 1] = 1
    model = build(CNNRNN, num_labels=C, cnn_rnn_length=3, **SIZES)
    model.prepare(data_of(labels))
    model.compile(keras.optimizers.Adam(0.05))
    losses = model.fit(features, labels, 100, 20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 3
    scores = model.score_step(of_no_labels(features))
    assert ((scores > 0) == (labels > 0)).numpy().mean() > 0.95
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded.frequency, (labels > 0).sum(0))
    np.testing.assert_allclose(
        reloaded.score_step(of_no_labels(features)), scores, rtol=1e-5
    )


def test_boost_is_refused():
    with pytest.raises(ValueError, match="boost_factor"):
        CNNRNN(None, C, boost_factor=2.0)
