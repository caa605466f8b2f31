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
FILE.keras: a saved Keras model (`files`); squashed.
keras:NAME: any network of keras.applications (`applications`); squashed.
kerashub:PRESET: a vision model of KerasHub (`hub`); squashed.

Whole pictures are squashed: a crop may cut off what a label is about.

Resized pixels are rounded to bytes, which the originals leave as fractions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras

from imcl_tf.backbones import applications, files, graphs, hub, slim
from imcl_tf.backbones.pictures import SQUASHED, PictureInput, Resizing
from imcl_tf.backbones.preprocessing import (
    ApplicationPreprocessing,
    with_preprocessing,
)
from imcl_tf.backbones.statistics import freeze_batch_statistics
from imcl_tf.settings import BACKBONE, BACKBONE_INPUT


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
    return with_preprocessing(
        network, ApplicationPreprocessing("resnet"), picture_input
    )


def _vgg16(image_size, weights, picture_input) -> keras.Model:
    """VGG-16 (Simonyan, Zisserman, ICLR 2015), layer fc7, d = 4096."""
    network = keras.applications.VGG16(
        include_top=True,
        input_shape=(image_size, image_size, 3),
        weights=None if weights == "none" else weights,
    )
    return with_preprocessing(
        graphs.up_to(network, "fc2"),
        ApplicationPreprocessing("vgg16"),
        picture_input,
    )


def _resnet_v1_101(image_size, weights, picture_input) -> keras.Model:
    """TF-Slim's ResNet-101, average pooled, d = 2048."""
    return _from_slim(slim.resnet_v1_101(image_size), weights, picture_input)


def _vgg_16(image_size, weights, picture_input) -> keras.Model:
    """TF-Slim's VGG-16, layer fc7, d = 4096."""
    return _from_slim(slim.vgg_16(image_size), weights, picture_input)


def _from_slim(network, weights, picture_input):
    if weights != "none":
        slim.load_checkpoint(network, weights)
    centred = keras.layers.Rescaling(1.0, offset=[-123.68, -116.78, -103.94])
    return with_preprocessing(network, centred, picture_input)


BACKBONES = {
    "small_cnn": BackboneSpec(_small_cnn, 64, SQUASHED),
    "resnet101": BackboneSpec(_resnet101, 224, Resizing(256)),
    "vgg16": BackboneSpec(_vgg16, 224, Resizing(256)),
    "resnet_v1_101": BackboneSpec(_resnet_v1_101, 224, Resizing(256, tf1=True)),
    "vgg_16": BackboneSpec(_vgg_16, 224, Resizing(256, tf1=True)),
}

# How the names of other networks begin or end.
_KERAS, _HUB, _FILE = "keras:", "kerashub:", ".keras"

# Classes of the classifier in TF-Slim's checkpoint of Open Images.
_OPEN_IMAGES = 5000

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
    name: str | Path,
    weights: str = "none",
    image_size: int = 0,
    layer: str = "",
    input: str = "pixels",
) -> keras.Model:
    """Builds a network and loads its weights.

    Args:
      name: one of `BACKBONES`; the path of a .keras file; keras:NAME, such as
        keras:EfficientNetV2B0, for a network of keras.applications; or
        kerashub:PRESET, such as kerashub:vit_base_patch16_224_imagenet21k, for
        a preset of KerasHub or the directory of one.
      weights: "none" (random), "imagenet" (downloaded by keras.applications;
        keras:NAME, resnet101 and vgg16) or a file: for resnet_v1_101 and vgg_16
        a TF-Slim checkpoint (`imcl_tf.backbones.slim.load_checkpoint`), else a
        Keras weights file of that very network. A .keras file and a preset
        bring their own, so that "none" it is. Batch normalisation keeps the
        statistics that were loaded, see `freeze_batch_statistics`.
      image_size: S in pixels; 0 = the network's own.
      layer: name of the layer, also of a network within, whose output are the
        features; empty = the network's own. Positions [B, h, w, d] and tokens
        [B, T, d] are averaged.
      input: what the network of a .keras file takes: "pixels" in [0, 255],
        "unit" [0, 1], "signed" [-1, 1], "caffe" (BGR less ImageNet's mean) or
        "torch" (ImageNet's mean 0 and deviation 1). Others take pixels.

    Returns:
      keras.Model, [B, S, S, 3] in [0, 255] -> features [B, d] float32. Its
      attribute `pretrained` says whether weights were loaded; `trained_on`
      whose labels these were trained on, "open_images" or "" = another's or
      not known; `of_run`, of a .keras file, whether it is that of a model with
      a backbone.

    Raises:
      ValueError: for an unknown name, a file that holds no such network,
        weights, a size or a layer that do not fit.
      FileNotFoundError: if a file does not exist.
      ImportError: if kerashub:PRESET is asked for without KerasHub.

    Example:
      >>> import imcl_tf
      >>> imcl_tf.backbone("small_cnn", image_size=32).output_shape
      (None, 256)
    """
    name = str(name)
    check(name, weights, layer, input)
    _check_weights(name, weights)
    try:
        model = _make(name, weights, image_size, layer, input)
    except Exception as error:
        # Keras raises a plain Exception where a download fails, BadZipFile for
        # a broken .keras file, lists every layer that does not fit, and
        # colours what it says.
        plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))
        reason = " ".join(plain.split()) or type(error).__name__
        if len(reason) > 240:
            reason = reason[:240] + " ..."
        size = f" of {image_size} pixels" if image_size else ""
        loaded = f" with weights {weights}" if weights != "none" else ""
        raise ValueError(
            f"cannot make {name}{size}{loaded}: {reason}"
        ) from error
    model.pretrained = is_pretrained(name, weights)
    model.trained_on = _trained_on(name, weights)
    if model.pretrained:
        freeze_batch_statistics(model)
    return model


