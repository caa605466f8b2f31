"""Labels images: `python -m imcl_tf.predict --model=DIR/saved_model IMAGE...`.

Prints the likeliest labels of each image; `--csv=FILE` writes all of them. With
`--features=FILE` the images are the ids of that file.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

from imcl_tf import program
from imcl_tf.files import fail, parse_or_fail, write_csv
from imcl_tf.options import Option

USAGE = """
usage: python -m imcl_tf.predict --model=DIR/saved_model [--FLAG=VALUE] IMAGE...
       python -m imcl_tf.predict --model=DIR/saved_model --features=FILE

Prints the likeliest labels of each image with their probabilities. Images that
cannot be read are named; the exit status is then 1.
"""
OPTIONS = (
    Option(
        "model", "", "Directory of an exported model: saved_model of a run."
    ),
    Option(
        "features", "",
        "File of features of images, in the place of their pictures, as for "
        "imcl_tf.main.",
    ),
    Option("top", 10, "Number of labels to print for each image.", minimum=1),
    Option(
        "csv", "",
        "CSV file that gets every label's probability: image,label,"
        "probability.",
    ),
    Option("batch_size", 32, "Images that are labelled at a time.", minimum=1),
)  # fmt: skip
# Its own: another program in the same process may have flags of these names.
FLAGS = flags.FlagValues()
program.define(OPTIONS, FLAGS)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses `argv`; returns the program's name and the images."""
    program.print_help_if_asked(argv, USAGE, {"flags": OPTIONS})
    flags.FLAGS(argv[:1])  # which absl expects
    return FLAGS(argv)


def main(argv: list[str]):
    """Runs what the flags say."""
    files = argv[1:]
    if not FLAGS.csv:  # which is to be whole
        program.end_with_the_reader()
    if (
        isinstance(sys.stdout, io.TextIOWrapper)
        and sys.stdout.errors == "strict"
    ):
        # A label beyond the terminal's encoding is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    program.quiet_tensorflow()
    import tensorflow as tf

    unusable: list[str] = []
    try:
        _check(files)
        rows = _labelled(files, unusable)
        if FLAGS.csv:
            header = ("image", "label", "probability")
            write_csv(Path(FLAGS.csv), header, rows)
        else:
            for _ in rows:
                pass
    except (ValueError, OSError, tf.errors.OpError) as error:
        fail(error)
    if unusable:
        sys.exit(1)


def _check(files):
    """What can be known to fail before the work begins."""
    if not FLAGS.model:
        raise ValueError("--model must name the directory of an exported model")
    if not files and not FLAGS.features:
        raise ValueError("no image given")
    if files and FLAGS.features:
        raise ValueError(
            f"--features is given in the place of images, got {files[0]} too"
        )
    if not FLAGS.csv:
        return
    path = Path(FLAGS.csv)
    if path.is_dir():
        raise IsADirectoryError(f"--csv={path}: a directory; a file expected")
    if path.exists() and not path.is_file():
        raise OSError(f"--csv={path}: a device or pipe; a file expected")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(
            f"--csv={path}: cannot be written: {error.strerror}"
        ) from error


def _labelled(
    files: list[str], unusable: list[str]
) -> Iterator[tuple[str, str, str]]:
    """Prints the labels of images; yields the rows of the CSV file.

    Args:
      files: paths of the images.
      unusable: gets those that could not be labelled.
    """
    import numpy as np

    for file, labels, probabilities, error in _predictions(files):
        if FLAGS.csv and not error and not _is_text(str(file)):
            error = ValueError(f"{file}: its name is not UTF-8, as --csv is")
        if error:
            unusable.append(str(file))
            print(f"imcl_tf: error: {error}", file=sys.stderr, flush=True)
            continue
        print(file)
        for j in np.argsort(-probabilities, kind="stable")[: FLAGS.top]:
            print(f"  {probabilities[j]:.3f}  {labels[j]}")
        for label, p in zip(labels, probabilities, strict=True):
            yield str(file), label, f"{p:.6f}"


def _predictions(files: list[str]) -> Iterator:
    """`Prediction` of each image, or of each id of the features."""
    from imcl_tf.data.feature_files import FeatureFile
    from imcl_tf.training import prediction

    if FLAGS.features:
        return prediction.predict_each_feature(
            FLAGS.model, FeatureFile(FLAGS.features), FLAGS.batch_size
        )
    return prediction.predict_each(FLAGS.model, files, FLAGS.batch_size)


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8, and not other bytes that Python has kept."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def console():
    """Runs the program `imcl-predict`."""
    app.run(main, flags_parser=parse_or_fail(parse_flags))


if __name__ == "__main__":
    console()
