"""Copies of data sets of TFDS: their files, pictures, and what is refused."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data import tfds_sets
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.decoding import decode_stored
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.data.tfds_sets import tfds_builder
from tests import programs
from tests.data.common import left_out, parsed, raw_records
from tests.data.pictures import tiff, with_exif
from tests.data.tfds_files import (
    CLASS,
    CLASSES,
    NAME,
    SIZES,
    VOC,
    copies,
    refused,
    voc_example,
    write_set,
)


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """The set "little", not to be changed, and its copy.

    Returns:
      data_dir, what `write_set` and the two things that `copies` returned.
    """
    place = tmp_path_factory.mktemp("little")
    written = write_set(place, VOC, voc_example)
    return place, written, *copies("little", place)


class TestCopies:
    def test_what_training_sees(self, little):
        place, written, builder, _ = little
        source = open_source(builder)
        assert source.label_names == CLASSES
        for split, examples in written.items():
            labels = source.splits[split].labels
            assert labels.shape == (SIZES[split], len(CLASSES))
            assert labels.nnz == labels.shape[0] * labels.shape[1]
            total = sum(len(x.classes) for x in examples.values())
            assert (labels > 0).sum() == total

        # What was copied once is not copied again.
        assert Path(source.directory).parent.name == "little_3_1_4"
        files = sorted(Path(source.directory).iterdir())
        before = [path.stat().st_mtime_ns for path in files]
        copies("little", place)
        assert [path.stat().st_mtime_ns for path in files] == before

    def test_built_anew_under_the_same_version(self, little, tmp_path):
        shutil.copytree(little[0], tmp_path, dirs_exist_ok=True)
        builder = tfds_builder("little", str(tmp_path))
        shutil.rmtree(tmp_path / "little")
        builder.refuse_other_source()  # not: the copy is enough
        write_set(tmp_path, VOC, voc_example, sizes=SIZES | {"test": 40})
        with pytest.raises(ValueError, match="remove this directory") as caught:
            copies("little", tmp_path)
        copy = tmp_path / "tfds_copy" / "little_3_1_4"
        assert str(copy) in str(caught.value)
        shutil.rmtree(copy)
        _, found = copies("little", tmp_path)
        assert len(found["test"]) == 40

    def test_many_shards_also_by_beam(self, little, tmp_path, monkeypatch):
        pytest.importorskip("apache_beam")
        place, written, _, found = little
        shutil.copytree(place / "little", tmp_path / "little")
        monkeypatch.setattr(tfds_sets, "_SHARD_IMAGES", 6)
        monkeypatch.setattr(tfds_sets, "_SHARDS", 3)
        runner = "DirectRunner"
        builder, again = copies("little", tmp_path, beam_runner=runner)
        assert again == found
        splits = builder.info.splits
        lengths = [splits[split].shard_lengths for split in written]
        assert lengths == [[13, 14, 13], [6, 6], [5, 5, 5]]


class TestImages:
    """They are checked as those of a folder are."""

    @staticmethod
    def spoiled(example):
        """The sixth picture is cut off, the seventh is of one colour."""
        values = voc_example(example)
        if example.key == "000005":
            values["image"] = values["image"][:-40]
        elif example.key == "000006":
            black = tf.zeros([9, 8, 3], tf.uint8)
            values["image"] = tf.io.encode_jpeg(black).numpy()
        elif example.key == "000007":
            values["image"] = with_exif(values["image"], tiff(6))
        return {k: io.BytesIO(v) if k == "image" else v
                for k, v in values.items()}  # fmt: skip

    def test_bad_one_is_named_before_training(self, tmp_path):
        write_set(tmp_path, VOC, self.spoiled)
        refused(
            "little", tmp_path, "little-train.tfrecord-", ": truncated JPEG; ",
            "--on_bad_image=skip leaves such images out",
        )  # fmt: skip

    def test_skipped_turned_and_counted(self, tmp_path):
        written = write_set(tmp_path, VOC, self.spoiled)["train"]
        data = load_dataset("tfds:little", str(tmp_path), "skip")
        assert data.train.labels.shape[0] == SIZES["train"] - 1
        builder = tfds.builder_from_directory(data.directory)
        counts = builder.info.metadata["counts"]
        assert counts["images left out"] == 1
        assert counts["images: of one colour"] == 1
        assert counts["images: EXIF orientation 6"] == 1
        (_, (split, image, reason)) = left_out(builder)
        assert (split, reason) == ("train", "truncated JPEG")
        assert image.startswith("little-train")
        # 9 x 8 pixels, turned by a quarter.
        turned = written["000007"].image
        stored = [
            parsed(record)["image"][0]
            for record in sum(raw_records(builder, "train"), [])
        ]
        (stored,) = [x for x in stored if x.endswith(turned[2:])]
        pixels = decode_stored(tf.constant(stored)).numpy()
        np.testing.assert_array_equal(
            pixels, np.rot90(tf.io.decode_jpeg(turned), -1)
        )


class TestRefused:
    def test_before_the_download(self, tmp_path):
        class Unlabelled(tfds.core.GeneratorBasedBuilder):
            name = "unlabelled"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {"image": tfds.features.Image(), "label": CLASS}
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                raise AssertionError("downloads")

            def _generate_examples(self):
                yield

        refused(
            "unlabelled", tmp_path, "no feature with several labels",
            "its features are image, label",
        )  # fmt: skip

    def test_one_class_per_image(self, tmp_path):
        features = {"image": tfds.features.Image(), "label": CLASS}

        def example_of(example):
            return {"image": example.image, "label": len(example.classes)}

        write_set(tmp_path, features, example_of)
        refused("little", tmp_path, "no feature with several labels")

    def test_images_of_floats(self, tmp_path):
        """Of which TFDS makes a PNG whose colours are the numbers' bits."""
        features = {
            "image": tfds.features.Image(shape=(9, 8, 1), dtype=np.float32),
            "labels": tfds.features.Sequence(CLASS),
        }

        def example_of(example):
            image = np.zeros((9, 8, 1), np.float32)
            return {"image": image, "labels": example.classes}

        write_set(tmp_path, features, example_of)
        refused("little", tmp_path, "image holds images of float32; uint8")

    def test_on_bad_image(self, tmp_path):
        write_set(tmp_path, VOC, voc_example)
        with pytest.raises(ValueError, match="error or skip, got 'ignore'"):
            tfds_builder("little", str(tmp_path), "ignore")

    @pytest.mark.parametrize("number", [0, 2])
    def test_which_image(self, tmp_path, number):
        images = [f"image{n}" for n in range(number)]
        features = dict.fromkeys(images, tfds.features.Image())
        features["labels"] = tfds.features.Sequence(CLASS)

        def example_of(example):
            values = dict.fromkeys(images, example.image)
            return values | {"labels": example.classes}

        write_set(tmp_path, features, example_of)
        refused("little", tmp_path, f"one image feature expected, got {number}")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nosuchset", "nosuchset not found"),
            ("voc/1999", "1999 not found"),
            ("voc:9.9.9", "9.9.9"),
            ("voc/2007/x/y", "failed"),
            ("", "failed"),
        ],
    )
    def test_unknown(self, tmp_path, name, message):
        refused(name, tmp_path, message)

    def test_download_that_fails(self, tmp_path):
        """As without a network; FTP, which TFDS does not try again."""

        class Distant(tfds.core.GeneratorBasedBuilder):
            name = "distant"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(VOC)
                )

            def _split_generators(self, dl_manager):
                dl_manager.download("ftp://127.0.0.1:9/never")

            def _generate_examples(self):
                yield

        refused("distant", tmp_path, "Connection refused")


class TestProgram:
    @pytest.mark.slow
    def test_success(self, tmp_path):
        write_set(tmp_path, VOC, voc_example, *NAME)
        workdir = tmp_path / "run"
        done = programs.run(
            "imcl_tf.main", "--dataset=tfds:little_voc/2007",
            f"--data_dir={tmp_path}", f"--workdir={workdir}",
            "--initial_epochs=1", "--epochs=1", "--image_size=32",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (workdir / "labels.txt").read_text().split() == list(CLASSES)
        results = json.loads((workdir / "results.json").read_text())
        assert 0 < results["mAP"] <= 100
        assert results["dataset"] == "tfds:little_voc/2007"

    @pytest.mark.slow
    def test_failure(self, tmp_path):
        done = programs.run(
            "imcl_tf.main", "--dataset=tfds:nosuchset",
            f"--workdir={tmp_path / 'run'}",
        )  # fmt: skip
        assert done.returncode == 1 and "Traceback" not in done.stderr
        lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
        assert len(lines) == 1 and "tfds:nosuchset: Dataset" in lines[0]
        assert not (tmp_path / "run").exists()
