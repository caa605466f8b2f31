"""Claims: one owner at a time, the dead are replaced, sleepers find out."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from eval import claims
from eval.claims import Claims
from tests import programs


def test_one_owner_at_a_time(tmp_path):
    first, others = Claims(tmp_path), Claims(tmp_path)
    with first.claimed("a") as claim:
        assert claim is not None and others.number() == 1
        with others.claimed("a") as second, others.claimed("b") as other:
            assert second is None and other is not None
        with others.claimed("a") as third:  # still that of the first
            assert third is None
    assert not list(tmp_path.glob("*.json"))
    with others.claimed("a") as again:
        assert again is not None


def test_a_file_that_is_being_written_is_no_claim(tmp_path):
    own = Claims(tmp_path)
    (tmp_path / ".unfinished-0-b.json").touch()
    with own.claimed("a"):
        assert own.number() == 1


def test_of_many_at_once_one_gets_it(tmp_path):
    found, ready = [], threading.Barrier(8)

    def take():
        own = Claims(tmp_path)
        ready.wait()
        with own.claimed("a") as claim:
            found.append(claim)
            ready.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in found if claim]) == 1


def hold(directory, seconds):
    """Claims, and ends without giving up the claim."""
    with Claims(directory).claimed("a"):
        time.sleep(seconds)
        os._exit(9)


def test_a_process_that_died_is_replaced_at_once(tmp_path):
    process = programs.FORKS.Process(target=hold, args=(tmp_path, 0))
    process.start()
    process.join()
    owner = json.loads((tmp_path / "a.json").read_text())
    assert owner["pid"] == process.pid
    with Claims(tmp_path).claimed("a") as claim:
        assert claim is not None


def test_a_process_that_stands_still_is_none_that_died(tmp_path):
    """On this machine, however long it does; killed, it is."""
    own = Claims(tmp_path, dead_after=0.1)
    process = programs.FORKS.Process(target=hold, args=(tmp_path, 600))
    process.start()
    try:
        while not (tmp_path / "a.json").exists():
            assert process.is_alive()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)
        os.utime(tmp_path / "a.json", (0, 0))
        with own.claimed("a") as claim:
            assert claim is None
    finally:
        process.kill()
    process.join()
    with own.claimed("a") as claim:
        assert claim is not None


def test_a_process_whose_parent_has_not_asked_for_its_end(tmp_path):
    """It has a number still."""
    process = subprocess.Popen(["sleep", "600"])
    with Claims(tmp_path).claimed("a"):
        owner = json.loads((tmp_path / "a.json").read_text())
    owner |= {"pid": process.pid, "began": claims._began(process.pid)}
    (tmp_path / "a.json").write_text(json.dumps(owner))
    with Claims(tmp_path).claimed("a") as claim:
        assert claim is None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with Claims(tmp_path).claimed("a") as claim:
        assert claim is not None
    process.wait()


def test_a_number_that_another_process_has_now(tmp_path):
    with Claims(tmp_path).claimed("a"):
        owner = json.loads((tmp_path / "a.json").read_text())
    owner["began"] = "1"
    (tmp_path / "a.json").write_text(json.dumps(owner))
    with Claims(tmp_path).claimed("a") as claim:
        assert claim is not None


def test_a_claim_of_another_machine_dies_of_silence(tmp_path):
    """That machine's processes cannot be seen; its file's age can."""
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"token": "t", "machine": "m", "pid": 1}))
    own = Claims(tmp_path, dead_after=100)
    with own.claimed("a") as claim:
        assert claim is None
    os.utime(file, (time.time() - 101,) * 2)
    with own.claimed("a") as claim:
        assert claim is not None


def test_an_owner_shows_that_it_lives(tmp_path):
    own = Claims(tmp_path, dead_after=0.5)
    file = tmp_path / "a.json"
    with own.claimed("a"):
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 30
        while not file.stat().st_mtime:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextlib.contextmanager
def handled(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_an_owner_that_was_cut_off_finds_out_and_stops(tmp_path, monkeypatch):
    """Also after errors of the file system; and where SIGINT is ignored, as it
    is in background jobs. The claim of the one who took over stays.
    """
    file = tmp_path / "a.json"
    read, errors = claims._owner, [OSError("stale file handle")] * 2

    def owner(file):
        if errors and threading.current_thread() != threading.main_thread():
            raise errors.pop()
        return read(file)

    monkeypatch.setattr(claims, "_owner", owner)
    taken = {"token": "other", "machine": "m", "pid": 1}
    with (
        handled(signal.SIGINT, signal.SIG_IGN),
        handled(signal.SIGTERM, signal.default_int_handler),
        pytest.raises(KeyboardInterrupt),
        Claims(tmp_path, dead_after=0.5).claimed("a") as claim,
    ):
        file.write_text(json.dumps(taken))
        time.sleep(30)
    assert claim.is_lost and not errors
    assert json.loads(file.read_text()) == taken
