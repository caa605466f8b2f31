"""Schedules of learning rates, and a run with all of a recipe's options."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.options import check_all
from imcl_tf.settings import RUN
from imcl_tf.training import stages
from imcl_tf.training.callbacks import RateSchedule
from tests.methods.common import tiny_cnn
from tests.methods.test_every_method import keep_checkpoint
from tests.training.watch import Watch

# 23 training images: 4 steps an epoch.
COMMON = {
    "regime": "end_to_end", "batch_size": 7, "initial_epochs": 0,
    "dictionary_size": 5, "num_neighbors": 2, "epochs": 2,
}  # fmt: skip
RECIPE = {
    "optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1,
    "rate_schedule": "cosine", "warmup_epochs": 0.5, "clip_norm": 0.1,
    "ema": True, "ema_decay": 0.5, "layer_decay": 0.5,
    "augment_level": "strong", "checkpoint_every": 3,
}  # fmt: skip
# 8 steps: two of warm-up, then a cosine over six.
FACTORS = [
    0.5, 1, *((1 + np.cos(np.pi * np.arange(6) / 6)) / 2)
]  # fmt: skip


def given(**options):
    return check_all(RUN, options)


def run(source, workdir, method="logistic", **options):
    keras.utils.set_random_seed(3)
    return imcl_tf.run(source, tiny_cnn(), method, workdir, **COMMON | options)


@pytest.fixture(scope="module")
def source(prepared):
    return open_source(prepared)


def test_cosine_is_that_of_keras():
    schedule = RateSchedule([1.0], warmup_steps=3, total_steps=13)
    expected = keras.optimizers.schedules.CosineDecay(1.0, 10)
    found = [schedule.factor(step) for step in range(3, 13)]
    np.testing.assert_allclose(
        found, [float(expected(n)) for n in range(10)], atol=1e-6
    )
    assert [schedule.factor(n) for n in range(3)] == [1 / 3, 2 / 3, 1]


def test_warm_up_alone_leaves_the_rest_to_others():
    schedule = RateSchedule([1.0], warmup_steps=2)
    assert [schedule.factor(n) for n in range(4)] == [0.5, 1, None, None]


def test_defaults_are_the_papers():
    """RMSProp as ever, one rate, no clipping, no average."""
    model = imcl_tf.MultiLabelModel(None, 2)
    model.build((None, 3))
    stages._compile(model, stages.initial_schedule(given()))
    expected = keras.optimizers.RMSprop(
        1e-3, rho=0.9, momentum=0.9, epsilon=1e-7, weight_decay=1.0
    )
    assert model.optimizer.get_config() == expected.get_config() | {
        "name": model.optimizer.name, "learning_rate": pytest.approx(1e-3),
    }  # fmt: skip
    recipe = model.clip_norm, model.layer_decay, model.ema_decay
    assert (*recipe, model.average) == (0, 1, 0, None)
    schedule = stages.initial_schedule(given())
    (only,) = stages._rate_callbacks(schedule, [1e-3], 100, 10, [])
    assert isinstance(only, imcl_tf.RateDecay)


def test_adamw_has_its_own_epsilon():
    optimizer = stages._optimizer(
        stages.initial_schedule(given(optimizer="adamw", momentum=0.8)), 0.1
    )
    assert type(optimizer) is keras.optimizers.AdamW
    plain = keras.optimizers.AdamW()
    assert optimizer.epsilon == plain.epsilon
    assert (optimizer.beta_1, optimizer.weight_decay) == (0.8, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_schedule": "cosine", "rate_drop_epoch": 2},
         "rate_drop_epoch=2 is of rate_schedule=plateau"),
        ({"warmup_epochs": 3}, "less than epochs=3, got 3"),
        ({"warmup_epochs": 2.5, "initial_epochs": 2},
         "less than initial_epochs=2, got 2.5"),
        ({"warmup_epochs": 0.5, "max_steps": 1},
         "warmup_epochs=0.5 are [12] steps; expected less than max_steps=1"),
    ],
)  # fmt: skip
def test_schedules_that_contradict(options, message, source, tmp_path):
    with pytest.raises(ValueError, match=message):
        stages.check_schedules(given(**options), 2, False)
    with pytest.raises(ValueError, match=message):
        run(
            source, tmp_path / "never",
            **{"epochs": 3, "initial_head": "trained"} | options,
        )  # fmt: skip
    assert not (tmp_path / "never").exists()


def test_stages_that_do_not_train_have_no_warm_up():
    options = {"warmup_epochs": 2, "epochs": 3}
    stages.check_schedules(given(initial_epochs=0, **options), 2, False)
    stages.check_schedules(given(initial_epochs=1, **options), 2, True)
    stages.check_schedules(given(max_steps=5, **options), 2, True)


def test_a_recipe_resumed_is_the_recipe(source, tmp_path, monkeypatch):
    """Raw weights, average, rates and pictures are those of one run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    rates = []
    step = keras.callbacks.ProgbarLogger.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        step(self, batch, logs)
        rates.append([float(o.learning_rate) for o in self.model.optimizers])

    with monkeypatch.context() as context:
        keep_checkpoint(context, whole, parts, step=6)
        context.setattr(
            keras.callbacks.ProgbarLogger, "on_train_batch_end",
            on_train_batch_end,
        )  # fmt: skip
        results = run(source, whole, **RECIPE)
    # Theta, then the only layer with weights.
    np.testing.assert_allclose(
        rates, np.outer(FACTORS, [0.01, 0.005]), rtol=1e-5
    )
    assert run(source, parts, resume=True, **RECIPE) == results
    table = (whole / "metrics.csv").read_text()
    assert (parts / "metrics.csv").read_text() == table
    shown = [
        float(row["learning_rate"])
        for row in csv.DictReader(table.splitlines())
        if row["split"] == "validation"
    ]
    np.testing.assert_allclose(
        shown[1:], [0.01 * FACTORS[3], 0.01 * FACTORS[7]], rtol=1e-4
    )
    with pytest.raises(ValueError, match="none with --rate_schedule=cosine"):
        run(source, whole, resume=True, **RECIPE | {"epochs": 3})

    # What is kept and exported is the average that was evaluated.
    model = keras.saving.load_model(whole / "checkpoints/best.keras")
    precision = imcl_tf.evaluate(model, source.validation)
    assert 100 * precision.mean() == pytest.approx(results["validation_mAP"])
    exported = tf.saved_model.load(str(whole / "saved_model"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    encoded = tf.stack([tf.io.encode_png(picture) for picture in pixels])
    outputs = exported.signatures["serving_default"](images=encoded)
    average = tf.sigmoid(model(pixels))
    np.testing.assert_allclose(outputs["probabilities"], average, atol=1e-6)
    model.average.put_in_place(False)
    assert not np.allclose(tf.sigmoid(model(pixels)), average, atol=1e-6)


def test_a_table_that_lacks_rows_is_refused(source, tmp_path):
    run(source, tmp_path)
    file = tmp_path / "metrics.csv"
    header, *rows = file.read_text().splitlines(keepends=True)
    steps = [int(row.split(",")[0]) for row in rows]
    assert steps == [0, 4, 4, 8, 8]
    for lines in (
        [], rows[:3], rows[:1], rows[1:], [rows[0], *rows[3:]],
        [*rows[:4], rows[4].replace("validation,", "validation,x")],
    ):  # fmt: skip
        file.write_text("".join([header, *lines]))
        with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
            run(source, tmp_path, resume=True, epochs=3)
    file.write_text("".join([header, *rows]))
    run(source, tmp_path, resume=True, epochs=3)
    assert file.read_text().startswith("".join([header, *rows]))


@pytest.mark.parametrize(("most", "steps"), [(5, [0, 4, 5]), (99, [0, 4, 8])])
def test_steps_are_no_more_than_the_most(source, tmp_path, most, steps):
    """Of two epochs of four steps each, evaluated after each and at the end."""
    run(source, tmp_path, max_steps=most, tuning=True)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [
        int(row["step"]) for row in rows if row["split"] == "validation"
    ] == steps


def test_warm_up_comes_before_the_plateau():
    """Rounds of 3 steps, each worse; the decay after the first is undone."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(21, 4)).astype(np.float32)
    labels = rng.choice([-1, 1], size=(21, 3)).astype(np.int8)
    cnn = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = imcl_tf.IMCL(cnn, 3, "identity", dictionary_size=0, num_neighbors=2)
    full = [0.1, 0.001, 0.5]
    theta, w, edges = map(keras.optimizers.RMSprop, full)
    model.compile(theta, edges, backbone_optimizer=w)
    watch = Watch()
    batches = tf.data.Dataset.from_tensor_slices((features, labels)).batch(7)
    model.fit(
        batches.repeat(), epochs=4, steps_per_epoch=3, verbose=0,
        callbacks=[watch, RateSchedule(full, 6), imcl_tf.RateDecay(0.8)],
    )  # fmt: skip
    factors = [*(np.arange(1, 7) / 6), 0.8, 0.8, 0.8, 0.64, 0.64, 0.64]
    np.testing.assert_allclose(watch.rates, np.outer(factors, full), rtol=1e-5)
