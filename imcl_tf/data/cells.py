"""Text tables as people save them: from the bytes of a file to its cells.

Commas, semicolons, tabs or bars between the fields, whichever the header has;
Excel's line `sep=;`; UTF-8 or UTF-16 with or without byte order mark; line ends
of any system; gzip. What can be read in two ways is refused with its line.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd

from imcl_tf.files import existing_file

SEPARATORS = {
    "comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " ",
}  # fmt: skip
_BETWEEN_FIELDS = (",", ";", "\t", "|")
_SEP_LINE = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
# A name with a line break would become two in every list of names; a lone
# surrogate, which JSON may hold, is no text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# What messages write out: it cannot be seen, or looks like a blank.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\u3000\ud800-\udfff\ufeff]"
)
# Marks of direction, zero width blanks: what is copied along with a name.
_AROUND = "\ufeff\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060"
UNNAMED = re.compile(r"Unnamed: \d+")  # as pandas calls such a column
_GZIP = b"\x1f\x8b"
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MOST_BYTES = 2**31  # of text: a gzip file of 2 MB can hold as much
_CHUNK_CELLS = 2**18


class Rows(NamedTuple):
    """Some rows of a table.

    Attributes:
      numbers: [n] int, which records of the file they are, for `Table.line`.
      cells: [n, F] object array of str as they stand in the file.
    """

    numbers: np.ndarray
    cells: np.ndarray


class Table:
    """A text table; its header is read, its rows are read on request.

    Args:
      path: of the file; gzip if it ends in .gz.

    Attributes:
      path: of the file.
      header: F column names, stripped; "" = unnamed.
      header_number: which record of the file the header is, for `line`.

    Raises:
      ValueError: if it is no text table.
      FileNotFoundError: if there is no such file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._text, self._separator = read_text(path), ""
        found = _SEP_LINE.match(self._text)
        self._lines_before = 1 if found else 0
        if found:
            self._text, self._separator = self._text[found.end() :], found[1]
        else:
            self._separator = _separator(self._text)
        for number, _, row in self._records():
            if any(row):
                self.header_number = number
                self.header = tuple(
                    "" if UNNAMED.fullmatch(name) else name
                    for name in map(clean, row)
                )
                return
        raise ValueError(f"{path}: expected a header, got an empty file")

    def columns(self, *names: str) -> list[int]:
        """Where columns are; upper and lower case are the same.

        Raises:
          ValueError: for a column that is missing, or there twice.
        """
        lower = [name.lower() for name in self.header]
        for name in names:
            if lower.count(name.lower()) != 1:
                many = "twice" if name.lower() in lower else "not"
                raise ValueError(
                    f"{self.path}: expected columns {','.join(names)}, got "
                    f"{shown(_as_written(self.header))}: {name} is {many} there"
                )
        return [lower.index(name.lower()) for name in names]

    def rows(self) -> Iterator[Rows]:
        """The rows, some at a time; those without any text are left out.

        Raises:
          ValueError: for a row with more or fewer fields than the header, or
            a quote that is not closed.
        """
        reader, start = self._reader(), 0
        length = max(1, _CHUNK_CELLS // len(self.header))
        while True:
            try:
                rows = list(itertools.islice(reader, length))
            except csv.Error:
                for _ in self._records():  # raises it with the line
                    pass
                raise
            if not rows:
                return
            numbers = np.arange(start, start + len(rows))
            cells = self._cells(rows, start)
            kept = (cells != "").any(axis=1) & (numbers > self.header_number)
            start += len(rows)
            if kept.any():
                yield Rows(numbers[kept], cells[kept])

    def _cells(self, rows: list[list[str]], start: int) -> np.ndarray:
        """[n, F] object: the rows, those before the header empty."""
        size = len(self.header)
        if set(map(len, rows)) != {size}:
            for number, row in enumerate(rows, start):
                if len(row) != size:
                    self._fit(number, row)
        return np.array(rows, object)

    def line(self, number: int) -> int:
        """The line of the file, from 1, in which a record begins."""
        return next(line for n, line, _ in self._records() if n == number)

    def fail(self, number: int, message: str) -> NoReturn:
        """Raises ValueError with the file and the line of a record."""
        raise ValueError(f"{self.path}: line {self.line(number)}: {message}")

    def _reader(self):
        return csv.reader(
            io.StringIO(self._text, newline=""),
            delimiter=self._separator,
            skipinitialspace=True,
            strict=True,
        )

    def _records(self) -> Iterator[tuple[int, int, list[str]]]:
        """(number, first line, fields) of each record."""
        reader = self._reader()
        for number in itertools.count():
            line = reader.line_num + self._lines_before + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                last = reader.line_num + self._lines_before
                raise ValueError(
                    f"{self.path}: line {line}: {_csv_problem(error, last)}"
                ) from error
            if row is None:
                return
            yield number, line, row

    def _fit(self, number: int, row: list[str]):
        """Cuts or extends a row by what is empty."""
        size = len(self.header)
        named = [i for i, name in enumerate(self.header, 1) if name]
        is_empty = not any(row) or number <= self.header_number
        if not is_empty and (
            len(row) < max(named, default=0) or any(row[size:])
        ):
            self.fail(
                number,
                f"{len(row)} fields where the header has {size}: "
                f"{shown(self._separator.join(row))}",
            )
        row[size:] = []
        row += [""] * (size - len(row))


def read_text(path: Path) -> str:
    """The text of a file.

    Args:
      path: packed by gzip or not; UTF-8, or UTF-16 with a byte order mark.

    Raises:
      ValueError: if it is no such text.
      FileNotFoundError: if there is no such file.
    """
    with existing_file(path).open("rb") as file:
        start = file.read(4)
    if start in _WORKBOOKS:
        raise ValueError(
            f"{path}: an Excel workbook or another archive, not text; save the "
            "table as CSV"
        )
    packed = start.startswith(_GZIP) or path.suffix == ".gz"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file: {error}") from error
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path}: over {_MOST_BYTES} bytes of text")
    encoding = "utf-16" if content.startswith(_UTF_16) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {_byte_problem(error)}") from error
    if "\0" in text:
        line = len(_LINE_END.findall(text[: text.index("\0")])) + 1
        raise ValueError(
            f"{path}: line {line}: not a text file: it holds a byte 0; save it "
            "as UTF-8"
        )
    return text


