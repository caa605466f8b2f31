"""Claims: one owner at a time, the dead are replaced, sleepers find out."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from eval.claims import Claims


def test_one_owner_at_a_time(tmp_path):
    claims, others = Claims(tmp_path), Claims(tmp_path)
    with claims.claimed("a") as claim:
        assert claim is not None and others.number() == 1
        with others.claimed("a") as second, others.claimed("b") as other:
            assert second is None and other is not None
        with others.claimed("a") as third:  # still that of the first
            assert third is None
    assert not list(tmp_path.glob("*.json"))
    with others.claimed("a") as again:
        assert again is not None


def test_a_file_that_is_being_written_is_no_claim(tmp_path):
    claims = Claims(tmp_path)
    (tmp_path / ".unfinished-0-b.json").touch()
    with claims.claimed("a"):
        assert claims.number() == 1


def test_of_many_at_once_one_gets_it(tmp_path):
    found, ready = [], threading.Barrier(8)

    def take():
        claims = Claims(tmp_path)
        ready.wait()
        with claims.claimed("a") as claim:
            found.append(claim)
            ready.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in found if claim]) == 1


def test_a_process_that_died_is_replaced_at_once(tmp_path):
    program = (
        "import os, sys; from eval.claims import Claims\n"
        "with Claims(__import__('pathlib').Path(sys.argv[1])).claimed('a'):\n"
        "    os._exit(9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, tmp_path], check=False, timeout=120
    )
    owner = json.loads((tmp_path / "a.json").read_text())
    assert owner["pid"] != os.getpid()
    with Claims(tmp_path).claimed("a") as claim:
        assert claim is not None


def test_a_claim_of_another_machine_dies_of_silence(tmp_path):
    """That machine's processes cannot be seen; its file's age can."""
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"token": "t", "machine": "m", "pid": 1}))
    claims = Claims(tmp_path, dead_after=100)
    with claims.claimed("a") as claim:
        assert claim is None
    os.utime(file, (time.time() - 101,) * 2)
    with claims.claimed("a") as claim:
        assert claim is not None


def test_an_owner_shows_that_it_lives(tmp_path):
    claims = Claims(tmp_path, dead_after=0.5)
    file = tmp_path / "a.json"
    with claims.claimed("a"):
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 30
        while not file.stat().st_mtime:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_owner_that_slept_finds_out_and_stops(tmp_path):
    """It leaves the claim of the one who took over alone."""
    file = tmp_path / "a.json"
    taken = {"token": "other", "machine": "m", "pid": 1}
    with (
        pytest.raises(KeyboardInterrupt),
        Claims(tmp_path, dead_after=0.5).claimed("a") as claim,
    ):
        file.write_text(json.dumps(taken))
        time.sleep(30)
    assert claim.is_lost
    assert json.loads(file.read_text()) == taken
