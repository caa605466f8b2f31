"""Makes the records of a user's folder ahead of training.

    python -m data_prep.folder --raw_dir=DIR --data_dir=DIR

`imcl_tf.main --dataset=folder` does the same on first use.
"""

from __future__ import annotations

from absl import app, flags

from imcl_tf.data import preparation
from imcl_tf.data.folder import folder_builder
from imcl_tf.files import parse_or_fail

FLAGS = flags.FLAGS


def main(argv: list[str]):
    preparation.run(
        argv,
        lambda: folder_builder(
            FLAGS.raw_dir, FLAGS.data_dir, FLAGS.on_bad_image
        ),
        FLAGS.raw_dir,
        FLAGS.beam_runner,
        FLAGS.beam_option,
    )


if __name__ == "__main__":
    preparation.define_flags(
        "Directory of images/, labels.csv[.gz] and splits.csv."
    )
    app.run(main, flags_parser=parse_or_fail(FLAGS))
