"""Open Images: genuine and generated rows against a reader line by line."""

import collections
import contextlib
import csv
import pickle
import shutil
import unittest
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from data_prep import open_images
from imcl_tf import builders
from imcl_tf.manifest import Manifest, image_path, read_image
from tests import programs

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "raw" / "open_images"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no genuine files")
SIZES = {"train": 40, "validation": 12, "test": 15}  # images
SPLITS = tuple(SIZES)
TRAINED, DESCRIBED = 5000, 6000
HEADER = "ImageID,Source,LabelName,Confidence"
AMBIGUOUS = ("/m/00001", "/m/00003", "/m/00004")  # called Crane, all of them
STRANGE = "/m/unknown"


def mid(number):
    return f"/m/{number:05x}"


def write_rows(path, rows, header=HEADER):
    """Rows are lists of fields."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def read_rows(path):
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def write_images(directory, ids, seed=0, flat=False):
    rng = np.random.default_rng(seed)
    for image in ids:
        path = image_path(directory, image)
        if flat:
            path = directory / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
        path.write_bytes(tf.io.encode_jpeg(pixels).numpy())


def human_rows(rng, ids):
    """About 12 rows an image: other classes, repeated and contradicted ones."""
    sources = ("verification", "crowdsource-verification")
    rows = []
    for image in ids:
        for number in rng.choice(DESCRIBED, 12, replace=False).tolist():
            source, value = sources[number % 2], int(rng.integers(2))
            rows.append((image, source, mid(number), value))
            kind = rng.integers(10)
            if kind == 0:
                rows.append((image, sources[1], mid(number), value))
            elif kind == 1:
                rows.append((image, sources[0], mid(number), 1 - value))
        if rng.integers(5) == 0:
            rows.append((image, sources[0], STRANGE, 1))
    return [rows[i] for i in rng.permutation(len(rows))]


def machine_rows(rng, human, strangers):
    """Of what humans judged, of other labels and of other images."""
    rows = []
    for image, _, label, _ in human[: len(human) // 2]:
        rows.append((image, "machine", label, f"{rng.random():.1f}"))
        other = mid(rng.integers(DESCRIBED))
        rows += [(image, "machine", other, f"{rng.random():.1f}")] * 2
    for image in strangers:
        rows.append((image, "machine", mid(rng.integers(TRAINED)), "0.5"))
        rows.append((image, "machine", mid(rng.integers(TRAINED)), "0.4"))
    return [rows[i] for i in rng.permutation(len(rows))]


def write_classes(raw):
    """As in the archive: sorted as text, names in quotes where need be."""
    mids = sorted(map(mid, range(DESCRIBED)))
    names = {m: f"Class {m[3:]}" for m in mids}
    names |= dict.fromkeys(AMBIGUOUS, "Crane") | {mid(5): "Goose, wild"}
    with (raw / "class-descriptions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(names.items())
    first = {*AMBIGUOUS, mid(5)}
    trained = sorted({*first, *mids[len(first) - TRAINED :]})
    (raw / "classes-trainable.txt").write_text("\n".join(trained) + "\n")


def write_raw(raw):
    """Everything at 5,000 labels, with machine annotations of new images."""
    write_classes(raw)
    rng = np.random.default_rng(7)
    for split, size in SIZES.items():
        (raw / split).mkdir()
        numbers = rng.integers(0, 2**64, size + 3, np.uint64).tolist()
        ids = [f"{number:016x}" for number in numbers]
        human = human_rows(rng, ids[:size])
        write_rows(raw / split / "annotations-human.csv", human)
        write_rows(
            raw / split / "annotations-machine.csv",
            machine_rows(rng, human, ids[size:]),
        )
        write_images(raw / "images" / split, ids, flat=split == "test")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    raw = tmp_path_factory.mktemp("open_images")
    write_raw(raw)
    return raw


@pytest.fixture
def spoilt(raw, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(raw, tmp_path / "raw"))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    """The builder of each config, prepared."""
    place = str(tmp_path_factory.mktemp("records"))
    return {
        config: builders.prepare(
            open_images.OpenImages(config=config, data_dir=place), raw
        )
        for config in ("human", "machine")
    }


def oracle_classes(raw):
    """Trained machine ids in order, and name of every described one."""
    with (raw / "class-descriptions.csv").open(newline="") as file:
        names = dict(csv.reader(file))
    return (raw / "classes-trainable.txt").read_text().split(), names


def oracle(raw, split, machine=False):
    """Image -> machine id -> sign, and how many rows were of which kind.

    Line by line, with dictionaries alone.
    """
    trained, names = oracle_classes(raw)
    trained = set(trained)
    counts = collections.Counter()
    judged, guessed = {}, {}
    files = [("human", "annotations", judged)]
    if machine:
        files.append(("machine", "machine annotations", guessed))
    for kind, what, found in files:
        for image, _, label, confidence in read_rows(
            raw / split / f"annotations-{kind}.csv"
        ):
            counts[what] += 1
            if label not in trained:
                other = "other classes" if label in names else "unknown MIDs"
                counts[f"{what} of {other}"] += 1
            elif kind == "machine" and float(confidence) < 0.5:
                counts[f"{what} of too little confidence"] += 1
            else:
                sign = 1 if float(confidence) else -1
                signs = found.setdefault((image, label), set())
                counts["annotations given more than once"] += sign in signs
                signs.add(sign)
    labels = {}
    for (image, label), signs in judged.items():
        if len(signs) == 1:
            labels.setdefault(image, {})[label] = min(signs)
        else:
            counts["contradicted labels, left unobserved"] += 1
    for image, label in guessed:
        if (image, label) in judged:
            counts["machine annotations that a human judged"] += 1
        else:
            labels.setdefault(image, {})[label] = 1
    return labels, +counts


def read_split(raw, split, machine=False):
    """As `oracle`, by the module under test."""
    classes = open_images.read_classes(raw)
    ids, labels, counts = open_images.read_split(raw / split, classes, machine)
    assert ids.dtype == np.uint64 and (np.diff(ids.astype(object)) > 0).all()
    assert labels.dtype == np.int8 and labels.shape[1] == len(classes.mids)
    assert set(np.unique(labels.data)) <= {-1, 1}
    found = {}
    for i, j in zip(*labels.nonzero(), strict=True):
        of_image = found.setdefault(f"{ids[i]:016x}", {})
        of_image[classes.mids[j]] = int(labels[i, j])
    assert len(found) == len(ids)  # none without a label
    return found, counts


def records_of(builder, split):
    """Image id -> feature name -> values, by the protocol buffer alone."""
    records = {}
    for path in builder.info.splits[split].filepaths:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            values = {}
            for name, f in tf.train.Example.FromString(
                record
            ).features.feature.items():
                kind = f.WhichOneof("kind")
                values[name] = list(getattr(f, kind).value) if kind else []
            records[values["image_id"][0].decode()] = values
    return records


def shards(builder):
    """File name -> bytes of the records."""
    return {
        path.name: path.read_bytes()
        for path in Path(str(builder.data_path)).glob("*tfrecord*")
    }


def prepare(raw, place, config="human", on_bad_image="error", **options):
    builder = open_images.OpenImages(
        config=config, data_dir=str(place), on_bad_image=on_bad_image
    )
    return builders.prepare(builder, raw, **options)


def fails(raw, place, *words, error=ValueError, **options):
    """Preparing fails in one line with `words` and leaves no file behind."""
    with pytest.raises(error) as caught:
        prepare(raw, place, **options)
    message = str(caught.value)
    for word in words:
        assert str(word) in message
    assert len(message.splitlines()) == 1 and len(message) < 400
    assert not files_in(place)


def files_in(place):
    """All files but the name of the default config, which TFDS writes first."""
    paths = [p for p in Path(place).rglob("*") if p.is_file()]
    return [path for path in paths if path.parent.name != ".config"]


class TestAnnotations:
    @pytest.mark.parametrize("machine", [False, True])
    @pytest.mark.parametrize("split", SPLITS)
    def test_generated(self, raw, split, machine):
        assert read_split(raw, split, machine) == oracle(raw, split, machine)

    def test_generated_rows_are_of_every_kind(self, raw):
        """Else the test above would prove little."""
        counts = oracle(raw, "train", machine=True)[1]
        assert len(counts) == 10 and min(counts.values()) >= 3
        assert len(oracle_classes(raw)[0]) == TRAINED
        assert len(oracle_classes(raw)[1]) == DESCRIBED

    @needs_real
    @pytest.mark.parametrize("machine", [False, True])
    def test_genuine(self, tmp_path, machine):
        for path in REAL.iterdir():
            shutil.copy(path, tmp_path)
        (tmp_path / "train").mkdir()
        for path in tmp_path.glob("*.sample.csv"):
            name = path.name.replace(".sample", "")
            path.rename(tmp_path / "train" / name)
        found, counts = read_split(tmp_path, "train", machine)
        assert (found, counts) == oracle(tmp_path, "train", machine)
        assert counts["annotations"] == 9
        # Its first row is of Confidence 0, the second of 1.
        rows = read_rows(tmp_path / "train" / "annotations-human.csv")[:2]
        assert [row[3] for row in rows] == ["0", "1"]
        trained, _ = oracle_classes(tmp_path)
        for image, _, label, value in rows:
            sign = {"0": -1, "1": 1}[value] if label in trained else None
            assert found.get(image, {}).get(label) == sign

    def test_blocks_do_not_matter(self, raw, monkeypatch):
        monkeypatch.setattr(open_images, "_BLOCK", 1000)
        assert read_split(raw, "train", True) == oracle(raw, "train", True)

    def test_line_ends_of_windows_and_byte_order_mark(self, spoilt):
        expected = read_split(spoilt, "train")
        path = spoilt / "train" / "annotations-human.csv"
        text = path.read_bytes().replace(b"\n", b"\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text)
        assert read_split(spoilt, "train") == expected

    def test_further_columns_and_their_order_do_not_matter(self, spoilt):
        expected = read_split(spoilt, "train")
        path = spoilt / "train" / "annotations-human.csv"
        rows = [[r[3], r[0], "x", r[2], r[1]] for r in read_rows(path)]
        write_rows(path, rows, "Confidence,ImageID,New,LabelName,Source")
        assert read_split(spoilt, "train") == expected

    @pytest.mark.parametrize(
        ("values", "sign"),
        [("1", 1), ("0", -1), ("11", 1), ("00", -1), ("01", 0), ("101", 0)],
    )
    def test_one_label(self, spoilt, values, sign):
        """And a machine's word against it, which never counts."""
        image, label = "ffffffffffffffff", mid(3000)
        rows = [(image, "verification", label, value) for value in values]
        write_rows(spoilt / "test" / "annotations-human.csv", rows)
        for machine in (False, True):
            write_rows(
                spoilt / "test" / "annotations-machine.csv",
                [(image, "machine", label, "0.9")],
            )
            found, counts = read_split(spoilt, "test", machine)
            assert found == ({image: {label: sign}} if sign else {})
            assert counts["machine annotations that a human judged"] == machine
            contradicted = counts["contradicted labels, left unobserved"]
            assert contradicted == (sign == 0)

    @pytest.mark.parametrize(
        ("confidence", "present"),
        [("0", 0), ("0.49", 0), ("0.5", 1), ("0.7", 1), ("1.0", 1)],
    )
    def test_confidence_of_the_machine(self, spoilt, confidence, present):
        image, label = "0000000000000000", mid(3000)
        write_rows(spoilt / "test" / "annotations-human.csv", [])
        write_rows(
            spoilt / "test" / "annotations-machine.csv",
            [(image, "machine", label, confidence)],
        )
        found, _ = read_split(spoilt, "test", machine=True)
        assert found == ({image: {label: 1}} if present else {})
        assert read_split(spoilt, "test") == ({}, {})


