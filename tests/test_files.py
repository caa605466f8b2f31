"""Whole files or none."""

import csv
import errno
import os
import signal
import time

import pytest
from absl import flags

from imcl_tf.files import (
    fail,
    locked,
    parse_or_fail,
    replacing,
    write_csv,
)
from tests import programs


def names(directory):
    return sorted(path.name for path in directory.iterdir())


class TestFile:
    @pytest.mark.parametrize("old", [None, "old text, which is longer"])
    def test_takes_the_place(self, tmp_path, old):
        path = tmp_path / "results.json"
        if old:
            path.write_text(old)
        with replacing(path) as new:
            assert new.parent == path.parent and new != path
            assert new.suffix == ".json"  # Keras goes by the suffix
            new.write_text("new")
            # Whoever looks meanwhile sees the old file.
            assert (path.read_text() if old else None) == old
            assert path.exists() == bool(old)
        assert path.read_text() == "new"
        assert names(tmp_path) == ["results.json"]

    @pytest.mark.parametrize(
        "error", [ValueError, OSError, KeyboardInterrupt, SystemExit]
    )
    @pytest.mark.parametrize("old", [None, "old"])
    def test_error_leaves_all_as_it_was(self, tmp_path, error, old):
        path = tmp_path / "metrics.csv"
        if old:
            path.write_text(old)
        with pytest.raises(error), replacing(path) as new:
            new.write_text("half")
            raise error
        assert names(tmp_path) == (["metrics.csv"] if old else [])
        assert not old or path.read_text() == old

    def test_a_link_stays_and_what_it_names_is_replaced(self, tmp_path):
        (tmp_path / "real").mkdir()
        path = tmp_path / "table.csv"
        path.symlink_to("real/a.csv")
        for text in ("first", "second"):
            with replacing(path) as new:
                new.write_text(text)
            assert path.is_symlink() and path.read_text() == text
            assert names(tmp_path / "real") == ["a.csv"]

    def test_a_device_is_not_replaced(self, tmp_path):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        (tmp_path / "link").symlink_to(path)
        for name in ("pipe", "link"):
            with (
                pytest.raises(OSError, match="neither a file nor a directory"),
                replacing(tmp_path / name),
            ):
                pytest.fail("not to be written")
        assert path.is_fifo() and names(tmp_path) == ["link", "pipe"]

    def test_error_before_anything_was_written(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(ValueError), replacing(path):
            raise ValueError
        assert names(tmp_path) == ["a.txt"] and path.read_text() == "old"

    def test_nothing_written_is_an_error(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(FileNotFoundError), replacing(path):
            pass
        assert names(tmp_path) == ["a.txt"] and path.read_text() == "old"

    @pytest.mark.parametrize("size", [2_000, 200_000])
    def test_full_disk(self, tmp_path, small_disk, size):
        """Also where only closing the file notices: 2000 bytes are kept."""
        path = tmp_path / "table.csv"
        path.write_text("old")
        with (
            small_disk(1000),
            pytest.raises(OSError) as caught,
            replacing(path) as new,
            new.open("w") as file,
        ):
            file.write("x" * size)
        assert caught.value.errno == errno.EFBIG
        assert str(path) in str(caught.value)
        assert names(tmp_path) == ["table.csv"] and path.read_text() == "old"

    def test_no_space_left_names_the_file(self, tmp_path):
        path = tmp_path / "metrics.csv"
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with pytest.raises(OSError) as caught, replacing(path) as new:
            new.write_text("half")
            raise error
        assert caught.value.errno == errno.ENOSPC
        assert str(path) in str(caught.value)
        assert names(tmp_path) == []

    def test_what_a_killed_program_left_is_removed_in_time(self, tmp_path):
        """What is younger than a day may be another program's work."""
        path = tmp_path / "a.txt"
        with replacing(path) as new:
            left = new
            new.write_text("first")
        left.write_text("left over, long")
        for age, gone in ((82_800, False), (90_000, True)):
            os.utime(left, (time.time() - age,) * 2)
            with replacing(path) as new:
                new.write_text("new")
            assert left.exists() != gone
        assert names(tmp_path) == ["a.txt"] and path.read_text() == "new"

    def test_two_writers_do_not_meet(self, tmp_path):
        """Each one's file is whole, and the last to finish stays."""
        path = tmp_path / "labels.npz"
        with replacing(path) as first:
            first.write_text("fir")
            with replacing(path) as second:
                second.write_text("second")
            assert path.read_text() == "second"
            first.write_text("first")
        assert path.read_text() == "first"
        assert names(tmp_path) == ["labels.npz"]

    def test_missing_parent(self, tmp_path):
        path = tmp_path / "none" / "a.txt"
        with pytest.raises(FileNotFoundError), replacing(path) as new:
            new.write_text("x")
        assert names(tmp_path) == []


def fill(directory, **files):
    (directory / "variables").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / "variables" / name).write_text(text)


def content(directory):
    return {p.name: p.read_text() for p in directory.rglob("*") if p.is_file()}


class TestDirectory:
    @pytest.mark.parametrize("old", [False, True])
    def test_takes_the_place(self, tmp_path, old):
        path = tmp_path / "saved_model"
        if old:
            fill(path, a="old", b="only old")
        with replacing(path) as new:
            fill(new, a="new", c="only new")
            assert path.exists() == old
        assert content(path) == {"a": "new", "c": "only new"}
        assert names(tmp_path) == ["saved_model"]

    @pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
    @pytest.mark.parametrize("old", [False, True])
    def test_error_leaves_all_as_it_was(self, tmp_path, error, old):
        path = tmp_path / "saved_model"
        if old:
            fill(path, a="old")
        with pytest.raises(error), replacing(path) as new:
            fill(new, a="half")
            raise error
        assert names(tmp_path) == (["saved_model"] if old else [])
        assert not old or content(path) == {"a": "old"}

    def test_full_disk(self, tmp_path, small_disk):
        path = tmp_path / "saved_model"
        fill(path, a="old")
        with small_disk(1000), pytest.raises(OSError), replacing(path) as new:
            fill(new, a="new", b="x" * 100_000)
        assert names(tmp_path) == ["saved_model"]
        assert content(path) == {"a": "old"}

    def test_last_step_fails(self, tmp_path, monkeypatch):
        """The old directory is back, not only under another name."""
        path = tmp_path / "saved_model"
        fill(path, a="old")
        rename = type(path).rename

        def once(self, target):
            if self.name.startswith(".unfinished"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return rename(self, target)

        monkeypatch.setattr(type(path), "rename", once)
        with pytest.raises(OSError), replacing(path) as new:
            fill(new, a="new")
        assert names(tmp_path) == ["saved_model"]
        assert content(path) == {"a": "old"}

    def test_two_writers_do_not_meet(self, tmp_path):
        path = tmp_path / "saved_model"
        with replacing(path) as first:
            fill(first, a="first")
            with replacing(path) as second:
                fill(second, b="second")
            assert content(path) == {"b": "second"}
        assert content(path) == {"a": "first"}
        assert names(tmp_path) == ["saved_model"]

    def test_killed_before_the_old_one_was_removed(self, tmp_path, monkeypatch):
        """The old one lies aside; the next run still gets through."""
        path = tmp_path / "saved_model"
        fill(path, a="old")
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", lambda *_, **__: None)
            with replacing(path) as new:
                fill(new, a="middle")
        with replacing(path) as new:
            fill(new, a="new")
        assert content(path) == {"a": "new"}
        assert names(tmp_path) == ["saved_model"]

    def test_killed_between_the_two_renames(self, tmp_path, monkeypatch):
        """Only the old one aside and the unfinished one are there."""
        path = tmp_path / "saved_model"
        fill(path, a="old")
        seen = []
        with monkeypatch.context() as patch:
            # Killed: neither what follows nor any cleaning up happens.
            patch.setattr("shutil.rmtree", lambda *_, **__: None)
            rename = type(path).rename

            def first(self, target):
                seen.append(self)
                if len(seen) > 1:
                    raise KeyboardInterrupt
                return rename(self, target)

            patch.setattr(type(path), "rename", first)
            with pytest.raises(KeyboardInterrupt), replacing(path) as new:
                fill(new, a="middle")
        assert not path.exists()
        unfinished = [x for x in names(tmp_path) if x.startswith(".unf")]
        # Also if the next run fails, the old one is there again.
        with pytest.raises(ValueError), replacing(path) as new:
            raise ValueError
        assert content(path) == {"a": "old"}
        with replacing(path) as new:
            fill(new, a="new")
        assert content(path) == {"a": "new"}
        assert names(tmp_path) == [*unfinished, "saved_model"]

    def test_link_to_a_directory(self, tmp_path):
        """The link gives way, what it pointed to stays; and once more."""
        elsewhere, work = tmp_path / "elsewhere", tmp_path / "work"
        fill(elsewhere, a="old")
        work.mkdir()
        path = work / "saved_model"
        path.symlink_to(elsewhere)
        for text in ("new", "newer"):
            with replacing(path) as new:
                fill(new, a=text)
            assert content(path) == {"a": text}
            assert names(work) == ["saved_model"]
        assert content(elsewhere) == {"a": "old"}


class TestWriteCsv:
    def test_any_text_comes_back(self, tmp_path):
        path = tmp_path / "left_out.csv"
        rows = [("é, a.jpg", 'no "image"'), ("two\nlines", ""), (1, 0.5)]
        write_csv(path, ("image_id", "reason"), iter(rows))
        content = path.read_bytes()
        assert content.startswith(b"image_id,reason\n")
        assert b"\r" not in content
        with path.open(newline="", encoding="utf-8") as file:
            read = [*csv.reader(file)]
        told = [[str(value) for value in row] for row in rows]
        assert read == [["image_id", "reason"], *told]

    def test_error_amid_the_rows_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "metrics.csv"
        write_csv(path, ("a",), [(1,)])

        def rows():
            yield (2,)
            raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            write_csv(path, ("a",), rows())
        assert names(tmp_path) == ["metrics.csv"]
        assert path.read_text() == "a\n1\n"


class TestFail:
    def test_one_line_and_status_one(self, capsys):
        with pytest.raises(SystemExit) as caught:
            fail(ValueError("a.csv:\n  line 3\tis  wrong\n"))
        assert caught.value.code == 1
        captured = capsys.readouterr()
        assert captured.err == "imcl_tf: error: a.csv: line 3 is wrong\n"
        assert captured.out == ""


class TestLocked:
    def test_one_at_a_time_or_those_who_share(self, tmp_path):
        with locked(tmp_path):
            for shared in (False, True):
                with (
                    pytest.raises(BlockingIOError),
                    locked(tmp_path, wait=False, shared=shared),
                ):
                    pass
        with locked(tmp_path, shared=True):
            with locked(tmp_path, wait=False, shared=True):
                pass
            with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
                pass

    def test_file_systems_without_locks(self, tmp_path, monkeypatch):
        """As NFS answers for a directory; what a lock protects still runs."""

        def flock(*_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        with locked(tmp_path) as held:
            assert held
        monkeypatch.setattr("fcntl.flock", flock)
        for wait in (True, False):
            with locked(tmp_path, wait=wait) as held:
                assert not held
        with pytest.raises(OSError, match="mine"), locked(tmp_path):
            raise OSError(errno.ENOLCK, "mine")

    def test_needs_the_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError), locked(tmp_path / "none"):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_programs_end_with_one_line(number, tmp_path):
    """What to do next, status 130, and no half-written file."""
    program = programs.Program("tests.interrupted", tmp_path / "out.txt")
    while not (tmp_path / "begun").exists() and program.is_running():
        time.sleep(0.05)
    program.send_signal(number)
    done = program.finish()
    assert done.returncode == 130
    lines = done.stderr.splitlines()
    assert lines[-1] == "imcl_tf: interrupted; once more"
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == ["begun"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"--a=\xff\n", "--flagfile: not UTF-8 text: "),
     (b"--" + b"[" * 5000, "a flag has a name of over 400 characters")],
)  # fmt: skip
def test_flag_files_that_absl_stumbles_over(tmp_path, capsys, content, message):
    (tmp_path / "x.cfg").write_bytes(content)
    parse = parse_or_fail(flags.FLAGS.read_flags_from_files)
    if content.startswith(b"--["):
        known = flags.FlagValues()
        flags.DEFINE_string("known", "", "A flag.", flag_values=known)
        parse = parse_or_fail(known)
    with pytest.raises(SystemExit) as ended:
        parse(["main", f"--flagfile={tmp_path / 'x.cfg'}"])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"imcl_tf: error: {message}")
