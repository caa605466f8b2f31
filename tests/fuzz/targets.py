"""What is fuzzed: each reader of files that users or other programs make."""

import collections
import contextlib
import gzip
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from absl import flags
from hypothesis import strategies as st

from data_prep import coco, cub, cub_tables, open_images
from imcl_tf import main, settings
from imcl_tf.backbones.make import backbone
from imcl_tf.data import (
    duplicates,
    folder_tables,
    headers,
    images,
    records,
    splitting,
)
from imcl_tf.data.cells import SEPARATORS, Table
from imcl_tf.data.feature_files import FeatureFile
from imcl_tf.data.image_names import ImageNames
from imcl_tf.data.kept import parse_json
from imcl_tf.data.label_json import read_label_json
from imcl_tf.data.label_tables import Reading, read_label_table
from imcl_tf.data.manifest import read_manifest
from imcl_tf.data.multi_label_dataset import naming_damaged_files
from imcl_tf.data.picture_digests import PictureDigests
from imcl_tf.files import parse_or_fail
from imcl_tf.methods import fast0tag, label_graph
from imcl_tf.training import search, workdir
from tests.fuzz import inputs, oracles
from tests.fuzz.inputs import mutated, mutated_json, mutated_npz

REFUSED = ValueError, OSError


class Target(NamedTuple):
    """A reader to fuzz.

    Attributes:
      name: on the command line.
      file: name of the input's file.
      make: the inputs, contents of that file.
      read: the reader, of the file's path.
      verify: asserts that the file's content says what was read.
      refusals: what the reader may raise; ValueError and OSError in one line.
      share: of the inputs, relative to other targets.
      prepare: makes what else the directory must hold.
    """

    name: str
    file: str
    make: st.SearchStrategy[bytes]
    read: Callable[[Path], Any]
    verify: Callable[[bytes, Any], None] = lambda content, found: None
    refusals: tuple[type[BaseException], ...] = REFUSED
    share: float = 1
    prepare: Callable[[Path], Any] = lambda directory: None


# Tables.

LONG = (
    'image,label,value\na.jpg,dog,1\na.jpg,cat,-1\nb.png,"big, dog",0\n'
    "sub/c.jpg,dog,\nd é.jpg,cat,true\n"
)
WIDE = "image,dog,cat,big dog\na.jpg,1,-1,\nb.png,,1,0\nsub/c.jpg,-1,1,1\n"
LISTS = "image,labels\na.jpg,dog|cat\nb.png,\nsub/c.jpg,cat|big dog\n"
OPEN = (
    "ImageID,Source,LabelName,Confidence\n0000000000000001,v,/m/01,1\n"
    "0000000000000001,v,/m/02,0\n00000000000000ff,v,/m/01,1.0\n"
)
SPLITS = "image,split\na.jpg,train\nb.png,val\nsub/c.jpg,test\nd é.jpg,dev\n"
FILES = ("a.jpg", "b.png", "sub/c.jpg", "d é.jpg", "c.jpg", "C.JPG", "c")
_ALL_TABLES = mutated(LONG, WIDE, LISTS, OPEN, SPLITS) | inputs.GARBAGE


