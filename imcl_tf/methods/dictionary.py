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

from imcl_tf.methods.batches import TrainingData
from imcl_tf.methods.epochs import StepCallback
from imcl_tf.ops import workers
from imcl_tf.ops.labels import LabelTable

_PART = 256  # images


class Dictionary:
    """M training images with their stored features and label atoms.

    Worker r of n keeps the m entries r, r + n, ... (n = 1: m = M).

    Args:
      image_index: [M] int, numbers of the images in the training set, sorted
        and distinct.
      labels: observed labels of the training set.
      num_features: d.
      inputs: see `store_inputs`, which may also come later.

    Attributes:
      image_index: [M] int32, as given.
      own_index: [m] int32, those of this worker's entries.
      inputs: [m, H, W, 3] uint8 images or [m, d] float32 features, what the
        model's `fit` takes; None before `store_inputs`.
      is_filled: [] bool, whether features and atoms have been computed.
      features: [m, d] float16, f when last refreshed.
      label_atoms: [m, C] float16, A y when last refreshed.

    Raises:
      ValueError: if there are fewer entries than workers.

    Example:
      >>> import imcl_tf, numpy as np, scipy.sparse
      >>> from imcl_tf.ops.labels import LabelTable
      >>> labels = scipy.sparse.csr_array(np.eye(3, dtype=np.int8))
      >>> stored = imcl_tf.Dictionary(np.array([0, 2]), LabelTable(labels), 4)
      >>> stored.slots_of(np.array([2, 1])).numpy().tolist()
      [1, -1]
    """

    def __init__(
        self,
        image_index: np.ndarray,
        labels: LabelTable,
        num_features: int,
        inputs: np.ndarray | None = None,
    ):
        self._share = workers.current()
        if len(image_index) < self._share.number:
            raise ValueError(
                f"dictionary_size: {len(image_index)} images cannot be divided "
                f"among {self._share.number} workers"
            )
        self.image_index = tf.constant(image_index, tf.int32)
        self.own_index = self._share.rows(self.image_index)
        self.inputs: tf.Variable | None = None
        self.is_filled = tf.Variable(False, trainable=False)
        if inputs is not None:
            self.store_inputs(inputs)
        self._labels = labels
        slots = np.full(labels.num_images + 1, -1, np.int32)
        slots[image_index] = np.arange(len(image_index))
        self._slots = tf.constant(slots)
        # Half precision halves what a large dictionary takes. Everything that
        # is computed from it is computed in float32.
        self.features, self.label_atoms = (
            tf.Variable(
                tf.zeros([len(self.own_index), n], tf.float16), trainable=False
            )
            for n in (num_features, labels.num_labels)
        )

    @property
    def filled(self) -> bool:
        """Whether features and atoms have been computed."""
        return bool(self.is_filled.numpy())

    def store_inputs(self, inputs: np.ndarray):
        """Keeps what this worker's entries are computed from.

        Args:
          inputs: [m, H, W, 3] uint8 images or [m, d] float32 features.
        """
        # In host memory: a step reads few rows. Copied in chunks: converting
        # all at once takes three times the memory.
        with tf.device("CPU:0"):
            self.inputs = tf.Variable(
                tf.zeros(inputs.shape, inputs.dtype), trainable=False
            )
        for start in range(0, len(inputs), _PART):
            part = tf.constant(inputs[start : start + _PART])
            _store(self.inputs, start + tf.range(len(part)), part)

    def read(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns features [m, d] and label atoms [m, C], float16.

        Without a copy, which TensorFlow makes of a variable whose rows were
        written, whenever it is read.
        """
        variables = self.features, self.label_atoms
        if tf.distribute.in_cross_replica_context():  # all copies are equal
            variables = tuple(stored.values[0] for stored in variables)
        return tuple(stored.read_value_no_copy() for stored in variables)

    def state(self) -> dict[str, tf.Variable | Divided]:
        """Returns what is saved with a model's weights, by name."""
        return {
            "dictionary_features": self._whole(self.features),
            "dictionary_label_atoms": self._whole(self.label_atoms),
            "dictionary_filled": self.is_filled,
        }

    def _whole(self, own: tf.Variable) -> tf.Variable | Divided:
        return own if self._share.number == 1 else Divided(own, len(self))

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

    def own_slots(self, slots: np.ndarray | None = None) -> np.ndarray:
        """Those of some entries, None = all, that this worker keeps."""
        if slots is None:
            slots = np.arange(len(self))
        return slots[slots % self._share.number == self._share.index]

    def rows_of(
        self, slots: tf.Tensor, values: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Returns rows [n, d] float32 of entries `slots` [n] of all workers.

        Args:
          slots: [n] int32.
          values: rows [n] of this worker's entries -> [n, d].
        """
        if self._share.number == 1:
            return values(slots)
        is_own = slots % self._share.number == self._share.index
        found = values(tf.where(is_own, slots // self._share.number, 0))
        return workers.sum_of_parts(tf.where(is_own[:, tf.newaxis], found, 0.0))

    def refresh(self, encode: Callable, slots: tf.Tensor):
        """Stores features and atoms of some entries under the current model.

        Args:
          encode: (inputs [n, ...], labels [n, C]) -> features [n, d], label
            atoms [n, C].
          slots: [n] int32, distinct entries of this worker.
        """
        rows = slots // self._share.number
        encoded = encode(tf.gather(self.inputs, rows), self.labels(slots))
        for stored, new in zip(
            (self.features, self.label_atoms), encoded, strict=True
        ):
            _store(stored, rows, tf.saturate_cast(new, stored.dtype))


class Divided:
    """Rows that workers share, saved and loaded as if they were one variable.

    Args:
      own: [m, n], this worker's rows.
      size: M, of all workers.
    """

    def __init__(self, own: tf.Variable, size: int):
        self._own, self._size = own, size

    def numpy(self) -> np.ndarray:
        """Gathers all rows, [M, n]; every worker must call this."""
        parts = []
        step = _PART * workers.current().number
        for start in range(0, self._size, step):
            rows = self._own[start // step * _PART :][:_PART]
            size = min(step, self._size - start)
            part = workers.joined(tf.cast(rows, tf.float32), size)
            parts.append(tf.cast(part, self._own.dtype).numpy())
        return np.concatenate(parts)

    def assign(self, rows: np.ndarray):
        """Keeps this worker's of rows [M, n]."""
        self._own.assign(workers.current().rows(rows))


class DictionaryRefresh(StepCallback):
    """Fills a model's dictionary, then renews some of it after each step.

    Args:
      data: training data.
      number: images renewed in each step, in turn, >= 1; all if there are
        fewer.
    """

    def __init__(self, data: TrainingData, number: int):
        super().__init__()
        self._data, self._number = data, number

    def on_train_begin(self, logs: dict | None = None):
        super().on_train_begin(logs)
        self.model.begin_training(self._data)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        if self.model.dictionary is None:
            return
        size = len(self.model.dictionary)
        turn = self._number * self.step + np.arange(min(self._number, size))
        self.model.refresh_dictionary(turn % size)
        self.step += 1


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

    Example:
      >>> import imcl_tf, numpy as np, scipy.sparse
      >>> labels = scipy.sparse.csr_array(np.eye(5, dtype=np.int8))
      >>> imcl_tf.class_balanced_subset(labels, 2, seed=0).shape
      (2,)
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
    most_positives = np.diff(positives.indptr).max(initial=0)
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
        if target >= most_positives:
            rest = np.flatnonzero(~chosen)
            chosen[rest[: size - chosen.sum()]] = True
        target *= 2
    return np.sort(order[chosen])
