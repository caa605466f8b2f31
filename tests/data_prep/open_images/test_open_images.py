"""Open Images: genuine and generated rows against a reader line by line."""

import collections
import shutil

import numpy as np
import pytest

from data_prep import open_images
from tests.data_prep.open_images.files import (
    AMBIGUOUS,
    DESCRIBED,
    HEADER,
    REAL,
    SPLITS,
    TRAINED,
    fails,
    mid,
    needs_real,
    oracle,
    oracle_classes,
    prepare,
    read_rows,
    write_rows,
)


def read_split(raw, split, machine=False):
    """As `oracle`, by the module under test."""
    classes = open_images.read_classes(raw)
    ids, labels, counts = open_images.read_split(raw / split, classes, machine)
    assert ids.dtype == np.uint64 and (np.diff(ids.astype(object)) > 0).all()
    assert labels.dtype == np.int8 and labels.shape[1] == len(classes.mids)
    assert set(np.unique(labels.data)) <= {-1, 1}
    found = {}
    for i, j in zip(*labels.nonzero(), strict=True):
        of_image = found.setdefault(f"{ids[i]:016x}", {})
        of_image[classes.mids[j]] = int(labels[i, j])
    assert len(found) == len(ids)  # none without a label
    return found, counts


class TestAnnotations:
    @pytest.mark.parametrize("machine", [False, True])
    @pytest.mark.parametrize("split", SPLITS)
    def test_generated(self, raw, split, machine):
        assert read_split(raw, split, machine) == oracle(raw, split, machine)

    def test_generated_rows_are_of_every_kind(self, raw):
        """Else the test above would prove little."""
        counts = oracle(raw, "train", machine=True)[1]
        assert len(counts) == 10 and min(counts.values()) >= 3
        assert len(oracle_classes(raw)[0]) == TRAINED
        assert len(oracle_classes(raw)[1]) == DESCRIBED

    @needs_real
    @pytest.mark.parametrize("machine", [False, True])
    def test_genuine(self, tmp_path, machine):
        for path in REAL.iterdir():
            shutil.copy(path, tmp_path)
        (tmp_path / "train").mkdir()
        for path in tmp_path.glob("*.sample.csv"):
            name = path.name.replace(".sample", "")
            path.rename(tmp_path / "train" / name)
        found, counts = read_split(tmp_path, "train", machine)
        assert (found, counts) == oracle(tmp_path, "train", machine)
        assert counts["annotations"] == 9
        # Its first row is of Confidence 0, the second of 1.
        rows = read_rows(tmp_path / "train" / "annotations-human.csv")[:2]
        assert [row[3] for row in rows] == ["0", "1"]
        trained, _ = oracle_classes(tmp_path)
        for image, _, label, value in rows:
            sign = {"0": -1, "1": 1}[value] if label in trained else None
            assert found.get(image, {}).get(label) == sign

    def test_blocks_do_not_matter(self, raw, monkeypatch):
        monkeypatch.setattr(open_images, "_BLOCK", 1000)
        assert read_split(raw, "train", True) == oracle(raw, "train", True)

    def test_line_ends_of_windows_and_byte_order_mark(self, spoilt):
        expected = read_split(spoilt, "train")
        path = spoilt / "train" / "annotations-human.csv"
        text = path.read_bytes().replace(b"\n", b"\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text)
        assert read_split(spoilt, "train") == expected

    @pytest.mark.parametrize("end", [b"", b"\n\n", b"\r\n\r\n\r\n"])
    def test_the_end_of_the_last_line(self, spoilt, end, caplog):
        """Missing, which a warning says, or followed by blank lines."""
        expected = read_split(spoilt, "train")
        path = spoilt / "train" / "annotations-human.csv"
        path.write_bytes(path.read_bytes().rstrip() + end)
        assert read_split(spoilt, "train") == expected
        warned = f"{path}: the last line has no end" in caplog.text
        assert warned == (not end)

    def test_names_of_later_releases(self, spoilt):
        """V4 and later, each file with another beginning or end."""
        expected = read_split(spoilt, "train", True)
        for kind in ("human", "machine"):
            path = spoilt / "train" / f"annotations-{kind}.csv"
            later = f"train-annotations-{kind}-imagelabels.csv"
            path.rename(path.with_name(later))
        for name in ("classes-trainable.txt", "class-descriptions.csv"):
            (spoilt / name).rename(spoilt / f"oidv7-{name}")
        described = spoilt / "oidv7-class-descriptions.csv"
        text = described.read_text()
        described.write_text(f"LabelName,DisplayName\n{text}")
        assert read_split(spoilt, "train", True) == expected

    def test_two_files_of_one_kind(self, spoilt, tmp_path):
        directory = spoilt / "train"
        later = "train-annotations-human-imagelabels.csv"
        shutil.copy(directory / "annotations-human.csv", directory / later)
        words = directory, f"expected one of annotations-human.csv, {later}"
        fails(spoilt, tmp_path / "out", *words)

    def test_further_columns_and_their_order_do_not_matter(self, spoilt):
        expected = read_split(spoilt, "train")
        path = spoilt / "train" / "annotations-human.csv"
        rows = [[r[3], r[0], "x", r[2], r[1]] for r in read_rows(path)]
        write_rows(path, rows, "Confidence,ImageID,New,LabelName,Source")
        assert read_split(spoilt, "train") == expected

    @pytest.mark.parametrize(
        ("values", "sign"),
        [("1", 1), ("0", -1), ("11", 1), ("00", -1), ("01", 0), ("101", 0)],
    )
    def test_one_label(self, spoilt, values, sign):
        """And a machine's word against it, which never counts."""
        image, label = "ffffffffffffffff", mid(3000)
        rows = [(image, "verification", label, value) for value in values]
        write_rows(spoilt / "test" / "annotations-human.csv", rows)
        for machine in (False, True):
            write_rows(
                spoilt / "test" / "annotations-machine.csv",
                [(image, "machine", label, "0.9")],
            )
            found, counts = read_split(spoilt, "test", machine)
            assert found == ({image: {label: sign}} if sign else {})
            assert counts["machine annotations that a human judged"] == machine
            contradicted = counts["contradicted labels, left unobserved"]
            assert contradicted == (sign == 0)

    @pytest.mark.parametrize(
        ("confidence", "present"),
        [("0", 0), ("0.49", 0), ("0.5", 1), ("0.7", 1), ("1.0", 1)],
    )
    def test_confidence_of_the_machine(self, spoilt, confidence, present):
        image, label = "0000000000000000", mid(3000)
        write_rows(spoilt / "test" / "annotations-human.csv", [])
        write_rows(
            spoilt / "test" / "annotations-machine.csv",
            [(image, "machine", label, confidence)],
        )
        found, _ = read_split(spoilt, "test", machine=True)
        assert found == ({image: {label: 1}} if present else {})
        assert read_split(spoilt, "test") == ({}, {})


class TestClasses:
    def check(self, raw):
        classes = open_images.read_classes(raw)
        mids, names = oracle_classes(raw)
        times = collections.Counter(names[m] for m in mids)
        assert list(classes.mids) == mids
        assert list(classes.names) == [
            names[m] if times[names[m]] == 1 else f"{names[m]} ({m})"
            for m in mids
        ]
        assert len(set(classes.names)) == len(mids)
        assert set(classes.described) == set(names)
        return classes

    def test_generated(self, raw):
        names = self.check(raw).names
        assert "Goose, wild" in names
        assert [n for n in names if "Crane" in n] == [
            f"Crane ({m})" for m in AMBIGUOUS
        ]

    def test_byte_order_mark_and_line_ends_of_windows(self, spoilt):
        expected = open_images.read_classes(spoilt)
        for name in ("classes-trainable.txt", "class-descriptions.csv"):
            path = spoilt / name
            text = "\r\n".join([*path.read_text().splitlines(), ""])
            path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        found = open_images.read_classes(spoilt)
        assert list(found.mids) == list(expected.mids)
        assert found.names == expected.names

    def test_not_text(self, spoilt, tmp_path):
        path = spoilt / "classes-trainable.txt"
        path.write_bytes("/m/é\n".encode("latin1"))
        fails(spoilt, tmp_path / "out", path, "not UTF-8 text")

    @needs_real
    def test_genuine(self):
        assert len(self.check(REAL).names) == 5000

    @pytest.mark.parametrize(
        "name", ["classes-trainable.txt", "class-descriptions.csv"]
    )
    def test_listed_twice(self, spoilt, tmp_path, name):
        path = spoilt / name
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, lines[4]]) + "\n")
        words = path, lines[4].split(",")[0], "twice"
        fails(spoilt, tmp_path / "out", *words)

    def test_not_described(self, spoilt, tmp_path):
        """Up to five are named."""
        with (spoilt / "classes-trainable.txt").open("a") as file:
            file.writelines(f"/m/new{number}\n" for number in range(6))
        names = ", ".join(f"/m/new{number}" for number in range(5))
        message = (
            f"class {names} and 1 more of classes-trainable.txt is missing"
        )
        path = spoilt / "class-descriptions.csv"
        fails(spoilt, tmp_path / "out", path, message)

    @pytest.mark.parametrize("row", ["/m/zzz", "/m/zzz,a,b"])
    def test_bad_row(self, spoilt, tmp_path, row):
        path = spoilt / "class-descriptions.csv"
        path.write_text(f"{path.read_text()}{row}\n")
        line = f"line {DESCRIBED + 1}: "
        fails(spoilt, tmp_path / "out", f"{path}: {line}", row)

    @pytest.mark.parametrize(
        "name", ["classes-trainable.txt", "class-descriptions.csv"]
    )
    def test_missing_file(self, spoilt, tmp_path, name):
        (spoilt / name).unlink()
        error = FileNotFoundError
        fails(spoilt, tmp_path / "out", spoilt / name, error=error)


