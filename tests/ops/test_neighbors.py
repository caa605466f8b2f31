"""Similar training images at prediction, against NumPy."""

import numpy as np
import tensorflow as tf

from imcl_tf.ops import neighbors
from imcl_tf.ops.neighbors import (
    evidence,
    mixed_logits,
    nearest,
    of_unit_norm,
)


def test_nearest_are_those_of_the_largest_cosine():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 4)).astype(np.float32)
    stored = rng.normal(size=(9, 4)).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    found = nearest(features, stored, 3)
    for i in range(5):
        cosines = stored @ features[i] / np.linalg.norm(features[i])
        order = np.argsort(-cosines)[:3]
        np.testing.assert_array_equal(found.indices[i], order)
        np.testing.assert_allclose(found.cosines[i], cosines[order], atol=3e-6)
    assert nearest(features, stored, 20).indices.shape == (5, 9)
    zero = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(nearest(zero, stored, 2).indices, [[0, 1]])


def test_rounding_ranks_no_image():
    """Equal images are equally similar, wherever they stand."""
    rng = np.random.default_rng(0)
    row = rng.normal(size=1000).astype(np.float32)
    stored = np.tile(row / np.linalg.norm(row), (301, 1)).astype(np.float16)
    found = nearest(np.tile(row, (77, 1)), stored, 20)
    np.testing.assert_array_equal(found.indices, [[*range(20)]] * 77)
    assert len(np.unique(found.cosines)) == 1


def test_stored_features_are_cast_some_at_a_time(monkeypatch):
    """Their copy in single precision never is as large as all of them."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 4)).astype(np.float32)
    stored = rng.normal(size=(9, 4)).astype(np.float16)
    whole = nearest(features, stored, 5)
    monkeypatch.setattr(neighbors, "_BLOCK", 4 * 4 + 1)
    variable = tf.Variable(stored)
    find = tf.function(lambda x: nearest(x, variable, 5))
    traced = find.get_concrete_function(tf.TensorSpec([None, 4]))
    operations = traced.graph.get_operations()
    assert "Cast" not in {x.type for x in operations}  # but within a loop
    assert "While" in {x.type for x in operations}
    for found, expected in zip(find(features), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unit_norm_of_any_size():
    """Squares of these would be infinite, or 0."""
    row = np.array([3.0, -4.0])
    for size in (1.0, 1e-30, 1e-9, 1e20, 5e37):
        unit = of_unit_norm((size * row)[np.newaxis].astype(np.float32))
        np.testing.assert_allclose(unit, [[0.6, -0.8]], rtol=1e-6)
    np.testing.assert_array_equal(of_unit_norm(np.zeros((1, 2), "f4")), 0)


def test_evidence_is_a_weighted_mean():
    cosines = np.array([[0.9, 0.8]], np.float32)
    labels = np.array([[[1.0, 0.0], [0.0, 0.5]]], np.float32)
    first = np.exp(9) / (np.exp(9) + np.exp(8))
    np.testing.assert_allclose(
        evidence(cosines, labels, 0.1), [[first, (1 - first) / 2]], rtol=1e-5
    )


def test_mixture_of_probabilities():
    logits = np.array([[-30.0, 2.0, 90.0, 90.0]], np.float32)
    shown = np.array([[0.25, 0.5, 0.0, 1.0]], np.float32)
    present = 0.7 / (1 + np.exp(-logits.astype(float))) + 0.3 * shown
    absent = 0.7 / (1 + np.exp(logits.astype(float))) + 0.3 * (1 - shown)
    found = mixed_logits(logits, shown, 0.3)[0]
    np.testing.assert_allclose(
        found[:3], np.log(present / absent)[0, :3], rtol=1e-4
    )
    assert np.isfinite(found).all()
    # Share 0 keeps the order that probabilities in float32 would lose.
    near = np.array([[8.0, 9.0, 10.0]], np.float32)
    np.testing.assert_allclose(
        mixed_logits(near, np.zeros_like(near), 0.0), near, rtol=1e-3
    )


def test_no_share_leaves_the_order_of_large_logits():
    large = np.array([[-300.0, -40.0, 20.0, 40.0, 300.0]], np.float32)
    shown = np.array([[0.0, 1.0, 0.0, 1.0, 0.5]], np.float32)
    np.testing.assert_array_equal(mixed_logits(large, shown, 0.0), large)
    for share in (0.01, 0.5, 1.0):
        assert np.isfinite(mixed_logits(large, shown, share)).all()
    # Where neighbours show nothing the classifier ranks.
    near = np.array([[-20.0, -19.0, 19.0, 20.0]], np.float32)
    shown = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
    mixed = mixed_logits(near, shown, 0.5).numpy()
    assert (np.diff(mixed[0]) > 0).all()
