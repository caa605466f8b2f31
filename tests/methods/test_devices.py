"""A step on several devices or workers is that on one, for every method."""

import keras
import pytest
import tensorflow as tf

from imcl_tf.backbones.make import backbone
from imcl_tf.backbones.statistics import freeze_batch_statistics
from imcl_tf.methods import method
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops import workers
from tests import programs
from tests.methods.several_devices import CASES

QUICK = [(2, "imcl imcl_fixed")]
REST = [
    (devices, name)
    for devices in (2, 3)
    for name in sorted(CASES)
    if not any(d == devices and name in names.split() for d, names in QUICK)
]


@pytest.mark.parametrize(
    ("devices", "names"),
    [*QUICK, *(pytest.param(*rest, marks=pytest.mark.slow) for rest in REST)],
)
def test_losses_weights_and_marks_are_those_of_one(devices, names):
    done = programs.run(
        "tests.methods.several_devices", str(devices), *names.split()
    )
    assert done.returncode == 0, done.stderr[-3000:]


_ALL = " ".join(sorted(CASES))


@pytest.mark.parametrize(
    ("number", "names"),
    [
        (2, "imcl logistic"),
        (3, "imcl_gradient"),
        pytest.param(2, _ALL, marks=pytest.mark.slow),
        pytest.param(3, _ALL, marks=pytest.mark.slow),
    ],
)
def test_several_workers_train_what_one_process_does(number, names):
    started = programs.start_workers(
        number, "tests.methods.several_workers", *names.split()
    )
    for done in [program.finish(timeout=1200) for program in started]:
        assert done.returncode == 0, done.stderr[-3000:]


def test_a_strategy_that_clips_is_refused(monkeypatch):
    monkeypatch.setattr(
        tf.distribute.Strategy, "num_replicas_in_sync", property(lambda _: 2)
    )
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = MultiLabelModel(None, 2)
    with pytest.raises(ValueError, match="optimizer: gradients cannot be clip"):
        model.compile(keras.optimizers.SGD(clipnorm=1.0))


def test_xla_cannot_compile_what_workers_exchange(monkeypatch):
    """Batch statistics that are stored are not exchanged."""
    cnn = backbone("small_cnn", image_size=32)
    monkeypatch.setattr(workers, "_current", workers.Workers(1, 2))
    model = method("logistic")(cnn, 3)
    with pytest.raises(ValueError, match="jit: XLA cannot compile"):
        model.compile(jit_compile=True)
    freeze_batch_statistics(cnn)
    model.compile(jit_compile=True)