def make_images(directory: Path):
    """Files of images/, and one outside that no table may reach."""
    for name in (*(f"images/{name}" for name in FILES), "outside.jpg"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def table_rows(path: Path) -> list[list[str]]:
    table = Table(path)
    rows = [(n, row) for x in table.rows() for n, row in zip(*x, strict=True)]
    lines = [table.line(int(n)) for n, _ in rows]
    assert lines == sorted(set(lines))
    return [[*table.header], *(row.tolist() for _, row in rows)]


def same_rows(content: bytes, found):
    if content.startswith(b"\x1f\x8b"):  # no text begins so
        content = gzip.decompress(content)
    expected = [oracles.cleaned(rows) for rows in oracles.tables(content)]
    assert oracles.cleaned(found) in expected


def reading_of(content: bytes) -> Reading:
    """Some way to read a table."""
    return Reading(
        "absent",
        ("unset", "absent", "unobserved")[len(content) % 3],
        ("pipe", "comma", "space")[len(content) % 2],
    )


def read_labels(path: Path):
    reading = reading_of(path.read_bytes())
    read = read_label_json if ".json" in path.name else read_label_table
    table = read(path, reading)
    pairs = zip(table.rows, table.columns, table.values, strict=True)
    return [
        (oracles.clean(table.images[i]), table.label_names[j], int(value))
        for i, j, value in pairs
    ]


def same_labels(content: bytes, found):
    reading = reading_of(content)
    expected = []
    for rows in oracles.tables(content):
        try:
            expected.append(
                oracles.labels(
                    rows, reading.zero, SEPARATORS[reading.label_separator]
                )
            )
        except (ValueError, LookupError):  # not by this delimiter
            continue
    assert found in expected


def written_reading(path: Path):
    table = read_label_table(path, Reading(zero="unobserved"))
    pairs = zip(table.rows, table.columns, table.values, strict=True)
    return {
        (table.images[i], table.label_names[j]): int(x) for i, j, x in pairs
    }


def same_written(content: bytes, found):
    rows = next(oracles.tables(content))
    expected = oracles.labels(rows, "unobserved", "")
    assert found == {(image, label): x for image, label, x in expected}


# Folders.


def is_inside(name: str) -> bool:
    """Whether a path stays below the directory that it is joined to."""
    path = os.path.normpath(os.path.join("/base", name))
    return path.startswith("/base/")


def read_splits(path: Path):
    table = folder_tables.read_splits(path, ImageNames(path.parent / "images"))
    return [*zip(table["image"], table["split"], strict=True)]


def same_splits(content: bytes, found):
    spellings = dict.fromkeys(("val", "valid", "dev", "validation"), 1)
    spellings |= {"train": 0, "training": 0, "test": 2, "testing": 2}
    expected = []
    for header, *rows in filter(None, oracles.tables(content)):
        lower = [oracles.clean(name).lower() for name in header]
        if {"image", "split"} <= {*lower}:
            at, of = lower.index("image"), lower.index("split")
            rows = [row for row in rows if len(row) > max(at, of)]
            words = [oracles.clean(row[of]).lower() for row in rows]
            expected.append(
                [*zip((row[at] for row in rows),
                      (spellings.get(word) for word in words), strict=True)]
            )  # fmt: skip
    splits = [split for _, split in found]
    assert any(splits == [s for _, s in rows] for rows in expected)
    for (name, _), *given in zip(found, *expected, strict=False):
        assert is_inside(name)
        exact = {x for x, _ in given}
        assert not exact & {*FILES} or name in exact


def read_folder(path: Path):
    options = folder_tables.FolderOptions(*("", *reading_of(path.read_bytes())))
    return folder_tables.read_folder(path.parent, options, on_bad_image="skip")


def same_folder(content: bytes, found):
    labels = {}
    for split, files in found.splits.items():
        assert files.labels.shape == (len(files.names), len(found.label_names))
        for name, row in zip(files.names, files.labels, strict=True):
            assert is_inside(name) and split in records.SPLITS
            labels[name] = dict(
                zip(found.label_names, row.toarray().ravel(), strict=True)
            )
    reading, expected = reading_of(content), []
    for rows in oracles.tables(content):
        try:
            pairs = oracles.labels(
                rows, reading.zero, SEPARATORS[reading.label_separator]
            )
        except (ValueError, LookupError):
            continue
        told = {(i, x): v for i, x, v in pairs if i in FILES and i in labels}
        expected.append(told)
    assert any(
        {(i, x): labels[i].get(x) for i, x in told} == told for told in expected
    )


def prepare_folder(directory: Path):
    make_images(directory)
    (directory / "splits.csv").write_text(SPLITS)


# JSON.

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"},
               {"id": 2, "file_name": "b.png"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "caption": "a dog"},
        {"image_id": 2, "category_id": 8, "caption": "The cat's"},
        {"image_id": 1, "category_id": 8, "caption": "Two_dogs"},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "big cat"}],
}  # fmt: skip
_CAPTIONS = {key: COCO[key] for key in ("images", "annotations")}


def same_json(content: bytes, found):
    expected = oracles.coco(content)
    assert {(image, label) for image, label, _ in found} == expected
    assert {value for *_, value in found} <= {1}


