"""Reads the text tables of CUB-200-2011, naming file and line of any fault."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from imcl_tf.data.image_names import leads_out
from imcl_tf.files import existing_file


def read_names(path: Path) -> list[str]:
    """Reads lines `1 NAME`, `2 NAME`, ...

    Returns:
      distinct names without spaces, in order.

    Raises:
      ValueError: for any other line, or a name that is given twice.
      FileNotFoundError: if there is no such file.
    """
    names = {}
    for number, line in enumerate(_lines(_read(path)), 1):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(number) or fields[1] in names:
            raise ValueError(
                f"{path}: line {number}: expected {number} and a new name, "
                f"got {line[:80]!r}"
            )
        if leads_out(fields[1]):
            raise ValueError(
                f"{path}: line {number}: a name must be a path below the "
                f"directory of images, got {line[:80]!r}"
            )
        names[fields[1]] = number
    return list(names)


def read_per_image(
    path: Path, num_images: int, column: str, limits: tuple[int, int]
) -> np.ndarray:
    """Reads lines `image_id INTEGER`, one per image, as [num_images] int64."""
    table, num_fields = read_integers(
        path, {"image id": (1, num_images), column: limits}
    )
    if (num_fields > 2).any():
        line = int((num_fields > 2).argmax())
        raise ValueError(
            f"{path}: line {line + 1}: expected 2 fields, got "
            f"{num_fields[line]}"
        )
    check_once(path, table[:, 0])
    if len(table) < num_images:
        missing = np.setdiff1d(np.arange(1, num_images + 1), table[:, 0])[0]
        raise ValueError(f"{path}: image id {missing} is missing")
    return table[table[:, 0].argsort(), 1]


def read_integers(
    path: Path, columns: dict[str, tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads lines that start with integers.

    Args:
      path: text, fields apart by spaces.
      columns: names of the M first fields -> minimum and maximum.

    Returns:
      the integers [R, M] int64 and the number of all fields [R] of each line.

    Raises:
      ValueError: for a line that does not start so, naming file and line.
      FileNotFoundError: if there is no such file.
    """
    text = _read(path)
    num_fields = _count_fields(text)
    low, high = np.array(list(columns.values())).T
    try:
        # Beyond ASCII NumPy and Python take other bytes for blanks.
        if not text.isascii():
            raise ValueError("a byte that is not ASCII")
        # Blank lines are not rows for NumPy; no file here should have any.
        if num_fields.min() < len(columns):
            raise ValueError("too few fields in a line")
        table = np.loadtxt(
            io.BytesIO(text),
            dtype=np.int64,
            comments=None,
            usecols=range(len(columns)),
            ndmin=2,
            encoding="latin1",
        )
        if (table.min(0) < low).any() or (table.max(0) > high).any():
            raise ValueError("an integer is out of range")
    except ValueError as error:
        _check_lines(path, text, columns)
        raise ValueError(f"{path}: {error}") from error
    return table, num_fields


def _count_fields(text: bytes) -> np.ndarray:
    """Fields of each line, as `split` counts them."""
    characters = np.frombuffer(text, np.uint8)
    blank = characters <= ord(" ")
    first = np.flatnonzero(~blank & np.concatenate([[True], blank[:-1]]))
    ends = np.flatnonzero(characters == ord("\n"))
    return np.diff(np.searchsorted(first, ends), prepend=0)


def _check_lines(path, text, columns):
    """Raises for the first line that does not start with such integers."""
    for number, line in enumerate(_lines(text), 1):
        fields = line.split()[: len(columns)]
        whole = line.isascii() and len(fields) == len(columns)
        good = whole and all(
            re.fullmatch("[0-9]{1,18}", field) and low <= int(field) <= high
            for field, (low, high) in zip(fields, columns.values(), strict=True)
        )
        if not good:
            expected = ", ".join(
                f"{name} ({low} to {high})"
                for name, (low, high) in columns.items()
            )
            raise ValueError(
                f"{path}: line {number}: expected {expected}, got {line[:80]!r}"
            )


def check_once(path: Path, keys: np.ndarray):
    again = pd.Index(keys).duplicated()
    if again.any():
        line = int(again.argmax())
        before = int((keys == keys[line]).argmax())
        raise ValueError(
            f"{path}: line {line + 1}: repeats the ids of line {before + 1}"
        )


def _lines(text: bytes) -> list[str]:
    return text.decode(errors="replace").split("\n")[:-1]


def _read(path: Path) -> bytes:
    """The text of a file whose last line is whole, without blank ones there."""
    text = existing_file(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not text.endswith(b"\n"):
        line = text.count(b"\n") + 1
        # What is left of a number that was cut would pass for another.
        raise ValueError(
            f"{path}: line {line} has no end: the file may be cut off; unpack "
            "it again, or end that line if it is whole"
        )
    return text.rstrip() + b"\n"
