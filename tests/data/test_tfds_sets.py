"""Data sets of TFDS, small ones made here, and their copies as our records."""

import collections
import io
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data import builders, tfds_sets
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.decoding import decode_stored
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.data.tfds_sets import tfds_builder
from tests import programs
from tests.data.common import (
    dense,
    label_table,
    left_out,
    parsed,
    raw_records,
)
from tests.data.pictures import tiff, with_exif

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car")
POSES = ("frontal", "rear")
SIZES = {"train": 40, "validation": 12, "test": 15}
NAME = ("little_voc", "2007")  # with a config
_Classes = tfds.features.ClassLabel(names=CLASSES)


class Example:
    """An image of its own with two or three classes, some of them difficult."""

    def __init__(self, rng, number):
        pixels = rng.integers(0, 256, (9, 8, 3)).astype(np.uint8)
        self.image = tf.io.encode_jpeg(pixels).numpy()
        self.key = f"{number:06d}"
        # With repetitions, as an image shows several of a class.
        self.objects = rng.integers(0, len(CLASSES), 4).tolist()
        if number % 11 == 3:
            self.objects = []
        self.classes = sorted(set(self.objects))
        self.easy = self.classes[:1]
        words = ["a", "A", "red-Boat", "two_boats", "Été,", "it's", "10"]
        words += [f"w{rng.integers(2000):04d}" for _ in range(12)]
        self.captions = [
            " ".join(rng.choice(words, 9)) + "." for _ in range(number % 3 + 1)
        ]


def write_set(
    data_dir, features, example_of, name="little", config=None, sizes=None
):
    """Writes a set as TFDS does; from then on its files alone know of it.

    Args:
      data_dir: of TFDS.
      features: by name.
      example_of: `Example` -> values of the features.
      name: of the set.
      config: name of its only config.
      sizes: split -> images.

    Returns:
      split -> key -> `Example`.
    """
    rng = np.random.default_rng(0)
    numbers = itertools.count()
    written = {}
    for split, size in (sizes or SIZES).items():
        examples = [Example(rng, next(numbers)) for _ in range(size)]
        written[split] = {example.key: example for example in examples}

    class Little(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.1.4")
        BUILDER_CONFIGS = (
            [tfds.core.BuilderConfig(name=config)] if config else []
        )

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in written}

        def _generate_examples(self, split):
            for key, example in written[split].items():
                yield key, example_of(example)

    Little.name = name
    Little(data_dir=data_dir).download_and_prepare()
    return written


VOC = {
    "actions": tfds.features.Sequence(tfds.features.ClassLabel(names=POSES)),
    "image": tfds.features.Image(),
    "image/filename": tfds.features.Text(),
    "objects": tfds.features.Sequence(
        {
            "label": _Classes,
            "bbox": tfds.features.BBoxFeature(),
            "pose": tfds.features.ClassLabel(names=POSES),
            "is_difficult": np.bool_,
        }
    ),
    "labels": tfds.features.Sequence(_Classes),
    "labels_no_difficult": tfds.features.Sequence(_Classes),
}


def voc_example(example):
    box = tfds.features.BBox(0.1, 0.2, 0.3, 0.4)
    return {
        "actions": [1],
        "image": example.image,
        "image/filename": f"{example.key}.jpg",
        "objects": [
            {"label": j, "bbox": box, "pose": 0, "is_difficult": True}
            for j in example.objects
        ],
        "labels": example.classes,
        "labels_no_difficult": example.easy,
    }


CAPTIONS = {
    "image": tfds.features.Image(encoding_format="jpeg"),
    "image/filename": tfds.features.Text(),
    "objects": tfds.features.Sequence({"label": _Classes, "id": np.int64}),
    "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
}


def captions_example(example):
    return {
        "image": example.image,
        "image/filename": f"{example.key}.jpg",
        "objects": [{"label": j, "id": j} for j in example.objects],
        "captions": [
            {"text": text, "id": i} for i, text in enumerate(example.captions)
        ],
    }


