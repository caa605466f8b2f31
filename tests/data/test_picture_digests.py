"""Digests of files, against hashlib; and which files are read for them."""

import hashlib
import os
import threading

import numpy as np
import pytest

from imcl_tf.data import picture_digests as module
from imcl_tf.data.picture_digests import PictureDigests

NAMES = ["a.jpg", "b/é.png", "c", "gone"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory of files that were settled long ago, and what was read."""
    for name in NAMES[:3]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
    later = module.time.time_ns() + 10**10
    monkeypatch.setattr(module.time, "time_ns", lambda: later)

    class Place:
        directory, cache = tmp_path / "images", tmp_path / "kept" / "x.npz"

        def digests(self, names=NAMES, cache=cache):
            """The digests, checked, and the files that were read."""
            read = []

            def digest(path):
                read.append(os.path.relpath(path, self.directory))
                return original(path)

            original = module._digest
            with monkeypatch.context() as patch:
                patch.setattr(module, "_digest", digest)
                digests = PictureDigests(self.directory, cache)
                found = digests(names)
                digests.save()
            for name, row in zip(names, found, strict=True):
                path = self.directory / name
                content = hashlib.sha256()
                if path.exists():
                    content.update(path.read_bytes())
                    assert row.tobytes() == content.digest()
                else:
                    assert not row.any()
            return sorted(read)

    return Place()


def test_each_file_is_read_once(place):
    assert place.digests() == NAMES[:3]
    assert place.digests() == []
    assert place.digests(NAMES[::-1]) == []
    assert place.digests(cache=None) == NAMES[:3]


@pytest.mark.parametrize("what", ["touch", "inode", "in place", "size"])
def test_a_changed_file_is_read_again(place, what):
    place.digests()
    path = place.directory / "c"
    stat = path.stat()
    times = stat.st_atime_ns, stat.st_mtime_ns
    if what == "touch":
        os.utime(path)
    elif what == "inode":
        (path.parent / "new").write_bytes(b"d" * 100)
        os.utime(path.parent / "new", ns=times)
        os.replace(path.parent / "new", path)
    elif what == "in place":  # only the time of the change of status tells
        path.write_bytes(b"d" * 100)
        os.utime(path, ns=times)
    else:
        path.write_bytes(b"d")
    assert place.digests() == ["c"]
    assert place.digests() == []


def test_a_new_file_and_one_that_was_gone(place):
    place.digests()
    (place.directory / "gone").write_bytes(b"here")
    assert place.digests() == ["gone"]


def test_what_was_just_written_is_read_again(place, monkeypatch):
    monkeypatch.undo()
    assert place.digests() == NAMES[:3]
    assert place.digests() == NAMES[:3]


def test_a_damaged_cache_is_ignored(place):
    place.digests()
    whole = place.cache.read_bytes()
    rng = np.random.default_rng(0)
    broken = [b"", b"PK", whole[:-30], whole[: len(whole) // 2]]
    for _ in range(30):
        bytes_ = np.frombuffer(whole, np.uint8).copy()
        bytes_[rng.integers(0, len(bytes_), 3)] ^= 0x55
        broken.append(bytes_.tobytes())
    for content in broken:
        place.cache.write_bytes(content)
        place.digests()
    for arrays in ({}, {"names": np.array(3)}, {"names": np.zeros(2, "S3")}):
        np.savez(place.cache, **arrays)
        assert place.digests() == NAMES[:3]
    assert place.digests() == []


def test_a_cache_that_cannot_be_written(place, tmp_path):
    (tmp_path / "kept").write_bytes(b"a file")
    assert place.digests() == NAMES[:3]
    assert place.digests() == NAMES[:3]


def test_nothing_is_written_until_it_is_saved(place):
    digests = PictureDigests(place.directory, place.cache)
    digests(NAMES)
    assert not place.cache.parent.exists()
    digests.save()
    assert place.cache.exists()


def test_several_programs_at_once(place):
    def save():
        digests = PictureDigests(place.directory, place.cache)
        digests(NAMES)
        digests.save()

    threads = [threading.Thread(target=save) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.digests() == []
    assert [path.name for path in place.cache.parent.iterdir()] == ["x.npz"]
