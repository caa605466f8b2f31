"""An exported model under load: good and bad requests from many threads."""

from __future__ import annotations

import collections
import io
import itertools
import json
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import imcl_tf
from eval.benchmark.measure import Figure, call, printed

_REQUESTS, _THREADS = 10_000, 8
_LABELS, _IMAGE_SIZE = 20, 64
_SIZES = ((1, 1), (7, 90), (60, 80), (375, 500), (700, 300))
# Of requests, after which memory is no longer fresh but used again.
_WARM_UP = 0.5
_EVERY = 50  # requests between two looks at the memory


class Request(NamedTuple):
    """Attributes: kind; is_good; signature: name of it; inputs, by name."""

    kind: str
    is_good: bool
    signature: str
    inputs: dict[str, Any]


class Load(NamedTuple):
    """What came of many requests.

    Attributes:
      wrong: good ones with another answer than when asked alone, by kind.
      strange: bad ones with another error than then, or none, by kind.
      seconds: altogether.
      growth: of memory after the warm-up, bytes per request, fitted.
      peak: of memory, bytes.
    """

    wrong: dict[str, int]
    strange: dict[str, int]
    seconds: float
    growth: float
    peak: int


def serving(scale: float, repeats: int) -> list[Figure]:
    """What `load` finds in a process of its own."""
    del repeats
    number = max(int(_REQUESTS * scale), 20 * _EVERY)
    found = Load(*printed(call(print_load, number)))
    return [
        Figure("good requests of another answer than alone",
               sum(found.wrong.values()), "", 0),
        Figure("bad requests of another error than alone",
               sum(found.strange.values()), "", 0),
        Figure("growth of memory per 1,000 requests", found.growth / 1e3, "MB",
               1),
        Figure("peak memory", found.peak / 1e9, "GB"),
        Figure("requests per second", number / found.seconds, ""),
    ]  # fmt: skip


def print_load(number: int):
    """Prints a `Load`."""
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(load(exported(place), [*requests()], number)))


def exported(place: str) -> Any:
    """A model of random weights, as `tf.saved_model.load` gives it."""
    keras.utils.set_random_seed(0)
    network = imcl_tf.backbone("small_cnn", image_size=_IMAGE_SIZE)
    model = imcl_tf.MultiLabelModel(network, _LABELS)
    model.build(network.input_shape)
    imcl_tf.export(model, place, [f"label {j}" for j in range(_LABELS)])
    return tf.saved_model.load(place)


