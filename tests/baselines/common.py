"""A small problem for the tests of the methods."""

import keras
import numpy as np
import tensorflow as tf

from imcl_tf.multilabel import Batch

B, C, D = 12, 9, 6


def problem(seed=0, num_images=B, num_labels=C):
    """Features [n, D] float32 and labels [n, C] int8, half of them observed."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_images, D)).astype(np.float32)
    labels = rng.choice([-1, 0, 0, 1], size=(num_images, num_labels))
    return features, labels.astype(np.int8)


def batch_of(features, labels, index=None):
    """A minibatch, of images outside the training set without `index`."""
    if index is None:
        index = -np.ones(len(labels))
    return Batch(
        tf.constant(features), tf.constant(labels), tf.constant(index, tf.int32)
    )


def build(cls, seed=0, num_labels=C, num_features=D, **options):
    """A compiled model of `cls` on features."""
    keras.utils.set_random_seed(seed)
    model = cls(None, num_labels, **options)
    model.build((None, num_features))
    model.compile(keras.optimizers.RMSprop(0.05))
    return model
