"""Runs a backbone over a data set once and keeps the features.

    python -m data_prep.features --dataset=coco --backbone=vgg16 \\
        --backbone_weights=imagenet

`imcl_tf.main --regime=fixed_features` with the same backbone and weights finds
them, or makes them itself. An interrupted program continues where it stopped
when it is called again.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.FEATURES)

import sys

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags

from imcl_tf import program, settings
from imcl_tf.backbones.make import backbone, is_pretrained
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.features import fixed_features
from imcl_tf.files import fail

FLAGS = flags.FLAGS


def main(argv: list[str]):
    """Runs what the flags say."""
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        if not FLAGS.dataset:
            raise ValueError("--dataset must be given")
        if not is_pretrained(FLAGS.backbone, FLAGS.backbone_weights):
            raise ValueError(
                "--backbone_weights must be imagenet or a file: features of "
                "random weights are of no use"
            )
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        network = backbone(
            FLAGS.backbone, FLAGS.backbone_weights, FLAGS.image_size,
            FLAGS.backbone_layer, FLAGS.backbone_input,
        )  # fmt: skip
        data = load_dataset(
            FLAGS.dataset, FLAGS.data_dir, FLAGS.on_bad_image,
            **program.values(settings.FOLDER),
        )  # fmt: skip
        features = fixed_features(data, network, FLAGS.batch_size)
    except (ValueError, OSError, ImportError, tf.errors.OpError) as error:
        fail(error)
    for name, split in features.splits.items():
        print(
            f"{name}: {sum(split.lengths)} features of {split.num_features} "
            f"numbers in {len(split.files)} files, {split.files[0]} ..."
        )


if __name__ == "__main__":
    program.run(main, ARGUMENTS, "the same command continues")
