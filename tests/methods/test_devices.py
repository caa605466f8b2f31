"""A step on several devices is that on one, for every method."""

import keras
import pytest
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel
from tests import programs
from tests.methods.several_devices import CASES

QUICK = [(2, "imcl")]
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


def test_a_strategy_that_clips_is_refused(monkeypatch):
    monkeypatch.setattr(
        tf.distribute.Strategy, "num_replicas_in_sync", property(lambda _: 2)
    )
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = MultiLabelModel(None, 2)
    with pytest.raises(ValueError, match="optimizer: gradients cannot be clip"):
        model.compile(keras.optimizers.SGD(clipnorm=1.0))
