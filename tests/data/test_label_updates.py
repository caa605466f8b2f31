"""Changed labels of records that exist: tables anew, no picture."""

import concurrent.futures
import csv
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from imcl_tf.data import builders
from imcl_tf.data import folder as folder_module
from imcl_tf.data.folder import folder_builder
from imcl_tf.data.multi_label_dataset import open_source
from tests.data.common import (
    SPLITS,
    dense,
    files_of,
    image_ids,
    label_table,
    prepare_folder,
)

pytestmark = pytest.mark.usefixtures("two_files")


def append(made, *rows):
    with (made.path / "labels.csv").open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def flip(made, image, label, value):
    """One changed value of labels.csv."""
    path = made.path / "labels.csv"
    with path.open(newline="") as file:
        rows = [*csv.reader(file)][1:]
    rows = [row for row in rows if row[:2] != [image, label]]
    made.write_table("labels.csv", [*rows, (image, label, value)])
    made.labels[image].pop(label, None)
    if value:
        made.labels[image][label] = value


def pictures(builder):
    """Path -> time and inode of all files of records."""
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in Path(str(builder.data_path)).glob("*tfrecord*")
    }


def check(builder, made, label_names=None):
    """Tables, metadata and what is opened say what the folder `made` says."""
    names = label_names or made.label_names
    made = made._replace(label_names=tuple(names))
    assert builder.info.metadata["labels"] == list(names)
    again = tfds.builder_from_directory(builder.data_path)
    assert again.info.metadata["labels"] == list(names)
    dataset = open_source(builder)
    assert dataset.label_names == tuple(names)
    for split in SPLITS:
        ids = image_ids(builder, split)
        table = label_table(builder, split)
        assert [x.decode() for x in table["image_ids"]] == ids
        np.testing.assert_array_equal(dense(table), made.rows(ids))
        labels = dataset.splits[split].labels
        np.testing.assert_array_equal(labels.toarray(), made.rows(ids))


class TestFolder:
    def test_one_changed_label_rewrites_no_picture(self, small, tmp_path):
        before = prepare_folder(small, tmp_path / "out")
        written, tables = pictures(before), files_of(before)
        assert len(written) == 6
        image = small.splits["train"][2]
        old = small.labels[image].get("cat", 0)
        flip(small, image, "cat", -old or 1)
        after = prepare_folder(small, tmp_path / "out")
        assert after.data_path == before.data_path
        assert pictures(after) == written
        assert files_of(after).keys() == tables.keys()
        check(after, small)

    def test_tables_are_those_of_new_records(self, small, tmp_path):
        """Byte by byte, and so are all other files."""
        prepare_folder(small, tmp_path / "out")
        flip(small, small.splits["test"][0], "dog", 1)
        append(small, (small.splits["train"][0], "zebra", 1))
        updated = files_of(prepare_folder(small, tmp_path / "out"))
        new = files_of(prepare_folder(small, tmp_path / "new"))
        for name in updated.keys() - {"metadata.json"}:
            assert updated[name] == new[name], name
        assert json.loads(updated["metadata.json"]) == json.loads(
            new["metadata.json"]
        )

    def test_new_label_name_appears_in_its_place(self, small, tmp_path):
        before = prepare_folder(small, tmp_path)
        written = pictures(before)
        image = small.splits["validation"][1]
        append(small, (image, "bird", -1))
        small.labels[image]["bird"] = -1
        after = prepare_folder(small, tmp_path)
        assert pictures(after) == written
        check(after, small, sorted([*small.label_names, "bird"]))

    def test_label_name_disappears(self, small, tmp_path):
        prepare_folder(small, tmp_path)
        rows = [
            (image, name, small.labels[image].get(name, 0))
            for image in small.labels
            for name in small.label_names
            if name != "cat"
        ]
        small.write_table("labels.csv", rows)
        names = [name for name in small.label_names if name != "cat"]
        check(prepare_folder(small, tmp_path), small, names)

    def test_nothing_is_written_where_nothing_changed(self, small, tmp_path):
        builder = prepare_folder(small, tmp_path)
        directory = Path(str(builder.data_path))
        times = [path.stat().st_mtime_ns for path in directory.iterdir()]
        (small.path / "labels.csv").touch()
        prepare_folder(small, tmp_path)
        assert times == [p.stat().st_mtime_ns for p in directory.iterdir()]

    def test_images_that_were_left_out_stay_so(self, small, tmp_path):
        gone = small.splits["train"][4]
        (small.path / "images" / gone).unlink()
        before = prepare_folder(small, tmp_path, "skip")
        written = pictures(before)
        flip(small, small.splits["train"][0], "dog", 1)
        flip(small, gone, "dog", 1)
        after = prepare_folder(small, tmp_path, "skip")
        assert pictures(after) == written
        assert after.info.metadata["counts"]["images left out"] == 1
        check(after, small)
        assert gone not in image_ids(after, "train")

    def test_changed_split_makes_new_records(self, small, tmp_path):
        before = prepare_folder(small, tmp_path)
        files = files_of(before)
        moved = small.splits["train"].pop()
        small.splits["test"].append(moved)
        rows = [(i, s) for s, images in small.splits.items() for i in images]
        small.write_table("splits.csv", rows)
        after = prepare_folder(small, tmp_path)
        assert after.data_path != before.data_path
        assert files_of(before) == files
        assert moved in image_ids(after, "test")
        check(after, small)

    def test_bad_labels_leave_the_old_ones(self, small, tmp_path):
        builder = prepare_folder(small, tmp_path)
        files = files_of(builder)
        append(small, (small.splits["train"][0], "cat", 7))
        with pytest.raises(ValueError, match="must be -1, 0 or 1, got 7"):
            prepare_folder(small, tmp_path)
        assert files_of(builder) == files

    @pytest.mark.parametrize("number", range(4))
    def test_killed_amid_an_update(self, small, tmp_path, monkeypatch, number):
        """After any number of tables: refused, then updated by the next."""
        prepare_folder(small, tmp_path)
        flip(small, small.splits["train"][0], "dog", 1)
        append(small, (small.splits["test"][0], "zebra", 1))
        small.labels[small.splits["test"][0]]["zebra"] = 1
        original, left = builders.records.write_labels, [None] * number

        def write(*arguments):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(builders.records, "write_labels", write)
            if number < 3:
                with pytest.raises(KeyboardInterrupt):
                    prepare_folder(small, tmp_path)
            else:
                prepare_folder(small, tmp_path)
        builder = folder_builder(small.path, tmp_path)
        if number in (1, 2):
            with pytest.raises(ValueError, match="different raw files; prep"):
                open_source(builder)
        names = sorted([*small.label_names, "zebra"])
        check(prepare_folder(small, tmp_path), small, names)

    def test_full_disk_leaves_the_old_ones(self, small, tmp_path, small_disk):
        builder = prepare_folder(small, tmp_path)
        files = files_of(builder)
        flip(small, small.splits["train"][0], "dog", 1)
        with small_disk(20), pytest.raises(OSError):
            prepare_folder(small, tmp_path)
        assert files_of(builder) == files

    def test_two_programs_at_once(self, small, tmp_path, monkeypatch):
        """The second waits for the first, and then finds all done."""
        prepare_folder(small, tmp_path)
        flip(small, small.splits["train"][0], "dog", 1)
        read, times = folder_module.read_folder, tmp_path / "times"

        def slow(*arguments):
            with times.open("a") as file:
                file.write("x")
            time.sleep(1)
            return read(*arguments)

        monkeypatch.setattr(folder_module, "read_folder", slow)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(prepare_folder, small, tmp_path)
            builder = prepare_folder(small, tmp_path)
            running.result()
        assert times.read_text() == "x"
        check(builder, small)