class TestClasses:
    def check(self, raw):
        classes = open_images.read_classes(raw)
        mids, names = oracle_classes(raw)
        times = collections.Counter(names[m] for m in mids)
        assert list(classes.mids) == mids
        assert list(classes.names) == [
            names[m] if times[names[m]] == 1 else f"{names[m]} ({m})"
            for m in mids
        ]
        assert len(set(classes.names)) == len(mids)
        assert set(classes.described) == set(names)
        return classes

    def test_generated(self, raw):
        names = self.check(raw).names
        assert "Goose, wild" in names
        assert [n for n in names if "Crane" in n] == [
            f"Crane ({m})" for m in AMBIGUOUS
        ]

    @needs_real
    def test_genuine(self):
        assert len(self.check(REAL).names) == 5000

    @pytest.mark.parametrize(
        "name", ["classes-trainable.txt", "class-descriptions.csv"]
    )
    def test_listed_twice(self, spoilt, tmp_path, name):
        path = spoilt / name
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, lines[4]]) + "\n")
        words = path, lines[4].split(",")[0], "twice"
        fails(spoilt, tmp_path / "out", *words)

    def test_not_described(self, spoilt, tmp_path):
        with (spoilt / "classes-trainable.txt").open("a") as file:
            file.write("/m/new\n")
        path = spoilt / "class-descriptions.csv"
        fails(spoilt, tmp_path / "out", path, "/m/new", "missing")

    @pytest.mark.parametrize("row", ["/m/zzz", "/m/zzz,a,b"])
    def test_bad_row(self, spoilt, tmp_path, row):
        path = spoilt / "class-descriptions.csv"
        path.write_text(f"{path.read_text()}{row}\n")
        line = f"line {DESCRIBED + 1}: "
        fails(spoilt, tmp_path / "out", f"{path}: {line}", row)

    @pytest.mark.parametrize(
        "name", ["classes-trainable.txt", "class-descriptions.csv"]
    )
    def test_missing_file(self, spoilt, tmp_path, name):
        (spoilt / name).unlink()
        error = FileNotFoundError
        fails(spoilt, tmp_path / "out", spoilt / name, error=error)


