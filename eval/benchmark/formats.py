"""Size and speed of a model in each form that it can be exported in."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import imcl_tf
from eval.benchmark.measure import Figure, call, printed
from imcl_tf.settings import EXPORTED

_LABELS = 100
_BATCHES = (1, 32)
_SECONDS = 3.0  # of each measurement, at full scale
_FILES = "files"  # the usual export, which decodes JPEGs


def formats(scale: float, repeats: int) -> list[Figure]:
    """A network of random weights; a row for each form, see `by_row`."""
    network = "keras:MobileNetV2" if scale == 1 else "small_cnn"
    figures = []
    for name in (_FILES, *EXPORTED):
        size, difference, *seconds = printed(
            call(time_format, name, network, _SECONDS * scale, repeats)
        )
        figures += [
            Figure(f"{name}: size", size / 1e6, "MB"),
            *(
                Figure(f"{name}: batch of {batch}", 1000 * x / batch,
                       "ms per image")
                for batch, x in zip(_BATCHES, seconds, strict=True)
            ),
            Figure(f"{name}: largest difference", difference, "", 1e-5),
        ]  # fmt: skip
    return figures


def time_format(name: str, network: str, seconds: float, repeats: int):
    """Prints bytes, largest difference and seconds of minibatches."""
    keras.utils.set_random_seed(0)
    model = imcl_tf.MultiLabelModel(imcl_tf.backbone(network), _LABELS)
    size = imcl_tf.picture_format(model.backbone).image_size
    model.build((None, size, size, 3))
    _spread(model, _pictures(max(_BATCHES), size))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, EXPORTED.get(name, name))
        if name == _FILES:
            imcl_tf.export(model, path, [f"{j}" for j in range(_LABELS)])
        else:
            imcl_tf.export_as(model, path, name)
        files = [*path.rglob("*"), path]
        size_of_all = sum(x.stat().st_size for x in files if x.is_file())
        run = _RUNTIMES[name](path)
        found = []
        for batch in _BATCHES:
            pixels = _pictures(batch, size)
            expected = tf.sigmoid(model(pixels)).numpy()
            inputs = pixels
            if name == _FILES:  # lossless for the comparison
                inputs = _encoded(pixels, tf.io.encode_png)
            found.append(np.abs(run(inputs) - expected).max())
            if name == _FILES:
                inputs = _encoded(pixels, tf.io.encode_jpeg)
            found.append(_seconds_of(lambda x=inputs: run(x), seconds, repeats))
    differences, times = found[::2], found[1::2]
    print(json.dumps([size_of_all, float(max(differences)), *times]))


def _spread(model, pixels):
    """Gives logits the size 1: those of random weights may all be near 0."""
    kernel, bias = model.classifier.get_weights()
    size = np.sqrt(np.mean(np.square(model(pixels).numpy())))
    model.classifier.set_weights([kernel / size, bias])


def _pictures(number, size) -> np.ndarray:
    """Smooth ones, whose JPEGs have the size of photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (number, size // 8, size // 8, 3))
    pixels = tf.image.resize(coarse, [size, size], "bicubic")
    return tf.saturate_cast(pixels, tf.uint8).numpy()


def _encoded(pixels, encode) -> tf.Tensor:
    return tf.stack([encode(image) for image in pixels])


def _seconds_of(run: Callable, seconds: float, repeats: int) -> float:
    """Median over repeats of the mean of as many runs as fit in `seconds`."""
    for _ in range(3):
        run()
    means = []
    for _ in range(repeats):
        start, runs = time.perf_counter(), 0
        while not runs or time.perf_counter() - start < seconds:
            run()
            runs += 1
        means.append((time.perf_counter() - start) / runs)
    return statistics.median(means)


def _saved_model(path: Path) -> Callable:
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]

    def run(inputs, loaded=loaded):  # whose weights live as long
        del loaded
        return serve(**{name: tf.constant(inputs)})["probabilities"].numpy()

    return run


def _onnx(path: Path) -> Callable:
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return lambda inputs: session.run(None, {"pixels": inputs})[0]


def _litert(path: Path) -> Callable:
    from ai_edge_litert.interpreter import Interpreter  # an extra

    interpreter = Interpreter(str(path), num_threads=2)
    run = interpreter.get_signature_runner()
    return lambda inputs: run(pixels=inputs)["probabilities"]


_RUNTIMES = {
    _FILES: _saved_model,
    "pixels": _saved_model,
    "onnx": _onnx,
    "litert": _litert,
}
