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
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
import tensorflow_datasets as tfds
from absl import logging

from imcl_tf import settings
from imcl_tf.data import splitting
from imcl_tf.data.builders import Contents, ImageFilesBuilder
from imcl_tf.data.cells import Table, clean, listed
from imcl_tf.data.feature_files import FeatureFile
from imcl_tf.data.feature_rows import FeatureRows
from imcl_tf.data.image_names import ImageNames, Names
from imcl_tf.data.label_json import read_label_json
from imcl_tf.data.label_tables import (
    LabelRows,
    Reading,
    alike_names,
    first_contradiction,
    read_label_table,
)
from imcl_tf.data.look_alikes import look_alikes
from imcl_tf.data.picture_digests import PictureDigests
from imcl_tf.data.records import SPLITS
from imcl_tf.data.shards import ImageFiles, cut, labelled_features, read_file
from imcl_tf.files import existing_file
from imcl_tf.options import Value, check_all

_ENDINGS = (".csv", ".tsv", ".txt", ".json")
_UNREAD_ENDINGS = (".xlsx", ".xls", ".ods", ".numbers", ".zip", ".csv.zip")
_SPLIT_OF = {
    spelling: number
    for number, spellings in enumerate(
        (("train", "training"), ("validation", "val", "valid", "dev"),
         ("test", "testing"))
    )
    for spelling in spellings
}  # fmt: skip
_REPEATED = "values: given again, the same"
# Images without a row, by what `unlisted` makes of their labels.
_NOT_LISTED = {
    "absent": "images that the labels do not list, all labels absent",
    "absent_in_evaluation": "images that the labels do not list, all labels "
    "absent in validation and test",
}


class FolderOptions(NamedTuple):
    """How a folder is read: the values of `settings.FOLDER`."""

    label_table: str = ""
    unlisted: str = "unset"
    zero: str = "unset"
    label_separator: str = "unset"
    features: str = ""
    split_seed: int = 0
    split_shares: str = "80/10/10"

    @property
    def reading(self) -> Reading:
        """How its table of labels is read."""
        return Reading(self.unlisted, self.zero, self.label_separator)


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


def labels_file(directory: Path, options: FolderOptions) -> Path:
    """The table of labels: the one that is named, else that of `directory`."""
    if options.label_table:
        return existing_file(Path(options.label_table).expanduser())
    return table_file(directory, "labels")


def find_table(directory: Path, stem: str) -> Path | None:
    """The only file of `directory` of that name, such as labels.csv.gz.

    Raises:
      ValueError: if there are several: which one counts is not ours to guess;
        or if there is only one that is called or saved in another way.
    """
    names = [name for name in _names(stem) if (directory / name).is_file()]
    if len(names) > 1:
        way = ", or name one with --label_table" if stem == "labels" else ""
        raise ValueError(
            f"{directory} holds {' and '.join(names)}; keep one of them{way}"
        )
    if not names:
        _refuse_alike(directory, stem)
    return directory / names[0] if names else None


def _refuse_alike(directory: Path, stem: str):
    """Refuses Labels.csv, label.csv and labels.xlsx for labels.csv."""
    endings = {*_UNREAD_ENDINGS, *(name[len(stem) :] for name in _names(stem))}
    alike = {x + end for x in (stem, stem[:-1]) for end in endings}
    found = sorted(
        path.name
        for path in directory.iterdir()
        if path.name.lower() in alike and path.is_file()
    )
    if found:
        raise ValueError(
            f"{directory} holds {listed(found)}, which is not read: name it, "
            f"or save it as, {_names(stem)[0]}"
        )


def table_file(directory: Path, stem: str) -> Path:
    """As `find_table`.

    Raises:
      ValueError: if there are several.
      FileNotFoundError: if there is none.
    """
    found = find_table(directory, stem)
    if found is None:
        first, *others = _names(stem)
        raise FileNotFoundError(
            f"{directory / first}: no such file, nor {', '.join(others)}"
        )
    return found


