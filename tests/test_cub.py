"""CUB-200-2011: genuine and generated files against a reader line by line."""

import csv
import shutil
import unittest
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tensorflow as tf
import tensorflow_datasets as tfds

from data_prep import cub
from imcl_tf import builders
from imcl_tf.dataset import open_source
from tests import programs

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "raw" / "cub" / "CUB_200_2011"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no genuine files")
SPLITS = ("train", "validation", "test")
IMAGES, CLASSES, ATTRIBUTES = 60, 3, 312
TRAINING = 40  # of both ways to split
PREFIX = "/BS/Deep_Fragments/work/MSc/CUB_200_2011/CUB_200_2011/images/"
ARCHIVE = "CUB_200_2011/"
LABELS = ARCHIVE + "attributes/image_attribute_labels.txt"


def write_attribute_labels(path, num_images, seed=0):
    """All pairs, in the genuine format: some rows have one or two extra columns
    (as image 2275, attribute 10, in the archive)."""
    rng = np.random.default_rng(seed)
    bodies = []
    for _ in range(97):  # an image's rows, without its id
        present = rng.random(ATTRIBUTES) < 0.1
        certainties = rng.integers(1, 5, ATTRIBUTES)
        times = rng.random(ATTRIBUTES) * 20
        bodies.append(
            "".join(
                f"@ {a + 1} {int(present[a])} {certainties[a]} {times[a]:.3f}\n"
                for a in range(ATTRIBUTES)
            )
        )
    with path.open("w") as file:
        for image in range(1, num_images + 1):
            body = bodies[image % len(bodies)]
            if image % 7 == 3:
                body = body.replace("\n", " 1.509\n", 3)
                body = body.replace("\n@ 10 ", " 0  2.5\n@ 10 ")
            file.write(body.replace("@", str(image)))


