"""Algorithm 1 and the loss of `imcl_tf.IMCL`, against NumPy."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.base import MultiLabelModel
from tests import oracles
from tests.methods.common import data_of
from tests.methods.imcl_problem import (
    C,
    D,
    K,
    add_dictionary,
    batch_of,
    forward,
    make_model,
    problem,
)  # fmt: skip


def expected_loss(model, features, labels, form, scale):
    """Eqs. (1), (2), (5) to (7) of the minibatch alone, image by image."""
    logits = features @ model.classifier.kernel.numpy()
    logits = logits.astype(float) + model.classifier.bias.numpy()
    graph = model.label_graph.to_scipy().toarray().astype(float)
    targets = oracles.impute_paper(labels, logits, 2.0)
    atoms = targets @ graph.T
    p = 1 / (1 + np.exp(-logits))
    entropy = -np.where(labels > 0, np.log(p), np.log(1 - p)) * (labels != 0)
    label, feature = np.zeros(len(labels)), np.zeros(len(labels))
    squares = (targets**2).sum(1).mean(), (features**2).sum(1).mean()
    lambdas = np.array([model.lambda_y, model.lambda_f])
    if scale == "common":
        lambdas /= squares
    for i in range(len(labels)):
        indices, c, c_bar = oracles.joint_nonnegative_omp(
            targets[i], features[i], atoms, features, K, *lambdas, exclude=(i,),
        )  # fmt: skip
        if len(indices) == 0:
            continue
        sum_y = c @ atoms[indices]
        sum_y = np.tanh(sum_y) if form == "tanh" else sum_y
        label[i] = ((targets[i] - sum_y) ** 2).sum()
        feature[i] = ((features[i] - c_bar @ features[indices]) ** 2).sum()
    if scale == "absolute":
        ratios = (1.0, 1.0)
        logistic = entropy.sum() / len(labels)
    else:
        logistic = entropy.sum() / (labels != 0).sum()
        ratios = logistic / label.mean(), logistic / feature.mean()
        if scale == "common":
            ratios = 1 / np.array(squares)
    return (
        logistic
        + model.lambda_y * ratios[0] * label.mean()
        + model.lambda_f * ratios[1] * feature.mean()
    )


@pytest.mark.parametrize(
    ("form", "scale"),
    [*itertools.product(("tanh", "linear"), ("initial", "absolute", "common"))],
)
def test_loss_is_the_papers(form, scale):
    features, labels = problem()
    model = make_model(reconstruction=form, loss_scale=scale)
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    expected = expected_loss(model, features, labels, form, scale)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-4)


def test_initial_ratios_stay_those_of_the_first_minibatch():
    model = make_model(loss_scale="initial")
    first, second = problem(1), problem(2)
    model.train_on_batch(*first)
    ratios = model.initial_ratios.numpy()
    assert (ratios > 0).all()
    model.train_on_batch(*second)
    np.testing.assert_array_equal(model.initial_ratios.numpy(), ratios)


def test_no_gradient_through_the_solver():
    """The gradient is that of the loss at constant similarities."""
    features, labels = problem()
    model = make_model()
    batch = batch_of(features, labels)

    def gradient(similarities):
        with tf.GradientTape() as tape:
            f, logits = forward(model, features, training=True)
            if similarities is None:
                similarities = model.find_similar(f, logits, batch)
            terms = model.loss_terms(f, batch, logits, similarities)
        return tape.gradient(terms["loss"], model.classifier.kernel.value)

    f, logits = forward(model, features, training=True)
    constant = [x.numpy() for x in model.find_similar(f, logits, batch)]
    constant = imcl_tf.Similarities(*map(tf.constant, constant))
    np.testing.assert_allclose(
        gradient(None), gradient(constant), rtol=1e-6, atol=1e-7
    )


def test_gradient_flows_through_the_neighbours_too():
    """Numerically: theta moves y_i and the selected y_i' alike."""
    features, labels = problem()
    model = make_model(loss_scale="absolute")
    batch = batch_of(features, labels)
    f, logits = forward(model, features)
    found = model.find_similar(f, logits, batch)
    kernel = model.classifier.kernel

    def loss():
        f, logits = forward(model, features)
        return model.loss_terms(f, batch, logits, found)["loss"]

    with tf.GradientTape() as tape:
        value = loss()
    gradient = tape.gradient(value, kernel.value).numpy()
    start, step = kernel.numpy(), 1e-2
    for j, c in ((0, 0), (3, 5), (5, 8)):
        values = []
        for sign in (1, -1):
            moved = start.copy()
            moved[j, c] += sign * step
            kernel.assign(moved)
            values.append(float(loss()))
        numeric = (values[0] - values[1]) / (2 * step)
        assert gradient[j, c] == pytest.approx(numeric, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("update", ["alternate", "joint"])
def test_one_step_lowers_the_loss_and_moves_graph_and_classifier(update):
    features, labels = problem()
    model = make_model(graph_update=update, loss_scale="absolute")
    model.compile(keras.optimizers.SGD(1e-3), keras.optimizers.SGD(1e-3))
    batch = batch_of(features, labels)
    f, logits = forward(model, features)
    found = model.find_similar(f, logits, batch)

    def loss():
        f, logits = forward(model, features)
        return float(model.loss_terms(f, batch, logits, found)["loss"])

    edges = model.label_graph.edge_weights.numpy()
    kernel = model.classifier.kernel.numpy()
    before = loss()
    model.train_on_batch(features, labels)
    assert loss() < before
    assert not np.array_equal(edges, model.label_graph.edge_weights.numpy())
    assert not np.array_equal(kernel, model.classifier.kernel.numpy())


def test_alternate_update_steps_on_the_graph_before_the_cnn():
    """theta's gradient is taken at the new A (Algorithm 1, steps 6 to 9)."""
    features, labels = problem()
    model = make_model(loss_scale="absolute")
    optimizers = [keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01)]
    model.compile(*optimizers)
    batch = batch_of(features, labels)
    f, logits = forward(model, features)
    found = model.find_similar(f, logits, batch)
    kernel = model.classifier.kernel.numpy()
    edges = model.label_graph.edge_weights
    start = edges.numpy()

    def gradient(variable):
        with tf.GradientTape() as tape:
            f, logits = forward(model, features)
            loss = model.loss_terms(f, batch, logits, found)["loss"]
        return tape.gradient(loss, variable.value).numpy()

    new_edges = start - 0.01 * gradient(edges)
    edges.assign(new_edges)
    new_kernel = kernel - 0.01 * gradient(model.classifier.kernel)
    edges.assign(start)
    model.train_on_batch(features, labels)
    np.testing.assert_allclose(edges.numpy(), new_edges, atol=1e-6)
    np.testing.assert_allclose(
        model.classifier.kernel.numpy(), new_kernel, atol=1e-6
    )


