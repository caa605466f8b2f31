"""Vision models of KerasHub, each with its own preprocessing.

KerasHub is imported when it is asked for: it takes seconds.
"""

from __future__ import annotations

import importlib.util
from pathlib import PurePosixPath

import keras

from imcl_tf.backbones import graphs
from imcl_tf.backbones.pictures import PictureInput


def check():
    """Checks that KerasHub is installed.

    Raises:
      ImportError: if not.
    """
    if importlib.util.find_spec("keras_hub") is None:
        raise ImportError(
            "backbone: kerashub:PRESET needs KerasHub: pip install "
            "'imcl_tf[hub]'"
        )


def from_preset(preset: str, image_size: int) -> keras.Model:
    """Makes a backbone of a preset.

    A feature map is averaged. A vision transformer gives its class token, or
    without one the mean of all tokens; a model of pictures and texts (CLIP,
    SigLIP) what its vision encoder returns, before the projection.

    Args:
      preset: name of KerasHub, kaggle:// or hf:// handle, or a directory.
      image_size: S in pixels; 0 = that of the preset.

    Returns:
      see `imcl_tf.backbone`.

    Raises:
      ValueError: if it is no vision model, or takes no pictures of that size.
    """
    from keras_hub.layers import ImageConverter
    from keras_hub.models import Backbone

    converter = ImageConverter.from_preset(preset)
    network = _vision_part(Backbone.from_preset(preset))
    own = network.inputs[0].shape[1]
    size = image_size or own or (converter.image_size or [0])[0]
    if not size:
        raise ValueError("it takes pictures of any size: give image_size")
    if own not in (None, size):
        network = _of_size(preset, size)
    images = keras.Input((size, size, 3))
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    pixels = keras.layers.Rescaling(scale, offset)(PictureInput()(images))
    # As a whole: some of its layers cannot be saved on their own.
    named = isinstance(network.input, dict)
    output = network({"images": pixels} if named else pixels)
    if _has_class_token(network):
        first = keras.layers.Cropping1D((0, output.shape[1] - 1))(output)
        output = keras.layers.Flatten()(first)
    name = graphs.safe_name(PurePosixPath(preset).name)
    return graphs.pooled(keras.Model(images, output, name=name))


def _vision_part(network) -> keras.Model:
    network = getattr(network, "vision_encoder", network)
    if len(network.inputs) != 1 or len(network.inputs[0].shape) != 4:
        raise ValueError(f"{type(network).__name__} is no vision model")
    return network


def _of_size(preset, size) -> keras.Model:
    """The vision model for pictures of another size, if it can be that."""
    from keras_hub.models import Backbone

    shape = (size, size, 3)
    try:
        network = Backbone.from_preset(preset, image_shape=shape)
        if _vision_part(network).inputs[0].shape[1:] != shape:
            raise ValueError("its vision encoder is of one size")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"it takes no pictures of {size} pixels: {error}"
        ) from error
    return _vision_part(network)


def _has_class_token(network) -> bool:
    """Whether there are more tokens than patches: the first is the class's."""
    patch = getattr(network, "patch_size", None)
    if patch is None or len(network.output.shape) != 3:
        return False
    patch = patch if isinstance(patch, int) else patch[0]
    return network.output.shape[1] > (network.inputs[0].shape[1] // patch) ** 2
