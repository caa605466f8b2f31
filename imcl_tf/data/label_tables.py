"""Tables of labels in the forms that people have, read into one form.

    image,label,value                        one row per pair
    image,dog,cat,...                        one column per label
    image,labels                             one list of labels per image
    ImageID,Source,LabelName,Confidence      as in Open Images
    labels.json                              COCO instances or captions

Column names may be in upper or lower case; unnamed columns are ignored, and so
are further ones, except where each column is a label.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
from absl import logging

from imcl_tf.data.cells import (
    SEPARATORS,
    Table,
    check_names,
    clean,
    factorized,
    listed,
    shown,
)

# Beside the values -1, 0 and 1. False is not -1 yet: what 0 is beside it is
# not plain.
_EMPTY, _WRONG, _FALSE = 2, 3, 4
# As programs write a cell without value: pandas, R, Excel, SQL, Python.
_WORDS = dict.fromkeys(
    ("", "nan", "na", "<na>", "n/a", "#n/a", "null", "none"), _EMPTY
) | {"true": 1, "false": _FALSE}
_DASHES = re.compile("[\u2010-\u2015\u2212\uff0d]")
_LISTS_OF_PROGRAMS = ("['", '["')


class Reading(NamedTuple):
    """How a table of labels is to be read, where it does not say so itself.

    Attributes:
      unlisted: what a pair without a value is: "unobserved", "absent",
        "absent_in_evaluation" (in validation and test alone), or "unset":
        unobserved where the table can say absent, else refused.
      zero: what 0 is: "absent", "unobserved" or "unset": what it must be.
      label_separator: between the labels of a list: a key of
        `cells.SEPARATORS`, or "unset".
    """

    unlisted: str = "unset"
    zero: str = "unset"
    label_separator: str = "unset"


class LabelRows(NamedTuple):
    """What a table of labels says.

    Attributes:
      path: of its file.
      images: I distinct names as they stand in the file.
      label_names: C distinct names.
      rows: [P] int, image of each pair.
      columns: [P] int, label of each pair.
      values: [P] int8, 1 present, -1 absent, 0 unobserved. A pair may be there
        several times.
      fail: raises ValueError about pair number i with its place in the file.
      counts: what the table held, by name.
      unread: names of columns that say nothing of labels.
    """

    path: Path
    images: list[str]
    label_names: tuple[str, ...]
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    fail: Callable[[int, str], NoReturn]
    counts: dict[str, int]
    unread: tuple[str, ...] = ()


class _Pairs(NamedTuple):
    """Pairs of some rows: indices of names, value codes, record numbers."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    numbers: np.ndarray


class _Names:
    """Distinct texts, numbered as they come."""

    def __init__(self):
        self.index: dict[str, int] = {}

    def __call__(self, codes: np.ndarray, texts: list[str]) -> np.ndarray:
        """The numbers of `texts[codes]`, -1 for an empty text."""
        new = self.index
        numbers = [
            new.setdefault(text, len(new)) if text else -1 for text in texts
        ]
        return np.array(numbers, np.int64)[codes]


def read_label_table(path: Path, reading: Reading) -> LabelRows:
    """Reads a table of labels in any of the forms above, but JSON.

    Args:
      path: of the file.
      reading: how to read what it does not say itself.

    Raises:
      ValueError: for a table of no such form, for a value that is none, and for
        what can be read in two ways.
      FileNotFoundError: if there is no such file.
    """
    table = Table(path)
    names = {name.lower() for name in table.header}
    if {"imageid", "labelname"} <= names:
        return _read_long(
            table, ("ImageID", "LabelName", "Confidence"), reading, zero=-1
        )
    if {"label", "value"} & names or "image" not in names:
        return _read_long(table, ("image", "label", "value"), reading, zero=0)
    if "labels" in names:
        return _read_lists(table, reading)
    return _read_wide(table, reading)


def _read_long(table: Table, columns, reading: Reading, zero: int) -> LabelRows:
    """One row per pair, where 0 means `zero` unless `reading` says more."""
    images, labels, places = _Names(), _Names(), table.columns(*columns)
    pairs = _joined(_long(table, places, images, labels))
    values, counts = pairs.values, {}
    if zero == 0 and reading.zero == "unset":
        _refuse_unclear_zero(table, pairs)
    empty = values == _EMPTY
    if empty.any():
        counts["values: empty, taken for unobserved"] = int(empty.sum())
    values = _with_zero(values, reading, zero, counts)
    values[empty] = 0
    rows = _label_rows(table, images, labels, pairs, values, counts)
    # In Open Images' own tables there are many.
    return rows if zero else rows._replace(unread=_others(table, places))


