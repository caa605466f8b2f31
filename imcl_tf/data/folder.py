"""A user's own directory of images with partial labels.

DIR/labels.csv       labels, in a form of `imcl_tf.data.label_tables`
DIR/splits.csv       image,split         train, validation or test; optional
DIR/images/          the images; or a file of features in their place, see
                     `imcl_tf.data.feature_files`
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from absl import logging

from imcl_tf import settings
from imcl_tf.data import splitting
from imcl_tf.data.feature_files import FeatureFile
from imcl_tf.data.feature_rows import FeatureRows
from imcl_tf.data.folder_tables import (
    FolderOptions,
    find_table,
    label_matrix,
    labels_file,
    read_folder,
    read_labels,
    read_splits,
    table_file,
)
from imcl_tf.data.image_builders import ImageFilesBuilder
from imcl_tf.data.image_names import ImageNames, Names
from imcl_tf.data.labelled_images import labelled_features
from imcl_tf.data.look_alikes import look_alikes
from imcl_tf.data.picture_digests import PictureDigests
from imcl_tf.data.records import SPLITS
from imcl_tf.data.shards import cut
from imcl_tf.options import Value, check_all


class Folder(ImageFilesBuilder):
    """A directory as above; its config is named by `folder_digest`.

    Args:
      options: how it is read.
      splits: file of its splits, None = that of the directory.
      images: the images' names, None = those of images/.
      digests: to be saved when the records are there, None = none.
      **kwargs: of `ImageFilesBuilder`.
    """

    name = "folder"
    DESCRIPTION = "Images of a folder with partial labels."

    def __init__(
        self,
        *,
        options: FolderOptions = FolderOptions(),  # noqa: B008 (immutable)
        splits: Path | None = None,
        images: Names | None = None,
        digests: PictureDigests | FeatureRows | None = None,
        **kwargs,
    ):
        self._options, self._splits, self._digests = options, splits, digests
        self._images = images
        if isinstance(images, FeatureRows):
            self._num_features = images.num_features
        super().__init__(**kwargs)

    def download_and_prepare(self, **kwargs):
        """TFDS's own."""
        super().download_and_prepare(**kwargs)
        if self._digests:
            self._digests.save()

    def update_labels(self, raw_dir: Path):
        """See `ImageFilesBuilder`."""
        super().update_labels(raw_dir)
        if self._digests:
            self._digests.save()

    def _contents(self, raw_dir):
        return read_folder(
            raw_dir, self._options, self._splits, self.on_bad_image,
            self._images,
        )  # fmt: skip

    def _shard_generators(self, files, split):
        images = self._images
        if not isinstance(images, FeatureRows):
            return super()._shard_generators(files, split)
        return [
            functools.partial(
                labelled_features,
                files.rows(rows),
                images.read,
                self.on_bad_image == "skip",
            )
            for rows in cut(files.names, split)
        ]

    def _source(self, raw_dir):
        source = super()._source(raw_dir)
        if not isinstance(self._images, FeatureRows):
            return source
        return [source, str(self._images.place.absolute())]

    def _tables(self, raw_dir):
        return [
            labels_file(raw_dir, self._options),
            self._splits or table_file(raw_dir, "splits"),
        ]

    def _labels_digest(self, raw_dir):
        reading = repr(self._options.reading)
        digest = super()._labels_digest(raw_dir) + reading
        return hashlib.sha256(digest.encode()).hexdigest()[:16]


def folder_builder(
    directory: str | os.PathLike,
    records_dir: str | None = None,
    on_bad_image: str = "error",
    **options: Value,
) -> Folder:
    """The builder of a directory's records.

    Args:
      directory: holds the labels, the splits and, without the option
        `features`, images/.
      records_dir: where the records go, None = TFDS's default place; either
        way below `folder_digest`. Beside them are the digests of the pictures
        and, where `directory` holds no splits, the split that is made.
      on_bad_image: "error", or "skip" to leave unreadable images out.
      **options: of `settings.FOLDER`.

    Raises:
      ValueError: for tables that are not as they should be.
      FileNotFoundError: for a missing file.
    """
    chosen = FolderOptions(**check_all(settings.FOLDER, options))  # type: ignore[arg-type]
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory")
    place = Path(records_dir or tfds.core.constants.DATA_DIR).expanduser()
    place = place / Folder.name
    images, digests = _images(directory, chosen.features, place)
    splits = find_table(directory, "splits")
    splitting.read_shares(chosen.split_shares)
    if splits:
        _warn_of_unused(chosen, splits)
    else:
        splits = _made_splits(
            directory, chosen, images, digests, place, on_bad_image
        )
    table = read_splits(splits, images)
    others = images.num_others([*table["image"]])
    if others:
        logging.warning(
            "%s: %d %ss are in no table and left out", images.place, others,
            images.kind,
        )  # fmt: skip
    return Folder(
        options=chosen,
        splits=splits,
        images=images,
        digests=digests,
        on_bad_image=on_bad_image,
        config=tfds.core.BuilderConfig(
            name=_digest(table, digests, on_bad_image)
        ),
        data_dir=records_dir,
    )


