"""Labels for image files, by an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from imcl_tf.data.images import inspect, upright


def predict_images(
    saved_model: str | Path | Any,
    files: Sequence[str | Path],
    batch_size: int = 32,
) -> tuple[np.ndarray, list[str]]:
    """Labels image files.

    Args:
      saved_model: directory of `imcl_tf.export`, or what
        `tf.saved_model.load` made of it.
      files: N paths of JPEG or PNG files.
      batch_size: images at a time.

    Returns:
      (probabilities [N, C] float32, C label names).

    Raises:
      OSError: if a file cannot be read.
      ValueError: if a file cannot be decoded, or there is none.

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
    if not files:
        raise ValueError("no image given")
    if isinstance(saved_model, (str, Path)):
        saved_model = tf.saved_model.load(str(saved_model))
    serve = saved_model.signatures["serving_default"]
    rows, names = [], []
    for start in range(0, len(files), batch_size):
        encoded = [_read_image(f) for f in files[start : start + batch_size]]
        outputs = serve(images=tf.constant(encoded))
        rows.append(outputs["probabilities"].numpy())
        names = [name.decode() for name in outputs["labels"].numpy()]
    return np.concatenate(rows), names


def _read_image(path) -> bytes:
    """The image as training saw such images: upright."""
    encoded = Path(path).read_bytes()
    problem = inspect(encoded).problem
    if problem:
        raise ValueError(f"{path}: {problem}")
    return upright(encoded)
