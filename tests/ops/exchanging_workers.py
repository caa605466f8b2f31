"""Exchanges of several workers, compared with what NumPy makes of the parts.

    python -m tests.ops.exchanging_workers

TF_CONFIG says which worker this process is; all must be started.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.batches import Batch, whole_minibatch
from imcl_tf.ops import workers


def of_worker(index, shape=(4, 3)):
    return np.random.default_rng(index).normal(size=shape).astype(np.float32)


def sums(own, number):
    total = sum(of_worker(index) for index in range(number))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(own)
        both = workers.all_sum(own), workers.sum_of_parts(own)
        # Each worker goes on with all_sum in its own way, with the sum of
        # parts as all do, and has 1/n of the loss.
        scale = 1.0 + workers.current().index
        losses = (
            tf.reduce_sum(scale * both[0] ** 2),
            tf.reduce_sum(both[1] ** 2),
        )
        losses = losses[0], losses[1] / number
    for one in both:
        np.testing.assert_allclose(one, total, rtol=1e-6)
    scales = number * (number + 1) / 2
    np.testing.assert_allclose(
        tape.gradient(losses[0], own), 2 * scales * total, rtol=1e-5
    )
    np.testing.assert_allclose(
        tape.gradient(losses[1], own), 2 * total, rtol=1e-5
    )


def minibatches(share):
    """Rows come back in their order, also where a worker has none."""
    for size in (1, 2, 7):
        rows = of_worker(size, (size, 5, 2))
        own = share.own(rows, size)
        np.testing.assert_array_equal(own, rows[share.index :: share.number])
        np.testing.assert_array_equal(share.own(own, size), own)
        np.testing.assert_array_equal(
            workers.joined(own, tf.constant(size)), rows
        )


def state(share):
    values = np.int32(5), True, np.float32(1.5), np.float16(0.5)
    variables = [tf.Variable(value) for value in values]
    for variable in variables:
        if share.index:
            variable.assign(tf.zeros_like(variable))
    workers.same_as_first(variables)
    for variable, value in zip(variables, values, strict=True):
        assert variable.numpy() == value


def refusals(share):
    workers.require_same("equal", "differs")
    try:
        workers.require_same(str(share.index == 1), "has another text")
    except ValueError as error:
        assert str(error) == "strategy: worker 1 has another text"
    else:
        raise AssertionError("other texts are not refused")
    labels = np.ones((4, 3), np.int8)
    inputs = share.rows(tf.constant(of_worker(0)))
    batch = Batch(inputs, tf.constant(labels), tf.range(4))
    whole_minibatch(inputs, batch)
    for others in (
        batch._replace(labels=-batch.labels),
        batch._replace(image_index=-batch.image_index),
        # Fewer images, and fewer than two for each worker.
        Batch(inputs[:1], batch.labels[:1], batch.image_index[:1]),
    ):
        own = others if share.index else batch
        try:
            whole_minibatch(own.inputs, own)
        except tf.errors.InvalidArgumentError as error:
            assert workers.OTHERS in str(error)
        else:
            raise AssertionError(f"not noticed: {others}")


def lengths(share):
    """The first worker has a minibatch more than the others, or another."""
    rows = of_worker(0, (12, 3))
    labels = np.sign(of_worker(1, (12, 2))).astype(np.int8)
    data = tf.data.Dataset.from_tensor_slices((rows, labels)).batch(4)
    model = imcl_tf.MultiLabelModel(keras.Sequential([keras.Input((3,))]), 2)
    model.compile("sgd")
    try:
        model.train_on_batch(rows, labels)
    except ValueError as error:
        assert "begin with fit" in str(error)
    else:
        raise AssertionError("weights of their own: not noticed")
    model.fit(data, validation_data=data, verbose=0)
    model.train_on_batch(rows, labels)
    try:
        model.train_on_batch(rows, -labels if share.index else labels)
    except ValueError as error:
        assert str(error) == workers.OTHERS
    else:
        raise AssertionError("other labels: not noticed")
    for validation in (None, data):
        try:
            model.fit(
                data.take(3 if share.index == 0 else 2),
                validation_data=validation, verbose=0,
            )  # fmt: skip
        except ValueError as error:
            assert str(error) == workers.OTHERS
        else:
            raise AssertionError("another length: not noticed")


def dropout(share):
    """Each worker leaves out other features; the rest of the model is equal."""
    keras.utils.set_random_seed(share.index)  # they begin differently
    backbone = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5)])
    model = imcl_tf.MultiLabelModel(backbone, 3)
    model.compile("sgd")
    rows = np.ones((2 * share.number, 64), np.float32)
    labels = np.ones((2 * share.number, 3), np.int8)
    data = tf.data.Dataset.from_tensor_slices((rows, labels))
    model.fit(data.batch(len(rows)), verbose=0)
    (generator,) = backbone.layers[-1]._seed_generators
    seeds = np.zeros([share.number, 2], np.int64)
    seeds[share.index] = generator.state.numpy()
    seeds = workers.all_sum(tf.constant(seeds)).numpy()
    assert (seeds - seeds[0] == [[i, 0] for i in range(share.number)]).all()
    for weight in model.classifier.weights:
        mean = workers.all_sum(weight.value) / share.number
        np.testing.assert_allclose(weight, mean, rtol=1e-6)


def threads():
    """None is kept for an exchange."""
    step = tf.function(lambda: workers.all_sum(tf.ones([9])))
    counts = []
    for _ in range(2):
        for _ in range(200):
            step()
        status = Path("/proc/self/status").read_text()
        counts.append(int(status.split("Threads:")[1].split()[0]))
    assert counts[1] - counts[0] < 100, counts


def main():
    share = workers.start()
    number = share.number
    workers.wait_for_all()
    sums(tf.constant(of_worker(share.index)), number)
    minibatches(share)
    state(share)
    refusals(share)
    lengths(share)
    dropout(share)
    threads()
    workers.leave()


if __name__ == "__main__":
    main()
