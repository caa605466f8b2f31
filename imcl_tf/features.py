"""Fixed features: a backbone runs over a data set once; records keep f."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from imcl_tf import records
from imcl_tf.dataset import Source, Split, numbered, with_inputs

_SHARD_SIZE = 4096


def fixed_features(
    source: Source, backbone: keras.Model, image_size: int, batch_size: int = 64
) -> Source:
    """Computes the features of all images, or finds those computed before.

    They are kept beside the image records, under a digest of the weights.

    Args:
      source: of image records.
      backbone: images [B, S, S, 3] -> features [B, d].
      image_size: S.
      batch_size: images at a time.

    Returns:
      the same source with feature records in place of image records.
    """
    digest = hashlib.sha256(str(image_size).encode())
    for weight in backbone.weights:
        digest.update(np.ascontiguousarray(weight.numpy()))
    directory = (
        Path(source.directory) / f"{backbone.name}-{digest.hexdigest()[:16]}"
    )
    if not directory.is_dir():
        # Runs of several seeds may well compute the same features at once.
        unfinished = directory.with_name(f".unfinished-{uuid.uuid4().hex}")
        unfinished.mkdir()
        try:
            for name, split in source.splits.items():
                rows = _encoded(split, backbone, image_size, batch_size)
                records.write_shards(unfinished, name, rows, _SHARD_SIZE)
            try:
                unfinished.rename(directory)
            except OSError:
                if not directory.is_dir():  # else another run was first
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    splits = {}
    for name, split in source.splits.items():
        total = sum(split.lengths)
        files = sorted(map(str, directory.glob(f"{name}-*.tfrecord")))
        lengths = [_SHARD_SIZE] * len(files)
        lengths[-1] = total - _SHARD_SIZE * (len(files) - 1)
        splits[name] = Split(tuple(files), tuple(lengths), split.labels)
    return source._replace(splits=splits)


def _encoded(split, backbone, image_size, batch_size):
    """Feature records of a split, in the order of its image records."""
    run = tf.function(lambda images: backbone(images, training=False))
    shape = (image_size, image_size, 3)
    names = _image_ids(split)
    batches = with_inputs(numbered(split), shape, batch_size).prefetch(2)
    progress = keras.utils.Progbar(len(names), unit_name="image")
    for index, images in batches:
        progress.add(len(index))
        for i, feature in zip(index.numpy(), run(images).numpy(), strict=True):
            row = split.labels[[i]]
            yield records.encode_feature(names[i], feature, row)


def _image_ids(split: Split) -> list[bytes]:
    """Returns the image ids of a split, in the order of its records."""
    ds = numbered(split).map(lambda _, r: records.decode_image(r)[0])
    return list(ds.as_numpy_iterator())
