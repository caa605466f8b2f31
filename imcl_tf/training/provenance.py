"""Where the numbers of a run come from: code, packages, machine, time."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import tensorflow as tf

import imcl_tf
from imcl_tf.ops import workers

_PACKAGES = (
    "tensorflow", "keras", "tensorflow-datasets", "numpy", "scipy", "pandas",
)  # fmt: skip
_ROOT = Path(imcl_tf.__file__).resolve().parents[1]


def provenance(
    begun: datetime.datetime, commit: str | None, resumed: bool
) -> dict[str, Any]:
    """Describes how a run that ends now was made.

    Args:
      begun: when this process began with it, with a time zone.
      commit: see `commit_of_checkout`, which is asked before the run.
      resumed: whether an earlier process had begun it; its time is not known.

    Returns:
      "version" of this package and "commit" of its checkout, "packages" name ->
      version, "python", "processor", "cores", "accelerators" (names) of this
      machine, "workers" (how many), "begun"
      and "ended" (ISO 8601, UTC), "seconds" between them, "resumed".

    Example:
      >>> import datetime
      >>> from imcl_tf.training.provenance import provenance
      >>> now = datetime.datetime.now(datetime.UTC)
      >>> provenance(now, commit=None, resumed=False)["seconds"] < 60
      True
    """
    ended = datetime.datetime.now(datetime.UTC)
    return {
        "version": imcl_tf.__version__,
        "commit": commit,
        "packages": {
            name: importlib.metadata.version(name) for name in _PACKAGES
        },
        "python": platform.python_version(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "accelerators": _accelerators(),
        "workers": workers.current().number,
        "begun": begun.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "seconds": round((ended - begun).total_seconds(), 1),
        "resumed": resumed,
    }


def processor() -> str:
    """The name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    devices = tf.config.list_physical_devices("GPU")
    return [
        tf.config.experimental.get_device_details(device).get(
            "device_name", device.name
        )
        for device in devices
    ]


@functools.cache
def commit_of_checkout() -> str | None:
    """The commit of the checkout that the package is imported from.

    As it is when this process asks first: later it may be another one.

    Returns:
      its digest, with "-changed" if files differ from it; None outside of one.
    """
    if not (_ROOT / ".git").exists():
        return None
    try:
        return _git("rev-parse", "HEAD") + (
            "-changed" if _git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(_ROOT), *arguments],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout.strip()  # fmt: skip
