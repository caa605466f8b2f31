"""A user's folder of images, against its CSV files."""

import csv
import gzip
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from imcl_tf.data import folder as folder_module
from imcl_tf.data import picture_digests, preparation
from imcl_tf.data.builders import prepare
from imcl_tf.data.folder import Folder, folder_builder, folder_digest
from imcl_tf.data.folder_tables import FolderOptions, read_folder
from tests import programs
from tests.data.common import dense, image_ids, label_table, prepare_folder

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"
SPLITS = ("train", "validation", "test")


def snapshot(directory):
    """Path, size and time of everything below `directory`."""
    directory = Path(directory)  # of TFDS's own kind, it would not glob
    paths = [directory, *directory.rglob("*")]
    stats = {str(p.relative_to(directory)): p.stat() for p in paths}
    return {name: (s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def read_csv(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edit(path, change):
    """Rewrites a text file."""
    path.write_text(change(path.read_text()))


def key_of(path, on_bad_image="error"):
    """The digest that names a folder's records."""
    name = folder_builder(path, on_bad_image=on_bad_image).builder_config.name
    assert len(name) == 16 and name == folder_digest(path, on_bad_image)
    return name


def check(read, made):
    """`read` is what the folder `made` says."""
    assert read.label_names == made.label_names
    assert tuple(read.splits) == SPLITS
    for split, files in read.splits.items():
        assert files.names == sorted(made.splits[split])
        assert files.labels.format == "csr" and files.labels.dtype == np.int8
        dense = files.labels.toarray()
        np.testing.assert_array_equal(dense, made.rows(files.names))
        # Observed entries alone are stored.
        assert files.labels.nnz == np.count_nonzero(dense)


class TestReadFolder:
    def test_is_what_the_tables_say(self, folder):
        read = read_folder(folder.path)
        check(read, folder)
        assert not read.counts
        for files in read.splits.values():
            assert not files.extras
            for name in files.names:
                assert files.read(name) == folder.encoded[name]

    def test_packed_table_says_the_same(self, make_folder, tmp_path):
        made = make_folder(tmp_path / "raw", packed=True)
        assert (made.path / "labels.csv.gz").is_file()
        assert not (made.path / "labels.csv").exists()
        check(read_folder(made.path), made)

    @pytest.mark.parametrize(
        "labels",
        [("001", "002", "10"), ("1", "01", "1.0", "1e0"), ("False", "True")],
    )
    @pytest.mark.parametrize("width", [1, 3])
    def test_names_stay_text_where_all_are_numbers(
        self, make_folder, tmp_path, labels, width
    ):
        sizes = {"train": 3, "validation": 2, "test": 2}
        names = [f"{n:0{width}d}" for n in range(7)]
        made = make_folder(tmp_path / "raw", sizes, labels, names)
        assert made.label_names == tuple(sorted(labels))
        check(read_folder(made.path), made)

    def test_byte_order_mark_and_line_ends_of_windows(self, small):
        for name in ("labels.csv", "splits.csv"):
            path = small.path / name
            text = path.read_bytes().replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + text)
        check(read_folder(small.path), small)

    def test_the_same_pair_twice_with_one_value_counts_once(self, small):
        (image, given), *_ = (i for i in small.labels.items() if i[1])
        name, value = next(iter(given.items()))
        with (small.path / "labels.csv").open("a") as file:
            csv.writer(file).writerow((image, name, value))
        check(read_folder(small.path), small)

    def test_further_columns_and_order_do_not_matter(self, small):
        rows = read_csv(small.path / "labels.csv")
        columns = ("note", "value", "label", "image")
        with (small.path / "labels.csv").open("w") as file:
            writer = csv.DictWriter(file, columns, restval="x")
            writer.writeheader()
            writer.writerows(rows)
        check(read_folder(small.path), small)

    def test_images_that_no_table_names_are_counted(self, small, caplog):
        images = small.path / "images"
        for name in ("Thumbs.db", ".DS_Store", "._0.jpg", "a.jpg", "b/c.jpg"):
            (images / name).parent.mkdir(exist_ok=True)
            (images / name).write_bytes(b"no image")
        check(read_folder(small.path), small)
        with caplog.at_level("WARNING", "absl"):
            folder_builder(small.path)
        assert (
            f"{images}: 2 image files are in no table and left out"
            in caplog.text
        )

    def test_images_without_labels_need_no_row(self, small):
        image = small.splits["test"][0]
        rows = [[*r.values()] for r in read_csv(small.path / "labels.csv")]
        rows = [row for row in rows if row[0] != image]
        small.write_table("labels.csv", rows)
        small.labels[image].clear()
        read = read_folder(small.path)
        assert read.counts == {
            "images of the splits that the labels do not list": 1
        }
        check(read._replace(counts={}), small)

    @pytest.mark.parametrize(
        "spellings",
        [("Train", "val", "TEST"), ("training", "valid", " testing "),
         ("TRAINING", "Dev", "test")],
    )  # fmt: skip
    def test_usual_spellings_of_splits(self, small, spellings):
        word = dict(zip(SPLITS, spellings, strict=True))
        rows = [(i, word[s]) for s in SPLITS for i in small.splits[s]]
        small.write_table("splits.csv", rows)
        check(read_folder(small.path), small)

    @pytest.mark.parametrize(
        ("unlisted", "splits"),
        [("unset", ()), ("unobserved", ()), ("absent", SPLITS),
         ("absent_in_evaluation", SPLITS[1:])],
    )  # fmt: skip
    def test_what_is_not_listed(self, small, unlisted, splits):
        """A pair of value 0 is listed: it stays unobserved."""
        listed = {
            (row["image"], row["label"])
            for row in read_csv(small.path / "labels.csv")
        }
        read = read_folder(small.path, FolderOptions(unlisted=unlisted))
        for split, files in read.splits.items():
            expected = small.rows(files.names)
            for i, image in enumerate(files.names):
                for j, label in enumerate(small.label_names):
                    if (image, label) not in listed and split in splits:
                        expected[i, j] = -1
            np.testing.assert_array_equal(files.labels.toarray(), expected)
            assert files.labels.nnz == np.count_nonzero(expected)
            assert files.labels.has_canonical_format

    @pytest.mark.parametrize(
        ("unlisted", "words"),
        [
            ("absent", "images that the labels do not list, all labels absent"),
            ("absent_in_evaluation", "images that the labels do not list, all "
             "labels absent in validation and test"),
            ("unobserved", "images of the splits that the labels do not list"),
        ],
    )  # fmt: skip
    def test_images_that_the_labels_do_not_list(self, small, unlisted, words):
        image = small.splits["test"][0]
        rows = [[*r.values()] for r in read_csv(small.path / "labels.csv")]
        rows = [row for row in rows if row[0] != image]
        small.write_table("labels.csv", rows)
        read = read_folder(small.path, FolderOptions(unlisted=unlisted))
        assert read.counts == {words: 1}
        row = read.splits["test"].names.index(image)
        values = read.splits["test"].labels.toarray()[row]
        assert {*values} == ({0} if unlisted == "unobserved" else {-1})

    def test_rows_that_say_nothing_new_are_counted(self, small):
        path = small.path / "labels.csv"
        rows = path.read_text().splitlines()
        path.write_text("\n".join([*rows, *rows[1:8]]))
        read = read_folder(small.path)
        assert read.counts == {"values: given again, the same": 7}
        check(read._replace(counts={}), small)

    def test_columns_that_are_not_read_are_counted(self, small):
        path = small.path / "labels.csv"
        rows = path.read_text().splitlines()
        path.write_text("note," + rows[0] + "\n" + "\n".join(
            f"x,{row}" for row in rows[1:]
        ))  # fmt: skip
        assert read_folder(small.path).counts == {"columns not read: note": 1}

    def test_a_table_elsewhere(self, small, tmp_path):
        place = tmp_path / "mine.tsv"
        rows = [[*row.values()] for row in read_csv(small.path / "labels.csv")]
        with place.open("w", newline="") as file:
            csv.writer(file, "excel-tab").writerows(
                [("image", "label", "value"), *rows]
            )
        (small.path / "labels.csv").write_text("other")
        options = FolderOptions(label_table=str(place))
        check(read_folder(small.path, options), small)

    def test_labels_that_look_alike_are_named(self, small, caplog):
        path = small.path / "labels.csv"
        rows = "".join(
            f"{small.splits['train'][0]},{label},1\n"
            for label in ("Green  leaf", "green leaf", "greenleaf")
        )
        edit(path, lambda text: text + rows)
        with caplog.at_level("WARNING", "absl"):
            read = read_folder(small.path)
        assert {"Green  leaf", "green leaf"} < set(read.label_names)
        assert caplog.messages == [
            f"{path}: labels that differ in case, blanks or invisible "
            "characters alone are kept apart: Green  leaf, green leaf"
        ]


class TestFolderBuilder:
    def test_folder_stays_as_it_was(self, make_folder, tmp_path):
        made = make_folder(tmp_path / "raw", packed=True)
        before = snapshot(made.path)
        everything = [made.path, *made.path.rglob("*")]
        modes = {path: path.stat().st_mode for path in everything}
        try:
            for path in everything:
                path.chmod(modes[path] & ~0o222)
            prepare(folder_builder(made.path, tmp_path / "out"), made.path)
        finally:
            for path in everything:
                path.chmod(modes[path])
        assert snapshot(made.path) == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]

    def test_second_time_reuses(self, folder, prepared, monkeypatch):
        before = snapshot(prepared.data_path)

        def refuse(*_):
            raise AssertionError("read again")

        monkeypatch.setattr(folder_module, "read_folder", refuse)
        root = prepared.data_path.parents[2]
        again = prepare(folder_builder(folder.path, root), folder.path)
        assert again.data_path == prepared.data_path
        assert snapshot(prepared.data_path) == before
        assert again.info.metadata["labels"] == list(folder.label_names)
        assert again.info.splits["test"].num_examples == 11

    def test_second_time_hashes_no_picture(self, small, tmp_path, monkeypatch):
        later = picture_digests.time.time_ns() + 10**10
        monkeypatch.setattr(picture_digests.time, "time_ns", lambda: later)
        first = prepare_folder(small, tmp_path / "out")
        monkeypatch.setattr(picture_digests, "_digest", None)
        again = prepare_folder(small, tmp_path / "out")
        assert again.data_path == first.data_path

    def test_another_reading_makes_other_labels(self, small, tmp_path):
        """And none of the pictures."""
        first = prepare_folder(small, tmp_path / "out")
        builder = folder_builder(
            small.path, str(tmp_path / "out"), unlisted="absent"
        )
        again = prepare(builder, small.path)
        assert again.data_path == first.data_path
        listed = {
            (row["image"], row["label"])
            for row in read_csv(small.path / "labels.csv")
        }
        pairs = {(i, n) for i in small.labels for n in small.label_names}
        absent = sum((i, n) not in listed for i, n in pairs) + sum(
            value == -1 for x in small.labels.values() for value in x.values()
        )
        tables = [dense(label_table(again, split)) for split in SPLITS]
        assert sum((table == -1).sum() for table in tables) == absent

    def test_a_copy_elsewhere_is_the_same_data_set(
        self, folder, prepared, tmp_path, monkeypatch
    ):
        copy = tmp_path / "copy"
        shutil.copytree(folder.path, copy)  # keeps times
        monkeypatch.setattr(folder_module, "read_folder", None)
        root = prepared.data_path.parents[2]
        again = prepare(folder_builder(copy, root), copy)
        assert again.data_path == prepared.data_path

    def test_default_place_is_that_of_tfds(self, folder):
        place = Path(os.environ["TFDS_DATA_DIR"])
        builder = folder_builder(folder.path)
        assert builder.data_path.is_relative_to(place / "folder")


class TestDigest:
    def test_same_content_same_key(self, folder, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(folder.path, copy, copy_function=shutil.copyfile)
        assert key_of(str(copy)) == key_of(folder.path)

    @pytest.mark.parametrize("what", ["split", "bytes", "renamed"])
    def test_other_content_other_key(self, small, what):
        key = key_of(small.path)
        image = small.path / "images" / small.splits["train"][0]
        stat = image.stat()
        if what == "split":
            edit(
                small.path / "splits.csv",
                lambda x: x.replace(f"{image.name},train", f"{image.name},val"),
            )
        elif what == "bytes":  # with the size and the time it had
            content = image.read_bytes()
            image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        else:
            image.rename(image.with_name("renamed.jpg"))
            edit(
                small.path / "splits.csv",
                lambda x: x.replace(image.name, "renamed.jpg"),
            )
        assert key_of(small.path) != key

    def test_what_no_table_lists_does_not_matter(self, small):
        key = key_of(small.path)
        images = small.path / "images"
        (images / ".DS_Store").write_bytes(b"Bud1")
        (images / "another.jpg").write_bytes(b"")
        os.utime(images / small.splits["train"][0], ns=(1, 1))
        edit(
            small.path / "splits.csv",
            lambda text: "\n".join(reversed(text.splitlines()[1:]))
            .join(["image,split\n", "\n"]),
        )  # fmt: skip
        (small.path / "labels.csv").write_text("image,label,value\n")
        assert key_of(small.path) == key

    def test_pictures_behind_a_link_matter(self, small, tmp_path):
        images = small.path / "images"
        images.rename(tmp_path / "elsewhere")
        images.mkdir()
        (images / "photos").symlink_to(tmp_path / "elsewhere")
        for name in ("labels.csv", "splits.csv"):
            header, *rows = (small.path / name).read_text().splitlines()
            rows = [f"photos/{row}" for row in rows]
            (small.path / name).write_text("\n".join([header, *rows]))
        key = key_of(small.path)
        read = read_folder(small.path).splits["train"]
        name = small.splits["train"][0]
        assert f"photos/{name}" in read.names
        assert read.read(f"photos/{name}") == small.encoded[name]
        (tmp_path / "elsewhere" / name).write_bytes(b"another")
        assert key_of(small.path) != key

    def test_other_treatment_other_key(self, folder):
        assert key_of(folder.path) != key_of(folder.path, "skip")


class TestMadeSplits:
    """A folder without splits.csv."""

    @pytest.fixture
    def unsplit(self, make_folder, tmp_path):
        sizes = {"train": 30, "validation": 5, "test": 5}
        made = make_folder(tmp_path / "raw", sizes, ("cat", "dog"), ())
        (made.path / "splits.csv").unlink()
        return made

    @staticmethod
    def kept(records):
        (path,) = (records / "folder" / "splits").iterdir()
        return path, {row["image"]: row["split"] for row in read_csv(path)}

    def test_is_kept_beside_the_records_and_said(
        self, unsplit, tmp_path, caplog
    ):
        before, records = snapshot(unsplit.path), tmp_path / "records"
        with caplog.at_level("WARNING", "absl"):
            builder = prepare_folder(unsplit, records)
        path, split_of = self.kept(records)
        assert sorted(split_of) == sorted(unsplit.encoded)
        number = Counter(split_of.values())
        assert set(number) == set(SPLITS)
        assert (
            f"{unsplit.path} holds no splits.csv: split by seed 0 into "
            f"{number['train']} train, {number['validation']} validation, "
            f"{number['test']} test images, listed in {path}; copy that file "
            f"to {unsplit.path / 'splits.csv'} to keep the split"
        ) in caplog.messages
        for split in SPLITS:
            ids = image_ids(builder, split)
            assert {split_of[name] for name in ids} == {split}
            rows = dense(label_table(builder, split))
            assert (rows > 0).any(0).all() and (rows < 0).any(0).all()
            np.testing.assert_array_equal(rows, unsplit.rows(ids))
        assert snapshot(unsplit.path) == before

        # As splits.csv it makes the same records.
        shutil.copy(path, unsplit.path / "splits.csv")
        again = prepare_folder(unsplit, records)
        assert again.data_path == builder.data_path

    def test_a_changed_label_moves_no_image(
        self, unsplit, tmp_path, monkeypatch
    ):
        builder = prepare_folder(unsplit, tmp_path)
        path, split_of = self.kept(tmp_path)
        image = unsplit.splits["train"][0]
        edit(unsplit.path / "labels.csv", lambda x: f"{x}{image},bird,1\n")
        monkeypatch.setattr(folder_module, "look_alikes", None)
        again = prepare_folder(unsplit, tmp_path)
        assert again.data_path == builder.data_path
        assert self.kept(tmp_path) == (path, split_of)
        assert again.info.metadata["labels"] == ["bird", "cat", "dog"]

    def test_seed_and_shares(self, unsplit, tmp_path):
        found = set()
        for number, options in enumerate(
            ({}, {"split_seed": 1}, {"split_shares": "50/25/25"})
        ):
            records = tmp_path / f"{number}"
            folder_builder(unsplit.path, str(records), **options)
            _, split_of = self.kept(records)
            found.add(tuple(sorted(split_of.items())))
        assert len(found) == 3
        assert abs(Counter(split_of.values())["train"] - 20) <= 3
        with pytest.raises(ValueError, match="split_shares must be three"):
            folder_builder(unsplit.path, str(tmp_path), split_shares="1/2")

    def test_splits_within_the_labels_are_not_ignored(
        self, unsplit, fails, tmp_path
    ):
        path = unsplit.path / "labels.csv"
        head, *rows = path.read_text().splitlines()
        path.write_text(
            "\n".join([f"{head},Split", *(f"{row},test" for row in rows)])
        )
        fails(unsplit, f"{path} has a column of splits, which is not read")

    @pytest.mark.parametrize(
        "name", ["Splits.csv", "split.csv", "splits.xlsx", "SPLIT.TSV"]
    )
    def test_splits_of_another_name_are_not_ignored(self, unsplit, fails, name):
        (unsplit.path / name).write_text("image,split\n")
        fails(unsplit, f"{unsplit.path} holds {name}, which is not read")

    def test_seed_and_shares_do_nothing_beside_splits(self, small, caplog):
        with caplog.at_level("WARNING", "absl"):
            folder_builder(small.path, split_seed=3)
        path = small.path / "splits.csv"
        words = f"split_seed and split_shares do nothing beside {path}"
        assert words in caplog.messages
        with pytest.raises(ValueError, match="split_shares must be three"):
            folder_builder(small.path, split_shares="60/20")

    def test_copies_stay_together(self, unsplit, tmp_path):
        images = unsplit.path / "images"
        names = sorted(unsplit.encoded)
        for name in names[::2]:
            shutil.copy(images / name, images / f"copy {name}")
        edit(
            unsplit.path / "labels.csv",
            lambda text: (
                text + "".join(f"copy {name},cat,1\n" for name in names[::2])
            ),
        )
        folder_builder(unsplit.path, str(tmp_path / "records"))
        _, split_of = self.kept(tmp_path / "records")
        for name in names[::2]:
            assert split_of[name] == split_of[f"copy {name}"]

    def test_a_picture_that_is_not_there(self, unsplit, fails, tmp_path):
        name = sorted(unsplit.encoded)[3]
        (unsplit.path / "images" / name).unlink()
        fails(unsplit, f"{name}: no such image file")
        builder = prepare_folder(unsplit, tmp_path / "other", "skip")
        assert builder.info.metadata["counts"]["images left out"] == 1


class TestBadInput:
    def test_no_such_folder(self, small, fails, tmp_path):
        nowhere = small._replace(path=tmp_path / "nowhere")
        fails(nowhere, "nowhere", error=FileNotFoundError)

    @pytest.mark.parametrize("name", ["labels.csv", "images"])
    def test_missing_file(self, small, fails, tmp_path, name):
        (small.path / name).rename(tmp_path / "elsewhere")
        fails(small, str(small.path / name), error=FileNotFoundError)

    @pytest.mark.parametrize(
        ("file", "column"),
        [
            ("labels.csv", "image"),
            ("labels.csv", "label"),
            ("labels.csv", "value"),
            ("splits.csv", "image"),
            ("splits.csv", "split"),
        ],
    )
    def test_missing_column(self, small, fails, file, column):
        path = small.path / file
        edit(path, lambda text: text.replace(column, "other", 1))
        fails(small, str(path), f"{column}", "other")

    @pytest.mark.parametrize("file", ["labels.csv", "splits.csv"])
    def test_empty_file(self, small, fails, file):
        (small.path / file).write_text("")
        fails(small, str(small.path / file))

    @pytest.mark.parametrize("file", ["labels.csv", "splits.csv"])
    def test_not_a_text_file(self, small, fails, file):
        (small.path / file).write_bytes(bytes(range(128, 256)))
        fails(small, str(small.path / file))

    @pytest.mark.parametrize("value", ["2", "inf", "1_0", "yes", "0.5", "--1"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_wrong_value(self, make_folder, fails, tmp_path, value, packed):
        sizes = {"train": 2, "validation": 1, "test": 1}
        made = make_folder(tmp_path / "raw", sizes, names=(), packed=packed)
        path = made.path / ("labels.csv.gz" if packed else "labels.csv")
        rows = [[*row.values()] for row in read_csv(path)]
        rows[4][2] = value
        made.write_table(path.name, rows)
        message = fails(made, str(path), "line 6", rows[4][0], rows[4][1])
        assert message.endswith(f"got {value}")

    def test_wrong_value_is_named_as_it_was_written(self, small, fails):
        """Not as 7.0, which nobody will find in the file."""
        path = small.path / "labels.csv"
        edit(path, lambda text: f"{text}{small.splits['train'][0]},cat,7\n")
        assert fails(small, str(path)).endswith("got 7")

    def test_line_without_a_value(self, small, fails):
        path = small.path / "labels.csv"
        edit(path, lambda text: f"{text}{small.splits['train'][0]},cat\n")
        fails(small, str(path), "cat")

    @pytest.mark.parametrize("file", ["labels.csv", "splits.csv"])
    @pytest.mark.parametrize("which", ["last", "all"])
    def test_line_with_a_field_too_many(self, small, fails, file, which):
        path = small.path / file

        def add(text):
            header, *lines = text.splitlines()
            if which == "last":
                return "\n".join([header, *lines[:-1], lines[-1] + ",1\n"])
            return "\n".join([header, *(line + ",1" for line in lines), ""])

        edit(path, add)
        fails(small, str(path))

    @pytest.mark.parametrize("other", [-1, 0])
    def test_one_pair_with_two_values(self, small, fails, other):
        path = small.path / "labels.csv"
        with path.open("a") as file:
            image = small.splits["test"][0]
            writer = csv.writer(file)
            writer.writerows([(image, "new", 1), (image, "new", other)])
        lines = len(path.read_text().splitlines())
        fails(
            small, f"{path}: line {lines}: {image}, new is given twice with "
            f"different values, 1 before and {other} here",
        )  # fmt: skip

    def test_labelled_images_without_a_split(self, small, fails):
        images = sorted(small.splits["train"])[:7]
        rows = read_csv(small.path / "splits.csv")
        rows = [[*r.values()] for r in rows if r["image"] not in images]
        small.write_table("splits.csv", rows)
        words = f"7 of 26 images of {small.path / 'labels.csv'} have no split: "
        message = fails(small, str(small.path / "splits.csv"), words)
        assert message.endswith(f"{', '.join(images[:5])} and 2 more")

    def test_labels_of_files_that_are_not_there(self, small, fails):
        path = small.path / "labels.csv"
        image = small.splits["train"][0]
        other = f"elsewhere/{Path(image).stem}.tif"
        edit(path, lambda text: f"{text}{other},cat,1\n")
        message = fails(small, f"have no split: {other}; 1 of these are no")
        assert message.endswith(f"for {other} there is {image}")

    def test_labels_of_another_name(self, small, fails):
        (small.path / "labels.csv").rename(small.path / "Labels.CSV")
        fails(small, f"{small.path} holds Labels.CSV, which is not read")

    def test_images_that_are_not_there(self, small, fails):
        images = sorted(small.splits["train"])[:6]
        for name in images:
            (small.path / "images" / name).unlink()
        fails(
            small,
            f"{small.path / 'images'}: {', '.join(images[:5])} and 1 more: no "
            "such image file (6 of 26 images); --on_bad_image=skip",
        )

    @pytest.mark.parametrize("name", ["/etc/x.jpg", "..\\x.jpg", "C:\\x.jpg"])
    @pytest.mark.parametrize("file", ["labels.csv", "splits.csv"])
    def test_images_elsewhere(self, small, fails, file, name):
        row = f"{name},train" if file == "splits.csv" else f"{name},cat,1"
        edit(small.path / file, lambda text: f"{text}{row}\n")
        fails(small, str(small.path / file), "its path below", f"got {name}")

    def test_labels_in_two_tables(self, small, fails):
        (small.path / "labels.csv.gz").write_bytes(b"")
        fails(
            small,
            f"{small.path} holds labels.csv and labels.csv.gz; keep one of "
            "them, or name one with --label_table",
        )

    def test_image_twice_in_the_splits(self, small, fails):
        image = small.splits["train"][0]
        with (small.path / "splits.csv").open("a") as file:
            file.write(f"{image},test\n")
        fails(small, str(small.path / "splits.csv"), image, "twice")

    @pytest.mark.parametrize("split", ["eval", "trains", ""])
    def test_unknown_split(self, small, fails, split):
        path = small.path / "splits.csv"
        rows = [[*row.values()] for row in read_csv(path)]
        rows[2][1] = split
        small.write_table("splits.csv", rows)
        fails(small, str(path), "line 4", f"got {split or 'nothing'}")

    def test_up_to_five_unknown_splits_are_named(self, small, fails):
        rows = [(image, f"fold {n}") for n, image in enumerate(small.encoded)]
        small.write_table("splits.csv", rows)
        fails(
            small, "line 2: ",
            f"got {', '.join(f'fold {n}' for n in range(5))} and ",
        )  # fmt: skip

    @pytest.mark.parametrize("split", SPLITS)
    def test_empty_split(self, small, fails, split):
        other = "train" if split != "train" else "test"
        path = small.path / "splits.csv"
        edit(path, lambda text: text.replace(f",{split}", f",{other}"))
        fails(small, str(path), split, "no image")

    def test_labels_not_gzip(self, small, fails):
        path = small.path / "labels.csv"
        path.rename(path.with_name("labels.csv.gz"))
        fails(small, str(path) + ".gz")

    def test_labels_gzip_cut_short(self, make_folder, fails, tmp_path):
        made = make_folder(tmp_path / "raw", packed=True)
        path = made.path / "labels.csv.gz"
        path.write_bytes(path.read_bytes()[:-20])
        fails(made, str(path))


class TestProgram:
    def test_prints_what_the_records_hold(self, small, tmp_path):
        gone = small.splits["train"][0]
        (small.path / "images" / gone).unlink()
        records, table = tmp_path / "records", tmp_path / "mine.csv"
        (small.path / "labels.csv").rename(table)
        done = programs.run(
            "data_prep.folder", "--on_bad_image=skip", f"--label_table={table}",
            f"--raw_dir={small.path}", f"--data_dir={records}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # What a forked program writes of CUDA is not its own.
        assert "dataset_builder" not in done.stderr
        place = records / "folder" / key_of(small.path, "skip") / "2.1.0"
        lines = done.stdout.splitlines()
        expected = [f"{place}: {len(small.label_names)} labels"]
        for split, names in small.splits.items():
            rows = small.rows([name for name in names if name != gone])
            expected.append(
                f"  {split}: {len(rows)} images, {(rows == 1).sum()} labels "
                f"observed present, {(rows == -1).sum()} absent"
            )
        start = next(n for n, line in enumerate(lines) if "labels" in line)
        assert lines[start : start + 4] == expected
        assert "  images left out: 1" in lines
        assert lines[-1] == f"  listed in {place / 'left_out.csv'}"

    @pytest.mark.parametrize(
        ("argv", "raw_dir", "message"),
        [
            ([""], None, "--raw_dir must be given"),
            (["", "extra"], "raw", "unexpected argument 'extra'"),
            ([""], "raw", "raw: no directory of raw files"),
        ],
    )
    def test_wrong_flags(self, tmp_path, capsys, argv, raw_dir, message):
        records = tmp_path / "records"

        def builder():
            return Folder(data_dir=records)

        with pytest.raises(SystemExit) as ended:
            raw_dir = raw_dir and str(tmp_path / raw_dir)
            preparation.run(argv, builder, raw_dir)
        assert ended.value.code == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not records.exists()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
class TestRealData:
    def test_birds(self):
        """README.txt: 5902 images, 184 attributes, one vector per class."""
        read = read_folder(REAL / "birds")
        assert len(read.label_names) == 184
        sizes = {
            split: len(files.names) for split, files in read.splits.items()
        }
        assert sizes == {"train": 2703, "validation": 296, "test": 2903}
        vectors = {}
        for split, files in read.splits.items():
            assert files.labels.nnz == sizes[split] * 184  # fully observed
            dense = files.labels.toarray()
            for name, row in zip(files.names, dense, strict=True):
                vectors.setdefault(name.split("__")[0], set()).add(
                    row.tobytes()
                )
        assert len(vectors) == 100
        assert {len(rows) for rows in vectors.values()} == {1}

    def test_clothing(self, tmp_path):
        """README.txt: 1856 images, 36 labels, 15.5 % of pairs missing."""
        directory = REAL / "clothing"
        table = read_csv(directory / "labels.csv.gz")
        of_image = {r["image"]: r["split"] for r in read_csv(
            directory / "splits.csv")}  # fmt: skip
        expected = {split: np.zeros((36, 2), int) for split in SPLITS}
        names = sorted({row["label"] for row in table})
        column = {name: number for number, name in enumerate(names)}
        for row in table:
            counts = expected[of_image[row["image"]]]
            counts[column[row["label"]], int(row["value"] == "1")] += 1

        builder = prepare(folder_builder(directory, tmp_path), directory)
        assert builder.info.metadata["labels"] == names and len(names) == 36
        total = 0
        for split in SPLITS:
            stored = label_table(builder, split)
            size = sum(s == split for s in of_image.values())
            assert len(stored["image_ids"]) == size
            total += size
            for column, sign in enumerate((-1, 1)):
                labels = stored["columns"][stored["values"] == sign]
                np.testing.assert_array_equal(
                    np.bincount(labels, minlength=36),
                    expected[split][:, column],
                )
        assert total == 1856
        assert 1 - len(table) / (1856 * 36) == pytest.approx(0.155, abs=5e-4)


def test_an_image_without_a_name_in_the_splits(small, fails):
    """It would be the directory of images."""
    file = small.path / "splits.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, '"\ufeff ",train', ""]))
    place = f"line {len(lines) + 1}: the image is empty"
    fails(small, f"{file}: {place}")