def load(model: Any, kinds: list[Request], number: int) -> Load:
    """Asks a model from 8 threads at once, and compares its answers.

    Each request is asked alone before, three times: a good one must have an
    answer, a bad one an error, each time the same.

    Args:
      model: of `exported`.
      kinds: of `requests`.
      number: of requests that are drawn from them, with replacement.

    Raises:
      ValueError: if one has another answer, or error, when asked alone again.
    """
    expected = [answer(model, request) for request in kinds]
    for request, before in 2 * [*zip(kinds, expected, strict=True)]:
        is_answered = not isinstance(before, str)
        again = answer(model, request)
        if is_answered != request.is_good or not same(again, before):
            raise ValueError(f"{request.kind}: {before}, then {again}")
    order = np.random.default_rng(0).integers(len(kinds), size=number)
    places = iter(order.tolist())
    failed: list[int] = []
    memory: list[int] = []

    def ask():
        # `next` of a list's iterator is one step of the interpreter.
        for place in iter(lambda: next(places, -1), -1):
            if not same(answer(model, kinds[place]), expected[place]):
                failed.append(place)
            memory.append(_resident_bytes() if place % _EVERY == 0 else 0)

    threads = [threading.Thread(target=ask) for _ in range(_THREADS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    assert len(memory) == number
    wrong, strange = (
        collections.Counter(
            kinds[place].kind for place in failed
            if kinds[place].is_good == is_good
        )
        for is_good in (True, False)
    )  # fmt: skip
    looks = np.flatnonzero(memory)
    later = looks[looks >= _WARM_UP * number]
    growth, _ = np.polyfit(later, np.array(memory)[later], 1)
    return Load(wrong, strange, seconds, float(growth), max(memory))


def answer(model: Any, request: Request) -> np.ndarray | str:
    """The probabilities, or the error in the words of TensorFlow."""
    try:
        outputs = model.signatures[request.signature](**request.inputs)
        return outputs["probabilities"].numpy()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def same(found: np.ndarray | str, expected: np.ndarray | str) -> bool:
    """Whether two answers are equal, probabilities but for rounding."""
    if isinstance(found, str) or isinstance(expected, str):
        return type(found) is type(expected) and found == expected
    if found.shape != expected.shape:
        return False
    return bool(np.allclose(found, expected, rtol=0, atol=1e-6))


def requests() -> Iterator[Request]:
    """Some hundred requests, a third of them bad, each once."""
    good, bad = good_files(), bad_files()
    for kind, encoded in (good | bad).items():
        yield _of_images(kind, kind in good, [encoded])
    files = list(good.values())
    for size, start in itertools.product((2, 5, 8), range(0, len(files), 4)):
        batch = [files[(start + i) % len(files)] for i in range(size)]
        yield _of_images(f"{size} files from {start}", True, batch)
    for i, (kind, encoded) in enumerate(bad.items()):
        batch = [*files[i : i + 4]]
        batch.insert(i % 5, encoded)
        yield _of_images(f"4 good files and {kind}", False, batch)
    rng = np.random.default_rng(0)
    for size in (1, 3, 32):
        features = tf.constant(rng.normal(size=(size, 256)), tf.float32)
        yield Request(
            f"{size} features", True, "features", {"features": features}
        )
    for kind, inputs in (
        ("numbers", {"images": tf.constant([1, 2])}),
        ("one file, no batch", {"images": tf.constant(files[0])}),
        ("a table of files", {"images": tf.constant([files[:2]])}),
        ("another name", {"pictures": tf.constant(files[:1])}),
        ("nothing", {}),
    ):
        yield Request(kind, False, "serving_default", inputs)
    for kind, features in (
        ("features of another length", tf.zeros([2, 7])),
        ("features of whole numbers", tf.zeros([2, 256], tf.int32)),
        ("features without a batch", tf.zeros([256])),
    ):
        yield Request(kind, False, "features", {"features": features})


def _of_images(kind, is_good, encoded) -> Request:
    inputs = {"images": tf.constant(encoded)}
    return Request(kind, is_good, "serving_default", inputs)


def good_files() -> dict[str, bytes]:
    """Image files of all formats, with alpha, gray, of 16 bits and turned.

    Raises:
      ImportError: without Pillow, which the extra [plots] brings.
    """
    from PIL import Image  # an extra

    rng = np.random.default_rng(0)
    files = {}
    for height, width in _SIZES:
        coarse = rng.integers(0, 256, (4, 4, 4)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((width, height))
        colours, gray = image.convert("RGB"), image.convert("L")
        deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        for kind, picture, format_, options in (
            ("JPEG", colours, "JPEG", {}),
            ("gray JPEG", gray, "JPEG", {}),
            ("turned JPEG", colours, "JPEG", {"exif": exif}),
            ("PNG", colours, "PNG", {}),
            ("PNG with alpha", image, "PNG", {}),
            ("PNG of 16 bits", deep, "PNG", {}),
            ("WebP", image, "WEBP", {}),
            ("BMP", colours, "BMP", {}),
            ("GIF", colours, "GIF", {}),
        ):
            file = io.BytesIO()
            picture.save(file, format_, **options)
            files[f"{kind} of {height} x {width}"] = file.getvalue()
    return files


def bad_files() -> dict[str, bytes]:
    """Files that are no image, or a damaged or a refused one."""
    from PIL import Image  # an extra

    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    image, files = Image.fromarray(noise), {}
    for format_ in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        file = io.BytesIO()
        image.save(file, format_)
        files[f"half a {format_}"] = file.getvalue()[: file.tell() // 2]
    frames = io.BytesIO()
    image.save(frames, "WEBP", save_all=True, append_images=[image.rotate(90)])
    huge = struct.pack(">II", 2**31 - 1, 2**31 - 1) + b"\x08\x02\0\0\0"
    header = b"IHDR" + huge
    header = struct.pack(">I", 13) + header + zlib.crc32(header).to_bytes(4)
    return files | {
        "an animated WebP": frames.getvalue(),
        "a PNG of a huge header": b"\x89PNG\r\n\x1a\n" + header,
        "a GIF of a huge header": b"GIF89a\xff\xff\xff\xff\0\0\0",
        "an empty file": b"",
        "a text": b"no picture",
        "a page": b"<html><body>404 Not Found</body></html>",
        "zeros": bytes(5000),
        "noise": noise.tobytes(),
        "the start of a JPEG": b"\xff\xd8\xff",
    }


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return 4096 * int(file.read().split()[1])
