"""TFRecords -> minibatches: a chain of small steps from dataset to dataset."""

from __future__ import annotations

import contextlib
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf
from absl import logging

from imcl_tf import records
from imcl_tf.backbones import SQUASHED, Resizing
from imcl_tf.files import replacing
from imcl_tf.labels import LabelTable

_SHUFFLE_BUFFER = 10_000
_PARALLEL_FILES = 16
_NO_CACHE = OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile


class Split(NamedTuple):
    """Records of one split.

    Attributes:
      files: TFRecord files, in order.
      lengths: number of records of each file.
      labels: [N, C] int8 csr_array, observed labels of the records in order;
        a row's number is the image's `image_index`.
      classes: [N] int32, the images' classes; [0] where they have none.
    """

    files: tuple[str, ...]
    lengths: tuple[int, ...]
    labels: scipy.sparse.csr_array
    classes: np.ndarray


class Source(NamedTuple):
    """A data set on disk.

    Attributes:
      name: of the data set.
      directory: where its records lie.
      label_names: C names.
      splits: "train", "validation", "test" -> `Split`.
    """

    name: str
    directory: str
    label_names: tuple[str, ...]
    splits: dict[str, Split]


def open_source(builder) -> Source:
    """Opens the records that a TFDS builder has prepared.

    Args:
      builder: tfds.core.DatasetBuilder whose metadata holds `labels`.

    Returns:
      `Source` with the labels of all splits in memory, as sparse arrays.

    Raises:
      ValueError: if a file of records is damaged or missing.
    """
    names = tuple(builder.info.metadata["labels"])
    directory = Path(str(builder.data_path))
    splits = {}
    for split, info in builder.info.splits.items():
        files, lengths = zip(
            *(
                (str(file), length)
                for file, length in zip(
                    info.filepaths, info.shard_lengths, strict=True
                )
                if length
            ),
            strict=True,
        )
        labels, classes = _labels_of(
            directory / f"labels-{split}.npz", files, lengths, len(names)
        )
        splits[split] = Split(files, lengths, labels, classes)
    return Source(builder.name, str(directory), names, splits)


def _labels_of(cache: Path, files, lengths, num_labels):
    """Labels and classes of a split.

    Kept in `cache`: to read them from the records, all images pass by. The
    files' sizes tell whether it is still true.
    """
    for file in files:
        if not Path(file).is_file():
            raise ValueError(
                f"{file}: no such file; prepare the data set again"
            )
    sizes = np.array([Path(file).stat().st_size for file in files])
    # Missing, or another run is writing it.
    with (
        contextlib.suppress(*_NO_CACHE),
        cache.open("rb") as file,
        np.load(file) as kept,
    ):
        if np.array_equal(kept["sizes"], sizes):
            shape = (sum(lengths), num_labels)
            parts = kept["values"], kept["columns"], kept["row_splits"]
            return scipy.sparse.csr_array(parts, shape), kept["classes"]
    labels, classes = records.read_labels(files, lengths, num_labels)
    try:
        with replacing(cache) as new:
            np.savez(
                new, sizes=sizes, values=labels.data, columns=labels.indices,
                row_splits=labels.indptr, classes=classes,
            )  # fmt: skip
    except OSError as error:  # somebody else's directory, say
        logging.info("%s: labels not kept: %s", cache, error)
    return labels, classes