def read_captions(path: Path):
    return coco.read_captions(path, True, collections.Counter())


def same_captions(content: bytes, found):
    text = oracles.loaded(content)
    names = {image["id"]: image["file_name"] for image in text["images"]}
    assert {number: x.file_name for number, x in found.items()} == names
    assert all(map(is_inside, names.values()))
    for number, image in found.items():
        of_image = [
            x["caption"] for x in text["annotations"] if x["image_id"] == number
        ]
        assert {*image.text.split("\n")} <= {
            "",
            *"\n".join(of_image).split("\n"),
        }


def same_vocabulary(content: bytes, found):
    text = oracles.decoded(content).rstrip()
    rows = [row.split("\t") for row in text.splitlines()]
    column = rows[0].index("word") if len(rows[0]) > 1 else 0
    rows = rows[len(rows[0]) > 1 :]
    cells = [row[column] if len(row) > column else "" for row in rows]
    assert [*found] == [word for word in cells if word.strip()]


SEARCH = [
    {"grid": {"learning_rate": [0.1, 1e-3], "method": ["imcl", "hill"]}},
    {"random": {"learning_rate": {"low": 1e-3, "high": 1, "log": True},
                "epochs": {"low": 1, "high": 9}, "boost": [True, False]},
     "trials": 5, "seed": 3},
]  # fmt: skip


def same_trials(content: bytes, trials):
    spec = oracles.loaded(content)
    axes = spec.get("grid") or spec["random"]
    assert 1 <= len(trials) <= 10_000
    assert len({json.dumps(trial) for trial in trials}) == len(trials)
    for trial in trials:
        assert [*trial] == [*axes]
        for name, text in trial.items():
            axis = axes[name]
            if isinstance(axis, list):
                words = [
                    x if isinstance(x, str) else json.dumps(x) for x in axis
                ]
                assert text in words
            else:
                value, slack = float(text), 1e-3 * abs(float(text))
                assert axis["low"] - slack <= value <= axis["high"] + slack


# Records.

TABLE = {
    "image_ids": np.array([b"a.jpg", b"b.png", b"c"]),
    "label_names": np.array([b"cat", "dög".encode()]),
    "values": np.array([1, -1, 1], np.int8),
    "columns": np.array([0, 1, 1], np.int32),
    "row_splits": np.array([0, 2, 2, 3], np.int32),
    "classes": np.zeros(0, np.int32),
    "file_sizes": np.array([10], np.int64),
    "file_digests": np.array([b"0" * 32]),
    "source_digest": np.array("abc"),
    "extra_certainties": np.array([1, 2, 3], np.int32),
}


def good_label_table(content: bytes, found):
    shape = len(found.image_ids), len(found.label_names)
    assert found.labels.shape == shape
    dense = found.labels.toarray()
    assert np.isin(dense, (-1, 0, 1)).all()
    assert (dense != 0).sum() == found.labels.nnz
    assert len(found.classes) in (0, shape[0])
    for extra in found.extras.values():
        assert len(extra) in (shape[0], found.labels.nnz)


def example(**features: bytes) -> bytes:
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[value])
                )
                for name, value in features.items()
            }
        )
    ).SerializeToString()


EXAMPLE = example(image_id=b"a.jpg", image=b"\xff\xd8\xff" * 20)


def tfrecord(*contents: bytes) -> bytes:
    """A TFRecord file, with its checksums, through TensorFlow."""
    place = f"ram://fuzz-{len(contents)}.tfrecord"
    with tf.io.TFRecordWriter(place) as writer:
        for content in contents:
            writer.write(content)
    with tf.io.gfile.GFile(place, "rb") as file:
        return file.read()


def read_example(path: Path):
    return [x.numpy() for x in records.decode_image(path.read_bytes())]


def read_tfrecord(path: Path):
    with naming_damaged_files([str(path)]):
        return [x.numpy() for x in tf.data.TFRecordDataset(str(path))]


def good_records(content: bytes, found):
    """Each is there as it was written: the checksums see to that."""
    for record in found:
        assert record in content


# Files of other programs.

