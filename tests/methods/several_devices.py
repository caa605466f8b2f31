"""Trains methods on logical devices and on one, and compares all they leave.

    python -m tests.methods.several_devices DEVICES CASE...

A case is a name of `CASES`.

In a process of its own: devices are made before TensorFlow starts, and
collectives fail under a second strategy.
"""

import contextlib
import sys

import keras
import numpy as np
import tensorflow as tf

from imcl_tf.methods.base import METHODS

# 8, 8 and 2 images: the last minibatch leaves one of three devices without
# any. One image alone would have no batch statistics but rounding.
N, BATCH, C, PIXELS, EPOCHS = 18, 8, 9, 12, 2
# What differs from the defaults, so that each state changes within two epochs.
_OPTIONS = {
    "cnn_rnn": {"cnn_rnn_units": 8, "cnn_rnn_length": 3},
    "curriculum": {"curriculum_round_epochs": 1, "curriculum_threshold": 0.1},
    "entropy_maximisation": {
        "entropy_maximisation_warmup": 1, "entropy_maximisation_rounds": 1,
    },
    "large_loss": {
        "large_loss": "correct_permanent", "large_loss_delta": 10.0,
    },
    "selective": {"selective_top_k": 1, "selective_prior_threshold": 0.5},
    "splc": {"splc_first_epoch": 1},
}  # fmt: skip
_IMCL = {
    "imcl": {"dictionary_size": 5},
    "imcl_gradient": {"dictionary_size": 5, "dictionary_gradient": "full"},
    "imcl_minibatch": {"dictionary_size": 0},
    "imcl_joint": {
        "dictionary_size": 0, "graph_update": "joint", "loss_scale": "absolute",
    },
    "imcl_fixed": {"dictionary_size": 7, "image_similarity": "fixed"},
}  # fmt: skip
# Name -> method and its options.
_COMPILED = {
    "recipe": {"clip_norm": 0.05, "layer_decay": 0.5, "ema_decay": 0.9},
    "left_out": {"on_nan": "skip", "ema_decay": 0.9},
}
# An image of the second minibatch, which then makes no step.
_SPOILED = {"left_out": 12}
CASES = {
    name: (name, _OPTIONS.get(name, {}))
    for name in METHODS
    if name not in _IMCL
} | {
    name: ("imcl", {"num_neighbors": 2, "dictionary_refresh": 3, **options})
    for name, options in _IMCL.items()
}
CASES["recipe"] = CASES["imcl"]
CASES["left_out"] = CASES["imcl_minibatch"]


def minibatches(spoiled=None):
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(N, PIXELS)).astype(np.float32)
    if spoiled is not None:
        inputs[spoiled] = np.nan
    labels = rng.choice([-1, 0, 0, 1], size=(N, C)).astype(np.int8)
    numbered = {"inputs": inputs, "image_index": np.arange(N, dtype=np.int32)}
    return tf.data.Dataset.from_tensor_slices((numbered, labels)).batch(BATCH)


def small_network():
    """Batch statistics, a penalty, and fewer features than labels."""
    return keras.Sequential(
        [
            keras.Input((PIXELS,)),
            keras.layers.Dense(10, kernel_regularizer=keras.regularizers.L2()),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(6, activation="tanh"),
        ]
    )


def trained(cls, scope, options, compiled, spoiled):
    """Losses of the epochs, and everything that training changed, by name."""
    keras.backend.clear_session()  # the same names of variables
    keras.utils.set_random_seed(1)
    with scope:
        model = cls(small_network(), C, **options)
        model.build((None, PIXELS))
        rmsprop = keras.optimizers.RMSprop(0.01, momentum=0.9, epsilon=1)
        model.compile(rmsprop, **compiled)
    history = model.fit(minibatches(spoiled), epochs=EPOCHS, verbose=0).history
    left = {v.path: v.numpy() for v in model.variables}
    for name, state in model.training_state().items():
        if name.startswith("epoch_"):
            continue  # sums over the devices of what history has the mean of
        for copy in getattr(state, "values", (state,)):
            assert (copy.numpy() == state.numpy()).all(), f"{name}: copies"
        left[name] = state.numpy()
    assert [s.step for s in model.skipped] == ([2, 5] if spoiled else [])
    return history, left


def compare(name, scope, alone):
    """Trains a case alone and together, and compares what the two leave.

    Args:
      name: of the case.
      scope: context in which the model of several devices is made.
      alone: context in which this process is the only worker.
    """
    method, options = CASES[name]
    case = options, _COMPILED.get(name, {}), _SPOILED.get(name)
    with alone:
        one = trained(METHODS[method], contextlib.nullcontext(), *case)
    several = trained(METHODS[method], scope, *case)
    for expected, found in zip(one, several, strict=True):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(
                found[key], value, rtol=1e-5, atol=1e-5,
                err_msg=f"{name}: {key}",
            )  # fmt: skip


def main():
    number, *names = sys.argv[1:]
    # Steps are few: they would take longer to optimise than to run.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * int(number)
    )
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(int(number))]
    )
    for name in names:
        compare(name, strategy.scope(), contextlib.nullcontext())


if __name__ == "__main__":
    main()
