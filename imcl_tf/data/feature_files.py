"""Features that were computed before: files of ids and rows.

    NAME.npz        arrays ids [N] and features [N, d]
    NAME.npy        features [N, d]; beside it the ids in NAME.ids.txt or
                    ids.txt, one a line, or in NAME.ids.npy or ids.npy
    NAME.parquet    a column of ids, and a column of lists or d of numbers
    NAME.tfrecord   records with image_id and feature, as this package's own

Of the last two also a directory or a pattern of such files. Nothing here
unpickles. The rows may be more than memory holds: they are read where they lie,
or unpacked to a temporary file where they are packed.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import re
import struct
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from imcl_tf.data.cells import (
    UNNAMED,
    clean,
    listed,
    read_text,
    with_control,
)
from imcl_tf.data.feature_matrix import (
    Matrix,
    NoRoom,
    WrongFeatures,
    matrix_of,
    read_header,
    single_precision,
    temporary,
    unpacked,
)
from imcl_tf.data.kept import read_array, read_arrays
from imcl_tf.files import existing_file

_COPIED = 2**20  # bytes at a time
_BATCH = 1024  # rows at a time
_ID_COLUMNS = ("id", "ids", "image_id", "image")
_FEATURE_COLUMNS = ("feature", "features", "embedding", "embeddings")
_INDEX = "__index_level_0__"  # where pandas writes the index of a table
_EXPECTED = (
    "expected .npz, .npy or .parquet, or records with .tfrecord in their name"
)
# Where in its graph TensorFlow was.
_PLACES = re.compile(
    r"\{\{.*?\}\}|\[(?:\[|Op:).*|Error in user-defined .*?ParallelMapV2: ",
    re.DOTALL,
)
_SAVE_TEXT = "holds Python objects, which are not read; save it as text"


class FeatureFile:
    """The rows of a file of features, by their ids; opened when first used.

    Args:
      path: of the file, or of a directory or a pattern, see the module.

    Attributes:
      path: as it was given.
      files: those that are read.

    Raises:
      ValueError: if it is none of the kinds that are read. So do the
        properties and `rows` for what is damaged or not as it should be.
      FileNotFoundError: if there is no such file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser()
        self._read, self.files = _kind(self.path)

    @functools.cached_property
    def _content(self) -> tuple[list[str], Matrix]:
        with _named(self.path):
            ids, matrix = self._read(self.path, self.files)
            if matrix.is_fortran:  # of a column, rows are far apart
                with matrix.file:
                    matrix = unpacked(matrix.blocks(), self.path)
        weakref.finalize(self, matrix.file.close)
        _check_ids(ids, matrix.shape[0], self.path)
        return ids, matrix

    @property
    def ids(self) -> list[str]:
        """N distinct ids, in the order of the rows."""
        return self._content[0]

    @property
    def num_features(self) -> int:
        """d."""
        return self._content[1].shape[1]

    def rows(self, chosen: np.ndarray | slice) -> np.ndarray:
        """The features [n, d] float32 of rows [n] int or of a slice."""
        with _named(self.path):
            return self._content[1].read(chosen)

    def blocks(self) -> Iterator[np.ndarray]:
        """All features, some rows at a time: [n, d] float32."""
        yield from self._content[1].blocks()


