"""The tables of a user's folder, against its CSV files."""

import csv
from pathlib import Path

import numpy as np
import pytest

from imcl_tf.data.folder import folder_builder
from imcl_tf.data.folder_tables import FolderOptions, read_folder
from tests.data.common import (
    edit,
    read_csv,
)

pytestmark = pytest.mark.usefixtures("two_files")


ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"
SPLITS = ("train", "validation", "test")


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


def test_an_image_without_a_name_in_the_splits(small, fails):
    """It would be the directory of images."""
    file = small.path / "splits.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, '"\ufeff ",train', ""]))
    place = f"line {len(lines) + 1}: the image is empty"
    fails(small, f"{file}: {place}")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_birds():
    """README.txt: 5902 images, 184 attributes, one vector per class."""
    read = read_folder(REAL / "birds")
    assert len(read.label_names) == 184
    sizes = {split: len(files.names) for split, files in read.splits.items()}
    assert sizes == {"train": 2703, "validation": 296, "test": 2903}
    vectors = {}
    for split, files in read.splits.items():
        assert files.labels.nnz == sizes[split] * 184  # fully observed
        dense = files.labels.toarray()
        for name, row in zip(files.names, dense, strict=True):
            vectors.setdefault(name.split("__")[0], set()).add(row.tobytes())
    assert len(vectors) == 100
    assert {len(rows) for rows in vectors.values()} == {1}
