"""Atomic file writes, and one-line error exits for programs."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; what it holds then takes `path`'s place.

    Args:
      path: file or directory to replace; its parent must exist.

    Yields:
      a path in the same directory with the same suffix. After an error it is
      removed and `path` is as it was.
    """
    new = path.with_name(f".unfinished-{path.name}")
    old = path.with_name(f".old-{path.name}")
    # What a killed program may have left.
    if old.exists() and not path.exists():
        old.rename(path)
    _remove(new)
    _remove(old)
    try:
        yield new
        if path.is_dir():
            # A directory that is not empty cannot be replaced in one step.
            path.rename(old)
            try:
                new.rename(path)
            except BaseException:
                old.rename(path)
                raise
            _remove(old)
        else:
            os.replace(new, path)
    except BaseException as error:
        _remove(new)
        if isinstance(error, OSError) and error.errno and not error.filename:
            # A full disk, say: a write does not know its file's name.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def existing_file(path: Path) -> Path:
    """Returns `path`.

    Raises:
      FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]):
    """Writes a CSV file, whole or not at all."""
    with replacing(path) as new, new.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _remove(path: Path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fail(error: Exception) -> NoReturn:
    """Ends the program with status 1 and what happened in one line."""
    print(f"imcl_tf: error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(1)


def parse_or_fail(parse: Callable) -> Callable:
    """Wraps a flags parser of `absl.app.run` so that it ends like `fail`."""

    def parser(argv):
        try:
            return parse(argv)
        except flags.Error as error:
            fail(error)

    return parser
