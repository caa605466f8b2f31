"""The downloader after kills and crashes: manifest, pace, command line."""

import csv
import fcntl
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.download import download
from data_prep.fetching import Pace
from imcl_tf.data.manifest import (
    Manifest,
    image_path,
    read_image,
    read_manifest,
)
from tests import programs
from tests.data_prep.image_server import (
    QUICK,
    files_in,
    good_files,
    image_id,
    picture,
    raw_rows,
    write_images_csv,
)

FINAL = {"done", "missing", "corrupt"}


class TestGoingOn:
    """What a killed program or a crashed machine may have left."""

    @pytest.fixture
    def half(self, server, listing, tmp_path):
        """Three images that are there, and the server's memory wiped."""
        table, names = listing(*["good"] * 3)
        out = tmp_path / "out"
        download(table, out, **QUICK)
        server.asked.clear()
        return table, names, out

    def finish(self, half):
        table, names, out = half
        assert download(table, out, **QUICK) == {"done": 3}
        assert files_in(out) == good_files(names)
        manifest = read_manifest(out / "manifest.csv")
        assert sorted(manifest["image_id"]) == sorted(names)
        assert set(manifest["status"]) == {"done"}

    def test_torn_row(self, server, half):
        manifest = half[2] / "manifest.csv"
        content = manifest.read_bytes()
        for cut in (1, 5, 20):
            manifest.write_bytes(content[:-cut])
            assert len(read_manifest(manifest)) == 2
            self.finish(half)
            # The image was there.
            assert sorted(raw_rows(half[2])) == sorted(
                csv.reader(content.decode().splitlines()[1:])
            )
        assert not server.asked

    def test_torn_header(self, server, half):
        (half[2] / "manifest.csv").write_bytes(b"image_i")
        self.finish(half)
        assert not server.asked

    def test_no_manifest(self, server, half):
        (half[2] / "manifest.csv").unlink()
        self.finish(half)
        assert not server.asked

    def test_row_without_file(self, server, half):
        image_path(half[2], half[1][1]).unlink()
        self.finish(half)
        assert server.asked == {f"/good/{half[1][1]}": 1}

    @pytest.mark.parametrize("with_row", [True, False])
    @pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0"])
    def test_file_that_is_not_whole(self, server, half, with_row, content):
        image_path(half[2], half[1][2]).write_bytes(content)
        if not with_row:
            (half[2] / "manifest.csv").unlink()
        self.finish(half)
        assert server.asked == {f"/good/{half[1][2]}": 1}

    def test_file_of_another_checksum(self, server, tmp_path):
        name = image_id(1)
        body = picture(name)
        row = {
            "ImageID": name,
            "OriginalURL": server.url("good", name),
            "OriginalSize": str(len(body)),
        }
        write_images_csv(tmp_path / "images.csv", [row])
        path = image_path(tmp_path / "out", name)
        path.parent.mkdir(parents=True)
        path.write_bytes(picture("another"))
        download(
            tmp_path / "images.csv", tmp_path / "out", url="original", **QUICK
        )
        assert path.read_bytes() == body

    def test_half_written_images_go_and_nothing_else(self, half):
        table, names, out = half
        torn = image_path(out, names[0]).with_name(
            f".unfinished-{names[0]}.jpg"
        )
        torn.write_bytes(b"half")
        kept = [
            out / ".notes",
            torn.with_name(".hidden"),
            torn.with_name("notes.txt"),
            torn.with_name(f"{names[0][:2]}normal.jpg"),
            torn.with_name(f"{names[0][:2]}.jpg"),
            torn.with_name(f"{names[0].upper()}.jpg"),
            out / "mine" / f".unfinished-{names[0]}.jpg",
            out / "ab",
        ]
        for path in kept:
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
        download(table, out, **QUICK)
        assert not torn.exists()
        assert all(path.read_text() == "mine" for path in kept)

    def test_two_at_once_are_refused(self, server, half):
        table, _, out = half
        before = (out / "manifest.csv").read_bytes()
        with (out / "manifest.csv").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(OSError, match="another program is adding"):
                download(table, out, **QUICK)
        assert (out / "manifest.csv").read_bytes() == before
        self.finish(half)

    def test_full_disk(self, server, listing, tmp_path, small_disk):
        table, names = listing(*["good"] * 8)
        out = tmp_path / "out"
        with small_disk(500), pytest.raises(OSError) as caught:
            download(table, out, **QUICK)
        assert str(out) in str(caught.value)
        assert files_in(out) == {} and raw_rows(out) == []
        assert download(table, out, **QUICK) == {"done": 8}
        assert files_in(out) == good_files(names)

    def test_disk_too_full_for_the_manifest(
        self, listing, tmp_path, small_disk
    ):
        table, names = listing(*["404"] * 40)
        with small_disk(500), pytest.raises(OSError, match="manifest.csv"):
            download(table, tmp_path / "out", **QUICK)
        content = (tmp_path / "out" / "manifest.csv").read_bytes()
        assert 400 < len(content) <= 500 and content.endswith(b"\n")
        assert download(table, tmp_path / "out", **QUICK) == {"missing": 40}