def test_lambda_zero_is_logistic():
    features, labels = problem()
    ours = make_model(lambda_y=0.0, lambda_f=0.0)
    logistic = MultiLabelModel(None, C)
    logistic.build((None, D))
    logistic.start_from(ours)
    logistic.compile(keras.optimizers.RMSprop(0.1))
    for _ in range(3):
        ours.train_on_batch(features, labels)
        logistic.train_on_batch(features, labels)
    np.testing.assert_allclose(
        ours.classifier.kernel.numpy(),
        logistic.classifier.kernel.numpy(),
        atol=1e-6,
    )


def test_no_similarity_at_all_is_logistic():
    features, labels = problem()
    model = make_model(image_similarity="none", label_similarity="none")
    terms = model.evaluation_step(batch_of(features, labels))[1]
    assert float(terms["loss"]) == float(terms["logistic_loss"])


def test_hidden_labels_do_not_matter():
    """Unobserved is 0; nothing else of the truth enters."""
    features, labels = problem()
    labels[:, 4] = 0
    model = make_model()
    p = model.evaluation_step(batch_of(features, labels))
    assert np.isfinite(float(p[1]["loss"]))
    unlabelled = np.zeros_like(labels)
    terms = model.evaluation_step(batch_of(features, unlabelled))[1]
    assert float(terms["logistic_loss"]) == 0.0


def test_an_image_without_candidates_has_no_smoothness_loss():
    features, labels = problem(num_images=1)
    model = make_model()  # named: a `tf.function` does not keep its model
    terms = model.evaluation_step(batch_of(features, labels))[1]
    assert float(terms["label_smoothness"]) == 0.0
    assert float(terms["feature_smoothness"]) == 0.0
    assert float(terms["loss"]) == float(terms["logistic_loss"])


def test_dictionary_supplies_candidates_and_never_the_image_itself():
    model = make_model()
    features, labels = add_dictionary(model)
    index = np.arange(5)
    batch = batch_of(features[:5], labels[:5], index)
    f, logits = forward(model, batch.inputs)
    found = model.find_similar(f, logits, batch)
    indices = found.indices.numpy()
    assert (indices >= 5).any()
    # Minibatch image i is candidate i and, from the dictionary, 5 + i.
    assert not (indices == index[:, np.newaxis]).any()
    assert not (indices == 5 + index[:, np.newaxis]).any()
    unknown = batch_of(features[:5], labels[:5])
    found = model.find_similar(f, logits, unknown)
    assert (found.indices.numpy()[:, 0] >= 0).all()