GRAPH = {
    "edges": np.array([[0, 0], [0, 1], [1, 1]], np.int32),
    "weights": np.array([0.5, 0.25, 1], np.float32),
    "labels": np.array(["cat", "dog"]),
    "source": np.array("cooccurrence"),
    "labels_digest": np.array("0123456789abcdef"),
}


def good_graph(content: bytes, found):
    graph, names = found
    edges = graph.edges.numpy()
    assert edges.shape == (graph.num_edges, 2) and len(names) > 0
    assert (edges >= 0).all() and (edges < len(names)).all()
    assert np.isfinite(graph.edge_weights.numpy()).all()
    assert all(isinstance(name, str) for name in names)


def good_source(content: bytes, found):
    assert all(isinstance(text, str) for text in found)


_CACHE = {
    "names": np.array([b"a.jpg", b"b.png"]),
    "states": np.zeros((2, 4), np.int64),
    "digests": np.zeros((2, 32), np.uint8),
}


def read_digests(path: Path):
    digests = PictureDigests(path.parent / "images", path)
    return digests(FILES[:3]).tolist()


def right_digests(content: bytes, found):
    import hashlib

    for name, digest in zip(FILES, found, strict=False):
        expected = hashlib.sha256(f"images/{name}".encode()).digest()
        assert digest == [*expected]


VECTORS = (
    "dog 0.5 1 2e-1\ncat -1 0 3\n. . 1 2 3\nbig 1 1 1\n",
    "3 3\nDog 0.5 1 2\ncat -1 0 3 \nbig 1 2 3\n",
)


def read_vectors(path: Path):
    return fast0tag.read_label_vectors(path, ["dog", "big cat"])


def same_vectors(content: bytes, found):
    dimension = found.shape[1]
    assert found.shape[0] == 2 and np.isfinite(found).all()
    first: dict[str, list[float]] = {}
    for line in content.decode(errors="replace").split("\n"):
        word, *values = line.rstrip().split(" ")
        if len(values) == dimension and word.casefold() not in first:
            first[word.casefold()] = values
    np.testing.assert_allclose(
        found[0], np.array(first["dog"], np.float32), 1e-6
    )


MANIFEST = (
    "image_id,status,reason,bytes\n0123456789abcdef,done,,1234\n"
    '00000000000000ff,failed,"timeout, twice",0\n'
    "0123456789abcdef,missing,404,7\n00000000000000aa,corrupt,HTML,99\n"
)


def read_rows(path: Path):
    return [*read_manifest(path).itertuples(index=False, name=None)]


def same_manifest(content: bytes, found):
    whole = content[: content.rfind(b"\n") + 1]
    last = {row[0]: row for row in oracles.csv_rows(whole)[1:] if row}
    expected = {key: (*x[:3], float(x[3])) for key, x in last.items()}
    assert {x[0]: x for x in found} == expected


DUPLICATES = (
    "split,image_id,other_split,other_image_id\n"
    'test,"a, b.jpg",train,x.png\ntest,c.jpg,validation,001\n'
    "validation,001,train,sub/y.png\n"
)


def read_duplicates(path: Path):
    return duplicates.read(path.parent)


def same_duplicates(content: bytes, found):
    header, *expected = oracles.csv_rows(content)
    assert tuple(header) == duplicates.Duplicate._fields
    assert [[*row] for row in found] == expected


# Raw tables of the paper's data sets.

INTEGERS = "1 1 0 1 2.5\n1 2 1 4 1.1\n2 1 1 3 9\n2 2 0 2 8.25\n"
_COLUMNS = {"image id": (1, 2), "attribute id": (1, 9), "is_present": (0, 1),
            "certainty id": (1, 4)}  # fmt: skip
BIRDS = [f"001.A/{n}.jpg" for n in range(13)]


def read_integers(path: Path):
    return cub_tables.read_integers(path, _COLUMNS)[0].tolist()


def same_integers(content: bytes, found):
    lines = content.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    lines = lines.rstrip().split("\n")
    assert found == [[int(x) for x in line.split()[:4]] for line in lines]


def good_names(content: bytes, found):
    lines = oracles.decoded(content).rstrip().split("\n")
    assert found == [line.split()[1] for line in lines]
    assert all(map(is_inside, found))


def read_bird_splits(path: Path):
    return cub.read_splits(path, BIRDS)


