"""IMCL with the classes of its images (sec. 4.6), against NumPy."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf.methods.class_onehot import ClassOneHot
from imcl_tf.methods.dictionary import Dictionary
from imcl_tf.ops.labels import LabelTable
from tests import oracles
from tests.methods.imcl_problem import (
    B,
    C,
    D,
    K,
    batch_of,
    forward,
    make_model,
    problem,
)  # fmt: skip

CLASSES = np.array([3, 0, -1, 1, 0, 1, 3, 3, 0, 1] * 4, np.int32)
NUMBERS = np.array([31, 5, -1, 18, 0, 39, 2, 27, 8, -1, 14, 3], np.int32)
STORED = np.arange(0, 40, 2)  # the images in the dictionary
SOLVE = {
    "paper": oracles.joint_nonnegative_omp,
    "released": oracles.released_omp,
}


def classes_of(numbers):
    """Class of each image; images of no number have none."""
    return [CLASSES[n] if n >= 0 else -1 for n in numbers]


def model_with_classes(dictionary=None, **options):
    model = make_model(
        dictionary_gradient=dictionary or "stored",
        **{"class_weight": 3.0, **options},
    )
    model.class_onehot = ClassOneHot(CLASSES, model.class_weight)
    if dictionary:
        features, labels = problem(7, 40)
        table = LabelTable(scipy.sparse.csr_array(labels))
        model.dictionary = Dictionary(STORED, table, D, features[STORED])
        model.refresh_dictionary()
    return model


def joined_problem(model):
    """y of the minibatch, A y and f of all candidates, and what to exclude."""
    features, labels = problem()
    numbers = NUMBERS
    exclude = np.stack([np.arange(B), np.full(B, -1)], 1)
    if model.dictionary is not None:
        more_features, more_labels = problem(7, 40)
        features = np.concatenate([features, more_features[STORED]])
        labels = np.concatenate([labels, more_labels[STORED]])
        slots = {number: slot for slot, number in enumerate(STORED)}
        exclude[:, 1] = [slots.get(n, -1 - B) + B for n in numbers]
        numbers = np.append(numbers, STORED)
    logits = features @ model.classifier.kernel.numpy().astype(float)
    logits = logits + model.classifier.bias.numpy()
    graph = model.label_graph.to_scipy().toarray().astype(float)
    if model.imputation == "paper":
        targets = oracles.impute_paper(labels, logits)
        atoms = targets @ graph.T
    else:
        targets = oracles.impute_released(labels, logits)
        imputed = oracles.impute_released(0 * labels, logits)
        atoms = np.where(labels == 0, imputed @ graph.T, targets)
    atoms[B:] = atoms[B:].astype(np.float16)  # as they are stored
    # K is 4 though no image is of class 2.
    targets, atoms = (
        oracles.join_classes(x, classes_of(numbers), 4, model.class_weight)
        for x in (targets, atoms)
    )
    return targets[:B], atoms, features, logits, exclude


@pytest.mark.parametrize("dictionary", [None, "stored", "full"])
@pytest.mark.parametrize(
    ("source", "form"), [("paper", "tanh"), ("released", "linear")]
)
def test_class_part_is_joined_to_y_in_solver_and_eq_5(source, form, dictionary):
    model = model_with_classes(
        dictionary, solver=source, imputation=source, reconstruction=form,
        loss_scale="absolute",
    )  # fmt: skip
    targets, atoms, features, logits, exclude = joined_problem(model)
    indices, c, c_bar = oracles.solve_all(
        SOLVE[source], targets, features[:B], atoms, features, K,
        model.lambda_y, model.lambda_f, exclude,
    )  # fmt: skip
    _, labels = problem()
    batch = batch_of(features[:B], labels, NUMBERS)
    f, z = forward(model, batch.inputs)
    found = model.find_similar(f, z, batch)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.label_weights, c, atol=1e-4)
    np.testing.assert_allclose(found.feature_weights, c_bar, atol=1e-4)

    label, feature = (
        np.mean(
            [
                smoothness(y[i], w[i], x[indices[i]], **options)
                for i in range(B)
                if indices[i, 0] >= 0
            ]
            + [0] * (indices[:, 0] < 0).sum()
        )
        for smoothness, y, w, x, options in (
            (oracles.label_smoothness, targets, c, atoms,
             {"form": form, "num_labels": C}),
            (oracles.feature_smoothness, features, c_bar, features, {}),
        )
    )  # fmt: skip
    entropy = np.mean([*map(oracles.cross_entropy, labels, logits[:B])])
    terms = model.loss_terms(f, batch, z, found)
    for name, expected in {
        "logistic_loss": entropy,
        "label_smoothness": label,
        "feature_smoothness": feature,
        "loss": entropy + label + 0.5 * feature,
    }.items():
        np.testing.assert_allclose(terms[name], expected, rtol=1e-4)


def test_training_step_takes_classes_by_image_number():
    """The whole step, compiled, with the minibatch in a dict."""
    features, labels = problem()
    inputs = {"inputs": features, "image_index": NUMBERS}
    model = model_with_classes("full", label_similarity="fixed")
    terms = model.loss_terms(
        tf.constant(features), batch_of(features, labels, NUMBERS)
    )
    got = model.train_on_batch(inputs, labels, return_dict=True)
    for name in ("loss", "label_smoothness"):
        assert got[name] == pytest.approx(float(terms[name]), rel=1e-5)


def test_large_class_weight_selects_the_same_class_first():
    features, labels = problem()
    own = np.array(classes_of(NUMBERS))
    shared = [i for i in range(B) if (own == own[i]).sum() > 1 and own[i] >= 0]
    assert len(shared) > 6
    same = {}
    for weight in (0.0, 100.0):
        model = model_with_classes(class_weight=weight)
        batch = batch_of(features, labels, NUMBERS)
        found = model.find_similar(*forward(model, features), batch)
        first = found.indices.numpy()[shared, 0]
        same[weight] = (own[first] == own[shared]).mean()
    assert same[0.0] < 0.7
    assert same[100.0] == 1


@pytest.mark.parametrize(
    ("scale", "dictionary"),
    [("initial", None), ("initial", "stored"), ("absolute", "full")],
)
def test_class_part_itself_moves_nothing(scale, dictionary):
    """At given similarities it is constant in theta and A.

    So it must not enter the initial ratio either, which scales the rest.
    """
    features, labels = problem()
    batch = batch_of(features, labels, NUMBERS)
    terms, gradients = [], []
    for weight in (0.0, 10.0):
        model = model_with_classes(
            dictionary, class_weight=weight, loss_scale=scale
        )
        variables = [
            model.classifier.kernel.value,
            model.label_graph.edge_weights.value,
        ]
        with tf.GradientTape() as tape:
            f, z = forward(model, batch.inputs, training=True)
            if not terms:
                found = model.find_similar(f, z, batch)
            terms.append(model.loss_terms(f, batch, z, found))
        gradients.append(tape.gradient(terms[-1]["loss"], variables))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(terms[0]["ratios"], terms[1]["ratios"])
    assert terms[1]["label_smoothness"] > terms[0]["label_smoothness"]
    assert terms[1]["loss"] > terms[0]["loss"]


@pytest.mark.parametrize("unknown", ["image", "class"])
def test_images_of_unknown_class_have_no_class_part(unknown):
    features, labels = problem()
    results = []
    for weight in (0.0, 10.0):
        model = model_with_classes(class_weight=weight)
        index = np.arange(B)
        if unknown == "image":
            index = np.full(B, -1)
        else:
            model.class_onehot = ClassOneHot(np.full(40, -1), weight)
        batch = batch_of(features, labels, index)
        results.append(model.evaluation_step(batch)[1])
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], rtol=1e-6)


def test_class_part_of_an_image_without_candidates_does_not_count():
    features, labels = problem(num_images=1)
    batch = batch_of(features, labels, [0])
    model = model_with_classes()
    terms = model.evaluation_step(batch)[1]
    assert float(terms["label_smoothness"]) == 0.0


def test_fixed_similarities_use_classes():
    model = model_with_classes(
        "stored", image_similarity="fixed", loss_scale="absolute"
    )
    targets, atoms, features, _, exclude = joined_problem(model)
    features, stored = features[:B], features[B:]
    _, labels = problem()
    known = np.flatnonzero(NUMBERS >= 0)
    # All 40 images, those of the minibatch among them.
    all_features, all_labels = problem(3, 40)
    all_features[NUMBERS[known]] = features[known]
    all_labels[NUMBERS[known]] = labels[known]
    inputs = {"inputs": all_features, "image_index": tf.range(40)}
    model.fix_similarities([(inputs, all_labels)])
    expected = oracles.solve_all(
        oracles.joint_nonnegative_omp, targets, features, atoms[B:], stored, K,
        model.lambda_y, model.lambda_f,
        np.where(exclude[:, 1:] < 0, -1, exclude[:, 1:] - B),
    )  # fmt: skip
    batch = batch_of(features, labels, NUMBERS)
    f, z = forward(model, batch.inputs)
    found = model.find_similar(f, z, batch)
    indices = np.where(expected[0] < 0, -1, expected[0] + B)
    np.testing.assert_array_equal(found.indices.numpy()[known], indices[known])
    np.testing.assert_allclose(
        found.label_weights.numpy()[known], expected[1][known], atol=1e-4
    )
    assert np.isfinite(float(model.loss_terms(f, batch, z)["loss"]))


def test_class_weight_is_saved_and_classes_are_not(tmp_path):
    features, labels = problem()
    batch = batch_of(features, labels, NUMBERS)
    model = model_with_classes(compiled=False)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.class_weight == 3.0 and again.class_onehot is None
    assert again.get_config() == model.get_config()
    again.class_onehot = ClassOneHot(CLASSES, 3.0)
    loss, again_loss = (
        float(m.evaluation_step(batch)[1]["loss"]) for m in (model, again)
    )
    assert loss == again_loss


def test_class_weight_needs_classes():
    features, labels = problem()
    model = make_model(class_weight=1.0)
    with pytest.raises(
        ValueError, match="class_weight > 0 needs model.class_onehot"
    ):
        model.train_on_batch(features, labels)
    model(features)  # prediction does not
