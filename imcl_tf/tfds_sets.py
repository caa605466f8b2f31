"""Any data set of TFDS with several labels per image, as records of our own.

Its labels are a sequence of classes ("labels", else the first in its features),
all others counting as absent, or else the commonest words of its captions.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from imcl_tf import records
from imcl_tf.builders import MultiLabelBuilder
from imcl_tf.captions import most_frequent_words, split_words

_SHARDS = 16  # of a split


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

    def __init__(self, *, source: tfds.core.DatasetBuilder, **kwargs):
        self._source = source
        super().__init__(**kwargs)

    def _split_generators(self, dl_manager):
        del dl_manager
        self._source.download_and_prepare()
        layout = _layout(self._source.info)
        splits = _splits(self._source.info)
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
        number = min(_SHARDS, stop - start)
        ends = np.linspace(start, stop, number + 1).round().astype(int).tolist()
        return [
            functools.partial(_copied_records, directory, split, *part, layout)
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
    try:
        source = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"tfds:{name}: {reason}") from error
    config = re.sub(r"\W+", "_", name)
    return TfdsCopy(
        source=source,
        config=tfds.core.BuilderConfig(name=config),
        data_dir=data_dir,
    )


def _layout(info: tfds.core.DatasetInfo) -> _Layout:
    """Finds the features that hold the image and its labels."""
    features = info.features
    image = [k for k, f in features.items() if _is(f, "Image")]
    if len(image) != 1:
        raise ValueError(
            f"tfds:{info.full_name} has {len(image)} image features"
        )
    sequences = dict(_sequences(features))
    classes = [p for p, f in sequences.items() if _is(f, "ClassLabel")]
    texts = [p for p, f in sequences.items() if _is(f, "Text")]
    # "labels" where there are several: VOC has "labels_no_difficult" as well.
    for path in [*filter(("labels",).__eq__, classes), *classes]:
        return _Layout(image[0], path, tuple(sequences[path].names), False)
    for path in texts:
        return _Layout(image[0], path, (), True)
    raise ValueError(
        f"tfds:{info.full_name} has no feature with several labels: a sequence "
        "of classes or of texts"
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


def _splits(info: tfds.core.DatasetInfo) -> dict[str, tuple[str, int, int]]:
    """Our splits as (TFDS's split, start, stop).

    Without a validation split the last tenth of training is validation; without
    a test split, half of validation is test.
    """
    sizes = {name: split.num_examples for name, split in info.splits.items()}
    if "train" not in sizes:
        raise ValueError(f"tfds:{info.full_name} has no split train")
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


def _copied_records(directory, split, start, stop, layout, counts, left_out):
    del left_out
    source = tfds.builder_from_directory(directory)
    number = {name: j for j, name in enumerate(layout.names)}
    everything = np.arange(len(layout.names))
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
        yield records.encode_image(
            example["tfds_id"].decode(),
            example["image"],
            positives,
            np.setdiff1d(everything, positives),
        )
