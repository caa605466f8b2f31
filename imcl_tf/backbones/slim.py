"""TF-Slim's networks in Keras, so that its checkpoints can be used.

`resnet_v1_101` and `vgg_16` follow tf_slim/nets (resnet_v1.py, vgg.py) up to
the features; a layer is named as its TF-Slim scope, with dots for slashes.
"""

from __future__ import annotations

import keras
import tensorflow as tf

layers = keras.layers

# Keras's names of what TF-Slim calls otherwise.
_SLIM_NAMES = {"kernel": "weights", "bias": "biases"}


def resnet_v1_101(image_size: int) -> keras.Model:
    """ResNet-101 as in TF-Slim, average pooled.

    A block strides in the last of its units; keras.applications' ResNet101
    does so in the first one, where the same weights give other features.

    Returns:
      keras.Model, [B, S, S, 3] without the mean -> [B, 2048].
    """
    images = keras.Input((image_size, image_size, 3))
    x = _normalized(_conv_same(images, 64, 7, 2, "conv1"), "conv1")
    x = layers.MaxPooling2D(3, 2, "same")(layers.ReLU()(x))
    for block, (filters, units, stride) in enumerate(
        ((64, 3, 2), (128, 4, 2), (256, 23, 2), (512, 3, 1)), 1
    ):
        for unit in range(1, units + 1):
            scope = f"block{block}.unit_{unit}.bottleneck_v1"
            x = _bottleneck(x, filters, stride if unit == units else 1, scope)
    features = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, features, name="resnet_v1_101")


def _bottleneck(x, filters, stride, scope):
    """A residual unit: 1x1, 3x3 with the stride, 1x1 to four times wider."""
    if x.shape[-1] == 4 * filters:
        shortcut = x if stride == 1 else layers.MaxPooling2D(1, stride)(x)
    else:
        shortcut = _conv_same(x, 4 * filters, 1, stride, f"{scope}.shortcut")
        shortcut = _normalized(shortcut, f"{scope}.shortcut")
    for name, width, size, step in (
        ("conv1", filters, 1, 1),
        ("conv2", filters, 3, stride),
        ("conv3", 4 * filters, 1, 1),
    ):
        x = _conv_same(x, width, size, step, f"{scope}.{name}")
        x = _normalized(x, f"{scope}.{name}")
        if name != "conv3":
            x = layers.ReLU()(x)
    return layers.ReLU()(layers.Add()([shortcut, x]))


def _conv_same(x, filters, size, stride, scope):
    """Pads alike on all sides; "same" pads an even picture more at the end."""
    if size > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    return layers.Conv2D(filters, size, stride, use_bias=False, name=scope)(x)


def _normalized(x, scope):
    return layers.BatchNormalization(
        momentum=0.997, epsilon=1e-5, name=f"{scope}.BatchNorm"
    )(x)


def vgg_16(image_size: int) -> keras.Model:
    """VGG-16 as in TF-Slim, up to layer fc7, a convolution there.

    Positions of fc7, one at 224 pixels, are averaged; no dropout.

    Returns:
      keras.Model, [B, S, S, 3] without the mean -> [B, 4096], S >= 224.

    Raises:
      ValueError: for a smaller S.
    """
    if image_size < 224:
        raise ValueError(f"vgg_16 takes 224 pixels or more, got {image_size}")
    images = x = keras.Input((image_size, image_size, 3))

    def conv(x, filters, size, padding, scope):
        return layers.Conv2D(
            filters, size, padding=padding, activation="relu", name=scope
        )(x)

    for block, (filters, count) in enumerate(
        ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1
    ):
        for number in range(1, count + 1):
            scope = f"conv{block}.conv{block}_{number}"
            x = conv(x, filters, 3, "same", scope)
        x = layers.MaxPooling2D()(x)
    x = conv(x, 4096, 7, "valid", "fc6")
    x = conv(x, 4096, 1, "valid", "fc7")
    features = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, features, name="vgg_16")


def num_classes(path: str, name: str) -> int:
    """How many classes the classifier of a TF-Slim checkpoint has, 0 without.

    Args:
      path: see `load_checkpoint`.
      name: of the network.
    """
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    return shapes.get(f"{name}/logits/weights", [0])[-1]


def load_checkpoint(model: keras.Model, path: str):
    """Takes the weights of a TF-Slim checkpoint.

    Whatever else it holds, such as a classifier or the state of an
    optimizer, is left out.

    Args:
      model: of this module.
      path: a file of TF1's first format (.ckpt) or the prefix of files of the
        second (.index, .data-00000-of-00001).

    Raises:
      ValueError: naming the first variable that is missing or of another
        shape; the model is then as before.
    """
    checkpoint = tf.train.load_checkpoint(path)
    shapes = checkpoint.get_variable_to_shape_map()
    found = []
    for layer in model.layers:
        for variable in layer.weights:
            scope = layer.name.replace(".", "/")
            name = _SLIM_NAMES.get(variable.name, variable.name)
            name = f"{model.name}/{scope}/{name}"
            if name not in shapes:
                raise ValueError(f"{path} holds no {name}")
            if shapes[name] != list(variable.shape):
                raise ValueError(
                    f"{name} has shape {shapes[name]} in {path}, expected "
                    f"{list(variable.shape)}"
                )
            found.append((variable, name))
    for variable, name in found:
        variable.assign(checkpoint.get_tensor(name))
