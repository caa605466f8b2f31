"""Minibatches whose loss is not finite: training stops, or leaves them out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from imcl_tf.data.cells import listed
from imcl_tf.data.pipeline import Batches
from imcl_tf.data.records import from_bytes
from imcl_tf.methods.batches import TrainingData
from imcl_tf.methods.epochs import StepCallback

# So many in a row are no accident of a minibatch: the weights are at fault.
_MOST_IN_A_ROW = 10


class NonFiniteLossError(FloatingPointError):
    """A step would have led to weights that are not finite; none was made."""


class Skipped(NamedTuple):
    """A minibatch that was left out.

    Attributes:
      step: its number among all minibatches, from 1.
      images: names of its images, or their numbers where they have no name;
        none where they have no number either.
    """

    step: int
    images: list[str]


class LastStep:
    """What became of the last step, kept where the step is computed.

    Attributes:
      is_finite: [] bool, see the function of that name; else no step was made.
      image_index: [B] int32, the images of its minibatch.
    """

    def __init__(self):
        # Each device notes the same.
        copies = {
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        self.is_finite = tf.Variable(True, **copies)
        self.image_index = tf.Variable(
            tf.zeros([0], tf.int32), shape=[None], **copies
        )

    def note(self, is_finite: tf.Tensor, image_index: tf.Tensor):
        """Takes note of a step, within it."""
        self.is_finite.assign(is_finite)
        self.image_index.assign(image_index)


def is_finite(
    loss: tf.Tensor, gradients: list[tf.Tensor | tf.IndexedSlices | None]
) -> tf.Tensor:
    """Whether a loss and the squares of its gradients are finite, [] bool.

    The squares, for optimizers add them up: infinite ones would stop them for
    good. On several devices the answer is that of all of them together.
    """
    norm = tf.linalg.global_norm([g for g in gradients if g is not None])
    finite = tf.math.is_finite(loss + tf.cast(norm, loss.dtype))
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return finite
    others = tf.cast(~finite, tf.int32)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, others) == 0


class FiniteLoss(StepCallback):
    """Acts on a step that was not made: stops training, or names the images.

    Args:
      data: training data, which know the images' names.

    Attributes:
      skipped: the minibatches that were left out.
    """

    def __init__(self, data: TrainingData):
        super().__init__()
        self._data = data
        self._in_a_row = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None):
        self.step += 1
        last = self.model.last_step
        if last.is_finite.numpy():
            self._in_a_row = 0
            return
        self._in_a_row += 1
        skipped = Skipped(
            self.step, names_of(self._data, last.image_index.numpy())
        )
        if self.model.on_nan == "stop":
            raise NonFiniteLossError(
                f"training diverged: {_what(skipped)}; lower the learning "
                "rates, or leave such minibatches out (on_nan=skip)"
            )
        if self._in_a_row > _MOST_IN_A_ROW:
            raise NonFiniteLossError(
                f"training diverged: {_what(skipped)}, like those of the "
                f"{_MOST_IN_A_ROW} steps before; lower the learning rates"
            )
        logging.warning("left out: %s", _what(skipped))
        self.model.skipped.append(skipped)


def _what(skipped: Skipped) -> str:
    images = listed(skipped.images) if skipped.images else "not numbered"
    return (
        f"the loss of step {skipped.step}, or its gradient, is not finite "
        f"(images: {images})"
    )


def names_of(data: TrainingData, image_index: np.ndarray) -> list[str]:
    """Names of images [B]; their numbers where the data name none."""
    known = image_index[image_index >= 0]
    if isinstance(data, Batches) and data.split.image_ids.size:
        return [*from_bytes(data.split.image_ids[known])]
    return [str(number) for number in known.tolist()]