def write_mat(directory, order, trainval, test_seen, test_unseen, dtype=float):
    """att_splits.mat and res101.mat, as of the benchmark.

    Args:
      directory: made.
      order: image names in the order of the features.
      trainval: names.
      test_seen: names.
      test_unseen: names.
      dtype: of the row numbers; MATLAB stores small integers as such.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cells = np.empty((len(order), 1), object)
    cells[:, 0] = [PREFIX + name for name in order]
    scipy.io.savemat(
        directory / "res101.mat",
        {
            "features": np.zeros((4, len(order))),
            "image_files": cells,
            "labels": np.ones((len(order), 1)),
        },
        do_compression=True,
    )
    rows = {name: row for row, name in enumerate(order, 1)}

    def column(names):
        return np.array([[rows[name]] for name in names], dtype).reshape(-1, 1)

    seen = [*trainval, *test_seen]
    scipy.io.savemat(
        directory / "att_splits.mat",
        {
            "att": np.zeros((ATTRIBUTES, 200)),
            "trainval_loc": column(trainval),
            "test_seen_loc": column(test_seen),
            "test_unseen_loc": column(test_unseen),
            "train_loc": column(seen[: len(seen) // 2]),
            "val_loc": column(seen[len(seen) // 2 :]),
        },
        do_compression=True,
    )


def write_raw(raw: Path):
    """A small CUB with all 312 attributes, both kinds of splits and images."""
    rng = np.random.default_rng(1)
    directory = raw / "CUB_200_2011"
    (directory / "attributes").mkdir(parents=True)
    classes = [f"{c:03d}.Bird_{c}" for c in range(1, CLASSES + 1)]
    # The file names of the archive do not follow its ids.
    numbers = rng.permutation(IMAGES).tolist()
    of_image = [n * CLASSES // IMAGES for n in range(IMAGES)]
    names = [
        f"{classes[c]}/Bird_{c}_{n:04d}.jpg"
        for c, n in zip(of_image, numbers, strict=True)
    ]
    for name in names:
        path = directory / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
        path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    training = set(rng.permutation(IMAGES)[:TRAINING].tolist())
    for path, values in {
        directory / "classes.txt": classes,
        directory / "images.txt": names,
        directory / "image_class_labels.txt": [c + 1 for c in of_image],
        directory / "train_test_split.txt": [
            int(n in training) for n in range(IMAGES)
        ],
        raw / "attributes.txt": [f"has_x::{n}_(y)" for n in range(ATTRIBUTES)],
    }.items():
        lines = [f"{i} {value}\n" for i, value in enumerate(values, 1)]
        path.write_text("".join(lines))
    write_attribute_labels(raw / LABELS, IMAGES)
    lines = (raw / LABELS).read_text().splitlines(keepends=True)
    del lines[5 * ATTRIBUTES : 6 * ATTRIBUTES]  # image 6 has none
    del lines[100:103]
    (raw / LABELS).write_text("".join(lines))
    unseen = names[50:]  # within the third class
    shuffled = rng.permutation(names[:50]).tolist()
    write_mat(
        raw / "xlsa17" / "data" / "CUB", sorted(names),
        shuffled[:TRAINING], shuffled[TRAINING:], unseen,
    )  # fmt: skip


def oracle(raw: Path):
    """Reads the text files line by line, without any library.

    Returns:
      names of classes and attributes, and image name -> class number, signs
      and certainties of its attributes (0 = unobserved), is training.
    """

    def pairs(path):
        with path.open() as file:
            return dict(line.split() for line in file)

    directory = raw / "CUB_200_2011"
    names = pairs(directory / "images.txt")
    class_of = {
        names[i]: int(c) - 1
        for i, c in pairs(directory / "image_class_labels.txt").items()
    }
    signs = {name: [0] * ATTRIBUTES for name in names.values()}
    certainties = {name: [0] * ATTRIBUTES for name in names.values()}
    with (raw / LABELS).open() as file:
        for line in file:
            image, attribute, present, certainty = line.split()[:4]
            name, column = names[image], int(attribute) - 1
            signs[name][column] = 1 if present == "1" else -1
            certainties[name][column] = int(certainty)
    training = {
        names[i]: t == "1"
        for i, t in pairs(directory / "train_test_split.txt").items()
    }
    return (
        list(pairs(directory / "classes.txt").values()),
        list(pairs(raw / "attributes.txt").values()),
        class_of, signs, certainties, training,
    )  # fmt: skip


def snapshot(directory):
    """Path -> bytes of every file below `directory`."""
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(Path(directory).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A small CUB, not to be changed."""
    path = tmp_path_factory.mktemp("cub") / "raw"
    write_raw(path)
    return path


@pytest.fixture
def spoilt(raw, tmp_path):
    """A small CUB to spoil."""
    return shutil.copytree(raw, tmp_path / "raw")


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    """The directory of the records of `raw`, config zero_shot."""
    data_dir = tmp_path_factory.mktemp("records")
    return prepare(raw, data_dir).data_path


def prepare(raw, data_dir, split_file="", config="zero_shot", **kwargs):
    builder = cub.cub_builder(raw, split_file, config=config, data_dir=data_dir)
    return builders.prepare(builder, raw, **kwargs)


def read(raw):
    """Contents of read_birds, with the names that go with it."""
    directory = raw / "CUB_200_2011"
    classes = cub.read_names(directory / "classes.txt")
    attributes = cub.read_names(raw / "attributes.txt")
    birds, counts = cub.read_birds(directory, len(classes), len(attributes))
    return classes, attributes, birds, counts


def split_names(path, images):
    """Split -> image names."""
    return {
        split: [images[n] for n in rows]
        for split, rows in cub.read_splits(path, images).items()
    }


