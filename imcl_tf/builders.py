"""Data sets that `imcl_tf.main` prepares by itself, as TFDS builders.

`scenes` is rendered from a seed; `folder` is a user's own directory:

    DIR/labels.csv[.gz]  image,label,value   value 1, -1, or 0 = unobserved
    DIR/splits.csv       image,split         train, validation or test
    DIR/images/          the images, JPEG or PNG
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.utils import shard_utils

from imcl_tf import scenes
from imcl_tf.records import tfds_features

SPLITS = ("train", "validation", "test")
_LEAST_SHARDS = 8  # to shuffle and read in parallel
_SCENES_SIZES = {"train": 4000, "validation": 500, "test": 1500}


class Folder(NamedTuple):
    """A checked folder data set.

    Attributes:
      label_names: C names, sorted.
      images: split -> image names, sorted.
      labels: split -> [N, C] int8 csr_array of observed labels.
      skipped: unreadable images that were left out, "name: reason".
    """

    label_names: tuple[str, ...]
    images: dict[str, list[str]]
    labels: dict[str, scipy.sparse.csr_array]
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _ShardConfig(shard_utils.ShardConfig):
    """TFDS's shards, but more than one where a split has images for them."""

    def get_number_shards(self, total_size, num_examples, *args, **kwargs):
        usual = super().get_number_shards(
            total_size, num_examples, *args, **kwargs
        )
        return max(usual, min(_LEAST_SHARDS, num_examples))


class _DownloadConfig(tfds.download.DownloadConfig):
    def get_shard_config(self):
        return _ShardConfig()


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Rendered scenes, 64 px, every label of every image known."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return _dataset_info(self, "Rendered scenes with dependent labels.")

    def _split_generators(self, dl_manager):
        del dl_manager
        self.info.metadata["labels"] = list(scenes.LABELS)
        return {
            name: self._generate_examples(seed, size)
            for seed, (name, size) in enumerate(_SCENES_SIZES.items())
        }

    def _generate_examples(self, seed, size):
        for index in range(size):
            image, labels = scenes.render(seed, index)
            name = f"{seed}-{index:05d}.jpg"
            encoded = tf.io.encode_jpeg(image, quality=90).numpy()
            yield name, _example(name, encoded, labels)


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
    """A folder to read; its name is a digest of the folder's content."""

    directory: str = ""
    on_bad_image: str = "error"


class FolderBuilder(tfds.core.GeneratorBasedBuilder):
    """A user's own images with partial labels; see `read_folder`."""

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return _dataset_info(self, "Images of a folder with partial labels.")

    def _split_generators(self, dl_manager):
        del dl_manager
        config = self.builder_config
        folder = read_folder(config.directory, config.on_bad_image)
        self.info.metadata["labels"] = list(folder.label_names)
        self.info.metadata["skipped"] = list(folder.skipped)
        return {
            split: self._generate_examples(
                folder.images[split], folder.labels[split]
            )
            for split in SPLITS
        }

    def _generate_examples(self, images, labels):
        directory = Path(self.builder_config.directory) / "images"
        for number, name in enumerate(images):
            row = slice(labels.indptr[number], labels.indptr[number + 1])
            dense = np.zeros(labels.shape[1], np.int8)
            dense[labels.indices[row]] = labels.data[row]
            yield name, _example(name, (directory / name).read_bytes(), dense)


def prepare(
    dataset: str,
    raw_dir: str | None = None,
    records_dir: str | None = None,
    on_bad_image: str = "error",
) -> tfds.core.DatasetBuilder:
    """Makes the records of a data set unless they exist already.

    Args:
      dataset: "scenes" or "folder".
      raw_dir: for folder, the user's directory; nothing is written there.
      records_dir: where the records go, None = TFDS's default place; those of
        a folder under a digest of its content.
      on_bad_image: "error" or "skip", what an unreadable image means.

    Returns:
      the prepared builder.

    Raises:
      ValueError: for a folder that does not hold what it should.
      FileNotFoundError: for a missing file.
      OSError: if the records cannot be written.
    """
    if dataset == "scenes":
        builder = Scenes(data_dir=records_dir)
    elif dataset == "folder":
        if not raw_dir:
            raise ValueError("the folder data set needs its directory")
        config = FolderConfig(
            name=folder_digest(raw_dir, on_bad_image),
            directory=str(raw_dir),
            on_bad_image=on_bad_image,
        )
        builder = FolderBuilder(config=config, data_dir=records_dir)
    else:
        raise ValueError(f"dataset must be scenes or folder, got {dataset!r}")
    try:
        builder.download_and_prepare(download_config=_DownloadConfig())
    except RuntimeError as error:  # TFDS's word for a failed write
        raise OSError(str(error)) from error
    skipped = (builder.info.metadata or {}).get("skipped", [])
    if skipped:
        logging.warning("%d unreadable images left out:", len(skipped))
        for line in skipped:
            logging.warning("  %s", line)
    return builder


