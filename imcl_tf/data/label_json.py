"""Labels from COCO's JSON: categories of instances, or words of captions."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from imcl_tf.data.captions import most_frequent_words, split_words
from imcl_tf.data.cells import clean, listed, read_text, shown, with_control
from imcl_tf.data.kept import parse_json
from imcl_tf.data.label_tables import LabelRows, Reading, refuse_unset


def read_label_json(path: Path, reading: Reading) -> LabelRows:
    """Reads `instances_*.json` or `captions_*.json` of COCO, or their like.

    A label is present where an annotation of the image has its category; in
    captions, where one has its word, of the 1,000 most frequent words.

    Args:
      path: of the file.
      reading: `unlisted` must be set.

    Raises:
      ValueError: if it is no such file, or has entries that cannot be.
      FileNotFoundError: if there is no such file.
    """
    content = load(path)
    images = entries(path, content, "images")
    annotations = entries(path, content, "annotations")
    refuse_unset(path, reading)
    ids = column(path, "images", images, "id", (int, str))
    names = _names(path, "images", images, "file_name")
    _refuse_repeats(path, "images", "id", ids)
    _refuse_repeats(path, "images", "file_name", names)
    rows = _found(path, annotations, "image_id", ids, "images")
    if "categories" in content:
        labels, places, columns = _categories(path, content, annotations)
    else:
        labels, places, columns = _words(path, annotations)

    def fail(i: int, message: str) -> NoReturn:
        raise ValueError(f"{path}: annotations[{places[i]}]: {message}")

    return LabelRows(
        path, names, labels, rows[places], columns,
        np.ones(len(columns), np.int8), fail,
        {"annotations": len(annotations)},
    )  # fmt: skip


def _categories(path, content, annotations):
    """(label names, annotation of each pair, label of each pair)."""
    categories = entries(path, content, "categories")
    ids = column(path, "categories", categories, "id", (int, str))
    names = _names(path, "categories", categories, "name")
    _refuse_repeats(path, "categories", "id", ids)
    _refuse_repeats(path, "categories", "name", names)
    columns = _found(path, annotations, "category_id", ids, "categories")
    return tuple(names), np.arange(len(columns)), columns


def _words(path, annotations):
    captions = column(path, "annotations", annotations, "caption", (str,))
    words = most_frequent_words(captions)
    number_of = dict(zip(words, itertools.count(), strict=False))
    of_caption = [
        [number_of[word] for word in dict.fromkeys(split_words(text))
         if word in number_of]
        for text in captions
    ]  # fmt: skip
    lengths = [*map(len, of_caption)]
    places = np.repeat(np.arange(len(lengths)), lengths)
    columns = np.array([*itertools.chain(*of_caption)], np.int64)
    return words, places, columns


def load(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      ValueError: if the file is no whole JSON, or holds something else.
      FileNotFoundError: if there is no such file.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected COCO's object with images and annotations, got "
            f"a {type(content).__name__}"
        )
    return content


def entries(path: Path, content: dict, part: str) -> list[dict]:
    """The list of objects that `part` of the content is.

    Raises:
      ValueError: if there is no such list, or it holds something else.
    """
    listing = content.get(part)
    if not isinstance(listing, list) or not listing:
        raise ValueError(
            f"{path}: expected COCO instances or captions, got nothing in "
            f"{part!r}; it holds {shown(listed(sorted(content))) or 'nothing'}"
        )
    for number, entry in enumerate(listing):
        if not isinstance(entry, dict):
            raise ValueError(
                f"{path}: {part}[{number}]: expected an object, got "
                f"{json.dumps(entry)[:60]}"
            )
    return listing


def column(
    path: Path, part: str, listing: list[dict], key: str, kinds: tuple
) -> list:
    """The value of `key` in each entry of `part`.

    Args:
      path: of the file, for messages.
      part: name of the listing, for messages.
      listing: of `entries`.
      key: in each entry.
      kinds: types that its value may have.

    Raises:
      ValueError: for a value of another type, or none.
    """
    values = [entry.get(key) for entry in listing]
    for number, value in enumerate(values):
        if type(value) not in kinds:
            words = " or ".join(kind.__name__ for kind in kinds)
            got = json.dumps(value)[:60]
            if key not in listing[number]:
                got = f"none; it holds {shown(listed(sorted(listing[number])))}"
            raise ValueError(
                f"{path}: {part}[{number}]: {key} must be {words}, got {got}"
            )
    return values


def _names(path, part, listing, key) -> list[str]:
    names = [*map(clean, column(path, part, listing, key, (str,)))]
    for number in with_control(names):
        raise ValueError(
            f"{path}: {part}[{number}]: {key} holds a line break or another "
            f"control character: {shown(names[number])}"
        )
    if not all(names):
        raise ValueError(f"{path}: {part}[{names.index('')}]: {key} is empty")
    return names


def _found(path, annotations, key, ids, part) -> np.ndarray:
    """[A] int: where in `ids` is what each annotation refers to."""
    number_of = dict(zip(ids, itertools.count(), strict=False))
    values = column(path, "annotations", annotations, key, (int, str))
    numbers = np.array([number_of.get(value, -1) for value in values], np.int64)
    if (numbers < 0).any():
        first = int((numbers < 0).argmax())
        raise ValueError(
            f"{path}: annotations[{first}]: {key} "
            f"{json.dumps(values[first])[:60]} is not in {part!r} "
            f"({(numbers < 0).sum()} such annotations)"
        )
    return numbers


def _refuse_repeats(path, part, key, values):
    again = [x for x, number in Counter(values).items() if number > 1]
    if again:
        raise ValueError(
            f"{path}: {part}: {key} is given several times: "
            f"{listed([*map(str, again)])}"
        )
