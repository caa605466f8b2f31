"""Statistics of batch normalisation: fixed ones, and over devices, workers."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from imcl_tf.ops import workers


def freeze_batch_statistics(model: keras.Model):
    """Makes every batch normalisation of `model` use its stored statistics.

    Fine-tuning from trained weights on small batches does better so, and the
    stored features of a dictionary stay comparable with the minibatch's. Scale
    and shift are trained as before.

    Args:
      model: changed in place; networks within it too.

    Example:
      >>> import imcl_tf
      >>> network = imcl_tf.backbone("small_cnn", image_size=32)
      >>> before = len(network.trainable_variables)
      >>> imcl_tf.freeze_batch_statistics(network)
      >>> len(network.trainable_variables) == before
      True
    """
    for layer in batch_normalizations(model):
        _store_statistics(layer, [v for v in layer.variables if v.trainable])


def _store_statistics(layer, learned):
    # Keras then takes the stored statistics in training too.
    layer.trainable = False
    for variable in learned:
        variable.trainable = True


def frozen_statistics(model: keras.layers.Layer) -> list[str]:
    """Returns the layers that `freeze_batch_statistics` has changed, by name.

    Keras does not save that their scale and shift are trained.
    """
    return [
        layer.name
        for layer in batch_normalizations(model)
        if not layer.trainable and any(v.trainable for v in layer.variables)
    ]


def trains_statistics(model: keras.layers.Layer) -> bool:
    """Whether a batch normalisation of `model` takes those of a minibatch."""
    return any(layer.trainable for layer in batch_normalizations(model))


def restore_frozen_statistics(model: keras.layers.Layer, names: list[str]):
    """Makes a loaded `model` one of which `frozen_statistics` says `names`."""
    for layer in batch_normalizations(model):
        if layer.name in names:
            learned = layer.gamma, layer.beta
            _store_statistics(layer, [v for v in learned if v is not None])


def synchronize_batch_statistics(model: keras.layers.Layer):
    """Makes every batch normalisation take its statistics over all devices.

    Args:
      model: changed in place; networks within it too.
    """
    for layer in batch_normalizations(model):
        layer.synchronized = True


def share_batch_statistics(model: keras.layers.Layer):
    """Makes every batch normalisation take its statistics over all workers.

    Args:
      model: changed in place; networks within it too.
    """
    for layer in batch_normalizations(model):
        # Keras' own, of `synchronized`, are over the devices of a strategy.
        layer._moments = functools.partial(_moments_of_all, layer)


def _moments_of_all(layer, inputs, mask):
    """Mean and variance [channels] over the whole minibatch, of a share."""
    del mask  # networks of pictures have none
    axes = layer._reduction_axes
    count = tf.size(inputs) // tf.shape(inputs)[layer.axis]
    # Around the stored mean, for the squares of large numbers cancel out.
    around = tf.cast(layer.moving_mean, inputs.dtype)
    apart = inputs - _broadcast(layer, around, inputs)
    sums = workers.all_sum(
        tf.stack(
            [
                tf.reduce_sum(apart, axes),
                tf.reduce_sum(tf.square(apart), axes),
                tf.fill(tf.shape(around), tf.cast(count, inputs.dtype)),
            ]
        )
    )
    mean, squares = sums[0] / sums[2], sums[1] / sums[2]
    return around + mean, tf.maximum(squares - tf.square(mean), 0.0)


def _broadcast(layer, of_channels, inputs):
    """Numbers [channels] in a shape to add to `inputs`."""
    shape = [1] * inputs.shape.rank
    shape[layer.axis] = -1
    return tf.reshape(of_channels, shape)


def batch_normalizations(
    model: keras.layers.Layer,
) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalisations of `model`, nested ones too."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