def folder_digest(directory: str | os.PathLike, on_bad_image: str) -> str:
    """A digest of both tables and of the images' names, sizes and times."""
    directory = Path(directory)
    digest = hashlib.sha256(on_bad_image.encode())
    for path in (_labels_file(directory), _file(directory / "splits.csv")):
        digest.update(path.read_bytes())
    images = directory / "images"
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such directory of images")
    for path in sorted(p for p in images.rglob("*") if p.is_file()):
        stat = path.stat()
        name = path.relative_to(images)
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def read_folder(
    directory: str | os.PathLike, on_bad_image: str = "error"
) -> Folder:
    """Reads and checks a folder data set.

    Args:
      directory: holds labels.csv[.gz], splits.csv and images/.
      on_bad_image: "error", or "skip" to leave unreadable images out.

    Returns:
      `Folder`.

    Raises:
      ValueError: for a missing column, a value outside {-1, 0, 1}, a label
        given twice with different values, an unknown or empty split, an image
        named in one file only, or an image that cannot be decoded.
      FileNotFoundError: for a missing file.
    """
    if on_bad_image not in ("error", "skip"):
        raise ValueError(
            f"on_bad_image must be error or skip, got {on_bad_image!r}"
        )
    directory = Path(directory)
    labels_path = _labels_file(directory)
    splits_path = _file(directory / "splits.csv")
    labels = _read_labels(labels_path)
    splits = _read_csv(splits_path, ("image", "split"))
    _check_splits(splits, splits_path)
    _check_same_images(labels, labels_path, splits, splits_path)
    bad = _unreadable(directory / "images", sorted(splits["image"]))
    if bad and on_bad_image == "error":
        name, reason = next(iter(bad.items()))
        raise ValueError(
            f"{directory / 'images' / name}: {reason}"
            + (f" ({len(bad)} such images)" if len(bad) > 1 else "")
            + "; --on_bad_image=skip leaves them out"
        )
    names = tuple(sorted(labels["label"].cat.categories))
    images, tables = {}, {}
    for split in SPLITS:
        of_split = splits.loc[splits["split"] == split, "image"]
        images[split] = sorted(set(of_split) - set(bad))
        if not images[split]:
            raise ValueError(f"{splits_path}: split {split} has no image")
        tables[split] = _label_matrix(labels, images[split], names)
    skipped = tuple(f"{name}: {reason}" for name, reason in bad.items())
    return Folder(names, images, tables, skipped)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def _labels_file(directory: Path) -> Path:
    packed = directory / "labels.csv.gz"
    return packed if packed.is_file() else _file(directory / "labels.csv")


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


def _unreadable(directory: Path, names: list[str]) -> dict[str, str]:
    """Name -> reason of the images that do not decode."""

    def reason(name):
        try:
            encoded = (directory / name).read_bytes()
            tf.io.decode_image(encoded, channels=3, expand_animations=False)
        except FileNotFoundError:
            return "no such image file"
        except OSError as error:
            return error.strerror
        except tf.errors.InvalidArgumentError:
            return "cannot be decoded as JPEG, PNG, BMP or GIF"
        return None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = pool.map(reason, names)
        return {
            n: r for n, r in zip(names, reasons, strict=True) if r is not None
        }


def _label_matrix(labels, images, names):
    table = labels[labels["value"] != 0]
    rows = pd.Index(images).get_indexer(table["image"].astype(str))
    columns = pd.Index(names).get_indexer(table["label"].astype(str))
    here = rows >= 0
    return scipy.sparse.csr_array(
        (table["value"].to_numpy()[here], (rows[here], columns[here])),
        shape=(len(images), len(names)),
    )


def _example(name, encoded, labels):
    return {
        "image_id": name,
        "image": encoded,
        "positives": np.flatnonzero(labels > 0),
        "negatives": np.flatnonzero(labels < 0),
    }


def _dataset_info(builder, description):
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds_features(),
        metadata=tfds.core.MetadataDict(),
    )
