"""Evaluation, checkpoints, rate decay and dictionary refresh during `fit`."""

import csv

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.metrics import average_precision_score

import imcl_tf
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.methods.dictionary import Dictionary
from imcl_tf.ops.labels import LabelTable
from imcl_tf.training.callbacks import (
    Evaluation,
    RateDecay,
    RateDrop,
)
from tests.training.watch import Watch

N, C, D = 24, 5, 4


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32)
    labels = rng.choice([-1, 0, 1], size=(N, C)).astype(np.int8)
    return features, labels


def batches(features, labels):
    index = np.arange(len(labels), dtype=np.int32)
    inputs = {"inputs": features, "image_index": index}
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(7)


def model_of(kind=MultiLabelModel, rate=0.1, **options):
    keras.utils.set_random_seed(0)
    if kind is imcl_tf.IMCL:
        options |= {"label_graph": "identity", "num_neighbors": 2}
    model = kind(None, C, **options)
    model.build((None, D))
    model.compile(keras.optimizers.RMSprop(rate))
    return model


def test_evaluate_is_scikit_learns_over_all_batches(data):
    features, labels = data
    model = model_of()
    precision, terms = model.run_over(batches(features, labels))
    logits = model(features).numpy()
    for j in range(C):
        seen = labels[:, j] != 0
        expected = average_precision_score(labels[seen, j] > 0, logits[seen, j])
        assert precision.per_label()[j] == pytest.approx(expected, abs=1e-12)
    # The mean over images of each minibatch's loss.
    expected = 0.0
    for start in range(0, N, 7):
        y, z = labels[start : start + 7], logits[start : start + 7]
        entropy = np.log1p(np.exp(-y * z.astype(float)))[y != 0]
        expected += entropy.mean() * len(y) / N
    assert terms["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_images_are_not_training_images(data):
    """Else image i of validation could not select training image i."""
    model = model_of(imcl_tf.IMCL)
    features, labels = data
    table = LabelTable(scipy.sparse.csr_array(labels))
    model.dictionary = Dictionary(np.arange(N), table, D, features)
    model.refresh_dictionary()
    seen = []
    find = model.find_similar

    def spy(f, logits, batch):
        seen.append(tf.get_static_value(batch.image_index))
        found = find(f, logits, batch)
        tf.debugging.assert_equal(batch.image_index, -1)
        return found

    model.find_similar = spy
    model.run_over(batches(features, labels))
    assert seen


def test_evaluation_writes_a_row_per_split_and_logs_map(data, tmp_path):
    model = model_of()
    file = tmp_path / "metrics.csv"
    shown = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            shown.append(logs["val_mAP"])

    history = model.fit(
        batches(*data), epochs=2, verbose=0, shuffle=False,
        callbacks=[Evaluation(batches(*data), file, 4), Watch()],
    ).history  # fmt: skip
    with file.open() as f:
        rows = list(csv.DictReader(f))
    assert [(r["step"], r["epoch"], r["split"]) for r in rows] == [
        ("0", "0", "validation"),
        ("4", "1", "train"), ("4", "1", "validation"),
        ("8", "2", "train"), ("8", "2", "validation"),
    ]  # fmt: skip
    precision, terms = model.run_over(batches(*data))
    assert float(rows[-1]["mAP"]) == pytest.approx(
        100 * precision.mean(), abs=1e-3
    )
    assert float(rows[-1]["loss"]) == pytest.approx(terms["loss"], rel=1e-4)
    assert history["val_mAP"][-1] == pytest.approx(100 * precision.mean())
    # While epoch 2 runs, the mAP shown is that after epoch 1.
    assert shown[0] == pytest.approx(float(rows[0]["mAP"]), abs=1e-3)
    assert shown[-1] == pytest.approx(float(rows[2]["mAP"]), abs=1e-3)


def test_rates_fall_when_the_average_falls():
    model = model_of(imcl_tf.IMCL, rate=1.0)
    decay = RateDecay(factor=0.8, weight=0.5)
    decay.set_model(model)
    decay.on_train_begin({"val_mAP": 50.0})
    rates = []
    # averages: 50 -> 55 -> 54.5 (falls) -> 57.25 -> 57.25 (does not fall)
    for value in (60.0, 54.0, 60.0, 57.25):
        decay.on_epoch_end(0, {"val_mAP": value})
        rates.append([float(o.learning_rate) for o in model.optimizers])
    np.testing.assert_allclose(rates, [[1, 1], [0.8] * 2, [0.8] * 2, [0.8] * 2])


def test_rates_drop_once_after_some_passes_and_go_on_to_decay(data):
    """Passes of 4 minibatches, rounds of 3: the drop is within the third."""
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.Input((D,)), keras.layers.Dense(3)])
    model = imcl_tf.IMCL(backbone, C, "identity", dictionary_size=0)
    start = [0.1, 0.001, 0.5]
    theta, w, edges = map(keras.optimizers.RMSprop, start)
    model.compile(theta, edges, backbone_optimizer=w)
    watch = Watch()
    model.fit(
        batches(*data).repeat(), epochs=4, steps_per_epoch=3, verbose=0,
        shuffle=False, callbacks=[watch, RateDecay(0.8), RateDrop(2, 4)],
    )  # fmt: skip
    # Steps 1 to 3, 4 to 6, 7 to 8, 9, 10 to 12.
    factors = np.repeat([1, 0.8, 0.64, 0.064, 0.0512], [3, 3, 2, 1, 3])
    np.testing.assert_allclose(watch.rates, np.outer(factors, start), rtol=1e-5)


