"""Shards: the files that the records of a split lie in, and how to write them.

A split is cut into shards, the images in an order by a hash of their names.
Writing a shard leaves its records and, beside them, a part of the split's
label table with a report; `join_parts` makes the whole table of the parts.
Shards are written one at a time here or many at once by Apache Beam; the bytes
are the same either way.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from imcl_tf.data import records
from imcl_tf.data.labelled_images import (
    Findings,
    ImageFiles,
    LabelledImage,
    ListedImages,
    labelled_images,
    no_findings,
)

_SHARD_IMAGES = 2048
_MINIMUM_SHARDS = 8  # to shuffle and read in parallel
CLASS_ID = "class_id"  # the extra that becomes the table's `classes`


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
        # Of a task that failed at first; Beam has repeated it.
        Path(_error_file(shard.path)).unlink(missing_ok=True)


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
