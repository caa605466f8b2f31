"""The records of a data set, opened: labels in memory, images in files."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data import records
from imcl_tf.data.pipeline import Split
from imcl_tf.files import locked
from imcl_tf.ops.labels import hide_labels

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Observed labels looked at at a time.
_ENTRIES = 1 << 20


class MultiLabelDataset(NamedTuple):
    """A data set on disk.

    Attributes:
      name: of the data set.
      directory: where its records lie.
      label_names: C names.
      train: `Split`.
      validation: `Split`.
      test: `Split`.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> list(data.splits)
      ['train', 'validation', 'test']
    """

    name: str
    directory: str
    label_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.label_names)

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {name: getattr(self, name) for name in records.SPLITS}

    def hide_labels(
        self, observed_fraction: float, seed: int = 0, rule: str = "per_label"
    ) -> MultiLabelDataset:
        """The same data set with some training labels hidden.

        See `imcl_tf.ops.labels.hide_labels` for arguments and errors.
        """
        observed = hide_labels(self.train.labels, observed_fraction, seed, rule)
        return self._replace(train=self.train._replace(labels=observed))

    def digests(self) -> dict[str, str]:
        """Digests of all that a result depends on, by what they are of.

        Example:
          >>> import imcl_tf
          >>> data = imcl_tf.load_dataset("folder", "pictures")
          >>> changed = data.hide_labels(0.5).digests().items()
          >>> [name for name, _ in changed ^ data.digests().items()][0]
          'training labels'
        """
        splits = list(self.splits.values())
        return {
            "label names": _digest(
                *(name.encode() for name in self.label_names)
            ),
            "splits": _digest(*(split.image_ids.tobytes() for split in splits)),
            "pictures": _digest(*(split.digest.encode() for split in splits)),
            "training labels": records.labels_digest(
                self.train.labels, self.label_names
            ),
            "evaluation labels": _digest(
                *(
                    records.labels_digest(x.labels, self.label_names).encode()
                    for x in splits[1:]
                )
            ),
        }


def _digest(*parts: bytes) -> str:
    """16 hexadecimal digits of byte strings, wherever one ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def never_present(data: MultiLabelDataset) -> list[str]:
    """The labels that no training image is observed to have."""
    present = _are_observed(data.train.labels, 1)
    return [data.label_names[i] for i in np.flatnonzero(~present)]


def never_absent(data: MultiLabelDataset) -> list[str]:
    """The labels that training images are only ever observed to have."""
    labels = data.train.labels
    one_sided = _are_observed(labels, 1) & ~_are_observed(labels, -1)
    return [data.label_names[i] for i in np.flatnonzero(one_sided)]


def _are_observed(labels: scipy.sparse.csr_array, sign: int) -> np.ndarray:
    """[C] bool: whether a label is observed to be `sign` on some image."""
    found = np.zeros(labels.shape[1], bool)
    # Where all labels are observed, the first images have shown each.
    for first in range(0, labels.nnz, _ENTRIES):
        part = slice(first, first + _ENTRIES)
        found[labels.indices[part][labels.data[part] == sign]] = True
        if found.all():
            break
    return found


def open_source(builder: tfds.core.DatasetBuilder) -> MultiLabelDataset:
    """Opens records while no other program changes their labels.

    Args:
      builder: see `read_source`, which this returns and raises the same as.
    """
    with locked(str(builder.data_path), shared=True):
        return read_source(builder)


def read_source(builder: tfds.core.DatasetBuilder) -> MultiLabelDataset:
    """Opens the records that a TFDS builder has prepared.

    Args:
      builder: tfds.core.DatasetBuilder of this project.

    Returns:
      `MultiLabelDataset` with the labels of all splits in memory, as sparse
      arrays.

    Raises:
      ValueError: if a record file or a label table is damaged or missing.
    """
    directory = Path(str(builder.data_path))
    if missing := set(records.SPLITS) - set(builder.info.splits):
        raise ValueError(
            f"{directory}/dataset_info.json has no split "
            f"{', '.join(sorted(missing))}; prepare the data set again"
        )
    tables = {
        split: _labels_of(directory, split, info)
        for split, info in builder.info.splits.items()
    }
    names = tables["train"].label_names
    if len({(t.label_names, t.source_digest) for t in tables.values()}) > 1:
        # A program that was updating them was killed.
        raise ValueError(
            f"{directory}: the label tables are of different raw files; "
            "prepare the data set again"
        )
    splits = {}
    num_features = records.num_features(builder.info.features)
    for split, info in builder.info.splits.items():
        pairs = zip(info.filepaths, info.shard_lengths, strict=True)
        full = [(str(file), length) for file, length in pairs if length]
        files, lengths = zip(*full, strict=True)
        table = tables[split]
        splits[split] = Split(
            files, lengths, table.labels, table.classes, names,
            num_features=num_features,
            image_ids=table.image_ids, digest=_digest(*table.file_digests),
        )  # fmt: skip
    return MultiLabelDataset(builder.name, str(directory), names, **splits)


def _labels_of(directory, split, info) -> records.SplitLabels:
    """The label table of a split, checked against its record files."""
    path = records.labels_file(directory, split)
    table = records.read_labels(path)
    records.check_files([*map(str, info.filepaths)], table.file_sizes)
    if len(table.image_ids) != info.num_examples:
        raise ValueError(
            f"{path}: {len(table.image_ids)} images where {info.num_examples} "
            "were written; prepare the data set again"
        )
    return table


@contextlib.contextmanager
def naming_damaged_files(files: Iterable[str]) -> Iterator[None]:
    """Names the record file at fault where TensorFlow says "corrupted record".

    Args:
      files: that are read within.

    Raises:
      ValueError: in place of tf.errors.DataLossError.
    """
    try:
        yield
    except tf.errors.DataLossError as error:
        for file in files:
            try:
                for _ in tf.data.TFRecordDataset(file):
                    pass
            except tf.errors.DataLossError:
                raise ValueError(
                    f"{file}: damaged records; prepare the data set again"
                ) from error
        raise


@contextlib.contextmanager
def reading(data: MultiLabelDataset) -> Iterator[None]:
    """Keeps `data_prep.clean` from records while they are read.

    Args:
      data: of which a damaged file is named, see `naming_damaged_files`.
    """
    info = Path(data.directory) / "dataset_info.json"
    files = [file for split in data.splits.values() for file in split.files]
    with contextlib.ExitStack() as stack:
        if info.is_file():  # records of a builder
            # Not the directory: new labels may be written there meanwhile.
            stack.enter_context(locked(info, shared=True))
        stack.enter_context(naming_damaged_files(files))
        yield
