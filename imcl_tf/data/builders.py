"""Records of image data sets: what every TFDS builder here shares.

A builder lists the images of each split with their observed labels
(`ImageFiles`). The rest is common: images are checked, put in random order and
written shard by shard (`imcl_tf.data.shards`); their labels go to one table per
split (`imcl_tf.data.records`), which `prepare` makes anew whenever the raw
tables change.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import json_format  # type: ignore[import-untyped]

from imcl_tf.data import duplicates, records, shards
from imcl_tf.data.label_updates import files_digest, relabelled, rows_of
from imcl_tf.data.labelled_images import ImageFiles, ListedImages
from imcl_tf.files import locked, replacing, write_csv

LEFT_OUT = "left_out.csv"
ONE_COLOUR = "one_colour.csv"
# What TFDS calls records that are being written, in the directory they go to.
INCOMPLETE = "incomplete."
_NUM_LEFT_OUT = "images left out"
_NUM_ONE_COLOUR = "images: of one colour"
_NUM_DUPLICATES = "images: copies of images of an earlier split"


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


class MultiLabelBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """Base of the builders: `_split_generators` gives the shards' generators.

    It also sets the metadata's "labels", the label names. For the generators
    see `shards.Shard.images`.
    """

    VERSION = tfds.core.Version("2.2.0")
    RELEASE_NOTES = {
        "2.0.0": "Labels beside the records, not within.",
        "2.1.0": "Digests of the records.",
        "2.2.0": "Equal images of two splits are listed.",
    }
    DESCRIPTION = "Images with partial labels."
    HOMEPAGE: str | None = None
    CITATION: str | None = None
    LICENSE: str | None = None

    _source_digest = ""
    _num_features = 0  # d of feature records

    def __init__(self, **kwargs):
        try:
            super().__init__(**kwargs)
        except (json_format.ParseError, AssertionError) as error:
            raise _damaged(self.data_path, error) from error

    def _info(self):
        return _LocalInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENSE,
            features=records.tfds_features(self._num_features),
            metadata=tfds.core.MetadataDict(),
        )

    def _generate_examples(self):
        # TFDS asks for it; here a split is shards from the start.
        raise NotImplementedError

    def _generate_splits(self, dl_manager, download_config):
        # In place of TFDS's own, which passes every image through a shuffle
        # on disk, or with Beam in memory, and then cuts other shards.
        plan = {
            split: self._shards(split, generators)
            for split, generators in self._split_generators(dl_manager).items()
        }
        _write(list(itertools.chain(*plan.values())), download_config)
        paths = {split: [s.path for s in x] for split, x in plan.items()}
        del plan  # and with it a copy of all labels
        return self._collect(paths)

    def _shards(self, split, generators) -> list[shards.Shard]:
        place = self._get_filename_template(split_name=split)
        number = len(generators)
        return [
            shards.Shard(
                os.fspath(
                    place.sharded_filepath(shard_index=i, num_shards=number)
                ),
                generator,
            )
            for i, generator in enumerate(generators)
        ]

    def _collect(self, paths) -> list[tfds.core.SplitInfo]:
        """Writes label tables and sums up what the shards reported."""
        counts = collections.Counter(self.info.metadata.get("counts", {}))
        infos, left_out, one_colour, contents = [], [], [], {}
        for split, of_split in paths.items():
            if not shards.has_images(of_split):
                raise ValueError(f"split {split} has no image that can be used")
            table, report = shards.join_parts(
                of_split, self.info.metadata["labels"], self._source_digest
            )
            records.write_labels(
                records.labels_file(self.data_path, split), table
            )
            counts.update(report.findings.counts)
            left_out += [(split, *row) for row in report.findings.left_out]
            one_colour += [(split, x) for x in report.findings.one_colour]
            contents[split] = report.contents
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=report.lengths,
                    num_bytes=report.num_bytes,
                    filename_template=self._get_filename_template(
                        split_name=split
                    ),
                )
            )
        if left_out:
            counts[_NUM_LEFT_OUT] = len(left_out)
            write_csv(
                Path(self.data_path) / LEFT_OUT,
                ("split", "image_id", "reason"),
                sorted(left_out),
            )
        if one_colour:
            counts[_NUM_ONE_COLOUR] = len(one_colour)
            write_csv(
                Path(self.data_path) / ONE_COLOUR,
                ("split", "image_id"),
                sorted(one_colour),
            )
        copies = duplicates.find(contents, self._image_ids)
        if copies:
            number = len({(x.split, x.image_id) for x in copies})
            counts[_NUM_DUPLICATES] = number
            duplicates.write(Path(self.data_path), copies)
        self.info.metadata["counts"] = dict(sorted(counts.items()))
        return infos

    def _image_ids(self, split) -> np.ndarray:
        """[N] bytes, in the order of the records."""
        return records.read_image_ids(
            records.labels_file(self.data_path, split)
        )


class _LocalInfo(tfds.core.DatasetInfo):
    """What TFDS writes beside records; its cloud has none of these sets."""

    def initialize_from_bucket(self):
        """TFDS's own leaves an empty temporary directory each time."""


