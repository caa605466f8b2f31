"""Small data sets of TFDS, as it writes them, and their copies."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data import builders
from imcl_tf.data.tfds_sets import tfds_builder
from tests.data.common import dense, label_table

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car")
POSES = ("frontal", "rear")
SIZES = {"train": 40, "validation": 12, "test": 15}
NAME = ("little_voc", "2007")  # with a config
CLASS = tfds.features.ClassLabel(names=CLASSES)
# Of all that tests write.
tfds.disable_progress_bar()


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
            "label": CLASS,
            "bbox": tfds.features.BBoxFeature(),
            "pose": tfds.features.ClassLabel(names=POSES),
            "is_difficult": np.bool_,
        }
    ),
    "labels": tfds.features.Sequence(CLASS),
    "labels_no_difficult": tfds.features.Sequence(CLASS),
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
