"""Shards of image records: read and check the images, write records, labels.

A split is cut into shards, the images in an order by a hash of their names.
Writing a shard leaves its records and, beside them, a part of the split's
label table with a report; `join_parts` makes the whole table of the parts.
Shards are written one at a time here or many at once by Apache Beam; the bytes
are the same either way.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from imcl_tf.data import duplicates, images, records

_SHARD_IMAGES = 2048
_MINIMUM_SHARDS = 8  # to shuffle and read in parallel
_IMAGES_PER_TASK = 32
CLASS_ID = "class_id"  # the extra that becomes the table's `classes`


class ImageFiles(NamedTuple):
    """The images of one split, before they are read.

    Attributes:
      names: N distinct image ids.
      labels: [N, C] int8 csr_array, observed entries -1 or +1.
      read: image id -> bytes of its file; raises OSError; can be pickled.
      extras: further integers by name: [N] of the images ("class_id" is their
        class), or a csr_array [N, C] with the entries of `labels`.
    """

    names: list[str] | np.ndarray
    labels: scipy.sparse.csr_array
    read: Callable[[str], bytes]
    extras: dict[str, np.ndarray | scipy.sparse.csr_array] = {}

    def rows(self, chosen: np.ndarray) -> ImageFiles:
        """The images of indices `chosen` [n], in that order, labels sorted."""
        chosen_rows = self._replace(
            names=[str(self.names[i]) for i in chosen],
            labels=self.labels[chosen],
            extras={name: x[chosen] for name, x in self.extras.items()},
        )
        for values in (chosen_rows.labels, *chosen_rows.extras.values()):
            if scipy.sparse.issparse(values):
                values.sort_indices()
        return chosen_rows


class LabelledImage(NamedTuple):
    """One image with its labels, as the generator of a shard yields it.

    Attributes:
      image_id: its name.
      encoded: its file, or what a record holds.
      columns: [P] int32, label indices, ascending.
      values: [P] int8, -1 or +1.
      extras: further integers by name, [P] or [].
      feature: [d] float32 in the place of `encoded`, or None.
    """

    image_id: str
    encoded: bytes
    columns: np.ndarray
    values: np.ndarray
    extras: dict[str, Any] = {}
    feature: np.ndarray | None = None

    def record(self) -> bytes:
        """What is written of it."""
        if self.feature is None:
            return records.encode_image(self.image_id, self.encoded)
        return records.encode_feature(self.image_id.encode(), self.feature)

    def content_digest(self) -> bytes:
        """See `duplicates.digest`: of the picture or the feature, as written.

        What a picture is written as depends on its file alone, and two files
        of the same pixels may be written alike.
        """
        if self.feature is None:
            return duplicates.digest(self.encoded)
        return duplicates.digest(
            np.ascontiguousarray(self.feature, "<f4").tobytes()
        )


class Findings(NamedTuple):
    """What was met among images.

    Attributes:
      counts: numbers, by what they count.
      left_out: (image id, reason) of images that cannot be used.
      one_colour: ids of images whose pixels are all the same.
    """

    counts: collections.Counter
    left_out: list[tuple[str, str]]
    one_colour: list[str]

    def accept(
        self, image_id: str, found: images.Inspection, skip: bool
    ) -> bool:
        """Notes what is unusual about an image; returns whether to keep it.

        Args:
          image_id: its name.
          found: what is to know about it.
          skip: see `labelled_images`.

        Raises:
          ValueError: if the image cannot be used, without `skip`.
        """
        if found.problem and not skip:
            raise ValueError(
                f"{image_id}: {found.problem}; --on_bad_image=skip leaves such "
                "images out"
            )
        if found.problem:
            self.left_out.append((image_id, found.problem))
            return False
        if found.unusual:
            self.counts[f"images: {found.unusual}"] += 1
        if found.is_one_colour:
            self.one_colour.append(image_id)
        return True


def no_findings() -> Findings:
    """Returns `Findings` to be filled."""
    return Findings(collections.Counter(), [], [])


class Shard(NamedTuple):
    """A shard to write.

    Attributes:
      path: of its records.
      images: yields its images; called with `Findings`, which it fills. It can
        be pickled.
    """

    path: str
    images: Callable[[Findings], Iterator[LabelledImage]]


def cut(names: Sequence[str], split: str) -> list[np.ndarray]:
    """Cuts a split into shards: the indices of their images.

    The order is TFDS's own, by a hash of the names; it does not depend on how
    the names were listed.
    """
    hasher = hashing.Hasher(split)
    hashes = [hasher.hash_key(str(name)) for name in names]
    order = np.array(sorted(range(len(names)), key=hashes.__getitem__), int)
    number = max(
        min(_MINIMUM_SHARDS, len(order)), len(order) // _SHARD_IMAGES, 1
    )
    ends = [round(len(order) * i / number) for i in range(1, number)]
    return np.split(order, ends)


def labelled_images(
    files: ImageFiles, skip: bool, findings: Findings
) -> Iterator[LabelledImage]:
    """Reads and checks image files, in order; see `Shard.images`.

    Args:
      files: the images, labels sorted.
      skip: leave out images that cannot be used, rather than raise.
      findings: gets what was met.

    Raises:
      ValueError: for an image that cannot be used, without `skip`.
    """
    for i, found in enumerate(_read_in_threads(files)):
        if findings.accept(files.names[i], found, skip):
            yield _with_labels(files, i, found.stored)


def checked(
    given: Iterable[LabelledImage], skip: bool, findings: Findings
) -> Iterator[LabelledImage]:
    """Checks images that were read already, as `labelled_images` does.

    Args:
      given: images with `encoded` as it came.
      skip: see `labelled_images`.
      findings: gets what was met.

    Raises:
      ValueError: for an image that cannot be used, without `skip`.
    """
    given = iter(given)
    while some := list(itertools.islice(given, _IMAGES_PER_TASK)):
        inspected = images.inspect_all([image.encoded for image in some])
        for image, found in zip(some, inspected, strict=True):
            if findings.accept(image.image_id, found, skip):
                yield image._replace(encoded=found.stored)


class ListedImages(NamedTuple):
    """The generator of a shard of image files, see `Shard.images`.

    Attributes:
      files: the images, labels sorted.
      skip: see `labelled_images`.
    """

    files: ImageFiles
    skip: bool

    def __call__(self, findings: Findings) -> Iterator[LabelledImage]:
        return labelled_images(*self, findings)


def labelled_features(
    files: ImageFiles,
    read: Callable[[Sequence[str]], tuple[np.ndarray, list[str | None]]],
    skip: bool,
    findings: Findings,
) -> Iterator[LabelledImage]:
    """Reads the features of images; see `Shard.images`.

    Args:
      files: the images, labels sorted.
      read: of `FeatureRows`.
      skip: see `labelled_images`.
      findings: gets what was met.

    Raises:
      ValueError: for features that cannot be used, without `skip`.
    """
    rows, problems = read([*files.names])
    for i, problem in enumerate(problems):
        found = images.Inspection(problem, "RGB")
        if findings.accept(files.names[i], found, skip):
            yield _with_labels(files, i, b"")._replace(feature=rows[i])


def _with_labels(files: ImageFiles, i: int, encoded: bytes) -> LabelledImage:
    row = slice(*files.labels.indptr[i : i + 2])
    return LabelledImage(
        files.names[i],
        encoded,
        files.labels.indices[row],
        files.labels.data[row],
        {
            name: x.data[row] if scipy.sparse.issparse(x) else x[i]
            for name, x in files.extras.items()
        },
    )


def _read_in_threads(files) -> Iterator[images.Inspection]:
    """What `_read_images` returns for all images, in order."""
    read = functools.partial(_read_images, files.read)
    tasks = [
        files.names[start : start + _IMAGES_PER_TASK]
        for start in range(0, len(files.names), _IMAGES_PER_TASK)
    ]
    threads = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # A few at a time: `map` alone would read all of them ahead.
        for start in range(0, len(tasks), 2 * threads):
            for found in pool.map(read, tasks[start : start + 2 * threads]):
                yield from found


def read_file(directory: Path, name: str) -> bytes:
    """The file `name` below `directory`, for `ImageFiles.read`."""
    return (directory / name).read_bytes()


def _read_images(read, names) -> list[images.Inspection]:
    """What is to know about each image; a problem if it cannot be read."""
    encoded, problems = zip(*(_read_image(read, n) for n in names), strict=True)
    return [
        images.Inspection(problem) if problem else found
        for problem, found in zip(
            problems, images.inspect_all(encoded), strict=True
        )
    ]


def _read_image(read, name) -> tuple[bytes, str | None]:
    """An image file, or the problem with it."""
    try:
        return read(name), None
    except FileNotFoundError:
        return b"", "no such image file"
    except OSError as error:
        return b"", error.strerror or str(error)


def write(shard: Shard):
    """Writes a shard's records and, beside them, its part of the labels."""
    findings = no_findings()
    written, contents = [], []
    size, digest = 0, hashlib.sha256()
    with tf.io.TFRecordWriter(shard.path) as writer:
        for image in shard.images(findings):
            record = image.record()
            writer.write(record)
            digest.update(record)
            size += len(record)
            contents.append(image.content_digest())
            written.append(image._replace(encoded=b"", feature=None))
    report = {
        "bytes": size,
        "digest": digest.hexdigest(),
        **findings._asdict(),
    }
    _write_part(_part_file(shard.path), written, contents, report)