@pytest.fixture(autouse=True)
def no_progress_bars():
    tfds.disable_progress_bar()


def copies(name, data_dir, **options):
    """Copies a set: builder, and split -> image -> its record's values."""
    builder = builders.prepare(tfds_builder(name, str(data_dir)), **options)
    found = {}
    for split, info in builder.info.splits.items():
        found[split] = {}
        for path in info.filepaths:
            for record in tf.data.TFRecordDataset(str(path)):
                example = tf.train.Example.FromString(record.numpy())
                values = {}
                for key, feature in example.features.feature.items():
                    kind = feature.WhichOneof("kind")
                    values[key] = list(
                        getattr(feature, kind).value if kind else []
                    )
                found[split][values["image"][0]] = values
        assert len(found[split]) == info.num_examples
        table = label_table(builder, split)
        values = {x["image_id"][0]: x for x in found[split].values()}
        for name, row in zip(table["image_ids"], dense(table), strict=True):
            values[name]["labels"] = row.tolist()
    return builder, found


def check(found, examples, positives_of, num_labels):
    """The records are those of `examples`, with image and labels."""
    assert set(found) == {example.image for example in examples}
    for example in examples:
        values = found[example.image]
        positives = positives_of(example)
        assert values["labels"] == [
            1 if j in positives else -1 for j in range(num_labels)
        ]
    names = {values["image_id"][0] for values in found.values()}
    assert len(names) == len(examples)


def refused(name, data_dir, *words):
    """Copying ends in one line with `words`, and leaves no copy."""
    with pytest.raises(ValueError) as caught:
        builders.prepare(tfds_builder(name, str(data_dir)))
    message = str(caught.value)
    for word in (f"tfds:{name}: ", *words):
        assert word in message
    assert len(message.splitlines()) == 1 and len(message) < 400
    copy = Path(data_dir, "tfds_copy")
    assert not [path for path in copy.rglob("*") if path.is_file()]


class TestClasses:
    @pytest.mark.parametrize("name", ["little_voc", "little_voc/2007"])
    def test_as_voc(self, tmp_path, name):
        written = write_set(tmp_path, VOC, voc_example, *NAME)
        builder, found = copies(name, tmp_path)
        assert builder.info.metadata["labels"] == list(CLASSES)
        assert set(found) == set(SIZES)
        empty = 0
        for split, examples in written.items():
            examples = list(examples.values())
            # All of the "labels", not the easy ones alone.
            check(found[split], examples, lambda x: x.classes, len(CLASSES))
            empty += sum(not example.classes for example in examples)
        assert empty == builder.info.metadata["counts"]["images without labels"]
        assert empty > 0

    def test_what_training_sees(self, tmp_path):
        written = write_set(tmp_path, VOC, voc_example)
        source = open_source(copies("little", tmp_path)[0])
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
        copies("little", tmp_path)
        assert [path.stat().st_mtime_ns for path in files] == before

    def test_built_anew_under_the_same_version(self, tmp_path):
        write_set(tmp_path, VOC, voc_example)
        builder, _ = copies("little", tmp_path)
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

    def test_of_objects(self, tmp_path):
        """Some twice in an image, some of unknown class, and with a mask."""
        features = {
            "objects": tfds.features.Sequence(
                {"area": np.int64, "label": _Classes}
            ),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
            "image": tfds.features.Image(),
        }

        def example_of(example):
            return {
                "objects": [
                    {"area": 9, "label": j} for j in (-1, *example.objects)
                ],
                "segmentation_mask": np.zeros((9, 8, 1), np.uint8),
                "image": example.image,
            }

        written = write_set(tmp_path, features, example_of)
        _, found = copies("little", tmp_path)
        for split, examples in written.items():
            examples = list(examples.values())
            check(found[split], examples, lambda x: x.classes, len(CLASSES))

    def test_many_shards_also_by_beam(self, tmp_path, monkeypatch):
        pytest.importorskip("apache_beam")
        written = write_set(tmp_path, VOC, voc_example)
        _, found = copies("little", tmp_path)
        (tmp_path / "tfds_copy").rename(tmp_path / "first")
        monkeypatch.setattr(tfds_sets, "_SHARD_IMAGES", 6)
        monkeypatch.setattr(tfds_sets, "_SHARDS", 3)
        runner = "DirectRunner"
        builder, again = copies("little", tmp_path, beam_runner=runner)
        assert again == found
        splits = builder.info.splits
        lengths = [splits[split].shard_lengths for split in written]
        assert lengths == [[13, 14, 13], [6, 6], [5, 5, 5]]


