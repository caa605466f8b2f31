"""Predictions that are kept: scores of observed labels, likeliest labels."""

import datetime

import keras
import numpy as np
import pytest
import scipy.sparse

import imcl_tf
from imcl_tf.training.predictions import (
    Predictions,
    load,
    predict_split,
    save,
)
from imcl_tf.training.provenance import provenance

IMAGES, LABELS = 12, 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A split, the features of its images, and its labels."""
    path = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(1)
    labels = rng.choice([-1, 0, 1], (IMAGES, LABELS))
    names = [f"{n:02}" for n in range(IMAGES)]
    header = ["image", *(f"label {n:02}" for n in range(LABELS))]
    rows = [[n, *map(str, x)] for n, x in zip(names, labels, strict=True)]
    text = "\n".join(",".join(row) for row in [header, *rows])
    (path / "labels.csv").write_text(text.replace(",0", ",") + "\n")
    splits = ["train"] * 3 + ["validation"] * 3 + ["test"] * 6
    rows = ["image,split", *map(",".join, zip(names, splits, strict=True))]
    (path / "splits.csv").write_text("\n".join(rows) + "\n")
    features = rng.normal(size=(IMAGES, LABELS)).astype(np.float32)
    np.savez(path / "f.npz", ids=names, features=features)
    data = imcl_tf.load_dataset("folder", path, features=path / "f.npz")
    order = [int(name) for name in data.test.image_ids]
    return data.test, features[order], labels[order]


@pytest.fixture(scope="module")
def predicted(made):
    """Of a model whose scores are the features."""
    model = imcl_tf.MultiLabelModel(None, LABELS, fixed_features=True)
    model.build((None, LABELS))
    model.classifier.set_weights([np.eye(LABELS), np.zeros(LABELS)])
    return predict_split(model, made[0], batch_size=4)


def test_what_is_kept(made, predicted):
    split, features, labels = made
    precision, kept = predicted
    np.testing.assert_array_equal(kept.image_ids, split.image_ids)
    np.testing.assert_array_equal(kept.labels.toarray(), labels)
    np.testing.assert_allclose(kept.scores, features[labels != 0], rtol=1e-6)
    expected = np.argsort(-features, axis=1)[:, :50]
    np.testing.assert_array_equal(kept.top, expected)
    np.testing.assert_array_equal(
        kept.precision().per_label(), precision.per_label()
    )


def test_saved_and_loaded(predicted, tmp_path):
    file = tmp_path / "p.npz"
    save(predicted[1], file)
    mean = 100 * predicted[0].mean()
    for one, other in zip(load(file, mean), predicted[1], strict=True):
        one, other = (
            x.toarray() if hasattr(x, "toarray") else x for x in (one, other)
        )
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_images_with_most_labels_and_then_those_with_the_same():
    rows = ["110", "1+1", "+11", "110", "111", "---", "00-", "1+1", "100"]
    value = {"1": 1, "+": 1, "-": -1, "0": 0}
    labels = np.array([[value[x] for x in row] for row in rows], "i1")
    made = Predictions(
        image_ids=np.array([*map(str, range(9))], "S"),
        labels=scipy.sparse.csr_array(labels),
        scores=np.zeros(np.count_nonzero(labels), "f4"),
        top=np.zeros((9, 3), "i4"),
    )
    assert made.most_present(9).tolist() == [1, 0, 8, 2, 4, 7, 3]
    assert made.most_present(4).tolist() == [1, 0, 8, 2]


def test_a_file_that_is_damaged(predicted, tmp_path):
    file = tmp_path / "p.npz"
    save(predicted[1]._replace(scores=np.zeros(1)), file)
    with pytest.raises(ValueError, match=r"p\.npz is damaged: 1 scores of"):
        load(file, 50.0)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"p\.npz is damaged: "):
        load(file, 50.0)


@pytest.mark.parametrize("scores", ["others", "none"])
def test_a_file_of_another_run(predicted, tmp_path, scores):
    """It is not its results' though it is whole."""
    file = tmp_path / "p.npz"
    precision, kept = predicted
    other = -kept.scores if scores == "others" else kept.scores * np.nan
    save(kept._replace(scores=other), file)
    with pytest.raises(ValueError, match=r"p\.npz is of another run: its mAP"):
        load(file, 100 * precision.mean())


def test_provenance_says_when_and_with_what():
    begun = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    found = provenance(begun, "c0ffee", resumed=True)
    assert found["begun"] == "2026-01-02T03:04:05+00:00" and found["resumed"]
    ended = datetime.datetime.fromisoformat(found["ended"])
    assert found["seconds"] == pytest.approx(
        (ended - begun).total_seconds(), abs=1
    )
    assert found["packages"]["keras"] == keras.__version__
    assert found["processor"] and found["cores"] >= 1
    assert found["commit"] == "c0ffee"
