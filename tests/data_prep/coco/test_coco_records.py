"""MS-COCO: records and label tables, and the program that makes them."""

import json
import shutil
import unittest
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import coco
from imcl_tf.data import builders
from imcl_tf.data.multi_label_dataset import open_source
from tests import programs
from tests.data.common import dense, image_ids, label_table
from tests.data_prep.coco.files import (
    REAL,
    RELEASED,
    SIZES,
    SKIPPABLE,
    SPLITS,
    captions_file,
    check_records,
    contents_of,
    edit,
    needs_real,
    oracle_captions,
    oracle_row,
    oracle_vocabulary,
    shards,
    snapshot,
    uncaptioned_image,
    write_coco,
    written,
)


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("records")
    return builders.prepare(coco.coco_builder(data_dir=data_dir), raw)


class TestRecords:
    def test_open_source(self, raw, prepared):
        check_records(prepared, raw, 2014)

    def test_absent_words_unobserved(self, raw, tmp_path):
        builder = coco.coco_builder(absent="unobserved", data_dir=tmp_path)
        check_records(builders.prepare(builder, raw), raw, 2014, absent=0)

    @needs_real
    def test_genuine_images_and_released_words(self, tmp_path):
        builder = coco.coco_builder(
            2017, vocabulary=str(RELEASED), data_dir=tmp_path
        )
        builders.prepare(builder, REAL / "coco")
        rows = [r.split("\t") for r in RELEASED.read_text().splitlines()[1:]]
        check_records(builder, REAL / "coco", 2017, [row[0] for row in rows])

    def test_plain_tfds_and_numpy(self, raw, prepared):
        """With nothing of this project but the files."""
        builder = tfds.builder_from_directory(str(prepared.data_path))
        words = builder.info.metadata["labels"]
        table = label_table(builder, "test")
        rows = dict(zip(table["image_ids"].tolist(), dense(table), strict=True))
        captions = oracle_captions(raw, "val")
        ds = builder.as_dataset(
            split="test", decoders={"image": tfds.decode.SkipDecoding()}
        )
        seen = 0
        for record in tfds.as_numpy(ds):
            name = record["image_id"].decode()
            np.testing.assert_array_equal(
                rows[record["image_id"]], oracle_row(captions[name], words)
            )
            assert record["image"] == (raw / "val2014" / name).read_bytes()
            seen += 1
        assert seen == len(rows) == 21
        (record,) = tfds.as_numpy(builder.as_dataset(split="train").take(1))
        assert record["image"].shape == (9, 8, 3)

    def test_labels_cost_little(self, prepared):
        """At most 12 bytes each; here all 1,000 of an image."""
        size = len(shards(prepared)["labels-train.npz"])
        assert size < 5.5 * 1000 * SIZES["train"]

    def test_beam_writes_the_same(self, raw, prepared, tmp_path):
        pytest.importorskip("apache_beam")
        builder = coco.coco_builder(data_dir=tmp_path)
        builders.prepare(builder, raw, beam_runner="DirectRunner")
        assert shards(builder) == shards(prepared)
        assert len(shards(builder)) == 24 + 3

    def test_raw_files_stay_as_they_were(self, raw, tmp_path):
        before = snapshot(raw)
        builders.prepare(coco.coco_builder(data_dir=tmp_path), raw)
        assert snapshot(raw) == before


