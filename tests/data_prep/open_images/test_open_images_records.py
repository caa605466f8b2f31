"""Open Images: records and label tables, and the program that makes them."""

import contextlib
import csv
import pickle
import shutil
import unittest

import pytest
import tensorflow_datasets as tfds

from data_prep import open_images
from imcl_tf.data import builders
from imcl_tf.data.manifest import Manifest, image_path, read_image
from imcl_tf.data.multi_label_dataset import open_source
from tests import programs
from tests.data_prep.open_images.files import (
    SIZES,
    SPLITS,
    TRAINED,
    check_records,
    fails,
    files_in,
    mid,
    oracle,
    oracle_classes,
    prepare,
    read_rows,
    shards,
    write_images,
    write_rows,
)


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


class TestRecords:
    @pytest.mark.parametrize("config", ["human", "machine"])
    def test_all_that_the_files_say(self, raw, prepared, config):
        builder = prepared[config]
        machine = config == "machine"
        check_records(builder, raw, machine)
        names = open_images.read_classes(raw).names
        assert tuple(builder.info.metadata["labels"]) == names
        counts = dict(builder.info.metadata["counts"])
        # Each split begins with the same pictures, and train has the most.
        assert counts.pop("images: copies of images of an earlier split") == (
            sum(builder.info.splits[x].num_examples for x in SPLITS[1:])
        )
        assert counts == {
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


class TestChangedAnnotations:
    """Records that exist get new labels, and no picture is written."""

    @pytest.fixture
    def place(self, prepared, tmp_path):
        """A copy of the records, as a program finds it."""
        place = tmp_path / "imcl_open_images" / "human" / "2.2.0"
        shutil.copytree(prepared["human"].data_path, place)
        return place

    def pictures(self, place):
        return {p: p.stat().st_mtime_ns for p in place.glob("*tfrecord*")}

    def test_a_label_more_and_one_contradicted(self, spoilt, place):
        before = self.pictures(place)
        path = spoilt / "train" / "annotations-human.csv"
        rows = read_rows(path)
        trained, _ = oracle_classes(spoilt)
        labels, _ = oracle(spoilt, "train")
        image = max(labels, key=lambda image: len(labels[image]))
        known = sorted(labels[image])[0]
        new = next(m for m in trained if m not in labels[image])
        rows.append([image, "verification", new, "1"])
        value = str(int(labels[image][known] < 0))
        rows.append([image, "verification", known, value])
        write_rows(path, rows)
        builder = prepare(spoilt, place.parents[2])
        check_records(builder, spoilt)
        assert self.pictures(place) == before
        counts = builder.info.metadata["counts"]
        assert counts["train: annotations"] == len(rows)

    def test_other_name_of_a_class(self, spoilt, place):
        before = self.pictures(place)
        path = spoilt / "class-descriptions.csv"
        text = path.read_text()
        path.write_text(text.replace("Goose, wild", "Goose (wild)"))
        builder = prepare(spoilt, place.parents[2])
        check_records(builder, spoilt)
        names = open_images.read_classes(spoilt).names
        assert "Goose (wild)" in names
        assert open_source(builder).label_names == names
        assert self.pictures(place) == before

    @pytest.mark.parametrize("what", ["no label left", "new image"])
    def test_other_images_are_refused(self, spoilt, place, what):
        before = shards(tfds.builder_from_directory(place))
        path = spoilt / "test" / "annotations-human.csv"
        rows = read_rows(path)
        image = min(oracle(spoilt, "test")[0])
        if what == "new image":
            rows.append(["0" * 16, "verification", mid(3000), "1"])
            words = f"image {'0' * 16} is new in split test"
        else:
            rows = [row for row in rows if row[0] != image]
            words = f"image {image} is no longer listed in split test"
        write_rows(path, rows)
        with pytest.raises(ValueError, match=words):
            prepare(spoilt, place.parents[2])
        assert shards(tfds.builder_from_directory(place)) == before


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
        check_records(builder, spoilt)
        # The tables came of further files, which their digest says.
        expected = shards(prepared["human"], tables=False)
        assert shards(builder, tables=False) == expected

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