def _part_file(path: str) -> Path:
    return Path(f"{path}.labels.npz")


def _write_part(
    path: Path,
    written: list[LabelledImage],
    contents: list[bytes],
    report: dict,
):
    extras: dict[str, list[np.ndarray]] = {}
    for image in written:
        for name, values in image.extras.items():
            extras.setdefault(name, []).append(np.atleast_1d(values))
    joined: dict[str, Any] = {
        f"extra_{name}": _joined(x, np.int32) for name, x in extras.items()
    }
    np.savez(
        path,
        report=np.array(json.dumps(report)),
        image_ids=records.to_bytes([image.image_id for image in written]),
        counts=np.array([len(image.columns) for image in written], np.int64),
        columns=_joined([image.columns for image in written], np.int32),
        values=_joined([image.values for image in written], np.int8),
        contents=np.frombuffer(b"".join(contents), "<u8"),
        **joined,
    )


def _joined(parts, dtype) -> np.ndarray:
    """The parts one after another, of `dtype` even where there is none."""
    return np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype)


class Report(NamedTuple):
    """What went into the shards of a split.

    Attributes:
      lengths: number of records of each shard.
      num_bytes: of all records.
      findings: what was met.
      contents: [N] uint64, `LabelledImage.content_digest` of the images.
    """

    lengths: list[int]
    num_bytes: int
    findings: Findings
    contents: np.ndarray