class TestChangedCaptions:
    """Records that exist get new labels, and no picture is written."""

    @pytest.fixture
    def builder(self, raw, prepared, tmp_path):
        """A copy of `prepared`, as a program finds it."""
        place = tmp_path / "imcl_coco" / "2014" / "2.2.0"
        shutil.copytree(prepared.data_path, place)
        return coco.coco_builder(data_dir=tmp_path)

    def pictures(self, builder):
        return {
            path: path.stat().st_mtime_ns
            for path in Path(str(builder.data_path)).glob("*tfrecord*")
        }

    def test_one_caption_with_a_new_word(self, spoilt, builder, tmp_path):
        def change(content):
            content["annotations"][0]["caption"] = "Wonder " * 400
            content["annotations"].append(dict(content["annotations"][1]))

        before = self.pictures(builder)
        edit(spoilt, change)
        vocabulary = oracle_vocabulary(oracle_captions(spoilt, "train"))
        assert "wonder" in vocabulary[:100]
        builders.prepare(builder, spoilt)
        assert self.pictures(builder) == before and len(before) == 24
        check_records(builder, spoilt, 2014)
        again = builders.find("imcl_coco", str(tmp_path))
        check_records(again, spoilt, 2014)
        assert again.info.metadata["labels"] == vocabulary
        counts = again.info.metadata["counts"]
        assert counts["captions"] == 5 * sum(SIZES.values()) + 1

    def test_unchanged_captions_are_not_read(self, raw, builder, monkeypatch):
        monkeypatch.setattr(coco, "read_captions", None)
        before = shards(builder)
        builders.prepare(builder, raw)
        assert shards(builder) == before

    def test_other_images_are_refused(self, spoilt, builder):
        def change(content):
            content["images"][3]["file_name"] = "new.jpg"

        before = shards(builder)
        edit(spoilt, change, "val")
        with pytest.raises(ValueError, match="holds other images.*delete"):
            builders.prepare(builder, spoilt)
        assert shards(builder) == before


class TestSkip:
    def test_all_is_counted(self, spoilt, tmp_path):
        before = contents_of(spoilt)
        contents = (
            json.loads(captions_file(spoilt, part).read_text())
            for part in SIZES
        )
        gone = {content["images"][5]["file_name"] for content in contents}
        for part in ("train", "val"):
            for change, _ in SKIPPABLE.values():
                edit(spoilt, change, part)
        builder = coco.coco_builder(data_dir=tmp_path, on_bad_image="skip")
        builders.prepare(builder, spoilt)
        counts = builder.info.metadata["counts"]
        assert counts["captions of images that are not listed"] == 4
        assert counts["captions without a word"] >= 1
        assert counts["images without a caption"] == 2
        for split in SPLITS:
            # The halves are as ever, but for what was left out.
            expected = set(before.splits[split].names) - gone
            assert set(image_ids(builder, split)) == expected

    def test_labels_belong_to_their_images(self, spoilt, tmp_path):
        def spoil(content):
            uncaptioned_image(content)
            content["annotations"].append(
                {"image_id": 999_999, "id": 0, "caption": "Stranger words"}
            )
            content["annotations"].append(
                {"image_id": content["images"][8]["id"], "caption": "?"}
            )

        edit(spoilt, spoil)
        contents = contents_of(spoilt, on_bad_image="skip")

        def without(content):
            content["images"].pop(5)
            content["annotations"] = content["annotations"][:-2]

        edit(spoilt, without)
        clean = contents_of(spoilt)
        assert contents.label_names == clean.label_names
        for split in SPLITS:
            one, two = contents.splits[split], clean.splits[split]
            assert one.names == two.names
            assert (one.labels != two.labels).nnz == 0

    def test_nothing_to_skip(self, raw):
        assert contents_of(raw, on_bad_image="skip").counts == {
            "captions": 5 * sum(SIZES.values()), **dict.fromkeys(SKIPPABLE, 0)
        }  # fmt: skip


def run(*arguments, module="data_prep.coco"):
    return programs.run(module, *arguments)


