"""`fast0tag`: its loss against loops, its label vectors against NumPy."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.fast0tag import (
    Fast0Tag,
    cooccurrence_vectors,
    file_dimension,
    rank_net,
    read_label_vectors,
)
from tests.methods.common import B, C, D, batch_of, build, data_of, problem

NAMES = tuple(f"label {chr(97 + j)}" for j in range(C))


def mean_over_pairs(labels, scores):
    expected = []
    for y, s in zip(labels, scores.astype(float), strict=True):
        pairs = [
            np.logaddexp(0, s[v] - s[u])
            for u in np.flatnonzero(y > 0)
            for v in np.flatnonzero(y < 0)
        ]
        expected.append(sum(pairs) / max(len(pairs), 1))
    return expected


@pytest.mark.parametrize("num_labels", [C, 70])  # 70: more than one block
def test_loss_and_gradient_are_those_of_the_pairs(num_labels):
    _, labels = problem(0, num_labels=num_labels)
    labels[0] = 1  # no pair, and the most positives
    labels[1, 1:] = 1
    labels[1, 0] = -1
    rng = np.random.default_rng(1)
    scores = rng.normal(size=labels.shape).astype(np.float32)
    np.testing.assert_allclose(
        rank_net(labels, scores), mean_over_pairs(labels, scores), rtol=1e-5
    )
    variable = tf.Variable(scores)
    weights = rng.normal(size=B).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weights * rank_net(labels, variable))
    expected = np.zeros(labels.shape)
    for i, (y, s) in enumerate(zip(labels, scores, strict=True)):
        pairs = np.outer(y > 0, y < 0)
        slopes = pairs / (1 + np.exp(s[:, None] - s)) / max(pairs.sum(), 1)
        expected[i] = weights[i] * (slopes.sum(0) - slopes.sum(1))
    np.testing.assert_allclose(
        tape.gradient(loss, variable), expected, rtol=1e-4, atol=1e-6
    )


def test_a_minibatch_of_any_size_without_positives_has_no_loss():
    compiled = tf.function(
        rank_net,
        input_signature=[
            tf.TensorSpec([None, 3], tf.int8),
            tf.TensorSpec([None, 3], tf.float32),
        ],
    )
    labels = np.array([[0, -1, -1], [0, 0, 0]], np.int8)
    loss = compiled(labels, np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(loss, [0, 0])


def test_hidden_labels_do_not_matter():
    _, labels = problem(2)
    scores = np.random.default_rng(3).normal(size=(B, C)).astype(np.float32)
    other = np.where(labels == 0, 50 * scores[::-1], scores)
    np.testing.assert_array_equal(
        rank_net(labels, scores), rank_net(labels, other)
    )


@pytest.mark.parametrize("rows", [slice(0, 3), slice(2, 3), slice(0, 5)])
def test_gradient_is_finite_everywhere(rows):
    labels = np.array(
        [[1, 1, 0], [-1, 0, -1], [0, 0, 0], [1, -1, -1], [1, -1, -1]], np.int8
    )[rows]
    far = np.array([[1e4, -1e4, 1e4]] * 4 + [[-1e4, 1e4, 1e4]], np.float32)
    scores = tf.Variable(far[rows])
    with tf.GradientTape() as tape:
        loss = tf.function(rank_net)(labels, scores)
    gradient = tape.gradient(loss, scores).numpy()
    np.testing.assert_array_equal(gradient[:3], np.zeros_like(gradient[:3]))
    np.testing.assert_array_equal(loss[:3], np.zeros(len(loss[:3])))
    if len(labels) == 5:
        np.testing.assert_allclose(loss[3:], [np.log(2) / 2, 2e4])
        np.testing.assert_allclose(gradient[4], [-1, 0.5, 0.5])


def observed():
    labels = np.random.default_rng(5).choice([-1, 0, 1, 1], size=(40, C))
    labels[:, 3] = -1
    return scipy.sparse.csr_array(labels.astype(np.int8))


def ppmi(labels):
    x = (labels.toarray() > 0).astype(float)
    n = x.T @ x
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(n * n.sum() / np.outer(n.sum(0), n.sum(1)))
    return np.where(n > 0, np.maximum(information, 0), 0)


def test_cooccurrence_vectors_are_the_decomposition_of_ppmi():
    """U S U^T is the square root of M M^T, cut to D dimensions."""
    values, basis = np.linalg.eigh(ppmi(observed()))
    order = np.argsort(-np.abs(values))
    for dimension in (4, C, C + 3):
        vectors = cooccurrence_vectors(observed(), dimension)
        assert vectors.shape == (C, dimension)
        assert vectors.dtype == np.float32
        best = order[:dimension]
        np.testing.assert_allclose(
            vectors @ vectors.T,
            basis[:, best] * np.abs(values[best]) @ basis[:, best].T,
            atol=1e-5,
        )
        assert np.abs(vectors[3]).max() < 1e-6  # never positive
        np.testing.assert_array_equal(
            vectors, cooccurrence_vectors(observed(), dimension)
        )


def write_vectors(path, header="", lines=()):
    body = ["the 0 0 0", "Label 1 2 3", "label 9 9 9", "new york 1 1 1",
            "new 1 0 0", "caf\u00e9 4 5 6 ", *lines]  # fmt: skip
    path.write_text(header + "\n".join(body) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("header", ["", "6 3\n"])
def test_label_vectors_are_read(tmp_path, header):
    path = write_vectors(tmp_path / "v.txt", header)
    assert file_dimension(path) == 3
    names = ("LABEL", "new_york label::(CAF\u00c9)", "6, label", "the")
    np.testing.assert_allclose(
        read_label_vectors(path, names),
        [[1, 2, 3], [2, 7 / 3, 3], [1, 2, 3], [0, 0, 0]],
    )


def test_mistakes_in_label_vectors_are_named(tmp_path):
    path = write_vectors(tmp_path / "v.txt", lines=["cat 1 2", "dog 1 x 2"])
    for names, words in (
        (("the", "zebra 1", "yak"), "2 of 3 labels, such as zebra 1, yak"),
        (("cat",), "v.txt: line 7: expected 3 finite numbers"),
        (("dog",), "v.txt: line 8: could not convert"),
    ):
        with pytest.raises(ValueError) as caught:
            read_label_vectors(path, names)
        assert words in str(caught.value)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty: expected lines"):
        Fast0Tag(None, C, label_vectors=str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError):
        Fast0Tag(None, C, label_vectors=str(tmp_path / "none"))
    model = build(Fast0Tag, label_vectors=str(path), fast0tag_dimension=4)
    with pytest.raises(ValueError, match="dimension is 4, but .* of 3"):
        model.prepare(data_of(np.zeros((2, C), np.int8), names=("the",) * C))


def logistic():
    model = build(MultiLabelModel)
    rng = np.random.default_rng(9)
    model.classifier.set_weights([rng.normal(size=(D, C)), rng.normal(size=C)])
    return model


def prepared(labels, **options):
    model = build(Fast0Tag, fast0tag_hidden=16, **options)
    model.prepare(data_of(labels, names=NAMES))
    model.start_from(logistic())
    return model


def test_a_digit_that_is_no_number(tmp_path):
    """Python's int() does not read what isdigit() takes for one."""
    (tmp_path / "x.txt").write_text("3 \u00b2\ndog 1 2\n")
    with pytest.raises(ValueError, match="x.txt: expected lines of a word"):
        file_dimension(tmp_path / "x.txt")