def oracle_words(captions):
    """Letter by letter: what is neither letter nor digit ends a word."""
    text = " ".join(captions).lower()
    return "".join(c if c.isalnum() else " " for c in text).split()


def oracle_vocabulary(examples):
    counts = collections.Counter(
        word for x in examples for word in oracle_words(x.captions)
    )
    return [w for w, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]


class TestCaptions:
    @pytest.mark.parametrize("form", ["coco", "sentences"])
    def test_words_of_the_training_captions(self, tmp_path, form):
        """Not the objects, if the feature is called captions."""
        features, example_of = CAPTIONS, captions_example
        if form != "coco":
            features = {
                "image": tfds.features.Image(),
                form: tfds.features.Sequence(tfds.features.Text()),
            }

            def example_of(example):
                return {"image": example.image, form: example.captions}

        sizes = {"train": 300, "val": 12, "test": 15, "restval": 20}
        written = write_set(tmp_path, features, example_of, sizes=sizes)
        builder, found = copies("little", tmp_path)
        words = oracle_vocabulary(written["train"].values())
        assert len(words) > 1000
        words = words[:1000]
        assert builder.info.metadata["labels"] == words
        assert {"boat", "it", "s", "été"} < set(words)

        def positives(example):
            known = set(oracle_words(example.captions)) & set(words)
            return [words.index(word) for word in known]

        assert set(found) == set(SIZES)
        for split, original in zip(
            SIZES, ("train", "val", "test"), strict=True
        ):
            examples = list(written[original].values())
            check(found[split], examples, positives, len(words))
        unknown = [
            word
            for x in written["test"].values()
            for word in oracle_words(x.captions)
            if word not in words
        ]
        assert unknown  # words of test captions alone are no labels


class TestSplits:
    @pytest.mark.parametrize(
        ("sizes", "expected"),
        [
            ({"train": 40, "test": 8}, (36, 4, 8)),
            ({"train": 40, "validation": 9}, (40, 4, 5)),
            ({"train": 41}, (36, 2, 3)),
        ],
    )
    def test_missing_ones(self, tmp_path, sizes, expected):
        written = write_set(tmp_path, VOC, voc_example, sizes=sizes)
        _, found = copies("little", tmp_path)
        assert tuple(len(found[split]) for split in SIZES) == expected
        images = [image for part in found.values() for image in part]
        # Each image once, and in its own split where that is there.
        assert len(images) == len(set(images)) == sum(sizes.values())
        for split, examples in written.items():
            ours = {"val": "validation"}.get(split, split)
            assert set(found[ours]) <= {x.image for x in examples.values()}

    def test_secret_labels_are_not_all_absent(self, tmp_path):
        """VOC 2012 has a test split without labels."""
        sizes = {"test": 15, "train": 40, "validation": 9}

        def example_of(example):
            if int(example.key) < sizes["test"]:
                example.classes = example.objects = example.easy = []
            return voc_example(example)

        write_set(tmp_path, VOC, example_of, sizes=sizes)
        _, found = copies("little", tmp_path)
        assert [len(found[split]) for split in SIZES] == [40, 4, 5]

    def test_no_train(self, tmp_path):
        sizes = {"validation": 9, "test": 9}
        write_set(tmp_path, VOC, voc_example, sizes=sizes)
        refused("little", tmp_path, "no split train")

    def test_too_few_for_three(self, tmp_path):
        write_set(tmp_path, VOC, voc_example, sizes={"train": 10})
        builder = tfds_builder("little", str(tmp_path))
        with pytest.raises(ValueError, match="split validation has no image"):
            builders.prepare(builder)


