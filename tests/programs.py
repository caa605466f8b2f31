"""Runs programs as `python -m` does, from the checkout.

In processes forked from one that has imported TensorFlow already: a program's
start takes longer than most of what the tests let it do.
"""

import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["imcl_tf.training.run", "tensorflow_datasets"])


def run(module, *arguments, cwd=ROOT, limit=None, timeout=300):
    """`python -m module arguments`, as a finished process with its output.

    Args:
      module: name.
      *arguments: of the command line.
      cwd: where it runs.
      limit: most bytes of a file, None = any.
      timeout: seconds.
    """
    arguments = [*map(str, arguments)]
    with tempfile.TemporaryDirectory() as place:
        outputs = [Path(place, name) for name in ("stdout", "stderr")]
        process = _FORKS.Process(
            target=_main,
            args=(module, arguments, str(cwd), limit, [*map(str, outputs)]),
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{module} {arguments} takes over {timeout} s")
        return subprocess.CompletedProcess(
            [module, *arguments],
            process.exitcode,
            *(path.read_text() for path in outputs),
        )


def _main(module, arguments, cwd, limit, outputs):
    for number, path in enumerate(outputs, 1):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.chdir(cwd)
    # As `python -m` has it; data_prep and eval are not installed.
    sys.path[:0] = [str(cwd), str(ROOT)]
    sys.argv = [module, *arguments]
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
