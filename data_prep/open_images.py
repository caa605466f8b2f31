"""Makes the records of Open Images v3 from its CSV files and images.

    python -m data_prep.open_images --raw_dir=DIR --data_dir=DIR

DIR/{train,validation,test}/  annotations-human.csv; if there are any,
                              annotations-machine.csv and images.csv
DIR/classes-trainable.txt     the C machine ids of the labels, in order
DIR/class-descriptions.csv    machine id, name
DIR/images/{train,...}/       ab/abcdef0123456789.jpg, as data_prep.download
                              leaves them, or abcdef0123456789.jpg
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.OPEN_IMAGES)

import binascii
import collections
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import scipy.sparse
import tensorflow_datasets as tfds
from absl import flags, logging

from imcl_tf.data import preparation
from imcl_tf.data.cells import listed, shown
from imcl_tf.data.image_builders import Contents, ImageFilesBuilder
from imcl_tf.data.labelled_images import ImageFiles
from imcl_tf.data.manifest import IMAGE_ID, read_image, read_manifest
from imcl_tf.data.records import SPLITS
from imcl_tf.files import existing_file

FLAGS = flags.FLAGS
_BLOCK = 1 << 24  # bytes of a CSV file at a time
_MINIMUM_CONFIDENCE = 0.5  # of a machine annotation


class Annotations(NamedTuple):
    """Rows of annotations of trainable classes.

    Attributes:
      image: [R] uint64, the image id read as a hexadecimal number.
      label: [R] int32, number of the label.
      present: [R] bool.
    """

    image: np.ndarray
    label: np.ndarray
    present: np.ndarray


class Classes(NamedTuple):
    """The classes of Open Images.

    Attributes:
      mids: C trainable machine ids.
      names: C distinct names of these.
      described: machine ids of all classes.
    """

    mids: pd.Index
    names: tuple[str, ...]
    described: pd.Index


class OpenImages(ImageFilesBuilder):
    """Open Images v3, image-level labels, 5,000 trainable classes."""

    name = "imcl_open_images"
    DESCRIPTION = (
        "Open Images v3 (Krasin et al., 2017): human-verified image-level "
        "labels, Confidence 1 = present, 0 = absent."
    )
    HOMEPAGE = "https://github.com/openimages/dataset"
    LICENSE = "Annotations CC BY 4.0, images listed as CC BY 2.0."
    CITATION = (
        "@misc{krasin2017openimages, title={OpenImages: A public dataset for "
        "large-scale multi-label and multi-class image classification}, "
        "author={Krasin, Ivan and others}, year={2017}}"
    )
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="human"),
        tfds.core.BuilderConfig(
            name="machine",
            description="Also labels that no human has verified, present "
            f"from a confidence of {_MINIMUM_CONFIDENCE}.",
        ),
    ]

    def _contents(self, raw_dir):
        skip = self.on_bad_image == "skip"
        machine = self._machine
        classes = read_classes(raw_dir)
        self.info.metadata["mids"] = list(classes.mids)
        counts, splits = {}, {}
        for split in SPLITS:
            ids, labels, found = read_split(raw_dir / split, classes, machine)
            usable = _usable(ids, raw_dir, split, found, skip)
            splits[split] = ImageFiles(
                [f"{image:016x}" for image in ids[usable].tolist()],
                labels[usable],
                functools.partial(read_image, raw_dir / "images" / split),
            )
            counts |= {f"{split}: {what}": n for what, n in found.items()}
        return Contents(classes.names, splits, counts)

    def _tables(self, raw_dir):
        optional = [
            path
            for split in SPLITS
            for path in (_listing(raw_dir, split), _manifest(raw_dir, split))
            if path.is_file()
        ]
        annotations = [
            path
            for split in SPLITS
            for path in _annotations(raw_dir / split, self._machine)
        ]
        return [*_class_files(raw_dir), *annotations, *optional]

    @property
    def _machine(self) -> bool:
        return self.builder_config.name == "machine"


def _class_files(raw_dir: Path) -> tuple[Path, Path]:
    return (
        _either(raw_dir, "classes-trainable.txt"),
        _either(raw_dir, "class-descriptions.csv"),
    )


def _either(directory: Path, name: str, later: str = "") -> Path:
    """The file of that name, or the one that later releases have.

    Raises:
      ValueError: if there are several.
    """
    paths = [directory / name, *directory.glob(later or f"oidv?-{name}")]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{directory}: expected one of {', '.join(p.name for p in found)}"
        )
    return found[0] if found else paths[0]


def _annotations(directory: Path, machine: bool) -> list[Path]:
    """The files of annotations of one split, those of humans first."""
    kinds = ("human", "machine") if machine else ("human",)
    return [
        _either(
            directory,
            f"annotations-{kind}.csv",
            # From version 4 on.
            f"{directory.name}-annotations-{kind}-imagelabels.csv",
        )
        for kind in kinds
    ]


def _listing(raw_dir: Path, split: str) -> Path:
    return raw_dir / split / "images.csv"


def _manifest(raw_dir: Path, split: str) -> Path:
    return raw_dir / "images" / split / "manifest.csv"


def read_classes(raw_dir: Path) -> Classes:
    """Reads classes-trainable.txt and class-descriptions.csv.

    Raises:
      ValueError: for a class that is listed twice or not described.
      FileNotFoundError: for a missing file.
    """
    known, described = map(existing_file, _class_files(raw_dir))
    try:
        mids = pd.Index(known.read_text("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{known}: not UTF-8 text: {error}") from error
    blocks = _blocks(described, ("mid", "name"), header=False)
    table = pd.concat(block.to_pandas() for _, block in blocks)
    for path, values in ((known, mids), (described, pd.Index(table["mid"]))):
        if values.has_duplicates:
            twice = list(values[values.duplicated()].unique())
            raise ValueError(f"{path}: class {listed(twice)} is listed twice")
    names = table.set_index("mid")["name"].astype(str)
    unknown = list(mids.difference(names.index))
    if unknown:
        raise ValueError(
            f"{described}: class {listed(unknown)} of {known.name} is missing"
        )
    chosen = names[mids]
    # Some names stand for several classes: a crane is a bird and a machine.
    ambiguous = chosen.duplicated(keep=False)
    distinct = chosen.where(~ambiguous, chosen + " (" + chosen.index + ")")
    return Classes(mids, tuple(distinct), names.index)


def read_split(
    directory: Path, classes: Classes, machine: bool = False
) -> tuple[np.ndarray, scipy.sparse.csr_array, collections.Counter]:
    """Reads the annotations of one split.

    Args:
      directory: holds annotations-human.csv.
      classes: of `read_classes`.
      machine: also read annotations-machine.csv, which says what is present
        where no human judged.

    Returns:
      image ids [N] uint64, sorted, of images with a label; their labels [N, C]
      int8; and counts of what was met.

    Raises:
      ValueError: for a row that cannot be read, with file and line.
      FileNotFoundError: for a missing file.
    """
    counts: collections.Counter = collections.Counter()
    found = [
        read_annotations(
            existing_file(path), classes, counts, machine=number == 1
        )
        for number, path in enumerate(_annotations(directory, machine))
    ]
    ids = _unique(np.concatenate([part.image for part in found]))
    shape = len(ids), len(classes.mids)
    cells, signs = _distinct(found[0], ids, shape[1], counts)
    if machine:
        guessed, present = _distinct(found[1], ids, shape[1], counts)
        free = np.isin(guessed, cells, invert=True)
        counts["machine annotations that a human judged"] += int((~free).sum())
        cells = np.concatenate([cells, guessed[free]])
        signs = np.concatenate([signs, present[free]])
    labels = scipy.sparse.csr_array((signs, np.divmod(cells, shape[1])), shape)
    counts["contradicted labels, left unobserved"] += int((signs == 0).sum())
    labels.eliminate_zeros()
    labelled = np.diff(labels.indptr) > 0
    return ids[labelled], labels[labelled], +counts


def read_annotations(
    path: Path,
    classes: Classes,
    counts: collections.Counter,
    machine: bool = False,
) -> Annotations:
    """Reads a CSV file of annotations block by block.

    Args:
      path: ImageID,Source,LabelName,Confidence.
      classes: rows of other classes are counted and left out.
      counts: gets how many rows there were, and of what kind.
      machine: Confidence in [0, 1] is the probability that a class is present;
        rows of too little confidence are left out. Otherwise it is 1 = present
        or 0 = absent.

    Raises:
      ValueError: for a row that cannot be read, with file and line.
    """
    columns = ("ImageID", "LabelName", "Confidence")
    parts = [
        Annotations(*(np.zeros(0, t) for t in (np.uint64, np.int32, bool)))
    ]
    what = "machine annotations" if machine else "annotations"
    for line, (image, mid, confidence) in _blocks(path, columns):
        image = _numbers(path, line, image)
        confidence = _confidences(path, line, confidence, machine)
        mids = pd.Index(mid.dictionary.to_pylist())
        label = classes.mids.get_indexer(mids)[mid.indices]
        known = (classes.described.get_indexer(mids) >= 0)[mid.indices]
        trained = label >= 0
        sure = confidence >= _MINIMUM_CONFIDENCE if machine else trained
        kept = trained & sure
        counts[what] += len(label)
        counts[f"{what} of unknown MIDs"] += int((~trained & ~known).sum())
        counts[f"{what} of other classes"] += int((~trained & known).sum())
        counts[f"{what} of too little confidence"] += int(
            (trained & ~sure).sum()
        )
        parts.append(
            Annotations(
                image[kept], label[kept].astype(np.int32), confidence[kept] > 0
            )
        )
    return Annotations(*map(np.concatenate, zip(*parts, strict=True)))


def _distinct(
    found: Annotations, ids, num_labels, counts
) -> tuple[np.ndarray, np.ndarray]:
    """Cells of [N, C], ascending, and their signs int8; 0 = contradicted."""
    rows = np.searchsorted(ids, found.image) * num_labels + found.label
    rows = _unique(2 * rows + found.present)
    counts["annotations given more than once"] += len(found.label) - len(rows)
    cells, signs = rows // 2, (rows % 2 * 2 - 1).astype(np.int8)
    again = np.flatnonzero(cells[1:] == cells[:-1])
    signs[again] = 0
    return np.delete(cells, again + 1), np.delete(signs, again + 1)


def _unique(values: np.ndarray) -> np.ndarray:
    """Like np.unique, whose hash table takes more time and memory."""
    values = np.sort(values)
    return values[np.diff(values, prepend=~values[:1]) != 0]


def _usable(ids, raw_dir, split, counts, skip) -> np.ndarray:
    """[N] bool: images that images.csv and the download's manifest allow.

    Both files may be missing. Without `skip`, an image they exclude is an
    error.
    """
    usable = np.ones(len(ids), bool)
    listing = _listing(raw_dir, split)
    if listing.is_file():
        rows = [
            _numbers(listing, line, image)
            for line, (image,) in _blocks(listing, ("ImageID",))
        ]
        listed = np.unique(np.concatenate([*rows, np.zeros(0, np.uint64)]))
        counts["rows of images.csv that repeat an image"] += sum(
            map(len, rows)
        ) - len(listed)
        counts["images without labels"] += int(
            np.isin(listed, ids, invert=True).sum()
        )
        _exclude(usable, np.isin(ids, listed), ids, listing, counts, skip)
    manifest = _manifest(raw_dir, split)
    if manifest.is_file():
        images = read_manifest(manifest)
        bad = pa.array(images.loc[images["status"] != "done", "image_id"])
        there = np.isin(ids, _hexadecimal(bad), invert=True)
        _exclude(usable, there, ids, manifest, counts, skip)
    return usable


def _exclude(usable, allowed, ids, path, counts, skip):
    """Takes what is not `allowed` out of `usable`, or raises."""
    lost = usable & ~allowed
    if lost.any() and not skip:
        names = listed([f"{image:016x}" for image in ids[lost][:5]])
        raise ValueError(
            f"{path}: no usable image {names}, which has labels "
            f"({lost.sum()} such images); --on_bad_image=skip leaves them out"
        )
    counts[f"images left out by {path.name}"] += int(lost.sum())
    usable &= allowed


def _blocks(
    path: Path, columns: tuple[str, ...], header: bool = True
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some megabytes of a CSV file at a time, all as text.

    Yields:
      number of the block's first line, and its columns; those after the first
      have few distinct values, and are dictionaries of them.
    """
    dictionary = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(columns, dictionary) | {columns[0]: pa.string()}
    read = pa.csv.ReadOptions(
        block_size=_BLOCK,
        column_names=None if header else columns,
        use_threads=False,  # with threads, errors do not name the row
    )
    # Empty lines are rows too: otherwise line numbers would be wrong.
    parse = pa.csv.ParseOptions(
        newlines_in_values=True, ignore_empty_lines=False
    )
    convert = pa.csv.ConvertOptions(include_columns=columns, column_types=types)
    line = 2 if header else 1
    try:
        with pa.csv.open_csv(_rows_of(path), read, parse, convert) as blocks:
            for block in blocks:
                yield line, block
                line += len(block)
    except pa.ArrowKeyError as error:
        with path.open("rb") as file:
            found = file.readline(300).decode(errors="replace").strip()
        raise ValueError(
            f"{path}: line 1: expected columns {','.join(columns)}, got "
            f"{shown(found)}"
        ) from error
    except pa.ArrowInvalid as error:
        reason = re.sub(r".*Row #(\d+): ", r"line \1: ", str(error)[:300])
        raise ValueError(f"{path}: {shown(reason)}") from error


