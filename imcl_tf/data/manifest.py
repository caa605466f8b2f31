"""The manifest of a download: the state of each image.

    OUT/manifest.csv         image_id,status,reason,bytes
    OUT/ab/abcdef....jpg     the images, by the first two characters of their id

A row is added when an image is finished; the last row of an image counts.
`done`, `missing` (gone from its site) and `corrupt` (downloaded, but unusable)
are final; `failed` is tried again. The reason of a done image is what is
unusual about it ("CMYK", "EXIF orientation 6"); `bytes` is the download's size.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
from pathlib import Path

import pandas as pd

from imcl_tf.data.cells import shown

COLUMNS = ("image_id", "status", "reason", "bytes")
FINAL = ("done", "missing", "corrupt")
STATUSES = (*FINAL, "failed")
IMAGE_ID = "[0-9a-f]{16}"
_HEADER = ",".join(COLUMNS).encode() + b"\n"
_MAXIMUM_REASON = 200


def image_path(out: str | os.PathLike, image_id: str) -> Path:
    """Where an image lies, a JPEG by name whatever its bytes are."""
    return Path(out) / image_id[:2] / f"{image_id}.jpg"


def read_image(directory: str | os.PathLike, image_id: str) -> bytes:
    """Reads an image from where `image_path` says, or straight in `directory`.

    Its name may end in .JPG.

    Raises:
      OSError: if it is in neither place.
    """
    path = image_path(directory, image_id)
    beside = Path(directory) / path.name
    for place in (
        path,
        beside,
        *(p.with_suffix(".JPG") for p in (path, beside)),
    ):
        try:
            return place.read_bytes()
        except FileNotFoundError:
            pass
    raise FileNotFoundError(f"{path}: no such image file, nor {beside}")


def read_manifest(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a manifest, also while it is being written.

    Args:
      path: manifest.csv. What follows its last line end is left out: a row
        that is still being written, or that a killed program began.

    Returns:
      one row per image, in the order of their last rows: image_id (str),
      status and reason (categories), bytes (int64).

    Raises:
      ValueError: for a row that is not one of a manifest, with its line.
      FileNotFoundError: for a missing file.
    """
    content = Path(path).read_bytes()
    content = content[: content.rfind(b"\n") + 1] or _HEADER
    try:
        table = pd.read_csv(
            io.BytesIO(content),
            dtype=dict.fromkeys(COLUMNS, str)
            | dict.fromkeys(("status", "reason"), "category"),
            keep_default_na=False,
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}") from error
    if tuple(table.columns) != COLUMNS:
        raise ValueError(
            f"{path}: expected columns {','.join(COLUMNS)}, got "
            f"{shown(','.join(map(str, table.columns)))}"
        )
    sizes = pd.to_numeric(table["bytes"], errors="coerce")
    right = table["image_id"].str.fullmatch(IMAGE_ID)
    right &= table["status"].isin(STATUSES)
    right &= (sizes >= 0) & (sizes < 2**53) & (sizes % 1 == 0)
    if not right.all():
        raise ValueError(
            f"{path}: line {int(right.argmin()) + 2}: not an image's id, one "
            f"of {', '.join(STATUSES)}, a reason and a number of bytes"
        )
    table = table.assign(bytes=sizes.astype("int64"))
    return table.drop_duplicates("image_id", keep="last", ignore_index=True)


class Manifest:
    """A manifest that one program at a time adds rows to.

    Each row is handed to the operating system at once, in one write: it
    outlives the program however that ends. The disk has them when the manifest
    is closed.
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a manifest, made if need be, and cuts off a torn last line.

        Args:
          path: manifest.csv, in an existing directory.

        Raises:
          BlockingIOError: if another program adds rows to it.
          ValueError: if it begins otherwise than a manifest.
        """
        self.path = Path(path)
        # Unbuffered: after an error nothing of a row is left to be written.
        self._file = self.path.open("ab+", buffering=0)
        try:
            self._lock()
            self._repair()
        except BaseException:
            self._file.close()
            raise

    def _lock(self):
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{self.path}: another program is adding rows to it"
            ) from error

    def _repair(self):
        content = self.path.read_bytes()
        if not (content.startswith(_HEADER) or _HEADER.startswith(content)):
            raise ValueError(f"{self.path}: not a manifest of images")
        end = content.rfind(b"\n") + 1
        self._file.truncate(end)
        self._file.seek(end)
        if end == 0:
            self._write(_HEADER)

    def append(self, image_id: str, status: str, reason: str, size: int):
        """Adds the row of a finished image.

        Args:
          image_id: its id.
          status: one of `STATUSES`.
          reason: in a few words; line ends become spaces.
          size: bytes that were downloaded.

        Raises:
          OSError: if it cannot be written; the file is then as it was.
        """
        reason = " ".join(reason.split())[:_MAXIMUM_REASON]
        text = io.StringIO()
        row = (image_id, status, reason, size)
        csv.writer(text, lineterminator="\n").writerow(row)
        self._write(text.getvalue().encode())

    def _write(self, line):
        end = self._file.tell()
        try:
            if self._file.write(line) < len(line):
                # The disk took a part of it, and would take no more.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(end)
            self._file.seek(end)
            raise OSError(
                error.errno, error.strerror, str(self.path)
            ) from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_):
        os.fsync(self._file)
        self._file.close()
