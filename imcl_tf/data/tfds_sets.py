"""Copies any data set of TFDS with several labels per image into our records.

The labels are the classes of a sequence, the most frequent words of captions,
or zeros and ones: a vector of them, or a dictionary with one for each label.
Labels that an image lacks are observed absent. If a set has several such
features, the first of these is used: "labels", "attributes", "captions", any
sequence of classes, any of texts, any dictionary, any vector.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data.builders import MultiLabelBuilder
from imcl_tf.data.captions import most_frequent_words, split_words
from imcl_tf.data.image_builders import checked_on_bad_image
from imcl_tf.data.label_updates import files_digest
from imcl_tf.data.labelled_images import LabelledImage, checked
from imcl_tf.data.pipeline import without_autograph

_SHARDS, _SHARD_IMAGES = 16, 512  # maximum of a split, minimum in one
_PREFERRED = (
    ("labels",), ("attributes",), ("captions", "text"), ("captions",)
)  # fmt: skip
_ENOUGH = 100  # images to see whether a split has labels


class _Layout(NamedTuple):
    """Which of a set's features hold image and labels.

    Attributes:
      image: name of the image feature.
      labels: path of the label feature, by name.
      names: of the labels; () where they are still to be counted.
      kind: "classes", "texts", "dictionary" or "vector" (of zeros and ones).
    """

    image: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    kind: str

    def positives(self, labels: Any) -> np.ndarray:
        """Indices of the labels of an image that are present, ascending.

        Args:
          labels: value of the label feature.

        Raises:
          ValueError: for a number other than 0 and 1 where those are expected.
        """
        if self.kind == "texts":
            words = {w for text in labels for w in split_words(text.decode())}
            number = _numbers(self.names)
            labels = [number[word] for word in words if word in number]
        elif self.kind in ("dictionary", "vector"):
            if self.kind == "dictionary":
                labels = [labels[name] for name in self.names]
            values = np.asarray(labels, int)
            wrong = values[(values != 0) & (values != 1)]
            if wrong.size:
                raise ValueError(
                    f"feature {'/'.join(self.labels)} must hold 0 and 1, got "
                    f"{wrong[0]}"
                )
            labels = np.flatnonzero(values)
        positives = np.unique(np.asarray(labels, int))
        # TFDS writes -1 where a class is not known.
        return positives[positives >= 0]


@functools.cache
def _numbers(names: tuple[str, ...]) -> dict[str, int]:
    return {name: j for j, name in enumerate(names)}


class TfdsCopy(MultiLabelBuilder):
    """A copy of a data set of TFDS; its config is named after that set.

    Args:
      source: that set's builder.
      source_name: what the user calls it.
      layout: which of its features are used.
      on_bad_image: see `image_builders.ImageFilesBuilder`.
      **kwargs: of TFDS builders: data_dir, config, version.
    """

    name = "tfds_copy"
    DESCRIPTION = "A multi-label data set of TFDS."

    def __init__(
        self,
        *,
        source: tfds.core.DatasetBuilder,
        source_name: str,
        layout: _Layout,
        on_bad_image: str = "error",
        **kwargs,
    ):
        self._source, self._source_name = source, source_name
        self._layout = layout
        self._skip = checked_on_bad_image(on_bad_image) == "skip"
        super().__init__(**kwargs)

    @property
    def _source_info(self) -> Path:
        """TFDS's own file on the set: sizes of its splits and shards."""
        return Path(self._source.data_path) / "dataset_info.json"

    def refuse_other_source(self):
        """Refuses a copy of what the set was before it was built anew.

        The set itself may be gone.

        Raises:
          ValueError: if it lies there, but differs.
        """
        if self.data_path.exists() and self._source_info.exists():
            digest = files_digest([self._source_info])
            if self.info.metadata.get("source") != digest:
                raise ValueError(
                    f"tfds:{self._source_name}: {self._source_info} is not of "
                    f"the data that {self.data_path} is a copy of; remove this "
                    "directory to copy them again"
                )

    def _split_generators(self, dl_manager):
        del dl_manager
        layout = self._layout
        with _one_line(self._source_name):
            self._source.download_and_prepare()
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
        self.info.metadata["source"] = files_digest([self._source_info])
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
            functools.partial(
                _copied_images,
                self._source_name,
                directory,
                f"{split}[{part[0]}:{part[1]}]",
                layout,
                self._skip,
            )
            for part in itertools.pairwise(ends)
        ]


