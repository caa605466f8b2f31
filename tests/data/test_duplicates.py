"""Images of equal content in two splits."""

import hashlib
import shutil

import numpy as np
import pytest

from imcl_tf.data import builders, duplicates
from imcl_tf.data.duplicates import Duplicate
from tests.data.common import files_of, prepare_folder
from tests.data.pictures import RGB, RGBA, file_of

HEADER = "split,image_id,other_split,other_image_id"


def listed(builder):
    text = (builder.data_path / "duplicates.csv").read_text()
    header, *rows = text.splitlines()
    assert header == HEADER
    return rows


class TestFind:
    IDS = {
        "train": np.array([b"a", b"b", b"c", b"d"]),
        "validation": np.array([b"e", b"f"]),
        "test": np.array([b"g", b"h", b"i"]),
    }

    def find(self, **contents):
        return duplicates.find(
            {name: np.array(x, np.uint64) for name, x in contents.items()},
            self.IDS.__getitem__,
        )

    def test_each_image_and_each_earlier_split(self):
        """9 is b and c of train, the first of which is named."""
        found = self.find(
            test=[9, 2**64 - 1, 5], train=[7, 9, 9, 0], validation=[5, 9]
        )
        assert found == [
            ("test", "g", "train", "b"),
            ("test", "g", "validation", "f"),
            ("test", "i", "validation", "e"),
            ("validation", "f", "train", "b"),
        ]

    def test_within_a_split_none(self):
        contents = {
            "train": np.array([1, 1, 1, 2**64 - 1], np.uint64),
            "validation": np.array([2, 2], np.uint64),
            "test": np.array([0, 3, 3], np.uint64),
        }

        def image_ids(split):
            raise AssertionError("names are read for nothing")

        assert duplicates.find(contents, image_ids) == []


class TestFile:
    def test_what_is_written_is_read(self, tmp_path):
        found = [Duplicate("test", 'a, "b"', "train", "ü")]
        duplicates.write(tmp_path, found)
        assert duplicates.read(tmp_path) == found

    def test_none(self, tmp_path):
        assert duplicates.read(tmp_path) == []

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "image\n",
            f"{HEADER}\ntest,a,train\n",
            f"{HEADER}\ntest,a,train,b,c\n",
            f"{HEADER}\ntest,a,nothing,b\n",
            f'{HEADER}\ntest,"a,train,b\n',
        ],
    )
    def test_damaged(self, tmp_path, text):
        (tmp_path / "duplicates.csv").write_text(text)
        with pytest.raises(ValueError, match="duplicates.csv: damaged .*again"):
            duplicates.read(tmp_path)


class TestBuilders:
    def test_pictures(self, small, tmp_path):
        """Copies of one file, whatever it is called."""
        train, validation, test = small.splits.values()
        images = small.path / "images"
        for name in (train[6], validation[0], test[1], test[2]):
            shutil.copy(images / train[3], images / name)
        shutil.copy(images / validation[4], images / test[5])
        builder = prepare_folder(small, tmp_path)
        # The first of the records: their order is by a hash of the names.
        first = min(
            (train[3], train[6]),
            key=lambda name: hashlib.md5(f"train{name}".encode()).digest(),
        )
        assert listed(builder) == sorted(
            [
                f"test,{test[1]},train,{first}",
                f"test,{test[1]},validation,{validation[0]}",
                f"test,{test[2]},train,{first}",
                f"test,{test[2]},validation,{validation[0]}",
                f"test,{test[5]},validation,{validation[4]}",
                f"validation,{validation[0]},train,{first}",
            ]
        )
        counts = builder.info.metadata["counts"]
        assert counts["images: copies of images of an earlier split"] == 4

    def test_files_of_the_same_pixels_may_be_written_alike(
        self, small, tmp_path
    ):
        """With alpha, which is composited: a PNG's compression is gone."""
        files = [file_of(RGBA, "PNG", compress_level=n) for n in (1, 9)]
        assert files[0] != files[1]
        names = small.splits["train"][0], small.splits["test"][0]
        for name, content in zip(names, files, strict=True):
            (small.path / "images" / name).write_bytes(content)
        builder = prepare_folder(small, tmp_path)
        assert listed(builder) == [f"test,{names[1]},train,{names[0]}"]

    def test_none_within_a_split(self, small, tmp_path):
        for name in small.splits["train"][:3]:
            (small.path / "images" / name).write_bytes(file_of(RGB, "PNG"))
        builder = prepare_folder(small, tmp_path)
        assert "duplicates.csv" not in files_of(builder)
        assert "copies" not in str(builder.info.metadata["counts"])

    def test_an_image_that_is_left_out_is_no_copy(self, small, tmp_path):
        names = small.splits["train"][0], small.splits["test"][0]
        for name in names:
            (small.path / "images" / name).write_bytes(b"<html>")
        builder = prepare_folder(small, tmp_path, "skip")
        assert (builder.data_path / builders.LEFT_OUT).exists()
        assert "duplicates.csv" not in files_of(builder)

    def test_new_labels_leave_them(self, small, tmp_path):
        names = small.splits["train"][0], small.splits["test"][0]
        images = small.path / "images"
        shutil.copy(images / names[0], images / names[1])
        before = prepare_folder(small, tmp_path)
        small.write_table(
            "labels.csv",
            [(name, "dog", 1) for x in small.splits.values() for name in x],
        )
        after = prepare_folder(small, tmp_path)
        assert after.data_path == before.data_path
        assert listed(after) == [f"test,{names[1]},train,{names[0]}"]
        counts = after.info.metadata["counts"]
        assert counts["images: copies of images of an earlier split"] == 1