def zeros_and_ones(example):
    return [int(j in example.classes) for j in range(len(CLASSES))]


class TestZerosAndOnes:
    @pytest.mark.parametrize(
        "feature",
        [
            tfds.features.Tensor(shape=(len(CLASSES),), dtype=np.int64),
            tfds.features.Tensor(shape=(len(CLASSES),), dtype=np.bool_),
            tfds.features.Sequence(np.uint8, length=len(CLASSES)),
        ],
        ids=["integers", "truths", "sequence"],
    )
    def test_vector(self, tmp_path, feature):
        features = {"image": tfds.features.Image(), "labels": feature}

        def example_of(example):
            labels = zeros_and_ones(example)
            dtype = feature.tf_dtype.as_numpy_dtype
            return {"image": example.image, "labels": np.array(labels, dtype)}

        written = write_set(tmp_path, features, example_of)
        builder, found = copies("little", tmp_path)
        assert builder.info.metadata["labels"] == [*"0123456"]
        for split, examples in written.items():
            examples = list(examples.values())
            check(found[split], examples, lambda x: x.classes, len(CLASSES))

    def test_dictionary(self, tmp_path):
        """As celeb_a, whose other dictionary is of numbers."""
        features = {
            "image": tfds.features.Image(),
            "landmarks": {"left": np.int64, "right": np.int64},
            "attributes": dict.fromkeys(CLASSES, np.bool_),
        }

        def example_of(example):
            present = map(bool, zeros_and_ones(example))
            return {
                "image": example.image,
                "landmarks": {"left": 1, "right": 0},
                "attributes": dict(zip(CLASSES, present, strict=True)),
            }

        written = write_set(tmp_path, features, example_of)
        builder, found = copies("little", tmp_path)
        names = builder.info.metadata["labels"]
        assert sorted(names) == sorted(CLASSES)
        for split, examples in written.items():
            check(
                found[split],
                list(examples.values()),
                lambda x: [names.index(CLASSES[j]) for j in x.classes],
                len(CLASSES),
            )

    def test_secret_labels_are_not_all_absent(self, tmp_path):
        feature = tfds.features.Tensor(shape=(7,), dtype=np.int64)
        features = {"image": tfds.features.Image(), "labels": feature}
        sizes = {"test": 15, "train": 40, "validation": 9}

        def example_of(example):
            labels = np.array(zeros_and_ones(example))
            if int(example.key) < sizes["test"]:
                labels[:] = 0
            return {"image": example.image, "labels": labels}

        write_set(tmp_path, features, example_of, sizes=sizes)
        _, found = copies("little", tmp_path)
        assert [len(found[split]) for split in SIZES] == [40, 4, 5]

    def test_other_numbers(self, tmp_path):
        feature = tfds.features.Tensor(shape=(7,), dtype=np.int64)
        features = {"image": tfds.features.Image(), "counts": feature}

        def example_of(example):
            values = np.array(zeros_and_ones(example)) * 2
            return {"image": example.image, "counts": values}

        write_set(tmp_path, features, example_of)
        refused("little", tmp_path, "counts must hold 0 and 1, got 2")


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
                features = {"image": tfds.features.Image(), "label": _Classes}
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
        features = {"image": tfds.features.Image(), "label": _Classes}

        def example_of(example):
            return {"image": example.image, "label": len(example.classes)}

        write_set(tmp_path, features, example_of)
        refused("little", tmp_path, "no feature with several labels")

    def test_images_of_floats(self, tmp_path):
        """Of which TFDS makes a PNG whose colours are the numbers' bits."""
        features = {
            "image": tfds.features.Image(shape=(9, 8, 1), dtype=np.float32),
            "labels": tfds.features.Sequence(_Classes),
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
        features["labels"] = tfds.features.Sequence(_Classes)

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
