"""Fixed features: a backbone runs over a data set once; records keep f."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from imcl_tf import records
from imcl_tf.backbones import SQUASHED, Resizing
from imcl_tf.dataset import Source, Split, numbered, with_inputs


def fixed_features(
    source: Source,
    backbone: keras.Model,
    image_size: int,
    batch_size: int = 64,
    resizing: Resizing = SQUASHED,
) -> Source:
    """Computes the features of all images, or finds those computed before.

    They are kept beside the image records, under a digest of the weights.

    Args:
      source: of image records.
      backbone: images [B, S, S, 3] -> features [B, d].
      image_size: S.
      batch_size: images at a time.
      resizing: of images to S x S.

    Returns:
      the same source with feature records in place of image records.
    """
    digest = hashlib.sha256(f"{image_size} {resizing}".encode())
    for weight in backbone.weights:
        digest.update(np.ascontiguousarray(weight.numpy()))
    directory = (
        Path(source.directory) / f"{backbone.name}-{digest.hexdigest()[:16]}"
    )
    directory.mkdir(exist_ok=True)
    run = tf.function(
        lambda images: backbone(images, training=False), reduce_retracing=True
    )
    splits = {}
    for name, split in source.splits.items():
        files = tuple(str(directory / Path(file).name) for file in split.files)
        _write_missing(files, split, run, image_size, batch_size, resizing)
        splits[name] = split._replace(files=files)
    return source._replace(splits=splits)


def _write_missing(files, split, run, image_size, batch_size, resizing):
    """Writes those feature files of a split that are not there yet."""
    progress = keras.utils.Progbar(sum(split.lengths), unit_name="image")
    start = 0
    for file, images, length in zip(
        files, split.files, split.lengths, strict=True
    ):
        labels = split.labels[start : start + length]
        start += length
        if not Path(file).exists():
            shard = Split((images,), (length,), labels, split.classes)
            # Runs of several seeds may well compute the same file at once.
            unfinished = f"{file}.unfinished-{uuid.uuid4().hex}"
            try:
                _write_features(
                    unfinished, shard, run, image_size, batch_size, resizing
                )
                os.replace(unfinished, file)
            finally:
                Path(unfinished).unlink(missing_ok=True)
        progress.update(start)


def _write_features(file, shard, run, image_size, batch_size, resizing):
    """Writes the feature records of a shard, in the order of its images."""
    shape = (image_size, image_size, 3)
    names = _image_ids(shard)
    batches = with_inputs(numbered(shard), shape, batch_size, resizing)
    with tf.io.TFRecordWriter(file) as writer:
        for index, images in batches.prefetch(2):
            for i, feature in zip(
                index.numpy(), run(images).numpy(), strict=True
            ):
                row = shard.labels[[i]]
                writer.write(records.encode_feature(names[i], feature, row))


def _image_ids(split: Split) -> list[bytes]:
    """Returns the image ids of a split, in the order of its records."""
    ds = numbered(split).map(lambda _, r: records.decode_image(r)[0])
    return list(ds.as_numpy_iterator())