def test_dictionary_neighbours_bring_their_features_labels_and_logits():
    model = make_model()
    features, labels = add_dictionary(model)
    own, own_labels = problem(3, 4)
    batch = batch_of(own, own_labels)
    f, logits = forward(model, own)
    chosen = tf.constant([[2, 4 + 7, -1], [4, 0, -1], [5, -1, -1], [-1] * 3])
    weights = tf.zeros([4, 3])
    found = imcl_tf.Similarities(chosen, weights, weights)
    got = model.neighbors(found, f, logits, batch)
    np.testing.assert_allclose(got.features[0, 0], own[2])
    np.testing.assert_allclose(got.features[0, 1], features[7])
    np.testing.assert_array_equal(got.labels[0, 1], labels[7])
    np.testing.assert_array_equal(got.labels[1, 1], own_labels[0])
    np.testing.assert_allclose(
        got.logits[2, 0],
        features[1] @ model.classifier.kernel.numpy()
        + model.classifier.bias.numpy(),
        rtol=1e-5,
    )


def test_stored_dictionary_gives_gradient_to_theta_and_full_to_w():
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.Input((D,)), keras.layers.Dense(D)])
    # Its features are such numbers, too.
    backbone.set_weights([2.0 * np.roll(np.eye(D), 1, 0), np.zeros(D)])
    gradients = {}
    for kind in ("stored", "full"):
        keras.utils.set_random_seed(1)
        model = imcl_tf.IMCL(
            backbone, C, num_neighbors=1, dictionary_gradient=kind,
            lambda_f=0.0, loss_scale="absolute", label_graph="identity",
        )  # fmt: skip
        model.build((None, D))
        add_dictionary(model)
        inputs, _ = problem(3, 2)
        nothing = np.zeros((2, C), np.int8)
        batch = batch_of(inputs, nothing)
        ones = tf.ones([2, 1])
        found = imcl_tf.Similarities(tf.constant([[2], [5]]), ones, ones)
        with tf.GradientTape() as tape:
            f, logits = forward(model, batch.inputs, training=True)
            f, logits = tf.stop_gradient(f), tf.stop_gradient(logits)
            loss = model.loss_terms(f, batch, logits, found)["loss"]
        sources = [model.classifier.kernel.value, backbone.weights[0].value]
        gradients[kind] = tape.gradient(loss, sources)
    np.testing.assert_allclose(
        gradients["stored"][0], gradients["full"][0], rtol=1e-4, atol=1e-5
    )
    assert gradients["stored"][1] is None
    assert float(tf.reduce_max(tf.abs(gradients["full"][1]))) > 0


def test_released_reconstruction_writes_observed_labels_over_the_graph():
    model = make_model(imputation="released")
    features, labels = problem()
    _, logits = forward(model, features)
    graph = model.label_graph.to_scipy().toarray()
    imputed = oracles.impute_released(0 * labels, logits.numpy(), 2.0)
    expected = np.where(
        labels == 0, imputed @ graph.T, np.maximum(labels, -0.5)
    )
    np.testing.assert_allclose(
        model.label_atoms(labels, logits), expected, atol=1e-5
    )