class TestClassesAndExtras:
    def test_follow_the_labels(self, small, make_richer, tmp_path):
        def prepare():
            builder = make_richer(data_dir=tmp_path)
            return builders.prepare(builder, small.path)

        before = prepare()
        written = pictures(before)
        flip(small, small.splits["train"][0], "dog", 1)
        append(small, (small.splits["train"][1], "bird", 1))
        small.labels[small.splits["train"][1]]["bird"] = 1
        after = prepare()
        assert pictures(after) == written
        names = sorted([*small.label_names, "bird"])
        check(after, small, names)
        for split in SPLITS:
            table, ids = label_table(after, split), image_ids(after, split)
            assert table["classes"].tolist() == [*map(after.class_of, ids)]
            assert table["extra_certainties"].tolist() == [
                after.certainty_of(i, name)
                for i in ids
                for name in names
                if name in small.labels[i]
            ]


class TestOtherImages:
    """A prepared set whose directory does not depend on its splits."""

    @pytest.fixture
    def prepare(self, small, make_richer, tmp_path):
        def prepare():
            builder = make_richer(data_dir=tmp_path / "out")
            return builders.prepare(builder, small.path)

        return prepare

    def refused(self, prepare, builder, *words):
        files = files_of(builder)
        with pytest.raises(ValueError) as caught:
            prepare()
        message = str(caught.value)
        for word in (str(builder.data_path), *words, "delete that directory"):
            assert word in message
        assert len(message.splitlines()) == 1
        assert files_of(builder) == files

    def write_splits(self, small):
        rows = [(i, s) for s, images in small.splits.items() for i in images]
        small.write_table("splits.csv", rows)

    def test_moved_to_another_split(self, small, prepare):
        builder = prepare()
        moved = small.splits["train"].pop()
        small.splits["test"].append(moved)
        self.write_splits(small)
        words = f"image {moved} is no longer listed in split train"
        self.refused(prepare, builder, words)

    def test_new_image(self, small, prepare):
        builder = prepare()
        small.splits["validation"].append("new.jpg")
        (small.path / "images" / "new.jpg").write_bytes(b"")
        self.write_splits(small)
        append(small, ("new.jpg", "cat", 1))
        words = "image new.jpg is new in split validation"
        self.refused(prepare, builder, words)

    def test_image_that_is_gone(self, small, prepare):
        builder = prepare()
        gone = small.splits["test"].pop()
        self.write_splits(small)
        rows = [
            (image, name, value)
            for image, labels in small.labels.items()
            for name, value in (labels or {"cat": 0}).items()
            if image != gone
        ]
        small.write_table("labels.csv", rows)
        self.refused(prepare, builder, f"image {gone} is no longer")

    def test_damaged_table(self, prepare):
        builder = prepare()
        path = Path(str(builder.data_path)) / "labels-test.npz"
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=f"{path}: damaged label table"):
            prepare()

    def test_raw_files_that_are_gone(self, small, prepare):
        prepare()
        (small.path / "labels.csv").unlink()
        with pytest.raises(FileNotFoundError, match="labels.csv: no such"):
            prepare()

    def test_read_only_copy_of_unchanged_labels(self, prepare, tmp_path):
        builder = prepare()
        directory = Path(str(builder.data_path))
        directory.chmod(0o555)
        try:
            prepare()
        finally:
            directory.chmod(0o755)
        shutil.rmtree(directory)