def has_images(paths: Sequence[str]) -> bool:
    """Whether any of these shards has a record."""
    return any(os.stat(path).st_size for path in paths)


def join_parts(
    paths: Sequence[str], label_names: Sequence[str], source_digest: str = ""
) -> tuple[records.SplitLabels, Report]:
    """Makes a split's label table of the parts beside its shards.

    Args:
      paths: of the shards' records, in order. The parts are removed.
      label_names: C names.
      source_digest: see `records.SplitLabels`.

    Raises:
      ValueError: for a label index outside [0, C).
    """
    arrays: dict[str, list[np.ndarray]] = {}
    reports = []
    for part_file in map(_part_file, paths):
        with part_file.open("rb") as file, np.load(file) as part:
            reports.append(json.loads(str(part["report"])))
            for name in part.files:
                if name != "report":
                    arrays.setdefault(name, []).append(part[name])
        part_file.unlink()
    findings = no_findings()
    for report in reports:
        findings.counts.update(report["counts"])
        findings.left_out.extend(tuple(row) for row in report["left_out"])
        findings.one_colour.extend(report["one_colour"])
    lengths = [len(ids) for ids in arrays["image_ids"]]
    for path, columns in zip(paths, arrays["columns"], strict=True):
        limits = columns.min(initial=0), columns.max(initial=0)
        if not 0 <= limits[0] <= limits[1] < max(len(label_names), 1):
            raise ValueError(
                f"{path}: label indices must lie in [0, {len(label_names)}), "
                f"got {limits[0]} to {limits[1]}"
            )
    # One kind of array at a time: joining all at once doubles the memory.
    joined = {name: np.concatenate(arrays.pop(name)) for name in list(arrays)}
    table = records.SplitLabels(
        joined["image_ids"],
        _csr(
            joined["values"],
            joined["columns"],
            joined["counts"],
            len(label_names),
        ),
        tuple(label_names),
        joined.pop(f"extra_{CLASS_ID}", np.zeros(0, np.int32)),
        {
            name.removeprefix("extra_"): smallest(values)
            for name, values in joined.items()
            if name.startswith("extra_")
        },
        np.array([os.stat(path).st_size for path in paths]),
        source_digest,
        np.array([report["digest"] for report in reports], bytes),
    )
    size = sum(report["bytes"] for report in reports)
    return table, Report(lengths, size, findings, joined["contents"])