def test_fixed_similarities_do_not_follow_the_model():
    model = make_model(image_similarity="fixed")
    features, labels = add_dictionary(model)
    index = np.arange(20)
    data = [
        ({"inputs": features[i], "image_index": i}, labels[i])
        for i in map(tf.constant, np.array_split(index[::-1].copy(), 3))
        for i in [i.numpy().astype(np.int32)]
    ]
    model.fix_similarities([*data, data[0]])  # an image may come twice
    batch = batch_of(features[:6], labels[:6], index[:6])

    def solve():
        f, logits = forward(model, batch.inputs)
        return [x.numpy() for x in model.find_similar(f, logits, batch)]

    before = solve()
    assert (before[0] >= 6).any()  # dictionary candidates follow the batch
    model.classifier.kernel.assign(-model.classifier.kernel)
    for a, b in zip(before, solve(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Image 3's row is solved from image 3, whatever the order of the pass.
    expected = oracles.joint_nonnegative_omp  # computed from the stored atoms
    model.classifier.kernel.assign(-model.classifier.kernel)
    _, logits = forward(model, batch.inputs)
    targets = oracles.impute_paper(labels[:6], logits.numpy(), 2.0)
    indices, c, _ = expected(
        targets[3], features[3], model.dictionary.label_atoms.numpy(),
        features, K, model.lambda_y, model.lambda_f, exclude=(3,),
    )  # fmt: skip
    np.testing.assert_array_equal(before[0][3][: len(indices)] - 6, indices)
    np.testing.assert_allclose(before[1][3][: len(c)], c, atol=1e-4)


def test_fixed_and_none_label_similarity_freeze_the_graph():
    features, labels = problem()
    for choice in ("fixed", "none"):
        model = make_model(label_similarity=choice)
        before = model.label_graph.to_scipy().toarray()
        model.train_on_batch(features, labels)
        np.testing.assert_array_equal(
            before, model.label_graph.to_scipy().toarray()
        )
    np.testing.assert_array_equal(before, np.eye(C))


def test_a_graph_that_two_models_share_stays_as_it_is():
    """It says itself whether it is frozen, each model for its own steps."""
    _, labels = problem()
    for trainable, choice, learns in (
        (True, "fixed", False), (True, "learned", True),
        (False, "learned", False),
    ):  # fmt: skip
        graph = imcl_tf.LabelGraph.from_cooccurrence(labels, 3)
        graph.trainable = trainable
        model = make_model(label_graph=graph, label_similarity=choice)
        make_model(label_graph=graph, label_similarity="fixed")
        assert graph.trainable is trainable
        stepped = {id(v) for _, group in model.variable_groups() for v in group}
        assert (id(graph.edge_weights) in stepped) == learns


def test_fit_overfits_a_crumb_of_data():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(16, D)).astype(np.float32)
    truth = np.sign(features @ rng.normal(size=(D, C)) + 0.01)
    labels = np.where(rng.random((16, C)) < 0.5, truth, 0).astype(np.int8)
    backbone = keras.Sequential([keras.layers.Dense(32, activation="relu")])
    model = imcl_tf.IMCL(
        backbone, C, lambda_y=0.1, lambda_f=0.1, num_neighbors=K
    )
    model.compile(keras.optimizers.RMSprop(0.01))
    data = tf.data.Dataset.from_tensor_slices((features, labels)).batch(8)
    model.fit(data.repeat(80), verbose=0, shuffle=False)
    ap = imcl_tf.average_precision(labels, model(features))
    assert np.nanmin(ap) == 1.0


def test_saves_and_reloads_with_optimizers(tmp_path):
    features, labels = problem()
    backbone = keras.Sequential([keras.Input((D,)), keras.layers.Dense(5)])
    graph = imcl_tf.LabelGraph.from_cooccurrence(labels, 3)
    model = imcl_tf.IMCL(
        backbone, C, graph, 2.0, 0.25, 2,
        reconstruction="linear", imputation="released", solver="released",
    )  # fmt: skip
    model.compile(
        keras.optimizers.RMSprop(0.01),
        backbone_optimizer=keras.optimizers.RMSprop(0.001),
        graph_optimizer=keras.optimizers.RMSprop(0.5),
    )
    model.train_on_batch(features, labels)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path)
    assert isinstance(again, imcl_tf.IMCL)
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    np.testing.assert_array_equal(model(features), again(features))
    np.testing.assert_array_equal(
        graph.to_scipy().toarray(), again.label_graph.to_scipy().toarray()
    )
    # Training goes on as if nothing had happened.
    for m in (model, again):
        m.train_on_batch(features, labels)
    np.testing.assert_allclose(model(features), again(features), atol=1e-6)
    np.testing.assert_allclose(
        model.label_graph.edge_weights.numpy(),
        again.label_graph.edge_weights.numpy(),
        atol=1e-6,
    )


def test_config_round_trips_through_clone():
    model = make_model(lambda_y=0.3, num_neighbors=2, solver="released")
    clone = imcl_tf.IMCL.from_config(model.get_config())
    assert clone.get_config() == model.get_config()


def test_train_function_is_traced_once():
    features, labels = problem(num_images=20)
    traces = []

    class Counting(imcl_tf.IMCL):
        def loss_terms(self, *arguments):
            traces.append(1)
            return super().loss_terms(*arguments)

    model = Counting(None, C, "identity", graph_update="joint", num_neighbors=K)
    model.compile(keras.optimizers.RMSprop(0.01))
    data = tf.data.Dataset.from_tensor_slices((features, labels))
    data = data.repeat().batch(8, drop_remainder=True)
    model.fit(data, steps_per_epoch=3, epochs=2, verbose=0, shuffle=False)
    first = len(traces)
    model.fit(data, steps_per_epoch=3, epochs=2, verbose=0, shuffle=False)
    assert len(traces) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_y": -1.0}, "must be >= 0"),
        ({"class_weight": -1.0}, "class_weight must be >= 0"),
        ({"lambda_f": float("nan")}, "lambda_f must be a number, got nan"),
        ({"num_neighbors": 0}, "num_neighbors"),
        ({"solver": "other"}, "solver must be one of paper, released"),
        ({"reconstruction": "other"}, "tanh, linear"),
        ({"label_graph": imcl_tf.LabelGraph.identity(C + 1)}, "10 labels"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(compiled=False, **options)


def test_fixed_similarity_needs_a_dictionary():
    with pytest.raises(ValueError, match="needs a dictionary"):
        make_model(image_similarity="fixed", dictionary_size=0).prepare(
            data_of(problem()[1])
        )
