"""From the start of a process to its first training step."""

from __future__ import annotations

import os
import runpy
import sys
import tempfile

import keras

from eval.benchmark.measure import Figure, call, measure, ratio
from imcl_tf.data.datasets import load_dataset
from imcl_tf.methods.base import MultiLabelModel


def start(scale: float, repeats: int) -> list[Figure]:
    """`imcl_tf.main` on the embedded data set, which exists already.

    Neither process is timed beyond what it is for: both end at once.
    """
    del scale  # the data set has one size
    with tempfile.TemporaryDirectory() as data:
        call(prepare, data)
        runs, floors = [], []
        for number in range(repeats):
            workdir = os.path.join(data, f"run-{number}")
            runs.append(call(first_step, data, workdir))
            floors.append(measure("-c", "import os, tensorflow; os._exit(0)"))
    what = "start to first step of scenes to importing TensorFlow"
    return [ratio(what, runs, floors)._replace(bar=3)]


def prepare(data_dir: str):
    """Makes the records and the label tables."""
    load_dataset("scenes", data_dir)


def first_step(data_dir: str, workdir: str):
    """Runs `imcl_tf.main`; ends the process once a step is taken."""
    fit = MultiLabelModel.fit

    def fit_a_step(model, *args, callbacks, **kwargs):
        fit(model, *args, callbacks=[*callbacks, _End()], **kwargs)
        raise RuntimeError("no step was taken")

    MultiLabelModel.fit = fit_a_step  # type: ignore[assignment,method-assign]
    sys.argv[1:] = [
        "--dataset=scenes", f"--data_dir={data_dir}", f"--workdir={workdir}"
    ]  # fmt: skip
    runpy.run_module("imcl_tf.main", run_name="__main__", alter_sys=True)


class _End(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        os._exit(0)
