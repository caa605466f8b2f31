"""Runs programs as `python -m` does, from the checkout.

In processes forked from one that has imported TensorFlow already: a program's
start takes longer than most of what the tests let it do.
"""

import functools
import gc
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from eval.loopback import tf_configs

ROOT = Path(__file__).resolve().parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["imcl_tf.training.run", "tensorflow_datasets"])


class Program:
    """`python -m module arguments`, started.

    Args:
      module: name.
      *arguments: of the command line.
      cwd: where it runs.
      limit: most bytes of a file, None = any.
      optimized: whether TensorFlow optimises its graphs, as it does by default.
        That takes longer than a few steps of them.
      environment: further variables, name -> value.
    """

    def __init__(
        self, module, *arguments, cwd=ROOT, limit=None, optimized=True,
        environment=None,
    ):  # fmt: skip
        self._command = [module, *map(str, arguments)]
        self._place = tempfile.TemporaryDirectory()
        self._outputs = [
            Path(self._place.name, name) for name in ("stdout", "stderr")
        ]
        self._process = FORKS.Process(
            target=_main,
            args=(
                self._command, str(cwd), limit, optimized,
                [*map(str, self._outputs)], environment or {},
            ),
        )  # fmt: skip
        self._process.start()

    def is_running(self):
        return self._process.is_alive()

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def output(self):
        """What it has written to stdout so far."""
        return self._written(0)

    def errors(self):
        """The same of stderr."""
        return self._written(1)

    def _written(self, number):
        path = self._outputs[number]
        return path.read_text() if path.exists() else ""

    def finish(self, timeout=300):
        """The finished process with its output; at most `timeout` seconds."""
        self._process.join(timeout)
        if self.is_running():
            self._process.kill()
            raise TimeoutError(f"{self._command} takes over {timeout} s")
        with self._place:
            return subprocess.CompletedProcess(
                self._command,
                self._process.exitcode,
                *(path.read_text() for path in self._outputs),
            )


def run(module, *arguments, timeout=300, **kwargs):
    """A finished `Program`."""
    return Program(module, *arguments, **kwargs).finish(timeout)


def start_workers(number, module, *arguments, **kwargs):
    """`Program`s that TF_CONFIG makes the workers of one job on this machine.

    Args:
      number: of workers.
      module: name.
      *arguments: of the command line of each.
      **kwargs: of `Program`.
    """
    return [
        Program(module, *arguments, environment={"TF_CONFIG": config}, **kwargs)
        for config in tf_configs(number)
    ]


def leave_graphs_as_they_are():
    """Lets TensorFlow run the graphs of this process without optimising."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )


def lighten():
    """Spares this process what it would do again and again."""
    from keras.src.saving import saving_lib

    # What the imports made stays: no collection of garbage need look at it.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    # Keras 3.15 looks its result up under another name than it stored it: a
    # new layer for each object of a model that is saved or loaded.
    saving_lib.get_attr_skipset = functools.cache(saving_lib.get_attr_skipset)


def _main(command, cwd, limit, optimized, outputs, environment):
    os.environ.update(environment)
    for number, path in enumerate(outputs, 1):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    lighten()
    if not optimized:
        leave_graphs_as_they_are()
    # The server of the forks, or a job in the background, ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.chdir(cwd)
    # As `python -m` has it; data_prep and eval are not installed.
    sys.path[:0] = [cwd, str(ROOT)]
    sys.argv = command
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
