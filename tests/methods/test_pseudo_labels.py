"""`PseudoLabels` against a dense array."""

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.pseudo_labels import PseudoLabels


@pytest.mark.parametrize("num_labels", [1, 4, 7, 9])
def test_keeps_what_was_written(num_labels):
    rng = np.random.default_rng(num_labels)
    dense = np.zeros((10, num_labels), np.int8)
    stored = PseudoLabels(10, num_labels)
    update = tf.function(stored.update)
    for _ in range(5):
        index = rng.permutation(10)[:4].astype(np.int32)
        labels = rng.choice([-1, 0, 1], (4, num_labels)).astype(np.int8)
        update(tf.constant(index), tf.constant(labels))
        dense[index] = labels
        everything = stored.rows(tf.range(10))
        assert everything.dtype == tf.int8
        np.testing.assert_array_equal(everything, dense)


def test_images_of_no_number_have_none_and_keep_none():
    stored = PseudoLabels(3, 5)
    index = tf.constant([-1, 2, -1])
    stored.update(index, tf.ones([3, 5], tf.int8))
    np.testing.assert_array_equal(
        stored.rows(index), np.array([[0] * 5, [1] * 5, [0] * 5])
    )
    assert not stored.rows(tf.range(2)).numpy().any()


def test_four_labels_share_a_byte():
    assert PseudoLabels(7, 9).packed.shape == (8, 3)
