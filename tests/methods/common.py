"""A small problem for the tests of the methods."""

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.tensors import TensorBatches
from imcl_tf.methods.batches import Batch

B, C, D = 12, 9, 6


def problem(seed=0, num_images=B, num_labels=C):
    """Features [n, D] float32 and labels [n, C] int8, half of them observed."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_images, D)).astype(np.float32)
    labels = rng.choice([-1, 0, 0, 1], size=(num_images, num_labels))
    return features, labels.astype(np.int8)


def tiny_cnn():
    """Pictures [B, 8, 8, 3] -> features [B, 8], with random weights.

    With batch statistics, as small_cnn, but built, run and saved in a fraction
    of its time.
    """
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    network.pretrained = False
    return network


def batch_of(features, labels, index=None):
    """A minibatch, of images outside the training set without `index`."""
    if index is None:
        index = -np.ones(len(labels))
    return Batch(
        tf.constant(features), tf.constant(labels), tf.constant(index, tf.int32)
    )


def build(cls, seed=0, num_labels=C, num_features=D, **options):
    """A compiled model of `cls` on features, of positions where it boosts."""
    keras.utils.set_random_seed(seed)
    model = cls(None, num_labels, **options)
    positions = (2, 3) if "boost_factor" in options else ()
    model.build((None, *positions, num_features))
    model.compile(keras.optimizers.RMSprop(0.05))
    return model


class Named(TensorBatches):
    """Training data with label names."""

    label_names = ()


def data_of(labels, features=None, names=None, batch_size=5):
    """Training data of numbered images, in order."""
    if features is None:
        features = np.zeros((labels.shape[0], D), np.float32)
    if scipy.sparse.issparse(labels):
        labels = labels.toarray()
    inputs = {"inputs": features, "image_index": tf.range(len(labels))}
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels))
    data = Named(dataset.batch(batch_size))
    data.label_names = names
    return data
