"""`fit`: new data after old, what it takes, what it refuses."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.data.tensors import TensorBatches
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.labels import LabelTable

C, D = 4, 6


def arrays(size=24, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(size, D)).astype(np.float32)
    labels = np.sign(features[:, :C]).astype(np.int8)
    labels[::2, 1:] = 0
    return features, labels


def numbered(features, labels, dtype=np.int32):
    index = np.arange(len(labels)).astype(dtype)
    inputs = {"inputs": features, "image_index": index}
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8)


def made(kind=MultiLabelModel, optimizer=None, **options):
    keras.utils.set_random_seed(0)
    if kind is imcl_tf.IMCL:
        options |= {"num_neighbors": 2}  # traced in half the time of five
    model = kind(None, C, **options)
    model.compile(optimizer or keras.optimizers.SGD(0.1))
    return model


def test_new_data_are_trained_on_as_by_a_new_model():
    """Not on the dictionary and the labels that the first trace holds."""
    # All entries are renewed after each step: which are, depends on the step.
    model = made(imcl_tf.IMCL, dictionary_refresh=40)
    model.fit(numbered(*arrays()), verbose=0)
    model.evaluate(numbered(*arrays()))
    new = imcl_tf.IMCL.from_config(model.get_config())
    new.compile(keras.optimizers.SGD(0.1))
    new.build((None, D))
    new.set_weights(model.get_weights())
    other = numbered(*arrays(40, seed=1))
    logs = [m.fit(other, epochs=2, verbose=0).history for m in (model, new)]
    for name in imcl_tf.IMCL.TERMS:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-5)
    np.testing.assert_allclose(
        model.evaluate(other), new.evaluate(other), rtol=1e-5
    )
    np.testing.assert_array_equal(model.dictionary.image_index, range(40))
    np.testing.assert_allclose(
        model.dictionary.features, new.dictionary.features
    )


@pytest.mark.parametrize("name", ["curriculum", "entropy_maximisation"])
def test_pseudo_labels_are_of_the_new_data(name):
    model = made(imcl_tf.method(name))
    model.fit(numbered(*arrays()), epochs=2, verbose=0)
    old = model.pseudo_labels
    features, labels = arrays(40, seed=1)
    model.fit(numbered(features, labels), epochs=2, verbose=0)
    assert model.pseudo_labels is not old
    assert model.pseudo_labels.num_images == 40
    # The loss of a minibatch is that of the pseudo-labels there are now.
    batch = imcl_tf.Batch.unpack(
        ({"inputs": features, "image_index": np.arange(40)}, labels)
    )
    terms = model.evaluation_step(batch)[1]
    expected = model.loss_terms(tf.constant(features), batch)
    assert float(terms["loss"]) == pytest.approx(float(expected["loss"]))


@pytest.mark.parametrize("kind", [MultiLabelModel, imcl_tf.IMCL])
def test_model_made_in_a_scope_is_fitted_outside(kind):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = made(kind)
    logs = model.fit(numbered(*arrays()), verbose=0).history
    expected = made(kind).fit(numbered(*arrays()), verbose=0).history
    assert logs["loss"][0] == pytest.approx(expected["loss"][0], rel=1e-5)


@pytest.mark.parametrize(
    "given", [np.ndarray.tolist, scipy.sparse.csr_array, np.float64]
)
def test_arrays_of_any_kind(given):
    features, labels = arrays()
    expected = made().fit(features, labels, shuffle=False, verbose=0).history
    if given is np.ndarray.tolist:
        features = features.tolist()
    logs = made().fit(features, given(labels), shuffle=False, verbose=0).history
    assert logs["loss"] == pytest.approx(expected["loss"])


@pytest.mark.parametrize("dtype", [np.int64, np.uint16])
def test_image_index_of_any_integers(dtype):
    model = made(imcl_tf.IMCL)
    model.fit(numbered(*arrays(), dtype), verbose=0)
    np.testing.assert_array_equal(model.dictionary.image_index, range(24))


@pytest.mark.parametrize("callbacks", [None, [], keras.callbacks.Callback()])
def test_callbacks_as_keras_takes_them(callbacks):
    logs = made().fit(*arrays(), callbacks=callbacks, verbose=0).history
    assert len(logs["loss"]) == 1


def test_saved_before_it_knows_its_graph(tmp_path):
    """The graph's optimizer, made anew, decays nothing."""
    model = made(imcl_tf.IMCL, keras.optimizers.AdamW(0.1, weight_decay=0.5))
    with pytest.warns(UserWarning, match="not yet been built"):
        model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.label_graph is None
    again.fit(numbered(*arrays()), verbose=0)
    for either in (model, again):
        assert either.graph_optimizer.weight_decay == 0
        assert either.optimizer.weight_decay == 0.5


def batched(features, labels):
    return [tf.data.Dataset.from_tensor_slices((features, labels)).batch(8)]


