"""Records of image data sets: what every TFDS builder here shares.

A builder lists the images of each split with their observed labels
(`ImageFiles`). The rest is common: images are checked, turned upright, put in
random order and written shard by shard, one shard at a time here or many at
once by Apache Beam, the same bytes either way.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from imcl_tf import images, records, scenes
from imcl_tf.files import write_csv

SPLITS = ("train", "validation", "test")
LEFT_OUT = "left_out.csv"
_SHARD_IMAGES = 2048
_LEAST_SHARDS = 8  # to shuffle and read in parallel
_IMAGES_PER_TASK = 32
_SCENES_SIZES = {"train": 4000, "validation": 500, "test": 1500}


class ImageFiles(NamedTuple):
    """The images of one split, before they are read.

    Attributes:
      names: N distinct image ids.
      labels: [N, C] int8 csr_array, observed entries -1 or +1.
      read: image id -> bytes of its file; raises OSError. To be pickled.
      extras: further features of the records, by name: [N] int of the images,
        or [N, C] csr_array with the entries of `labels`, of the labels.
    """

    names: list[str] | np.ndarray
    labels: scipy.sparse.csr_array
    read: Callable[[str], bytes]
    extras: dict[str, np.ndarray | scipy.sparse.csr_array] = {}

    def rows(self, chosen: np.ndarray) -> ImageFiles:
        """The images numbered `chosen` [n], in that order."""
        return self._replace(
            names=[str(self.names[i]) for i in chosen],
            labels=self.labels[chosen],
            extras={name: x[chosen] for name, x in self.extras.items()},
        )


class Contents(NamedTuple):
    """What a builder found in its raw files.

    Attributes:
      label_names: C distinct names.
      splits: "train", "validation" and "test" -> `ImageFiles`.
      counts: what the raw files held, and what of it was not used, by name.
    """

    label_names: tuple[str, ...]
    splits: dict[str, ImageFiles]
    counts: dict[str, int] = {}


class _Shard(NamedTuple):
    """A shard to write: its path, and what yields its records and report."""

    path: str
    records: Callable[[collections.Counter, list], Iterator[bytes]]


class MultiLabelBuilder(
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Base of the builders: `_split_generators` gives the shards' generators.

    A generator takes a counter and a list and yields serialized records; it
    may count what it met and list (image id, reason) of what it left out. It
    is run wherever Beam likes, and so must be picklable.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = "Images with partial labels."
    HOMEPAGE = CITATION = LICENSE = None
    EXTRA_FEATURES: dict = {}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENSE,
            features=records.tfds_features(self.EXTRA_FEATURES),
            metadata=tfds.core.MetadataDict(),
        )

    def _generate_examples(self):
        # TFDS asks for it; here a split is shards from the start.
        raise NotImplementedError

    def _generate_splits(self, dl_manager, download_config):
        # In place of TFDS's own, which passes every image through a shuffle
        # on disk, or with Beam in memory, and then cuts other shards.
        shards = {}
        for split, generators in self._split_generators(dl_manager).items():
            place = self._get_filename_template(split_name=split)
            shards[split] = [
                _Shard(
                    os.fspath(
                        place.sharded_filepath(
                            shard_index=i, num_shards=len(generators)
                        )
                    ),
                    generator,
                )
                for i, generator in enumerate(generators)
            ]
        everything = list(itertools.chain(*shards.values()))
        if download_config.beam_runner or download_config.beam_options:
            _write_with_beam(everything, download_config)
        else:
            for shard in tfds.core.utils.tqdm(
                everything, desc="Writing", unit=" shards"
            ):
                _write_shard(shard)
        return self._collect(shards)

    def _collect(self, shards) -> list[tfds.core.SplitInfo]:
        """Sums up the reports that the shards left beside their records."""
        counts = collections.Counter(self.info.metadata.get("counts", {}))
        infos, left_out = [], []
        for split, of_split in shards.items():
            reports = []
            for shard in of_split:
                path = Path(_report_file(shard.path))
                reports.append(json.loads(path.read_text()))
                path.unlink()
            for report in reports:
                counts.update(report["counts"])
                left_out += [(split, *row) for row in report["left_out"]]
            lengths = [report["length"] for report in reports]
            if not sum(lengths):
                raise ValueError(f"split {split} has no image that can be used")
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=lengths,
                    num_bytes=sum(report["bytes"] for report in reports),
                    filename_template=self._get_filename_template(
                        split_name=split
                    ),
                )
            )
        if left_out:
            counts["images left out"] = len(left_out)
            write_csv(
                Path(self.data_path) / LEFT_OUT,
                ("split", "image_id", "reason"),
                sorted(left_out),
            )
        self.info.metadata["counts"] = dict(sorted(counts.items()))
        return infos


class ImageFilesBuilder(MultiLabelBuilder, skip_registration=True):
    """Base of the builders of image files: `_contents` lists them.

    Args:
      on_bad_image: "error", or "skip" to leave out and list images that cannot
        be used.
      **kwargs: of TFDS builders: data_dir, config, version.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "See the README."

    def __init__(self, *, on_bad_image: str = "error", **kwargs):
        if on_bad_image not in ("error", "skip"):
            raise ValueError(
                f"on_bad_image must be error or skip, got {on_bad_image!r}"
            )
        self.on_bad_image = on_bad_image
        super().__init__(**kwargs)

    def _contents(self, raw_dir: Path) -> Contents:
        """Reads and checks all but the images."""
        raise NotImplementedError

    def _split_generators(self, dl_manager):
        contents = self._contents(Path(dl_manager.manual_dir))
        self.info.metadata["labels"] = list(contents.label_names)
        self.info.metadata["counts"] = contents.counts
        return {
            split: self._shard_generators(files, split)
            for split, files in contents.splits.items()
        }

    def _shard_generators(self, files, split):
        skip = self.on_bad_image == "skip"
        return [
            functools.partial(_file_records, files.rows(rows), skip)
            for rows in _shards(files.names, split)
        ]


