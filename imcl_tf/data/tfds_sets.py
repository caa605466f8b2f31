"""Copies any data set of TFDS with several labels per image into our records.

The labels are the classes of a sequence, or the most frequent words of
captions; those that an image lacks are observed absent. If a set has several
such features, the first of these is used: "labels", "captions", any sequence of
classes, any sequence of texts.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data import shards
from imcl_tf.data.builders import MultiLabelBuilder
from imcl_tf.data.captions import most_frequent_words, split_words

_SHARDS, _SHARD_IMAGES = 16, 512  # maximum of a split, minimum in one
_PREFERRED = (("labels",), ("captions", "text"), ("captions",))
_ENOUGH = 100  # images to see whether a split has labels


class _Layout(NamedTuple):
    """Which of a set's features hold image and labels.

    Attributes:
      image: name of the image feature.
      labels: path of the label feature, by name.
      names: of the labels; () where they are still to be counted.
      is_text: whether the labels are words of texts.
    """

    image: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    is_text: bool


class TfdsCopy(MultiLabelBuilder):
    """A copy of a data set of TFDS; its config is named after that set."""

    name = "tfds_copy"
    DESCRIPTION = "A multi-label data set of TFDS."

    def __init__(
        self, *, source: tfds.core.DatasetBuilder, source_name: str, **kwargs
    ):
        self._source, self._source_name = source, source_name
        super().__init__(**kwargs)

    def _split_generators(self, dl_manager):
        del dl_manager
        with _one_line(self._source_name):
            self._source.download_and_prepare()
            layout = _layout(self._source.info.features)
            splits = _splits(self._source, layout)
        if not layout.names:
            captions = (
                text.decode()
                for example in _examples(self._source, *splits["train"], layout)
                for text in example["labels"]
            )
            names = most_frequent_words(captions)
            layout = layout._replace(names=names)
        self.info.metadata["labels"] = list(layout.names)
        return {
            split: self._shard_generators(*place, layout)
            for split, place in splits.items()
        }

    def _shard_generators(self, split, start, stop, layout):
        directory = str(self._source.data_path)
        # TFDS takes its time to open a part of a split.
        number = min(_SHARDS, -((start - stop) // _SHARD_IMAGES))
        ends = np.linspace(start, stop, number + 1).round().astype(int).tolist()
        return [
            functools.partial(_copied_images, directory, split, *part, layout)
            for part in itertools.pairwise(ends)
        ]


def tfds_builder(name: str, data_dir: str | None = None) -> TfdsCopy:
    """The builder that copies a data set of TFDS.

    Args:
      name: as for `tfds.load`: "voc/2007", "coco_captions".
      data_dir: of TFDS, where the set lies or goes to, and the copy too.

    Raises:
      ValueError: if TFDS has no such set.
    """
    with _one_line(name):
        source = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    version = re.sub(r"\W+", "_", source.info.full_name)
    return TfdsCopy(
        source=source,
        source_name=name,
        config=tfds.core.BuilderConfig(name=version),
        data_dir=data_dir,
    )


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Makes a ValueError of one line of whatever goes wrong in TFDS."""
    try:
        yield
    except Exception as error:  # AssertionError, those of requests, of etree...
        reason, *_ = [*str(error).splitlines(), type(error).__name__]
        raise ValueError(f"tfds:{name}: {reason[:300]}") from error


def _layout(features: tfds.features.FeaturesDict) -> _Layout:
    """Finds the features that hold the image and its labels."""
    images = [k for k, f in features.items() if _is(f, "Image")]
    if "image" in images:  # and masks, maybe
        images = ["image"]
    if len(images) != 1:
        raise ValueError(f"one image feature expected, got {len(images)}")
    sequences = dict(_sequences(features))
    classes = {p: f.names for p, f in sequences.items() if _is(f, "ClassLabel")}
    texts = {
        path: ()
        for path, feature in sequences.items()
        if feature.tf_dtype == tf.string and feature.shape == ()
    }
    found = classes | texts
    for path in (*_PREFERRED, *found):
        if path in found:
            return _Layout(images[0], path, tuple(found[path]), path in texts)
    raise ValueError(
        "has no feature with several labels: a sequence of classes or of texts"
    )


def _is(feature, kind: str) -> bool:
    return isinstance(feature, getattr(tfds.features, kind))


def _sequences(features, path=()):
    """(path, element feature) of all sequences, dictionaries within too."""
    for name, feature in features.items():
        inner = getattr(feature, "feature", None)
        if _is(feature, "Sequence") and _is(inner, "FeaturesDict"):
            for key, element in inner.items():
                yield (*path, name, key), element
        elif _is(feature, "Sequence"):
            yield (*path, name), inner


def _splits(source, layout) -> dict[str, tuple[str, int, int]]:
    """Our splits as (TFDS's split, start, stop).

    Without a validation split the last tenth of training is validation; without
    a test split, or where its labels are secret, half of validation is test.
    """
    sizes = {
        name: split.num_examples
        for name, split in source.info.splits.items()
        if _has_labels(source, name, layout)
    }
    if "train" not in sizes:
        raise ValueError("has no split train with labels")
    train = ("train", 0, sizes["train"])
    validation = next((n for n in ("validation", "val") if n in sizes), None)
    if validation:
        held_out = (validation, 0, sizes[validation])
    else:
        cut = sizes["train"] * 9 // 10
        train, held_out = ("train", 0, cut), ("train", cut, sizes["train"])
    if "test" in sizes:
        test = ("test", 0, sizes["test"])
    else:
        name, start, stop = held_out
        middle = (start + stop) // 2
        held_out, test = (name, start, middle), (name, middle, stop)
    return {"train": train, "validation": held_out, "test": test}


def _has_labels(source, split, layout):
    stop = min(source.info.splits[split].num_examples, _ENOUGH)
    examples = _examples(source, split, 0, stop, layout)
    return any(len(example["labels"]) for example in examples)


def _examples(source, split, start, stop, layout) -> Iterator[dict]:
    """Dictionaries of NumPy values: tfds_id, image (bytes) and labels [n]."""
    ds = source.as_dataset(
        split=f"{split}[{start}:{stop}]",
        decoders={layout.image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True),
    )

    def pick(example):
        labels = functools.reduce(lambda x, k: x[k], layout.labels, example)
        return {
            "tfds_id": example["tfds_id"],
            "image": example[layout.image],
            "labels": labels,
        }

    return ds.map(pick).as_numpy_iterator()


def _copied_images(directory, split, start, stop, layout, counts, left_out):
    del left_out
    source = tfds.builder_from_directory(directory)
    number = {name: j for j, name in enumerate(layout.names)}
    everything = np.arange(len(layout.names), dtype=np.int32)
    for example in _examples(source, split, start, stop, layout):
        labels = example["labels"]
        if layout.is_text:
            found = {
                word for text in labels for word in split_words(text.decode())
            }
            labels = [number[word] for word in found if word in number]
        positives = np.unique(np.asarray(labels, int))
        # TFDS writes -1 where a class is not known.
        positives = positives[positives >= 0]
        counts["images without labels"] += not positives.size
        values = np.full(len(everything), -1, np.int8)
        values[positives] = 1
        yield shards.LabelledImage(
            example["tfds_id"].decode(), example["image"], everything, values
        )
