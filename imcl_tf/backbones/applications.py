"""The networks of keras.applications, each with its own preprocessing."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

import keras

from imcl_tf.backbones.pictures import PictureInput
from imcl_tf.backbones.preprocessing import (
    ApplicationPreprocessing,
    with_preprocessing,
)


def networks() -> dict[str, Callable[..., keras.Model]]:
    """Returns the function of each network of keras.applications, by name."""
    return dict(inspect.getmembers(keras.applications, inspect.isfunction))


def check(name: str):
    """Checks that there is a network of that name.

    Raises:
      ValueError: if not; it lists those of a similar name.
    """
    known = {x.lower(): x for x in networks()}
    if name in known.values():
        return
    near = difflib.get_close_matches(name.lower(), known, 5) or known
    names = ", ".join(known[x] for x in near)
    raise ValueError(
        f"backbone: keras.applications has no {name!r}, expected one of {names}"
    )


def make(name: str, weights: str, image_size: int) -> keras.Model:
    """Makes a backbone, average pooled.

    Args:
      name: a key of `networks`.
      weights: "none", "imagenet" or a file.
      image_size: S in pixels; 0 = that of the network's ImageNet weights.

    Returns:
      see `imcl_tf.backbone`.
    """
    function = networks()[name]
    size = image_size or _own_size(function)
    network = function(
        include_top=False,
        pooling="avg",
        input_shape=(size, size, 3),
        weights=None if weights == "none" else weights,
    )
    module = function.__module__.rpartition(".")[2]
    return with_preprocessing(
        network, ApplicationPreprocessing(module), PictureInput()
    )


def _own_size(function) -> int:
    # Only a network with its classifier has a size by default. Those that have
    # none even so, MobileNetV3, have weights for 224 pixels.
    return function(weights=None).input_shape[1] or 224
