"""Starts the workers of one job on this machine, which talk over loopback.

Imports no TensorFlow: its threads would keep the workers' cores busy.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
# Before the imports: threads are where the thread was that has made them.
_PROGRAM = """
import os
os.sched_setaffinity(0, {cores})
import {module} as m
m.{function}({arguments})
"""
_PAUSE = 0.05  # seconds between looks at the workers


def tf_configs(number: int) -> list[str]:
    """Returns TF_CONFIG of each of `number` workers, at free ports."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in free]
    return [
        json.dumps(
            {
                "cluster": {"worker": hosts},
                "task": {"type": "worker", "index": index},
            }
        )
        for index in range(number)
    ]


def run_workers(number: int, function: Callable, *arguments: float) -> Any:
    """Runs a function of a module in `number` workers of one thread each.

    Each has a core of its own. If there are fewer cores, no worker is held to
    one: two would share it while another has one alone.

    Args:
      number: n >= 1; of one worker TF_CONFIG is not set.
      function: prints its result in JSON, in the last line of its output. It
        calls `imcl_tf.ops.workers.start` itself.
      *arguments: of the function.

    Returns:
      the result of worker 0.

    Raises:
      ChildProcessError: if a worker fails; the others are then killed.
    """
    cores = sorted(os.sched_getaffinity(0))
    spec = sys.modules[function.__module__].__spec__
    assert spec is not None
    configs = [{"TF_CONFIG": config} for config in tf_configs(number)]
    with contextlib.ExitStack() as stack:
        outputs, processes = [], []
        for index, config in enumerate(configs if number > 1 else [{}]):
            own = {cores[index]} if number <= len(cores) else set(cores)
            program = _PROGRAM.format(
                cores=own,
                module=spec.name,
                function=function.__name__,
                arguments=", ".join(map(repr, arguments)),
            )
            files = [
                stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)
            ]
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=ROOT, env=_one_thread() | config,
                stdout=files[0], stderr=files[1],
            )  # fmt: skip
            stack.callback(_end, process)
            outputs.append(files)
            processes.append(process)
        for index in _ended(processes):
            if processes[index].returncode:
                last = _lines(outputs[index][1])[-1:] or ["no message"]
                raise ChildProcessError(
                    f"worker {index} of {number} failed: {last[0]}"
                )
        return json.loads(_lines(outputs[0][0])[-1])


def _one_thread() -> dict[str, str]:
    """The environment of a worker."""
    kept = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    return kept | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
    }


def _ended(processes: list[subprocess.Popen]) -> Iterator[int]:
    """Each process, by number, when it has ended."""
    left = {*range(len(processes))}
    while left:
        ended = [i for i in left if processes[i].poll() is not None]
        yield from ended
        left.difference_update(ended)
        time.sleep(_PAUSE if left else 0)


def _end(process: subprocess.Popen):
    process.kill()
    process.wait()


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").strip().splitlines()
