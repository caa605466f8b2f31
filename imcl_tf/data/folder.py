"""A user's own directory of images with partial labels.

DIR/labels.csv[.gz]  image,label,value   value 1, -1, or 0 = unobserved
DIR/splits.csv       image,split         train, validation or test
DIR/images/          the images, JPEG or PNG
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import tensorflow_datasets as tfds

from imcl_tf.data.builders import Contents, ImageFilesBuilder
from imcl_tf.data.records import SPLITS
from imcl_tf.data.shards import ImageFiles, read_file
from imcl_tf.files import existing_file


class Folder(ImageFilesBuilder):
    """A directory as above; its config is named by `folder_digest`."""

    name = "folder"
    DESCRIPTION = "Images of a folder with partial labels."

    def _contents(self, raw_dir):
        return read_folder(raw_dir)

    def _tables(self, raw_dir):
        return [_labels_file(raw_dir), raw_dir / "splits.csv"]


def folder_builder(
    directory: str | os.PathLike,
    records_dir: str | None = None,
    on_bad_image: str = "error",
) -> Folder:
    """The builder of a directory's records.

    Args:
      directory: holds labels.csv[.gz], splits.csv and images/.
      records_dir: where the records go, None = TFDS's default place; either
        way below `folder_digest`.
      on_bad_image: "error", or "skip" to leave unreadable images out.

    Raises:
      FileNotFoundError: for a missing file.
    """
    digest = folder_digest(directory, on_bad_image)
    return Folder(
        on_bad_image=on_bad_image,
        config=tfds.core.BuilderConfig(name=digest),
        data_dir=records_dir,
    )


def folder_digest(directory: str | os.PathLike, on_bad_image: str) -> str:
    """A digest of what the records hold: the splits and the images.

    Args:
      directory: holds splits.csv and images/.
      on_bad_image: see `folder_builder`.

    Returns:
      16 hexadecimal digits that depend on splits.csv, on the images' names,
      sizes and times and on `on_bad_image`, but not on any label.

    Raises:
      FileNotFoundError: for a missing file.
    """
    directory = Path(directory)
    digest = hashlib.sha256(on_bad_image.encode())
    digest.update(existing_file(directory / "splits.csv").read_bytes())
    images = directory / "images"
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such directory of images")
    for path in sorted(p for p in images.rglob("*") if p.is_file()):
        stat = path.stat()
        name = path.relative_to(images)
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def read_folder(directory: str | os.PathLike) -> Contents:
    """Reads and checks the tables of a folder data set.

    Args:
      directory: holds labels.csv[.gz], splits.csv and images/.

    Returns:
      `Contents`, label names and images sorted; images are not read yet.

    Raises:
      ValueError: for a missing column, a value outside {-1, 0, 1}, a label
        given twice with different values, an unknown or empty split, or an
        image named in one file only.
      FileNotFoundError: for a missing file.
    """
    directory = Path(directory)
    labels_path = _labels_file(directory)
    splits_path = existing_file(directory / "splits.csv")
    labels = _read_labels(labels_path)
    splits = _read_csv(splits_path, ("image", "split"))
    _check_splits(splits, splits_path)
    _check_same_images(labels, labels_path, splits, splits_path)
    label_names = tuple(sorted(labels["label"].cat.categories))
    read = functools.partial(read_file, directory / "images")
    listed = {}
    for split in SPLITS:
        names = sorted(splits.loc[splits["split"] == split, "image"])
        if not names:
            raise ValueError(f"{splits_path}: split {split} has no image")
        table = _label_matrix(labels, names, label_names)
        listed[split] = ImageFiles(names, table, read)
    return Contents(label_names, listed)


def _labels_file(directory: Path) -> Path:
    packed = directory / "labels.csv.gz"
    return (
        packed if packed.is_file() else existing_file(directory / "labels.csv")
    )


def _read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """All columns as strings: an image may well be called NA or 001."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a CSV file: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):
        # pandas takes the first of too many fields for row names.
        raise ValueError(
            f"{path}: rows have more fields than the header "
            f"{','.join(map(str, table.columns))}"
        )
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(
            f"{path}: expected columns {','.join(columns)}, got "
            f"{','.join(map(str, table.columns))}"
        )
    # Not dtype="category" above, which makes numbers of numeric names.
    return table[list(columns)].astype("category")


def _read_labels(path: Path) -> pd.DataFrame:
    """image, label (categories) and value (int8), unobserved ones kept."""
    table = _read_csv(path, ("image", "label", "value"))
    numbers = pd.to_numeric(
        pd.Series(table["value"].cat.categories), errors="coerce"
    ).to_numpy(float)
    values = numbers[table["value"].cat.codes]
    wrong = ~np.isin(values, (-1.0, 0.0, 1.0))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path}: line {row + 2}: value of {table['image'][row]}, "
            f"{table['label'][row]} must be -1, 0 or 1, got "
            f"{table['value'][row] or 'nothing'}"
        )
    table = table[["image", "label"]].assign(value=values.astype(np.int8))
    table = table.drop_duplicates()
    twice = table.duplicated(["image", "label"])
    if twice.any():
        image, label, _ = table[twice].iloc[0]
        raise ValueError(
            f"{path}: {image}, {label} is given twice with different values"
        )
    return table


def _check_splits(splits: pd.DataFrame, path: Path):
    wrong = ~splits["split"].isin(SPLITS)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise ValueError(
            f"{path}: line {row + 2}: split must be {', '.join(SPLITS)}, got "
            f"{splits['split'][row] or 'nothing'}"
        )
    twice = splits.duplicated("image")
    if twice.any():
        image = splits.loc[twice, "image"].iloc[0]
        raise ValueError(f"{path}: image {image} is listed twice")


def _check_same_images(labels, labels_path, splits, splits_path):
    labelled = set(labels["image"].cat.categories)
    listed = set(splits["image"].cat.categories)
    for name in sorted(labelled - listed)[:1]:
        raise ValueError(
            f"{splits_path}: image {name} of {labels_path.name} is missing"
        )
    for name in sorted(listed - labelled)[:1]:
        raise ValueError(
            f"{labels_path}: image {name} of {splits_path.name} is missing; "
            "one row of value 0 marks an image without observed labels"
        )


def _label_matrix(labels, images, names):
    table = labels[labels["value"] != 0]
    rows = pd.Index(images).get_indexer(table["image"].astype(str))
    columns = pd.Index(names).get_indexer(table["label"].astype(str))
    here = rows >= 0
    return scipy.sparse.csr_array(
        (table["value"].to_numpy()[here], (rows[here], columns[here])),
        shape=(len(images), len(names)),
    )
