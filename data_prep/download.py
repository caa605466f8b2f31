"""Downloads the images of Open Images v3.

    python -m data_prep.download --images=raw/train/images.csv
        --annotations=raw/train/annotations-human.csv --out=raw/images/train

An image that is complete and decodes is stored as OUT/ab/abcdef....jpg, in a
folder named by the first two characters of its id. The result for each image is
a row of OUT/manifest.csv (`imcl_tf.data.manifest`). After an interruption the
same command resumes where it stopped.

The images come from Flickr: 300K thumbnails (about 640 by 480 pixels), whose
bytes change when Flickr renders them again, or the originals, whose size and
MD5 are checked. An image without thumbnail is taken from its original.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.DOWNLOAD)

import collections
import itertools
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
from absl import flags, logging

from data_prep.fetching import Fetcher, Job, fetch_all
from imcl_tf.data.manifest import (
    FINAL,
    IMAGE_ID,
    STATUSES,
    Manifest,
    image_path,
    read_manifest,
)
from imcl_tf.files import fail

_COLUMNS = (
    "ImageID",
    "OriginalURL",
    "OriginalSize",
    "OriginalMD5",
    "Thumbnail300KURL",
)
_REPORT_EVERY = 10.0
_BLOCK = 1 << 24  # bytes of a CSV file at a time

FLAGS = flags.FLAGS


def download(
    images_csv: str | os.PathLike,
    out: str | os.PathLike,
    ids: str | os.PathLike | None = None,
    annotations: Sequence[str | os.PathLike] = (),
    limit: int | None = None,
    url: str = "thumbnail",
    retry_missing: bool = False,
    parallel: int = 32,
    rate: float = 50.0,
    retries: int = 3,
    timeout: float = 20.0,
    backoff: float = 1.0,
) -> collections.Counter[str]:
    """Downloads images that have no final status yet.

    Args:
      images_csv: images.csv of one split of Open Images.
      out: directory of the images and the manifest; made if it is missing.
      ids: file with the ids of the images to download, one per line; None =
        all images.
      annotations: files of annotations; only images with a row in one of them
        are downloaded. Empty = all images.
      limit: download only the first `limit` images; None = all.
      url: "thumbnail" or "original".
      retry_missing: request missing and corrupt images again.
      parallel: number of threads.
      rate: see `Fetcher`.
      retries: see `Fetcher`.
      timeout: see `Fetcher`.
      backoff: see `Fetcher`.

    Returns:
      status -> number of the selected images that have it now.

    Raises:
      ValueError: if a file is malformed or no image is selected.
      OSError: if a file cannot be read or written, or another download writes
        to `out`.
    """
    numbers, taken = _take(images_csv, ids, annotations, limit)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with Manifest(out / "manifest.csv") as manifest:
        final = _final(out, read_manifest(manifest.path), retry_missing)
        progress = _Progress(final.reindex(numbers[taken]))
        todo = taken & ~np.isin(numbers, final.index)
        fetch = Fetcher(out, rate, retries, timeout, backoff)

        def record(outcome):
            manifest.append(*outcome)
            progress.add(outcome.status)

        fetch_all(_jobs(images_csv, todo, url), fetch, record, parallel)
    return progress.counts


def _rows(path, columns, names=None) -> Iterator[pa.RecordBatch]:
    """Yields columns of a CSV file as text, some megabytes at a time."""
    read = pa.csv.ReadOptions(
        block_size=_BLOCK,
        column_names=names,
        use_threads=False,  # with threads, errors do not name the row
    )
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    convert = pa.csv.ConvertOptions(
        include_columns=list(columns),
        column_types=dict.fromkeys(columns, pa.string()),
    )
    try:
        with pa.csv.open_csv(str(path), read, parse, convert) as reader:
            yield from reader
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(f"{path}: {str(error)[:300]}") from error


def _numbers(ids: Iterable[str]) -> np.ndarray:
    """N image ids as [N] uint64: 8 bytes each, where a str takes 65."""
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64)


def _ids(path, columns=("ImageID",), names=None) -> Iterator[np.ndarray]:
    row = 1 if names else 2
    for batch in _rows(path, columns, names):
        column = batch.column(0)
        right = pa.compute.match_substring_regex(column, f"^{IMAGE_ID}$")
        if right.true_count != len(column):
            wrong = right.index(False).as_py()
            raise ValueError(
                f"{path}: row {row + wrong}: ImageID must be 16 hexadecimal "
                f"digits, got {column[wrong].as_py()!r}"
            )
        row += len(column)
        yield _numbers(column.to_pylist())


def _take(images_csv, ids, annotations, limit) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N] of the rows of images.csv as numbers; which are selected."""
    none = np.empty(0, np.uint64)
    numbers = np.concatenate([none, *_ids(images_csv, _COLUMNS)])
    taken = np.zeros(len(numbers), bool)
    taken[np.unique(numbers, return_index=True)[1]] = True
    if not taken.all():
        logging.warning(
            "%s: %d rows repeat an id; the first row of each id is used",
            images_csv,
            len(taken) - taken.sum(),
        )
    named: list[tuple[object, Iterator[np.ndarray]]] = []
    if ids:
        named.append((ids, _ids(ids, names=["ImageID"])))
    if annotations:
        chained = itertools.chain.from_iterable(map(_ids, annotations))
        named.append((", ".join(map(str, annotations)), chained))
    for source, parts in named:
        wanted = np.concatenate([none, *map(np.unique, parts)])
        taken &= np.isin(numbers, wanted)
        absent = np.setdiff1d(wanted, numbers)
        if len(absent):
            logging.warning(
                "%s: %d images are not in %s, for example %016x",
                source,
                len(absent),
                images_csv,
                absent[0],
            )
    if not taken.any():
        raise ValueError(f"{images_csv}: none of the selected images is listed")
    if limit is not None:
        taken[np.flatnonzero(taken)[limit:]] = False
    return numbers, taken


