"""Downloads the images of Open Images v3.

    python -m data_prep.download --images=raw/train/images.csv
        --annotations=raw/train/annotations-human.csv --out=raw/images/train

An image goes to OUT/ab/abcdef....jpg, by the first two characters of its id,
once it came whole and decodes; what became of each image goes to
OUT/manifest.csv (`imcl_tf.manifest`). However the program ends, the same
command goes on where it stopped.

From Flickr: 300K thumbnails (about 640 by 480), which Flickr makes anew from
time to time, or the originals, whose size and MD5 are checked. Where an image
has no thumbnail its original is taken.
"""

from __future__ import annotations

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
from absl import app, flags, logging

from imcl_tf.fetching import Fetcher, Job, fetch_all
from imcl_tf.files import fail, parse_or_fail
from imcl_tf.manifest import (
    FINAL,
    IMAGE_ID,
    STATUSES,
    Manifest,
    image_path,
    read_manifest,
)

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
      images_csv: Open Images' images.csv of one split.
      out: directory of the images and of their manifest; made if need be.
      ids: file of the images to take, one id per line; None takes all.
      annotations: take images that are in one of these files alone.
      limit: take that many at most, the first ones.
      url: "thumbnail" or "original".
      retry_missing: ask again for what was missing or corrupt.
      parallel: threads.
      rate: see `Fetcher`; so are retries, timeout and backoff.

    Returns:
      status -> how many of the images taken now have it.

    Raises:
      ValueError: for a file that does not hold what it should, or no image.
      OSError: if something cannot be read or written, or another download
        writes to `out`.
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
    """Columns of a CSV file, as text, some megabytes at a time."""
    read = pa.csv.ReadOptions(
        block_size=_BLOCK,
        column_names=names,
        use_threads=False,  # with threads, errors do not tell the row
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
    """[N] uint64 of N image ids: 8 bytes each, where a str has 65."""
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
    """Numbers [N] of the rows of images.csv, and whether each is taken."""
    none = np.empty(0, np.uint64)
    numbers = np.concatenate([none, *_ids(images_csv, _COLUMNS)])
    taken = np.zeros(len(numbers), bool)
    taken[np.unique(numbers, return_index=True)[1]] = True
    if not taken.all():
        logging.warning(
            "%s: %d rows repeat an id; the first one of each counts",
            images_csv,
            len(taken) - taken.sum(),
        )
    named = [(ids, _ids(ids, names=["ImageID"]))] if ids else []
    if annotations:
        parts = itertools.chain.from_iterable(map(_ids, annotations))
        named.append((", ".join(map(str, annotations)), parts))
    for source, parts in named:
        wanted = np.concatenate([none, *map(np.unique, parts)])
        taken &= np.isin(numbers, wanted)
        absent = np.setdiff1d(wanted, numbers)
        if len(absent):
            logging.warning(
                "%s: %d images are not in %s, %016x for one",
                source,
                len(absent),
                images_csv,
                absent[0],
            )
    if not taken.any():
        raise ValueError(f"{images_csv}: holds none of the images asked for")
    if limit is not None:
        taken[np.flatnonzero(taken)[limit:]] = False
    return numbers, taken


def _final(out, rows, retry_missing) -> pd.Series:
    """Number -> status of the images that need no further request."""
    rows = rows[rows["status"].isin(FINAL[:1] if retry_missing else FINAL)]
    rows = rows.set_axis(_numbers(rows["image_id"]))
    done = rows["status"] == "done"
    # A crash of the machine may have left rows without files, or cut files.
    sizes = _sizes(out).reindex(rows.index)
    return rows["status"][~done | (rows["bytes"] == sizes)]


def _sizes(out) -> pd.Series:
    """Number -> bytes of the images that are there."""
    numbers, sizes = [np.empty(0, np.uint64)], []
    for folder in os.scandir(out):
        if not re.fullmatch("[0-9a-f]{2}", folder.name):
            continue
        files = {}
        for file in os.scandir(folder):
            if re.fullmatch(rf"\.unfinished-{IMAGE_ID}\.jpg", file.name):
                os.unlink(file)
            elif image_path(out, file.name[:-4]) == Path(file):
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
    """Counts images by status and tells every few seconds."""

    def __init__(self, before: pd.Series):
        """Starts with the statuses of all images, NaN for what is to do."""
        self.counts = collections.Counter(before.dropna())
        self._total, self._new = len(before), 0
        self._begun = time.monotonic()
        self.tell()

    def add(self, status: str):
        self.counts[status] += 1
        self._new += 1
        if time.monotonic() > self._told + _REPORT_EVERY:
            self.tell()

    def tell(self):
        self._told = time.monotonic()
        rate = self._new / max(self._told - self._begun, 1e-9)
        print(
            f"{self.counts.total():,} of {self._total:,} images: "
            f"{summary(self.counts)}; {rate:.1f} images/s",
            file=sys.stderr,
        )


def summary(counts: collections.Counter[str]) -> str:
    """Counts by status, in one line."""
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES)


def _define_flags():
    """Not at import: programs share names of flags, tests import several."""
    flags.DEFINE_string("images", None, "Open Images' images.csv of a split.")
    flags.DEFINE_string("out", None, "Where the images and manifest.csv go.")
    flags.DEFINE_string("ids", None, "Take these alone: a file, one id a line.")
    flags.DEFINE_multi_string(
        "annotations",
        [],
        "Take images alone that have a row in this file of annotations; may "
        "be given more than once.",
    )
    flags.DEFINE_integer("limit", None, "Images to take.", lower_bound=1)
    flags.DEFINE_enum(
        "url",
        "thumbnail",
        ("thumbnail", "original"),
        "Flickr's about 640 by 480 pixels, or the original.",
    )
    flags.DEFINE_boolean(
        "retry_missing", False, "Ask again for what was missing or corrupt."
    )
    flags.DEFINE_float("rate", 50.0, "Requests per second.", lower_bound=1e-3)
    flags.DEFINE_integer("parallel", 32, "Threads.", lower_bound=1)
    flags.DEFINE_integer(
        "retries", 3, "After a passing failure.", lower_bound=0
    )
    flags.DEFINE_float(
        "timeout", 20.0, "Seconds to wait for a byte.", lower_bound=1e-3
    )


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
            ids=FLAGS.ids,
            annotations=FLAGS.annotations,
            limit=FLAGS.limit,
            url=FLAGS.url,
            retry_missing=FLAGS.retry_missing,
            rate=FLAGS.rate,
            parallel=FLAGS.parallel,
            retries=FLAGS.retries,
            timeout=FLAGS.timeout,
        )
    except KeyboardInterrupt:
        fail(Exception("stopped; the same command goes on from here"))
    except (ValueError, OSError) as error:
        fail(error)
    print(f"{FLAGS.out}: {summary(counts)}")
    if counts["failed"]:
        fail(
            Exception(
                f"{counts['failed']} images failed, for reasons in "
                f"{FLAGS.out}/manifest.csv; the same command tries them again"
            )
        )


if __name__ == "__main__":
    _define_flags()
    app.run(main, flags_parser=parse_or_fail(FLAGS))
