"""Trains IMCL with a dictionary on two logical devices and checks both."""

import keras
import numpy as np
import tensorflow as tf

from tests.training.test_compiled import N, images_and_labels, small_model


def main():
    """In a process of its own: devices are made before TensorFlow starts."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    images, labels = images_and_labels()
    inputs = {"inputs": images, "image_index": np.arange(N, dtype=np.int32)}
    batches = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = small_model(dictionary_refresh=3)
        model.compile(keras.optimizers.RMSprop(0.01, epsilon=1))
        model.refresh_dictionary()
        before = model.dictionary.label_atoms.numpy()
        model.fit(batches, verbose=0)
    for stored in (model.dictionary.features, model.dictionary.label_atoms):
        first, second = (copy.numpy() for copy in stored.values)
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all() and first.any(1).all()
    changed = (before != model.dictionary.label_atoms.numpy()).any(1)
    assert changed[:9].all() and not changed[9:].any()


if __name__ == "__main__":
    main()
