"""Which pictures a network takes."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf


class Resizing(NamedTuple):
    """From a picture of any size to S x S.

    Attributes:
      shorter_side: where S is 224, in pixels, and in proportion where it is
        not; the centre is cropped from this. 0 = the whole picture, its
        aspect ratio not kept.
      tf1: as TF1's resize_bilinear, which does not average where it shrinks
        and keeps the first pixel, not the picture's border, in place.
    """

    shorter_side: int = 0
    tf1: bool = False


SQUASHED = Resizing()


@keras.saving.register_keras_serializable("imcl_tf")
class PictureInput(keras.layers.Layer):
    """Passes pictures on, and says how they are to be made.

    The first layer of a backbone: what it says is saved with the model.

    Args:
      shorter_side: see `Resizing`.
      tf1: see `Resizing`.
      **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, shorter_side: int = 0, tf1: bool = False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.resizing = Resizing(shorter_side, tf1)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return images

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return super().get_config() | self.resizing._asdict()


class PictureFormat(NamedTuple):
    """The pictures that a network takes.

    Attributes:
      image_size: S, pixels.
      resizing: from a picture of any size to S x S.
    """

    image_size: int
    resizing: Resizing


def picture_format(backbone: keras.Model) -> PictureFormat:
    """Returns which pictures a network takes.

    Args:
      backbone: model on [B, S, S, 3]. Without a `PictureInput` its pictures
        are squashed to S x S.

    Raises:
      ValueError: if the model does not take pictures of one size.

    Example:
      >>> import imcl_tf
      >>> imcl_tf.picture_format(imcl_tf.backbone("small_cnn")).image_size
      64
    """
    shape = tuple(getattr(backbone, "input_shape", ()))
    if len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
        raise ValueError(
            "a backbone must take pictures [B, S, S, 3] of one size S, got "
            f"one of {type(backbone).__name__} that takes {list(shape)}"
        )
    found = find_picture_input(backbone)
    return PictureFormat(shape[1], found.resizing if found else SQUASHED)


def find_picture_input(network: keras.layers.Layer) -> PictureInput | None:
    """Returns the `PictureInput` of a network, also of one within, or None."""
    layers = network._flatten_layers()
    return next((x for x in layers if isinstance(x, PictureInput)), None)
