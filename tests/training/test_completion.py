"""Labels completed from similar images, and what is solved with them."""

import csv

import numpy as np
import pytest
import scipy.special

import imcl_tf
from imcl_tf.training import completion
from imcl_tf.training.completion import _shown, complete, completed
from imcl_tf.training.heads import solve_head
from imcl_tf.training.run import run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two labels of six tight groups of images, few of them observed."""
    place = tmp_path_factory.mktemp("groups")
    rng = np.random.default_rng(0)
    group = np.arange(180) % 6
    features = rng.normal(size=(6, 8))[group] + 0.1 * rng.normal(size=(180, 8))
    truth = np.stack([group < 3, group % 2 == 0], 1)
    splits = np.repeat(["train", "validation", "test"], 60)
    observed = (rng.random((180, 2)) < 0.15) | (splits != "train")[:, None]
    ids = [f"{i:03}" for i in range(180)]
    np.savez(place / "f.npz", ids=ids, features=features.astype("f4"))
    (place / "labels.csv").write_text(
        "image,label,value\n"
        + "".join(
            f"{ids[i]},{'xy'[j]},{1 if truth[i, j] else -1}\n"
            for i, j in np.argwhere(observed)
        )
    )
    (place / "splits.csv").write_text(
        "image,split\n"
        + "".join(f"{i},{s}\n" for i, s in zip(ids, splits, strict=True))
    )
    return imcl_tf.load_dataset("folder", place, features=place / "f.npz")


def model_of(data):
    model = imcl_tf.MultiLabelModel(None, 2, fixed_features=True)
    model.build((None, 8))
    model.set_inputs(True, unit_norm=True)
    head = solve_head(model, data, penalty=0.01).head
    model.classifier.set_weights([head.kernel, head.bias])
    model.penalty.assign(head.penalty)
    return model, head


def test_an_image_alone_has_no_neighbours(data):
    _, head = model_of(data)
    features = np.random.default_rng(1).normal(size=(1, 8)).astype("f4")
    expected = scipy.special.expit(features @ head.kernel + head.bias)
    np.testing.assert_allclose(_shown(features, head), expected, rtol=1e-5)


def test_what_neighbours_show(data):
    """Against every pair of images."""
    _, head = model_of(data)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(30, 8)).astype("f4")
    p = scipy.special.expit(features @ head.kernel + head.bias)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = []
    for i, cosines in enumerate(unit @ unit.T):
        near = [j for j in np.argsort(-cosines) if j != i][:20]
        weights = np.exp(cosines[near] / 0.05)
        expected.append(weights @ p[near] / weights.sum())
    np.testing.assert_allclose(_shown(features, head), expected, atol=1e-4)


def test_the_surest_are_completed(data):
    labels = data.train.labels
    shown = np.random.default_rng(2).random(labels.shape).astype("f4")
    dense = completed(labels, shown, 0.25).toarray()
    observed = labels.toarray() != 0
    np.testing.assert_array_equal(dense[observed], labels.toarray()[observed])
    sure = np.abs(2 * shown - 1)[~observed]
    new = dense[~observed] != 0
    assert new.sum() == round(0.25 * sure.size)
    assert sure[new].min() > sure[~new].max()
    targets = (2 * shown - 1)[~observed]
    np.testing.assert_allclose(dense[~observed][new], targets[new])
    everything = completed(labels, shown, 1.0).toarray()
    np.testing.assert_allclose(everything[~observed], targets)


def test_rounds_go_on_while_validation_gains(data):
    model, head = model_of(data)
    tried = complete(model, data, rounds=3)
    assert [(x.round, x.share) for x in tried[:3]] == [
        (0, 0.0), (1, 0.3), (1, 1.0)
    ]  # fmt: skip
    np.testing.assert_array_equal(tried[0].head.kernel, head.kernel)
    # The last round gained nothing, or was the last one allowed.
    last = tried[-1].round
    before = max(x.mean for x in tried if x.round < last)
    assert last == 3 or max(x.mean for x in tried) == before
    for x in tried:
        model.classifier.set_weights([x.head.kernel, x.head.bias])
        mean = 100 * imcl_tf.evaluate(model, data.validation).mean()
        assert x.mean == pytest.approx(mean)


@pytest.mark.parametrize(
    ("most", "what"),
    [(119, "60 training images of 2 labels"), (479, "60 .* of 8 features")],
)
def test_what_does_not_fit_into_memory(data, monkeypatch, most, what):
    monkeypatch.setattr(completion, "_MOST_ENTRIES", 480)
    completion.check_size(data, 8)
    monkeypatch.setattr(completion, "_MOST_ENTRIES", most)
    with pytest.raises(ValueError, match=what):
        completion.check_size(data, 8)


@pytest.mark.usefixtures("without_export")
def test_a_run(data, tmp_path):
    arguments = {"regime": "fixed_features", "epochs": 0}
    results = run(
        data, None, "logistic", tmp_path, completion_rounds=2, **arguments
    )
    with (tmp_path / "initial/completion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["validation_mAP"]))
    assert results["validation_mAP"] == pytest.approx(
        float(best["validation_mAP"]), abs=1e-3
    )
    assert results["penalty"] == pytest.approx(float(best["penalty"]))
    assert rows[0]["round"] == "0" and int(rows[-1]["round"]) > 0
    plain = run(data, None, "logistic", tmp_path / "plain", **arguments)
    # The initial model is the one before.
    assert results["initial_logistic"] == plain["initial_logistic"]
    with pytest.raises(ValueError, match="needs regime=fixed_features"):
        run(
            data, None, "logistic", tmp_path / "no", completion_rounds=1,
            initial_head="trained", **arguments,
        )  # fmt: skip