class TestBadRow:
    """File and line are named, wherever the row stands."""

    @pytest.mark.parametrize("block", [1 << 24, 5000])
    @pytest.mark.parametrize(
        ("row", "told"),
        [
            ("0123456789abcdef,verification,/m/00bb8", "got 3"),
            ("0123456789abcdef,verification,/m/00bb8,1,1", "got 5"),
            ("", "ImageID"),
            ("0123456789abcde,verification,/m/00bb8,1", "0123456789abcde"),
            ("0123456789abcdef0,verification,/m/00bb8,1", "0123456789abcdef0"),
            ("0123456789ABCDEF,verification,/m/00bb8,1", "0123456789ABCDEF"),
            ("0123456789abcdeé,verification,/m/00bb8,1", "ImageID"),
            (",verification,/m/00bb8,1", "ImageID"),
            ("0123456789abcdef,verification,/m/00bb8,0.5", "got 0.5"),
            ("0123456789abcdef,verification,/m/00bb8,-1", "got -1"),
            ("0123456789abcdef,verification,/m/00bb8,yes", "got yes"),
            ("0123456789abcdef,verification,/m/00bb8,nan", "got nan"),
            ("0123456789abcdef,verification,/m/00bb8,", "got nothing"),
        ],
    )
    def test_human(self, spoilt, tmp_path, row, told, block, monkeypatch):
        monkeypatch.setattr(open_images, "_BLOCK", block)
        path = spoilt / "train" / "annotations-human.csv"
        lines = path.read_text().splitlines()
        lines.insert(300, row)
        path.write_text("\n".join(lines) + "\n")
        fails(spoilt, tmp_path / "out", f"{path}: line 301: ", told)

    @pytest.mark.parametrize("value", ["1.01", "-0.1", "", "inf"])
    def test_machine(self, spoilt, tmp_path, value):
        path = spoilt / "test" / "annotations-machine.csv"
        rows = read_rows(path)
        rows[5][3] = value
        write_rows(path, rows)
        fails(
            spoilt, tmp_path / "out", f"{path}: line 7: Confidence",
            config="machine",
        )  # fmt: skip

    @pytest.mark.parametrize("cut", range(1, 30))
    def test_download_cut_short(self, raw, tmp_path, cut):
        """Wherever within the last line."""
        directory = tmp_path / "train"
        directory.mkdir()
        content = (raw / "train" / "annotations-human.csv").read_bytes()
        path = directory / "annotations-human.csv"
        path.write_bytes(content[:-cut])
        line = content.count(b"\n")
        classes = open_images.read_classes(raw)
        with pytest.raises(ValueError, match=rf"{path}: line {line}"):
            open_images.read_split(directory, classes)

    @pytest.mark.parametrize(
        "content", [b"", b"<html>\n", bytes(range(128, 256)) * 9, b"a,b\n1,2\n"]
    )
    def test_another_file(self, spoilt, tmp_path, content):
        path = spoilt / "validation" / "annotations-human.csv"
        path.write_bytes(content)
        fails(spoilt, tmp_path / "out", path)

    @pytest.mark.parametrize("column", HEADER.split(",")[::2] + ["Confidence"])
    def test_missing_column(self, spoilt, tmp_path, column):
        path = spoilt / "validation" / "annotations-human.csv"
        path.write_text(path.read_text().replace(column, "Other", 1))
        fails(spoilt, tmp_path / "out", path, column)

    def test_missing_file(self, spoilt, tmp_path):
        path = spoilt / "validation" / "annotations-human.csv"
        path.unlink()
        fails(spoilt, tmp_path / "out", path, error=FileNotFoundError)

    def test_missing_machine_file_matters_where_it_is_asked_for(
        self, spoilt, tmp_path
    ):
        path = spoilt / "validation" / "annotations-machine.csv"
        path.unlink()
        prepare(spoilt, tmp_path / "human")
        fails(
            spoilt, tmp_path / "out", path, error=FileNotFoundError,
            config="machine",
        )  # fmt: skip

    def test_no_rows(self, spoilt, tmp_path):
        path = spoilt / "validation" / "annotations-human.csv"
        write_rows(path, [])
        fails(spoilt, tmp_path / "out", "validation", "no image")