class TestReadBirds:
    def check(self, raw):
        """Compares everything with the oracle; returns the counts."""
        classes, attributes, birds, counts = read(raw)
        expected = oracle(raw)
        assert (classes, attributes) == expected[:2]
        class_of, signs, certainties, _ = expected[2:]
        assert birds.names == list(class_of)
        class_ids = birds.extras["class_id"]
        assert class_ids.dtype == np.int64
        assert class_ids.tolist() == [class_of[name] for name in birds.names]
        assert birds.labels.dtype == np.int8
        for matrix, rows in (
            (birds.labels, signs),
            (birds.extras["certainties"], certainties),
        ):
            assert matrix.format == "csr"
            dense = matrix.toarray().tolist()
            assert dense == [rows[name] for name in birds.names]
            # Nothing but the observed pairs is stored.
            assert matrix.nnz == sum(map(np.count_nonzero, rows.values()))
        return counts

    def test_generated(self, raw):
        assert self.check(raw) == {
            "attribute labels": IMAGES * ATTRIBUTES - ATTRIBUTES - 3,
            "attribute labels missing": ATTRIBUTES + 3,
            "attribute labels with extra columns": 9 * 4,
        }

    @needs_real
    def test_genuine_files_at_full_size(self, tmp_path):
        """11,788 images; the attribute labels alone are generated."""
        raw = tmp_path / "raw"
        directory = raw / "CUB_200_2011"
        for path in (directory / "images", directory / "attributes"):
            path.mkdir(parents=True)
        for path in REAL.glob("*.txt"):
            (directory / path.name).symlink_to(path)
        (directory / "attributes.txt").rename(raw / "attributes.txt")
        write_attribute_labels(raw / LABELS, 11_788)
        counts = self.check(raw)
        assert counts == {
            "attribute labels": 11_788 * 312,
            "attribute labels missing": 0,
            "attribute labels with extra columns": 1684 * 4,
        }

    def test_lines_of_windows(self, raw, spoilt):
        for path in spoilt.rglob("*.txt"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        *names, birds, counts = read(spoilt)
        *expected, same, same_counts = read(raw)
        assert (names, counts) == (expected, same_counts)
        assert birds.names == same.names
        assert (birds.labels != same.labels).nnz == 0


class TestReadSplits:
    @needs_real
    def test_genuine_official_split(self):
        images = cub.read_names(REAL / "images.txt")
        path = REAL / "train_test_split.txt"
        splits = split_names(path, images)
        training, test = set(), set()
        for line in path.read_text().splitlines():
            image, is_training = line.split()
            (training if is_training == "1" else test).add(
                images[int(image) - 1]
            )
        assert {s: len(x) for s, x in splits.items()} == {
            "train": 5395, "validation": 599, "test": 5794,
        }  # fmt: skip
        assert set(splits["test"]) == test
        assert {*splits["train"], *splits["validation"]} == training

    @needs_real
    @pytest.mark.parametrize("dtype", [np.uint16, float])
    def test_benchmark_at_full_size(self, tmp_path, dtype):
        """The benchmark's sizes: 7,057, 1,764 and 2,967 images."""
        images = cub.read_names(REAL / "images.txt")
        shuffled = np.random.default_rng(0).permutation(images).tolist()
        parts = shuffled[:7057], shuffled[7057:8821], shuffled[8821:]
        write_mat(tmp_path, sorted(images), *parts, dtype)
        splits = split_names(tmp_path / "att_splits.mat", images)
        assert len(splits["validation"]) == 705
        assert len(splits["train"]) == 7057 - 705
        assert {*splits["train"], *splits["validation"]} == set(parts[0])
        assert set(splits["test"]) == {*parts[1], *parts[2]}
        assert len(splits["test"]) == 1764 + 2967

    def test_validation_does_not_depend_on_the_order(self, tmp_path):
        images = [f"c/{n}.jpg" for n in range(50)]
        parts = images[:30], images[30:40], images[40:]
        write_mat(tmp_path / "one", images, *parts)
        backwards = [part[::-1] for part in parts]
        write_mat(tmp_path / "two", images[::-1], *backwards)
        one, two = (
            split_names(tmp_path / name / "att_splits.mat", images)
            for name in ("one", "two")
        )
        for split in SPLITS:
            assert set(one[split]) == set(two[split])
        assert len(one["validation"]) == 3

    def test_validation_is_drawn_from_all_training_images(self, tmp_path):
        """Not the first of them, which are one class."""
        images = [f"c/{n}.jpg" for n in range(1000)]
        write_mat(tmp_path, images, images[:900], images[900:950], images[950:])
        splits = cub.read_splits(tmp_path / "att_splits.mat", images)
        assert 300 < splits["validation"].mean() < 600

    def test_csv_is_taken_as_it_is(self, tmp_path):
        images = [f"c/{n}.jpg" for n in range(6)]
        path = tmp_path / "splits.csv"
        path.write_text(
            "\ufeffnote,image,split\n,c/4.jpg,test\n,c/0.jpg,train\n"
            ",c/1.jpg,validation\n,c/2.jpg,test\n",
            encoding="utf-8",
        )
        assert split_names(path, images) == {
            "train": ["c/0.jpg"],
            "validation": ["c/1.jpg"],
            "test": ["c/4.jpg", "c/2.jpg"],
        }


class TestRecords:
    def test_labels_are_those_of_the_files(self, raw, prepared):
        _, attributes, _, signs, _, _ = oracle(raw)
        builder = tfds.builder_from_directory(prepared)
        source = open_source(builder)
        assert source.label_names == tuple(attributes)
        for split in SPLITS:
            ds = tf.data.TFRecordDataset(list(source.splits[split].files))
            rows = source.splits[split].labels.toarray()
            for record, row in zip(ds.as_numpy_iterator(), rows, strict=True):
                features = tf.train.Example.FromString(record).features.feature
                name = features["image_id"].bytes_list.value[0].decode()
                assert row.tolist() == signs[name]

    def test_tfds_reads_images_classes_and_certainties(self, raw, prepared):
        classes, _, class_of, signs, certainties, _ = oracle(raw)
        builder = tfds.builder_from_directory(prepared)
        assert builder.info.metadata["classes"] == classes
        images = []
        for split in SPLITS:
            ds = builder.as_dataset(
                split=split, decoders={"image": tfds.decode.SkipDecoding()}
            )
            for record in tfds.as_numpy(ds):
                name = record["image_id"].decode()
                images.append(name)
                file = raw / "CUB_200_2011" / "images" / name
                assert record["image"] == file.read_bytes()
                assert record["class_id"] == class_of[name]
                assert record["certainties"].dtype == np.int64
                read = np.zeros((2, ATTRIBUTES), int)
                read[0, record["positives"]] = 1
                read[0, record["negatives"]] = -1
                indices = [*record["positives"], *record["negatives"]]
                read[1, indices] = record["certainties"]
                assert read.tolist() == [signs[name], certainties[name]]
                assert len(record["certainties"]) == len(indices)
        assert sorted(images) == sorted(signs)

    def test_counts_are_kept(self, prepared):
        counts = tfds.builder_from_directory(prepared).info.metadata["counts"]
        assert counts["attribute labels missing"] == ATTRIBUTES + 3
        assert counts["attribute labels with extra columns"] == 36
        assert counts["images in no split"] == 0

    def test_official_config(self, raw, tmp_path):
        *_, training = oracle(raw)
        builder = prepare(raw, tmp_path, config="official")
        assert builder.data_path == tmp_path / "imcl_cub" / "official" / "1.0.0"
        names = {}
        for split in SPLITS:
            ds = builder.as_dataset(split=split)
            names[split] = {r["image_id"].decode() for r in tfds.as_numpy(ds)}
        assert len(names["validation"]) == TRAINING // 10
        assert names["test"] == {n for n, t in training.items() if not t}
        assert names["train"] | names["validation"] == {
            n for n, t in training.items() if t
        }

    @needs_real
    def test_genuine_files_with_some_images(self, raw, tmp_path):
        """Images in no split are counted; attributes.txt as it lies there."""
        directory = tmp_path / "raw" / "CUB_200_2011"
        shutil.copytree(REAL, directory)
        names = (REAL / "images.txt").read_text().split()[1::2][::1000]
        image = next((raw / "CUB_200_2011" / "images").rglob("*.jpg"))
        for name in names:
            path = directory / "images" / name
            path.parent.mkdir(parents=True)
            shutil.copy(image, path)
        rows = "1 2 1 3 1.0\n1 4 0 1 0 0 2.0\n11001 312 1 4 1.0\n"
        (tmp_path / "raw" / LABELS).write_text(rows)
        splits = tmp_path / "splits.csv"
        with splits.open("w") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "split"))
            for number, name in enumerate(names):
                writer.writerow((name, SPLITS[number % 3]))
        builder = prepare(tmp_path / "raw", tmp_path / "out", str(splits))
        counts = builder.info.metadata["counts"]
        assert counts["images in no split"] == 11_788 - 12
        assert counts["attribute labels missing"] == 11_788 * 312 - 3
        found = {}
        for split in SPLITS:
            for record in tfds.as_numpy(builder.as_dataset(split=split)):
                found[record["image_id"].decode()] = (
                    split, *record["positives"], "|", *record["negatives"],
                    "|", record["class_id"], *record["certainties"],
                )  # fmt: skip
        assert len(found) == 12
        assert found[names[0]] == ("train", 1, "|", 3, "|", 0, 3, 1)
        last = int(names[11].split(".")[0]) - 1
        assert found[names[11]] == ("test", 311, "|", "|", last, 4)
        labels = builder.info.metadata["labels"]
        assert labels[0] == "has_bill_shape::curved_(up_or_down)"
        assert labels[311] == "has_wing_pattern::multi-colored"

    def test_beam_writes_the_same_bytes(self, raw, prepared, tmp_path):
        pytest.importorskip("apache_beam")
        builder = prepare(raw, tmp_path, beam_runner="DirectRunner")
        written = snapshot(builder.data_path)
        expected = snapshot(prepared)
        shards = [name for name in expected if "tfrecord" in name.name]
        assert len(shards) == 8 + 4 + 8
        for name in shards:
            assert written[name] == expected[name]

    def test_other_splits_are_not_taken_for_these(self, raw, tmp_path):
        """Records of one split file do not pass for those of another."""
        splits = tmp_path / "splits.csv"
        names = cub.read_names(raw / "CUB_200_2011" / "images.txt")[::25]
        rows = zip(names, SPLITS, strict=True)
        text = "image,split\n" + "".join(f"{n},{s}\n" for n, s in rows)
        splits.write_text(text)
        builder = prepare(raw, tmp_path / "out", str(splits))
        before = snapshot(builder.data_path)
        again = prepare(raw, tmp_path / "out", str(splits))
        assert again.info.splits["train"].num_examples == 1
        with pytest.raises(ValueError, match="other splits.*--data_dir"):
            prepare(raw, tmp_path / "out")
        assert snapshot(builder.data_path) == before


