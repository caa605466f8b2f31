"""Where tests may write, and the small folder data set that many need."""

import contextlib
import csv
import gzip
import importlib
import io
import os
import resource
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests import programs

# Must precede TFDS and Keras, which read these once: no test may write to, or
# depend on, the user's home.
_HOME = tempfile.mkdtemp(prefix="imcl_tf_tests_")
os.environ["TFDS_DATA_DIR"] = str(Path(_HOME, "tfds"))
os.environ["KERAS_HOME"] = str(Path(_HOME, "keras"))

# Two processes share the cores already.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

SIZES = {"train": 23, "validation": 9, "test": 11}
LABELS = ("001", "NA", "a, b", "cat", "dog", "null", "über sea")
# Names that a CSV reader may take for numbers, missing values or paths.
ODD_NAMES = ("001", "NA", "nan", "sub dir/deep/a b.jpg", "1e3", "é,1.png")


def pytest_configure(config):
    # TFDS 4.9 on protobuf 6, which is what Apache Beam asks for.
    config.addinivalue_line(
        "filterwarnings", r"ignore:label\(\) is deprecated:DeprecationWarning"
    )
    # A process that leaves the tests to others starts without TensorFlow.
    if hasattr(config, "workerinput") or not config.getoption(
        "numprocesses", None
    ):
        _prepare_tensorflow()


def _prepare_tensorflow():
    # Graphs run for a few steps here: to optimise them takes longer than that.
    # Most programs that tests start do it.
    programs.leave_graphs_as_they_are()
    programs.lighten()


def pytest_collection_modifyitems(items):
    # The longest first: several processes share the files.
    longest = (
        "test_docs.py", "test_auto.py", "test_every_method.py",
        "test_compiled.py", "test_end_to_end.py", "test_library.py",
        "test_compare.py", "test_heads.py", "test_run_plan.py",
        "test_public.py", "test_fitting.py", "test_imcl.py", "test_run.py",
        "test_stages.py", "test_export.py", "test_features.py",
        "test_devices.py", "test_browser.py",
    )  # fmt: skip
    place = {name: number for number, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.name, len(longest)))


def pytest_unconfigure():
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture
def small_disk():
    """A context in which no file may grow beyond `size` bytes.

    Lifted within the test: pytest itself may be writing to a long file.
    """

    @contextlib.contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


class Folder(NamedTuple):
    """A folder data set that was written, and what it says.

    Attributes:
      path: the directory.
      label_names: sorted.
      splits: split -> image names.
      labels: image -> label -> -1 or 1, observed ones only.
      encoded: image -> bytes of the file.
    """

    path: Path
    label_names: tuple[str, ...]
    splits: dict[str, list[str]]
    labels: dict[str, dict[str, int]]
    encoded: dict[str, bytes]

    def write_table(self, name: str, rows):
        """Replaces labels.csv, labels.csv.gz or splits.csv."""
        names = ("image", "label", "value")
        header = names if name.startswith("labels") else ("image", "split")
        write_csv(self.path / name, header, rows)

    def rows(self, images) -> np.ndarray:
        """[len(images), C] int8."""
        return np.array(
            [
                [self.labels[i].get(name, 0) for name in self.label_names]
                for i in images
            ],
            np.int8,
        ).reshape(-1, len(self.label_names))


def _encoded_image(rng, kind: int) -> bytes:
    """A random image: RGB JPEG, RGB, grey or RGBA PNG, grey JPEG."""
    height, width = rng.integers(5, 40, 2)
    channels = (3, 3, 1, 4, 1)[kind % 5]
    pixels = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)
    import tensorflow as tf

    encode = tf.io.encode_jpeg if kind % 5 in (0, 4) else tf.io.encode_png
    return encode(pixels).numpy()


def write_csv(path: Path, header, rows):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    path.write_bytes(content)