def _final(out, rows, retry_missing) -> pd.Series:
    """Id as number -> status of the images that need no further request."""
    rows = rows[rows["status"].isin(FINAL[:1] if retry_missing else FINAL)]
    rows = rows.set_axis(_numbers(rows["image_id"]))
    done = rows["status"] == "done"
    # A crash of the machine may leave rows without files, or truncated files.
    sizes = _sizes(out).reindex(rows.index)
    return rows["status"][~done | (rows["bytes"] == sizes)]


def _sizes(out) -> pd.Series:
    """Id as number -> bytes of the stored images."""
    numbers, sizes = [np.empty(0, np.uint64)], list[int]()
    for folder in os.scandir(out):
        if not (re.fullmatch("[0-9a-f]{2}", folder.name) and folder.is_dir()):
            continue
        files = {}
        for file in os.scandir(folder.path):
            if re.fullmatch(rf"\.unfinished-{IMAGE_ID}\.jpg", file.name):
                os.unlink(file)
            # Other files, the user's own, stay as they are.
            elif (
                re.fullmatch(rf"{IMAGE_ID}\.jpg", file.name)
                and image_path(out, file.name[:-4]) == Path(file)
            ):  # fmt: skip
                files[file.name[:-4]] = file.stat().st_size
        numbers.append(_numbers(files))
        sizes += files.values()
    return pd.Series(sizes, np.concatenate(numbers), "int64")


def _jobs(images_csv, todo, url) -> Iterator[Job]:
    start = 0
    for batch in _rows(images_csv, _COLUMNS):
        here = pa.array(todo[start : start + len(batch)])
        start += len(batch)
        for row in batch.filter(here).to_pylist():
            image_id, original, size, md5, thumbnail = row.values()
            if url == "thumbnail" and thumbnail:
                yield Job(image_id, thumbnail, "", "")
            else:
                yield Job(image_id, original, size, md5)


class _Progress:
    """Counts images by status and prints the counts every few seconds."""

    def __init__(self, before: pd.Series):
        """Starts with the statuses of all images, NaN = to be fetched."""
        self.counts = collections.Counter(before.dropna())
        self._total, self._new = len(before), 0
        self._begun = time.monotonic()
        self.print()

    def add(self, status: str):
        self.counts[status] += 1
        self._new += 1
        if time.monotonic() > self._printed + _REPORT_EVERY:
            self.print()

    def print(self):
        self._printed = time.monotonic()
        rate = self._new / max(self._printed - self._begun, 1e-9)
        print(
            f"{self.counts.total():,} of {self._total:,} images: "
            f"{summary(self.counts)}; {rate:.1f} images/s",
            file=sys.stderr,
        )


def summary(counts: collections.Counter[str]) -> str:
    """The counts by status as one line of text."""
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES)


def main(argv: list[str]):
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        for name in ("images", "out"):
            if not FLAGS[name].value:
                raise ValueError(f"--{name} must be given")
        counts = download(
            FLAGS.images,
            FLAGS.out,
            ids=FLAGS.ids or None,
            annotations=FLAGS.annotations,
            limit=FLAGS.limit or None,
            url=FLAGS.url,
            retry_missing=FLAGS.retry_missing,
            rate=FLAGS.rate,
            parallel=FLAGS.parallel,
            retries=FLAGS.retries,
            timeout=FLAGS.timeout,
        )
    except KeyboardInterrupt:
        fail(Exception("stopped; the same command resumes the download"))
    except (ValueError, OSError) as error:
        fail(error)
    print(f"{FLAGS.out}: {summary(counts)}")
    if counts["failed"]:
        fail(
            Exception(
                f"{counts['failed']} images failed, see {FLAGS.out}/"
                "manifest.csv for the reasons; the same command tries them "
                "again"
            )
        )


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