def _long(table: Table, places, images: _Names, labels: _Names):
    """`_Pairs` of the chunks of a table of one row per pair."""
    for numbers, cells in table.rows():
        of_image, of_label, of_value = (cells[:, i] for i in places)
        rows = images(*_image_codes(table, numbers, of_image))
        codes, texts = factorized(of_label)
        names = [clean(text) for text in texts]
        check_names(table, numbers, codes, names, "label")
        pair = cells[:, places[:2]]
        values = _values(
            table, numbers, of_value, lambda i, pair=pair: ", ".join(pair[i])
        )
        unnamed = np.isin(codes, [i for i, x in enumerate(names) if not x])
        wrong = unnamed & np.isin(values, (-1, 1, _FALSE))
        if wrong.any():
            table.fail(int(numbers[wrong.argmax()]), "the label is empty")
        pairs = rows, labels(codes, names), values, numbers
        yield _Pairs(*(x[~unnamed] for x in pairs))


def _read_wide(table: Table, reading: Reading) -> LabelRows:
    """One column per label."""
    (place,) = table.columns("image")
    others = [i for i, x in enumerate(table.header) if x and i != place]
    names = [table.header[i] for i in others]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{table.path}: columns are there twice: {listed(twice)}"
        )
    if not names:
        table.columns("image", "label", "value")
    images, labels = _Names(), _Names()
    codes = labels(np.arange(len(names)), names)
    header = np.full(len(names), table.header_number)
    check_names(table, header, codes, names, "label")
    pairs = _joined(_wide(table, place, others, images))
    zeros, minus = pairs.values == 0, np.isin(pairs.values, (-1, _FALSE))
    if zeros.any() and minus.any() and reading.zero == "unset":
        table.fail(
            int(pairs.numbers[zeros.argmax()]),
            "0 may be absent or unobserved in a table that holds -1 or false "
            "too: say which with --zero=absent or --zero=unobserved",
        )
    counts: dict[str, int] = {}
    values = _with_zero(pairs.values, reading, -1, counts)
    return _label_rows(table, images, labels, pairs, values, counts)


def _wide(table: Table, place: int, others: list[int], images: _Names):
    """`_Pairs` of the chunks of a table of one column per label, `others`."""

    def pair(i, cells):
        label = table.header[others[i % len(others)]]
        return f"{cells[i // len(others), place]}, {label}"

    for numbers, cells in table.rows():
        rows = images(*_image_codes(table, numbers, cells[:, place]))
        values = _values(
            table,
            np.repeat(numbers, len(others)),
            cells[:, others].ravel(),
            functools.partial(pair, cells=cells),
        ).reshape(len(rows), len(others))
        row, column = np.nonzero(values != _EMPTY)
        yield _Pairs(rows[row], column, values[row, column], numbers[row])


def _read_lists(table: Table, reading: Reading) -> LabelRows:
    """One list of labels per image."""
    places = table.columns("image", "labels")
    if reading.label_separator == "unset":
        _, cells = next(table.rows(), (None, None))
        example = "" if cells is None else cells[0, places[1]]
        raise ValueError(
            f"{table.path}: what separates the labels of the column labels, as "
            f"in {example[:60]!r}, must be given: --label_separator="
            f"{'|'.join(SEPARATORS)}"
        )
    refuse_unset(table.path, reading)
    separator = SEPARATORS[reading.label_separator]
    images, labels = _Names(), _Names()
    pairs = _joined(_lists(table, places, separator, images, labels))
    if len(np.unique(pairs.numbers)) == len(pairs.numbers):
        _warn_of_other_separators(table.path, labels.index, separator)
    rows = _label_rows(table, images, labels, pairs, pairs.values, {})
    return rows._replace(unread=_others(table, places))


def _warn_of_other_separators(path: Path, names, separator: str):
    """Where no list has two labels, a label may be a list itself."""
    others = set(SEPARATORS.values()) - {separator, " "}
    lists = [name for name in names if others & set(name)]
    if lists:
        logging.warning(
            "%s: no list holds the separator %r, but %d labels hold another: "
            "%s", path, separator, len(lists), listed(lists),
        )  # fmt: skip


def _lists(table: Table, places, separator: str, images, labels: _Names):
    """`_Pairs` of the chunks of a table of one list per image."""
    for numbers, cells in table.rows():
        rows = images(*_image_codes(table, numbers, cells[:, places[0]]))
        codes, texts = factorized(cells[:, places[1]])
        _refuse_lists_of_programs(table, numbers, codes, texts)
        names = [
            [*filter(None, map(clean, text.split(separator)))] for text in texts
        ]
        flat = list(itertools.chain(*names))
        lengths = np.array([*map(len, names)], np.int64)
        starts = np.cumsum(lengths) - lengths
        # Of each pair: its row, and which of `flat` is its label.
        row = np.repeat(np.arange(len(codes)), lengths[codes])
        first = np.cumsum(lengths[codes]) - lengths[codes]
        chosen = starts[codes[row]] + np.arange(len(row)) - first[row]
        check_names(table, numbers[row], chosen, flat, "label")
        ones = np.ones(len(row), np.int8)
        yield _Pairs(rows[row], labels(chosen, flat), ones, numbers[row])


def _refuse_lists_of_programs(table: Table, numbers, codes, texts: list[str]):
    wrong = [
        i for i, text in enumerate(texts)
        if text.strip().startswith(_LISTS_OF_PROGRAMS)
    ]  # fmt: skip
    if wrong:
        row = int(np.isin(codes, wrong).argmax())
        table.fail(
            int(numbers[row]),
            "the labels are a list of Python or JSON; write them with a "
            f"separator alone: {shown(texts[codes[row]])}",
        )


