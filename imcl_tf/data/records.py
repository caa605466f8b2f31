"""What is on disk: image or feature records, and a label table per split.

A TFRecord of one image or of one feature holds

    image_id  bytes        the image's name
    image     bytes        the file as it came, or see `images.Inspection`
    feature   [d] float32  in place of `image` in fixed-features records

and no label. `labels-SPLIT.npz`, beside the image records, holds those of all
N images of a split, in the order of the records:

    image_ids      [N] bytes      image ids in UTF-8
    label_names    [C] bytes      label names in UTF-8
    values         [P] int8       -1 or +1: the P observed labels, by image
    columns        [P] int32      their label indices, ascending in each image
    row_splits     [N + 1] int    image i has the labels row_splits[i : i + 2]
    classes        [N] int32      class of each image; [0] without classes
    extra_NAME     [P] or [N]     further integers of each label or image
    file_sizes     [F] int64      bytes of each of the split's record files
    file_digests   [F] bytes      SHA-256 of the records of each of them
    source_digest  str            of the raw files that the labels came from

The table is the truth, not a cache: one changed label rewrites the table and
no picture. No dense label vector is ever on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.kept import read_arrays
from imcl_tf.files import replacing

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SPLITS = ("train", "validation", "test")
_EXTRA = "extra_"
# Kinds of NumPy's dtypes.
_KINDS = dict.fromkeys(
    ("values", "columns", "row_splits", "classes", "file_sizes"), "iu"
) | dict.fromkeys(("image_ids", "label_names", "file_digests"), "S")
_AGAIN = "prepare the data set again"


class SplitLabels(NamedTuple):
    """The label table of a split.

    Attributes:
      image_ids: [N] bytes, image ids in UTF-8, in the order of the records.
      labels: [N, C] int8 csr_array, observed entries -1 or +1.
      label_names: C names.
      classes: [N] int32, the images' classes; [0] where they have none.
      extras: further integers by name, [N] or one for each entry of `labels`.
      file_sizes: [F] int64, bytes of the split's record files.
      source_digest: of the raw files that the labels came from, "" = none.
      file_digests: [F] bytes, of the records of the split's files.
    """

    image_ids: np.ndarray
    labels: scipy.sparse.csr_array
    label_names: tuple[str, ...]
    classes: np.ndarray
    extras: dict[str, np.ndarray]
    file_sizes: np.ndarray
    source_digest: str = ""
    file_digests: np.ndarray = np.zeros(0, bytes)


def labels_file(directory: str | os.PathLike, split: str) -> Path:
    """The path of a split's label table, beside its records."""
    return Path(directory) / f"labels-{split}.npz"


def write_labels(path: Path, table: SplitLabels):
    """Writes a label table, whole or not at all.

    Raises:
      OSError: if it cannot be written; what was there before then stays.
    """
    labels = table.labels
    index = scipy.sparse.get_index_dtype(maxval=labels.nnz)
    extras: dict[str, Any] = {
        _EXTRA + name: x for name, x in table.extras.items()
    }
    with replacing(path) as new:
        np.savez(
            new,
            image_ids=table.image_ids,
            label_names=to_bytes(table.label_names),
            values=labels.data,
            columns=labels.indices.astype(np.int32, copy=False),
            row_splits=labels.indptr.astype(index, copy=False),
            classes=table.classes,
            file_sizes=np.asarray(table.file_sizes, np.int64),
            file_digests=table.file_digests,
            source_digest=np.array(table.source_digest),
            **extras,
        )


def read_labels(path: Path) -> SplitLabels:
    """Reads a label table.

    Raises:
      ValueError: if it is missing or damaged.
    """
    with _damage_named(path):
        kept = read_arrays(path)
        _check_kinds(kept)
        names = from_bytes(kept["label_names"])
        parts = kept["values"], kept["columns"], kept["row_splits"]
        table = SplitLabels(
            kept["image_ids"],
            scipy.sparse.csr_array(parts, (len(kept["image_ids"]), len(names))),
            names,
            kept["classes"],
            {
                name.removeprefix(_EXTRA): x
                for name, x in kept.items()
                if name.startswith(_EXTRA)
            },
            kept["file_sizes"],
            str(kept["source_digest"]),
            kept["file_digests"],
        )
        _check_table(table)
        return table


def _check_kinds(kept: dict[str, np.ndarray]):
    for name, array in kept.items():
        kind = "iu" if name.startswith(_EXTRA) else _KINDS.get(name)
        if kind and (array.ndim != 1 or array.dtype.kind not in kind):
            raise ValueError(f"{name}: {array.ndim} x {array.dtype}")


def _check_table(table: SplitLabels):
    """Refuses what no writer writes, before an index of it is used."""
    labels, number = table.labels, len(table.image_ids)
    labels.check_format()
    if labels.dtype != np.int8 or not (np.abs(labels.data) == 1).all():
        raise ValueError("a value is neither -1 nor 1")
    if not labels.has_canonical_format:
        raise ValueError("labels out of order")
    if len(table.classes) not in (0, number):
        raise ValueError(f"{len(table.classes)} classes, {number} images")
    for name, extra in table.extras.items():
        if len(extra) not in (number, labels.nnz):
            raise ValueError(f"{name} of another length")


