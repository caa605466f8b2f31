"""Records of image data sets: what every TFDS builder here shares.

A builder says which images the shards of each split hold. The rest is common:
they are written shard by shard (`imcl_tf.data.shards`); their labels go to one
table per split (`imcl_tf.data.records`).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import json_format  # type: ignore[import-untyped]

from imcl_tf.data import duplicates, records, shards
from imcl_tf.data.multi_label_dataset import MultiLabelDataset, open_source
from imcl_tf.files import locked, write_csv

LEFT_OUT = "left_out.csv"
ONE_COLOUR = "one_colour.csv"
# What TFDS calls records that are being written, in the directory they go to.
INCOMPLETE = "incomplete."
NUM_LEFT_OUT = "images left out"
_NUM_ONE_COLOUR = "images: of one colour"
_NUM_DUPLICATES = "images: copies of images of an earlier split"


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
            counts[NUM_LEFT_OUT] = len(left_out)
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

    def update_labels(self, raw_dir: Path):
        """Makes label tables anew if raw tables changed; here there are none.

        Args:
          raw_dir: holds the raw files.
        """

    def opened(self) -> MultiLabelDataset:
        """Opens the records; raises as `open_source`."""
        return open_source(self)

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
    if raw_dir is not None:
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
    place, name = Path(builder.data_path).parent, builder.data_path.name
    with _made_and_locked(place) as has_lock:
        if builder.data_path.exists():  # by the program that had the lock
            builder.info.read_from_directory(builder.data_path)
            return False
        if has_lock:  # else another program may be writing there
            for left in place.glob(f"{INCOMPLETE}*_{name}"):
                shutil.rmtree(left, ignore_errors=True)  # of a killed one
        try:
            # TFDS makes a directory of downloads, though there are none. Here,
            # where it is found if this program is killed.
            with (
                tempfile.TemporaryDirectory(
                    f"_{name}", INCOMPLETE, place
                ) as nothing,
                contextlib.redirect_stdout(None),  # it speaks of downloads
            ):
                builder.download_and_prepare(
                    download_dir=nothing, download_config=config
                )
        except (OSError, RuntimeError, tf.errors.OpError) as error:
            if not has_lock and builder.data_path.exists():
                # The directory was in the way of its own, which is as good.
                builder.info.read_from_directory(builder.data_path)
                return False
            if isinstance(error, OSError):
                raise
            # TFDS's and TensorFlow's words for a failed write.
            raise OSError(str(error)) from error
    return True


@contextlib.contextmanager
def _made_and_locked(directory: Path) -> Iterator[bool]:
    """Makes and locks a directory; removes it after an error if it is empty.

    Yields:
      whether it has the lock: some network file systems have none.
    """
    made = [p for p in (directory, *directory.parents) if not p.exists()]
    with contextlib.ExitStack() as stack:
        while True:
            directory.mkdir(parents=True, exist_ok=True)
            # The program that had the lock may have removed the directory.
            with contextlib.suppress(FileNotFoundError):
                has_lock = stack.enter_context(locked(directory))
                break
        try:
            yield has_lock
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