def first_not_finite(rows: np.ndarray) -> np.ndarray:
    """[n] int32: a row's first column that is not finite, -1 = all are."""
    wrong = ~np.isfinite(rows)
    return np.where(
        wrong.any(axis=1), wrong.argmax(axis=1), -1
    ).astype(np.int32)  # fmt: skip


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file in what is raised within."""
    try:
        yield
    except (WrongFeatures, NoRoom):
        raise
    # Whatever NumPy, zipfile, PyArrow and TensorFlow stumble over; what the
    # system says has a number.
    except Exception as error:
        number = getattr(error, "errno", None)
        if number is not None:
            where = error.filename or path  # type: ignore[attr-defined]
            raise OSError(number, os.strerror(number), str(where)) from error
        reason = " ".join(_PLACES.sub("", str(error)).split())[:300]
        raise WrongFeatures(
            f"{path}: damaged: {reason or type(error).__name__}"
        ) from error


def _kind(path: Path):
    """What reads a file, and the files that it reads."""
    if path.suffix == ".npz":
        return _read_npz, [existing_file(path)]
    if path.suffix == ".npy":
        return _read_npy, [existing_file(path), _ids_file(path)]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _is_part(p))
    elif path.is_file():
        files = [path] if _is_part(path) else []
    else:
        files = sorted(Path(p) for p in glob.glob(str(path)))
        if not files:
            raise FileNotFoundError(f"{path}: no such file")
        files = [p for p in files if _is_part(p)]
    kinds = {p.suffix == ".parquet" for p in files}
    if len(kinds) != 1:
        both = " and both .parquet and .tfrecord are there" if kinds else ""
        raise ValueError(f"{path}: no file of features: {_EXPECTED}{both}")
    return (_read_parquet if kinds == {True} else _read_records), files


def _is_part(path: Path) -> bool:
    return path.is_file() and (
        path.suffix == ".parquet" or ".tfrecord" in path.name
    )


def _ids_file(path: Path) -> Path:
    names = [f"{path.stem}.ids.txt", f"{path.stem}.ids.npy"]
    names += ["ids.txt", "ids.npy"]
    found = [name for name in names if path.with_name(name).is_file()]
    if len(found) != 1:
        what = f"holds {' and '.join(found)}" if found else "holds no ids"
        raise ValueError(
            f"{path.parent} {what}; expected one of {', '.join(names)} with "
            f"the ids of {path.name}"
        )
    return path.with_name(found[0])


def _check_ids(ids: Sequence[str], number: int, path: Path):
    if len(ids) != number:
        raise ValueError(
            f"{path}: {len(ids)} ids and {number} rows of features; expected "
            "as many of both"
        )
    wrong = with_control(ids)
    if wrong:
        raise ValueError(
            f"{path}: ids hold line breaks or other control characters: "
            f"{listed([ids[i] for i in wrong])}"
        )
    names = pd.Series([*map(clean, ids)], dtype=object)
    if (names == "").any():
        raise ValueError(f"{path}: the id of row {(names == '').argmax()} is "
                         "empty")  # fmt: skip
    twice = names[names.duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{path}: ids that are there more than once: {listed([*twice])}"
        )


# NumPy's files.


def _texts(ids: np.ndarray, path: Path) -> list[str]:
    """Ids as texts, of an array of texts, bytes or whole numbers."""
    if ids.ndim != 1 or ids.dtype.kind not in "USiu":
        raise WrongFeatures(
            f"{path}: ids are {[*ids.shape]} of type {ids.dtype}; expected "
            "[N] texts"
        )
    if ids.dtype.kind == "S":
        return [name.decode() for name in ids.tolist()]
    return [str(name) for name in ids.tolist()]


def _read_npy(path: Path, files: list[Path]) -> tuple[list[str], Matrix]:
    ids_file = files[1]
    with _named(ids_file):
        if ids_file.suffix == ".npy":
            ids = _texts(read_array(ids_file), ids_file)
        else:
            text = read_text(ids_file).rstrip()
            lines = re.split(r"\r\n|\r|\n", text) if text else []
            ids = [line.strip() for line in lines]
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        matrix = matrix_of(file, path, read_header(file), file.tell())
        stack.pop_all()  # it stays open
    return ids, matrix


def _read_npz(path: Path, files: list[Path]) -> tuple[list[str], Matrix]:
    del files
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if not {"ids", "features"} <= {*names}:
            raise WrongFeatures(
                f"{path}: expected arrays ids and features, got "
                f"{listed(names) or 'none'}"
            )
        with archive.open("ids.npy") as member:
            if read_header(member).dtype.hasobject:
                raise WrongFeatures(
                    f"{path}: ids {_SAVE_TEXT}: ids.astype(str)"
                )
        ids = _texts(read_arrays(path, "ids")["ids"], path)
        info = archive.getinfo("features.npy")
        with archive.open(info) as member:
            if info.compress_type != zipfile.ZIP_STORED:
                return ids, _unzipped(member, path)
            while member.read(_COPIED):  # to its end, where its checksum is
                pass
        return ids, _stored(path, info.header_offset)


def _stored(path: Path, start: int) -> Matrix:
    """The numbers of a .npy that lies uncompressed in a .npz."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        file.seek(start + 26)  # of the member's header, whose size these are
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        matrix = matrix_of(file, path, read_header(file), file.tell())
        stack.pop_all()
    return matrix


def _unzipped(member, path: Path) -> Matrix:
    header = read_header(member)
    parts = iter(functools.partial(member.read, _COPIED), b"")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(temporary(parts))
        matrix = matrix_of(file, path, header, 0)
        stack.pop_all()
    return matrix


def _even(counts: np.ndarray, ids: Sequence[str], path: Path):
    """Refuses rows without features or of different lengths, `counts` [n]."""
    wrong = np.flatnonzero(counts == 0).tolist()
    if wrong:
        raise WrongFeatures(
            f"{path}: {listed([ids[i] for i in wrong])}: no features; expected "
            "a list of numbers for each id"
        )
    wrong = np.flatnonzero(counts != counts[0]).tolist()
    if wrong:
        raise WrongFeatures(
            f"{path}: {listed([ids[i] for i in wrong])}: rows of "
            f"{counts[wrong[0]]} features, and of {counts[0]} before; expected "
            "as many in all"
        )


# Parquet.


def _read_parquet(path: Path, files: list[Path]) -> tuple[list[str], Matrix]:
    import pyarrow.parquet

    ids: list[str] = []
    order: list[str] = []  # in which the first file has its columns

    def blocks():
        for name in files:
            with (
                _named(name),
                pyarrow.parquet.ParquetFile(name, buffer_size=_COPIED) as file,
            ):
                key, columns = _columns(file.schema_arrow, name)
                order.extend([] if order else columns)
                if {*columns} != {*order}:
                    unknown = [x for x in columns if x not in {*order}]
                    missing = [x for x in order if x not in {*columns}]
                    raise WrongFeatures(
                        f"{name}: expected the features of the files before "
                        f"it, got {listed(unknown) or 'none'} in place of "
                        f"{listed(missing) or 'none'}"
                    )
                for batch in file.iter_batches(_BATCH, columns=[key, *columns]):
                    new = _parquet_ids(batch.column(key), name)
                    ids.extend(new)
                    yield _parquet_rows(batch, order, new, name)

    return ids, unpacked(blocks(), path)