@pytest.mark.parametrize("dimension", [4, 300])
def test_starts_at_the_least_squares_fit(dimension):
    features = problem()[0]
    model = prepared(observed(), fast0tag_dimension=dimension)
    (vectors,) = model.classifier.get_weights()
    lengths = np.linalg.norm(vectors, axis=0)
    np.testing.assert_allclose(np.delete(lengths, 3), 1, rtol=1e-5)
    assert lengths[3] < 0.01
    logits = logistic().scores(tf.constant(features)).numpy()
    directions = np.linalg.lstsq(vectors.T.astype(float), logits.T, 1e-5)[0]
    scores = model.scores(tf.constant(features)).numpy()
    np.testing.assert_allclose(scores, (vectors.T @ directions).T, atol=1e-3)
    if dimension > C:  # all that vectors can tell apart
        kept = np.arange(C) != 3
        np.testing.assert_allclose(scores[:, kept], logits[:, kept], atol=1e-3)


def test_boost_is_of_the_scores_of_each_position():
    features = problem()[0].reshape(2, 2, 3, D)
    plain, boosted = (
        prepared(observed()),
        prepared(observed(), boost_factor=5.0),
    )
    scores = plain.scores(tf.reshape(features, [-1, D])).numpy()
    scores = scores.reshape(2, 6, C)
    np.testing.assert_allclose(
        boosted.scores(tf.constant(features)),
        np.where(scores > 0, 5 * scores, scores).mean(1),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_learns_and_keeps_the_vectors():
    features, labels = problem(4)
    model = prepared(labels)
    before = model.classifier.get_weights()[0]
    first = float(
        model.loss_terms(tf.constant(features), batch_of(features, labels))[
            "loss"
        ]
    )
    model.compile(keras.optimizers.RMSprop(0.01))
    history = model.fit(features, labels, batch_size=B, epochs=20, verbose=0)
    losses = history.history["loss"]
    assert losses[0] == pytest.approx(first, rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_array_equal(model.classifier.get_weights()[0], before)
    assert np.abs(model.beside.get_weights()[0]).max() > 0


def test_reload_needs_no_file(tmp_path):
    features, labels = problem(6)
    path = tmp_path / "v.txt"
    rows = np.random.default_rng(7).normal(size=(C, 5))
    path.write_text(
        "".join(
            f"{name[-1]} {' '.join(map(str, row))}\n"
            for name, row in zip(NAMES, rows, strict=True)
        )
    )
    model = prepared(labels, label_vectors=str(path))
    assert model.classifier.kernel.shape == (5, C)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(
        model.classifier.get_weights()[0], unit.T, rtol=1e-5
    )
    model.fit(features, labels, batch_size=B, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    path.unlink()
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.scores(features), model.scores(features)
    )
    again.fit(features, labels, batch_size=B, shuffle=False, verbose=0)
    model.fit(features, labels, batch_size=B, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        again.scores(features), model.scores(features), rtol=1e-5
    )