def same_bird_splits(content: bytes, found):
    rows = oracles.csv_records(content)
    for split in records.SPLITS:
        names = {row["image"] for row in rows if row["split"] == split}
        assert {BIRDS[i] for i in found[split]} == names


MIDS = pd.Index(["/m/01", "/m/02"])
CLASSES = open_images.Classes(MIDS, ("dog", "cat"), MIDS)


def read_annotations(path: Path):
    counts: collections.Counter = collections.Counter()
    found = open_images.read_annotations(path, CLASSES, counts)
    return [*zip(*(part.tolist() for part in found), strict=True)]


def same_annotations(content: bytes, found):
    rows = oracles.csv_records(content)
    expected = [
        (int(row["ImageID"], 16), [*MIDS].index(row["LabelName"]),
         float(row["Confidence"]) > 0)
        for row in rows if row["LabelName"] in MIDS
    ]  # fmt: skip
    assert found == expected


def read_classes(path: Path):
    return open_images.read_classes(path.parent)


def same_classes(content: bytes, found):
    names = {row[0]: row[1] for row in oracles.csv_rows(content) if row}
    for mid, name in zip(found.mids, found.names, strict=True):
        assert name in (names[mid], f"{names[mid]} ({mid})")


# Workdirs.

_SETTINGS = {"epochs": 3, "learning_rate": 0.1, "method": "imcl"}
_IDENTITY = workdir.Identity(_SETTINGS, {"backbone": "abc"}, {"splits": "def"})
RUN = {"run": "0" * 32, "identity": _IDENTITY._asdict()}
RESULTS = {"mAP": 50.5, "validation_mAP": 49.0}


def read_workdir(path: Path):
    found = workdir.Workdir(path.parent)
    return found.finished(_IDENTITY), workdir.run_number(path.parent)


def good_workdir(content: bytes, found):
    results, number = found
    assert results is None or isinstance(results, dict) and "mAP" in results
    assert number is None or isinstance(number, str)


def write_workdir(directory: Path):
    (directory / "run.json").write_text(json.dumps(RUN))
    (directory / "results.json").write_text(json.dumps(RESULTS))


FLAGS = (
    "--dataset=scenes\n--workdir=runs/mine\n--learning_rate=0.1\n--epochs=3\n"
    "--noboost\n--method=imcl\n# comment\n--seed=1\n--mixed_precision=none\n"
    "--split_shares=80/10/10\n--zero=absent\n--image_size=32\n"
)


def read_flags(path: Path):
    main.define_flags()
    saved, message = flags.FLAGS.flag_values_dict(), io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parse_or_fail(main.parse_flags)(["main", f"--flagfile={path}"])
        return flags.FLAGS.flag_values_dict()
    except SystemExit as error:
        if error.code:
            raise ValueError(message.getvalue()) from error
        return {}  # --help
    finally:
        flags.FLAGS.unparse_flags()
        for name, value in saved.items():
            flags.FLAGS[name].value, flags.FLAGS[name].present = value, 0


def good_flags(content: bytes, found):
    for name, option in settings.known_options().items():
        if found and not option.repeated:
            assert type(found[name]) is type(option.default)


def read_option(path: Path):
    value = parse_json(path.read_bytes())
    found = []
    for option in settings.known_options().values():
        try:
            found.append((option, option.checked(value)))
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
    return found


def good_options(content: bytes, found):
    for option, value in found:
        assert type(value) is type(option.default)
        if isinstance(value, int | float):
            low, high = option.minimum, option.maximum
            assert (-math.inf if low is None else low) <= value
            assert value <= (math.inf if high is None else high)
        assert not option.choices or value in option.choices


# Features, as others store them.

IDS = ["a.jpg", "b", "ü/3"]
ROWS = np.array([[0, 1.5], [2, -3], [4, 1e30]], np.float32)


def npz_of_features(save) -> bytes:
    file = io.BytesIO()
    save(file, ids=np.array(IDS), features=ROWS)
    return file.getvalue()


def npy_of_features(order="C", dtype="<f4") -> bytes:
    file = io.BytesIO()
    np.save(file, ROWS.astype(dtype, order))
    return file.getvalue()


