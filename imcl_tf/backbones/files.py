"""Networks of Keras files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras
from absl import logging

from imcl_tf.backbones import graphs
from imcl_tf.backbones.pictures import PictureInput, find_picture_input
from imcl_tf.backbones.preprocessing import scaling, with_preprocessing

_CLASSIFIERS = (keras.activations.softmax, keras.activations.sigmoid)


def from_file(
    path: str | Path, image_size: int, layer: str, expected: str
) -> keras.Model:
    """Makes a backbone of a Keras model that was saved.

    Args:
      path: of a .keras file. Code that it holds is not run. A model with a
        backbone, such as a checkpoint of a run, gives that.
      image_size: S in pixels; 0 = that of the file.
      layer: name of the layer whose output the features are; empty = the last.
      expected: pixels that the network takes, see `preprocessing.scaling`.

    Returns:
      see `imcl_tf.backbone`.

    Raises:
      ValueError: if it is no such model, or does not fit the other arguments.
    """
    network = _read(path)
    inner = getattr(network, "backbone", None)
    network = inner if isinstance(inner, keras.Model) else network
    if isinstance(network, keras.Sequential) and not network.built:
        raise ValueError("it was saved before it had the shape of its input")
    if not graphs.is_graph(network):
        raise ValueError(
            f"{type(network).__name__} is no functional or sequential model"
        )
    size = _image_size(network, image_size)
    network = graphs.of_tensors(network)
    if layer:
        network = graphs.up_to(network, layer)
    network = graphs.pooled(graphs.of_size(network, size))
    if not layer:
        _warn_of_classifier(path, network)
    network.name = graphs.safe_name(Path(path).stem)
    numbers = keras.backend.standardize_dtype(network.inputs[0].dtype)
    if expected != "pixels" and "float" not in numbers:
        raise ValueError(
            f"it takes {numbers}, which are whole numbers: backbone_input must "
            f"be pixels, got {expected}"
        )
    picture_input = find_picture_input(network)
    resizing = picture_input.resizing if picture_input else ()
    model = with_preprocessing(
        network, scaling(expected), PictureInput(*resizing)
    )
    model.of_run = isinstance(inner, keras.Model)
    return model


def _read(path) -> keras.Model:
    if not zipfile.is_zipfile(path):
        raise ValueError("not a whole .keras file, which is a zip archive")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except TypeError as error:
        # Each network says that one within cannot be made; the first error is
        # that of the layer.
        first: BaseException = error
        while first.__context__:
            first = first.__context__
        raise ValueError(first) from error


def _image_size(network, image_size) -> int:
    """S of a network that takes pictures."""
    shape = network.input_shape
    if len(network.inputs) != 1 or len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"it takes {shape}, expected pictures [B, S, S, 3]")
    height, width = shape[1:3]
    if image_size:
        return image_size
    if height is None or height != width:
        raise ValueError(
            f"it takes pictures of {height} x {width}: image_size must be given"
        )
    return height


def _warn_of_classifier(path, network):
    """A classifier's probabilities are poor features."""
    last = network.layers[-1]
    while graphs.is_graph(last):
        last = last.layers[-1]
    if (
        isinstance(last, keras.layers.Softmax)
        or getattr(last, "activation", None) in _CLASSIFIERS
    ):
        logging.warning(
            "backbone: %s ends in a classifier (%s): --backbone_layer names "
            "the layer before it, whose output are better features",
            path, last.name,
        )  # fmt: skip
