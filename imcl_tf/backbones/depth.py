"""The weights of a network by depth, for layer-wise learning rates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import keras
import numpy as np

_MOST_GROUPS = 12
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)


def layer_groups(network: keras.layers.Layer) -> list[list[keras.Variable]]:
    """Divides the trainable weights of a network by depth.

    Layers are taken in order, those of networks within it too. A
    normalisation belongs to the layer before it. Up to twelve groups have as
    many layers each, or one more.

    Args:
      network: built.

    Returns:
      groups of variables, the last layers' first; each variable once.

    Example:
      >>> import imcl_tf
      >>> from imcl_tf.backbones.depth import layer_groups
      >>> network = imcl_tf.backbone("small_cnn", image_size=32)
      >>> [[v.name for v in group] for group in layer_groups(network)][0]
      ['kernel', 'gamma', 'beta']
    """
    units: list[list[keras.Variable]] = []
    seen: set[int] = set()
    for layer in [*_leaves(network), network]:
        own = [v for v in layer.trainable_variables if id(v) not in seen]
        seen.update(map(id, own))
        if layer is network and units:  # weights that are of none of its layers
            units[0] += own
        elif units and isinstance(layer, _NORMALIZATIONS):
            units[-1] += own
        elif own:
            units.append(own)
    number = min(_MOST_GROUPS, len(units))
    ends = np.linspace(0, len(units), number + 1).astype(int)
    groups = [
        [variable for unit in units[start:end] for variable in unit]
        for start, end in itertools.pairwise(ends)
    ]
    return groups[::-1]


def _leaves(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layers of a network, those of networks within it in their place."""
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _leaves(inner)
    else:
        yield layer
