"""Fixed features: a backbone runs over a data set once; records keep f."""

from __future__ import annotations

import hashlib
import itertools
import os
import uuid
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from imcl_tf.backbones.make import picture_format
from imcl_tf.data import records
from imcl_tf.data.pipeline import MultiLabelDataset, without_autograph
from imcl_tf.data.pixels import decode_and_resize


def fixed_features(
    data: MultiLabelDataset, backbone: keras.Model, batch_size: int = 64
) -> MultiLabelDataset:
    """Computes the features of all images, or finds those computed before.

    They are kept beside the image records, under a digest of the weights. They
    hold no labels, and so serve any labels of these images.

    Args:
      data: of image records.
      backbone: [B, S, S, 3] -> features [B, d].
      batch_size: images at a time.

    Returns:
      the same data set with feature records in place of image records, for
      models with `fixed_features=True`.

    Raises:
      ValueError: if the backbone does not take pictures of one size.
      OSError: if the features cannot be written.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> backbone = imcl_tf.backbone("small_cnn", image_size=32)
      >>> imcl_tf.fixed_features(data, backbone).train.num_features
      256
    """
    image_size, resizing = picture_format(backbone)
    digest = hashlib.sha256(f"{image_size} {resizing}".encode())
    for weight in backbone.weights:
        digest.update(weight.numpy().tobytes())
    directory = (
        Path(data.directory) / f"{backbone.name}-{digest.hexdigest()[:16]}"
    )
    directory.mkdir(exist_ok=True)
    run = tf.function(
        lambda images: backbone(images, training=False),
        autograph=False, reduce_retracing=True,
    )  # fmt: skip
    splits: dict[str, Any] = {}
    for name, split in data.splits.items():
        files = tuple(str(directory / Path(file).name) for file in split.files)
        _write_missing(files, split, run, image_size, batch_size, resizing)
        splits[name] = split._replace(
            files=files, num_features=backbone.output_shape[-1], pictures=split
        )
    return data._replace(**splits)


@without_autograph
def _write_missing(files, split, run, image_size, batch_size, resizing):
    """Writes those feature files of a split that are not there yet."""
    missing = [n for n, file in enumerate(files) if not Path(file).exists()]
    progress = keras.utils.Progbar(sum(split.lengths), unit_name="image")
    progress.update(sum(split.lengths) - sum(split.lengths[n] for n in missing))
    features = _features_of(
        [split.files[n] for n in missing],
        run, image_size, batch_size, resizing,
    )  # fmt: skip
    for n in missing:
        # Runs of several seeds may compute the same file at once.
        unfinished = f"{files[n]}.unfinished-{uuid.uuid4().hex}"
        try:
            with tf.io.TFRecordWriter(unfinished) as writer:
                for name, feature in itertools.islice(
                    features, split.lengths[n]
                ):
                    writer.write(records.encode_feature(name, feature))
            os.replace(unfinished, files[n])
        finally:
            Path(unfinished).unlink(missing_ok=True)
        progress.add(split.lengths[n])


def _features_of(files, run, image_size, batch_size, resizing):
    """Yields image ids and features [d] of image records, in their order."""

    def decode(record):
        name, encoded = records.decode_image(record)
        return name, decode_and_resize(encoded, image_size, resizing)

    # No minibatch crosses from one file to the next: what is computed of an
    # image, to the last bit, must not depend on which files are missing.
    batches = tf.data.Dataset.from_tensor_slices(files).flat_map(
        lambda file: (
            tf.data.TFRecordDataset(file)
            .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(batch_size)
        )
    )
    for names, images in batches.prefetch(2):
        yield from zip(names.numpy(), run(images).numpy(), strict=True)