def read_source_digest(path: Path) -> str:
    """Reads `SplitLabels.source_digest` alone; raises as `read_labels`."""
    with _damage_named(path):
        return str(read_arrays(path, "source_digest")["source_digest"])


def read_image_ids(path: Path) -> np.ndarray:
    """Reads `SplitLabels.image_ids` alone; raises as `read_labels`."""
    with _damage_named(path):
        return read_arrays(path, "image_ids")["image_ids"]


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Says of what is raised within that it is about a label table."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{error}; {_AGAIN}") from error
    except (LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: damaged label table ({reason}); {_AGAIN}"
        ) from error


def check_files(files: Sequence[str], sizes: Sequence[int] | np.ndarray):
    """Checks that record files are those that a label table belongs to.

    Args:
      files: F record files.
      sizes: [F] bytes that were written, of `SplitLabels`.

    Raises:
      ValueError: for a file that is missing or has another size.
    """
    if len(files) != len(sizes):
        raise ValueError(
            f"{files[0]}: one of {len(files)} files where {len(sizes)} were "
            f"written; {_AGAIN}"
        )
    for file, size in zip(files, sizes, strict=True):
        try:
            found = Path(file).stat().st_size
        except FileNotFoundError as error:
            raise ValueError(f"{file}: no such file; {_AGAIN}") from error
        if found != size:
            raise ValueError(
                f"{file}: {found} bytes where {size} were written; {_AGAIN}"
            )


def labels_digest(
    labels: scipy.sparse.csr_array, label_names: Sequence[str]
) -> str:
    """A digest of labels; it depends on entries and names only.

    Args:
      labels: [N, C] int8, observed entries -1 or +1.
      label_names: C names.

    Returns:
      16 hexadecimal digits.
    """
    if not labels.has_canonical_format or not labels.data.all():
        labels = labels.copy()
        labels.sum_duplicates()
        labels.eliminate_zeros()
    digest = hashlib.sha256(json.dumps([*label_names]).encode())
    for values, dtype in (
        (np.array(labels.shape), "<i8"),
        (np.diff(labels.indptr), "<i8"),
        (labels.indices, "<i4"),
        (labels.data, "i1"),
    ):
        digest.update(np.ascontiguousarray(values, dtype).data)
    return digest.hexdigest()[:16]


def to_bytes(names: Sequence[str]) -> np.ndarray:
    """[N] bytes of fixed width: the names in UTF-8."""
    return np.array([name.encode() for name in names], bytes)


def from_bytes(names: np.ndarray) -> tuple[str, ...]:
    """The inverse of `to_bytes`."""
    return tuple(name.decode() for name in names.tolist())


def tfds_features(num_features: int = 0) -> tfds.features.FeaturesDict:
    """The schema of records as TFDS features, to read them with TFDS.

    Args:
      num_features: d of feature records, 0 = image records.
    """
    import tensorflow_datasets as tfds

    if num_features:
        return tfds.features.FeaturesDict(
            {
                "image_id": tfds.features.Text(),
                "feature": tfds.features.Tensor(
                    shape=(num_features,), dtype=np.float32
                ),
            }
        )
    return tfds.features.FeaturesDict(
        {
            "image_id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
        }
    )


def num_features(schema: tfds.features.FeaturesDict) -> int:
    """Returns d of records of such a schema, 0 for image records."""
    return schema["feature"].shape[0] if "feature" in schema else 0


def encode_image(image_id: str, encoded: bytes) -> bytes:
    """An image's record.

    Args:
      image_id: name of the image.
      encoded: JPEG or PNG.

    Returns:
      a serialized tf.train.Example.
    """
    return _example(image_id=_bytes(image_id.encode()), image=_bytes(encoded))


def encode_feature(image_id: bytes, feature: np.ndarray) -> bytes:
    """A fixed-features record.

    Args:
      image_id: name of the image.
      feature: [d] float32.

    Returns:
      a serialized tf.train.Example.
    """
    # Packed floats are the bytes that NumPy has: a list of Python's numbers
    # takes eight times as long.
    content = np.ascontiguousarray(feature, "<f4").tobytes()
    packed = _FLOATS + _varint(len(content)) + content
    return _example(
        image_id=_bytes(image_id),
        feature=tf.train.Feature(
            float_list=tf.train.FloatList.FromString(packed)
        ),
    )


_FLOATS = b"\x0a"  # field 1, its length and then its bytes


def _varint(number: int) -> bytes:
    """A number as protocol buffers write it."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _example(**feature: tf.train.Feature) -> bytes:
    return tf.train.Example(
        features=tf.train.Features(feature=feature)
    ).SerializeToString(deterministic=True)


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


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