class TestManifest:
    def test_last_row_of_an_image_counts(self, tmp_path):
        path = tmp_path / "manifest.csv"
        one, two = image_id(1), image_id(2)
        with Manifest(path) as manifest:
            manifest.append(one, "failed", "HTTP 500", 0)
            manifest.append(two, "done", 'gray, "odd"', 77)
            manifest.append(one, "corrupt", "several\r\nlines\n", 5)
            # Others may read it meanwhile.
            table = read_manifest(path)
        assert table.to_dict("records") == [
            {
                "image_id": two,
                "status": "done",
                "reason": 'gray, "odd"',
                "bytes": 77,
            },
            {
                "image_id": one,
                "status": "corrupt",
                "reason": "several lines",
                "bytes": 5,
            },
        ]
        assert table["bytes"].dtype == np.int64
        assert isinstance(table["status"].dtype, pd.CategoricalDtype)

    def test_empty(self, tmp_path):
        with Manifest(tmp_path / "manifest.csv"):
            pass
        table = read_manifest(tmp_path / "manifest.csv")
        assert list(table) == ["image_id", "status", "reason", "bytes"]
        assert len(table) == 0

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("0123456789abcdef,lost,,1", "line 3"),
            ("0123456789abcdef,done,,", "line 3"),
            ("0123456789abcdef,done", "line 3"),
            ("../etc,done,,1", "line 3"),
            ("0123456789abcdef,done,,1,2", "line 3"),
        ],
    )
    def test_bad_row(self, tmp_path, row, message):
        path = tmp_path / "manifest.csv"
        good = f"{image_id(1)},done,,12"
        path.write_text(f"image_id,status,reason,bytes\n{good}\n{row}\n")
        with pytest.raises(ValueError, match=message) as caught:
            read_manifest(path)
        assert str(caught.value).startswith(f"{path}: ")

    @pytest.mark.parametrize("content", ["a,b\n1,2\n", "important"])
    def test_other_files_are_left_alone(self, tmp_path, content):
        path = tmp_path / "manifest.csv"
        path.write_text(content)
        with pytest.raises(ValueError, match="not a manifest"):
            Manifest(path)
        assert path.read_text() == content

    def test_where_an_image_lies(self):
        assert image_path("a/b", "0123456789abcdef") == Path(
            "a/b/01/0123456789abcdef.jpg"
        )

    def test_read_from_either_place(self, tmp_path):
        flat, nested = image_id(1), image_id(2)
        (tmp_path / f"{flat}.jpg").write_bytes(b"flat")
        image_path(tmp_path, nested).parent.mkdir()
        image_path(tmp_path, nested).write_bytes(b"nested")
        assert read_image(tmp_path, flat) == b"flat"
        assert read_image(tmp_path, nested) == b"nested"
        (tmp_path / f"{image_id(2)}.JPG").write_bytes(b"another")
        image_path(tmp_path, nested).unlink()
        assert read_image(tmp_path, nested) == b"another"
        with pytest.raises(FileNotFoundError, match=image_id(3)):
            read_image(tmp_path, image_id(3))


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 100.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


