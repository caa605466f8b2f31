"""Clipping, rates by depth and the average of the weights, in any method."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.averages import WeightAverage
from imcl_tf.methods.optimization import clipped

N, C, D = 12, 3, 4


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32)
    return features, rng.choice([-1, 1], size=(N, C)).astype(np.int8)


def network(*sizes):
    """Layers of weights alone, one after the other."""
    keras.utils.set_random_seed(0)
    stack = [keras.layers.Dense(size, use_bias=False) for size in sizes]
    return keras.Sequential([keras.Input((D,)), *stack])


def values(variables):
    return [variable.numpy() for variable in variables]


class TestClipped:
    def test_one_factor_brings_the_common_norm_down(self):
        """Norm of (3, 0) and (0, 4) is 5; none has no part in it."""
        parts = [tf.constant([3.0, 0.0]), None, tf.constant([0.0, 4.0])]
        a, none, b = clipped(parts, 2.0)
        assert none is None
        np.testing.assert_allclose(a, [1.2, 0])
        np.testing.assert_allclose(b, [0, 1.6])

    def test_a_smaller_norm_stays(self):
        (a,) = clipped([tf.constant([3.0, 4.0])], 5.5)
        np.testing.assert_array_equal(a, [3, 4])

    def test_slices_of_the_same_row_add_up(self):
        """Rows 0 and 0 of 3 each: the gradient is 6, not the root of 18."""
        slices = tf.IndexedSlices(
            tf.constant([[3.0], [3.0]]),
            tf.constant([0, 0]),
            tf.constant([2, 1]),
        )
        (a,) = clipped([slices], 1.5)
        np.testing.assert_allclose(tf.convert_to_tensor(a), [[1.5], [0]])

    def test_no_number_is_not_made_one(self):
        (a,) = clipped([tf.constant([np.inf, 1.0])], 1.0)
        assert np.isnan(a).all()

    @pytest.mark.parametrize("clip_norm", [0.0, 0.01, 100.0])
    def test_steps_of_several_optimizers_have_one_norm(self, clip_norm, data):
        """At rate 1 the step of SGD is the gradient: theta and w together."""
        steps = []
        for norm in (0.0, clip_norm):
            model = imcl_tf.MultiLabelModel(network(5), C)
            model.compile(
                keras.optimizers.SGD(1.0),
                backbone_optimizer=keras.optimizers.SGD(1.0), clip_norm=norm,
            )  # fmt: skip
            model.build((None, D))
            weights = model.trainable_variables
            before = values(weights)
            model.train_on_batch(*data)
            after = values(weights)
            steps.append([a - b for a, b in zip(after, before, strict=True)])
        free, bound = steps
        norm = np.sqrt(sum((step**2).sum() for step in free))
        assert 0.01 < norm < 100
        factor = min(1, clip_norm / norm) if clip_norm else 1
        for a, b in zip(free, bound, strict=True):
            np.testing.assert_allclose(b, factor * a, atol=1e-7)


class TestLayerDecay:
    def test_rates_fall_from_the_head_down(self, data):
        """At rate 1 SGD moves by gradients: 0.5 and 0.25 of the plain ones."""
        moved = {}
        for decay in (1.0, 0.5):
            model = imcl_tf.MultiLabelModel(network(5, 6), C)
            model.compile(keras.optimizers.SGD(1.0), layer_decay=decay)
            model.build((None, D))
            low, high = model.backbone.layers
            weights = [model.classifier.kernel, high.kernel, low.kernel]
            before = values(weights)
            model.fit(*data, batch_size=N, verbose=0)
            after = values(weights)
            moved[decay] = [a - b for a, b in zip(after, before, strict=True)]
        for factor, plain, slow in zip(
            (1, 0.5, 0.25), moved[1.0], moved[0.5], strict=True
        ):
            assert abs(plain).max() > 1e-3
            np.testing.assert_allclose(slow, factor * plain, atol=1e-6)

    def test_starts_from_the_rate_of_the_network(self):
        model = imcl_tf.MultiLabelModel(network(5), C)
        model.compile(
            keras.optimizers.RMSprop(1.0), layer_decay=0.5,
            backbone_optimizer=keras.optimizers.RMSprop(0.1, momentum=0.7),
        )  # fmt: skip
        model.build((None, D))
        model.build_optimizers()
        theta, w = model.optimizers
        assert float(theta.learning_rate) == 1
        assert float(w.learning_rate) == pytest.approx(0.05)
        assert w.momentum == 0.7

    def test_a_fixed_network_has_no_rates(self, data):
        model = imcl_tf.MultiLabelModel(network(5), C, fixed_features=True)
        model.compile("sgd", layer_decay=0.5)
        features = np.resize(data[0], (N, 5))
        model.fit(features, data[1], verbose=0)
        assert model.optimizers == [model.optimizer]


class TestAverage:
    def test_is_the_recursion_of_its_docstring(self):
        weight = keras.Variable(np.float32([7, 8]))
        average = WeightAverage([weight], decay=0.3)
        expected = None
        for step, value in enumerate([(1, 2), (3, 5), (0, 0), (2, 1), (9, 9)]):
            weight.assign(np.float32(value))
            average.update()
            decay = min(0.3, step / (step + 9))
            old = 0 if expected is None else expected
            expected = decay * old + (1 - decay) * np.array(value)
        with average.in_place():
            np.testing.assert_allclose(weight, expected, rtol=1e-6)
        np.testing.assert_array_equal(weight, [9, 9])

    def test_before_a_step_there_is_none(self):
        weight = keras.Variable(1.0)
        average = WeightAverage([weight], decay=0.3)
        weight.assign(5.0)
        with average.in_place():
            assert weight.numpy() == 5

    def test_contexts_within_contexts_change_nothing(self):
        weight = keras.Variable(1.0)
        average = WeightAverage([weight], decay=0.3)
        average.update()
        weight.assign(2.0)
        with average.in_place(), average.in_place():
            assert weight.numpy() == 1
        assert weight.numpy() == 2

    def test_fit_leaves_the_average_of_all_that_moves(self, data):
        """Weights and batch statistics, from the values after each step."""
        keras.utils.set_random_seed(0)
        cnn = keras.Sequential(
            [
                keras.Input((D,)),
                keras.layers.Dense(5, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.5),
            ]
        )
        features, labels = data
        labels = labels * np.random.default_rng(1).choice([0, 1], labels.shape)
        labels = labels.astype(np.int8)
        graph = imcl_tf.LabelGraph.from_neighbors(
            [[0, 1, 2], [1, 2, 0], [2, 0, 1]], [[0.6, 0.3, 0.1]] * C
        )
        model = imcl_tf.IMCL(cnn, C, graph, image_similarity="none")
        model.compile(
            keras.optimizers.SGD(0.5), keras.optimizers.SGD(5.0),
            ema_decay=0.15, layer_decay=0.9,
        )  # fmt: skip
        model.build((None, D))
        weights = [
            *model.classifier.variables, *cnn.variables,
            model.label_graph.edge_weights,
        ]  # fmt: skip
        after = []

        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                after.append(values(weights))

        batches = tf.data.Dataset.from_tensor_slices((features, labels)).batch(
            4
        )
        model.fit(
            batches, epochs=2, verbose=0, callbacks=[Watch()],
            validation_data=batches,
        )  # fmt: skip
        assert len(after) == 6
        expected = after[0]
        for step, now in enumerate(after):
            decay = min(0.15, step / (step + 9))
            expected = [
                decay * old + (1 - decay) * new
                for old, new in zip(expected, now, strict=True)
            ]
        for weight, value, last in zip(
            weights, expected, after[-1], strict=True
        ):
            np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-6)
            assert not np.allclose(weight, last, rtol=1e-4, atol=1e-6)

    def test_validation_is_of_the_average(self, data):
        model = imcl_tf.MultiLabelModel(None, C)
        model.compile(keras.optimizers.SGD(5.0), ema_decay=0.999)
        batches = tf.data.Dataset.from_tensor_slices(data).batch(4)
        history = model.fit(
            batches, epochs=2, verbose=0, validation_data=batches
        ).history
        # After the last epoch the average is what the model has.
        shown = model.evaluate(batches, return_dict=True)["loss"]
        assert history["val_loss"][-1] == pytest.approx(shown)
        model.average.put_in_place(False)
        z = data[0] @ model.classifier.kernel + model.classifier.bias
        raw = np.log1p(np.exp(-data[1] * z)).mean()
        assert abs(raw - shown) > 1e-3

    def test_is_saved_with_the_weights_that_wait(self, data, tmp_path):
        """A model that is loaded trains on as the one that was saved."""
        model = imcl_tf.IMCL(network(5, 6), C, "identity", num_neighbors=2)
        model.compile(
            keras.optimizers.AdamW(0.1), ema_decay=0.9, layer_decay=0.5,
            clip_norm=0.5,
        )  # fmt: skip
        model.fit(*data, batch_size=4, shuffle=False, verbose=0)
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert (again.clip_norm, again.layer_decay) == (0.5, 0.5)
        np.testing.assert_array_equal(model(data[0]), again(data[0]))
        before = model(data[0]).numpy()
        for either in (model, again):
            either.fit(*data, batch_size=4, shuffle=False, verbose=0)
        np.testing.assert_allclose(
            model(data[0]), again(data[0]), rtol=1e-5, atol=1e-6
        )
        assert not np.allclose(before, model(data[0]), atol=1e-3)

    def test_single_steps_are_refused(self, data):
        model = imcl_tf.MultiLabelModel(None, C)
        model.compile("sgd", ema_decay=0.9)
        model.fit(*data, verbose=0)
        with pytest.raises(ValueError, match="fit alone keeps the average"):
            model.train_on_batch(*data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_norm": -1.0}, {"clip_norm": np.inf}, {"layer_decay": 0.0},
        {"layer_decay": 1.1}, {"ema_decay": 1.0}, {"ema_decay": -0.1},
    ],
)  # fmt: skip
def test_out_of_range(wrong):
    (name,) = wrong
    model = imcl_tf.MultiLabelModel(None, C)
    with pytest.raises(ValueError, match=f"{name} is out of range, got"):
        model.compile("sgd", **wrong)
