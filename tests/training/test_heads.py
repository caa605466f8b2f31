"""The solved logistic model and the neighbours chosen after it."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.batches import Batch
from imcl_tf.ops.logistic import Head
from imcl_tf.training import heads, mixing
from imcl_tf.training.heads import PENALTIES, solve_head

C, D = 3, 6
FEW = {"epochs": 1, "batch_size": 8, "seed": 1, "num_neighbors": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """90 images of 3 labels that their features tell, with noise."""
    path = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    features = rng.normal(0.5, 1, (90, D)).astype(np.float32)
    noisy = features @ rng.normal(size=(D, C)) + rng.normal(size=(90, C))
    labels = np.where(noisy > 0, 1, -1) * (rng.random((90, C)) < 0.8)
    splits = rng.permutation(
        ["train"] * 50 + ["validation"] * 20 + ["test"] * 20
    )
    return written(path, features, labels, splits)


def written(path, features, labels, splits):
    ids = [f"{i:03}" for i in range(len(labels))]
    np.savez(path / "f.npz", ids=ids, features=features)
    with (path / "labels.csv").open("w") as file:
        file.write("image,label,value\n")
        for i, j in zip(*labels.nonzero(), strict=True):
            file.write(f"{ids[i]},{j},{labels[i, j]}\n")
    with (path / "splits.csv").open("w") as file:
        file.write("image,split\n")
        file.writelines(f"{i},{s}\n" for i, s in zip(ids, splits, strict=True))
    return imcl_tf.load_dataset("folder", path, features=path / "f.npz")


def model_of(cls=imcl_tf.MultiLabelModel, **options):
    model = cls(None, C, fixed_features=True, unit_norm=True, **options)
    model.build((None, D))
    return model


def set_head(model, head):
    model.classifier.set_weights([head.kernel, head.bias])
    model.penalty.assign(head.penalty)


def test_the_penalty_is_chosen_on_validation(data):
    model = model_of()
    solved = solve_head(model, data)
    assert solved.is_whole
    penalties, means = zip(*solved.path, strict=True)
    assert penalties == PENALTIES[: len(penalties)]
    ends = [means[0], *means, means[-1]]
    smooth = [sum(ends[i : i + 3]) for i in range(len(means))]
    chosen = smooth.index(max(smooth))
    assert solved.head.penalty == penalties[chosen]
    set_head(model, solved.head)
    mean = 100 * imcl_tf.evaluate(model, data.validation).mean()
    assert mean == pytest.approx(means[chosen])
    (penalty, _), = solve_head(model, data, penalty=0.3).path  # fmt: skip
    assert penalty == 0.3


def test_a_penalty_good_by_chance_is_not_chosen():
    """Ranks of two present labels among ten say which mAP a head has."""
    ranks = (3, 6), (2, 4), (2, 4), (2, 3), (3, 6), (3, 6)
    path = []
    for penalty, places in zip(PENALTIES, ranks, strict=False):
        absent = [place for place in range(1, 11) if place not in places]
        kernel = -np.array([*places, *absent], np.float32)[:, np.newaxis]
        path.append(Head(kernel, np.zeros(1, np.float32), penalty))
    labels = np.array([[1]] * 2 + [[-1]] * 8, np.int8)
    split = SimpleNamespace(labels=scipy.sparse.csr_array(labels))
    features = np.eye(10, dtype=np.float32)
    chosen, tried = heads.best_of(path, features, split, "head")
    third, half = 100 / 3, 50
    expected = [third, half, half, 175 / 3, third, third]
    assert [mean for _, mean in tried] == pytest.approx(expected)
    assert chosen.penalty == PENALTIES[2]


def whole_training_set(data):
    rows = np.arange(data.train.labels.shape[0])
    features = heads.load_inputs(data.train, rows, (D,))
    labels = data.train.labels.toarray()
    return Batch(tf.constant(features), tf.constant(labels), tf.constant(rows))


@pytest.mark.parametrize("penalty", [0.1, 1e-3])
def test_minibatches_minimise_the_same(data, penalty):
    """The loss that training differentiates has its minimum at the head."""
    model = model_of()
    set_head(model, solve_head(model, data, penalty).head)
    batch = whole_training_set(data)

    def gradients():
        with tf.GradientTape() as tape:
            features = model.features_of(batch.inputs, training=True)
            terms = model.loss_terms(features, batch)
            loss = model.add_regularization(terms)["loss"]
        return tape.gradient(loss, model.classifier.trainable_variables)

    for gradient in gradients():
        np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-4)
    model.penalty.assign(0)
    assert abs(gradients()[0].numpy()).max() > 10 * 1e-4


def test_training_by_minibatches_comes_to_the_solved_head(data):
    model = model_of()
    head = solve_head(model, data, 0.1).head
    model.penalty.assign(0.1)
    model.compile(keras.optimizers.SGD(2.0))
    model.fit(data.train.batches(50), epochs=150, verbose=0)
    kernel, bias = model.classifier.get_weights()
    np.testing.assert_allclose(kernel, head.kernel, atol=2e-2)
    np.testing.assert_allclose(bias, head.bias, atol=2e-2)


@pytest.mark.usefixtures("without_export")
def test_a_part_is_solved_where_memory_ends(data, monkeypatch, tmp_path):
    part = solve_head(model_of(), data, 0.1, most_numbers=20 * D, seed=4)
    assert not part.is_whole
    again = solve_head(model_of(), data, 0.1, most_numbers=20 * D, seed=4)
    np.testing.assert_array_equal(part.head.kernel, again.head.kernel)
    whole = solve_head(model_of(), data, 0.1).head
    assert abs(part.head.kernel - whole.kernel).max() > 0.01
    # Training follows, with the penalty.
    monkeypatch.setattr(heads, "_MOST_NUMBERS", 20 * D)
    run = imcl_tf.run(
        data, None, "logistic", tmp_path, penalty=0.1, initial_epochs=2, **FEW
    )
    assert run["penalty"] == 0.1
    assert (tmp_path / "initial" / "metrics.csv").is_file()


@pytest.mark.usefixtures("without_export")
def test_a_run_of_logistic_is_the_solved_head(data, tmp_path):
    results = imcl_tf.run(data, None, "logistic", tmp_path, **FEW)
    solved = solve_head(model_of(), data)
    assert results["penalty"] == pytest.approx(solved.head.penalty)
    assert results["validation_mAP"] == pytest.approx(
        dict(solved.path)[solved.head.penalty]
    )
    assert results["mAP"] == results["initial_logistic"]["mAP"]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["0", "0", "validation"]
    ]
    text = (tmp_path / "initial" / "penalties.csv").read_text()
    assert len(text.splitlines()) == 1 + len(solved.path)


@pytest.mark.usefixtures("without_export")
def test_methods_start_from_it_and_keep_the_penalty(data, tmp_path):
    imcl_tf.run(data, None, "logistic", tmp_path / "a", **FEW)
    results = imcl_tf.run(
        data, None, "imcl", tmp_path / "b", init_from=str(tmp_path / "a"),
        **FEW,
    )  # fmt: skip
    model = keras.saving.load_model(tmp_path / "b" / "checkpoints/latest.keras")
    assert float(model.penalty) == pytest.approx(results["penalty"])
    assert results["penalty"] in [
        x for x, _ in solve_head(model_of(), data).path
    ]


def test_the_best_mixing_is_chosen(data):
    model = model_of()
    set_head(model, solve_head(model, data).head)
    best = mixing.choose_mixing(model, data, most_images=30)
    means = {}
    for share in mixing.SHARES:
        for other in (
            best,
            best._replace(number=10),
            best._replace(observed=True),
        ):
            way = other._replace(share=share)
            model.training_neighbors = mixing.neighbors_of(model, data, way, 30)
            mean = imcl_tf.evaluate(model, data.validation).mean()
            means[way] = mean
    assert means[best] == pytest.approx(max(means.values()))


@pytest.mark.parametrize(("noise", "by"), [(5, "logits"), (0.3, "features")])
def test_logits_are_taken_where_they_prove_to_be_better(tmp_path, noise, by):
    """Labels that no hyperplane tells: whether two of three scores agree.

    With a little noise logits are better by a third of a point, and that by
    chance: its standard error is twice as much.
    """
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(300, C))
    features = np.hstack([scores, noise * rng.normal(size=(300, 3))])
    labels = np.sign(scores * np.roll(scores, 1, axis=1)).astype(int)
    splits = ["train"] * 200 + ["validation"] * 90 + ["test"] * 10
    data = written(tmp_path, features.astype(np.float32), labels, splits)
    model = imcl_tf.MultiLabelModel(None, C, fixed_features=True)
    model.build((None, D))
    set_head(model, Head(np.eye(D, C), np.zeros(C), 0.0))
    best = mixing.choose_mixing(model, data, most_images=200)
    assert best.share > 0 and best.observed and best.by == by


def test_images_without_labels_are_no_neighbours(data):
    model = model_of()
    set_head(model, solve_head(model, data).head)
    without = data.train.labels.toarray()
    without[: len(without) // 2] = 0
    labels = scipy.sparse.csr_array(without)
    data = data._replace(train=data.train._replace(labels=labels))
    found = mixing.neighbors_of(model, data, mixing.Mixing(1.0), 1000)
    rows = np.flatnonzero(without.any(1))
    features = heads.stored_features(model, data.train, rows)
    cosines, _ = found.look_up(features, model(features), model)
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-3)  # itself
    others = heads.stored_features(model, data.train, np.arange(5))
    cosines, _ = found.look_up(others, model(others), model)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    norms = np.linalg.norm(others, axis=1, keepdims=True)
    expected = (others / norms @ unit.T).max(1)
    np.testing.assert_allclose(cosines[:, 0], expected, atol=1e-3)


def test_features_are_computed_by_one_function(data, monkeypatch):
    """For minibatches of 32 and 18 alike: a second one would be a warning."""
    model, traced = model_of(), []
    features_of = model.features_of

    def counted(inputs, training):
        traced.append(inputs.shape)
        return features_of(inputs, training=training)

    monkeypatch.setattr(model, "features_of", counted)
    found = heads._computed_features(model, data.train)
    assert found.shape == (50, D)
    assert [shape[0] for shape in traced] == [None]


def test_a_run_with_chosen_neighbours(data, tmp_path):
    arguments = {"neighbors": "given", "neighbor_share": 1.0, **FEW}
    results = imcl_tf.run(data, None, "logistic", tmp_path, **arguments)
    assert results["neighbors"]["share"] == 1.0
    assert results["mAP"] != results["initial_logistic"]["mAP"]
    rows = np.arange(data.test.labels.shape[0])
    features = heads.load_inputs(data.test, rows, (D,))
    p, _ = imcl_tf.predict_features(tmp_path / "saved_model", features)
    ap = imcl_tf.average_precision(data.test.labels.toarray(), p)
    assert results["mAP"] == pytest.approx(100 * np.nanmean(ap))
    again = imcl_tf.run(
        data, None, "logistic", tmp_path, resume=True, **arguments
    )
    assert again == results
