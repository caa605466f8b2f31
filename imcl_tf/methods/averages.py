"""Exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

# The average of n steps is of about the last n / _SHARE, while that is less
# than its decay says.
_SHARE = 9.0


class WeightAverage:
    """The moving average of some weights, and a place to exchange the two.

    After step n the average a becomes d a + (1 - d) v, where the decay d is
    min(`decay`, (n - 1) / (n + 8)): the first values of the weights v do not
    count, and a short training has an average too.

    Training changes the weights; what is evaluated, saved and exported is the
    average. Between epochs, and after training, the average stands in the
    weights' place and the weights wait here.

    Args:
      weights: of a model.
      decay: in [0, 1), per step.

    Example:
      >>> import keras
      >>> from imcl_tf.methods.averages import WeightAverage
      >>> weight = keras.Variable(1.0)
      >>> average = WeightAverage([weight], decay=0.5)
      >>> average.update()
      >>> weight.assign(3.0).numpy().item()
      3.0
      >>> average.update()  # d = 0.1
      >>> with average.in_place():
      ...     print(round(weight.numpy().item(), 4))
      2.8
      >>> weight.numpy().item()
      3.0
    """

    def __init__(self, weights: list[keras.Variable], decay: float):
        self._weights = weights
        self._decay = decay
        self._others = [
            tf.Variable(weight.value, trainable=False) for weight in weights
        ]
        self._updates = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._is_in_place = tf.Variable(False, trainable=False)
        self._step = tf.function(self._move, autograph=False)

    def state(self) -> dict[str, tf.Variable]:
        """What is saved with the weights, by name."""
        others = {f"average_{n}": other for n, other in enumerate(self._others)}
        return others | {
            "average_updates": self._updates,
            "average_in_place": self._is_in_place,
        }

    def update(self):
        """Moves the average towards the weights, after a training step."""
        self._step()

    def _move(self):
        done = tf.cast(self._updates, tf.float32)
        decay = tf.minimum(self._decay, done / (done + _SHARE))
        for weight, average in zip(self._weights, self._others, strict=True):
            kept = tf.cast(decay, average.dtype)
            # Not d a + (1 - d) v: where a = v it stays so to the last bit.
            average.assign(average + (1 - kept) * (weight.value - average))
        self._updates.assign_add(1)

    def put_in_place(self, wanted: bool = True):
        """Exchanges weights and average if they are not as wanted.

        Before the first step there is no average, and nothing happens.
        """
        if not self._updates.numpy() or self._is_in_place.numpy() == wanted:
            return
        for weight, other in zip(self._weights, self._others, strict=True):
            value = tf.identity(weight.value)
            weight.assign(other)
            other.assign(value)
        self._is_in_place.assign(wanted)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the weights are the average."""
        before = bool(self._is_in_place.numpy())
        self.put_in_place()
        try:
            yield
        finally:
            self.put_in_place(before)


class AverageWeights(keras.callbacks.Callback):
    """Keeps the average of a model up to date, and puts it in place.

    `fit` has it first, so that what later callbacks see after an epoch is the
    average.

    Args:
      average: of the model.
    """

    def __init__(self, average: WeightAverage):
        super().__init__()
        self._average = average

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        self._average.put_in_place(False)

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        if self.model.last_step.is_finite.numpy():
            self._average.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        self._average.put_in_place()
