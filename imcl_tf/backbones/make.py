"""Backbones: images [B, S, S, 3] in [0, 255] -> features [B, d].

Each brings its own preprocessing, so that a saved model takes plain pixels,
and says how a picture of any size becomes S x S. What they follow:

resnet101, vgg16: keras.applications (weights of the authors' Caffe networks):
  BGR less the ImageNet mean; shorter side 256, centre 224.
resnet_v1_101, vgg_16: TF-Slim's networks and vgg_preprocessing.py, for its
  ImageNet checkpoints: RGB less the mean; shorter side 256, centre 224, by
  TF1's bilinear resizing. The checkpoint of Open Images wants the same at 299
  pixels: shorter side 341 (openimages/dataset, tools/classify_oidv2.py).
small_cnn: no original; squashed to S x S, [-1, 1].

Resized pixels are rounded to bytes, which the originals leave as fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from imcl_tf.backbones import slim


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


class BackboneSpec(NamedTuple):
    """How a backbone is made.

    Attributes:
      make: (S, weights, `PictureInput`) -> keras.Model.
      image_size: S by default, pixels.
      resizing: of its pictures.
    """

    make: Callable[[int, str, PictureInput], keras.Model]
    image_size: int
    resizing: Resizing


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
    for layer in backbone.layers:
        if isinstance(layer, PictureInput):
            return PictureFormat(shape[1], layer.resizing)
    return PictureFormat(shape[1], SQUASHED)


@keras.saving.register_keras_serializable("imcl_tf")
class CaffePreprocessing(keras.layers.Layer):
    """RGB in [0, 255] -> BGR less the ImageNet mean, as the originals did."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        images = keras.ops.cast(images, self.compute_dtype)
        mean = keras.ops.convert_to_tensor(
            [103.939, 116.779, 123.68], self.compute_dtype
        )
        return keras.ops.flip(images, -1) - mean

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


def _small_cnn(image_size, weights, picture_input) -> keras.Model:
    """Five convolutions with batch normalisation, d = 256.

    From scratch on a CPU, for pictures of 64 to 96 pixels.
    """
    layers = keras.layers
    stack = [
        keras.Input((image_size, image_size, 3)),
        picture_input,
        layers.Rescaling(1 / 127.5, offset=-1.0),
    ]
    for filters in (32, 64, 128, 256, 256):
        stack += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
        ]
    stack[-1] = layers.GlobalAveragePooling2D()
    model = keras.Sequential(stack, name="small_cnn")
    if weights != "none":
        model.load_weights(weights)
    return model


def _resnet101(image_size, weights, picture_input) -> keras.Model:
    """ResNet-101 (He et al., CVPR 2016), average pooled, d = 2048."""
    network = keras.applications.ResNet101(
        include_top=False,
        pooling="avg",
        input_shape=(image_size, image_size, 3),
        weights=None if weights == "none" else weights,
    )
    return _with_caffe_preprocessing(network, network.output, picture_input)


def _vgg16(image_size, weights, picture_input) -> keras.Model:
    """VGG-16 (Simonyan, Zisserman, ICLR 2015), layer fc7, d = 4096."""
    network = keras.applications.VGG16(
        include_top=True,
        input_shape=(image_size, image_size, 3),
        weights=None if weights == "none" else weights,
    )
    fc7 = network.get_layer("fc2").output
    return _with_caffe_preprocessing(network, fc7, picture_input)


def _with_caffe_preprocessing(network, output, picture_input):
    images = keras.Input(network.input_shape[1:])
    body = keras.Model(network.input, output, name=network.name)
    pixels = CaffePreprocessing()(picture_input(images))
    return keras.Model(images, body(pixels), name=network.name)


def _resnet_v1_101(image_size, weights, picture_input) -> keras.Model:
    """TF-Slim's ResNet-101, average pooled, d = 2048."""
    return _from_slim(slim.resnet_v1_101(image_size), weights, picture_input)


def _vgg_16(image_size, weights, picture_input) -> keras.Model:
    """TF-Slim's VGG-16, layer fc7, d = 4096."""
    return _from_slim(slim.vgg_16(image_size), weights, picture_input)


