"""A run of several workers: one directory, the same settings, one message."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from absl import logging

from imcl_tf.files import locked
from imcl_tf.ops import workers
from imcl_tf.settings import AUTO
from imcl_tf.training.progress import report

_PREFIX = "imcl_tf-worker-"  # of the copies
_MINUTE = 60
# Large ones that no run reads. Whatever a run looks for must be in the copy:
# else a worker would go through other steps than the first one.
_NOT_READ = "events.out.tfevents.*", "earlier"


def start(method: str, search: str):
    """Joins the workers of a run, before TensorFlow computes anything.

    Args:
      method: option of that name.
      search: option of that name.

    Raises:
      ValueError: for a run whose workers would each choose settings by
        themselves.
      ValueError, ConnectionError: see `workers.start`.
    """
    for is_given, what in (
        (method == AUTO, f"--method={AUTO} chooses"),
        (search, "--search searches"),
    ):
        if is_given:
            raise ValueError(
                f"strategy: {what} settings on one machine; then train with "
                "these and --strategy=multi_worker"
            )
    report("waiting for all workers, an hour at most")
    workers.start()


@contextlib.contextmanager
def one_workdir(workdir: Path) -> Iterator[Path]:
    """Yields where this worker writes: worker 0 to the run's directory.

    The others go through the same steps on a copy, which is removed. What they
    print is not shown: it would be what worker 0 prints.

    Args:
      workdir: on a file system that all workers see.

    Raises:
      ValueError: if they do not see the same files there.
    """
    who = workers.current()
    workers.require_same(
        "\n".join(_listing(workdir)),
        f"sees other files in {workdir} than worker 0; --workdir must be a "
        "directory that all machines share",
    )
    if who.index == 0:
        workers.wait_for_all()  # until the others have their copies
        yield workdir
        workers.leave()
        return
    logging.set_verbosity(logging.ERROR)
    remove_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX) as place,
        locked(Path(place)),
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        copy = Path(place, "run")  # "." and ".." are no names
        if workdir.exists():
            shutil.copytree(
                workdir, copy, ignore=shutil.ignore_patterns(*_NOT_READ)
            )
        workers.wait_for_all()
        yield copy
        workers.leave()


def remove_abandoned(directory: Path):
    """Removes the copies of workers that were killed, as large as checkpoints.

    Args:
      directory: of temporary files.
    """
    for path in directory.glob(f"{_PREFIX}*"):
        # One that is used is locked, but for the moment after it is made.
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _MINUTE:
                continue
            with locked(path, wait=False) as is_locked:
                if is_locked:
                    shutil.rmtree(path)


def _listing(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield f"{path.relative_to(directory)} {path.stat().st_size}"


def explained(error: Exception) -> Exception:
    """What ended a run, in one line where another worker is the reason.

    Args:
      error: that TensorFlow raised.
    """
    text = str(error)
    if workers.current().number == 1 or not isinstance(
        error, tf.errors.OpError
    ):
        return error
    # One that this worker has made names collectives too, where it stands.
    if isinstance(error, tf.errors.InvalidArgumentError) or not re.search(
        "Collective|oordination", text
    ):
        return error
    # One that was stopped for a while reads that it is itself the reason.
    named = {*map(int, re.findall(r"/task:(\d+)", text))}
    named -= {workers.current().index}
    which = f"worker {min(named)}" if named else "another worker"
    return RuntimeError(
        f"{which} has stopped, or cannot be reached; its own output says why. "
        "The same command with --resume on every machine continues the run"
    )
