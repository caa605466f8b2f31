"""Checkpoints: which are written when, and which are found again."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.training.checkpoints import (
    BestCheckpoint,
    ContinuedRound,
    is_whole,
    load_best,
    load_latest,
)

FEATURES = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).choice([-1, 1], (12, 2)).astype(np.int8)


def model_of():
    keras.utils.set_random_seed(0)
    model = imcl_tf.MultiLabelModel(None, 2)
    model.build((None, 3))
    model.compile(keras.optimizers.RMSprop(0.1, momentum=0.9))
    model.build_optimizers()
    return model


class Scores(keras.callbacks.Callback):
    """A validation mAP that rises."""

    def on_train_begin(self, logs=None):
        logs["val_mAP"] = 10.0

    def on_epoch_end(self, epoch, logs=None):
        logs["val_mAP"] = 20.0 + epoch


class Files(keras.callbacks.Callback):
    """Notes which steps the two latest checkpoints are of, after each step."""

    def __init__(self, directory):
        super().__init__()
        self.steps = []
        self._directory = directory

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(
            [
                step_of(self._directory / f"{name}.keras")
                for name in ("previous", "latest")
            ]
        )


def step_of(file):
    if not file.exists():
        return None
    return int(keras.models.load_model(file).optimizer.iterations.numpy())


def data():
    batches = tf.data.Dataset.from_tensor_slices((FEATURES, LABELS))
    return batches.batch(2).repeat()


def test_steps_of_the_checkpoints(tmp_path):
    """Every second step of rounds of five, and after each round."""
    files = Files(tmp_path)
    model_of().fit(
        data(), epochs=2, steps_per_epoch=5, verbose=0,
        callbacks=[Scores(), BestCheckpoint(tmp_path, every=2), files],
    )  # fmt: skip
    assert files.steps == [
        [None, 0], [0, 2], [0, 2], [2, 4], [2, 4],
        # The round's end, step 5, is saved after the fifth entry.
        [5, 6], [5, 6], [6, 8], [6, 8], [6, 8],
    ]  # fmt: skip
    assert step_of(tmp_path / "latest.keras") == 10
    assert step_of(tmp_path / "best.keras") == 10


@pytest.fixture
def saved(tmp_path):
    """A directory with checkpoints of steps 4 (previous) and 5 (latest)."""
    model_of().fit(
        data(), epochs=1, steps_per_epoch=5, verbose=0,
        callbacks=[Scores(), BestCheckpoint(tmp_path, every=2)],
    )  # fmt: skip
    return tmp_path


def truncated(content):
    return content[: len(content) // 2]


def with_other_byte(content):
    """In the weights, which lie in the file as they are."""
    at = content.rindex(b"PK\x01\x02") - 100
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage", [truncated, with_other_byte, lambda content: b""]
)
def test_a_torn_checkpoint_is_passed_over(damage, saved, caplog):
    latest = saved / "latest.keras"
    assert is_whole(latest)
    latest.write_bytes(damage(latest.read_bytes()))
    assert not is_whole(latest)
    model = model_of()
    with caplog.at_level(logging.WARNING, "absl"):
        assert load_latest(model, saved)
    assert f"{latest} is damaged and passed over" in caplog.text
    assert int(model.optimizer.iterations.numpy()) == 4
    expected = keras.models.load_model(saved / "previous.keras")
    for variable, other in zip(
        model.optimizer.variables, expected.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())


def test_between_two_renames_the_previous_one_counts(saved):
    """Where a program was killed when it had moved the latest one aside."""
    (saved / "latest.keras").unlink()
    model = model_of()
    assert load_latest(model, saved)
    assert int(model.optimizer.iterations.numpy()) == 4


def test_no_whole_checkpoint_is_an_error(saved, tmp_path):
    for name in ("latest", "previous", "best"):
        (saved / f"{name}.keras").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no checkpoint in .* is whole; take"):
        load_latest(model_of(), saved)
    with pytest.raises(ValueError, match="best.keras is damaged or missing"):
        load_best(model_of(), saved)
    assert not load_latest(model_of(), tmp_path / "none")


def test_a_full_disk_leaves_the_checkpoints_as_they_were(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(self, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = model_of()
    monkeypatch.setattr(type(model), "save", full)
    checkpoint = BestCheckpoint(saved)
    checkpoint.set_model(model)
    with pytest.raises(OSError, match="No space left on device: .*latest.kera"):
        checkpoint.on_epoch_end(0, {"val_mAP": 99.0})
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_continued_round_has_the_means_of_all_its_steps(tmp_path):
    """Six minibatches at once, or four and, in a model loaded anew, two."""

    def fit(model, steps, *callbacks):
        ds = data().skip(int(model.optimizer.iterations.numpy()))
        return model.fit(
            ds, steps_per_epoch=steps, verbose=0, callbacks=[*callbacks]
        ).history["loss"]

    expected = fit(model_of(), 6)
    model = model_of()
    fit(model, 4)
    model.save(tmp_path / "latest.keras")
    model = model_of()
    assert load_latest(model, tmp_path)
    assert fit(model, 2, ContinuedRound(model)) == expected
    assert fit(model_of(), 6) == expected  # and each is no accident


def test_best_checkpoint_is_of_the_best_validation(tmp_path):
    model = model_of()
    checkpoint = BestCheckpoint(tmp_path)
    checkpoint.set_model(model)
    checkpoint.on_train_begin({"val_mAP": 10.0})
    kernels = []
    for epoch, value in enumerate([30.0, 20.0, 30.0]):
        model.train_on_batch(FEATURES, LABELS)
        kernels.append(model.classifier.kernel.numpy())
        checkpoint.on_epoch_end(epoch, {"val_mAP": value})
    best = keras.models.load_model(checkpoint.best_file)
    np.testing.assert_array_equal(best.classifier.kernel.numpy(), kernels[0])
    latest = keras.models.load_model(checkpoint.latest_file)
    np.testing.assert_array_equal(latest.classifier.kernel.numpy(), kernels[2])
