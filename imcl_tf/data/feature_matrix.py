"""Numbers [N, d] within a file, read some at a time; and NumPy's headers."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

_BLOCK = 2**22  # numbers at a time


class WrongFeatures(ValueError):
    """Says in one line what is wrong with a file."""


class NoRoom(OSError):
    """Says that features cannot be unpacked where temporary files go."""


class Matrix(NamedTuple):
    """Numbers [N, d] within an open file.

    They are read, not mapped: what is mapped of a file counts as the program's
    memory, and a row may bring two megabytes of its surroundings.
    """

    file: BinaryIO
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype
    is_fortran: bool = False

    def read(self, chosen: np.ndarray | slice) -> np.ndarray:
        """The rows [n, d] float32 of indices [n] >= 0 or of a slice."""
        number, width = self.shape
        if isinstance(chosen, slice):
            start, stop, _ = chosen.indices(number)
            values = self._values(start * width, (stop - start) * width)
            return values.reshape(-1, width)
        rows = np.empty((len(chosen), width), np.float32)
        for row, place in zip(rows, chosen.tolist(), strict=True):
            row[:] = self._values(place * width, width)
        return rows

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows, some at a time: [n, d] float32."""
        number, width = self.shape
        step = max(1, _BLOCK // width)
        for start in range(0, number, step):
            size = min(step, number - start)
            if not self.is_fortran:
                yield self.read(slice(start, start + size))
                continue
            columns = range(start, start + width * number, number)
            yield np.stack([self._values(x, size) for x in columns], axis=1)

    def _values(self, first: int, number: int) -> np.ndarray:
        """So many values [number] float32, in the order of the file."""
        size = self.dtype.itemsize
        self.file.seek(self.offset + first * size)
        content = self.file.read(number * size)
        return single_precision(np.frombuffer(content, self.dtype, number))


def single_precision(numbers: np.ndarray) -> np.ndarray:
    """As float32; what is too large becomes infinite, which is refused."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


class Header(NamedTuple):
    """What a .npy says of its numbers."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype


def read_header(file: IO[bytes]) -> Header:
    """Reads the header of a .npy, up to where the numbers begin.

    Raises:
      ValueError: if it is none.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return Header(*np.lib.format.read_array_header_1_0(file))
    if version == (2, 0):
        return Header(*np.lib.format.read_array_header_2_0(file))
    raise ValueError(f"format {version}; numbers expected")


def matrix_of(
    file: BinaryIO, path: Path, header: Header, offset: int
) -> Matrix:
    """The numbers after `offset` bytes, if they are as they should be.

    Args:
      file: open, and kept open.
      path: to name in an error.
      header: shape and type of the numbers.
      offset: where they begin.

    Raises:
      WrongFeatures: unless they are [N, d] real numbers, all there.
    """
    shape = header.shape
    if header.dtype.kind not in "biuf":
        raise WrongFeatures(
            f"{path}: features are of type {header.dtype}; numbers expected"
        )
    if len(shape) != 2 or 0 in shape:
        raise WrongFeatures(
            f"{path}: features are {[*shape]}; expected [N, d], a row of d "
            "numbers for each of N ids, neither of them 0"
        )
    size = shape[0] * shape[1] * header.dtype.itemsize
    found = os.fstat(file.fileno()).st_size - offset
    if found < size:
        raise WrongFeatures(
            f"{path}: not a whole file: {found} bytes of features where "
            f"{[*shape]} {header.dtype} take {size}"
        )
    is_fortran = header.is_fortran and 1 not in shape
    return Matrix(file, offset, (shape[0], shape[1]), header.dtype, is_fortran)


def temporary(parts: Iterable[bytes]) -> BinaryIO:
    """A file without a name that holds these bytes.

    Raises:
      NoRoom: if they cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        for part in parts:
            with _unpacking():
                file.write(part)
        with _unpacking():
            file.flush()
        stack.pop_all()
    return file  # type: ignore[return-value]


@contextlib.contextmanager
def _unpacking() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoRoom(
            f"{tempfile.gettempdir()}: cannot unpack features there: "
            f"{error.strerror or error}; TMPDIR names another directory"
        ) from error


def unpacked(blocks: Iterable[np.ndarray], path: Path) -> Matrix:
    """Rows [n, d] float32, some at a time, in a temporary file.

    Args:
      blocks: of rows.
      path: that they come from, to name in an error.

    Raises:
      WrongFeatures: if d differs, or there are none.
    """
    width, number = 0, 0

    def parts():
        nonlocal width, number
        for block in blocks:
            if number and block.shape[1] != width:
                raise WrongFeatures(
                    f"{path}: rows of {width} features and of "
                    f"{block.shape[1]}; expected as many in all"
                )
            width, number = block.shape[1], number + len(block)
            yield block.tobytes()

    file = temporary(parts())
    header = Header((number, width), False, np.dtype(np.float32))
    try:
        return matrix_of(file, path, header, 0)
    except BaseException:
        file.close()
        raise
