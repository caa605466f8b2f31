"""The tables of a folder: which files they are, and what they say."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from absl import logging

from imcl_tf.data.cells import Table, clean, listed
from imcl_tf.data.image_builders import Contents
from imcl_tf.data.image_names import ImageNames, Names
from imcl_tf.data.label_json import read_label_json
from imcl_tf.data.label_tables import (
    LabelRows,
    Reading,
    alike_names,
    first_contradiction,
    read_label_table,
)
from imcl_tf.data.labelled_images import ImageFiles, read_file
from imcl_tf.data.records import SPLITS
from imcl_tf.files import existing_file

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
    labels = read_labels(labels_file(directory, options), options, images)
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
        matrix = label_matrix(labels, names, absent)
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


def read_labels(path: Path, options: FolderOptions, images: Names) -> LabelRows:
    """Reads the labels of a folder.

    Args:
      path: of the table.
      options: how it is read.
      images: those that it names.

    Returns:
      `LabelRows` with image ids, label names sorted, and each pair once.

    Raises:
      ValueError: for a table that is not as it should be.
    """
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


def label_matrix(
    labels: LabelRows, images: list[str], absent: bool
) -> scipy.sparse.csr_array:
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