FEATURES, LABELS = arrays()
FAR = {"inputs": FEATURES, "image_index": np.arange(24) * 10**8}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((FEATURES, LABELS * 2), "must be -1, 0 or 1, got 2"),
        ((FEATURES, LABELS.astype(np.uint8)), "must be -1, 0 or 1, got 255"),
        ((FEATURES, np.where(LABELS, np.nan, 0)), "-1, 0 or 1, got nan"),
        ((FEATURES, LABELS[:, :1]), r"labels must be \[B, 4\]"),
        ((FEATURES, LABELS[:, 0]), r"must have shape \[N, C\]"),
        ((FEATURES[:0], LABELS[:0]), "the training data are empty"),
        (batched(FEATURES, LABELS.astype(np.float32)), "signed integers"),
        (batched(FEATURES, LABELS[:, :3]), r"labels must be \[B, 4\]"),
        ([tf.data.Dataset.from_tensor_slices(arrays())], r"must be \[B, 4\]"),
        (batched(FAR, LABELS), "must number the 24 training images from 0 on"),
        (batched(FAR | {"image_index": np.ones(24)}, LABELS), "be integers"),
        (
            batched(FAR | {"image_index": np.arange(24) // 2}, LABELS),
            "image_index 0 is that of two images with different labels",
        ),
        (
            batched(FAR | {"image_index": np.arange(24)}, LABELS * 2),
            "-1, 0 or 1",
        ),
    ],
)
def test_data_that_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        made(imcl_tf.IMCL).fit(*data, verbose=0)


def test_a_wrong_label_in_a_minibatch_ends_training():
    data = batched(FEATURES, LABELS * 2)
    with pytest.raises(ValueError, match=r"^labels must be -1, 0 or 1; the "):
        made().fit(*data, verbose=0)


def test_an_image_may_come_twice_in_a_pass():
    data = numbered(FEATURES, LABELS)
    labels = TensorBatches(data.concatenate(data)).labels
    np.testing.assert_array_equal(labels.toarray(), LABELS)


def test_boost_needs_a_feature_map():
    model = MultiLabelModel(None, C, boost_factor=5.0)
    with pytest.raises(ValueError, match=r"boost_factor needs .*None, 6"):
        model.build((None, D))


@pytest.mark.parametrize("given", ["yes", 1, None])
def test_fixed_features_is_a_truth_value(given):
    with pytest.raises(ValueError, match="fixed_features must be True or Fal"):
        MultiLabelModel(None, C, fixed_features=given)


def test_a_dictionary_needs_numbered_images():
    """Else each image would be found most similar to its own entry."""
    model = made(imcl_tf.IMCL, dictionary_size=0)
    model.prepare(TensorBatches(numbered(*arrays())))
    table = LabelTable(scipy.sparse.csr_array(LABELS))
    model.dictionary = imcl_tf.Dictionary(np.arange(24), table, D, FEATURES)
    model.refresh_dictionary()
    message = "a dictionary needs the number of each training image"
    with pytest.raises(ValueError, match=message):
        model.fit(FEATURES, LABELS, verbose=0)
    model.build((None, D))
    model.build_optimizers()
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(FEATURES, LABELS)


def test_a_new_dictionary_counts_in_the_next_evaluation():
    """As it does for a model that was never evaluated without it."""
    used = made(imcl_tf.IMCL, dictionary_size=0)
    used.prepare(TensorBatches(numbered(*arrays())))
    used.build((None, D))
    before = used.evaluate(FEATURES, LABELS, return_dict=True)
    table = LabelTable(scipy.sparse.csr_array(LABELS))
    new = imcl_tf.IMCL.from_config(used.get_config())
    new.build((None, D))
    new.set_weights(used.get_weights())
    for model in (used, new):
        model.dictionary = imcl_tf.Dictionary(np.arange(24), table, D, FEATURES)
        model.refresh_dictionary()
    after = used.evaluate(FEATURES, LABELS, return_dict=True)
    assert after == new.evaluate(FEATURES, LABELS, return_dict=True)
    assert after["feature_smoothness"] < before["feature_smoothness"] / 100


def test_weights_are_loaded_into_a_model_with_a_graph(tmp_path):
    model = made(imcl_tf.IMCL)
    model.prepare(TensorBatches(numbered(FEATURES, LABELS)))
    model.build((None, D))
    model.save(tmp_path / "trained.keras")
    with pytest.raises(ValueError, match="load_weights: the label graph comes"):
        made(imcl_tf.IMCL).load_weights(tmp_path / "trained.keras")


def test_batch_size_is_for_arrays():
    with pytest.raises(ValueError, match="batch_size is for arrays"):
        made().fit(*batched(FEATURES, LABELS), batch_size=4)


def test_fit_needs_compile():
    with pytest.raises(ValueError, match="compile the model before fit"):
        MultiLabelModel(None, C).fit(FEATURES, LABELS)


def test_a_step_needs_the_label_graph():
    with pytest.raises(ValueError, match="call fit or prepare first"):
        made(imcl_tf.IMCL).train_on_batch(FEATURES, LABELS)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.SGD(use_ema=True), "use_ema cannot be honoured"),
        (
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            "use mixed_bfloat16",
        ),
    ],
)
def test_optimizers_that_are_refused(optimizer, message):
    with pytest.raises(ValueError, match=message):
        made(optimizer=optimizer)


@pytest.mark.parametrize("number", ["4", None, 4.5, 0])
def test_number_of_labels(number):
    assert MultiLabelModel(None, np.int64(4)).classifier.units == 4
    with pytest.raises(ValueError, match="num_labels must be an integer >= 1"):
        MultiLabelModel(None, number)


@pytest.mark.parametrize("data", [None, FEATURES, {"a": 1}])
def test_what_cannot_be_evaluated(data):
    with pytest.raises(ValueError, match="the data to evaluate on must be"):
        made().evaluate(data)


def test_predict_refuses_what_evaluate_takes(prepared):
    data = open_source(prepared).train
    for given in (data, data.batches(4)):
        with pytest.raises(ValueError, match=f"got {type(given).__name__}; ev"):
            made().predict(given)