def _csr(values, columns, counts, num_labels) -> scipy.sparse.csr_array:
    row_splits = np.concatenate([[0], counts]).cumsum()
    # Else SciPy takes eight bytes for each column too.
    dtype = scipy.sparse.get_index_dtype(maxval=columns.size)
    return scipy.sparse.csr_array(
        (values, columns, row_splits.astype(dtype)),
        shape=(len(counts), num_labels),
    )


def smallest(values: np.ndarray) -> np.ndarray:
    """Integers, in the smallest type that holds them all."""
    limits = values.min(initial=0), values.max(initial=0)
    return values.astype(np.result_type(*map(np.min_scalar_type, limits)))


def write_with_beam(
    shards: Sequence[Shard], download_config: tfds.download.DownloadConfig
):
    """Writes shards with Apache Beam, wherever its runner likes.

    Args:
      shards: to be written.
      download_config: tfds.download.DownloadConfig with Beam's runner and
        options.

    Raises:
      ValueError: what writing a shard raised.
    """
    import apache_beam as beam

    tasks = [(shard.path, _planned(shard)) for shard in shards]
    try:
        with beam.Pipeline(
            runner=download_config.beam_runner,
            options=download_config.beam_options,
        ) as pipeline:
            _ = (
                pipeline
                | beam.Create(tasks)
                | beam.Reshuffle()
                | beam.Map(_write_task)
            )
    except Exception as error:
        for shard in shards:
            reason = Path(_error_file(shard.path))
            if reason.exists():
                raise ValueError(reason.read_text("utf-8")) from error
        raise
    # Not before: Beam may repeat what was done beside something that failed.
    for shard in shards:
        Path(_plan_file(shard.path)).unlink(missing_ok=True)


def _planned(shard: Shard) -> Callable:
    """What Beam sends to a worker in the place of `shard.images`.

    A job's graph has no room for millions of names and labels: those of image
    files lie in a file of arrays beside the shard.
    """
    if not isinstance(shard.images, ListedImages):
        return shard.images
    plan = _plan_file(shard.path)
    files, skip = shard.images
    _write_plan(plan, files)
    return functools.partial(_planned_images, plan, files.read, skip)


def _write_plan(plan: str, files: ImageFiles):
    sparse = {n: x for n, x in files.extras.items() if scipy.sparse.issparse(x)}
    extras: dict[str, Any] = {
        f"extra_{name}": x.data if name in sparse else np.asarray(x)
        for name, x in files.extras.items()
    }
    np.savez(
        plan,
        names=records.to_bytes([*files.names]),
        values=files.labels.data,
        columns=files.labels.indices,
        row_splits=files.labels.indptr,
        num_labels=np.array(files.labels.shape[1]),
        of_labels=records.to_bytes([*sparse]),
        **extras,
    )


def _read_plan(plan: str, read: Callable[[str], bytes]) -> ImageFiles:
    """The inverse of `_write_plan`."""
    with np.load(plan) as kept:
        names = records.from_bytes(kept["names"])
        places = kept["columns"], kept["row_splits"]
        shape = len(names), int(kept["num_labels"])
        of_labels = records.from_bytes(kept["of_labels"])
        extras = {
            name.removeprefix("extra_"): kept[name]
            for name in kept.files
            if name.startswith("extra_")
        }
        return ImageFiles(
            [*names],
            scipy.sparse.csr_array((kept["values"], *places), shape),
            read,
            {
                name: scipy.sparse.csr_array((x, *places), shape)
                if name in of_labels
                else x
                for name, x in extras.items()
            },
        )


def _planned_images(plan, read, skip, findings):
    return labelled_images(_read_plan(plan, read), skip, findings)


def _write_task(task: tuple[str, Callable]):
    shard = Shard(*task)
    try:
        write(shard)
    except ValueError as error:
        # Beam wraps it in pages of its own.
        Path(_error_file(shard.path)).write_text(str(error), "utf-8")
        raise


def _plan_file(path: str) -> str:
    return f"{path}.plan.npz"


def _error_file(path: str) -> str:
    return f"{path}.error"
