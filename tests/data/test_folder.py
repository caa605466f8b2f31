"""A user's folder of images, against its CSV files."""

import csv
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from imcl_tf.data import folder as folder_module
from imcl_tf.data import preparation
from imcl_tf.data.builders import prepare
from imcl_tf.data.folder import (
    Folder,
    folder_builder,
    folder_digest,
    read_folder,
)
from tests import programs
from tests.data.common import label_table

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

    def test_images_that_no_table_names_do_not_matter(self, small):
        (small.path / "images" / "Thumbs.db").write_bytes(b"no image")
        check(read_folder(small.path), small)


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
        shutil.copytree(folder.path, copy)
        key = folder_digest(folder.path, "error")
        assert folder_digest(copy, "error") == key
        assert folder_digest(str(copy), "error") == key

    @pytest.mark.parametrize(
        "what",
        ["splits", "bytes", "time", "new", "gone", "renamed"],
    )
    def test_other_content_other_key(self, small, what):
        key = folder_digest(small.path, "error")
        image = small.path / "images" / small.splits["train"][0]
        stat = image.stat()
        if what == "splits":
            path = small.path / "splits.csv"
            edit(path, lambda text: text + text.splitlines()[-1] + "\n")
        elif what == "bytes":  # with the time it had
            image.write_bytes(image.read_bytes() + b"more")
            os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        elif what == "time":
            os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        elif what == "new":
            (image.parent / "another").write_bytes(b"")
        elif what == "gone":
            image.unlink()
        else:
            image.rename(image.with_name("renamed.jpg"))
        assert folder_digest(small.path, "error") != key

    def test_labels_do_not_matter(self, small):
        key = folder_digest(small.path, "error")
        (small.path / "labels.csv").write_text("image,label,value\n")
        assert folder_digest(small.path, "error") == key

    def test_other_treatment_other_key(self, folder):
        keys = {
            folder_digest(folder.path, option) for option in ("error", "skip")
        }
        assert len(keys) == 2


class TestBadInput:
    def test_no_such_folder(self, small, fails, tmp_path):
        nowhere = small._replace(path=tmp_path / "nowhere")
        fails(nowhere, "nowhere", error=FileNotFoundError)

    @pytest.mark.parametrize("name", ["labels.csv", "splits.csv", "images"])
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

    @pytest.mark.parametrize("value", ["2", "nan", "NaN", "", "yes", "0.5"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_wrong_value(self, make_folder, fails, tmp_path, value, packed):
        sizes = {"train": 2, "validation": 1, "test": 1}
        made = make_folder(tmp_path / "raw", sizes, names=(), packed=packed)
        path = made.path / ("labels.csv.gz" if packed else "labels.csv")
        rows = [[*row.values()] for row in read_csv(path)]
        rows[4][2] = value
        made.write_table(path.name, rows)
        message = fails(made, str(path), "line 6", rows[4][0], rows[4][1])
        assert message.endswith(f"got {value or 'nothing'}")

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
        fails(small, str(path), image, "new", "different")

    def test_labelled_image_without_a_split(self, small, fails):
        image = small.splits["train"][0]
        rows = read_csv(small.path / "splits.csv")
        rows = [[*r.values()] for r in rows if r["image"] != image]
        small.write_table("splits.csv", rows)
        fails(small, str(small.path / "splits.csv"), image)

    def test_image_of_a_split_without_a_label(self, small, fails):
        with (small.path / "splits.csv").open("a") as file:
            file.write("stranger.jpg,train\n")
        fails(small, str(small.path / "labels.csv"), "stranger.jpg")

    def test_image_twice_in_the_splits(self, small, fails):
        image = small.splits["train"][0]
        with (small.path / "splits.csv").open("a") as file:
            file.write(f"{image},test\n")
        fails(small, str(small.path / "splits.csv"), image, "twice")

    @pytest.mark.parametrize("split", ["val", "Train", ""])
    def test_unknown_split(self, small, fails, split):
        path = small.path / "splits.csv"
        rows = [[*row.values()] for row in read_csv(path)]
        rows[2][1] = split
        small.write_table("splits.csv", rows)
        fails(small, str(path), "line 4", f"got {split or 'nothing'}")

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
        records = tmp_path / "records"
        done = programs.run(
            "data_prep.folder", "--on_bad_image=skip",
            f"--raw_dir={small.path}", f"--data_dir={records}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        place = records / "folder" / folder_digest(small.path, "skip") / "2.1.0"
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