def written(out):
    """Files there, but TFDS's note which config is the default."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return [path for path in files if path.parent.name != ".config"]


def fails(raw, *words, error=ValueError, **kwargs):
    """Preparing fails in one line with `words` and leaves no file behind."""
    out = raw.parent / "out"
    with pytest.raises(error) as caught:
        prepare(raw, out, **kwargs)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert len(message.splitlines()) == 1 and len(message) < 500
    assert not written(out)


def replace_line(path, number, new):
    """Replaces a line, counted from 1, by what may be none or several."""
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1 : number] = [line + "\n" for line in new]
    path.write_text("".join(lines))


TEXTS = (
    *(ARCHIVE + n for n in ("images.txt", "classes.txt")),
    *(ARCHIVE + n for n in ("image_class_labels.txt", "train_test_split.txt")),
    "attributes.txt",
    LABELS,
)


class TestBadText:
    @pytest.mark.parametrize(
        ("name", "number", "new"),
        [
            ("images.txt", 3, ["2 002.Bird_2/x.jpg"]),  # an id twice
            ("images.txt", 3, []),  # an id left out
            ("images.txt", 3, ["3"]),
            ("images.txt", 3, ["3 a b.jpg"]),
            ("images.txt", 3, ["x a/b.jpg"]),
            ("images.txt", 3, [""]),
            ("classes.txt", 2, ["2 001.Bird_1"]),  # a name twice
            ("classes.txt", 2, ["1 002.Bird_2"]),
            ("image_class_labels.txt", 4, ["4 0"]),
            ("image_class_labels.txt", 4, ["4 4"]),  # of three classes
            ("image_class_labels.txt", 4, ["61 1"]),  # of 60 images
            ("image_class_labels.txt", 4, ["3 1"]),
            ("image_class_labels.txt", 4, ["4"]),
            ("image_class_labels.txt", 4, ["4 1 1"]),
            ("image_class_labels.txt", 4, ["4 one"]),
            ("image_class_labels.txt", 4, ["<html>"]),
            ("train_test_split.txt", 5, ["5 2"]),
            ("train_test_split.txt", 5, ["5 1 0"]),
            ("train_test_split.txt", 5, ["2 1"]),
            ("train_test_split.txt", 5, ["0 1"]),
            ("attributes/image_attribute_labels.txt", 9, ["61 9 0 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["0 9 0 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 313 0 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 9 2 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 9 -1 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 9 0 0 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 9 0 5 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 9 0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 9.0 0 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 nan 0 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 9 0 4,1.0"]),
            ("attributes/image_attribute_labels.txt", 9, ["1 5 0 4 1.0"]),
            ("attributes/image_attribute_labels.txt", 9, [""]),
            (
                "attributes/image_attribute_labels.txt", 9,
                ["1 99999999999999999999999 0 4 1.0"],
            ),
        ],
    )  # fmt: skip
    def test_line_is_named(self, spoilt, name, number, new):
        replace_line(spoilt / ARCHIVE / name, number, new)
        place = f"{spoilt / ARCHIVE / name}: line {number}: "
        fails(spoilt, place, config="official")

    @pytest.mark.parametrize(
        "name", ["image_class_labels.txt", "train_test_split.txt"]
    )
    def test_image_without_a_row(self, spoilt, name):
        replace_line(spoilt / ARCHIVE / name, 7, [])
        fails(spoilt, name, "image id 7 is missing", config="official")

    @pytest.mark.parametrize("name", TEXTS)
    def test_cut_off_file(self, spoilt, name):
        path = spoilt / name
        lines = path.read_text().count("\n")
        path.write_bytes(path.read_bytes()[:-1])
        fails(spoilt, f"{path}: line {lines} has no end", config="official")
        path.write_bytes(b"")
        fails(spoilt, f"{path}: line 1 has no end", config="official")

    @pytest.mark.parametrize("name", TEXTS)
    def test_missing_file(self, spoilt, name):
        (spoilt / name).unlink()
        path = str(spoilt / name)
        fails(spoilt, path, config="official", error=FileNotFoundError)

    def test_no_images(self, spoilt):
        shutil.rmtree(spoilt / ARCHIVE / "images")
        fails(spoilt, "images: no such directory", error=FileNotFoundError)

    def test_image_that_is_not_there(self, spoilt):
        next((spoilt / ARCHIVE / "images").rglob("*_0005.jpg")).unlink()
        fails(spoilt, "_0005.jpg", "no such image file", "--on_bad_image=skip")

    @pytest.mark.parametrize("place", [ARCHIVE, ARCHIVE + "attributes"])
    def test_attribute_names_elsewhere_are_found(self, spoilt, place):
        names = cub.read_names(spoilt / "attributes.txt")
        (spoilt / "attributes.txt").rename(spoilt / place / "attributes.txt")
        builder = prepare(spoilt, spoilt.parent / "out")
        assert builder.info.metadata["labels"] == names


class TestBadSplits:
    def save(self, path, **changes):
        """Replaces or removes variables of a .mat file."""
        content = scipy.io.loadmat(path) | changes
        kept = {
            name: value
            for name, value in content.items()
            if value is not None and not name.startswith("__")
        }
        scipy.io.savemat(path, kept)

    def benchmark(self, tmp_path, change):
        """Reads changed parts (trainval, test_seen, test_unseen) and order."""
        images = [f"c/{n}.jpg" for n in range(50)]
        parts = [images[:30], images[30:40], images[40:]]
        order = list(images)
        change(parts, order)
        write_mat(tmp_path, order, *parts)
        with pytest.raises(ValueError) as caught:
            cub.read_splits(tmp_path / "att_splits.mat", images)
        message = str(caught.value)
        assert str(tmp_path / "att_splits.mat") in message
        return message

    def test_unknown_image(self, tmp_path):
        def change(parts, order):
            parts[1][2] = order[32] = "c/other.jpg"

        message = self.benchmark(tmp_path, change)
        assert "test_seen_loc, row 3: image c/other.jpg" in message

    def test_image_in_two_splits(self, tmp_path):
        message = self.benchmark(tmp_path, lambda p, o: p[2].append(p[0][4]))
        assert "test_unseen_loc, row 11: image c/4.jpg" in message
        assert "trainval_loc, row 5" in message

    def test_empty_split(self, tmp_path):
        def change(parts, order):
            del parts[1][:], parts[2][:]

        assert "split test has no image" in self.benchmark(tmp_path, change)

    def test_no_image_left_for_validation(self, tmp_path):
        def change(parts, order):
            del parts[0][9:]

        message = self.benchmark(tmp_path, change)
        assert "split validation has no image" in message

    @pytest.mark.parametrize("row", [0, 51, 1.5, np.nan])
    def test_row_that_is_not_there(self, tmp_path, row):
        images = [f"c/{n}.jpg" for n in range(50)]
        write_mat(tmp_path, images, images[:30], images[30:40], images[40:])
        path = tmp_path / "att_splits.mat"
        loc = np.array([[1.0], [row], [3.0]])
        self.save(path, trainval_loc=loc)
        with pytest.raises(ValueError, match="trainval_loc, row 2: .* 1 to 50"):
            cub.read_splits(path, images)

    def test_missing_variable(self, tmp_path):
        write_mat(tmp_path, ["c/0.jpg"], ["c/0.jpg"], [], [])
        path = tmp_path / "att_splits.mat"
        self.save(path, test_seen_loc=None)
        with pytest.raises(ValueError, match="expected.*test_seen_loc"):
            cub.read_splits(path, ["c/0.jpg"])

    @pytest.mark.parametrize("name", ["att_splits.mat", "res101.mat"])
    def test_files_of_the_benchmark_cut_or_missing(self, spoilt, name):
        path = spoilt / "xlsa17" / "data" / "CUB" / name
        content = path.read_bytes()
        for spoil in (
            content[: len(content) // 2], content[:100], b"", b"<html>" * 99,
        ):  # fmt: skip
            path.write_bytes(spoil)
            fails(spoilt, f"{path}: ", "expected MATLAB 5 with")
        path.unlink()
        fails(spoilt, str(path), error=FileNotFoundError)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("c/0.jpg,train\nc/9.jpg,test\n", "line 3: image c/9.jpg is not"),
            (
                "c/0.jpg,train\nc/0.jpg,test\n",
                "line 3: image c/0.jpg is listed",
            ),
            ("c/0.jpg,train\nc/1.jpg,val\n", "line 3: split must be.*got val"),
            ("c/0.jpg,train\nc/1.jpg\n", "line 3: split must be.*got nothing"),
            ("c/0.jpg,train\nc/1.jpg,test\n", "split validation has no image"),
            ("", "split train has no image"),
        ],
    )
    def test_bad_csv(self, tmp_path, rows, message):
        path = tmp_path / "splits.csv"
        path.write_text("image,split\n" + rows)
        with pytest.raises(ValueError, match=f"splits.csv: {message}"):
            cub.read_splits(path, ["c/0.jpg", "c/1.jpg", "c/2.jpg"])

    def test_other_columns(self, tmp_path):
        path = tmp_path / "splits.csv"
        path.write_text("name,split\nc/0.jpg,train\n")
        with pytest.raises(ValueError, match="expected columns image,split"):
            cub.read_splits(path, ["c/0.jpg"])

    def test_other_kinds_of_files(self, tmp_path):
        with pytest.raises(ValueError, match="must end in .mat"):
            cub.read_splits(tmp_path / "splits.json", [])
        with pytest.raises(FileNotFoundError, match="no such file"):
            cub.read_splits(tmp_path / "splits.csv", [])

    def test_split_file_and_official_splits(self, raw):
        with pytest.raises(ValueError, match="--config=zero_shot"):
            cub.Cub(config="official", split_file="splits.csv")


class TestProgram:
    @pytest.mark.slow
    def test_makes_the_records(self, raw, prepared, tmp_path):
        splits = raw / "xlsa17" / "data" / "CUB" / "att_splits.mat"
        done = programs.run(
            "data_prep.cub", f"--raw_dir={raw}", f"--data_dir={tmp_path}",
            f"--split_file={splits}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        place = tmp_path / "imcl_cub" / "zero_shot" / "1.0.0"
        assert f"{place}: 312 labels" in done.stdout
        assert "train: 36 images" in done.stdout
        assert "attribute labels with extra columns: 36" in done.stdout
        expected, written = snapshot(prepared), snapshot(place)
        shards = [name for name in expected if "tfrecord" in name.name]
        assert all(written[name] == expected[name] for name in shards)

    @pytest.mark.slow
    def test_no_splits(self, spoilt, tmp_path):
        shutil.rmtree(spoilt / "xlsa17")
        out = tmp_path / "out"
        done = programs.run(
            "data_prep.cub", f"--raw_dir={spoilt}", f"--data_dir={out}"
        )
        assert done.returncode == 1
        lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
        assert len(lines) == 1 and "Traceback" not in done.stderr
        for word in ("att_splits.mat", "xlsa17.zip", "--config=official"):
            assert word in lines[0]
        assert not written(out)

    def test_bad_row(self, spoilt, tmp_path):
        replace_line(spoilt / LABELS, 20, ["1 20 yes 4 1.0"])
        out = tmp_path / "out"
        done = programs.run(
            "data_prep.cub", f"--raw_dir={spoilt}", f"--data_dir={out}",
            "--config=official",
        )  # fmt: skip
        assert done.returncode == 1
        lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
        assert len(lines) == 1 and "Traceback" not in done.stderr
        assert f"{spoilt / LABELS}: line 20: " in lines[0]
        assert not written(out)

    def test_tfds_build(self, raw, tmp_path):
        pytest.importorskip("mlcroissant")  # the tfds program imports it
        done = programs.run(
            "tensorflow_datasets.scripts.cli.main", "build",
            "data_prep/cub.py", f"--manual_dir={raw}",
            f"--data_dir={tmp_path}", "--config=official",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        builder = builders.find("imcl_cub/official", str(tmp_path))
        assert builder.info.splits["test"].num_examples == IMAGES - TRAINING


def test_tfds_own_tests(raw):
    pytest.importorskip("dill")  # tfds.testing imports it

    class Case(tfds.testing.DatasetBuilderTestCase):
        DATASET_CLASS = cub.Cub
        EXAMPLE_DIR = str(raw)
        SPLITS = {"train": 36, "validation": 4, "test": 20}  # of both configs

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert not result.errors + result.failures, result.errors + result.failures
    assert result.testsRun > 4
