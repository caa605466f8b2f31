"""Minibatches whose loss is not finite make no step, on any state."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.base import METHODS, MultiLabelModel
from imcl_tf.methods.finite import NonFiniteLossError, is_finite

# Four minibatches of 8; the second has an image that is not a number.
N, B, C, D = 32, 8, 4, 6
BAD = np.arange(B, 2 * B)
METHODS_OF_A_STATE = {
    "logistic": ({}, {"clip_norm": 0.05, "ema_decay": 0.5}),
    "imcl": (
        {
            "dictionary_size": 0, "num_neighbors": 2, "loss_scale": "initial",
            "graph_learning_rate": 0.5,
        },
        {},
    ),
    "large_loss": (
        {"large_loss": "correct_permanent", "large_loss_delta": 30.0},
        {},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32)
    features[BAD[1]] = np.nan
    labels = rng.choice([-1, 0, 1], size=(N, C)).astype(np.int8)
    # What a method learns from the labels alone is then the same without them.
    labels[BAD] = 0
    return features, labels, np.arange(N, dtype=np.int32)


def trained(cls, arrays, options, compiled, epochs=2):
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    cnn = keras.Sequential(
        [
            keras.Input((D,)),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(momentum=0.5),
        ]
    )
    model = cls(cnn, C, **options)
    model.compile(keras.optimizers.RMSprop(0.1, momentum=0.9), **compiled)
    features, labels, index = arrays
    inputs = {"inputs": features, "image_index": index}
    batches = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(B)
    history = model.fit(batches, epochs=epochs, verbose=0).history
    left = {v.path: v.numpy() for v in model.variables}
    left |= {k: v.numpy() for k, v in model.training_state().items()}
    return model, history, left


@pytest.mark.parametrize("name", METHODS_OF_A_STATE)
def test_a_minibatch_left_out_is_as_if_it_were_not_there(name, arrays, caplog):
    """Batch statistics, optimizers, A, averages, pseudo-labels and means."""
    cls, (options, compiled) = METHODS[name], METHODS_OF_A_STATE[name]
    with caplog.at_level(logging.WARNING, "absl"):
        model, history, left = trained(
            cls, arrays, options, compiled | {"on_nan": "skip"}
        )
    assert [s.step for s in model.skipped] == [2, 6]
    assert model.skipped[0].images == [str(i) for i in BAD]
    message = "left out: the loss of step 2, or its gradient, is not finite"
    assert f"{message} (images: 8, 9, 10, 11, 12 and 3 more)" in caplog.text
    rest = np.delete(np.arange(N), BAD)
    _, expected, without = trained(
        cls, [x[rest] for x in arrays], options, compiled
    )
    assert history == expected
    assert np.isfinite([*history.values()]).all()
    without.pop("pseudo_labels", None)
    for key, value in without.items():
        np.testing.assert_array_equal(left[key], value, err_msg=key)
    if "pseudo_labels" in left:
        marks = model.pseudo_labels.rows(tf.range(N)).numpy()
        assert not marks[BAD].any() and marks[rest].any()


def test_training_stops_before_the_step(arrays):
    kernels = []

    class Noted(MultiLabelModel):
        """Keeps the weights that the step before has left."""

        def make_train_function(self, force=False):
            super().make_train_function(force)
            kernels.append(self.classifier)

    message = (
        r"step 2, or its gradient, is not finite \(images: 8, 9, 10, 11, 12 "
        r"and 3 more\); lower the learning rates, or leave .* \(on_nan=skip\)"
    )
    with pytest.raises(FloatingPointError, match=message):
        trained(Noted, arrays, {}, {})
    _, _, one_step = trained(
        Noted, [x[:B] for x in arrays], {}, {}, epochs=1
    )  # fmt: skip
    stopped = kernels[0].kernel
    np.testing.assert_array_equal(stopped.numpy(), one_step[stopped.path])


def test_a_gradient_that_is_not_finite_makes_no_step(arrays):
    """The square root of 0 is finite, its derivative is not."""

    class Root(MultiLabelModel):
        """Eq. (2) and a term that is always 0."""

        def loss_terms(self, features, batch):
            terms = super().loss_terms(features, batch)
            zero = tf.reduce_sum(tf.sqrt(tf.abs(0.0 * self.scores(features))))
            return terms | {"loss": terms["loss"] + zero}

    features = np.where(np.isnan(arrays[0]), 0, arrays[0])
    with pytest.raises(NonFiniteLossError, match="loss of step 1, or its grad"):
        trained(Root, (features, *arrays[1:]), {}, {})


def test_skipping_ends_where_nothing_else_is_left(arrays):
    """11 minibatches in a row, in a third epoch of four."""
    features = np.full((N, D), np.nan, np.float32)
    with pytest.raises(FloatingPointError, match="step 11, .* of the 10 steps"):
        trained(
            MultiLabelModel, (features, *arrays[1:]), {}, {"on_nan": "skip"},
            epochs=4,
        )  # fmt: skip


def test_train_on_batch_raises():
    model = imcl_tf.MultiLabelModel(None, 2)
    model.compile("rmsprop")
    labels = np.ones((1, 2), np.int8)
    model.train_on_batch(np.ones((1, 3), np.float32), labels)
    before = model.get_weights()
    with pytest.raises(FloatingPointError, match="of the minibatch, or its"):
        model.train_on_batch(np.full((1, 3), np.inf, np.float32), labels)
    for value, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, other)


def test_unknown_choice():
    with pytest.raises(ValueError, match="on_nan must be one of stop, skip, g"):
        imcl_tf.MultiLabelModel(None, 2).compile("rmsprop", on_nan="ignore")


def test_is_finite():
    one = tf.constant(1.0)
    good = tf.IndexedSlices(tf.constant([[1.0, 1e10]]), tf.constant([3]))
    assert is_finite(one, [None, good, tf.constant([2.0])])
    assert not is_finite(tf.constant(np.nan), [good])
    for value in (np.inf, np.nan, -1e30):  # the square of the last is infinite
        rows = tf.IndexedSlices(tf.constant([[1.0, value]]), tf.constant([3]))
        assert not is_finite(one, [None, rows])
        assert not is_finite(one, [good, tf.constant([value])])