def _others(table: Table, places: list[int]) -> tuple[str, ...]:
    """The names of all other columns."""
    return tuple(
        name for i, name in enumerate(table.header) if name and i not in places
    )


def refuse_unset(path: Path, reading: Reading):
    """Refuses a form that never says absent, unless `unlisted` is given.

    Raises:
      ValueError: with the flag to give.
    """
    if reading.unlisted == "unset":
        raise ValueError(
            f"{path}: it lists the labels that are present: say what the "
            "others are with --unlisted=absent, --unlisted=unobserved or "
            "--unlisted=absent_in_evaluation (absent in validation and test, "
            "unobserved in training)"
        )


def _image_codes(table: Table, numbers, cells) -> tuple[np.ndarray, list[str]]:
    codes, texts = factorized(cells)
    empty = [i for i, text in enumerate(texts) if not clean(text)]
    if empty:
        row = np.isin(codes, empty).argmax()
        table.fail(int(numbers[row]), "the image is empty")
    check_names(table, numbers, codes, [x.strip() for x in texts], "image")
    return codes, texts


def _values(table: Table, numbers, cells, pair) -> np.ndarray:
    """[n] int8 value codes of cells [n]; `pair(i)` names the i-th."""
    codes, texts = factorized(cells)
    values = np.array([_value(text) for text in texts], np.int8)[codes]
    wrong = values == _WRONG
    if wrong.any():
        i = int(wrong.argmax())
        table.fail(
            int(numbers[i]),
            f"value of {pair(i)} must be -1, 0 or 1, got "
            f"{shown(cells[i].strip())}",
        )
    return values


def _value(text: str) -> int:
    text = _DASHES.sub("-", clean(text)).lower()
    if text in _WORDS:
        return _WORDS[text]
    try:
        number = float(text)
    except ValueError:
        return _WRONG
    known = number in (-1.0, 0.0, 1.0) and "_" not in text
    return int(number) if known else _WRONG


def _refuse_unclear_zero(table: Table, pairs: _Pairs):
    """Refuses 0 beside 1 where no -1 says that 0 is something else.

    A row of 0 alone is how an image without observed labels is listed.
    """
    if (pairs.values == -1).any():
        return
    number = np.bincount(pairs.rows) if len(pairs.rows) else np.zeros(0)
    unclear = (pairs.values == 0) & (number[pairs.rows] > 1)
    if unclear.any():
        table.fail(
            int(pairs.numbers[unclear.argmax()]),
            "0 may be absent or unobserved, as no value is -1: say which with "
            "--zero=absent or --zero=unobserved",
        )


def _with_zero(values, reading: Reading, zero: int, counts) -> np.ndarray:
    """`values` with 0 and false replaced by what they mean; counts 0."""
    meaning = {"absent": -1, "unobserved": 0, "unset": zero}[reading.zero]
    zeros = values == 0
    if zeros.any() and (meaning or reading.zero != "unset"):
        word = "absent" if meaning else "unobserved"
        counts[f"values: 0, taken for {word}"] = int(zeros.sum())
    values = np.where(values == _FALSE, -1, values)
    return np.where(zeros, meaning, values).astype(np.int8)


def _joined(parts: Iterator[_Pairs]) -> _Pairs:
    empty = _Pairs(*(np.zeros(0, x) for x in (int, int, np.int8, int)))
    return _Pairs(*map(np.concatenate, zip(empty, *parts, strict=True)))


def _label_rows(table, images, labels, pairs, values, counts) -> LabelRows:
    if not images.index:
        raise ValueError(f"{table.path}: no row below the header")
    return LabelRows(
        table.path, list(images.index), tuple(labels.index),
        pairs.rows, pairs.columns, values,
        lambda i, message: table.fail(int(pairs.numbers[i]), message), counts,
    )  # fmt: skip


def first_contradiction(
    cells: np.ndarray, values: np.ndarray
) -> tuple[int, int] | None:
    """Two pairs of one image and label with different values.

    Args:
      cells: [P] int, image and label as one number.
      values: [P] int8.

    Returns:
      their numbers, the first found, or None.
    """
    order = np.argsort(cells, kind="stable")
    same = cells[order][1:] == cells[order][:-1]
    wrong = same & (values[order][1:] != values[order][:-1])
    if not wrong.any():
        return None
    place = int(wrong.argmax())
    return int(order[place]), int(order[place + 1])


def alike_names(names: tuple[str, ...]) -> list[str]:
    """Names that differ in case, blanks or invisible characters alone.

    Returns:
      "Dog, dog" for each such group.
    """
    keys = pd.Series([*map(_look, names)], dtype=object)
    again = keys[keys.duplicated(keep=False)]
    return [
        ", ".join(shown(names[i]) for i in again.index[again == key])
        for key in again.unique()
    ]


def _look(name: str) -> str:
    text = unicodedata.normalize("NFKC", name).casefold()
    seen = (x for x in text if unicodedata.category(x) != "Cf")
    return " ".join("".join(seen).split())