def tfds_builder(
    name: str, data_dir: str | None = None, on_bad_image: str = "error"
) -> TfdsCopy:
    """The builder that copies a data set of TFDS.

    Args:
      name: as for `tfds.load`: "voc/2007", "coco_captions".
      data_dir: of TFDS, where the set lies or goes to, and the copy too.
      on_bad_image: "error", or "skip" to leave out and list images that cannot
        be used.

    Raises:
      ValueError: if TFDS has no such set, if it has no labels that can be used,
        or if it was built anew since it was copied.
    """
    with _one_line(name):
        source = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        # Known before hours of download.
        layout = _layout(source.info.features or {})
    version = re.sub(r"\W+", "_", source.info.full_name)
    copy = TfdsCopy(
        source=source,
        source_name=name,
        layout=layout,
        on_bad_image=on_bad_image,
        config=tfds.core.BuilderConfig(name=version),
        data_dir=data_dir,
    )
    copy.refuse_other_source()
    return copy


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
    dtype = features[images[0]].tf_dtype
    if not dtype.is_integer:
        # TFDS keeps the bits of such numbers in the colours of a PNG.
        raise ValueError(
            f"feature {images[0]} holds images of {dtype.name}; uint8 or "
            "uint16 expected"
        )
    kinds = _label_features(features)
    found = {
        path: (names, kind)
        for kind in ("classes", "texts", "dictionary", "vector")
        for path, names in kinds[kind].items()
    }
    for path in (*_PREFERRED, *found):
        if path in found:
            return _Layout(images[0], path, *found[path])
    raise ValueError(
        "has no feature with several labels: a sequence of classes or of "
        "texts, or a vector or dictionary of zeros and ones; its features are "
        f"{', '.join(features)}"
    )


def _label_features(features) -> dict[str, dict[tuple, tuple[str, ...]]]:
    """Kind of labels -> path of a feature -> names of its labels."""
    sequences = dict(_sequences(features))
    return {
        "classes": {
            path: tuple(feature.names)
            for path, feature in sequences.items()
            if _is(feature, "ClassLabel")
        },
        "texts": {
            path: ()
            for path, feature in sequences.items()
            if feature.tf_dtype == tf.string and feature.shape == ()
        },
        "dictionary": {
            (name,): tuple(feature)
            for name, feature in features.items()
            if _is(feature, "FeaturesDict")
            and len(feature) > 1
            and all(_is_flag(inner) for inner in feature.values())
        },
        "vector": {
            (name,): tuple(map(str, range(feature.shape[0])))
            for name, feature in features.items()
            if _is_vector(feature)
        },
    }


def _is_flag(feature) -> bool:
    """Whether it is true or false."""
    return feature.shape == () and feature.tf_dtype == tf.bool


def _is_vector(feature) -> bool:
    """Whether it may be zeros and ones, as many for each image."""
    return (
        (_is(feature, "Tensor") or _is(feature, "Sequence"))
        and not _is(getattr(feature, "feature", None), "ClassLabel")
        and len(feature.shape or ()) == 1
        and (feature.shape[0] or 0) > 1
        and (feature.tf_dtype.is_integer or feature.tf_dtype.is_bool)
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
    if layout.kind == "texts":  # whose words are not known yet
        return any(len(example["labels"]) for example in examples)
    return any(layout.positives(x["labels"]).size for x in examples)


def _examples(source, split, start, stop, layout) -> Iterator[dict]:
    return _examples_of(source, f"{split}[{start}:{stop}]", layout)


def _examples_of(source, part, layout) -> Iterator[dict]:
    """Dictionaries of NumPy values: tfds_id, image (bytes) and labels."""
    ds = source.as_dataset(
        split=part,
        decoders={layout.image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True),
    )

    @without_autograph
    def pick(example):
        labels = functools.reduce(lambda x, k: x[k], layout.labels, example)
        return {
            "tfds_id": example["tfds_id"],
            "image": example[layout.image],
            "labels": labels,
        }

    return ds.map(pick).as_numpy_iterator()


def _copied_images(
    source_name, directory, part, layout, skip, findings
) -> Iterator[LabelledImage]:
    labelled = _labelled_images(directory, part, layout)
    try:
        for image in checked(labelled, skip, findings):
            positives = int((image.values > 0).sum())
            findings.counts["images without labels"] += not positives
            yield image
    except ValueError as error:
        raise ValueError(f"tfds:{source_name}: {error}") from error


def _labelled_images(directory, part, layout):
    source = tfds.builder_from_directory(directory)
    everything = np.arange(len(layout.names), dtype=np.int32)
    for example in _examples_of(source, part, layout):
        values = np.full(len(everything), -1, np.int8)
        values[layout.positives(example["labels"])] = 1
        yield LabelledImage(
            example["tfds_id"].decode(), example["image"], everything, values
        )
