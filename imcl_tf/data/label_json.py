"""Labels from COCO's JSON: categories of instances, or words of captions."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from imcl_tf.data.captions import most_frequent_words, split_words
from imcl_tf.data.cells import clean, listed, read_text
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
    content = _load(path)
    images = _entries(path, content, "images")
    annotations = _entries(path, content, "annotations")
    refuse_unset(path, reading)
    row_of = dict(zip(_column(path, "images", images, "id", (int, str)),
                      itertools.count()))  # fmt: skip
    names = _column(path, "images", images, "file_name", (str,))
    _refuse_repeats(path, "id", row_of, images)
    _refuse_repeats(path, "file_name", set(names), images)
    rows = _found(path, annotations, "image_id", row_of, "images")
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
    categories = _entries(path, content, "categories")
    ids = _column(path, "categories", categories, "id", (int, str))
    names = [
        clean(name)
        for name in _column(path, "categories", categories, "name", (str,))
    ]
    column_of = dict(zip(ids, itertools.count(), strict=False))
    _refuse_repeats(path, "id", column_of, categories, "categories")
    _refuse_repeats(path, "name", set(names), categories, "categories")
    if not all(names):
        number = names.index("")
        raise ValueError(f"{path}: categories[{number}]: name is empty")
    columns = _found(path, annotations, "category_id", column_of, "categories")
    return tuple(names), np.arange(len(columns)), columns


def _words(path, annotations):
    captions = _column(path, "annotations", annotations, "caption", (str,))
    words = most_frequent_words(captions)
    column = dict(zip(words, itertools.count(), strict=False))
    of_caption = [
        [column[word] for word in dict.fromkeys(split_words(text))
         if word in column]
        for text in captions
    ]  # fmt: skip
    lengths = [*map(len, of_caption)]
    places = np.repeat(np.arange(len(lengths)), lengths)
    columns = np.array([*itertools.chain(*of_caption)], np.int64)
    return words, places, columns


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError(f"{path}: not a JSON file: nested too deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a whole JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected COCO's object with images and annotations, got "
            f"a {type(content).__name__}"
        )
    return content


def _entries(path: Path, content: dict, part: str) -> list[dict]:
    entries = content.get(part)
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{path}: expected COCO instances or captions, got nothing in "
            f"{part!r}; it holds {listed(sorted(content)) or 'nothing'}"
        )
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(
                f"{path}: {part}[{number}]: expected an object, got "
                f"{json.dumps(entry)[:60]}"
            )
    return entries


def _column(path, part, entries, key, kinds) -> list:
    values = [entry.get(key) for entry in entries]
    for number, value in enumerate(values):
        if type(value) not in kinds:
            words = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"{path}: {part}[{number}]: {key} must be {words}, got "
                f"{json.dumps(value)[:60]}"
            )
    return values


def _found(path, annotations, key, number_of, part) -> np.ndarray:
    """[A] int: the number of what each annotation refers to."""
    values = _column(path, "annotations", annotations, key, (int, str))
    numbers = np.array([number_of.get(value, -1) for value in values], np.int64)
    if (numbers < 0).any():
        first = int((numbers < 0).argmax())
        raise ValueError(
            f"{path}: annotations[{first}]: {key} "
            f"{json.dumps(values[first])[:60]} is not in {part!r} "
            f"({(numbers < 0).sum()} such annotations)"
        )
    return numbers


def _refuse_repeats(path, key, distinct, entries, part="images"):
    if len(distinct) == len(entries):
        return
    number = Counter(str(entry[key]) for entry in entries)
    again = [value for value, times in number.items() if times > 1]
    raise ValueError(
        f"{path}: {part}: {key} is given several times: {listed(again)}"
    )