def decode_and_resize(
    encoded: tf.Tensor, image_size: int, resizing: Resizing = SQUASHED
) -> tf.Tensor:
    """Decodes one image [] string (JPEG, PNG, BMP, GIF's first frame).

    Args:
      encoded: the file.
      image_size: S.
      resizing: to S x S.

    Returns:
      [S, S, 3] uint8.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    size = tf.constant([image_size, image_size])
    if resizing.shorter_side:
        before = tf.cast(tf.shape(image)[:2], tf.float32)
        # Rounded down, as for the 341 pixels of the Open Images checkpoint.
        shorter_side = resizing.shorter_side * image_size // 224
        scale = shorter_side / tf.reduce_min(before)
        size = tf.cast(tf.round(before * scale), tf.int32)
    if resizing.tf1:
        image = tf.compat.v1.image.resize(tf.cast(image, tf.float32), size)
    else:
        image = tf.image.resize(image, size, antialias=True)
    if resizing.shorter_side:
        # Not resize_with_crop_or_pad, whose checks take longer than the crop.
        start = tf.pad((size - image_size) // 2, [[0, 1]])
        image = tf.slice(image, start, [image_size, image_size, 3])
    # Means of bytes: there is nothing to clip.
    return tf.cast(tf.round(image), tf.uint8)


def numbered(split: Split, shuffle_seed: int | None = None) -> tf.data.Dataset:
    """(image_index [] int32, record [] string), shuffled anew each epoch."""
    firsts = np.cumsum([0, *split.lengths[:-1]]).astype(np.int64)
    files = tf.data.Dataset.from_tensor_slices((list(split.files), firsts))
    if shuffle_seed is None:
        return files.flat_map(_read_numbered)
    ds = files.shuffle(len(split.files), shuffle_seed).interleave(
        _read_numbered,
        cycle_length=_PARALLEL_FILES,
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return ds.shuffle(_SHUFFLE_BUFFER, shuffle_seed)


def _read_numbered(file, first):
    # Not enumerate, whose int64 would take a call for each record to convert.
    numbers = tf.data.Dataset.range(first, tf.int32.max, output_type=tf.int32)
    return tf.data.Dataset.zip(numbers, tf.data.TFRecordDataset(file))


def with_inputs(
    ds: tf.data.Dataset,
    input_shape: tuple[int, ...],
    batch_size: int,
    resizing: Resizing = SQUASHED,
) -> tf.data.Dataset:
    """Numbered records -> (image_index [B], inputs [B, *input_shape]).

    Args:
      ds: of `numbered`.
      input_shape: (S, S, 3) for image records, (d,) for feature records.
      batch_size: B; the last minibatch may be smaller.
      resizing: of images to S x S.

    Returns:
      uint8 images or float32 features.
    """
    if len(input_shape) == 1:
        # Feature records parse faster a batch at a time.
        return ds.batch(batch_size).map(
            lambda i, r: (i, records.decode_features(r, input_shape[0])),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def decode(index, record):
        _, encoded = records.decode_image(record)
        return index, decode_and_resize(encoded, input_shape[0], resizing)

    return ds.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)


def with_labels(ds: tf.data.Dataset, labels: LabelTable) -> tf.data.Dataset:
    """Adds labels: (image_index, inputs) -> ({...}, labels [B, C] int8)."""
    return ds.map(
        lambda index, inputs: (
            {"inputs": inputs, "image_index": index},
            labels.rows(index),
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def augmented(
    ds: tf.data.Dataset,
    image_size: int,
    seed: int,
    first_step: int = 0,
    least_area: float = 0.8,
) -> tf.data.Dataset:
    """Crops each image at random, back to its size, and mirrors every other.

    Args:
      ds: (image_index [B], images [B, S, S, 3] uint8).
      image_size: S.
      seed: of crops and mirroring, together with the step.
      first_step: number of the first minibatch.
      least_area: of a crop, as a share of the image, in (0, 1].

    Returns:
      elements as those of `ds`.
    """

    def crop(batch, step):
        index, images = batch
        size = tf.shape(images)[0]
        u = tf.random.stateless_uniform([4, size], tf.stack([seed, step]))
        side = tf.sqrt(least_area + (1.0 - least_area) * u[0])
        top, left = u[1] * (1.0 - side), u[2] * (1.0 - side)
        right = left + side
        # A box from right to left is a mirror image.
        mirror = u[3] < 0.5
        boxes = tf.stack(
            [
                top,
                tf.where(mirror, right, left),
                top + side,
                tf.where(mirror, left, right),
            ],
            1,
        )
        images = tf.image.crop_and_resize(
            images, boxes, tf.range(size), [image_size, image_size]
        )
        return index, tf.cast(tf.round(images), tf.uint8)

    steps = tf.data.Dataset.counter(first_step)
    return tf.data.Dataset.zip(ds, steps).map(
        crop, num_parallel_calls=tf.data.AUTOTUNE
    )


def training_batches(
    split: Split,
    labels: LabelTable,
    input_shape: tuple[int, ...],
    batch_size: int,
    seed: int,
    augment: bool = False,
    resizing: Resizing = SQUASHED,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Endless shuffled minibatches, each epoch in a new order.

    A minibatch is determined by seed and step alone.

    Args:
      split: of image or feature records.
      labels: observed labels of the run, which may hide some of the split's.
      input_shape: (S, S, 3) or (d,).
      batch_size: B.
      seed: of order and augmentation.
      augment: crop and mirror images at random.
      resizing: of images to S x S, before that.
      first_step: where to begin, in minibatches; what comes before is read,
        but not decoded.

    Returns:
      ({"inputs": [B, *input_shape], "image_index": [B] int32},
      labels [B, C] int8). An epoch is ceil(N / B) minibatches.
    """
    steps_per_epoch = math.ceil(sum(split.lengths) / batch_size)
    first_epoch, done = divmod(first_step, steps_per_epoch)

    def epoch(number):
        # Of this graph alone. A seed that is a tensor fails beside 0, and the
        # order is to depend on nothing but `seed`.
        tf.random.set_seed(1)
        skipped = tf.where(number == first_epoch, done * batch_size, 0)
        ds = numbered(split, seed + number).skip(tf.cast(skipped, tf.int64))
        return with_inputs(ds, input_shape, batch_size, resizing)

    ds = tf.data.Dataset.counter(first_epoch).flat_map(epoch)
    if augment:
        ds = augmented(ds, input_shape[0], seed, first_step)
    return ahead(with_labels(ds, labels))


