"""Callbacks that count steps, of all workers, and passes over the data."""

from __future__ import annotations

import keras

from imcl_tf.methods.batches import TrainingData
from imcl_tf.ops import workers


def steps_taken(model: keras.Model) -> int:
    """Minibatches that a compiled model has been trained on."""
    # Not int(): under a strategy the variable is one of several copies.
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


class StepCallback(keras.callbacks.Callback):
    """Tracks the global step; after a resume it is `optimizer.iterations`."""

    def __init__(self):
        super().__init__()
        self.step = 0

    def on_train_begin(self, logs: dict | None = None):
        self.step = steps_taken(self.model)


class SameSteps(keras.callbacks.Callback):
    """Fails at the end of an epoch that is longer on another worker."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        workers.require_same_minibatch(workers.NO_MINIBATCH)


class EpochStart(StepCallback):
    """Calls `begin_epoch` before each pass over the training data.

    Args:
      data: training data. Where the length of a pass is not known, an epoch
        of Keras counts as one.
    """

    def __init__(self, data: TrainingData):
        super().__init__()
        self._data = data

    def on_epoch_begin(self, epoch: int, logs: dict | None = None):
        if not self._data.steps_per_epoch:
            self.model.begin_epoch(epoch, self._data)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None):
        if self._data.steps_per_epoch:
            epoch, within = divmod(self.step, self._data.steps_per_epoch)
            if within == 0:
                self.model.begin_epoch(epoch, self._data)
        self.step += 1
