"""Makes the records of a user's folder ahead of training.

    python -m data_prep.folder --raw_dir=DIR --data_dir=DIR

`imcl_tf.main --dataset=folder` does the same on first use.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.FOLDER)

from absl import flags

from imcl_tf import program, settings
from imcl_tf.data import preparation
from imcl_tf.data.folder import folder_builder

FLAGS = flags.FLAGS


def _builder():
    if FLAGS.features and FLAGS.beam_runner:
        raise ValueError(
            "--beam_runner is for pictures; this program writes --features "
            "itself"
        )
    return folder_builder(
        FLAGS.raw_dir,
        FLAGS.data_dir or None,
        FLAGS.on_bad_image,
        **program.values(settings.FOLDER),
    )


def main(argv: list[str]):
    preparation.run(
        argv,
        _builder,
        FLAGS.raw_dir,
        FLAGS.beam_runner,
        FLAGS.beam_option,
    )


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
