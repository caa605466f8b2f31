"""Labels images: `python -m imcl_tf.predict --model=DIR/saved_model IMAGE...`.

Prints the likeliest labels of each image; `--csv=FILE` writes all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags

from imcl_tf.files import fail, parse_or_fail, write_csv
from imcl_tf.images import inspect, upright

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "SavedModel directory of a run.")
flags.DEFINE_integer("top", 10, "Labels to print.", lower_bound=1)
flags.DEFINE_string("csv", "", "File to write: image,label,probability.")
flags.DEFINE_integer("batch_size", 32, "Images at a time.", lower_bound=1)


def predict(model, images: list[str], batch_size: int = 32):
    """Labels image files.

    Args:
      model: loaded SavedModel of `imcl_tf.export`.
      images: paths of JPEG or PNG files.
      batch_size: images at a time.

    Returns:
      (probabilities [N, C] float32, label names [C]).

    Raises:
      OSError: if a file cannot be read.
      ValueError: if a file cannot be decoded.
    """
    serve = model.signatures["serving_default"]
    rows, names = [], []
    for start in range(0, len(images), batch_size):
        paths = images[start : start + batch_size]
        encoded = [_read_image(path) for path in paths]
        outputs = serve(images=tf.constant(encoded))
        rows.append(outputs["probabilities"].numpy())
        names = [name.decode() for name in outputs["labels"].numpy()]
    return np.concatenate(rows), names


def _read_image(path: str) -> bytes:
    """The image as training saw such images: upright."""
    encoded = Path(path).read_bytes()
    problem = inspect(encoded).problem
    if problem:
        raise ValueError(f"{path}: {problem}")
    return upright(encoded)


def main(argv: list[str]):
    try:
        if not FLAGS.model:
            raise ValueError("--model must name a SavedModel directory")
        if not argv[1:]:
            raise ValueError("no image given")
        model = tf.saved_model.load(FLAGS.model)
        table, names = predict(model, argv[1:], FLAGS.batch_size)
        if FLAGS.csv:
            write_csv(
                Path(FLAGS.csv),
                ("image", "label", "probability"),
                (
                    (image, name, f"{p:.6f}")
                    for image, row in zip(argv[1:], table, strict=True)
                    for name, p in zip(names, row, strict=True)
                ),
            )
    except (ValueError, OSError, tf.errors.OpError) as error:
        fail(error)
    for image, row in zip(argv[1:], table, strict=True):
        print(image)
        for j in np.argsort(-row, kind="stable")[: FLAGS.top]:
            print(f"  {row[j]:.3f}  {names[j]}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_or_fail(FLAGS))
