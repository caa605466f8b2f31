"""Programs in forked processes: they count what they do to files, to be killed.

The process that forks has imported TensorFlow, and not used it yet: most
faults would otherwise befall programs that still import.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FORKS = multiprocessing.get_context("fork")
# Python's audit events of what a program does to files; reading is one too.
_OPERATIONS = frozenset(
    ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
)


class Ended(NamedTuple):
    """A program that has ended.

    Attributes:
      status: its exit status; minus the number of the signal that ended it.
      operations: how many file operations it began.
      seconds: that it took, without its imports.
      errors: what it wrote to stderr.
    """

    status: int
    operations: int
    seconds: float
    errors: str


class Program:
    """`python -m module flags` in a process of its own, started.

    Args:
      module: of the program.
      arguments: its flags.
      place: file operations below it count.
      last: the process is killed when it begins its operation of this number,
        which counts from 1; 0 = never.
      limit: most bytes of a file, None = any.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        place: Path,
        last: int = 0,
        limit: int | None = None,
    ):
        self._operations = FORKS.RawValue("q", 0)
        self._errors, errors = os.pipe()
        self._begun = time.monotonic()
        self._process = FORKS.Process(
            target=_run,
            args=(
                [module, *arguments], str(place), self._operations, last, limit,
                errors,
            ),
        )  # fmt: skip
        self._process.start()
        os.close(errors)

    def wait_for_operation(self):
        """Returns when it has begun a file operation, or has ended."""
        while not self._operations.value and self._process.is_alive():
            time.sleep(0.001)

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def kill(self):
        """Sends it SIGKILL."""
        self._process.kill()

    def end(self) -> Ended:
        """Waits for its end."""
        with open(self._errors, errors="replace") as pipe:
            errors = pipe.read()
        self._process.join()
        seconds = time.monotonic() - self._begun
        status = self._process.exitcode
        assert status is not None
        return Ended(status, self._operations.value, seconds, errors)


def _run(command, place, operations, last, limit, errors):
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    numbers = itertools.count(1)

    def count(event, arguments):
        if event in _OPERATIONS and _is_below(place, arguments):
            operations.value = next(numbers)
            if operations.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _is_below(place: str, arguments: tuple) -> bool:
    return any(
        os.fsdecode(x).startswith(place)
        for x in arguments
        if isinstance(x, str | bytes | os.PathLike)
    )