def parquet_of_features(**columns) -> bytes:
    file = io.BytesIO()
    pd.DataFrame({"id": IDS, **columns}).to_parquet(file)
    return file.getvalue()


def records_of_features() -> bytes:
    return tfrecord(*map(example_of_features, IDS, ROWS))


def example_of_features(name, row) -> bytes:
    floats = tf.train.FloatList(value=row)
    record = tf.train.Example.FromString(example(image_id=name.encode()))
    record.features.feature["feature"].float_list.CopyFrom(floats)
    return record.SerializeToString()


def read_features(path: Path):
    file = FeatureFile(path)
    blocks = np.concatenate([*file.blocks()])
    np.testing.assert_array_equal(file.rows(slice(len(file.ids))), blocks)
    return file.ids, file.num_features, blocks


def good_features(content: bytes, found):
    ids, size, rows = found
    assert rows.shape == (len(ids), size) and size > 0 and ids
    assert rows.dtype == np.float32 and len({*ids}) == len(ids)
    assert all(map(oracles.clean, ids))


def same_features(content: bytes, found):
    """A checksum sees to it that no number is another one."""
    good_features(content, found)
    ids, _, rows = found
    assert (ids, rows.tolist()) == (IDS, ROWS.tolist())


def write_ids(directory: Path):
    (directory / "ids.txt").write_text("\n".join(IDS))


# Pictures and networks.


def read_header(path: Path):
    content = path.read_bytes()
    if headers.format_of(content) is None:
        return headers.what_else(content)
    return headers.read_header(content)


def good_header(content: bytes, found):
    if isinstance(found, str):
        assert found
        return
    assert 1 <= found.orientation <= 8
    assert found.height >= 0 and found.width >= 0


def good_picture(content: bytes, found):
    assert bool(found.problem) != bool(found.stored)


def weights_file() -> bytes:
    place = Path(
        os.environ.get("TMPDIR", "/tmp"), f"fuzz-{os.getpid()}.weights.h5"
    )
    backbone("small_cnn", image_size=32).save_weights(place)
    content = place.read_bytes()
    place.unlink()
    return content


def read_weights(path: Path):
    return backbone("small_cnn", str(path), 32)


def good_weights(content: bytes, found):
    assert isinstance(found, keras.Model)


