"""Vision models of KerasHub."""

from __future__ import annotations

import importlib.util

import keras


def check():
    """Checks that KerasHub is installed.

    Raises:
      ImportError: if not.
    """
    if importlib.util.find_spec("keras_hub") is None:
        raise ImportError(
            "backbone: kerashub:PRESET needs KerasHub: pip install imcl_tf[hub]"
        )


def from_preset(preset: str, image_size: int) -> keras.Model:
    raise NotImplementedError