def _rows_of(path: Path) -> str | pa.BufferReader:
    """What PyArrow reads: the file, without blank lines at its end."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - 4096, 0))
        tail = file.read()
    blank = len(tail) - len(tail.rstrip(b"\r\n"))
    if size and not blank:
        # A row that is cut short lacks a column or its value.
        logging.warning(
            "%s: the last line has no end; is the file cut short?", path
        )
    if blank <= (2 if tail.endswith(b"\r\n") else 1):
        return str(path)
    with pa.memory_map(str(path)) as mapped:
        return pa.BufferReader(mapped.read_buffer().slice(0, size - blank))


def _numbers(path, line, ids: pa.StringArray) -> np.ndarray:
    """[R] uint64, image ids read as hexadecimal numbers."""
    readable = pa.compute.match_substring_regex(ids, f"^{IMAGE_ID}$")
    _check(path, line, "ImageID", ids, readable, "16 hexadecimal digits")
    return _hexadecimal(ids)


def _hexadecimal(ids: pa.StringArray) -> np.ndarray:
    digits = ids.cast(pa.binary(16)).buffers()[1]
    return np.frombuffer(binascii.unhexlify(digits), ">u8").astype(np.uint64)


def _confidences(path, line, column: pa.DictionaryArray, machine) -> np.ndarray:
    """[R] float64."""
    distinct = pd.to_numeric(column.dictionary.to_pandas(), errors="coerce")
    values = distinct.to_numpy(float)[column.indices]
    good = (values >= 0) & (values <= 1) if machine else np.isin(values, (0, 1))
    expected = "in [0, 1]" if machine else "0 or 1"
    _check(path, line, "Confidence", column, pa.array(good), expected)
    return values


def _check(path, line, name, column: pa.Array, good: pa.BooleanArray, expected):
    """Raises for the first entry that is not `good`, with file and line."""
    row = good.index(False).as_py()
    if row >= 0:
        raise ValueError(
            f"{path}: line {line + row}: {name} must be {expected}, got "
            f"{shown(column[row].as_py()) or 'nothing'}"
        )


def main(argv: list[str]):
    preparation.run(
        argv,
        lambda: OpenImages(
            config="machine" if FLAGS.machine_labels else "human",
            on_bad_image=FLAGS.on_bad_image,
            data_dir=FLAGS.data_dir or None,
        ),
        FLAGS.raw_dir,
        FLAGS.beam_runner,
        FLAGS.beam_option,
    )


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
