"""Labels of data sets of TFDS, small ones made here, in copies of them."""

import collections

import numpy as np
import pytest
import tensorflow_datasets as tfds

from imcl_tf.data import builders
from imcl_tf.data.tfds_sets import tfds_builder
from tests.data.tfds_files import (
    CLASS,
    CLASSES,
    NAME,
    SIZES,
    VOC,
    check,
    copies,
    refused,
    voc_example,
    write_set,
)

CAPTIONS = {
    "image": tfds.features.Image(encoding_format="jpeg"),
    "image/filename": tfds.features.Text(),
    "objects": tfds.features.Sequence({"label": CLASS, "id": np.int64}),
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


class TestClasses:
    def test_as_voc(self, tmp_path):
        written = write_set(tmp_path, VOC, voc_example, *NAME)
        builder, found = copies("little_voc", tmp_path)
        # Its only config, which need not be named.
        named = tfds_builder("little_voc/2007", str(tmp_path))
        assert named.data_path == builder.data_path
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

    def test_of_objects(self, tmp_path):
        """Some twice in an image, some of unknown class, and with a mask."""
        features = {
            "objects": tfds.features.Sequence(
                {"area": np.int64, "label": CLASS}
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