def _shards(names, split: str) -> list[np.ndarray]:
    """Cuts a split into shards: the numbers of their images.

    The order is TFDS's own, by a hash of the names; it does not depend on how
    the names were listed.
    """
    hasher = hashing.Hasher(split)
    hashes = [hasher.hash_key(str(name)) for name in names]
    order = np.array(sorted(range(len(names)), key=hashes.__getitem__), int)
    number = max(min(_LEAST_SHARDS, len(order)), len(order) // _SHARD_IMAGES, 1)
    ends = [round(len(order) * i / number) for i in range(1, number)]
    return np.split(order, ends)


class Scenes(MultiLabelBuilder):
    """Rendered scenes, 64 px, every label of every image known."""

    DESCRIPTION = "Rendered scenes with dependent labels."

    def _split_generators(self, dl_manager):
        del dl_manager
        self.info.metadata["labels"] = list(scenes.LABELS)
        return {
            split: self._shard_generators(split, seed, size)
            for seed, (split, size) in enumerate(_SCENES_SIZES.items())
        }

    def _shard_generators(self, split, seed, size):
        names = [f"{seed}-{number:05d}.jpg" for number in range(size)]
        return [
            functools.partial(
                _scene_records, seed, [(int(i), names[i]) for i in rows]
            )
            for rows in _shards(names, split)
        ]


def _scene_records(seed, numbered, counts, left_out):
    del counts, left_out
    for number, name in numbered:
        image, labels = scenes.render(seed, number)
        yield records.encode_image(
            name,
            tf.io.encode_jpeg(image, quality=90).numpy(),
            np.flatnonzero(labels > 0),
            np.flatnonzero(labels < 0),
        )


def _file_records(
    files: ImageFiles, skip: bool, counts: collections.Counter, left_out: list
) -> Iterator[bytes]:
    """Records of image files, in order; see `MultiLabelBuilder`."""
    for i, (encoded, unusual, problem) in enumerate(_read_in_threads(files)):
        if problem is None:
            counts.update(unusual)
            yield _file_record(files, i, encoded)
        elif skip:
            left_out.append((files.names[i], problem))
        else:
            raise ValueError(
                f"{files.names[i]}: {problem}; --on_bad_image=skip leaves such "
                "images out"
            )


def _read_in_threads(files) -> Iterator[tuple[bytes, list[str], str | None]]:
    """What `_read_images` tells of all images, in order."""
    read = functools.partial(_read_images, files.read)
    tasks = [
        files.names[start : start + _IMAGES_PER_TASK]
        for start in range(0, len(files.names), _IMAGES_PER_TASK)
    ]
    threads = os.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # A few at a time: `map` alone would read all of them ahead.
        for start in range(0, len(tasks), 2 * threads):
            for told in pool.map(read, tasks[start : start + 2 * threads]):
                yield from told


def read_file(directory: Path, name: str) -> bytes:
    """The file `name` below `directory`, for `ImageFiles.read`."""
    return (directory / name).read_bytes()


def _read_images(read, names) -> list[tuple[bytes, list[str], str | None]]:
    """(upright image, [what is unusual about it], problem or None) of each."""
    encoded, problems = zip(*(_read_image(read, n) for n in names), strict=True)
    told = []
    for image, problem, found in zip(
        encoded, problems, images.inspect_all(encoded), strict=True
    ):
        problem = problem or found.problem
        if problem:
            told.append((b"", [], problem))
        else:
            unusual = [f"images: {found.unusual}"] if found.unusual else []
            told.append((images.upright(image), unusual, None))
    return told


def _read_image(read, name) -> tuple[bytes, str | None]:
    """An image file, or the problem with it."""
    try:
        return read(name), None
    except FileNotFoundError:
        return b"", "no such image file"
    except OSError as error:
        return b"", error.strerror or str(error)


def _file_record(files: ImageFiles, i: int, encoded: bytes) -> bytes:
    row = slice(*files.labels.indptr[i : i + 2])
    labels, present = files.labels.indices[row], files.labels.data[row] > 0
    extras = {}
    for name, values in files.extras.items():
        if scipy.sparse.issparse(values):
            values = values.data[row]
            extras[name] = [*values[present], *values[~present]]
        else:
            extras[name] = [values[i]]
    return records.encode_image(
        files.names[i], encoded, labels[present], labels[~present], extras
    )


def _report_file(path: str) -> str:
    return f"{path}.report.json"


def _write_shard(shard: _Shard):
    """Writes a shard and, beside it, a report of what went into it."""
    counts, left_out = collections.Counter(), []
    length = size = 0
    with tf.io.TFRecordWriter(shard.path) as writer:
        for record in shard.records(counts, left_out):
            writer.write(record)
            length += 1
            size += len(record)
    report = {
        "length": length,
        "bytes": size,
        "counts": counts,
        "left_out": left_out,
    }
    Path(_report_file(shard.path)).write_text(json.dumps(report))


def _write_with_beam(shards: list[_Shard], download_config):
    import apache_beam as beam

    # Plans travel as files: a job's graph has no room for millions of names.
    plans = [f"{shard.path}.plan" for shard in shards]
    for plan, shard in zip(plans, shards, strict=True):
        Path(plan).write_bytes(pickle.dumps(shard))
    try:
        with beam.Pipeline(
            runner=download_config.beam_runner,
            options=download_config.beam_options,
        ) as pipeline:
            _ = (
                pipeline
                | beam.Create(plans)
                | beam.Reshuffle()
                | beam.Map(_write_planned)
            )
    except Exception as error:
        for told in map(Path, map(_error_file, plans)):
            if told.exists():
                raise ValueError(told.read_text()) from error
        raise
    # Not before: Beam may repeat what was done beside something that failed.
    for plan in plans:
        Path(plan).unlink()


def _write_planned(plan: str):
    try:
        _write_shard(pickle.loads(Path(plan).read_bytes()))
    except ValueError as error:
        # Beam wraps it in pages of its own.
        Path(_error_file(plan)).write_text(str(error))
        raise


def _error_file(plan: str) -> str:
    return f"{plan}.error"


def prepare(
    builder: tfds.core.DatasetBuilder,
    raw_dir: str | os.PathLike | None = None,
    beam_runner: str = "",
    beam_options: tuple[str, ...] = (),
) -> tfds.core.DatasetBuilder:
    """Makes the records of a data set unless they exist already.

    Args:
      builder: of the data set.
      raw_dir: holds its raw files; nothing is written there.
      beam_runner: name of an Apache Beam runner, "" = without Beam. Workers
        must see the raw files and the records' directory.
      beam_options: of that runner, as on its command line.

    Returns:
      `builder`, prepared.

    Raises:
      ValueError: for raw files that do not hold what they should.
      FileNotFoundError: for a missing file.
      OSError: if the records cannot be written.
    """
    if raw_dir is not None and not any(Path(raw_dir).glob("*")):
        raise FileNotFoundError(f"{raw_dir}: no directory of raw files")
    config = tfds.download.DownloadConfig(manual_dir=raw_dir)
    if beam_runner:
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise ValueError(
                "beam_runner needs Apache Beam: pip install 'imcl_tf[beam]'"
            ) from error
        config.beam_runner = beam_runner
        config.beam_options = PipelineOptions(list(beam_options))
    try:
        builder.download_and_prepare(download_config=config)
    except (RuntimeError, tf.errors.OpError) as error:
        # TFDS's and TensorFlow's words for a failed write.
        raise OSError(str(error)) from error
    return builder


def find(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """Opens records that were prepared before.

    Args:
      name: "NAME" or "NAME/CONFIG"; without CONFIG the only one there is.
      data_dir: TFDS's data directory, None = its default place.

    Returns:
      a read-only builder of the newest version.

    Raises:
      FileNotFoundError: if there are none.
      ValueError: if CONFIG is missing and there are several.
    """
    place = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    found = sorted(
        path.parent
        for path in (place / name).glob("**/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    )
    if not found:
        raise FileNotFoundError(f"{place / name}: no records of {name}")
    configs = sorted({path.parent for path in found})
    if len(configs) > 1:
        raise ValueError(
            f"{place / name} holds {len(configs)} variants; add one to the "
            f"name: {', '.join(f'/{path.name}' for path in configs)}"
        )
    newest = max(found, key=lambda path: tuple(map(int, path.name.split("."))))
    return tfds.builder_from_directory(newest)