def _names(stem: str) -> list[str]:
    return [stem + end + packed for end in _ENDINGS for packed in ("", ".gz")]


def read_folder(
    directory: str | os.PathLike,
    options: FolderOptions = FolderOptions(),  # noqa: B008 (immutable)
    splits: Path | None = None,
    on_bad_image: str = "error",
    images: Names | None = None,
) -> Contents:
    """Reads and checks the tables of a folder data set.

    Args:
      directory: holds the labels, the splits and images/.
      options: how it is read.
      splits: file of the splits, None = that of `directory`.
      on_bad_image: "skip" to let images be missing.
      images: their names, None = those of images/.

    Returns:
      `Contents`, label names and images sorted; images are not read yet.

    Raises:
      ValueError: for tables that are not as they should be, a label given twice
        with different values, a split without images, an image with labels but
        without a split, or an image without a file.
      FileNotFoundError: for a missing file.
    """
    directory = Path(directory)
    images = images or ImageNames(directory / "images")
    labels = _read_labels(labels_file(directory, options), options, images)
    splits = splits or table_file(directory, "splits")
    table = read_splits(splits, images)
    listed_images = [*table["image"]]
    _check_listed(labels, listed_images, splits, images, on_bad_image)
    counts = labels.counts | {
        _NOT_LISTED.get(
            options.unlisted, "images of the splits that the labels do not list"
        ): int((~np.isin(listed_images, labels.images)).sum()),
    }
    if labels.unread:
        counts[f"columns not read: {listed(labels.unread)}"] = len(
            labels.unread
        )
    files = {}
    for number, split in enumerate(SPLITS):
        names = sorted(table.loc[table["split"] == number, "image"])
        if not names:
            raise ValueError(f"{splits}: split {split} has no image")
        absent = options.unlisted == "absent" or (
            options.unlisted == "absent_in_evaluation" and split != "train"
        )
        matrix = _label_matrix(labels, names, absent)
        files[split] = ImageFiles(
            names, matrix, functools.partial(read_file, images.place)
        )
    return Contents(
        labels.label_names, files, {x: n for x, n in counts.items() if n}
    )


def read_splits(path: Path, images: Names) -> pd.DataFrame:
    """Reads a table of splits.

    Args:
      path: of the table, with columns image and split.
      images: those that it names.

    Returns:
      columns image, distinct image ids, and split, an index in `SPLITS`.

    Raises:
      ValueError: for a split that is none, or an image that is listed twice.
      FileNotFoundError: for a missing file.
    """
    table = Table(path)
    places = table.columns("image", "split")
    rows = [(part.numbers, part.cells[:, places]) for part in table.rows()]
    if not rows:
        raise ValueError(f"{path}: no row below the header")
    numbers = np.concatenate([part for part, _ in rows])
    names, spellings = np.concatenate([part for _, part in rows]).T
    codes, distinct = pd.factorize(spellings)
    splits = np.array(
        [_SPLIT_OF.get(clean(word).lower(), -1) for word in distinct]
    )[codes]
    if (splits < 0).any():
        wrong = {
            clean(spellings[row]): row
            for row in np.flatnonzero(splits < 0)[::-1]
        }
        first = int((splits < 0).argmax())
        table.fail(
            int(numbers[first]),
            f"split must be {', '.join(SPLITS)}, got "
            + listed([word or "nothing" for word in reversed(wrong)]),
        )
    empty = np.array([not clean(name) for name in names])
    if empty.any():
        table.fail(int(numbers[empty.argmax()]), "the image is empty")
    found = images.find([*dict.fromkeys(names)], path)
    ids = pd.Series([found[name] for name in names], dtype=object)
    twice = ids[ids.duplicated()]
    if len(twice):
        line = table.line(int(numbers[twice.index[0]]))
        raise ValueError(
            f"{path}: line {line}: listed twice: {listed([*twice.unique()])}"
        )
    return pd.DataFrame({"image": ids, "split": splits})