class TestBadRow:
    """File and line are named, wherever the row stands."""

    @pytest.mark.parametrize("block", [1 << 24, 5000])
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("0123456789abcdef,verification,/m/00bb8", "got 3"),
            ("0123456789abcdef,verification,/m/00bb8,1,1", "got 5"),
            ("", "ImageID"),
            ("0123456789abcde,verification,/m/00bb8,1", "0123456789abcde"),
            ("0123456789abcdef0,verification,/m/00bb8,1", "0123456789abcdef0"),
            ("0123456789ABCDEF,verification,/m/00bb8,1", "0123456789ABCDEF"),
            ("0123456789abcdeé,verification,/m/00bb8,1", "ImageID"),
            (",verification,/m/00bb8,1", "ImageID"),
            ("0123456789abcdef,verification,/m/00bb8,0.5", "got 0.5"),
            ("0123456789abcdef,verification,/m/00bb8,-1", "got -1"),
            ("0123456789abcdef,verification,/m/00bb8,yes", "got yes"),
            ("0123456789abcdef,verification,/m/00bb8,nan", "got nan"),
            ("0123456789abcdef,verification,/m/00bb8,", "got nothing"),
        ],
    )
    def test_human(self, spoilt, tmp_path, row, message, block, monkeypatch):
        monkeypatch.setattr(open_images, "_BLOCK", block)
        path = spoilt / "train" / "annotations-human.csv"
        lines = path.read_text().splitlines()
        lines.insert(300, row)
        path.write_text("\n".join(lines) + "\n")
        fails(spoilt, tmp_path / "out", f"{path}: line 301: ", message)

    @pytest.mark.parametrize("value", ["1.01", "-0.1", "", "inf"])
    def test_machine(self, spoilt, tmp_path, value):
        path = spoilt / "test" / "annotations-machine.csv"
        rows = read_rows(path)
        rows[5][3] = value
        write_rows(path, rows)
        fails(
            spoilt, tmp_path / "out", f"{path}: line 7: Confidence",
            config="machine",
        )  # fmt: skip

    @pytest.mark.parametrize("cut", range(2, 30))
    def test_download_cut_short(self, raw, tmp_path, cut):
        """Wherever within the last line, but for the line's end."""
        directory = tmp_path / "train"
        directory.mkdir()
        content = (raw / "train" / "annotations-human.csv").read_bytes()
        path = directory / "annotations-human.csv"
        path.write_bytes(content[:-cut])
        line = content.count(b"\n")
        classes = open_images.read_classes(raw)
        with pytest.raises(ValueError, match=rf"{path}: line {line}"):
            open_images.read_split(directory, classes)

    @pytest.mark.parametrize(
        "content", [b"", b"<html>\n", bytes(range(128, 256)) * 9, b"a,b\n1,2\n"]
    )
    def test_another_file(self, spoilt, tmp_path, content):
        path = spoilt / "validation" / "annotations-human.csv"
        path.write_bytes(content)
        fails(spoilt, tmp_path / "out", path)

    @pytest.mark.parametrize("column", HEADER.split(",")[::2] + ["Confidence"])
    def test_missing_column(self, spoilt, tmp_path, column):
        path = spoilt / "validation" / "annotations-human.csv"
        path.write_text(path.read_text().replace(column, "Other", 1))
        fails(spoilt, tmp_path / "out", path, column)

    def test_semicolons(self, spoilt, tmp_path):
        """What is expected and what is there, both are shown."""
        path = spoilt / "validation" / "annotations-human.csv"
        path.write_text(path.read_text().replace(",", ";"))
        columns = "expected columns ImageID,LabelName,Confidence, got ImageID;"
        fails(spoilt, tmp_path / "out", f"{path}: line 1: {columns}")

    def test_missing_file(self, spoilt, tmp_path):
        path = spoilt / "validation" / "annotations-human.csv"
        path.unlink()
        fails(spoilt, tmp_path / "out", path, error=FileNotFoundError)

    def test_missing_machine_file_matters_where_it_is_asked_for(
        self, spoilt, tmp_path
    ):
        path = spoilt / "validation" / "annotations-machine.csv"
        path.unlink()
        prepare(spoilt, tmp_path / "human")
        fails(
            spoilt, tmp_path / "out", path, error=FileNotFoundError,
            config="machine",
        )  # fmt: skip

    def test_no_rows(self, spoilt, tmp_path):
        path = spoilt / "validation" / "annotations-human.csv"
        write_rows(path, [])
        fails(spoilt, tmp_path / "out", "validation", "no image")
