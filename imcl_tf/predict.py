"""Labels images: `python -m imcl_tf.predict --model=DIR/saved_model IMAGE...`.

Prints the likeliest labels of each image; `--csv=FILE` writes all of them.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags

from imcl_tf import program
from imcl_tf.files import fail, parse_or_fail, write_csv
from imcl_tf.options import Option

FLAGS = flags.FLAGS
USAGE = """
usage: python -m imcl_tf.predict --model=DIR/saved_model [--FLAG=VALUE] IMAGE...

Prints the likeliest labels of each image with their probabilities.
"""
OPTIONS = (
    Option(
        "model", "", "Directory of an exported model: saved_model of a run."
    ),
    Option("top", 10, "Number of labels to print for each image.", minimum=1),
    Option(
        "csv", "",
        "CSV file that gets every label's probability: image,label,"
        "probability.",
    ),
    Option("batch_size", 32, "Images that are labelled at a time.", minimum=1),
)  # fmt: skip
program.define(OPTIONS)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses `argv`; returns the program's name and the images."""
    program.print_help_if_asked(argv, USAGE, {"flags": OPTIONS})
    return FLAGS(argv)


def main(argv: list[str]):
    """Runs what the flags say."""
    files = argv[1:]
    if not FLAGS.model:
        fail(ValueError("--model must name the directory of an exported model"))
    if not files:
        fail(ValueError("no image given"))
    program.quiet_tensorflow()
    import numpy as np
    import tensorflow as tf

    from imcl_tf.training.prediction import predict_images

    try:
        table, names = predict_images(FLAGS.model, files, FLAGS.batch_size)
        if FLAGS.csv:
            write_csv(
                Path(FLAGS.csv),
                ("image", "label", "probability"),
                (
                    (image, name, f"{p:.6f}")
                    for image, row in zip(files, table, strict=True)
                    for name, p in zip(names, row, strict=True)
                ),
            )
    except (ValueError, OSError, tf.errors.OpError) as error:
        fail(error)
    for image, row in zip(files, table, strict=True):
        print(image)
        for j in np.argsort(-row, kind="stable")[: FLAGS.top]:
            print(f"  {row[j]:.3f}  {names[j]}")


def console():
    """Runs the program `imcl-predict`."""
    app.run(main, flags_parser=parse_or_fail(parse_flags))


if __name__ == "__main__":
    console()
