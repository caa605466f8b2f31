"""Labels for image files, by an exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from imcl_tf.data.images import inspect


class Prediction(NamedTuple):
    """What a model says about an image file.

    Attributes:
      file: its path.
      labels: C label names.
      probabilities: [C] float32; [0] with an error.
      error: why it could not be labelled, None if it could.
    """

    file: str | Path
    labels: list[str]
    probabilities: np.ndarray
    error: Exception | None


def predict_images(
    saved_model: str | Path | Any,
    files: Iterable[str | Path],
    batch_size: int = 32,
) -> tuple[np.ndarray, list[str]]:
    """Labels image files.

    Args:
      saved_model: directory of `imcl_tf.export`, or what
        `tf.saved_model.load` made of it.
      files: N paths of JPEG, PNG, WebP, BMP or GIF files.
      batch_size: images at a time.

    Returns:
      (probabilities [N, C] float32, C label names).

    Raises:
      OSError: if a file cannot be read, or there is no model.
      ValueError: if a file cannot be decoded, or there is none, or `files` is
        a path in place of a list.

    Example:
      >>> import imcl_tf
      >>> model = imcl_tf.MultiLabelModel(
      ...     imcl_tf.backbone("small_cnn", image_size=32), 2)
      >>> model.build((None, 32, 32, 3))
      >>> imcl_tf.export(model, "saved_model", ["cat", "dog"])
      >>> probabilities, labels = imcl_tf.predict_images(
      ...     "saved_model", ["new.jpg"])
      >>> probabilities.shape, labels
      ((1, 2), ['cat', 'dog'])
    """
    predictions = []
    for prediction in predict_each(saved_model, files, batch_size):
        if prediction.error:
            raise prediction.error
        predictions.append(prediction)
    rows = [prediction.probabilities for prediction in predictions]
    return np.stack(rows), predictions[-1].labels


def predict_each(
    saved_model: str | Path | Any,
    files: Iterable[str | Path],
    batch_size: int = 32,
) -> Iterator[Prediction]:
    """Labels image files one after the other, those that can be labelled.

    Args:
      saved_model: see `predict_images`.
      files: see there.
      batch_size: images at a time.

    Yields:
      `Prediction` of each file, in order.

    Raises:
      OSError: if there is no model.
      ValueError: if there is no file, or `files` is a path in place of a list.
    """
    if isinstance(files, (str, bytes, Path)):
        raise ValueError(f"files must be a list of paths, got {files!r}")
    files = list(files)
    if not files:
        raise ValueError("no image given")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    serve = _signature(saved_model)
    for start in range(0, len(files), batch_size):
        yield from _predictions(serve, files[start : start + batch_size])


def _predictions(serve: Callable, files) -> Iterator[Prediction]:
    found = [_read_image(file) for file in files]
    encoded = [x for x in found if isinstance(x, bytes)]
    labels: list[str] = []
    probabilities = iter(())
    if encoded:
        outputs = serve(images=tf.constant(encoded))
        labels = [name.decode() for name in outputs["labels"].numpy()]
        probabilities = iter(outputs["probabilities"].numpy())
    for file, image in zip(files, found, strict=True):
        if isinstance(image, bytes):
            yield Prediction(file, labels, next(probabilities), None)
        else:
            yield Prediction(file, labels, np.zeros(0, np.float32), image)


def _signature(saved_model) -> Callable:
    """What labels images [B] string."""
    if isinstance(saved_model, (str, Path)):
        place = Path(saved_model)
        if not (place / "saved_model.pb").is_file():
            raise FileNotFoundError(
                f"{place}: no exported model; expected a directory with "
                "saved_model.pb, such as saved_model of a run"
            )
        try:
            saved_model = tf.saved_model.load(str(place))
        except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
            # The first of TensorFlow's many lines says what is wrong.
            reason, *_ = [*str(error).splitlines(), type(error).__name__]
            raise OSError(
                f"{place}: a damaged model: {reason[:300]}"
            ) from error
    try:
        return saved_model.signatures["serving_default"]
    except (AttributeError, KeyError):
        raise ValueError(
            "saved_model must be of imcl_tf.export, with a signature "
            f"serving_default, got {saved_model!r}"
        ) from None


def _read_image(path) -> bytes | Exception:
    """The image file as it is, or what is wrong with it."""
    try:
        encoded = Path(path).read_bytes()
    except FileNotFoundError:
        return FileNotFoundError(f"{path}: no such image file")
    except IsADirectoryError:
        return IsADirectoryError(f"{path}: a directory; image files expected")
    except (OSError, ValueError) as error:  # or a name with a zero byte
        return OSError(f"{path}: {getattr(error, 'strerror', None) or error}")
    problem = inspect(encoded).problem
    return ValueError(f"{path}: {problem}") if problem else encoded