TARGETS = [
    Target("csv_written", "x.csv", inputs.written_csv(), table_rows, same_rows,
           refusals=()),
    Target("csv", "x.csv", _ALL_TABLES, table_rows, same_rows, share=3),
    Target("gzip", "x.csv.gz", mutated(gzip.compress(LONG.encode())) |
           inputs.GARBAGE.map(gzip.compress), table_rows, same_rows),
    Target("labels_written", "x.csv", inputs.written_labels(), written_reading,
           same_written, refusals=()),
    Target("labels", "x.csv", mutated(LONG, WIDE, LISTS, OPEN), read_labels,
           same_labels, share=3),
    Target("labels_json", "x.json",
           mutated(json.dumps(COCO), json.dumps(_CAPTIONS)) |
           mutated_json(COCO, _CAPTIONS), read_labels, same_json, share=2),
    Target("splits", "splits.csv", mutated(SPLITS), read_splits, same_splits,
           share=2, prepare=make_images),
    Target("folder", "labels.csv", mutated(LONG, WIDE, LISTS), read_folder,
           same_folder, share=2, prepare=prepare_folder),
    Target("kept_split", "x.csv", mutated("image,split\na,train\nb,test\n"),
           lambda path: splitting.read_kept(path, ["a", "b"]), refusals=()),
    Target("search", "x.json",
           mutated(*map(json.dumps, SEARCH)) | mutated_json(*SEARCH),
           search.read_trials, same_trials),
    Target("label_table", "x.npz", mutated_npz(**TABLE), records.read_labels,
           good_label_table, share=2),
    Target("example", "x", mutated(EXAMPLE), read_example,
           refusals=(tf.errors.InvalidArgumentError, UnicodeDecodeError)),
    Target("records", "x.tfrecord", mutated(tfrecord(EXAMPLE, b"12", b"")),
           read_tfrecord, good_records, share=0.05),
    Target("features_npz", "x.npz",
           mutated(npz_of_features(np.savez),
                   npz_of_features(np.savez_compressed)),
           read_features, good_features),
    Target("features_arrays", "x.npz",
           mutated_npz(ids=np.array(IDS), features=ROWS), read_features,
           good_features),
    Target("features_npy", "x.npy",
           mutated(npy_of_features(), npy_of_features("F", ">f8")) |
           inputs.GARBAGE, read_features, good_features, prepare=write_ids),
    Target("features_ids", "ids.txt", mutated("\n".join(IDS)),
           lambda path: read_features(path.with_name("x.npy")), good_features,
           prepare=lambda directory: (
               directory / "x.npy").write_bytes(npy_of_features())),
    Target("features_parquet", "x.parquet",
           mutated(parquet_of_features(features=[*ROWS]),
                   parquet_of_features(x=ROWS[:, 0], y=ROWS[:, 1])),
           read_features, good_features),
    Target("features_records", "x.tfrecord", mutated(records_of_features()),
           read_features, same_features, share=0.05),
    Target("features_example", "x.tfrecord",
           mutated(example_of_features(IDS[0], ROWS[0])).map(tfrecord),
           read_features, good_features, share=0.05),
    Target("label_graph", "x.npz", mutated_npz(**GRAPH),
           label_graph.load_named, good_graph),
    Target("label_graph_source", "x.npz", mutated_npz(**GRAPH),
           label_graph.load_source, good_source),
    Target("duplicates", "duplicates.csv", mutated(DUPLICATES),
           read_duplicates, same_duplicates),
    Target("digests", "x.npz", mutated_npz(**_CACHE), read_digests,
           right_digests, refusals=(), prepare=make_images),
    Target("vectors", "x.txt", mutated(*VECTORS), read_vectors, same_vectors),
    Target("manifest", "x.csv", mutated(MANIFEST), read_rows, same_manifest),
    Target("captions", "x.json", mutated(json.dumps(_CAPTIONS)) |
           mutated_json(_CAPTIONS), read_captions, same_captions),
    Target("vocabulary", "x.txt", mutated("dog\ncat\nbig\n",
           "id\tword\n1\tdog\n2\tcat\n"), coco.read_vocabulary,
           same_vocabulary),
    Target("cub_names", "x.txt", mutated("1 001.A/a.jpg\n2 001.A/b.jpg\n"),
           cub_tables.read_names, good_names),
    Target("cub_integers", "x.txt", mutated(INTEGERS), read_integers,
           same_integers),
    Target("cub_splits", "x.csv", mutated(
           "image,split\n001.A/1.jpg,train\n001.A/0.jpg,validation\n"
           "001.A/2.jpg,test\n"), read_bird_splits, same_bird_splits),
    Target("annotations", "x.csv", mutated(OPEN), read_annotations,
           same_annotations),
    Target("classes", "class-descriptions.csv",
           mutated("/m/01,dog\n/m/02,cat\n/m/03,\"cat, big\"\n"), read_classes,
           same_classes, prepare=lambda directory: (
               directory / "classes-trainable.txt").write_text(
                   "/m/01\n/m/02\n")),
    Target("run_json", "run.json", mutated(json.dumps(RUN)) |
           mutated_json(RUN),
           read_workdir, good_workdir, prepare=write_workdir),
    Target("results_json", "results.json", mutated(json.dumps(RESULTS)) |
           mutated_json(RESULTS), read_workdir, good_workdir,
           prepare=write_workdir),
    Target("flags", "flags.cfg", mutated(FLAGS), read_flags, good_flags,
           share=0.3),
    Target("options", "x.json", mutated("1", "0.5", '"imcl"', "true", "-3") |
           inputs.JSON_VALUES.map(lambda x: json.dumps(x).encode()),
           read_option, good_options, share=0.5),
    Target("headers", "x", mutated(*inputs.picture_files()), read_header,
           good_header, refusals=(), share=5),
    Target("pictures", "x", mutated(*inputs.picture_files()),
           lambda path: images.inspect(path.read_bytes()), good_picture,
           refusals=(), share=1),
    Target("weights", "x.weights.h5", mutated(weights_file()), read_weights,
           good_weights, share=0.02),
]  # fmt: skip