def write_folder(
    path: Path,
    sizes=None,
    label_names=LABELS,
    names=None,
    packed: bool = False,
    seed: int = 0,
) -> Folder:
    """Writes images, labels.csv[.gz] and splits.csv to `path`.

    A quarter of the pairs is not listed, a quarter is listed as 0, and one
    image has no observed label at all.

    Args:
      path: made.
      sizes: split -> number of images.
      label_names: C names.
      names: names of the first images; the others get made up ones.
      packed: labels.csv.gz.
      seed: of everything.
    """
    rng = np.random.default_rng(seed)
    sizes = sizes or SIZES
    names = ODD_NAMES if names is None else names
    total = sum(sizes.values())
    images = [*names, *(f"{n:05d}.jpg" for n in range(len(names), total))]
    images = [images[n] for n in rng.permutation(total)]
    encoded = {name: _encoded_image(rng, n) for n, name in enumerate(images)}
    for name, content in encoded.items():
        file = path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    labels, rows = {}, []
    for number, image in enumerate(images):
        values = rng.choice([-1, 0, 1, 2], len(label_names)).tolist()
        if number == 0:  # names every label, knows none
            values = [0] * len(label_names)
        listed = dict(zip(label_names, values, strict=True))
        if min(values) == 2:
            listed[label_names[0]] = 0
        rows += [(image, n, v) for n, v in listed.items() if v < 2]
        labels[image] = {n: v for n, v in listed.items() if v in (-1, 1)}
    rows = [rows[n] for n in rng.permutation(len(rows))]
    rows[0] = (*rows[0][:2], f"{rows[0][2]}.0")  # as some programs write it
    table = "labels.csv.gz" if packed else "labels.csv"
    write_csv(path / table, ("image", "label", "value"), rows)

    ends = np.cumsum(list(sizes.values()))[:-1]
    parts = np.split(np.array(images, object), ends)
    splits = {s: list(p) for s, p in zip(sizes, parts, strict=True)}
    rows = [(image, s) for s, part in splits.items() for image in part]
    rows = [rows[n] for n in rng.permutation(len(rows))]
    write_csv(path / "splits.csv", ("image", "split"), rows)
    return Folder(path, tuple(sorted(label_names)), splits, labels, encoded)


@pytest.fixture(scope="session")
def make_folder():
    """`write_folder`."""
    return write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Folder:
    """A small folder data set, not to be changed."""
    return write_folder(tmp_path_factory.mktemp("folder") / "my data")


@pytest.fixture
def small(tmp_path) -> Folder:
    """A folder data set to spoil."""
    sizes = {"train": 10, "validation": 8, "test": 8}
    return write_folder(tmp_path / "raw", sizes, names=())


@pytest.fixture
def fails(tmp_path):
    """Asserts that preparing a folder fails in one line and leaves no file.

    Called with the folder, words of the message, and how to prepare; returns
    the message.
    """
    from imcl_tf.data.builders import prepare
    from imcl_tf.data.folder import folder_builder

    records = tmp_path / "records"

    def fails(folder, *words, error=ValueError, limit=500, on_bad_image="error",
              **options):  # fmt: skip
        with pytest.raises(error) as caught:
            builder = folder_builder(folder.path, records, on_bad_image)
            prepare(builder, folder.path, **options)
        message = str(caught.value)
        for word in words:
            assert word in message
        assert len(message.strip().splitlines()) == 1
        assert len(message) < limit
        assert not records.exists()
        return message

    return fails


@contextlib.contextmanager
def _in_two_files():
    """Records of a split lie in two files: eight take longer to write."""
    from imcl_tf.data import shards

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_MINIMUM_SHARDS", 2)
        yield


@pytest.fixture
def two_files():
    """`_in_two_files`."""
    with _in_two_files():
        yield