def one_pass(
    split: Split,
    labels: LabelTable,
    input_shape: tuple[int, ...],
    batch_size: int,
    resizing: Resizing = SQUASHED,
) -> tf.data.Dataset:
    """Minibatches as those of training, once, in the order of the records."""
    ds = with_inputs(numbered(split), input_shape, batch_size, resizing)
    return ahead(with_labels(ds, labels))


def ahead(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the data set with its elements made ahead, on all cores."""
    options = tf.data.Options()
    # The tuner sleeps for up to a minute at a time, and what ends waits until
    # it wakes. Without it a map has a call for each core, 16 at most.
    options.autotune.enabled = False
    return ds.prefetch(tf.data.AUTOTUNE).with_options(options)


def load_inputs(
    split: Split,
    image_index: np.ndarray,
    input_shape: tuple[int, ...],
    resizing: Resizing = SQUASHED,
) -> np.ndarray:
    """Loads chosen images or features into memory, in one pass.

    Args:
      split: of image or feature records.
      image_index: [M] int, distinct.
      input_shape: (S, S, 3) or (d,).
      resizing: of images to S x S.

    Returns:
      [M, *input_shape] uint8 or float32.
    """
    ends = np.cumsum(split.lengths)
    files = np.unique(np.searchsorted(ends, image_index, side="right"))
    firsts = (ends - split.lengths)[files].astype(np.int64)
    position = np.full(ends[-1], -1)
    position[image_index] = np.arange(len(image_index))
    wanted = tf.constant(position >= 0)
    # Only the files that hold a wanted image are read.
    ds = tf.data.Dataset.from_tensor_slices(
        ([split.files[i] for i in files], firsts)
    ).flat_map(_read_numbered)
    ds = ds.filter(lambda index, _: tf.gather(wanted, index))
    dtype = np.uint8 if len(input_shape) == 3 else np.float32
    result = np.empty((len(image_index), *input_shape), dtype)
    ds = with_inputs(ds, input_shape, 256, resizing)
    for index, inputs in ds.prefetch(2):
        result[position[index.numpy()]] = inputs.numpy()
    return result
