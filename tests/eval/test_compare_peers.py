"""scikit-learn's peers, against an independent derivation."""

import json

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from sklearn.metrics import average_precision_score

from eval import peers

SIZES = {"train": 50, "validation": 15, "test": 15}


@pytest.fixture(scope="module")
def splits():
    """4 labels: usual ones, one observed present alone, one never observed."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(6, 4))
    made = {}
    for name, number in SIZES.items():
        features = rng.normal(size=(number, 6)).astype(np.float32)
        labels = np.sign(features @ truth).astype(np.int8)
        if name == "train":
            labels[rng.random(labels.shape) < 0.4] = 0
            labels[:, 2] = np.maximum(labels[:, 2], 0)
            labels[:, 3] = 0
        made[name] = peers.Examples(features, scipy.sparse.csr_array(labels))
    return made


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def precision(labels, scores):
    """Mean of scikit-learn's average precision, in percent."""
    return 100 * np.mean(
        [
            average_precision_score(labels[:, j] > 0, scores[:, j])
            for j in range(labels.shape[1])
        ]
    )


def solved(features, labels, strength):
    """Minimum of ||w||^2 / 2 + C sum log(1 + exp(-y z)), by SciPy."""
    seen = labels != 0
    x, y = features[seen].astype(float), labels[seen]

    def objective(w):
        z = x @ w[:-1] + w[-1]
        return w[:-1] @ w[:-1] / 2 + strength * np.logaddexp(0, -y * z).sum()

    return scipy.optimize.minimize(objective, np.zeros(7), tol=1e-9).x


def test_logistic_is_the_best_of_its_path(splits):
    model, results = peers.logistic(splits)
    train, test = splits["train"], splits["test"]
    labels = train.labels.toarray()
    for j in (0, 1):
        used = unit(train.features) if model.unit_norm else train.features
        expected = solved(used, labels[:, j], model.strength)
        found = [*model.kernel[:, j], model.bias[j]]
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    # A single value observed, or none: the same score for all images.
    assert not model.kernel[:, 2:].any()
    assert model.bias[2:].tolist() == [np.inf, 0]
    best = max(results["tried"], key=lambda trial: trial["validation_mAP"])
    assert results["chosen"] == {n: best[n] for n in ("C", "unit_norm")}
    assert {trial["unit_norm"] for trial in results["tried"]} == {False, True}
    used = unit(test.features) if model.unit_norm else test.features
    scores = np.nan_to_num(used @ model.kernel + model.bias)
    assert results["mAP"] == pytest.approx(
        precision(test.labels.toarray(), scores)
    )


def test_neighbours_show_labels_or_probabilities(splits):
    rng = np.random.default_rng(0)
    model = peers.Linear(
        True, 1.0, rng.normal(size=(6, 4)), np.array([0, 1, np.inf, 0])
    )
    results = peers.neighbors(splits, model)
    train = splits["train"]
    p = 1 / (1 + np.exp(-(unit(train.features) @ model.kernel + model.bias)))
    labels = train.labels.toarray()
    shown = np.choose(labels + 1, [np.zeros_like(p), p, np.ones_like(p)])

    def expected(split, k):
        cosines = unit(split.features) @ unit(train.features).T
        near = np.argsort(-cosines, axis=1)[:, :k]
        return precision(split.labels.toarray(), shown[near].mean(1))

    means = {k: expected(splits["validation"], k) for k in (5, 10, 20, 40)}
    found = {x["k"]: x["validation_mAP"] for x in results["tried"]}
    assert found == pytest.approx(means)
    k = max(means, key=means.get)
    assert results["chosen"] == {"k": k}
    assert results["mAP"] == pytest.approx(expected(splits["test"], k))


def test_choices_do_not_depend_on_test(splits):
    rng = np.random.default_rng(1)
    wrong = scipy.sparse.csr_array(-splits["test"].labels)
    other = {**splits, "test": splits["test"]._replace(labels=wrong)}
    features = rng.permutation(splits["test"].features)
    other["test"] = other["test"]._replace(features=features)
    model, first = peers.logistic(splits)
    changed, second = peers.logistic(other)
    assert first["tried"] == second["tried"]
    assert model.strength == changed.strength
    assert first["mAP"] != second["mAP"]


def test_finished_peers_are_read_and_changed_data_are_not(
    splits, tmp_path, monkeypatch
):
    runs = []

    class Data:
        splits = {"train": 0, "validation": 1, "test": 2}

    given = [*splits.values()]
    monkeypatch.setattr(peers, "_read", lambda number: given[number])
    real = peers.logistic
    monkeypatch.setattr(
        peers, "logistic", lambda splits: runs.append(1) or real(splits)
    )
    file = tmp_path / "a" / "0.json"
    first = peers.peers(Data, file)
    assert json.loads(file.read_text())["results"] == first
    assert peers.peers(Data, file) == first and len(runs) == 1
    labels = given[0].labels.copy()
    labels.data[0] *= -1
    given[0] = given[0]._replace(labels=labels)
    peers.peers(Data, file)
    assert len(runs) == 2
