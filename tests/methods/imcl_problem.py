"""A small problem for the tests of IMCL, with and without a dictionary."""

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.batches import Batch
from imcl_tf.methods.dictionary import Dictionary
from imcl_tf.ops.labels import LabelTable

B, C, D, K = 12, 9, 6, 2


def problem(seed=0, num_images=B):
    rng = np.random.default_rng(seed)
    # Numbers that a dictionary, in half precision, holds as they are.
    features = np.abs(rng.normal(size=(num_images, D))).astype(np.float16)
    features = features.astype(np.float32)
    labels = rng.choice([-1, 0, 0, 1], size=(num_images, C)).astype(np.int8)
    return features, labels


def batch_of(features, labels, index=None):
    if index is None:
        index = -np.ones(len(labels))
    return Batch(
        tf.constant(features), tf.constant(labels), tf.constant(index, tf.int32)
    )


def make_model(seed=0, compiled=True, **options):
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    graph = imcl_tf.LabelGraph.from_cooccurrence(
        rng.choice([-1, 1], size=(50, C)), 4
    )
    options = {"num_neighbors": K, "label_graph": graph, **options}
    model = imcl_tf.IMCL(None, C, **options)
    model.build((None, D))
    if compiled:
        model.compile(keras.optimizers.RMSprop(0.1), jit_compile=False)
    return model


def forward(model, inputs, training=False):
    """Features and logits."""
    features = model.features_of(inputs, training=training)
    return features, model.scores(features)


def add_dictionary(model, size=20, seed=7):
    features, labels = problem(seed, size)
    table = LabelTable(scipy.sparse.csr_array(labels))
    model.dictionary = Dictionary(np.arange(size), table, D, features)
    model.refresh_dictionary()
    return features, labels
