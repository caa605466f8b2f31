"""What tests of records share: records as they lie on disk."""

import csv
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from imcl_tf.data import builders
from imcl_tf.data.folder import folder_builder

SPLITS = ("train", "validation", "test")


def snapshot(directory):
    """Path, size and time of everything below `directory`."""
    directory = Path(directory)  # of TFDS's own kind, it would not glob
    paths = [directory, *directory.rglob("*")]
    stats = {str(p.relative_to(directory)): p.stat() for p in paths}
    return {name: (s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def read_csv(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edit(path, change):
    """Rewrites a text file."""
    path.write_text(change(path.read_text()))


def raw_records(builder, split):
    """The records of a split, file by file."""
    return [
        list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        for path in builder.info.splits[split].filepaths
    ]


def parsed(record):
    """Feature name -> list of values, by the protocol buffer alone."""
    values = {}
    for name, f in tf.train.Example.FromString(record).features.feature.items():
        kind = f.WhichOneof("kind")
        values[name] = list(getattr(f, kind).value) if kind else []
    return values


def image_ids(builder, split):
    """Image ids in the order of the records."""
    records = sum(raw_records(builder, split), [])
    return [parsed(record)["image_id"][0].decode() for record in records]


def label_table(builder, split):
    """The arrays of a split's label table, by NumPy alone."""
    path = Path(str(builder.data_path)) / f"labels-{split}.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def dense(table):
    """[N, C] int8, the labels of a label table."""
    names, splits = table["label_names"], table["row_splits"]
    rows = np.zeros((len(table["image_ids"]), len(names)), np.int8)
    for i, row in enumerate(rows):
        part = slice(*splits[i : i + 2])
        assert (np.diff(table["columns"][part]) > 0).all()
        row[table["columns"][part]] = table["values"][part]
    return rows


def shuffled(names, split):
    """TFDS's order: by the MD5 sum of the split's name and the image's."""
    return sorted(
        names, key=lambda n: hashlib.md5(f"{split}{n}".encode()).digest()
    )


def files_of(builder):
    """Name -> content of all files of a data set."""
    return {
        path.name: path.read_bytes()
        for path in Path(str(builder.data_path)).rglob("*")
    }


def left_out(builder):
    text = (builder.data_path / builders.LEFT_OUT).read_text()
    return [*csv.reader(text.splitlines())]


def stored(encoded):
    """What a record holds of an upright file: without alpha, over white."""
    image = Image.open(io.BytesIO(encoded))
    if image.mode != "RGBA":
        return encoded
    pixels = np.asarray(image).astype(int)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    mixed = (alpha * colours + (255 - alpha) * 255 + 127) // 255
    return tf.io.encode_png(mixed.astype(np.uint8)).numpy()


REASONS = {
    "missing": "no such image file",
    "html": "an HTML page, not an image",
    "empty": "empty file",
    "cut": "truncated JPEG",
    "directory": "Is a directory",
}


def spoil(folder, name, damage):
    """Makes an image of a folder unusable; returns its name."""
    path = folder.path / "images" / name
    path.unlink()
    if damage == "html":
        path.write_text("<html><body>404 Not Found</body></html>\n")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 1))
        content = tf.io.encode_jpeg(pixels.astype(np.uint8)).numpy()
        path.write_bytes(content[: len(content) // 2])
    elif damage == "directory":
        path.mkdir()
    return name


def prepare_folder(made, records, on_bad_image="error", **options):
    builder = folder_builder(made.path, records, on_bad_image)
    return builders.prepare(builder, made.path, **options)
