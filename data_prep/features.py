"""Runs a backbone over a data set once and keeps the features.

    python -m data_prep.features --dataset=coco --backbone=vgg16 \\
        --backbone_weights=imagenet

`imcl_tf.main --regime=fixed_features` with the same backbone and weights finds
them, or makes them itself. What is interrupted goes on where it stopped.
"""

from __future__ import annotations

import sys

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags

from imcl_tf import catalog
from imcl_tf.backbones import BACKBONES, make_backbone
from imcl_tf.features import fixed_features
from imcl_tf.files import fail, parse_or_fail

FLAGS = flags.FLAGS


def main(argv: list[str]):
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        for name in ("dataset", "backbone"):
            if not FLAGS[name].value:
                raise ValueError(f"--{name} must be given")
        if FLAGS.backbone_weights == "none":
            raise ValueError(
                "--backbone_weights must be imagenet or a file: features of "
                "random weights serve nobody"
            )
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        backbone = make_backbone(
            FLAGS.backbone, FLAGS.backbone_weights, FLAGS.image_size
        )
        source = catalog.open_dataset(FLAGS.dataset, FLAGS.data_dir)
        result = fixed_features(
            source, backbone.model, backbone.image_size, FLAGS.batch_size,
            backbone.resizing,
        )  # fmt: skip
    except (ValueError, OSError, tf.errors.OpError) as error:
        fail(error)
    for name, split in result.splits.items():
        print(
            f"{name}: {split.labels.shape[0]} features of {len(split.files)} "
            f"files, {split.files[0]} ..."
        )


if __name__ == "__main__":
    flags.DEFINE_string("dataset", None, catalog.HELP)
    flags.DEFINE_string("data_dir", None, catalog.DATA_DIR_HELP)
    flags.DEFINE_enum("backbone", None, list(BACKBONES), "CNN.")
    flags.DEFINE_string(
        "backbone_weights", "imagenet", "imagenet, or a file of weights."
    )
    flags.DEFINE_integer(
        "image_size", 0, "Pixels; 0 = the backbone's own.", lower_bound=0
    )
    flags.DEFINE_integer("batch_size", 64, "Images at a time.", lower_bound=1)
    app.run(main, flags_parser=parse_or_fail(FLAGS))