class TestPace:
    def test_rate(self):
        fake = FakeTime()
        pace = Pace(8, fake.clock, fake.sleep)
        begun = []
        for _ in range(81):
            pace.wait()
            begun.append(fake.now)
        # The first at once, the 80 others an eighth of a second apart.
        assert begun[-1] - begun[0] == pytest.approx(10, abs=0.2)
        starts = np.array(begun)
        for start in starts:
            within = (starts >= start) & (starts < start + 1)
            assert within.sum() <= 8 + 2

    def test_time_that_was_not_used_is_not_made_up_for(self):
        fake = FakeTime()
        pace = Pace(8, fake.clock, fake.sleep)
        pace.wait()
        fake.now += 60
        begun = []
        for _ in range(10):
            pace.wait()
            begun.append(fake.now)
        assert begun[-1] - begun[0] >= 1

    def test_pause(self):
        fake = FakeTime()
        pace = Pace(8, fake.clock, fake.sleep)
        pace.wait()
        pace.pause(30)
        pace.pause(5)  # does not shorten the longer one
        pace.wait()
        assert fake.now == pytest.approx(130)

    def test_told_to_stop(self):
        pace = Pace(1e-3, lambda: 0.0, lambda _: True)
        for _ in range(5):
            pace.wait()  # would wait for ever

    def test_of_a_whole_download(self, server, listing, tmp_path):
        table, _ = listing(*["good"] * 20)
        begun = time.monotonic()
        download(table, tmp_path / "out", **QUICK | {"rate": 20.0})
        assert time.monotonic() - begun > 18 / 20


class TestProgram:
    def start(self, table, out, *arguments):
        return programs.Program(
            "data_prep.download", f"--images={table}", f"--out={out}",
            "--rate=1000", *arguments,
        )  # fmt: skip

    def until_held(self, server, program, number):
        """Waits until so many requests wait at the gate."""
        while server.waiting < number:
            assert program.is_running(), program.errors()
            time.sleep(0.02)

    def test_killed_and_resumed(self, server, listing, tmp_path):
        table, names = listing(*["gated"] * 30)
        out = tmp_path / "out"
        server.gate.release(12)
        program = self.start(table, out, "--parallel=3")
        self.until_held(server, program, 3)
        program.send_signal(signal.SIGKILL)
        assert program.finish().returncode == -signal.SIGKILL
        # Each thread has put away what it got before it asked for more.
        there = [n for n in names if image_path(out, n).is_file()]
        assert files_in(out) == good_files(there) and len(there) == 12
        assert sorted(server.asked.values()) == [1] * 15
        server.gate.release(1000)
        assert download(table, out, **QUICK) == {"done": 30}
        twice = {name for name in names if server.count(name) == 2}
        assert server.asked.total() == 33 and len(twice) == 3
        assert twice.isdisjoint(there)
        rows = raw_rows(out)
        assert sorted(row[0] for row in rows) == sorted(names)
        assert {row[1] for row in rows} <= FINAL
        assert files_in(out) == good_files(names)

    def test_interrupted_and_resumed(self, server, listing, tmp_path):
        table, names = listing(*["gated"] * 30)
        out = tmp_path / "out"
        server.gate.release(12)
        program = self.start(table, out, "--parallel=3")
        self.until_held(server, program, 3)
        program.send_signal(signal.SIGINT)
        while "stopping" not in program.errors():
            assert program.is_running(), program.errors()
            time.sleep(0.02)
        server.gate.release(1000)
        done = program.finish()
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            "imcl_tf: error: stopped; the same command resumes the download"
        )
        assert "Traceback" not in done.stderr
        # What was under way was put away.
        assert files_in(out) == good_files(names[:15])
        done = self.start(table, out).finish()
        assert done.returncode == 0, done.stderr
        assert (
            done.stdout == f"{out}: 30 done, 0 missing, 0 corrupt, 0 failed\n"
        )
        assert [server.count(name) for name in names] == [1] * 30

    def test_some_failed(self, server, listing, tmp_path):
        table, names = listing("good", "500", "404", "cut", "good")
        annotations = tmp_path / "annotations.csv"
        annotations.write_text(
            "ImageID,Source,LabelName,Confidence\n"
            + "".join(f"{name},human,/m/1,1\n" for name in names[:4])
        )
        done = self.start(
            table,
            tmp_path / "out",
            f"--annotations={annotations}",
            "--retries=0",
        ).finish()
        assert done.returncode == 1
        summary = "1 done, 1 missing, 1 corrupt, 1 failed"
        assert done.stdout == f"{tmp_path / 'out'}: {summary}\n"
        assert "0 of 4 images" in done.stderr
        assert done.stderr.splitlines()[-1] == (
            f"imcl_tf: error: 1 images failed, see {tmp_path / 'out'}/"
            "manifest.csv for the reasons; the same command tries them again"
        )
