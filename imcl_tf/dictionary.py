"""The dictionary: candidate images beyond the minibatch.

A minibatch of a large set seldom contains similar images, so the released code
matches it against some training images whose features are stored and refreshed
now and then, here a few in each step. `--dictionary_size=0` is the paper's
text: the minibatch alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.labels import LabelTable

_PART = 256  # images


class Dictionary:
    """M training images with their stored features and label atoms.

    Args:
      image_index: [M] int, numbers of the images in the training set, sorted
        and distinct.
      inputs: array [M, H, W, 3] uint8 of images or [M, d] float32 of features:
        what the model's `fit` takes.
      labels: observed labels of the training set.
      num_features: d.

    Attributes:
      features: [M, d] float16, f when last refreshed.
      label_atoms: [M, C] float16, A y when last refreshed.
    """

    def __init__(
        self, image_index, inputs, labels: LabelTable, num_features: int
    ):
        size = len(image_index)
        self.image_index = tf.constant(image_index, tf.int32)
        # On the host, for a step needs few of them; and in parts, for to
        # convert them at once would take three times their memory.
        with tf.device("CPU:0"):
            self.inputs = tf.Variable(
                tf.zeros(inputs.shape, inputs.dtype), trainable=False
            )
        for start in range(0, size, _PART):
            part = tf.constant(inputs[start : start + _PART])
            _store(self.inputs, start + tf.range(len(part)), part)
        self._labels = labels
        slots = np.full(labels.num_images + 1, -1, np.int32)
        slots[image_index] = np.arange(size)
        self._slots = tf.constant(slots)
        # Half precision halves what a large dictionary takes. Everything that
        # is computed from it is computed in float32.
        self.features, self.label_atoms = (
            tf.Variable(tf.zeros([size, n], tf.float16), trainable=False)
            for n in (num_features, labels.num_labels)
        )

    def __len__(self):
        return self.image_index.shape[0]

    def slots_of(self, image_index: tf.Tensor) -> tf.Tensor:
        """Returns where images [B] stand in the dictionary, -1 = nowhere."""
        # The last entry stands for -1, an image of no number.
        return tf.gather(
            self._slots,
            tf.where(image_index < 0, self._labels.num_images, image_index),
        )

    def labels(self, slots: tf.Tensor) -> tf.Tensor:
        """Returns the observed labels [n, C] int8 of entries `slots` [n]."""
        return self._labels.rows(tf.gather(self.image_index, slots))

    def refresh(self, encode: Callable, slots: tf.Tensor):
        """Stores features and atoms of some entries under the current model.

        Args:
          encode: (inputs [n, ...], labels [n, C]) -> features [n, d], label
            atoms [n, C].
          slots: [n] int32, distinct entries.
        """
        encoded = encode(tf.gather(self.inputs, slots), self.labels(slots))
        for stored, rows in zip(
            (self.features, self.label_atoms), encoded, strict=True
        ):
            _store(stored, slots, tf.saturate_cast(rows, stored.dtype))


def _store(variable, slots, rows):
    """Writes rows to each copy that a strategy has of a variable."""
    tf.distribute.get_strategy().extended.update(
        variable, _write, (tf.IndexedSlices(rows, slots),)
    )


def _write(copy, rows):
    return copy.scatter_update(rows)


def class_balanced_subset(
    labels: scipy.sparse.csr_array,
    size: int,
    seed: int,
    positives_per_label: int = 10,
) -> np.ndarray:
    """Chooses training images so that rare labels are well represented.

    The released rule: rarest label first, each label gets about
    `positives_per_label` images that show it. Room that is left raises that
    number, and images without positives come last.

    Args:
      labels: [N, C] int8 csr_array, observed entries -1 or +1.
      size: M >= 1, images wanted; all N where M >= N.
      seed: of the choice.
      positives_per_label: images per label to aim for first.

    Returns:
      [min(M, N)] int64, sorted image numbers.

    Raises:
      ValueError: if `positives_per_label` is not positive.
    """
    if positives_per_label < 1:
        raise ValueError(
            f"positives_per_label must be >= 1, got {positives_per_label}"
        )
    num_images = labels.shape[0]
    if size >= num_images:
        return np.arange(num_images)
    order = np.random.default_rng(seed).permutation(num_images)
    # Columns of a permuted matrix list their images in random order.
    positives = scipy.sparse.csc_array(labels[order] > 0)
    positives.sort_indices()
    rows = scipy.sparse.csr_array(positives)
    rarest_first = np.argsort(np.diff(positives.indptr), kind="stable")
    chosen = np.zeros(num_images, bool)
    have = np.zeros(labels.shape[1], np.int64)
    most = np.diff(positives.indptr).max(initial=0)
    target = positives_per_label
    while chosen.sum() < size:
        for j in rarest_first:
            pool = positives.indices[
                positives.indptr[j] : positives.indptr[j + 1]
            ]
            wanted = min(target - have[j], size - chosen.sum())
            new = pool[~chosen[pool]][: max(wanted, 0)]
            chosen[new] = True
            have += np.bincount(rows[new].indices, minlength=len(have))
        if target >= most:
            rest = np.flatnonzero(~chosen)
            chosen[rest[: size - chosen.sum()]] = True
        target *= 2
    return np.sort(order[chosen])
