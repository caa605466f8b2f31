"""Predictions that look at training images, against NumPy."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf import Mixing, TrainingNeighbors
from tests.methods import imcl_problem
from tests.methods.common import build, problem


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(float)))


def expected(model, features, stored, labels, mixing, propagated=lambda p: p):
    """The mixed probabilities, image by image."""
    kernel, bias = model.classifier.get_weights()
    places, theirs = features, stored
    if mixing.by == "logits":
        logits = stored @ kernel + bias
        mean, deviation = logits.mean(0), logits.std(0)
        theirs = (logits - mean) / deviation
        places = (features @ kernel + bias - mean) / deviation
    rows = []
    for f, place in zip(features, places, strict=True):
        norms = np.linalg.norm(theirs, axis=1) * np.linalg.norm(place)
        cosines = theirs @ place / norms
        nearest = np.argsort(-cosines)[: mixing.number]
        weights = np.exp(cosines[nearest] / mixing.temperature)
        weights /= weights.sum()
        p = sigmoid(stored[nearest] @ kernel + bias)
        if mixing.observed:
            own = labels[nearest]
            p = np.where(own == 0, p, own > 0)
        shown = weights @ propagated(p)
        own = sigmoid(f @ kernel + bias)
        rows.append((1 - mixing.share) * own + mixing.share * shown)
    return np.array(rows)


def stored_neighbors(model, features, labels, mixing):
    logits = features @ model.classifier.get_weights()[0]
    logits += model.classifier.get_weights()[1]
    stored = features if mixing.by == "features" else logits
    return TrainingNeighbors(stored, scipy.sparse.csr_array(labels), mixing)


@pytest.mark.parametrize("by", ["features", "logits"])
@pytest.mark.parametrize("observed", [False, True])
def test_logistic_mixes_what_neighbours_show(observed, by):
    model = build(imcl_tf.MultiLabelModel)
    features, labels = problem(1)
    stored = problem(2)[0].astype(np.float16).astype(np.float32)
    mixing = Mixing(0.4, 3, 0.2, observed, by)
    before = model(features).numpy()
    model.training_neighbors = stored_neighbors(model, stored, labels, mixing)
    found = sigmoid(model(features).numpy())
    # Unit vectors in half precision: three digits.
    np.testing.assert_allclose(
        found, expected(model, features, stored, labels, mixing), atol=2e-3
    )
    batches = tf.data.Dataset.from_tensor_slices((features, labels)).batch(5)
    ap = imcl_tf.average_precision(labels, model(features).numpy())
    result = imcl_tf.evaluate(model, batches).per_label()
    np.testing.assert_allclose(result, ap)
    model.training_neighbors = None
    np.testing.assert_array_equal(model(features).numpy(), before)


def test_imcl_shows_them_through_its_label_graph():
    model = imcl_problem.make_model()
    features, labels = imcl_problem.problem(1)
    stored, _ = imcl_problem.problem(2)
    mixing = Mixing(1.0, 4, 0.3)
    graph = model.label_graph.to_scipy().toarray()
    model.training_neighbors = TrainingNeighbors(
        stored, scipy.sparse.csr_array(labels), mixing
    )
    shown = expected(
        model, features, stored, labels, mixing,
        lambda p: np.clip((1 + (2 * p - 1) @ graph.T) / 2, 0, 1),
    )  # fmt: skip
    np.testing.assert_allclose(
        sigmoid(model(features).numpy()), shown, atol=2e-3
    )


@pytest.mark.parametrize("by", ["features", "logits"])
def test_an_exported_model_has_them(tmp_path, by):
    model = imcl_problem.make_model()
    features, labels = imcl_problem.problem(1)
    mixing = Mixing(0.7, 2, observed=True, by=by)
    model.training_neighbors = stored_neighbors(model, features, labels, mixing)
    names = [f"label {j}" for j in range(labels.shape[1])]
    imcl_tf.export(model, tmp_path / "saved_model", names)
    found, _ = imcl_tf.predict_features(tmp_path / "saved_model", features)
    np.testing.assert_allclose(
        found, sigmoid(model(features).numpy()), rtol=1e-5, atol=1e-6
    )


def test_a_label_that_all_images_score_alike_tells_nothing():
    model = build(imcl_tf.MultiLabelModel)
    features, labels = problem(1)
    logits = model(features).numpy()
    logits[:, 0] = 3.0
    mixing = Mixing(1.0, 1, by="logits")
    found = TrainingNeighbors(logits, scipy.sparse.csr_array(labels), mixing)
    cosines, shown = found.look_up(features, logits, model)
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-3)  # itself
    np.testing.assert_allclose(shown[:, 0], sigmoid(logits), atol=2e-3)


def test_wrong_values_are_refused():
    features, labels = problem()
    labels = scipy.sparse.csr_array(labels)
    with pytest.raises(ValueError, match=r"by be features or log.*by='colour'"):
        TrainingNeighbors(features, labels, Mixing(0.5, by="colour"))
    found = TrainingNeighbors(features, labels, Mixing(0.5))
    with pytest.raises(ValueError, match="features are stored, got 'logits'"):
        found.mixed_by(Mixing(0.5, by="logits"))
    with pytest.raises(ValueError, match=r"share must lie in .*share=1\.5"):
        TrainingNeighbors(features, labels, Mixing(1.5))
    with pytest.raises(ValueError, match="11 images have features, 12 have"):
        TrainingNeighbors(features[:11], labels, Mixing(0.5))
    with pytest.raises(ValueError, match=r"\[M, d\], M >= 1, got \(0, 6\)"):
        TrainingNeighbors(features[:0], labels[:0], Mixing(0.5))
