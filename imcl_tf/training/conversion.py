"""Exports for other runtimes: pixels in, probabilities out, no strings."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from imcl_tf.backbones.pictures import picture_format
from imcl_tf.files import replacing
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.settings import EXPORT, EXPORTED
from imcl_tf.training.export import (
    FEATURES,
    SERVING,
    check_place,
    function_of,
    save_functions,
)

PIXELS = "pixels"
# What the extras of the same names install.
_PACKAGES = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
_OPSET = 18  # of ONNX, of December 2022
# A converted model is refused whose probabilities are further off. Those of
# float32 differ by 1e-6, by 1e-5 where cosines of neighbours are rounded.
_TOLERANCE = 1e-3


def export_as(model: MultiLabelModel, path: str | Path, format: str):
    """Writes a model for servers and devices that take pixels.

    It takes `pixels` [B, S, S, 3] uint8, resized as training resized, see
    `imcl_tf.picture_format`; of a model without backbone `features` [B, d]
    float32. It returns `probabilities` [B, C] float32 alone, in the order of
    the labels in training.

    Args:
      model: with a backbone on pictures [B, S, S, 3] or none, built.
      path: directory or file to write; its parent is made. An earlier export
        there is replaced.
      format: "pixels", a SavedModel directory without string operations;
        "onnx" or "litert", a file that its runtime has been seen to answer
        with as the model does. These need the extras of the same names.

    Raises:
      ValueError: if the format is unknown, the model takes neither pictures nor
        features, or it has an operation that the format does not have.
      ImportError: if an extra is not installed.
      OSError: if the path cannot be written, or something else is there.

    Example:
      >>> import imcl_tf, os, tempfile
      >>> model = imcl_tf.MultiLabelModel(
      ...     imcl_tf.backbone("small_cnn", image_size=32), 2)
      >>> model.build((None, 32, 32, 3))
      >>> place = os.path.join(tempfile.mkdtemp(), "plain_model")
      >>> imcl_tf.export_as(model, place, "pixels")
      >>> os.path.isfile(os.path.join(place, "saved_model.pb"))
      True
    """
    path = Path(path)
    if format not in EXPORTED:
        raise ValueError(
            f"format must be one of {', '.join(EXPORTED)}, got {format!r}"
        )
    formats_of(format)
    if format == PIXELS:
        check_place(path)
        save_functions(path, {SERVING: _served(model)})
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a directory; a file expected")
    content = converted(model, format)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def formats_of(export: str) -> list[str]:
    """Returns the formats of the option `export`.

    Args:
      export: its value.

    Raises:
      ValueError: for an unknown format.
      ImportError: if an extra is not installed.
    """
    given = str(EXPORT.checked(export)).split(",")
    formats = [name for name in EXPORTED if name in given]
    for name in formats:
        for package in _PACKAGES.get(name, ()):
            if importlib.util.find_spec(package) is None:
                raise ImportError(
                    f"export: {name} needs {package}: pip install "
                    f"'imcl_tf[{name}]'"
                )
    return formats


def check_convertible(model: MultiLabelModel, formats: list[str]):
    """Converts a model for nothing, to see whether that can be done.

    Args:
      model: of any weights, built.
      formats: of `formats_of`.

    Raises:
      ValueError: if it cannot.
    """
    for name in formats:
        if name != PIXELS:
            converted(model, name)


def converted(model: MultiLabelModel, format: str) -> bytes:
    """Returns what a file of `format` holds, "onnx" or "litert".

    Raises:
      ValueError: see `export_as`.
    """
    convert, run = _CONVERTERS[format]
    layers = model._flatten_layers()
    if "bfloat16" in {layer.compute_dtype for layer in layers}:
        raise ValueError(
            f"export: {format} knows no bfloat16; expected a network in single "
            "precision (--mixed_precision=none)"
        )
    with _dense(model):  # whose variables live as long
        serve = _served(model)
        inputs = _examples(serve)
        expected = serve(tf.constant(inputs))["probabilities"].numpy()
        try:
            with _quiet():
                content = convert(serve)
                found = run(content, inputs)
        except Exception as error:  # of any kind, of several packages
            raise ValueError(
                f"export: {format} cannot be made of this model: "
                f"{_reason(error)}"
            ) from error
    difference = np.abs(found - expected).max()
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"export: {format} gives probabilities that differ from the "
            f"model's by {difference:.2g}, at most {_TOLERANCE:g} expected"
        )
    return content


def _served(model):
    """The concrete function of pixels, or of features."""
    if not model.built:
        raise ValueError("the model must be built before it is exported")
    name, dtype = PIXELS, tf.uint8
    if isinstance(model.backbone, keras.layers.Identity):
        name, dtype = FEATURES, tf.float32
        shape = model.feature_shape
    else:
        size = picture_format(model.backbone).image_size
        shape = (size, size, 3)

    def serve(inputs):
        return {"probabilities": tf.sigmoid(model(inputs, training=False))}

    spec = tf.TensorSpec([None, *shape], dtype, name=name)
    return function_of(serve, spec).get_concrete_function()


@contextlib.contextmanager
def _dense(model) -> Iterator[None]:
    """Keeps predictions to operations that converters know."""
    neighbors = model.training_neighbors
    if neighbors is not None:
        model.training_neighbors = neighbors.dense()
    try:
        yield
    finally:
        model.training_neighbors = neighbors


def _to_onnx(serve) -> bytes:
    import onnx
    import tf2onnx

    ((spec,), _) = serve.structured_input_signature
    function = tf.function(serve, input_signature=[spec], autograph=False)
    model, _ = tf2onnx.convert.from_function(
        function, input_signature=[spec], opset=_OPSET
    )
    onnx.checker.check_model(model)  # an unknown operation passes so far
    return model.SerializeToString()


def _run_onnx(content: bytes, inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        content, providers=["CPUExecutionProvider"]
    )
    (taken,) = session.get_inputs()
    (outputs,) = session.run(None, {taken.name: inputs})
    return outputs


def _to_litert(serve) -> bytes:
    module = tf.Module()
    module.weights = serve.graph.variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve], module)
    return converter.convert()


def _run_litert(content: bytes, inputs: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=content).get_signature_runner()
    (name,) = run.get_input_details()
    return run(**{name: inputs})["probabilities"]


_CONVERTERS: dict[str, tuple[Callable, Callable]] = {
    "onnx": (_to_onnx, _run_onnx),
    "litert": (_to_litert, _run_litert),
}


def _examples(serve) -> np.ndarray:
    """Two random inputs."""
    ((spec,), _) = serve.structured_input_signature
    rng = np.random.default_rng(0)
    shape = (2, *spec.shape[1:])
    if spec.dtype == tf.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.normal(size=shape).astype(np.float32)


def _reason(error: Exception) -> str:
    """What a converter says, in one line: the operations, if it names some."""
    text = str(error)
    names = re.findall(r"'tf\.(\w+)' op|Op registered for (\w+)", text)
    if names:
        names = sorted({"".join(name) for name in names})
        return f"it has no operation {', '.join(names)}"
    first, *_ = [*text.splitlines(), type(error).__name__]
    return first[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what converters and runtimes report off stderr."""
    logging.disable(logging.CRITICAL)
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
        logging.disable(logging.NOTSET)