def _from_slim(network, weights, picture_input):
    if weights != "none":
        slim.load_checkpoint(network, weights)
    images = keras.Input(network.input_shape[1:])
    centred = keras.layers.Rescaling(1.0, offset=[-123.68, -116.78, -103.94])
    pixels = centred(picture_input(images))
    return keras.Model(images, network(pixels), name=network.name)


BACKBONES = {
    "small_cnn": BackboneSpec(_small_cnn, 64, SQUASHED),
    "resnet101": BackboneSpec(_resnet101, 224, Resizing(256)),
    "vgg16": BackboneSpec(_vgg16, 224, Resizing(256)),
    "resnet_v1_101": BackboneSpec(_resnet_v1_101, 224, Resizing(256, tf1=True)),
    "vgg_16": BackboneSpec(_vgg_16, 224, Resizing(256, tf1=True)),
}

# What to say where keras.applications has nothing to download.
_NO_IMAGENET = {
    "small_cnn": "small_cnn has no ImageNet weights",
    **{
        name: f"{name} takes a TF-Slim checkpoint; ImageNet's is in "
        f"http://download.tensorflow.org/models/{name}_2016_08_28.tar.gz"
        for name in ("resnet_v1_101", "vgg_16")
    },
}


def backbone(
    name: str, weights: str = "none", image_size: int = 0
) -> keras.Model:
    """Builds a network and loads its weights.

    Args:
      name: one of `BACKBONES`.
      weights: "none" (random), "imagenet" (downloaded by keras.applications;
        resnet101 and vgg16 alone) or a file: for resnet_v1_101 and vgg_16 a
        TF-Slim checkpoint (`imcl_tf.backbones.slim.load_checkpoint`), else a
        Keras weights file of that very network. Batch normalisation keeps the
        statistics that were loaded, see `freeze_batch_statistics`.
      image_size: S in pixels; 0 = the network's own.

    Returns:
      keras.Model, [B, S, S, 3] in [0, 255] -> features [B, d] float32. Its
      attribute `pretrained` says whether weights were loaded.

    Raises:
      ValueError: for an unknown name or weights that do not fit.
      FileNotFoundError: if the weights file does not exist.

    Example:
      >>> import imcl_tf
      >>> imcl_tf.backbone("small_cnn", image_size=32).output_shape
      (None, 256)
    """
    if name not in BACKBONES:
        raise ValueError(
            f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}"
        )
    if weights == "imagenet":
        if name in _NO_IMAGENET:
            raise ValueError(_NO_IMAGENET[name])
    elif weights != "none" and not (
        Path(weights).is_file() or Path(f"{weights}.index").is_file()
    ):
        raise FileNotFoundError(
            f"backbone_weights must be imagenet, none or a file, got {weights}"
        )
    spec = BACKBONES[name]
    size = image_size or spec.image_size
    try:
        model = spec.make(size, weights, PictureInput(*spec.resizing))
    except Exception as error:
        # Keras raises a plain Exception where a download fails, BadZipFile for
        # a broken .keras file, and lists every layer that does not fit.
        reason = " ".join(str(error).split())
        if len(reason) > 240:
            reason = reason[:240] + " ..."
        raise ValueError(
            f"cannot make {name} of {size} pixels with weights {weights}: "
            f"{reason}"
        ) from error
    model.pretrained = weights != "none"
    if model.pretrained:
        freeze_batch_statistics(model)
    return model


def without_pooling(model: keras.Model) -> keras.Model:
    """The same network up to its last feature map; the weights are shared.

    Args:
      model: a backbone, [B, S, S, 3] -> [B, d].

    Returns:
      [B, S, S, 3] -> [B, h, w, d], whose mean over h and w `model` returns.

    Raises:
      ValueError: if `model` does not end in a global average pooling.
    """
    *_, body, last = model.layers
    if isinstance(last, keras.Model):  # after its preprocessing
        return keras.Model(
            model.inputs, without_pooling(last)(body.output), name=model.name
        )
    if not isinstance(last, keras.layers.GlobalAveragePooling2D):
        raise ValueError(
            f"boost: {model.name} has no feature map before its features"
        )
    return keras.Model(model.inputs, body.output, name=model.name)


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


def batch_normalizations(
    model: keras.layers.Layer,
) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalisations of `model`, nested ones too."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