def _warn_of_unused(options: FolderOptions, splits: Path):
    default = FolderOptions()
    if options[-2:] != default[-2:]:
        logging.warning(
            "split_seed and split_shares do nothing beside %s", splits
        )


def _images(
    directory: Path, features: str, place: Path | None = None
) -> tuple[Names, PictureDigests | FeatureRows]:
    """The names of a folder's images, and what gives their digests.

    Args:
      directory: holds images/.
      features: file in the place of that, "" = none.
      place: of the records of folders, where digests are remembered; None =
        nowhere.
    """
    if features:
        file = FeatureFile(features)
        rows = FeatureRows(file, _digests_file(place, file.path.absolute()))
        return rows, rows
    images = ImageNames(directory / "images")
    return images, PictureDigests(
        images.place, _digests_file(place, directory.resolve())
    )


def _digests_file(place: Path | None, source: Path) -> Path | None:
    """The file, below the folder records, of the digests of what is there."""
    name = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    return place and place / "pictures" / f"{name}.npz"


def folder_digest(
    directory: str | os.PathLike,
    on_bad_image: str,
    features: str = "",
) -> str:
    """A digest of what the records hold: the splits and the images.

    Args:
      directory: holds images/ and the splits.
      on_bad_image: see `folder_builder`.
      features: see there.

    Returns:
      16 hexadecimal digits that depend on each listed image's name, split and
      content and on `on_bad_image`, but on no label, no time and no other file.

    Raises:
      ValueError: for splits that are not as they should be.
      FileNotFoundError: for a missing file.
    """
    directory = Path(directory)
    images, digests = _images(directory, features)
    table = read_splits(table_file(directory, "splits"), images)
    return _digest(table, digests, on_bad_image)


def _digest(splits: pd.DataFrame, digests, on_bad_image: str) -> str:
    splits = splits.sort_values("image")
    names = [*splits["image"]]
    digest = hashlib.sha256(on_bad_image.encode())
    digest.update("\0".join(names).encode())
    digest.update(splits["split"].to_numpy(np.int8).tobytes())
    digest.update(digests(names).tobytes())
    return digest.hexdigest()[:16]


def _alike(images: Names, names: list[str], contents) -> np.ndarray:
    """[n] int: groups of images that a split must not part."""
    if isinstance(images, FeatureRows):
        return images.groups(names)
    return look_alikes([images.place / name for name in names], contents)


def _made_splits(
    directory: Path,
    options: FolderOptions,
    images: Names,
    digests: PictureDigests | FeatureRows,
    place: Path,
    on_bad_image: str,
) -> Path:
    """The file of a split below `place` that is made unless it was before.

    It depends on the images, on the seed and the shares. A label that changes
    later moves no image.
    """
    shares, seed = (
        splitting.read_shares(options.split_shares),
        options.split_seed,
    )
    labels = read_labels(labels_file(directory, options), options, images)
    if {"split", "splits"} & {name.lower() for name in labels.unread}:
        raise ValueError(
            f"{labels.path} has a column of splits, which is not read: put it "
            f"into {directory / 'splits.csv'}, with columns image,split"
        )
    if on_bad_image != "skip":
        images.check(labels.images)
    names = sorted(labels.images)
    contents = digests(names)
    key = hashlib.sha256(f"{seed} {shares}".encode())
    key.update("\0".join(names).encode())
    key.update(contents.tobytes())
    path = place / "splits" / f"{key.hexdigest()[:16]}.csv"
    splits = splitting.read_kept(path, names)
    if splits is None:
        groups = _alike(images, names, contents)
        matrix = label_matrix(labels, names, absent=False)
        splits = splitting.made_splits(names, matrix, groups, shares, seed)
        splitting.keep(path, names, splits)
    numbers = np.bincount(splits, minlength=len(SPLITS))
    logging.warning(
        "%s holds no splits.csv: split by seed %d into %s images, listed in "
        "%s; copy that file to %s to keep the split",
        directory, seed,
        ", ".join(f"{n} {s}" for n, s in zip(numbers, SPLITS, strict=True)),
        path, directory / "splits.csv",
    )  # fmt: skip
    return path