def _columns(schema, path: Path) -> tuple[str, list[str]]:
    """The column of ids, and the one of lists or those of numbers."""
    import pyarrow.types as types

    twice = [*{n for n in schema.names if schema.names.count(n) > 1}]
    if twice:
        raise WrongFeatures(f"{path}: columns of one name: {listed(twice)}")
    keys = [name for name in schema.names if name in _ID_COLUMNS]
    keys = keys or [name for name in schema.names if name == _INDEX]
    if len(keys) != 1:
        raise WrongFeatures(
            f"{path}: expected one column of ids, called "
            f"{', '.join(_ID_COLUMNS)}, got {listed(schema.names)}"
        )
    others = [
        n for n in schema.names
        if n not in (*keys, _INDEX) and not UNNAMED.fullmatch(n)
    ]  # fmt: skip
    lists = [n for n in others if n in _FEATURE_COLUMNS]
    if len(lists) > 1 or not others:
        raise WrongFeatures(
            f"{path}: expected one column of lists called "
            f"{', '.join(_FEATURE_COLUMNS)}, or columns of numbers, got "
            f"{listed(schema.names)}"
        )
    for name in lists or others:
        kind = schema.field(name).type
        kind = (
            kind.value_type if lists and hasattr(kind, "value_type") else kind
        )
        if not (
            types.is_floating(kind)
            or types.is_integer(kind)
            or types.is_boolean(kind)
        ):
            raise WrongFeatures(
                f"{path}: column {name} is {kind}; expected a column features "
                "of lists of numbers, or numbers in all columns but the ids"
            )
    return keys[0], lists or others


def _parquet_ids(column, path: Path) -> list[str]:
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = (
        types.is_string(column.type)
        or types.is_large_string(column.type)
        or types.is_string_view(column.type)
    )
    if column.null_count or not (is_text or types.is_integer(column.type)):
        raise WrongFeatures(
            f"{path}: ids are {column.type}, {column.null_count} of them null; "
            "expected text"
        )
    return [str(value) for value in column.to_pylist()]


def _parquet_rows(batch, columns, ids, path: Path) -> np.ndarray:
    """[n, d] float32; NaN for what is null."""
    first = batch.column(columns[0])
    if not hasattr(first.type, "value_type"):
        return np.column_stack([_numbers(batch.column(n)) for n in columns])
    counts = first.value_lengths().fill_null(0).to_numpy()
    _even(counts, ids, path)
    return _numbers(first.flatten()).reshape(len(ids), counts[0])


def _numbers(column) -> np.ndarray:
    import pyarrow

    if pyarrow.types.is_boolean(column.type):
        column = column.cast(pyarrow.uint8())
    return single_precision(column.to_numpy(zero_copy_only=False))


# TFRecords.


def _read_records(path: Path, files: list[Path]) -> tuple[list[str], Matrix]:
    import tensorflow as tf

    ids: list[str] = []

    parsed = tf.autograph.experimental.do_not_convert(_parsed)

    def blocks():
        for name in files:
            with _named(name):
                records = tf.data.TFRecordDataset(
                    str(name), _compression(name)
                ).batch(_BATCH)
                for batch in records.map(parsed).prefetch(2):
                    found, both, counts, values = (x.numpy() for x in batch)
                    new = [image_id.decode() for image_id in found]
                    ids.extend(new)
                    if both.any():
                        raise WrongFeatures(
                            f"{name}: {listed([*np.array(new)[both]])}: both "
                            "feature and features; expected one of them"
                        )
                    _even(counts, new, name)
                    yield values.reshape(len(new), counts[0])

    return ids, unpacked(blocks(), path)


def _compression(path: Path) -> str:
    """GZIP or none, as TensorFlow wants to know it of TFRecords."""
    with path.open("rb") as file:
        return "GZIP" if file.read(3) == b"\x1f\x8b\x08" else ""


def _parsed(records):
    """For records [n]: ids [n], whether features are there twice [n], numbers
    of features [n], and all features one after the other.
    """
    import tensorflow as tf

    found = tf.io.parse_example(
        records,
        {
            "image_id": tf.io.FixedLenFeature([], tf.string, ""),
            "id": tf.io.FixedLenFeature([], tf.string, ""),
            "feature": tf.io.RaggedFeature(tf.float32),
            "features": tf.io.RaggedFeature(tf.float32),
        },
    )
    ids = tf.where(found["image_id"] == "", found["id"], found["image_id"])
    ways = found["feature"], found["features"]
    both = tf.reduce_all([way.row_lengths() > 0 for way in ways], axis=0)
    features = tf.concat(ways, axis=1)
    return ids, both, features.row_lengths(), features.values