def check_records(builder, raw, machine=False, without=()):
    """All images, their bytes and their labels, but for those left out."""
    mids, _ = oracle_classes(raw)
    assert builder.info.metadata["mids"] == mids
    number = {m: j for j, m in enumerate(mids)}
    for split in SPLITS:
        labels, _ = oracle(raw, split, machine)
        records = records_of(builder, split)
        assert set(records) == set(labels) - set(without)
        assert builder.info.splits[split].num_examples == len(records)
        for image, values in records.items():
            signs = {number[m]: sign for m, sign in labels[image].items()}
            for name, sign in (("positives", 1), ("negatives", -1)):
                indices = sorted(j for j, s in signs.items() if s == sign)
                assert values[name] == indices
            (path,) = (raw / "images" / split).rglob(f"{image}.jpg")
            assert values["image"] == [path.read_bytes()]


class TestRecords:
    @pytest.mark.parametrize("config", ["human", "machine"])
    def test_all_that_the_files_say(self, raw, prepared, config):
        builder = prepared[config]
        machine = config == "machine"
        check_records(builder, raw, machine)
        names = open_images.read_classes(raw).names
        assert tuple(builder.info.metadata["labels"]) == names
        assert builder.info.metadata["counts"] == {
            f"{split}: {what}": number
            for split in SPLITS
            for what, number in oracle(raw, split, machine)[1].items()
        }

    def test_machine_annotations_are_off_by_default(self, raw, prepared):
        builder = open_images.OpenImages(data_dir=str(raw))
        assert builder.builder_config.name == "human"
        humans, all_ = (prepared[c].info.splits["train"] for c in prepared)
        assert humans.num_examples == SIZES["train"] < all_.num_examples

    def test_beam_writes_the_same(self, raw, prepared, tmp_path):
        pytest.importorskip("apache_beam")
        builder = prepare(raw, tmp_path, beam_runner="DirectRunner")
        assert shards(builder) == shards(prepared["human"])

    def test_every_image_can_be_read_elsewhere(self, raw):
        """What reads them is sent to other machines, and may not be of the
        program's own."""
        builder = open_images.OpenImages(data_dir=str(raw))
        for files in builder._contents(raw).splits.values():
            assert b"data_prep" not in pickle.dumps(files.read)
            assert b"__main__" not in pickle.dumps(files.read)

    @pytest.mark.parametrize("flat", [False, True])
    def test_both_places_of_images(self, tmp_path, flat):
        ids = ["00" * 8, "0f" * 8, "abcdef0123456789"]
        write_images(tmp_path, ids, flat=flat)
        (tmp_path / "00" / "x").mkdir(parents=True)
        for image in ids:
            name = f"{image}.jpg"
            path = tmp_path / name if flat else tmp_path / image[:2] / name
            assert read_image(tmp_path, image) == path.read_bytes()
        with pytest.raises(FileNotFoundError, match="1111111111111111.jpg"):
            read_image(tmp_path, "11" * 8)


