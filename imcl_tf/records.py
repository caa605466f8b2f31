"""The one record schema: what a TFRecord of an image or of a feature holds.

    image_id   bytes    the image's name
    image      bytes    JPEG or PNG as it came, never encoded again
    feature    [d] float32, in place of `image` in fixed-features records
    positives  [P] int64, indices of the labels observed present
    negatives  [Q] int64, indices of the labels observed absent
    class_id   int64, where the images have one class each (CUB)

No dense label vector is ever on disk: a label costs one or two bytes.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import tensorflow as tf

_LABELS = {
    "positives": tf.io.RaggedFeature(tf.int64),
    "negatives": tf.io.RaggedFeature(tf.int64),
    "class_id": tf.io.RaggedFeature(tf.int64),
}
_READERS = 4


def tfds_features(extras: dict | None = None):
    """The image schema as TFDS features, to read the records with TFDS.

    Args:
      extras: further TFDS features, by name.

    Returns:
      tfds.features.FeaturesDict.
    """
    import tensorflow_datasets as tfds

    indices = tfds.features.Tensor(shape=(None,), dtype=np.int64)
    return tfds.features.FeaturesDict(
        {
            "image_id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "positives": indices,
            "negatives": indices,
            **(extras or {}),
        }
    )


def encode_image(
    image_id: str,
    encoded: bytes,
    positives: Sequence[int],
    negatives: Sequence[int],
    extras: dict[str, Sequence[int]] | None = None,
) -> bytes:
    """An image's record.

    Args:
      image_id: name of the image.
      encoded: JPEG or PNG.
      positives: indices of the labels observed present.
      negatives: indices of the labels observed absent.
      extras: integers of further features, by name.

    Returns:
      a serialized tf.train.Example.
    """
    return _example(
        image_id=_bytes(image_id.encode()),
        image=_bytes(encoded),
        positives=_ints(positives),
        negatives=_ints(negatives),
        **{name: _ints(values) for name, values in (extras or {}).items()},
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
    return _example(
        image_id=_bytes(image_id),
        feature=tf.train.Feature(float_list=tf.train.FloatList(value=feature)),
        positives=_ints(labels.indices[labels.data > 0]),
        negatives=_ints(labels.indices[labels.data < 0]),
    )


def _example(**feature: tf.train.Feature) -> bytes:
    return tf.train.Example(
        features=tf.train.Features(feature=feature)
    ).SerializeToString(deterministic=True)


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _ints(values: Sequence[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


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
    """Returns the ragged label and class features of records [B]."""
    return tf.io.parse_example(serialized, _LABELS)


def read_labels(
    files: Sequence[str], lengths: Sequence[int], num_labels: int
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Reads the observed labels of all records, in file order.

    Args:
      files: TFRecord files of one split.
      lengths: number of records that each should hold.
      num_labels: C.

    Returns:
      [N, C] int8 csr_array, observed entries -1 or +1, and the classes [N]
      int32 of the images, [0] where the records have none.

    Raises:
      ValueError: if a file is damaged or a label index is not in [0, C).
    """
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(_read_labels_of_file, files, lengths))
    counts, columns, values, classes = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    if columns.size and not 0 <= columns.min() <= columns.max() < num_labels:
        raise ValueError(
            f"{files[0]}: label indices must lie in [0, {num_labels}), got "
            f"{columns.min()} to {columns.max()}"
        )
    row_splits = np.concatenate([[0], counts]).cumsum()
    # Else SciPy takes eight bytes for each column too.
    dtype = scipy.sparse.get_index_dtype(maxval=columns.size)
    labels = scipy.sparse.csr_array(
        (values, columns, row_splits.astype(dtype)),
        shape=(len(counts), num_labels),
    )
    labels.sort_indices()
    return labels, classes


def _read_labels_of_file(file: str, length: int):
    """(labels per record, columns, signs, classes) of one file."""
    parts = [(np.zeros(0, np.int64), *np.zeros((3, 0), np.int32))]
    try:
        # Eagerly: there may be thousands of files, and a graph takes longer.
        for serialized in tf.data.TFRecordDataset(file).batch(1024):
            batch = decode_labels(serialized)
            signed = [batch["positives"], batch["negatives"]]
            both = tf.concat(signed, 1)
            signs = tf.concat(
                [tf.ones_like(signed[0]), -tf.ones_like(signed[1])], 1
            )
            parts.append(
                (
                    both.row_lengths().numpy(),
                    both.flat_values.numpy().astype(np.int32),
                    signs.flat_values.numpy().astype(np.int8),
                    batch["class_id"].flat_values.numpy().astype(np.int32),
                )
            )
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"{file}: damaged records ({error.message}); prepare the data set "
            "again"
        ) from error
    counts, columns, signs, classes = map(
        np.concatenate, zip(*parts, strict=True)
    )
    if len(counts) != length:
        raise ValueError(
            f"{file}: {len(counts)} records where {length} were written; "
            "prepare the data set again"
        )
    return counts, columns, signs.astype(np.int8), classes
