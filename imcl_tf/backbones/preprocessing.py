"""From pixels in [0, 255] to what a network was trained on."""

from __future__ import annotations

import importlib

import keras
import tensorflow as tf

from imcl_tf.backbones.pictures import PictureInput

# ImageNet's pixels in [0, 1], R, G and B, as PyTorch's networks have them.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("imcl_tf")
class ApplicationPreprocessing(keras.layers.Layer):
    """`keras.applications.MODULE.preprocess_input` as a layer.

    Args:
      module: name, such as "resnet".
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, module: str, **kwargs):
        super().__init__(**kwargs)
        if not (isinstance(module, str) and module.isidentifier()):
            raise ValueError(f"module must be a name, got {module!r}")
        self.module = module
        home = importlib.import_module(f"keras.applications.{module}")
        self._preprocess = home.preprocess_input

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return self._preprocess(keras.ops.cast(images, self.compute_dtype))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return super().get_config() | {"module": self.module}


def scaling(expected: str) -> keras.layers.Layer:
    """Returns the layer before a network that expects other pixels.

    Args:
      expected: one of `settings.BACKBONE_INPUTS`.
    """
    if expected == "caffe":
        return ApplicationPreprocessing("resnet")
    if expected == "torch":
        scale = [1 / (255 * std) for std in _STD]
        offset = [-m / std for m, std in zip(_MEAN, _STD, strict=True)]
        return keras.layers.Rescaling(scale, offset)
    return {
        "pixels": keras.layers.Identity(),
        "unit": keras.layers.Rescaling(1 / 255),
        "signed": keras.layers.Rescaling(1 / 127.5, offset=-1.0),
    }[expected]


def with_preprocessing(
    network: keras.Model,
    preprocessing: keras.layers.Layer,
    picture_input: PictureInput,
) -> keras.Model:
    """Returns a network that takes plain pixels, of the same name.

    Args:
      network: [B, S, S, 3] -> features [B, d].
      preprocessing: pixels [B, S, S, 3] in [0, 255] -> what `network` expects.
      picture_input: says how a picture becomes S x S.
    """
    images = keras.Input(network.input_shape[1:])
    expected = preprocessing(picture_input(images))
    return keras.Model(images, network(expected), name=network.name)
