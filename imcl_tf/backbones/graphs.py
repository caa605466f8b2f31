"""Parts of networks: up to a layer, of another size, with and without pooling.

The parts share the weights of the network that they are of.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator

import keras

_POOLING = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
}


def without_pooling(model: keras.Model) -> keras.Model:
    """The same network up to its last feature map; the weights are shared.

    Args:
      model: a backbone, [B, S, S, 3] -> [B, d].

    Returns:
      [B, S, S, 3] -> [B, h, w, d], whose mean over h and w `model` returns.

    Raises:
      ValueError: if `model` does not end in a global average pooling.
    """
    graph = _graph(model)
    last = graph.layers[-1]
    pooling = isinstance(last, keras.layers.GlobalAveragePooling2D)
    if not pooling and not is_graph(last):
        raise ValueError(
            f"boost: the features of {model.name} are no mean over the "
            "positions of a feature map"
        )
    before = _call_of(last, graph).input_tensors[0]
    if not pooling:  # after its preprocessing
        before = without_pooling(last)(before)
    return keras.Model(graph.input, before, name=model.name)


def of_tensors(model: keras.Model) -> keras.Model:
    """Returns the network with its only input, or output, out of its list."""
    graph = _graph(model)
    (images,), outputs = graph.inputs, graph.output
    if len(graph.outputs) == 1:
        (outputs,) = graph.outputs
    if images is graph.input and outputs is graph.output:
        return model
    return keras.Model(images, outputs, name=model.name)


def pooled(model: keras.Model) -> keras.Model:
    """Returns the network with the mean over positions or tokens, if any.

    Args:
      model: -> features [B, d], [B, T, d] or [B, h, w, d].

    Raises:
      ValueError: if it returns something else.
    """
    shape = model.output_shape
    if isinstance(shape, (list, dict)) or not 2 <= len(shape) <= 4:
        raise ValueError(
            f"{model.name} returns {shape}, expected features [B, d], "
            "[B, T, d] or [B, h, w, d]: backbone_layer names a layer of such"
        )
    if shape[-1] is None:
        raise ValueError(f"{model.name} returns features of no fixed number")
    if len(shape) == 2:
        return model
    output = _POOLING[len(shape)]()(model.output)
    return keras.Model(_graph(model).input, output, name=model.name)


def up_to(model: keras.Model, name: str) -> keras.Model:
    """Returns the network up to a layer.

    Args:
      model: a graph of layers.
      name: of a layer, also of one of a network within.

    Raises:
      ValueError: for an unknown name; it lists those like it.
    """
    part = _up_to(model, name)
    if part is None:
        known = [*dict.fromkeys(_names(model))]
        near = difflib.get_close_matches(name, known, 5, 0.5) or known[-5:]
        raise ValueError(
            f"{model.name} has no layer {name!r}, expected one like "
            f"{', '.join(near)}"
        )
    return part


def _up_to(model, name):
    graph = _graph(model)
    for layer in graph.operations:
        call = _call_of(layer, graph)
        if layer.name == name:
            output = call.output_tensors[0]
        elif is_graph(layer) and (part := _up_to(layer, name)) is not None:
            output = part(call.input_tensors[0])
        else:
            continue
        return keras.Model(graph.input, output, name=model.name)
    return None


def _names(model) -> Iterator[str]:
    for layer in _graph(model).operations:
        yield layer.name
        if is_graph(layer):
            yield from _names(layer)


def _graph(model):
    """The layers of a sequential model as a graph; another one is a graph."""
    return model._functional if isinstance(model, keras.Sequential) else model


def _call_of(layer, graph):
    """The first call of a layer within a graph: a layer may be in several."""
    calls = itertools.chain(*graph._nodes_by_depth.values())
    return next(call for call in calls if call.operation is layer)


def safe_name(text: str) -> str:
    """Returns a name for a network that a file may have too."""
    return re.sub(r"[^\w.-]", "_", text, flags=re.ASCII)[:80]


def is_graph(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a network of layers that Keras knows."""
    return isinstance(layer, keras.Model) and hasattr(
        _graph(layer), "operations"
    )


def of_size(model: keras.Model, size: int) -> keras.Model:
    """Returns a network of the same weights for pictures of another size.

    Args:
      model: on [B, H, W, 3].
      size: S in pixels.

    Returns:
      the network on [B, S, S, 3]; `model` itself if it is that.

    Raises:
      ValueError: if the shape of a weight depends on the size.
    """
    before = model.input_shape[1:3]
    if before == (size, size):
        return model
    config = keras.saving.serialize_keras_object(model)
    _resize_inputs(config, before, size)
    try:
        resized = keras.saving.deserialize_keras_object(config)
        resized.set_weights(model.get_weights())
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{model.name} takes pictures of {before[0]} x {before[1]} alone, "
            f"not of {size}: {error}"
        ) from error
    return resized


def _resize_inputs(config, before, size, depth=0):
    """Changes the inputs of a network, and of those within, in place.

    One that sees a feature map sees one of any size, and so does one within a
    network of any size.
    """
    if isinstance(config, dict):
        depth += "layers" in config
        if config.get("class_name") == "InputLayer":
            shape = config["config"]["batch_shape"]
            if len(shape) == 4:
                sees_pictures = depth == 1 or None not in before
                side = (
                    size
                    if sees_pictures and tuple(shape[1:3]) == before
                    else None
                )
                config["config"]["batch_shape"] = (
                    shape[0], side, side, shape[3],
                )  # fmt: skip
        config = [*config.values()]
    if isinstance(config, list):
        for part in config:
            _resize_inputs(part, before, size, depth)
