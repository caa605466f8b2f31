"""CUB-200-2011: genuine and generated files against a reader line by line."""

import numpy as np
import pytest
import scipy.io

from data_prep import cub
from tests.data_prep.cub.files import (
    ATTRIBUTES,
    IMAGES,
    LABELS,
    REAL,
    SPLITS,
    fails,
    needs_real,
    oracle,
    write_attribute_labels,
    write_mat,
)


def read(raw):
    """Contents of read_birds, with the names that go with it."""
    directory = raw / "CUB_200_2011"
    classes = cub.read_names(directory / "classes.txt")
    attributes = cub.read_names(raw / "attributes.txt")
    birds, counts = cub.read_birds(directory, len(classes), len(attributes))
    return classes, attributes, birds, counts


def split_names(path, images):
    """Split -> image names."""
    return {
        split: [images[n] for n in rows]
        for split, rows in cub.read_splits(path, images).items()
    }


class TestReadBirds:
    def check(self, raw):
        """Compares everything with the oracle; returns the counts."""
        classes, attributes, birds, counts = read(raw)
        expected = oracle(raw)
        assert (classes, attributes) == expected[:2]
        class_of, signs, certainties, _ = expected[2:]
        assert birds.names == list(class_of)
        class_ids = birds.extras["class_id"]
        assert class_ids.dtype == np.int64
        assert class_ids.tolist() == [class_of[name] for name in birds.names]
        assert birds.labels.dtype == np.int8
        for matrix, rows in (
            (birds.labels, signs),
            (birds.extras["certainties"], certainties),
        ):
            assert matrix.format == "csr"
            dense = matrix.toarray().tolist()
            assert dense == [rows[name] for name in birds.names]
            # Nothing but the observed pairs is stored.
            assert matrix.nnz == sum(map(np.count_nonzero, rows.values()))
        return counts

    def test_generated(self, raw):
        assert self.check(raw) == {
            "attribute labels": IMAGES * ATTRIBUTES - ATTRIBUTES - 3,
            "attribute labels missing": ATTRIBUTES + 3,
            "attribute labels with extra columns": 9 * 4,
        }

    @needs_real
    def test_genuine_files_at_full_size(self, tmp_path):
        """11,788 images; the attribute labels alone are generated."""
        raw = tmp_path / "raw"
        directory = raw / "CUB_200_2011"
        for path in (directory / "images", directory / "attributes"):
            path.mkdir(parents=True)
        for path in REAL.glob("*.txt"):
            (directory / path.name).symlink_to(path)
        (directory / "attributes.txt").rename(raw / "attributes.txt")
        write_attribute_labels(raw / LABELS, 11_788)
        counts = self.check(raw)
        assert counts == {
            "attribute labels": 11_788 * 312,
            "attribute labels missing": 0,
            "attribute labels with extra columns": 1684 * 4,
        }

    def test_lines_of_windows(self, raw, spoilt):
        for path in spoilt.rglob("*.txt"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        *names, birds, counts = read(spoilt)
        *expected, same, same_counts = read(raw)
        assert (names, counts) == (expected, same_counts)
        assert birds.names == same.names
        assert (birds.labels != same.labels).nnz == 0


class TestReadSplits:
    @needs_real
    def test_genuine_official_split(self):
        images = cub.read_names(REAL / "images.txt")
        path = REAL / "train_test_split.txt"
        splits = split_names(path, images)
        training, test = set(), set()
        for line in path.read_text().splitlines():
            image, is_training = line.split()
            (training if is_training == "1" else test).add(
                images[int(image) - 1]
            )
        assert {s: len(x) for s, x in splits.items()} == {
            "train": 5395, "validation": 599, "test": 5794,
        }  # fmt: skip
        assert set(splits["test"]) == test
        assert {*splits["train"], *splits["validation"]} == training

    @needs_real
    @pytest.mark.parametrize("dtype", [np.uint16, float])
    def test_benchmark_at_full_size(self, tmp_path, dtype):
        """The benchmark's sizes: 7,057, 1,764 and 2,967 images."""
        images = cub.read_names(REAL / "images.txt")
        shuffled = np.random.default_rng(0).permutation(images).tolist()
        parts = shuffled[:7057], shuffled[7057:8821], shuffled[8821:]
        write_mat(tmp_path, sorted(images), *parts, dtype)
        splits = split_names(tmp_path / "att_splits.mat", images)
        assert len(splits["validation"]) == 705
        assert len(splits["train"]) == 7057 - 705
        assert {*splits["train"], *splits["validation"]} == set(parts[0])
        assert set(splits["test"]) == {*parts[1], *parts[2]}
        assert len(splits["test"]) == 1764 + 2967

    def test_validation_does_not_depend_on_the_order(self, tmp_path):
        images = [f"c/{n}.jpg" for n in range(50)]
        parts = images[:30], images[30:40], images[40:]
        write_mat(tmp_path / "one", images, *parts)
        backwards = [part[::-1] for part in parts]
        write_mat(tmp_path / "two", images[::-1], *backwards)
        one, two = (
            split_names(tmp_path / name / "att_splits.mat", images)
            for name in ("one", "two")
        )
        for split in SPLITS:
            assert set(one[split]) == set(two[split])
        assert len(one["validation"]) == 3

    def test_validation_is_drawn_from_all_training_images(self, tmp_path):
        """Not the first of them, which are one class."""
        images = [f"c/{n}.jpg" for n in range(1000)]
        write_mat(tmp_path, images, images[:900], images[900:950], images[950:])
        splits = cub.read_splits(tmp_path / "att_splits.mat", images)
        assert 300 < splits["validation"].mean() < 600

    def test_csv_is_taken_as_it_is(self, tmp_path):
        images = [f"c/{n}.jpg" for n in range(6)]
        path = tmp_path / "splits.csv"
        path.write_text(
            "\ufeffnote,image,split\n,c/4.jpg,test\n,c/0.jpg,train\n"
            ",c/1.jpg,validation\n,c/2.jpg,test\n",
            encoding="utf-8",
        )
        assert split_names(path, images) == {
            "train": ["c/0.jpg"],
            "validation": ["c/1.jpg"],
            "test": ["c/4.jpg", "c/2.jpg"],
        }


class TestBadSplits:
    def save(self, path, **changes):
        """Replaces or removes variables of a .mat file."""
        content = scipy.io.loadmat(path) | changes
        kept = {
            name: value
            for name, value in content.items()
            if value is not None and not name.startswith("__")
        }
        scipy.io.savemat(path, kept)

    def benchmark(self, tmp_path, change):
        """Reads changed parts (trainval, test_seen, test_unseen) and order."""
        images = [f"c/{n}.jpg" for n in range(50)]
        parts = [images[:30], images[30:40], images[40:]]
        order = list(images)
        change(parts, order)
        write_mat(tmp_path, order, *parts)
        with pytest.raises(ValueError) as caught:
            cub.read_splits(tmp_path / "att_splits.mat", images)
        message = str(caught.value)
        assert str(tmp_path / "att_splits.mat") in message
        return message

    def test_unknown_image(self, tmp_path):
        def change(parts, order):
            parts[1][2] = order[32] = "c/other.jpg"

        message = self.benchmark(tmp_path, change)
        assert "test_seen_loc, row 3: image c/other.jpg" in message

    def test_image_in_two_splits(self, tmp_path):
        message = self.benchmark(tmp_path, lambda p, o: p[2].append(p[0][4]))
        assert "test_unseen_loc, row 11: image c/4.jpg" in message
        assert "trainval_loc, row 5" in message

    def test_empty_split(self, tmp_path):
        def change(parts, order):
            del parts[1][:], parts[2][:]

        assert "split test has no image" in self.benchmark(tmp_path, change)

    def test_no_image_left_for_validation(self, tmp_path):
        def change(parts, order):
            del parts[0][9:]

        message = self.benchmark(tmp_path, change)
        assert "split validation has no image" in message

    @pytest.mark.parametrize("row", [0, 51, 1.5, np.nan])
    def test_row_that_is_not_there(self, tmp_path, row):
        images = [f"c/{n}.jpg" for n in range(50)]
        write_mat(tmp_path, images, images[:30], images[30:40], images[40:])
        path = tmp_path / "att_splits.mat"
        loc = np.array([[1.0], [row], [3.0]])
        self.save(path, trainval_loc=loc)
        with pytest.raises(ValueError, match="trainval_loc, row 2: .* 1 to 50"):
            cub.read_splits(path, images)

    def test_missing_variable(self, tmp_path):
        write_mat(tmp_path, ["c/0.jpg"], ["c/0.jpg"], [], [])
        path = tmp_path / "att_splits.mat"
        self.save(path, test_seen_loc=None)
        with pytest.raises(ValueError, match="expected.*test_seen_loc"):
            cub.read_splits(path, ["c/0.jpg"])

    @pytest.mark.parametrize("name", ["att_splits.mat", "res101.mat"])
    def test_files_of_the_benchmark_cut_or_missing(self, spoilt, name):
        path = spoilt / "xlsa17" / "data" / "CUB" / name
        content = path.read_bytes()
        for spoil in (
            content[: len(content) // 2], content[:100], b"", b"<html>" * 99,
        ):  # fmt: skip
            path.write_bytes(spoil)
            fails(spoilt, f"{path}: ", "expected MATLAB 5 with")
        path.unlink()
        fails(spoilt, str(path), error=FileNotFoundError)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("c/0.jpg,train\nc/9.jpg,test\n", "line 3: image c/9.jpg is not"),
            (
                "c/0.jpg,train\nc/0.jpg,test\n",
                "line 3: image c/0.jpg is listed",
            ),
            ("c/0.jpg,train\nc/1.jpg,val\n", "line 3: split must be.*got val"),
            ("c/0.jpg,train\nc/1.jpg\n", "line 3: split must be.*got nothing"),
            ("c/0.jpg,train\nc/1.jpg,test\n", "split validation has no image"),
            ("", "split train has no image"),
            (f"{'c' * 200_000},train\n", "line .*field larger than"),
            ('"c\n0",train\n', r"line 3: image c.n0 is not in images.txt"),
        ],
    )
    def test_bad_csv(self, tmp_path, rows, message):
        path = tmp_path / "splits.csv"
        path.write_text("image,split\n" + rows)
        with pytest.raises(ValueError, match=f"splits.csv: {message}"):
            cub.read_splits(path, ["c/0.jpg", "c/1.jpg", "c/2.jpg"])

    def test_a_header_without_end(self, tmp_path):
        path = tmp_path / "splits.csv"
        path.write_text('image,split,"' + "a\n" * 100_000)
        with pytest.raises(ValueError, match="splits.csv: line .*field larger"):
            cub.read_splits(path, ["c/0.jpg"])

    def test_other_columns(self, tmp_path):
        path = tmp_path / "splits.csv"
        path.write_text("name,split\nc/0.jpg,train\n")
        with pytest.raises(ValueError, match="expected columns image,split"):
            cub.read_splits(path, ["c/0.jpg"])

    def test_other_kinds_of_files(self, tmp_path):
        with pytest.raises(ValueError, match="must end in .mat"):
            cub.read_splits(tmp_path / "splits.json", [])
        with pytest.raises(FileNotFoundError, match="no such file"):
            cub.read_splits(tmp_path / "splits.csv", [])

    def test_split_file_and_official_splits(self, raw):
        with pytest.raises(ValueError, match="--config=zero_shot"):
            cub.Cub(config="official", split_file="splits.csv")
