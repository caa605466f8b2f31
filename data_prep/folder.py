"""Makes the records of a user's folder ahead of training.

    python -m data_prep.folder --raw_dir=DIR --data_dir=DIR

`imcl_tf.main --dataset=folder` does the same on first use.
"""

from __future__ import annotations

from absl import app, flags

from imcl_tf import builders
from imcl_tf.files import fail, parse_or_fail

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "raw_dir", None, "Holds images/, labels.csv[.gz], splits.csv."
)
flags.DEFINE_string(
    "data_dir", None, "Where records go; TFDS's default place if not given."
)
flags.DEFINE_enum(
    "on_bad_image", "error", ("error", "skip"), "Unreadable images."
)


def main(argv: list[str]):
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        if not FLAGS.raw_dir:
            raise ValueError("--raw_dir must be given")
        builder = builders.prepare(
            "folder", FLAGS.raw_dir, FLAGS.data_dir, FLAGS.on_bad_image
        )
    except (ValueError, OSError) as error:
        fail(error)
    counts = ", ".join(
        f"{info.num_examples} {name}"
        for name, info in builder.info.splits.items()
    )
    labels = len(builder.info.metadata["labels"])
    print(f"{builder.data_path}: {labels} labels; images: {counts}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_or_fail(FLAGS))
