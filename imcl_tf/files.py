"""Atomic file writes, and one-line error exits for programs."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import glob
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags

UNFINISHED, OLD = ".unfinished-", ".old-"
_DAY = 86_400
# What flock answers where a file system, or a server, does not do that.
_NO_LOCKS = {
    errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP,
}  # fmt: skip


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; what it holds then takes `path`'s place.

    Several programs may replace one path at once; the last to finish wins.

    Args:
      path: file or directory to replace; its parent must exist.

    Yields:
      a path in the same directory with the same suffix, no one else's. After
      an error it is removed and `path` is as it was.

    Raises:
      OSError: if `path` is a device or a pipe: the file would take its place.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(f"{path}: neither a file nor a directory")
    if not path.is_dir():
        # The file that a link names is replaced, not the link.
        path = path.resolve()
    own = uuid.uuid4().hex
    new = path.with_name(f"{UNFINISHED}{own}-{path.name}")
    _recover(path)
    try:
        yield new
        _write_through(new)
        if path.is_dir() or new.is_dir():
            _replace_directory(
                new, path, path.with_name(f"{OLD}{own}-{path.name}")
            )
        else:
            os.replace(new, path)
    except BaseException as error:
        _remove(new)
        if isinstance(error, OSError) and error.errno and not error.filename:
            # A full disk, say: a write does not know its file's name.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _write_through(path: Path):
    """Has a file, or those of a directory, on the disk when this returns.

    Else a machine that loses power may have the new name, but not the content.
    """
    for place in [path, *path.rglob("*")] if path.is_dir() else [path]:
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _replace_directory(new: Path, path: Path, old: Path):
    # A directory that is not empty cannot be replaced in one step.
    with locked(path.parent):
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    _remove(old)


def _recover(path: Path):
    """Removes what killed programs left of `path`, or puts it back."""
    for old in path.parent.glob(f"{OLD}*-{glob.escape(path.name)}"):
        with locked(path.parent):
            if not path.exists() and old.exists():
                old.rename(path)
        _remove(old)
    for new in path.parent.glob(f"{UNFINISHED}*-{glob.escape(path.name)}"):
        # Else another program may be writing it.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - new.stat().st_mtime > _DAY:
                _remove(new)


@contextlib.contextmanager
def locked(
    directory: str | os.PathLike, *, wait: bool = True, shared: bool = False
) -> Iterator[bool]:
    """Keeps other programs from what takes this lock of `directory` too.

    Args:
      directory: or a file; exists, and may be read-only.
      wait: until no one else has it.
      shared: others may have it too, if they share it.

    Yields:
      whether it has the lock: some network file systems have none.

    Raises:
      BlockingIOError: without `wait`, if another program has it.
      FileNotFoundError: if there is no such directory, when it is locked.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield False
            return
        if not os.path.samestat(os.fstat(handle), os.stat(directory)):
            raise FileNotFoundError(f"{directory} was removed meanwhile")
        yield True
    finally:
        os.close(handle)


def remove_unfinished(directory: Path):
    """Removes what killed programs were writing to a directory.

    Args:
      directory: that no other program writes to; it need not exist.
    """
    for path in directory.glob(f"{UNFINISHED}*"):
        _remove(path)


def make_directory(flag: str, path: Path):
    """Makes a directory that a flag names, with those above it.

    Raises:
      NotADirectoryError: if there is something else of that name.
      OSError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{flag}: {path} is no directory") from error


def existing_file(path: Path) -> Path:
    """Returns `path`.

    Raises:
      FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def in_existing_directory(path: Path) -> Path:
    """Returns `path`, a file to be written after a long time.

    Raises:
      FileNotFoundError: if there is no such directory.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such directory")
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]):
    """Writes a CSV file, whole or not at all."""
    with (
        replacing(path) as new,
        new.open("w", newline="", encoding="utf-8") as file,
    ):
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
        except UnicodeDecodeError as error:
            fail(ValueError(f"--flagfile: not UTF-8 text: {error}"))
        except RecursionError:  # absl looks for flags of a similar name
            fail(ValueError("a flag has a name of over 400 characters"))

    return parser