def is_pretrained(name: str, weights: str) -> bool:
    """Whether a network of `backbone` has weights that are not random."""
    return weights != "none" or _brings_weights(name)


def _trained_on(name: str, weights: str) -> str:
    """The data set of whose labels weights are known to come, or ""."""
    is_checkpoint = name == "resnet_v1_101" and weights != "none"
    if is_checkpoint and slim.num_classes(weights, name) == _OPEN_IMAGES:
        return "open_images"
    return ""


def source_files(name: str) -> list[Path]:
    """Returns the files that a network of `backbone` is read from, sorted."""
    place = Path(name.removeprefix(_HUB))
    if name.endswith(_FILE):
        return [place]
    if name.startswith(_HUB) and place.is_dir():
        return sorted(path for path in place.rglob("*") if path.is_file())
    return []


def _brings_weights(name) -> bool:
    return name.startswith(_HUB) or name.endswith(_FILE)


def check(name: str, weights: str, layer: str = "", input: str = "pixels"):
    """Checks arguments of `backbone` before anything takes time.

    All but whether a file of weights exists: who has no data yet learns first
    where these are.

    Raises:
      ValueError, FileNotFoundError, ImportError: see `backbone`.
    """
    BACKBONE.checked(name)
    BACKBONE_INPUT.checked(input)
    if input != "pixels" and not name.endswith(_FILE):
        raise ValueError(
            f"backbone_input: {name} takes pixels, got {input}: it is for a "
            ".keras file"
        )
    if layer and name.startswith(_HUB):
        raise ValueError(
            f"backbone_layer: {name} has features of its own, expected none, "
            f"got {layer}"
        )
    if _brings_weights(name) and weights != "none":
        raise ValueError(
            f"backbone_weights: {name} brings its own, expected none, got "
            f"{weights}"
        )
    if name.startswith(_KERAS):
        applications.check(name.removeprefix(_KERAS))
    elif name.startswith(_HUB):
        hub.check()
    elif name.endswith(_FILE) and not Path(name).is_file():
        raise FileNotFoundError(f"backbone: {name}: no such file")


def _check_weights(name, weights):
    if weights == "imagenet":
        if name in _NO_IMAGENET:
            raise ValueError(_NO_IMAGENET[name])
    elif weights != "none" and not (
        Path(weights).is_file() or Path(f"{weights}.index").is_file()
    ):
        raise FileNotFoundError(
            f"backbone_weights must be imagenet, none or a file, got {weights}"
        )


def _make(name, weights, image_size, layer, input) -> keras.Model:
    if name.endswith(_FILE):
        return files.from_file(name, image_size, layer, input)
    if name.startswith(_KERAS):
        model = applications.make(
            name.removeprefix(_KERAS), weights, image_size
        )
    elif name.startswith(_HUB):
        model = hub.from_preset(name.removeprefix(_HUB), image_size)
    else:
        spec = BACKBONES[name]
        size = image_size or spec.image_size
        model = spec.make(size, weights, PictureInput(*spec.resizing))
    return graphs.pooled(graphs.up_to(model, layer)) if layer else model