class TestProgram:
    def test_success(self, raw, prepared, tmp_path):
        done = run(f"--raw_dir={raw}", f"--data_dir={tmp_path}")
        assert done.returncode == 0, done.stderr
        builder = builders.find("imcl_coco", str(tmp_path))
        assert str(builder.data_path) == str(
            tmp_path / "imcl_coco" / "2014" / "2.2.0"
        )
        check_records(builder, raw, 2014)
        assert shards(builder) == shards(prepared)
        positives = sum(
            sum(label > 0 for label in oracle_row(captions, words))
            for words in [oracle_vocabulary(oracle_captions(raw, "train"))]
            for captions in oracle_captions(raw, "train").values()
        )
        for line in (
            f"{builder.data_path}: 1000 labels",
            f"train: 150 images, {positives} labels observed present, "
            f"{150_000 - positives} absent",
            "captions: 955",
        ):
            assert line in done.stdout
        assert "made before" not in done.stdout
        again = run(f"--raw_dir={raw}", f"--data_dir={tmp_path}")
        assert again.returncode == 0, again.stderr
        first, said, *rest = again.stdout.splitlines()
        assert said.startswith("  made before: ") and "no picture was" in said
        assert [first, *rest] == done.stdout.splitlines()

    @pytest.mark.slow
    def test_all_flags(self, spoilt, tmp_path):
        words = tmp_path / "words"
        vocabulary = oracle_vocabulary(oracle_captions(spoilt, "train"))[::9]
        words.write_text("\n".join(vocabulary))
        for part in ("train", "val"):
            path = captions_file(spoilt, part)
            path.rename(captions_file(spoilt, part, 2017))
            (spoilt / f"{part}2014").rename(spoilt / f"{part}2017")
        expected = {part: oracle_captions(spoilt, part, 2017) for part in SIZES}
        path = captions_file(spoilt, "val", 2017)
        content = json.loads(path.read_text())
        content["annotations"].append({"image_id": 999_999, "caption": "Word"})
        path.write_text(json.dumps(content))
        done = run(
            f"--raw_dir={spoilt}", f"--data_dir={tmp_path}", "--config=2017",
            f"--vocabulary={words}", "--absent=unobserved",
            "--on_bad_image=skip",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "captions of images that are not listed: 1\n" in done.stdout
        dataset = open_source(builders.find("imcl_coco", str(tmp_path)))
        assert list(dataset.label_names) == vocabulary
        total = sum(
            sum(oracle_row(captions, vocabulary, absent=0))
            for part in expected.values()
            for captions in part.values()
        )
        labels = [split.labels for split in dataset.splits.values()]
        assert sum(x.nnz for x in labels) == total
        assert all((x.data == 1).all() for x in labels)

    @pytest.mark.slow
    def test_failure(self, spoilt, tmp_path):
        out, path = tmp_path / "out", captions_file(spoilt, "train")
        path.write_bytes(path.read_bytes()[:-1000])
        done = run(f"--raw_dir={spoilt}", f"--data_dir={out}")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
        assert len(lines) == 1
        assert f"{path}: not a whole JSON file" in lines[0]
        assert not written(out)

    def test_tfds_build(self, raw, prepared, tmp_path):
        pytest.importorskip("mlcroissant")  # the program `tfds` imports it
        done = run(
            "build", "data_prep/coco.py", f"--manual_dir={raw}",
            f"--data_dir={tmp_path}", "--config=2014",
            module="tensorflow_datasets.scripts.cli.main",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        builder = builders.find("imcl_coco/2014", str(tmp_path))
        assert shards(builder) == shards(prepared)


def test_tfds_own_tests(tmp_path):
    pytest.importorskip("dill")  # tfds.testing imports it
    for year in (2014, 2017):
        write_coco(tmp_path / str(year), year, {"train": 9, "val": 9})
        shutil.copytree(
            tmp_path / str(year), tmp_path / "raw", dirs_exist_ok=True
        )

    class Case(tfds.testing.DatasetBuilderTestCase):
        DATASET_CLASS = coco.Coco
        EXAMPLE_DIR = str(tmp_path / "raw")
        SPLITS = {"train": 9, "validation": 4, "test": 5}  # of both configs

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
    result = suite.run(unittest.TestResult())
    assert result.testsRun > 4
    assert result.errors == result.failures == []
