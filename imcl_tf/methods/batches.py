"""Minibatches of partial labels, and where a method gets them from."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from imcl_tf.data.pipeline import Batches
from imcl_tf.data.tensors import TensorBatches
from imcl_tf.ops import workers

TrainingData = Batches | TensorBatches
# Arguments of Keras that would change what a method minimises or reports.
KERAS_ARGUMENTS = {
    "loss": "the loss is the method's own",
    "loss_weights": "the loss is the method's own",
    "metrics": "use imcl_tf.AveragePrecision, which skips unobserved labels",
    "weighted_metrics": "sample weights do not enter the losses",
    "sample_weight": "sample weights do not enter the losses",
    "class_weight": "labels are weighted by the method",
    "validation_split": "give validation_data",
    "callbacks": "an evaluation calls none",
}


def refuse(**arguments):
    """Raises ValueError for the first Keras argument that is given.

    Args:
      **arguments: of `compile` or `fit`, name -> value; what is empty or 0
        is not given.
    """
    for name, value in arguments.items():
        if value is not None and not _is_empty(value):
            raise ValueError(
                f"{name} cannot be honoured: {KERAS_ARGUMENTS[name]}"
            )


def _is_empty(value) -> bool:
    return isinstance(value, (int, float, list, tuple, dict)) and not value


class Batch(NamedTuple):
    """A minibatch.

    Attributes:
      inputs: [B, H, W, 3] uint8 or float images in [0, 255], or [B, d] float
        features; of several workers the share of one, see `whole_minibatch`.
      labels: [B, C] int8 in {-1, 0, +1}, 0 = unobserved.
      image_index: [B] int32, number of the image in the training set, -1 where
        it is not a training image.

    Example:
      >>> import imcl_tf, numpy as np
      >>> batch = imcl_tf.Batch.unpack((np.zeros((2, 3)), np.ones((2, 4))))
      >>> batch.image_index.numpy().tolist()  # images of no number
      [-1, -1]
    """

    inputs: tf.Tensor
    labels: tf.Tensor
    image_index: tf.Tensor

    @classmethod
    def unpack(cls, data: tuple) -> Batch:
        """From (inputs, labels); inputs may be a dict with `image_index`.

        A worker takes its share of inputs that are those of all images.
        """
        inputs, labels, *weights = data
        refuse(sample_weight=next(iter(weights), None))
        size = tf.shape(labels)[0]
        if isinstance(inputs, dict):
            index = tf.cast(inputs["image_index"], tf.int32)
            inputs = inputs["inputs"]
        else:
            index = tf.fill([size], -1)
        return cls(workers.current().own(inputs, size), labels, index)

    def spec(self) -> Batch:
        """TensorSpecs of minibatches like this one, of any size."""
        return Batch(
            *(tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in self)
        )


def whole_minibatch(
    features: tf.Tensor, batch: Batch
) -> tuple[tf.Tensor, Batch]:
    """Gathers a minibatch that is divided among devices or workers.

    The CNN sees a share. All that comes after the features sees the whole
    minibatch, on each device and worker: sums, counts, candidates and
    pseudo-labels are then those of one device, for any loss.

    Args:
      features: [b, ...] float32, of the share; b may be 0.
      batch: the share; of a worker its labels and image_index are those of
        the whole minibatch.

    Returns:
      features [B, ...], and a `Batch` with labels and image_index of all B
      images; its `inputs` are still those of the share.
    """
    if workers.current().number > 1:
        size = tf.shape(batch.labels)[0]
        # Before anything whose size is that of the minibatch is exchanged.
        is_same = workers.require_same_minibatch(_fingerprint(batch))
        with tf.control_dependencies([] if is_same is None else [is_same]):
            features = workers.joined(features, size)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return features, batch
    # Collectives have no int8.
    labels = context.all_gather(tf.cast(batch.labels, tf.int32), 0)
    return context.all_gather(features, 0), batch._replace(
        labels=tf.cast(labels, batch.labels.dtype),
        image_index=context.all_gather(batch.image_index, 0),
    )


def _fingerprint(batch: Batch) -> tf.Tensor:
    """[] int64 >= 0, another one of other labels, images or another size."""
    labels = tf.cast(batch.labels, tf.int64)
    size, number = tf.unstack(tf.shape(labels, tf.int64))
    place = tf.reshape(tf.range(size * number), [size, number])
    of_labels = tf.reduce_sum(labels * (1 + place % 251))
    images = tf.cast(batch.image_index, tf.int64) % 8191
    of_images = tf.reduce_sum(images * (1 + tf.range(size)))
    return (of_labels + of_images) % 2**40


def require_numbers(data: TrainingData, what: str):
    """Raises ValueError if the training data do not number their images."""
    if isinstance(data, TensorBatches) and not data.numbered:
        raise ValueError(
            f"{what} needs the number of each training image: give "
            '({"inputs": ..., "image_index": ...}, labels), or Split.batches'
        )


def identity(data: TrainingData) -> object:
    """What two views of the same training labels have in common."""
    return data.labels if isinstance(data, Batches) else data.dataset
