"""Fixed features: a backbone runs over a data set once; records keep f."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from imcl_tf.backbones.make import picture_format
from imcl_tf.data import records
from imcl_tf.data.pipeline import (
    MultiLabelDataset,
    Split,
    indexed_records,
    with_inputs,
)


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
        lambda images: backbone(images, training=False), reduce_retracing=True
    )
    splits: dict[str, Any] = {}
    for name, split in data.splits.items():
        files = tuple(str(directory / Path(file).name) for file in split.files)
        _write_missing(files, split, run, image_size, batch_size, resizing)
        splits[name] = split._replace(
            files=files, num_features=backbone.output_shape[-1], pictures=split
        )
    return data._replace(**splits)


def _write_missing(files, split, run, image_size, batch_size, resizing):
    """Writes those feature files of a split that are not there yet."""
    progress = keras.utils.Progbar(sum(split.lengths), unit_name="image")
    done = 0
    for file, images, length in zip(
        files, split.files, split.lengths, strict=True
    ):
        if not Path(file).exists():
            shard = split._replace(files=(images,), lengths=(length,))
            # Runs of several seeds may compute the same file at once.
            unfinished = f"{file}.unfinished-{uuid.uuid4().hex}"
            try:
                _write_features(
                    unfinished, shard, run, image_size, batch_size, resizing
                )
                os.replace(unfinished, file)
            finally:
                Path(unfinished).unlink(missing_ok=True)
        done += length
        progress.update(done)


def _write_features(file, shard, run, image_size, batch_size, resizing):
    """Writes the feature records of a shard, in the order of its images."""
    shape = (image_size, image_size, 3)
    names = _image_ids(shard)
    batches = with_inputs(indexed_records(shard), shape, batch_size, resizing)
    with tf.io.TFRecordWriter(file) as writer:
        for index, images in batches.prefetch(2):
            for i, feature in zip(
                index.numpy(), run(images).numpy(), strict=True
            ):
                writer.write(records.encode_feature(names[i], feature))


def _image_ids(split: Split) -> list[bytes]:
    """Returns the image ids of a split, in the order of its records."""
    ds = indexed_records(split).map(lambda _, r: records.decode_image(r)[0])
    return list(ds.as_numpy_iterator())
