"""A user's own minibatches, a tf.data.Dataset, as training data of a method."""

from __future__ import annotations

import functools
from typing import cast

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.pipeline import without_autograph
from imcl_tf.ops.labels import LabelTable

WRONG_VALUE = "labels must be -1, 0 or 1"
_THUMBNAIL = (64, 64)
_SPARSEST = 100  # numbers for each image: tables have a row for every number


def _check_labels_spec(labels: tf.TensorSpec, num_labels: int):
    """Raises ValueError for labels that are not [B, C] signed integers."""
    shape = labels.shape
    if shape.rank != 2 or shape[1] not in (None, num_labels):
        raise ValueError(
            f"labels must be [B, {num_labels}], one column for each label of "
            f"the model, got {shape}"
        )
    if not labels.dtype.is_integer or labels.dtype.is_unsigned:
        raise ValueError(
            "labels must be signed integers -1, 0 or 1, got "
            f"{labels.dtype.name}: imcl_tf.check_labels makes int8 of arrays"
        )


@without_autograph
def _check_values(inputs, labels):
    known = tf.reduce_all((labels >= -1) & (labels <= 1))
    wrong = tf.debugging.Assert(known, [WRONG_VALUE, labels])
    with tf.control_dependencies([wrong]):
        return inputs, tf.cast(labels, tf.int8)


class TensorBatches:
    """Minibatches of a tf.data.Dataset with what methods ask of them.

    Nothing is read before it is asked for; `labels` and `load_inputs` then
    take one pass over the data set each.

    Args:
      dataset: of (inputs [B, ...], labels [B, C] int8), or with the dictionary
        {"inputs": ..., "image_index": [B] int} in the place of the inputs,
        which numbers the images 0, 1, ... of the training set.
      num_labels: C of the model; None = as many as the labels have columns.

    Attributes:
      dataset: as given.
      numbered: whether images have an `image_index`.
      has_pictures: whether they are numbered pictures.
      steps_per_epoch: minibatches of one pass, 0 = not known.

    Raises:
      ValueError: if the elements are of another form, or there are none.
    """

    seed = 0

    def __init__(self, dataset: tf.data.Dataset, num_labels: int | None = None):
        spec = dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) != 2:
            parts = len(spec) if isinstance(spec, tuple) else 1
            raise ValueError(
                "training data must be (inputs, labels), got elements of "
                f"{parts} parts; sample weights cannot be honoured"
            )
        self.dataset = dataset
        inputs, labels = spec
        self.numbered = isinstance(inputs, dict)
        if self.numbered and set(inputs) != {"inputs", "image_index"}:
            raise ValueError(
                "the inputs' dictionary must hold inputs and image_index, got "
                f"{', '.join(sorted(inputs))}"
            )
        if self.numbered and not inputs["image_index"].dtype.is_integer:
            raise ValueError(
                "image_index must be integers, got "
                f"{inputs['image_index'].dtype.name}"
            )
        self._num_labels = num_labels or labels.shape[-1]
        _check_labels_spec(labels, self._num_labels)
        values = inputs["inputs"] if self.numbered else inputs
        if not values.shape.rank or not values.shape[1:].is_fully_defined():
            raise ValueError(
                "the inputs must be [B, ...] of known shape but for B, got "
                f"{values.shape}: batch the data, or set the shapes"
            )
        self.input_shape = tuple(values.shape[1:])
        # What can be drawn: numbered pictures.
        self.has_pictures = self.numbered and len(self.input_shape) == 3
        size = dataset.cardinality().numpy()
        if not size:
            raise ValueError("the training data are empty")
        self._endless = size == tf.data.INFINITE_CARDINALITY
        self.steps_per_epoch = max(int(size), 0)
        self.classes = np.zeros(0, np.int32)

    @functools.cached_property
    def labels(self) -> scipy.sparse.csr_array:
        """[N, C] int8, observed labels; a row's number is `image_index`.

        Rows are in the order of the data set where it does not number them.

        Raises:
          ValueError: if two images with different labels have one number, or
            the numbers are not about as many as the images.
        """
        rows, parts = [], []
        for inputs, labels in self.one_pass():
            if self.numbered:
                rows.append(inputs["image_index"].numpy())
            parts.append(scipy.sparse.csr_array(labels.numpy()))
        if not parts:
            raise ValueError("the training data are empty")
        labels = scipy.sparse.vstack(parts, format="csr")
        if not self.numbered:
            return labels
        numbers = np.concatenate(rows)
        number, first, place = np.unique(
            numbers, return_index=True, return_inverse=True
        )
        images = labels.shape[0]
        # An image may come twice in a pass, but not with other labels.
        other = (labels != labels[first][place]).tocoo()
        if other.nnz:
            raise ValueError(
                f"image_index {numbers[other.row[0]]} is that of two images "
                "with different labels"
            )
        if number[0] < 0 or number[-1] >= max(_SPARSEST * images, 1000):
            raise ValueError(
                f"image_index must number the {images} training images from 0 "
                f"on, got numbers from {number[0]} to {number[-1]}"
            )
        source = np.full(number[-1] + 1, labels.shape[0])
        source[number] = first
        nothing = scipy.sparse.csr_array((1, labels.shape[1]), dtype=np.int8)
        return scipy.sparse.vstack([labels, nothing], format="csr")[source]

    @functools.cached_property
    def label_table(self) -> LabelTable:
        """The observed labels in TensorFlow."""
        return LabelTable(self.labels)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels' numbers: a tf.data.Dataset has no names."""
        return tuple(map(str, range(self._num_labels)))

    def training(self) -> tf.data.Dataset:
        """The data set with int8 labels, whose values are checked on the way.

        A wrong value ends training with tf.errors.InvalidArgumentError.
        """
        return self.dataset.map(_check_values)

    def one_pass(self) -> tf.data.Dataset:
        """As `training`, once.

        Raises:
          ValueError: if the data set is endless.
        """
        if self._endless:
            raise ValueError(
                "the training data are endless, but a pass over all images is "
                "needed: give a finite tf.data.Dataset, or Split.batches"
            )
        return self.training()

    def load_inputs(self, image_index: np.ndarray) -> np.ndarray:
        """Loads chosen images or features into memory, in one pass.

        Args:
          image_index: [M] int, distinct.

        Returns:
          [M, ...] in the data set's dtype.
        """
        place = np.full(self.labels.shape[0], -1)
        place[image_index] = np.arange(len(image_index))
        result: np.ndarray | None = None
        for inputs, _ in self.one_pass():
            values = inputs["inputs"].numpy()
            if result is None:
                result = np.zeros(
                    (len(image_index), *values.shape[1:]), values.dtype
                )
            at = place[inputs["image_index"].numpy()]
            result[at[at >= 0]] = values[at >= 0]
        return cast(np.ndarray, result)

    def thumbnails(self, image_index: np.ndarray) -> np.ndarray:
        """Small pictures [n, 64, 64, 3] uint8 of images [n] int, distinct."""
        pictures = tf.image.resize(self.load_inputs(image_index), _THUMBNAIL)
        return tf.saturate_cast(pictures, tf.uint8).numpy()
