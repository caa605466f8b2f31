"""Images of equal content in two splits, and the file that lists them."""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imcl_tf.data.records import SPLITS, from_bytes
from imcl_tf.files import write_csv

DUPLICATES = "duplicates.csv"
# Bytes. Among 4 million contents two share one with a probability of 4e-7.
DIGEST_SIZE = 8


class Duplicate(NamedTuple):
    """An image whose content an earlier split holds too.

    Attributes:
      split: "validation" or "test".
      image_id: its name.
      other_split: "train", or "validation" of a test image.
      other_image_id: the first image there, in the order of the records.
    """

    split: str
    image_id: str
    other_split: str
    other_image_id: str


def digest(content: bytes) -> bytes:
    """`DIGEST_SIZE` bytes that tell a content from others."""
    return hashlib.sha256(content).digest()[:DIGEST_SIZE]


def find(
    contents: Mapping[str, np.ndarray],
    image_ids: Callable[[str], np.ndarray],
) -> list[Duplicate]:
    """Finds what stands in two splits.

    Args:
      contents: split -> [N] uint64, digests of its images' contents.
      image_ids: split -> [N] bytes, their names; called where there is any.

    Returns:
      for each image of validation and test one entry for each earlier split
      that holds its content, sorted.
    """
    found: list[Duplicate] = []
    splits = [split for split in SPLITS if split in contents]
    for earlier, later in itertools.combinations(splits, 2):
        known, first = np.unique(contents[earlier], return_index=True)
        place = np.searchsorted(known, contents[later])
        place = np.minimum(place, len(known) - 1)
        rows = np.flatnonzero(known[place] == contents[later])
        if rows.size:
            names = from_bytes(image_ids(later)[rows])
            others = from_bytes(image_ids(earlier)[first[place[rows]]])
            found += [
                Duplicate(later, name, earlier, other)
                for name, other in zip(names, others, strict=True)
            ]
    return sorted(found)


def write(directory: Path, duplicates: Sequence[Duplicate]):
    """Writes DUPLICATES in a directory of records."""
    write_csv(directory / DUPLICATES, Duplicate._fields, duplicates)


def read(directory: Path) -> list[Duplicate]:
    """Reads DUPLICATES in a directory of records; none without that file.

    Raises:
      ValueError: if the file is damaged.
    """
    path = directory / DUPLICATES
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
        if tuple(header) != Duplicate._fields:
            raise ValueError(f"columns {','.join(header)}")
        found = [Duplicate(*row) for row in rows]
        if any({x.split, x.other_split} - {*SPLITS} for x in found):
            raise ValueError("a split that is none")
    except (csv.Error, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: damaged ({reason}); prepare the data set again"
        ) from error
    return found
