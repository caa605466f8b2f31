"""The one record schema: what a TFRecord of an image or of a feature holds.

    image_id   bytes    the image's name
    image      bytes    JPEG or PNG as it came, never encoded again
    feature    [d] float32, in place of `image` in fixed-features records
    positives  [P] int64, indices of the labels observed present
    negatives  [Q] int64, indices of the labels observed absent

No dense label vector is ever on disk: a label costs one or two bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
import tensorflow as tf

_LABELS = {
    "positives": tf.io.RaggedFeature(tf.int64),
    "negatives": tf.io.RaggedFeature(tf.int64),
}


def tfds_features():
    """The image schema as TFDS features; TFDS writes these very records."""
    import tensorflow_datasets as tfds

    indices = tfds.features.Tensor(shape=(None,), dtype=np.int64)
    return tfds.features.FeaturesDict(
        {
            "image_id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "positives": indices,
            "negatives": indices,
        }
    )


def encode_feature(image_id: bytes, feature, labels) -> bytes:
    """A fixed-features record.

    Args:
      image_id: name of the image.
      feature: [d] float32.
      labels: [1, C] int8 csr_array, observed entries -1 or +1.

    Returns:
      a serialized tf.train.Example.
    """

    def ints(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image_id": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[image_id])
                ),
                "feature": tf.train.Feature(
                    float_list=tf.train.FloatList(value=feature)
                ),
                "positives": ints(labels.indices[labels.data > 0]),
                "negatives": ints(labels.indices[labels.data < 0]),
            }
        )
    ).SerializeToString()


def decode_image(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns image id and encoded image, both [] string, of one record."""
    example = tf.io.parse_single_example(
        serialized,
        {
            "image_id": tf.io.FixedLenFeature([], tf.string),
            "image": tf.io.FixedLenFeature([], tf.string),
        },
    )
    return example["image_id"], example["image"]


def decode_features(serialized: tf.Tensor, num_features: int) -> tf.Tensor:
    """Returns the features [B, d] float32 of records [B]."""
    return tf.io.parse_example(
        serialized,
        {"feature": tf.io.FixedLenFeature([num_features], tf.float32)},
    )["feature"]


def decode_labels(serialized: tf.Tensor) -> dict[str, tf.RaggedTensor]:
    """Returns the ragged `positives` and `negatives` of records [B]."""
    return tf.io.parse_example(serialized, _LABELS)


def read_labels(
    files: Sequence[str], num_labels: int
) -> scipy.sparse.csr_array:
    """Reads the observed labels of all records, in file order.

    Args:
      files: TFRecord files of one split.
      num_labels: C.

    Returns:
      [N, C] int8 csr_array, observed entries -1 or +1.

    Raises:
      ValueError: if a label index is not in [0, C).
    """
    counts, columns, values = [], [], []
    records = tf.data.TFRecordDataset(list(files)).batch(1024)
    for batch in records.map(decode_labels).prefetch(2):
        signed = [batch["positives"], batch["negatives"]]
        both = tf.concat(signed, 1)
        signs = tf.concat(
            [tf.ones_like(signed[0]), -tf.ones_like(signed[1])], 1
        )
        counts.append(both.row_lengths().numpy())
        columns.append(both.flat_values.numpy())
        values.append(signs.flat_values.numpy().astype(np.int8))
    columns = np.concatenate(columns or [np.zeros(0, np.int64)])
    if columns.size and not 0 <= columns.min() <= columns.max() < num_labels:
        raise ValueError(
            f"{files[0]}: label indices must lie in [0, {num_labels}), got "
            f"{columns.min()} to {columns.max()}"
        )
    labels = scipy.sparse.csr_array(
        (
            np.concatenate(values or [np.zeros(0, np.int8)]),
            columns.astype(np.int32),
            np.concatenate([[0], *counts]).cumsum(),
        ),
        shape=(sum(map(len, counts)), num_labels),
    )
    labels.sort_indices()
    return labels


def write_shards(
    directory: Path, split: str, records: Iterable[bytes], shard_size: int
):
    """Writes records to files SPLIT-00000.tfrecord, ... in `directory`.

    Args:
      directory: where; must exist.
      split: first part of the file names.
      records: serialized records.
      shard_size: records per file, >= 1; the last file may hold fewer.
    """
    records = iter(records)
    for number, first in enumerate(records):
        path = directory / f"{split}-{number:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(first)
            for record in itertools.islice(records, shard_size - 1):
                writer.write(record)