@pytest.fixture(scope="session")
def prepared(folder, tmp_path_factory):
    """The TFDS builder of `folder`, prepared."""
    from imcl_tf.data.builders import prepare
    from imcl_tf.data.folder import folder_builder

    records = tmp_path_factory.mktemp("records")
    with _in_two_files():
        return prepare(folder_builder(folder.path, records), folder.path)


@pytest.fixture
def without_export(monkeypatch):
    """Runs of this process leave no SavedModel, for tests of other things.

    To trace one takes as long as the rest of a small run.
    """
    # The package has a function of this name.
    module = importlib.import_module("imcl_tf.training.run")
    monkeypatch.setattr(module, "export", lambda *_: None)


@pytest.fixture(scope="session")
def make_richer():
    """A class of builders: as `Folder`, with classes and certainties too.

    Images have the classes of `class_of`, labels the certainties of
    `certainty_of`.
    """
    from imcl_tf.data.folder import Folder

    class Richer(Folder, skip_registration=True):
        name = "richer"

        @staticmethod
        def class_of(image):
            return zlib.crc32(image.encode()) % 50

        @staticmethod
        def certainty_of(image, label):
            return zlib.crc32(f"{image} {label}".encode()) % 4 + 1

        def _contents(self, raw_dir):
            contents = super()._contents(raw_dir)
            splits = {}
            for split, files in contents.splits.items():
                pairs = zip(*files.labels.nonzero(), strict=True)
                certainties = files.labels.astype(np.int64)
                certainties.data[:] = [
                    self.certainty_of(files.names[i], contents.label_names[j])
                    for i, j in pairs
                ]
                classes = np.array([*map(self.class_of, files.names)])
                extras = {"class_id": classes, "certainties": certainties}
                splits[split] = files._replace(extras=extras)
            return contents._replace(splits=splits)

    return Richer


@pytest.fixture(scope="session")
def richer(folder, make_richer, tmp_path_factory):
    """A builder of `make_richer`, prepared from `folder`."""
    from imcl_tf.data.builders import prepare

    records = tmp_path_factory.mktemp("richer")
    return prepare(make_richer(data_dir=records), folder.path)


class Shards(NamedTuple):
    """Image records that were written by hand, and labels for them.

    Attributes:
      files: of the shards, in order.
      lengths: records of each.
      names: [N] image ids, bytes.
      pixels: [N, S, S, 3] uint8, stored as PNG.
      labels: [N, C] int8, not on disk.
    """

    files: tuple[str, ...]
    lengths: tuple[int, ...]
    names: list[bytes]
    pixels: np.ndarray
    labels: np.ndarray


def example(**features) -> bytes:
    """A tf.train.Example of bytes, ints or floats, written out in full."""
    import tensorflow as tf

    message = tf.train.Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        if isinstance(values, bytes):
            feature.bytes_list.value.append(values)
        elif len(values) and np.asarray(values).dtype.kind == "f":
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString(deterministic=True)


def write_image_shards(
    directory: Path, lengths, num_labels=7, size=8, seed=0, prefix="train"
) -> Shards:
    """Random pictures and labels; the third image has no observed label."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    total = sum(lengths)
    pixels = rng.integers(0, 256, (total, size, size, 3)).astype(np.uint8)
    labels = rng.choice([-1, 0, 1], (total, num_labels)).astype(np.int8)
    labels[2:3] = 0
    names = [f"{prefix} {n}.png".encode() for n in range(total)]
    records = iter(
        [
            example(image_id=name, image=tf.io.encode_png(image).numpy())
            for name, image in zip(names, pixels, strict=True)
        ]
    )
    files = []
    for number, length in enumerate(lengths):
        files.append(str(directory / f"{prefix}.{number}"))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for _ in range(length):
                writer.write(next(records))
    return Shards(tuple(files), tuple(lengths), names, pixels, labels)


@pytest.fixture(scope="session")
def make_example():
    """`example`."""
    return example


@pytest.fixture(scope="session")
def make_image_shards():
    """`write_image_shards`."""
    return write_image_shards
