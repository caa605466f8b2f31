"""Claims: each run of a plan is done by one process at a time.

A claim is a file that its owner touches every few seconds. Processes of one
machine or of several share the directory of claims. A claim is dead if its
process has ended or, where that is on another machine, if the file was not
touched for a while; whoever comes next takes it over. An owner that was only
cut off finds that out and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from imcl_tf.data.kept import parse_json
from imcl_tf.files import locked, replacing

DEAD_AFTER = 180.0  # seconds without a sign of life
_BEATS = 10  # signs of life in that time


class Claim:
    """A claim of this process, kept alive by a thread.

    Args:
      file: of the claim, written already.
      token: what only this claim's file says.
      seconds: between two signs of life.

    Attributes:
      is_lost: whether another process has taken it over; this one is sent
        SIGTERM when that is found out, which `imcl_tf.program.run` makes a
        KeyboardInterrupt.
    """

    def __init__(self, file: Path, token: str, seconds: float):
        self.is_lost = False
        self._file, self._token, self._seconds = file, token, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._stay_alive, daemon=True)
        self._thread.start()

    def release(self):
        """Gives it up; the claim of another stays."""
        self._ended.set()
        self._thread.join()
        with locked(self._file.parent):
            if _token(self._file) == self._token:
                self._file.unlink()

    def _stay_alive(self):
        while not self._ended.wait(self._seconds):
            with contextlib.suppress(OSError):  # a server that is away
                if _token(self._file) != self._token:
                    self.is_lost = True
                    # To the main thread, that what waits there ends too; and
                    # no SIGINT, which shells have background jobs ignore.
                    signal.pthread_kill(
                        threading.main_thread().ident, signal.SIGTERM
                    )
                    return
                os.utime(self._file)


class Claims:
    """The claims in a directory.

    Args:
      directory: is made; shared by all processes, also of other machines.
      dead_after: seconds without a sign of life from another machine.
    """

    def __init__(self, directory: Path, dead_after: float = DEAD_AFTER):
        self._directory, self._dead_after = directory, dead_after
        directory.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[Claim | None]:
        """Claims a name, or yields None if a living process has it."""
        claim = self._take(name)
        try:
            yield claim
        finally:
            if claim:
                claim.release()

    def number(self) -> int:
        """How many names living processes have claimed."""
        return sum(map(self._is_alive, self._directory.glob("[!.]*.json")))

    def _file(self, name) -> Path:
        return self._directory / f"{name}.json"

    def _take(self, name) -> Claim | None:
        file = self._file(name)
        # Two that find a dead claim must not both take it.
        with locked(self._directory):
            if self._is_alive(file):
                return None
            token = uuid.uuid4().hex
            owner = {
                "token": token,
                "machine": _machine(),
                "pid": os.getpid(),
                "began": _began(os.getpid()),
            }
            with replacing(file) as new:
                new.write_text(json.dumps(owner) + "\n")
        return Claim(file, token, self._dead_after / _BEATS)

    def _is_alive(self, file) -> bool:
        owner = _owner(file)
        if owner is None:
            return False
        if owner["machine"] == _machine():
            return owner["began"] == _began(owner["pid"])
        try:
            return self._now() - file.stat().st_mtime < self._dead_after
        except FileNotFoundError:  # given up just now
            return False

    def _now(self) -> float:
        """The time of the file system, which may be another machine's."""
        probe = self._directory / f"now-{uuid.uuid4().hex}"
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now


def _owner(file: Path) -> dict | None:
    try:
        return parse_json(file.read_bytes())
    except FileNotFoundError:
        return None


def _token(file: Path) -> str | None:
    owner = _owner(file)
    return owner["token"] if owner else None


def _machine() -> str:
    """What processes have in common that can see each other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # Containers of one machine number their processes each for itself.
    numbers = os.stat("/proc/self/ns/pid").st_ino
    return f"{platform.node()} {boot} {numbers}"


def _began(pid: int) -> str:
    """When a process of this machine began, "" if it has ended.

    Numbers of processes are used again; with this one they are unique.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # Its name, which may hold anything, ends with the last parenthesis.
    state, *others = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else others[18]