def clean(text: str) -> str:
    """A name as it is kept: without blanks around it, in Unicode's NFC."""
    return unicodedata.normalize("NFC", text.strip().strip(_AROUND).strip())


def factorized(cells: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(codes [n] int, distinct texts) of cells [n]."""
    codes, texts = pd.factorize(cells)
    return codes, list(texts)


def check_names(
    table: Table,
    numbers: np.ndarray,
    codes: np.ndarray,
    names: Sequence[str],
    what: str,
):
    """Refuses line breaks and other control characters in names.

    Args:
      table: that the names came from.
      numbers: [n] records.
      codes: [n] int, indices in `names`.
      names: distinct ones.
      what: "label" or "image".

    Raises:
      ValueError: with the line of the first one.
    """
    wrong = with_control(names)
    if wrong:
        row = np.isin(codes, wrong).argmax()
        table.fail(
            int(numbers[row]),
            f"the {what} holds a line break or another control character: "
            f"{shown(names[codes[row]])}",
        )


def with_control(names: Sequence[str]) -> list[int]:
    """Which names hold a line break or another control character."""
    return [i for i, name in enumerate(names) if _CONTROL.search(name)]


def listed(names: Sequence[str]) -> str:
    """Up to five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(shown, names[:5])) + more


def shown(text: str) -> str:
    """A text for a message: on one line, all to be seen, of 100 characters."""
    text = _UNSEEN.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text
    )
    return text if len(text) <= 100 else f"{text[:100]}..."


def _separator(text: str) -> str:
    """What splits the first line that holds text into most columns.

    One of them must be the column of images: labels may hold separators.
    """
    line = next(filter(None, map(str.strip, _LINE_END.split(text, 50))), "")
    fields = {}
    for separator in _BETWEEN_FIELDS:
        with contextlib.suppress(csv.Error, StopIteration):
            row = next(csv.reader([line], delimiter=separator))
            names = {clean(name).lower() for name in row}
            known = bool(names & {"image", "imageid"})
            fields[separator] = known, len(row)
    return max(fields, key=lambda separator: fields[separator], default=",")


def _as_written(header: Sequence[str]) -> str:
    """Column names as a line, those that hold a comma in quotes."""
    return ",".join(f'"{name}"' if "," in name else name for name in header)


def _csv_problem(error: csv.Error, last: int) -> str:
    if "expected after" in str(error):
        return (
            f"text follows a closing quote in line {last}: a quote that opens "
            "here, or before, is not closed; a quote within a field is "
            'written as ""'
        )
    if "unexpected end" in str(error):
        return "a quote opens here and is never closed"
    if "field limit" in str(error):
        return (
            f"a field of over {csv.field_size_limit()} characters: perhaps a "
            "quote opens here that is not closed"
        )
    return f"not a table: {error}"


def _byte_problem(error: UnicodeDecodeError) -> str:
    content = error.object
    before = content[: error.start].decode(error.encoding, "replace")
    line = len(_LINE_END.findall(before)) + 1
    byte = content[error.start]
    guess = bytes([byte]).decode("cp1252", "ignore")
    hint = f" ({guess} in Windows-1252)" if guess.isalpha() else ""
    return (
        f"line {line}: byte 0x{byte:02x}{hint} is not UTF-8; save the file "
        "with the encoding UTF-8"
    )