def test_dropped_rate_is_used_and_reported_from_the_next_pass_on(
    data, tmp_path
):
    """At rate 0 nothing moves; the end of a pass shows the rate it had."""
    model = model_of()
    model.compile(keras.optimizers.SGD(0.1))
    kernels = [model.classifier.kernel.numpy()]

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernels.append(model.classifier.kernel.numpy())

    evaluation = Evaluation(batches(*data), tmp_path / "metrics.csv", 4)
    history = model.fit(
        batches(*data), epochs=4, verbose=0, shuffle=False,
        callbacks=[evaluation, RateDrop(2, 4, factor=0.0), Watch()],
    ).history  # fmt: skip
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0, 0])
    moved = [(a != b).any() for a, b in zip(kernels, kernels[1:], strict=False)]
    assert moved == [True, True, False, False]


def test_each_step_refreshes_the_next_part_of_the_dictionary(data):
    """Of 24 entries five at a time, from the first again after the last."""
    features, labels = data
    model = model_of(imcl_tf.IMCL, dictionary_refresh=5)
    table = LabelTable(scipy.sparse.csr_array(labels))
    model.dictionary = Dictionary(np.arange(N), table, D, features)
    model.refresh_dictionary()
    np.testing.assert_array_equal(
        model.dictionary.features, features.astype(np.float16)
    )
    stored = [model.dictionary.label_atoms.numpy()]
    current = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            stored.append(model.dictionary.label_atoms.numpy())
            logits = model.scores(tf.constant(features))
            atoms = model.label_atoms(tf.constant(labels), logits)
            current.append(atoms.numpy().astype(np.float16))

    model.fit(
        batches(features, labels).repeat(2), verbose=0, shuffle=False,
        callbacks=[Watch()],
    )  # fmt: skip
    assert len(current) == 8
    for step, new in enumerate(current):
        turn = [i % N for i in range(5 * step, 5 * step + 5)]
        others = np.setdiff1d(np.arange(N), turn)
        before, after = stored[step : step + 2]
        assert (before[turn] != new[turn]).any(1).all()
        np.testing.assert_allclose(after[turn], new[turn], rtol=2e-3, atol=1e-3)
        np.testing.assert_array_equal(after[others], before[others])


def test_refresh_of_all_in_each_step(data):
    """More entries asked for than there are: each once."""
    features, labels = data
    model = model_of(imcl_tf.IMCL, dictionary_refresh=100)
    table = LabelTable(scipy.sparse.csr_array(labels))
    model.dictionary = Dictionary(np.arange(N), table, D, features)
    model.fit(
        batches(features, labels), verbose=0, shuffle=False,
    )  # fmt: skip
    atoms = model.label_atoms(
        tf.constant(labels), model.scores(tf.constant(features))
    )
    np.testing.assert_allclose(
        model.dictionary.label_atoms, atoms, rtol=2e-3, atol=1e-3
    )
