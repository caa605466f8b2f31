"""TFRecords -> minibatches: a chain of small steps from dataset to dataset."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.backbones.pictures import SQUASHED, Resizing
from imcl_tf.data import records
from imcl_tf.data.pixels import (
    AUGMENTATIONS,
    Augmentation,
    Crop,
    decode_and_resize,
    random_crop,
    recoloured,
)
from imcl_tf.ops import workers
from imcl_tf.ops.labels import LabelTable
from imcl_tf.ops.workers import ALONE, Workers

_SHUFFLE_BUFFER = 10_000
_PARALLEL_FILES = 16
_THUMBNAIL = (64, 64, 3)
# The steps of a chain are TensorFlow alone. AutoGraph, which tf.data runs over
# each of them, takes longer than to trace them, and leaves files behind.
without_autograph = tf.autograph.experimental.do_not_convert


class Split(NamedTuple):
    """Records of one split.

    Attributes:
      files: TFRecord files, in order.
      lengths: number of records of each file.
      labels: [N, C] int8 csr_array, observed labels of the records in order;
        a row's number is the image's `image_index`.
      classes: [N] int32, the images' classes; [0] where they have none.
      label_names: C names.
      num_features: d of feature records, 0 = records of pictures.
      pictures: of feature records, those of the pictures they came from;
        None where the features came from a file.
      image_ids: [N] bytes, the images' names; [0] where they are not known.
      digest: of the pictures' records, "" = not known.

    Example:
      >>> import imcl_tf
      >>> train = imcl_tf.load_dataset("folder", "pictures").train
      >>> train.labels.shape == (sum(train.lengths), len(train.label_names))
      True
    """

    files: tuple[str, ...]
    lengths: tuple[int, ...]
    labels: scipy.sparse.csr_array
    classes: np.ndarray
    label_names: tuple[str, ...]
    num_features: int = 0
    pictures: Split | None = None
    image_ids: np.ndarray = np.zeros(0, bytes)
    digest: str = ""

    def batches(
        self,
        batch_size: int = 32,
        *,
        seed: int = 0,
        augment: bool = True,
        augment_level: str = "light",
    ) -> Batches:
        """The split in minibatches, for `MultiLabelModel.fit`.

        Args:
          batch_size: B >= 1; all images are one minibatch if they are fewer.
          seed: of the order and of the augmentation.
          augment: change pictures at random.
          augment_level: how, a name of `imcl_tf.data.pixels.AUGMENTATIONS`.

        Returns:
          `Batches` of a size that the model fitted to them decides.

        Raises:
          ValueError: if `batch_size` is no positive whole number, or
            `augment_level` no such name.
        """
        if augment_level not in AUGMENTATIONS:
            raise ValueError(
                f"augment_level must be one of {', '.join(AUGMENTATIONS)}, "
                f"got {augment_level!r}"
            )
        if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
            raise ValueError(
                f"batch_size must be a whole number >= 1, got {batch_size!r}"
            )
        # TensorFlow reserves memory for as many images as it is asked for.
        size = min(int(batch_size), max(1, sum(self.lengths)))
        shape = (self.num_features,) if self.num_features else ()
        return Batches(self, size, seed, augment, augment_level, shape)


@dataclasses.dataclass(frozen=True)
class Batches:
    """A split as minibatches, of pictures of one size or of features.

    Attributes:
      split: the records.
      batch_size: B.
      seed: of the order and of the augmentation.
      augment: change pictures at random.
      augment_level: how, a name of `imcl_tf.data.pixels.AUGMENTATIONS`.
      input_shape: (S, S, 3), or (d,) of features; () = not decided yet.
      resizing: of pictures to S x S.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> batches = data.train.batches(4, augment=False)
      >>> images = batches.sized(32, imcl_tf.picture_format(
      ...     imcl_tf.backbone("small_cnn")).resizing)
      >>> inputs, labels = next(iter(images.one_pass()))
      >>> inputs["inputs"].shape[1:].as_list()
      [32, 32, 3]
    """

    split: Split
    batch_size: int
    seed: int = 0
    augment: bool = True
    augment_level: str = "light"
    input_shape: tuple[int, ...] = ()
    resizing: Resizing = SQUASHED

    def sized(self, image_size: int, resizing: Resizing) -> Batches:
        """The same minibatches, with pictures of S x S pixels."""
        shape: tuple[int, ...] = (image_size, image_size, 3)
        if self.split.num_features:
            shape = (self.split.num_features,)
        return dataclasses.replace(self, input_shape=shape, resizing=resizing)

    def of_split(self, split: Split) -> Batches:
        """The same minibatches of other records of the same images."""
        shape = self.input_shape
        if split.num_features:
            shape = (split.num_features,)
        return dataclasses.replace(self, split=split, input_shape=shape)

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in a pass over the split."""
        return math.ceil(sum(self.split.lengths) / self.batch_size)

    numbered = True  # records have an `image_index`

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to show."""
        return self.split.pictures is not None or not self.split.num_features

    @property
    def labels(self) -> scipy.sparse.csr_array:
        """[N, C] int8, the observed labels."""
        return self.split.labels

    @property
    def classes(self) -> np.ndarray:
        """[N] int32, the images' classes; [0] where they have none."""
        return self.split.classes

    @property
    def label_names(self) -> tuple[str, ...]:
        """C names."""
        return self.split.label_names

    @functools.cached_property
    def label_table(self) -> LabelTable:
        """The observed labels in TensorFlow."""
        return LabelTable(self.labels)

    def thumbnails(self, image_index: np.ndarray) -> np.ndarray:
        """Small pictures [n, 64, 64, 3] uint8 of images [n] int, distinct."""
        return load_inputs(
            self.split.pictures or self.split, image_index, _THUMBNAIL
        )

    def training(self, first_step: int = 0) -> tf.data.Dataset:
        """Endless shuffled minibatches, see `training_batches`."""
        augmented = self.augment and len(self.input_shape) == 3
        return training_batches(
            self.split, self.label_table, self.input_shape,
            self.batch_size, self.seed,
            AUGMENTATIONS[self.augment_level] if augmented else None,
            self.resizing, first_step, workers.current(),
        )  # fmt: skip

    def one_pass(self) -> tf.data.Dataset:
        """Minibatches as those of training, once, in the records' order."""
        return one_pass(
            self.split, self.label_table, self.input_shape,
            self.batch_size, self.resizing, workers.current(),
        )  # fmt: skip

    def load_inputs(self, image_index: np.ndarray) -> np.ndarray:
        """Chosen pictures or features, see `load_inputs`."""
        return load_inputs(
            self.split, image_index, self.input_shape, self.resizing
        )