def _damaged(directory, error) -> ValueError:
    return ValueError(
        f"{directory}/dataset_info.json is damaged: {error}; delete that "
        "directory and prepare the data set again"
    )


def checked_on_bad_image(on_bad_image: str) -> str:
    """Returns it.

    Raises:
      ValueError: unless it is "error" or "skip".
    """
    if on_bad_image not in ("error", "skip"):
        raise ValueError(
            f"on_bad_image must be error or skip, got {on_bad_image!r}"
        )
    return on_bad_image


class ImageFilesBuilder(
    MultiLabelBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """Base of the builders of image files: `_contents` lists them.

    Args:
      on_bad_image: "error", or "skip" to leave out and list images that cannot
        be used.
      **kwargs: of TFDS builders: data_dir, config, version.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "See docs/datasets.md."

    def __init__(self, *, on_bad_image: str = "error", **kwargs):
        self.on_bad_image = checked_on_bad_image(on_bad_image)
        super().__init__(**kwargs)

    def _contents(self, raw_dir: Path) -> Contents:
        """Reads and checks all but the images."""
        raise NotImplementedError

    def _tables(self, raw_dir: Path) -> list[Path]:
        """The files that labels and splits come from, always in one order."""
        raise NotImplementedError

    def _source(self, raw_dir: Path) -> str | list[str]:
        """What `data_prep.clean` is to find again."""
        return str(raw_dir.resolve())

    def _labels_digest(self, raw_dir: Path) -> str:
        """A digest of all that the label tables are made from."""
        return files_digest(self._tables(raw_dir))

    def _split_generators(self, dl_manager):
        raw_dir = Path(dl_manager.manual_dir)
        self._source_digest = self._labels_digest(raw_dir)
        contents = self._contents(raw_dir)
        self.info.metadata["labels"] = list(contents.label_names)
        self.info.metadata["counts"] = contents.counts
        self.info.metadata["sources"] = [self._source(raw_dir)]
        self.info.metadata["on_bad_image"] = self.on_bad_image
        return {
            split: self._shard_generators(files, split)
            for split, files in contents.splits.items()
        }

    def _shard_generators(self, files, split):
        skip = self.on_bad_image == "skip"
        return [
            ListedImages(files.rows(rows), skip)
            for rows in shards.cut(files.names, split)
        ]

    def update_labels(self, raw_dir: Path):
        """Makes the label tables anew if the raw tables changed.

        The records stay as they are, and so do the images that were left out.

        Args:
          raw_dir: holds the raw files.

        Raises:
          ValueError: if the raw tables list other images than the records.
          FileNotFoundError: for a missing file.
          OSError: if the tables cannot be written.
        """
        self._source_digest = self._labels_digest(raw_dir)
        if not self._is_up_to_date():
            with locked(self.data_path):
                # Another run may have made them in the meantime.
                if not self._is_up_to_date():
                    self._write_tables(self._contents(raw_dir), raw_dir)
        self._add_source(self._source(raw_dir))

    def _add_source(self, source: str | list[str]):
        """Keeps `data_prep.clean` from records that `source` shares."""
        if source in self.info.metadata.get("sources", []):
            return
        # Records that are read-only are used all the same.
        with contextlib.suppress(OSError), locked(self.data_path):
            self.info.metadata["sources"].append(source)
            self._write_metadata()

    def _is_up_to_date(self) -> bool:
        return {self._source_digest} == {
            records.read_source_digest(path)
            for path in self._label_files().values()
        }

    def _label_files(self) -> dict[str, Path]:
        return {
            split: records.labels_file(self.data_path, split)
            for split in self.info.splits
        }

    def _write_tables(self, contents: Contents, raw_dir: Path):
        left_out, tables = self._left_out(), {}
        for split, path in self._label_files().items():
            table = records.read_labels(path)
            files = contents.splits[split]
            try:
                rows = rows_of(table.image_ids, files.names, left_out[split])
            except ValueError as error:
                raise ValueError(
                    f"{self.data_path} holds other images than {raw_dir}: "
                    f"{error} in split {split}; delete that directory, or "
                    "choose another for the records"
                ) from error
            tables[path] = relabelled(table, files.rows(rows))._replace(
                label_names=contents.label_names,
                source_digest=self._source_digest,
            )
        self._update_metadata(contents)
        # Last: without them, the next program begins all of this again.
        for path, table in tables.items():
            records.write_labels(path, table)

    def _left_out(self) -> dict[str, set[str]]:
        """Split -> images that have no record as they could not be used."""
        left_out = collections.defaultdict(set)
        path = Path(self.data_path) / LEFT_OUT
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    left_out[row["split"]].add(row["image_id"])
        return left_out

    def _update_metadata(self, contents: Contents):
        of_images = {
            what: number
            for what, number in self.info.metadata["counts"].items()
            if what.startswith("images: ") or what == _NUM_LEFT_OUT
        }
        counts = {**contents.counts, **of_images}
        self.info.metadata["labels"] = list(contents.label_names)
        self.info.metadata["counts"] = dict(sorted(counts.items()))
        self._write_metadata()

    def _write_metadata(self):
        with replacing(Path(self.data_path) / "metadata.json") as new:
            new.write_text(json.dumps(self.info.metadata))


def _write(everything: list[shards.Shard], download_config):
    if download_config.beam_runner or download_config.beam_options:
        shards.write_with_beam(everything, download_config)
        return
    for shard in tfds.core.utils.tqdm(
        everything, desc="Writing", unit=" shards"
    ):
        shards.write(shard)


def prepare(
    builder: MultiLabelBuilder,
    raw_dir: str | os.PathLike | None = None,
    beam_runner: str = "",
    beam_options: tuple[str, ...] = (),
) -> MultiLabelBuilder:
    """Makes the records of a data set unless they exist already.

    If they do, their labels are made anew if the raw tables have changed; no
    picture is written again. If two programs prepare one data set at once,
    the second waits, and finds the records of the first.

    Args:
      builder: of the data set.
      raw_dir: holds its raw files; nothing is written there.
      beam_runner: name of an Apache Beam runner, "" = without Beam. Workers
        must see the raw files and the records' directory.
      beam_options: of that runner, as on its command line.

    Returns:
      `builder`, prepared.

    Raises:
      ValueError: for raw files that do not hold what they should, or that list
        other images than the records that exist.
      FileNotFoundError: for a missing file.
      OSError: if the records cannot be written.
    """
    if raw_dir is not None and not any(Path(raw_dir).glob("*")):
        raise FileNotFoundError(f"{raw_dir}: no directory of raw files")
    if not builder.data_path.exists():
        config = _download_config(raw_dir, beam_runner, beam_options)
        if _make_records(builder, config):
            return builder
    if isinstance(builder, ImageFilesBuilder) and raw_dir is not None:
        builder.update_labels(Path(raw_dir))
    return builder


def _download_config(raw_dir, beam_runner, beam_options):
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
    return config


def _make_records(builder, config) -> bool:
    """Makes records, or finds those of a program that was faster: False."""
    place = Path(builder.data_path).parent
    with _made_and_locked(place):
        if builder.data_path.exists():  # by the program that had the lock
            builder.info.read_from_directory(builder.data_path)
            return False
        for left in place.glob(f"{INCOMPLETE}*_{builder.data_path.name}"):
            shutil.rmtree(left, ignore_errors=True)  # its program was killed
        try:
            # TFDS makes a directory of downloads, though there are none.
            with (
                tempfile.TemporaryDirectory() as nothing,
                contextlib.redirect_stdout(None),  # it speaks of downloads
            ):
                builder.download_and_prepare(
                    download_dir=nothing, download_config=config
                )
        except (RuntimeError, tf.errors.OpError) as error:
            # TFDS's and TensorFlow's words for a failed write.
            raise OSError(str(error)) from error
    return True


@contextlib.contextmanager
def _made_and_locked(directory: Path) -> Iterator[None]:
    """Makes and locks a directory; removes it after an error if it is empty."""
    made = [p for p in (directory, *directory.parents) if not p.exists()]
    with contextlib.ExitStack() as stack:
        while True:
            directory.mkdir(parents=True, exist_ok=True)
            # The program that had the lock may have removed the directory.
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(locked(directory))
                break
        try:
            yield
        except BaseException:
            for path in made:
                # TFDS's note of which config is the default.
                if [p.name for p in path.glob("*")] == [".config"]:
                    shutil.rmtree(path / ".config")
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise


def find(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """Opens records that were prepared before.

    Args:
      name: "NAME" or "NAME/CONFIG"; without CONFIG the only one there is.
      data_dir: TFDS's data directory, None = its default place.

    Returns:
      a read-only builder of the newest version.

    Raises:
      FileNotFoundError: if there are none, or of earlier versions alone.
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
    newest = max(found, key=_version)
    if _version(newest) < MultiLabelBuilder.VERSION:
        raise FileNotFoundError(
            f"{newest}: records of an earlier version, which is no longer read"
        )
    try:
        return tfds.builder_from_directory(newest)
    except (json_format.ParseError, ValueError) as error:
        raise _damaged(newest, error) from error


def _version(directory: Path) -> tfds.core.Version:
    return tfds.core.Version(directory.name)
