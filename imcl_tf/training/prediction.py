"""Labels for image files or for features, by an exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from imcl_tf.data.feature_files import FeatureFile, first_not_finite
from imcl_tf.data.feature_matrix import single_precision
from imcl_tf.data.images import inspect
from imcl_tf.training.export import FEATURES, SERVING

IMAGES = "images"


class Prediction(NamedTuple):
    """What a model says about an image.

    Attributes:
      file: its path, or its id in a file of features.
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
    serve = _signature(saved_model, IMAGES)
    for start in range(0, len(files), batch_size):
        yield from _predictions(serve, files[start : start + batch_size])


def predict_features(
    saved_model: str | Path | Any,
    features: np.ndarray | str | Path,
    batch_size: int = 1024,
) -> tuple[np.ndarray, list[str]]:
    """Labels images by features that were computed before.

    Args:
      saved_model: see `predict_images`.
      features: [N, d] numbers; or the path of a file as `--features` takes it,
        whose rows need not fit into memory.
      batch_size: rows at a time.

    Returns:
      (probabilities [N, C] float32, in the order of the rows; C label names).

    Raises:
      OSError: if a file cannot be read, or there is no model.
      ValueError: if there are no features [N, d] of the model's d, or one is
        not finite, or the model takes none.

    Example:
      >>> import imcl_tf, numpy as np
      >>> model = imcl_tf.MultiLabelModel(None, 2)
      >>> model.build((None, 3))
      >>> imcl_tf.export(model, "of_features", ["cat", "dog"])
      >>> probabilities, labels = imcl_tf.predict_features(
      ...     "of_features", np.zeros((5, 3)))
      >>> probabilities.shape, labels
      ((5, 2), ['cat', 'dog'])
    """
    if isinstance(features, (str, Path)):
        file = FeatureFile(features)
        predictions = [*predict_each_feature(saved_model, file, batch_size)]
    else:
        features = np.asarray(features)
        if (
            features.ndim != 2
            or 0 in features.shape
            or (features.dtype.kind not in "biuf")
        ):
            raise ValueError(
                "features must be numbers [N, d], neither of them 0, got "
                f"{[*features.shape]} of type {features.dtype}"
            )
        names = [f"row {i}" for i in range(len(features))]
        predictions = [
            *_of_features(
                saved_model, names, features.shape[1],
                lambda part: single_precision(features[part]), batch_size,
            )
        ]  # fmt: skip
    for prediction in predictions:
        if prediction.error:
            raise prediction.error
    rows = [prediction.probabilities for prediction in predictions]
    return np.stack(rows), predictions[-1].labels


def predict_each_feature(
    saved_model: str | Path | Any, file: FeatureFile, batch_size: int = 1024
) -> Iterator[Prediction]:
    """Labels the rows of a file of features, those that can be labelled.

    Args:
      saved_model: see `predict_images`.
      file: the features; some rows are in memory at a time.
      batch_size: rows at a time.

    Yields:
      `Prediction` of each id, in the order of the rows.

    Raises:
      OSError: if there is no model, or the file cannot be read.
      ValueError: if the file is not as it should be, has another d than the
        model takes, or the model takes no features.
    """
    yield from _of_features(
        saved_model, file.ids, file.num_features, file.rows, batch_size,
        f"{file.path}: ",
    )  # fmt: skip


def _of_features(saved_model, names, num_features, read, batch_size, place=""):
    """`Prediction` of each name; `read` gives the rows [n, d] of a slice."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    serve = _signature(saved_model, FEATURES)
    spec = serve.structured_input_signature[1][FEATURES]
    if spec.shape[1] != num_features:
        raise ValueError(
            f"{place}rows of {num_features} features; the model takes "
            f"{spec.shape[1]}"
        )
    for start in range(0, len(names), batch_size):
        part = slice(start, start + batch_size)
        rows = read(part)
        columns = first_not_finite(rows)
        outputs = serve(features=tf.constant(np.nan_to_num(rows)))
        labels = [name.decode() for name in outputs["labels"].numpy()]
        probabilities = outputs["probabilities"].numpy()
        for name, column, row in zip(
            names[part], columns, probabilities, strict=True
        ):
            if column < 0:
                yield Prediction(name, labels, row, None)
                continue
            error = ValueError(f"{place}{name}: column {column} is not finite")
            yield Prediction(name, labels, np.zeros(0, np.float32), error)


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


def _signature(saved_model, inputs: str) -> Callable:
    """What labels `inputs`: images [B] string, or features [B, d]."""
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
        signatures = saved_model.signatures
        serving = signatures[SERVING]
    except (AttributeError, KeyError):
        raise ValueError(
            "saved_model must be of imcl_tf.export, with a signature "
            f"{SERVING}, got {saved_model!r}"
        ) from None
    # One of an earlier version has no signature of features.
    serve = serving if inputs == IMAGES else signatures.get(inputs)
    if serve is None or inputs not in serve.structured_input_signature[1]:
        other = FEATURES if inputs == IMAGES else IMAGES
        raise ValueError(f"the model takes {other}, not {inputs}")
    return serve


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
