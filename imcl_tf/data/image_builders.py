"""Builders of image files: records of pictures, labels that follow the tables.

A builder lists the images of each split with their observed labels
(`ImageFiles`). Pictures are read once; label tables are made anew whenever the
raw tables change. Programs with other labels for the same pictures may use one
directory of records: each opens it with its own.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from imcl_tf.data import records, shards
from imcl_tf.data.builders import LEFT_OUT, NUM_LEFT_OUT, MultiLabelBuilder
from imcl_tf.data.label_updates import files_digest, relabelled, rows_of
from imcl_tf.data.labelled_images import ImageFiles, ListedImages
from imcl_tf.data.multi_label_dataset import MultiLabelDataset, read_source
from imcl_tf.files import locked, replacing


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
        self._raw_dir: Path | None = None
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
        self._raw_dir = raw_dir = Path(dl_manager.manual_dir)
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
        self._raw_dir = raw_dir
        self._source_digest = self._labels_digest(raw_dir)
        if not self._is_up_to_date():
            with self._alone():
                self._update_tables(raw_dir)
        self._add_source(self._source(raw_dir))

    def opened(self) -> MultiLabelDataset:
        """See `MultiLabelBuilder`; the labels are those of its raw files."""
        if self._raw_dir is None:
            return super().opened()
        with self._alone():
            # A program with other labels may have come between.
            self._update_tables(self._raw_dir)
            return read_source(self)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others from tables and metadata, which may be new."""
        with locked(self.data_path):
            self.info.metadata.load_metadata(self.data_path)
            yield

    def _update_tables(self, raw_dir: Path):
        # Another run may have made them in the meantime.
        if not self._is_up_to_date():
            self._write_tables(self._contents(raw_dir), raw_dir)

    def _add_source(self, source: str | list[str]):
        """Keeps `data_prep.clean` from records that `source` shares."""
        if source in self.info.metadata.get("sources", []):
            return
        # Records that are read-only are used all the same.
        with contextlib.suppress(OSError), self._alone():
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
            if what.startswith("images: ") or what == NUM_LEFT_OUT
        }
        counts = {**contents.counts, **of_images}
        self.info.metadata["labels"] = list(contents.label_names)
        self.info.metadata["counts"] = dict(sorted(counts.items()))
        self._write_metadata()

    def _write_metadata(self):
        with replacing(Path(self.data_path) / "metadata.json") as new:
            new.write_text(json.dumps(self.info.metadata))
