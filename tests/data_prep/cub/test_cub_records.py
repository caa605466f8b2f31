"""CUB-200-2011: records and label tables, and the program that makes them."""

import csv
import shutil
import unittest

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import cub, cub_tables
from imcl_tf.data import builders
from imcl_tf.data.multi_label_dataset import open_source
from tests import programs
from tests.data.common import dense, image_ids, label_table
from tests.data_prep.cub.files import (
    ARCHIVE,
    ATTRIBUTES,
    IMAGES,
    LABELS,
    REAL,
    SPLITS,
    TRAINING,
    fails,
    needs_real,
    oracle,
    prepare,
    replace_line,
    snapshot,
    write_mat,
    written,
)


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    """The directory of the records of `raw`, config zero_shot."""
    data_dir = tmp_path_factory.mktemp("records")
    return prepare(raw, data_dir).data_path


class TestRecords:
    def test_tables_are_those_of_the_files(self, raw, prepared):
        classes, attributes, class_of, signs, certainties, _ = oracle(raw)
        builder = tfds.builder_from_directory(prepared)
        assert builder.info.metadata["classes"] == classes
        dataset = open_source(builder)
        assert dataset.label_names == tuple(attributes)
        images = []
        for name, split in dataset.splits.items():
            table = label_table(builder, name)
            ids = image_ids(builder, name)
            images += ids
            assert [x.decode() for x in table["image_ids"]] == ids
            assert split.classes.tolist() == [class_of[i] for i in ids]
            rows = split.labels.toarray().tolist()
            assert rows == [signs[i] for i in ids]
            table["values"] = table["extra_certainties"]
            assert table["values"].dtype == np.uint8
            rows = dense(table).tolist()
            assert rows == [certainties[i] for i in ids]
        assert sorted(images) == sorted(signs)

    def test_tfds_reads_the_images(self, raw, prepared):
        builder = tfds.builder_from_directory(prepared)
        for split in SPLITS:
            ds = builder.as_dataset(
                split=split, decoders={"image": tfds.decode.SkipDecoding()}
            )
            for record in tfds.as_numpy(ds):
                name = record["image_id"].decode()
                file = raw / "CUB_200_2011" / "images" / name
                assert record["image"] == file.read_bytes()

    def test_counts_are_kept(self, prepared):
        counts = tfds.builder_from_directory(prepared).info.metadata["counts"]
        assert counts["attribute labels missing"] == ATTRIBUTES + 3
        assert counts["attribute labels with extra columns"] == 36
        assert counts["images in no split"] == 0

    def test_official_config(self, raw, tmp_path):
        *_, training = oracle(raw)
        builder = prepare(raw, tmp_path, config="official")
        assert builder.data_path == tmp_path / "imcl_cub" / "official" / "2.2.0"
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
            table = label_table(builder, split)
            for i, name in enumerate(table["image_ids"].tolist()):
                part = slice(*table["row_splits"][i : i + 2])
                found[name.decode()] = (
                    split, *table["columns"][part], "|",
                    *table["values"][part], "|", table["classes"][i],
                    *table["extra_certainties"][part],
                )  # fmt: skip
        assert len(found) == 12
        assert found[names[0]] == ("train", 1, 3, "|", 1, -1, "|", 0, 3, 1)
        last = int(names[11].split(".")[0]) - 1
        assert found[names[11]] == ("test", 311, "|", 1, "|", last, 4)
        labels = builder.info.metadata["labels"]
        assert labels[0] == "has_bill_shape::curved_(up_or_down)"
        assert labels[311] == "has_wing_pattern::multi-colored"

    def test_beam_writes_the_same_bytes(self, raw, prepared, tmp_path):
        pytest.importorskip("apache_beam")
        builder = prepare(raw, tmp_path, beam_runner="DirectRunner")
        written = snapshot(builder.data_path)
        expected = snapshot(prepared)
        shards = [
            name
            for name in expected
            if "tfrecord" in name.name or name.suffix == ".npz"
        ]
        assert len(shards) == 8 + 4 + 8 + 3
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


class TestChangedLabels:
    """Records that exist get new labels, and no picture is written."""

    @pytest.fixture
    def place(self, prepared, tmp_path):
        """A copy of the records, as a program finds it."""
        place = tmp_path / "out" / "imcl_cub" / "zero_shot" / "2.2.0"
        shutil.copytree(prepared, place)
        return place

    @pytest.mark.parametrize("what", ["label", "certainty", "class", "name"])
    def test_one_change(self, spoilt, place, what):
        if what in ("label", "certainty"):
            row = (spoilt / LABELS).read_text().splitlines()[8].split()
            row[2] = str(1 - int(row[2])) if what == "label" else row[2]
            row[3] = "2" if row[3] == "1" else "1"
            replace_line(spoilt / LABELS, 9, [" ".join(row)])
        elif what == "class":
            path = spoilt / ARCHIVE / "image_class_labels.txt"
            replace_line(path, 4, ["4 3"])
        else:
            replace_line(spoilt / "attributes.txt", 2, ["2 has_new_name"])
        before = {p: p.stat().st_mtime_ns for p in place.glob("*tfrecord*")}
        assert len(before) == 20
        builder = prepare(spoilt, place.parents[2])
        after = {p: p.stat().st_mtime_ns for p in place.glob("*tfrecord*")}
        assert after == before
        TestRecords().test_tables_are_those_of_the_files(
            spoilt, builder.data_path
        )

    def test_other_benchmark_splits_are_refused(self, spoilt, place):
        before = snapshot(place)
        directory = spoilt / "xlsa17" / "data" / "CUB"
        names = (spoilt / ARCHIVE / "images.txt").read_text().split()[1::2]
        write_mat(directory, names, names[:30], names[30:40], names[40:])
        with pytest.raises(ValueError, match="made from other splits"):
            prepare(spoilt, place.parents[2])
        assert snapshot(place) == before


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
            ("images.txt", 3, ["3 ../b.jpg"]),
            ("images.txt", 3, ["3 /etc/b.jpg"]),
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
            ("attributes/image_attribute_labels.txt", 9, ["1\u00a09 0 4 1"]),
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
    def test_byte_order_mark_and_blank_lines_at_the_end(self, spoilt, name):
        before = cub_tables._read(spoilt / name)
        text = (spoilt / name).read_bytes()
        (spoilt / name).write_bytes(b"\xef\xbb\xbf" + text + b"\r\n\n")
        assert cub_tables._read(spoilt / name) == before == text

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


class TestProgram:
    @pytest.mark.slow
    def test_makes_the_records(self, raw, prepared, tmp_path):
        splits = raw / "xlsa17" / "data" / "CUB" / "att_splits.mat"
        done = programs.run(
            "data_prep.cub", f"--raw_dir={raw}", f"--data_dir={tmp_path}",
            f"--split_file={splits}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        place = tmp_path / "imcl_cub" / "zero_shot" / "2.2.0"
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