def _read_labels(
    path: Path, options: FolderOptions, images: Names
) -> LabelRows:
    """A table, images by file, label names sorted and each pair there once."""
    is_json = path.name.lower().removesuffix(".gz").endswith(".json")
    read = read_label_json if is_json else read_label_table
    table = read(path, options.reading)
    if not table.label_names:
        raise ValueError(f"{path}: no label in any row")
    for names in alike_names(table.label_names):
        logging.warning(
            "%s: labels that differ in case, blanks or invisible characters "
            "alone are kept apart: %s", path, names,
        )  # fmt: skip
    found = images.find(table.images, path)
    image_codes, image_ids = pd.factorize(
        np.array([found[name] for name in table.images], object)
    )
    order = np.argsort(np.array(table.label_names, object))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    rows, columns = image_codes[table.rows], rank[table.columns]
    once = _once(table, rows, columns, rows * len(order) + columns)
    counts = dict(table.counts)
    if not is_json:  # there, an image has an annotation per object
        counts[_REPEATED] = len(rows) - len(once)
    return table._replace(
        counts=counts,
        images=list(image_ids),
        label_names=tuple(table.label_names[i] for i in order),
        rows=rows[once],
        columns=columns[once],
        values=table.values[once],
        fail=lambda i, message: table.fail(int(once[i]), message),
    )


def _once(table: LabelRows, rows, columns, cells) -> np.ndarray:
    """Which pairs to keep so that each is there once; refuses other values."""
    again = first_contradiction(cells, table.values)
    if again is not None:
        first, second = again
        table.fail(
            second,
            f"{table.images[table.rows[second]]}, "
            f"{table.label_names[table.columns[second]]} is given twice with "
            f"different values, {table.values[first]} before and "
            f"{table.values[second]} here",
        )
    return np.unique(cells, return_index=True)[1]


def _check_listed(labels, image_ids, splits: Path, images, on_bad_image: str):
    """Checks that images with labels have splits, and all have files."""
    without = sorted(set(labels.images) - set(image_ids))
    if without:
        gone = images.missing(without)
        nor = (
            f"; {len(gone)} of these are no {images.kind} of {images.place} "
            "either"
            f"{images.hint(gone)}"
        )
        raise ValueError(
            f"{splits}: {len(without)} of {len(labels.images)} images of "
            f"{labels.path} have no split: {listed(without)}"
            f"{nor if gone else ''}"
        )
    if on_bad_image != "skip":
        images.check(image_ids)


def _label_matrix(labels: LabelRows, images: list[str], absent: bool):
    """[N, C] int8 csr_array of the labels of some images.

    Args:
      labels: of all images.
      images: N names.
      absent: whether what is not listed is absent.
    """
    shape = len(images), len(labels.label_names)
    number = pd.Index(images).get_indexer(pd.Index(labels.images))
    rows = number[labels.rows]
    here = rows >= 0
    rows, columns = rows[here], labels.columns[here]
    values = labels.values[here]
    if not absent:
        seen = values != 0
        return scipy.sparse.csr_array(
            (values[seen], (rows[seen], columns[seen])), shape=shape
        )
    # What is observed is nearly all: as large as in full.
    full = np.full(shape, -1, np.int8)
    full[rows, columns] = values
    seen = full != 0
    index = scipy.sparse.get_index_dtype(maxval=full.size)
    ends = np.concatenate([[0], seen.sum(axis=1).cumsum()])
    every = np.broadcast_to(np.arange(shape[1], dtype=index), shape)
    return scipy.sparse.csr_array(
        (full[seen], every[seen], ends.astype(index)), shape=shape
    )


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
    labels = _read_labels(labels_file(directory, options), options, images)
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
        matrix = _label_matrix(labels, names, absent=False)
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