def indexed_records(
    split: Split, shuffle_seed: int | None = None
) -> tf.data.Dataset:
    """(image_index [] int32, record [] string), shuffled anew each epoch."""
    firsts = np.cumsum([0, *split.lengths[:-1]]).astype(np.int64)
    files = tf.data.Dataset.from_tensor_slices((list(split.files), firsts))
    if shuffle_seed is None:
        return files.flat_map(_read_indexed)
    ds = files.shuffle(len(split.files), shuffle_seed).interleave(
        _read_indexed,
        cycle_length=_PARALLEL_FILES,
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return ds.shuffle(_SHUFFLE_BUFFER, shuffle_seed)


def _read_indexed(file, first):
    # Not enumerate, whose int64 would take a call for each record to convert.
    numbers = tf.data.Dataset.range(first, tf.int32.max, output_type=tf.int32)
    return tf.data.Dataset.zip(numbers, tf.data.TFRecordDataset(file))


def with_inputs(
    ds: tf.data.Dataset,
    input_shape: tuple[int, ...],
    batch_size: int,
    resizing: Resizing = SQUASHED,
    crop_of: Callable[[tf.Tensor], Crop] | None = None,
    share: Workers = ALONE,
) -> tf.data.Dataset:
    """Numbered records -> (image_index [B], inputs [b, *input_shape]).

    Args:
      ds: of `indexed_records`.
      input_shape: (S, S, 3) for image records, (d,) for feature records.
      batch_size: B; the last minibatch may be smaller.
      resizing: of images to S x S.
      crop_of: what to show of the image that is element n [] int64 of `ds`;
        None = all of it.
      share: whose b rows of a minibatch are decoded.

    Returns:
      uint8 images or float32 features.
    """
    if len(input_shape) == 1:
        # Feature records parse faster a batch at a time.
        return ds.batch(batch_size).map(
            lambda i, r: (
                i,
                records.decode_features(share.rows(r), input_shape[0]),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def decode(number, record):
        _, encoded = records.decode_image(record)
        crop = crop_of(number) if crop_of else None
        return decode_and_resize(encoded, input_shape[0], resizing, crop)

    def decode_own(number, numbered):
        index, record = numbered
        if share.number == 1:
            return index, decode(number, record)
        # What is of other workers stays black, and is dropped below.
        return index, tf.cond(
            number % batch_size % share.number == share.index,
            lambda: decode(number, record),
            lambda: tf.zeros(input_shape, tf.uint8),
        )

    ds = ds.enumerate().map(decode_own, num_parallel_calls=tf.data.AUTOTUNE)
    ds = ds.batch(batch_size)
    if share.number == 1:
        return ds
    return ds.map(lambda index, images: (index, share.rows(images)))


def with_labels(ds: tf.data.Dataset, labels: LabelTable) -> tf.data.Dataset:
    """Adds labels: (image_index, inputs) -> ({...}, labels [B, C] int8)."""
    return ds.map(
        lambda index, inputs: (
            {"inputs": inputs, "image_index": index},
            labels.rows(index),
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


@without_autograph
def training_batches(
    split: Split,
    labels: LabelTable,
    input_shape: tuple[int, ...],
    batch_size: int,
    seed: int,
    augmentation: Augmentation | None = None,
    resizing: Resizing = SQUASHED,
    first_step: int = 0,
    share: Workers = ALONE,
) -> tf.data.Dataset:
    """Endless shuffled minibatches, each epoch in a new order.

    A minibatch is determined by seed and step alone.

    Args:
      split: of image or feature records.
      labels: observed labels of the run, which may hide some of the split's.
      input_shape: (S, S, 3) or (d,).
      batch_size: B.
      seed: of order and augmentation.
      augmentation: random changes of the images, None = none.
      resizing: of images to S x S, before that.
      first_step: where to begin, in minibatches; what comes before is read,
        but not decoded.
      share: whose b rows of a minibatch are decoded; all are read.

    Returns:
      ({"inputs": [b, *input_shape], "image_index": [B] int32},
      labels [B, C] int8). An epoch is ceil(N / B) minibatches.
    """
    steps_per_epoch = math.ceil(sum(split.lengths) / batch_size)
    first_epoch, done = divmod(first_step, steps_per_epoch)

    def epoch(number):
        # This graph's seed: one that is a tensor fails beside 0, and the order
        # must depend on nothing but `seed` and the epoch.
        tf.random.set_seed(1)
        skipped = tf.where(number == first_epoch, done * batch_size, 0)
        # Not seed + number: epoch 1 of seed 0 would be epoch 0 of seed 1. Nor
        # (seed, number), for augmentation draws from (seed, step).
        folded = tf.random.stateless_uniform(
            [], tf.stack([seed, -1 - number]), None, None, tf.int64
        )
        ds = indexed_records(split, folded)
        skipped = tf.cast(skipped, tf.int64)
        ds = ds.skip(skipped)

        def crop_of(image):
            step, place = (skipped + image) // batch_size, image % batch_size
            step += number * steps_per_epoch
            return random_crop(
                tf.stack([seed, step]), place, augmentation.minimum_area
            )

        return with_inputs(
            ds, input_shape, batch_size, resizing,
            crop_of if augmentation else None, share,
        )  # fmt: skip

    ds = tf.data.Dataset.counter(first_epoch).flat_map(epoch)
    if augmentation:
        ds = recoloured(ds, seed, first_step, augmentation, share)
    return prefetched(with_labels(ds, labels))


@without_autograph
def one_pass(
    split: Split,
    labels: LabelTable,
    input_shape: tuple[int, ...],
    batch_size: int,
    resizing: Resizing = SQUASHED,
    share: Workers = ALONE,
) -> tf.data.Dataset:
    """Minibatches as those of training, once, in the order of the records."""
    ds = with_inputs(
        indexed_records(split), input_shape, batch_size, resizing, share=share
    )
    return prefetched(with_labels(ds, labels))


def prefetched(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the data set with its elements made ahead, on all cores."""
    options = tf.data.Options()
    # The tuner sleeps for up to a minute at a time, and what ends waits until
    # it wakes. Without it a map has a call for each core, 16 at most.
    options.autotune.enabled = False
    return ds.prefetch(tf.data.AUTOTUNE).with_options(options)


@without_autograph
def chosen_records(split: Split, image_index: np.ndarray) -> tf.data.Dataset:
    """(image_index [] int32, record [] string) of images [M] int, distinct.

    In the order of the records; only the files that hold one are read.
    """
    ends = np.cumsum(split.lengths)
    files = np.unique(np.searchsorted(ends, image_index, side="right"))
    firsts = (ends - split.lengths)[files].astype(np.int64)
    is_wanted = np.zeros(ends[-1], bool)
    is_wanted[image_index] = True
    wanted = tf.constant(is_wanted)
    ds = tf.data.Dataset.from_tensor_slices(
        ([split.files[i] for i in files], firsts)
    ).flat_map(_read_indexed)
    return ds.filter(lambda index, _: tf.gather(wanted, index))


@without_autograph
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
    position = np.full(sum(split.lengths), -1)
    position[image_index] = np.arange(len(image_index))
    ds = chosen_records(split, image_index)
    dtype = np.uint8 if len(input_shape) == 3 else np.float32
    result = np.empty((len(image_index), *input_shape), dtype)
    ds = with_inputs(ds, input_shape, 256, resizing)
    for index, inputs in ds.prefetch(2):
        result[position[index.numpy()]] = inputs.numpy()
    return result
