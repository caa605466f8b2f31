"""Runs a target on many inputs."""

import faulthandler
import math
import resource
import time
import warnings
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import REFUSED, Target

# Seconds after which an input that never returns ends the program.
NEVER = 120


class Report(NamedTuple):
    """What a target made of its inputs.

    Attributes:
      read: inputs that it took.
      refused: those that it did not.
      seconds: the most of the processor's for one of them.
    """

    read: int
    refused: int
    seconds: float


def attempt(target: Target, content: bytes, directory: Path) -> bool:
    """Reads one input; returns whether it was taken.

    Raises:
      AssertionError: if it was taken for something else, or refused badly.
      Exception: any other, if the reader raises it.
    """
    path = directory / target.file
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = target.read(path)
    except target.refusals as error:
        lines = str(error).splitlines()
        assert len(lines) == 1 or not isinstance(error, REFUSED), lines
        assert lines, "no message"
        return False
    target.verify(content, found)
    return True


def run(
    target: Target,
    number: int,
    directory: Path,
    first: int | None = None,
    most_seconds: float = math.inf,
) -> Report:
    """Reads `number` inputs of a target.

    Args:
      target: to fuzz.
      number: of inputs.
      directory: an empty one.
      first: seed; None = always the same inputs.
      most_seconds: of the processor's that an input may take.

    Raises:
      AssertionError: as `attempt`; the input is then in `directory`, made as
        small as the failure allows.
    """
    target.prepare(directory)
    read, seconds = [], []

    def body(content):
        # One that never returns ends the process; its file says which it was.
        faulthandler.dump_traceback_later(NEVER, exit=True)
        start = time.process_time()
        read.append(attempt(target, content, directory))
        seconds.append(time.process_time() - start)
        assert seconds[-1] < most_seconds, f"{seconds[-1]:.1f} s"

    body = given(target.make)(body)
    body = settings(
        max_examples=number,
        derandomize=first is None,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
        report_multiple_bugs=False,
    )(body)
    try:
        (body if first is None else seed(first)(body))()
    finally:
        faulthandler.cancel_dump_traceback_later()
    return Report(sum(read), len(read) - sum(read), max(seconds))


def peak_megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
