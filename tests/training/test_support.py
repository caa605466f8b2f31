"""Splits without an average precision are refused before training begins."""

import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.training import search
from imcl_tf.training.callbacks import RateDecay
from imcl_tf.training.checkpoints import BestCheckpoint
from tests.methods.common import tiny_cnn

C, D = 3, 4
# Kept of the labels -> what of them remains observed.
SIGNS = {"present": 1, "absent": -1, "nothing": 0}


def only(labels, sign):
    """Those labels [N, C], sparse, that are `sign`."""
    labels = labels.copy()
    labels.data[labels.data != sign] = 0
    labels.eliminate_zeros()
    return labels


@pytest.mark.parametrize("method", ["logistic", "auto"])
def test_training_without_labels_is_refused(prepared, method, tmp_path):
    data = open_source(prepared)
    labels = only(data.train.labels, 0)
    data = data._replace(train=data.train._replace(labels=labels))
    place = tmp_path / "run"
    with pytest.raises(ValueError, match="split train: no label is observed"):
        if method == "auto":
            imcl_tf.auto(data, tiny_cnn(), place, budget=0)
        else:
            imcl_tf.run(data, tiny_cnn(), method, place)
    assert not place.exists()


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize("scale", [0, 1])
def test_a_result_by_chance_is_named(prepared, scale, tmp_path, caplog):
    data = open_source(prepared)
    network = tiny_cnn()
    weights = [scale * w for w in network.get_weights()[:1]]
    network.set_weights(weights + network.get_weights()[1:])
    with caplog.at_level("WARNING", "absl"):
        imcl_tf.run(
            data, network, "logistic", tmp_path / "run",
            regime="fixed_features", initial_epochs=0, epochs=0,
        )  # fmt: skip
    assert ("every image has the same scores" in caplog.text) == (scale == 0)


@pytest.mark.parametrize("kept", SIGNS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_run_refuses_a_split_without_average_precision(
    prepared, split, kept, tmp_path
):
    data = open_source(prepared)
    labels = only(data.splits[split].labels, SIGNS[kept])
    data = data._replace(**{split: data.splits[split]._replace(labels=labels)})
    present, absent = (
        labels.nnz if SIGNS[kept] == sign else 0 for sign in (1, -1)
    )
    with pytest.raises(ValueError) as caught:
        imcl_tf.run(data, tiny_cnn(), "logistic", tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(f"split {split}: mean average precision is unde")
    assert f"({present} entries are observed present, {absent} abs" in message
    assert "In labels.csv the value 1 is present, -1 absent, 0 unob" in message
    assert "--unlisted=absent_in_evaluation" in message
    assert not (tmp_path / "run").exists()


def validation(labels, size=2):
    features = np.ones((len(labels), D), np.float32)
    return tf.data.Dataset.from_tensor_slices(
        (features, np.array(labels, np.int8))
    ).batch(size)


def fit(model, **options):
    features = np.eye(D, dtype=np.float32)
    return model.fit(
        features, np.array(3 * [[1] * C] + [[-1] * C], np.int8), verbose=0,
        **options,
    )  # fmt: skip


def compiled():
    model = MultiLabelModel(None, C)
    model.compile("sgd")
    return model


@pytest.mark.parametrize(
    ("labels", "options", "counts"),
    [
        ([[1, 1, 0]] * 3, {}, "6 entries are observed present, 0 absent"),
        ([[-1, 0, 0]] * 3, {}, "0 entries are observed present, 3 absent"),
        # No label has both, and of the first minibatch neither has one.
        ([[1, -1, 0]] * 3, {}, "3 entries are observed present, 3 absent"),
        # Keras evaluates on the first minibatch alone.
        (
            [[1, 1, 0]] * 2 + [[-1, -1, -1]], {"validation_steps": 1},
            "4 entries are observed present, 0 absent",
        ),
    ],
)  # fmt: skip
def test_fit_refuses_validation_data_before_a_step(labels, options, counts):
    model = compiled()
    with pytest.raises(ValueError, match=f"validation_data: .*{counts}"):
        fit(model, validation_data=validation(labels), **options)
    assert not model.built


def test_fit_refuses_validation_arrays_before_a_step():
    model = compiled()
    arrays = np.ones((2, D), np.float32), np.ones((2, C), np.int8)
    with pytest.raises(ValueError, match="validation_data: .*6 .*, 0 absent"):
        fit(model, validation_data=arrays)
    assert not model.built


def test_fit_reads_validation_data_until_a_label_has_both():
    read = []

    def labels():
        for sign in 20 * (1, -1):
            read.append(sign)
            yield np.ones((1, D), np.float32), np.full((1, C), sign, np.int8)

    data = tf.data.Dataset.from_generator(
        labels,
        output_signature=(
            tf.TensorSpec((1, D), tf.float32), tf.TensorSpec((1, C), tf.int8)
        ),
    )  # fmt: skip
    history = fit(compiled(), validation_data=data).history
    assert 0 <= history["val_mAP"][0] <= 100
    # Two minibatches and what tf.data reads ahead, then all of them.
    assert 40 < len(read) < 60


def test_evaluate_refuses_data_without_average_precision():
    model = compiled()
    fit(model)
    with pytest.raises(ValueError, match="2 entries .* present, 0 absent"):
        model.evaluate(validation([[1, 0, 0]] * 2))
    # What has no mean may still be looked at.
    precision = imcl_tf.evaluate(model, validation([[1, 0, 0]] * 2))
    assert precision.support() == (0, C, 0, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batchsize": 3}, TypeError, "batchsize"),
        ({"callbacks": [RateDecay()]}, ValueError, "callbacks cannot be"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    ],
)
def test_evaluate_refuses_what_it_cannot_honour(options, error, message):
    model = compiled()
    fit(model)
    data = validation([[1, 1, 1], [-1, -1, -1]])
    with pytest.raises(error, match=message):
        model.evaluate(data, **options)
    quiet = model.evaluate(data, verbose=0, callbacks=None, return_dict=True)
    assert 0 <= quiet["mAP"] <= 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_decision_by_a_mean_that_is_no_number(value, tmp_path):
    model = compiled()
    fit(model)
    for callback in (BestCheckpoint(tmp_path), RateDecay()):
        callback.set_model(model)
        with pytest.raises(ValueError, match="val_mAP must be a finite number"):
            callback.on_epoch_end(0, {"val_mAP": value})
    assert not list(tmp_path.iterdir())
    trials = [{"epochs": "1"}, {"epochs": "2"}]
    with pytest.raises(ValueError, match="validation_mAP must be a finite"):
        search.search(trials, lambda *_: {"validation_mAP": value}, tmp_path)