class TestImages:
    def test_no_images(self, spoilt, tmp_path):
        shutil.rmtree(spoilt / "images" / "test")
        words = "split test has no image"
        fails(spoilt, tmp_path / "out", words, on_bad_image="skip")

    def test_missing_file(self, spoilt, tmp_path):
        """An id without image."""
        image = min(oracle(spoilt, "train")[0])
        image_path(spoilt / "images" / "train", image).unlink()
        fails(spoilt, tmp_path / "out", image, "no such image", "skip")
        builder = prepare(spoilt, tmp_path / "skip", on_bad_image="skip")
        check_records(builder, spoilt, without=[image])
        assert builder.info.metadata["counts"]["images left out"] == 1
        with (builder.data_path / builders.LEFT_OUT).open() as file:
            rows = list(csv.DictReader(file))
        assert rows == [
            {"split": "train", "image_id": image,
             "reason": "no such image file"}
        ]  # fmt: skip

    def write_listing(self, raw, split, images):
        """images.csv with a title of several lines, as some are."""
        with (raw / split / "images.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            columns = ("ImageID", "Subset", "OriginalURL", "Title", "Author")
            writer.writerow(columns)
            for image in images:
                title = 'A "title"\nof two lines, and a comma'
                writer.writerow((image, split, "https://x/y", title, "é"))

    def test_listed_images(self, spoilt, tmp_path):
        images = sorted(oracle(spoilt, "train")[0])
        strangers = ["11" * 8, "fe" * 8]
        listed = [*images[5:], *strangers, images[9], images[9], images[11]]
        self.write_listing(spoilt, "train", listed)
        listing = spoilt / "train" / "images.csv"
        words = listing, images[0], "5 such images", "skip"
        fails(spoilt, tmp_path / "out", *words)
        builder = prepare(spoilt, tmp_path / "skip", on_bad_image="skip")
        check_records(builder, spoilt, without=images[:5])
        counts = builder.info.metadata["counts"]
        assert counts["train: images left out by images.csv"] == 5
        assert counts["train: images without labels"] == 2
        assert counts["train: rows of images.csv that repeat an image"] == 3

    def test_all_images_are_listed(
        self, spoilt, prepared, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(open_images, "_BLOCK", 150)  # end within titles
        for split in SPLITS:
            self.write_listing(spoilt, split, oracle(spoilt, split)[0])
        builder = prepare(spoilt, tmp_path / "out")
        assert shards(builder) == shards(prepared["human"])

    @pytest.mark.parametrize("image", ["short", ""])
    def test_bad_id_in_the_listing(self, spoilt, tmp_path, image):
        self.write_listing(spoilt, "test", [*oracle(spoilt, "test")[0], image])
        listing = spoilt / "test" / "images.csv"
        words = f"{listing}: line ", image or "nothing"
        fails(spoilt, tmp_path / "out", *words)

    @pytest.mark.parametrize("status", ["missing", "corrupt", "failed"])
    def test_manifest_of_the_downloader(self, spoilt, tmp_path, status):
        images = sorted(oracle(spoilt, "train")[0])
        directory = spoilt / "images" / "train"
        bad = images[3:6]
        with Manifest(directory / "manifest.csv") as manifest:
            for image in [*images, "11" * 8]:
                manifest.append(image, "failed", "", 0)
            for image in images:
                if image not in bad:
                    manifest.append(image, "done", "CMYK", 9)
                elif status != "failed":
                    manifest.append(image, status, "HTTP 404", 0)
        for image in bad:
            # What the manifest refuses is not taken, even if it is there.
            assert image_path(directory, image).is_file()
        path = directory / "manifest.csv"
        fails(spoilt, tmp_path / "out", path, bad[0], "3 such images", "skip")
        builder = prepare(spoilt, tmp_path / "skip", on_bad_image="skip")
        check_records(builder, spoilt, without=bad)
        counts = builder.info.metadata["counts"]
        assert counts["train: images left out by manifest.csv"] == 3

    def test_listing_and_manifest_together(self, spoilt, tmp_path):
        images = sorted(oracle(spoilt, "train")[0])
        self.write_listing(spoilt, "train", images[4:])
        directory = spoilt / "images" / "train"
        with Manifest(directory / "manifest.csv") as manifest:
            for image in images[2:6]:
                manifest.append(image, "missing", "", 0)
        builder = prepare(spoilt, tmp_path / "skip", on_bad_image="skip")
        check_records(builder, spoilt, without=images[:6])
        counts = builder.info.metadata["counts"]
        assert counts["train: images left out by images.csv"] == 4
        assert counts["train: images left out by manifest.csv"] == 2

    def test_bad_manifest(self, spoilt, tmp_path):
        path = spoilt / "images" / "train" / "manifest.csv"
        path.write_text("image_id,status,reason,bytes\nx,done,,1\n")
        fails(spoilt, tmp_path / "out", f"{path}: line 2")


def run(*arguments, module="data_prep.open_images"):
    return programs.run(module, *arguments)


class TestProgram:
    def test_success(self, raw, prepared, tmp_path):
        done = run(
            f"--raw_dir={raw}", f"--data_dir={tmp_path}", "--machine_labels"
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        builder = builders.find("imcl_open_images", str(tmp_path))
        assert builder.data_path.parent.name == "machine"
        assert shards(builder) == shards(prepared["machine"])
        labels, counts = oracle(raw, "train", machine=True)
        signs = [s for of_image in labels.values() for s in of_image.values()]
        lines = done.stdout.splitlines()
        assert f"{builder.data_path}: {TRAINED} labels" in lines
        assert (
            f"  train: {len(labels)} images, {signs.count(1)} labels observed "
            f"present, {signs.count(-1)} absent" in lines
        )
        for what, number in counts.items():
            assert f"  train: {what}: {number}" in lines

    @pytest.mark.slow
    def test_failure(self, spoilt, tmp_path):
        out = tmp_path / "out"
        path = spoilt / "validation" / "annotations-human.csv"
        with path.open("a") as file:
            file.write("0123456789abcdef,verification,/m/0\n")
        done = run(f"--raw_dir={spoilt}", f"--data_dir={out}")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
        line = len(read_rows(path)) + 1
        assert len(lines) == 1 and f"{path}: line {line}: " in lines[0]
        assert not files_in(out)

    def test_tfds_build(self, raw, prepared, tmp_path):
        pytest.importorskip("mlcroissant")  # the program `tfds` imports it
        done = run(
            "build", "data_prep/open_images.py", f"--manual_dir={raw}",
            f"--data_dir={tmp_path}",
            module="tensorflow_datasets.scripts.cli.main",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for config, expected in prepared.items():
            name = f"imcl_open_images/{config}"
            builder = builders.find(name, str(tmp_path))
            assert shards(builder) == shards(expected)


def test_tfds_own_tests(raw):
    pytest.importorskip("dill")  # tfds.testing imports it

    class Case(tfds.testing.DatasetBuilderTestCase):
        DATASET_CLASS = open_images.OpenImages
        BUILDER_CONFIG_NAMES_TO_TEST = ["human"]
        EXAMPLE_DIR = str(raw)
        SPLITS = SIZES

        def _test_key_not_local_path(self, builder):
            # Would look at keys of examples; builders here yield shards.
            return contextlib.nullcontext()

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
    result = suite.run(unittest.TestResult())
    assert result.wasSuccessful(), [*result.errors, *result.failures]
    # "test_session" is none.
    assert result.testsRun - len(result.skipped) > 4
