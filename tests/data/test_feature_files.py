"""Files of features, written by NumPy, pandas, PyArrow and TensorFlow."""

import gzip
import re

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from imcl_tf.data.feature_files import FeatureFile, first_not_finite

IDS = ["b.jpg", "a", "ü/3", "1"]
ROWS = np.array(
    [[0, 1, 2], [3, 0, 5], [6, 7, 0], [1, 2, 3]], np.float32
)  # fmt: skip


def example(name, feature, key="image_id", value="feature"):
    floats = tf.train.FloatList(value=feature)
    texts = tf.train.BytesList(value=[name.encode()])
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                key: tf.train.Feature(bytes_list=texts),
                value: tf.train.Feature(float_list=floats),
            }
        )
    ).SerializeToString()


def write_records(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in examples:
            writer.write(record)


def npz(place, save=np.savez, **changes):
    path = place / "f.npz"
    save(path, **{"ids": np.array(IDS), "features": ROWS, **changes})
    return path


def compressed(place):
    # Fortran's order too: a row's numbers are apart.
    return npz(place, np.savez_compressed, features=np.asfortranarray(ROWS))


def npy_and_text(place):
    np.save(place / "f.npy", ROWS.astype(np.float16))
    text = "\r\n".join(IDS) + "\r\n"
    (place / "f.ids.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return place / "f.npy"


def npy_and_npy(place):
    np.save(place / "f.npy", np.asfortranarray(ROWS.astype(">i4")))
    np.save(place / "ids.npy", np.array([x.encode() for x in IDS]))
    return place / "f.npy"


def parquet_of_lists(place):
    table = {"image": IDS, "features": list(ROWS), "note": ["x"] * 4}
    pd.DataFrame(table).to_parquet(place / "f.parquet", row_group_size=2)
    return place / "f.parquet"


def parquet_of_fixed_lists(place):
    flat = pyarrow.array(ROWS.astype(np.float64).ravel())
    lists = pyarrow.FixedSizeListArray.from_arrays(flat, 3)
    table = pyarrow.table({"id": IDS, "embedding": lists})
    pyarrow.parquet.write_table(table, place / "f.parquet")
    return place / "f.parquet"


def parquet_of_columns(place):
    table = pd.DataFrame(ROWS, index=IDS, columns=["x", "y", "z"])
    table["y"] = table["y"].astype(int)
    table.to_parquet(place / "f.parquet")
    return place / "f.parquet"


def records(place):
    write_records(place / "f.tfrecord", map(example, IDS, ROWS))
    return place / "f.tfrecord"


def directory_of_records(place):
    for k in (0, 1):
        part = slice(2 * k, 2 * k + 2)
        write_records(
            place / f"x.tfrecord-0000{k}-of-00002",
            (example(i, x, "id", "features") for i, x in
             zip(IDS[part], ROWS[part], strict=True)),
        )  # fmt: skip
    (place / "notes.json").write_text("{}")
    return place


def pattern_of_records(place):
    return directory_of_records(place) / "x.tfrecord-*"


@pytest.mark.parametrize(
    "write",
    [
        npz, compressed, npy_and_text, npy_and_npy, parquet_of_lists,
        parquet_of_fixed_lists, parquet_of_columns, records,
        directory_of_records, pattern_of_records,
    ],
)  # fmt: skip
def test_reads_what_others_write(write, tmp_path):
    file = FeatureFile(write(tmp_path))
    assert file.ids == IDS and file.num_features == 3
    chosen = np.array([3, 0, 3])
    for found, expected in (
        (file.rows(chosen), ROWS[chosen]),
        (file.rows(slice(1, 3)), ROWS[1:3]),
        (np.concatenate([*file.blocks()]), ROWS),
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i8", "f2", "<f4", ">f4", "f8", "g"]
)
def test_numbers_of_any_type(dtype, tmp_path):
    rows = (ROWS > 1).astype(dtype) if dtype == "?" else ROWS.astype(dtype)
    found = FeatureFile(npz(tmp_path, features=rows)).rows(slice(None))
    np.testing.assert_array_equal(found, rows.astype(np.float32))


def test_columns_are_those_of_their_names(tmp_path):
    """In files that have them in another order; an unnamed one is none."""
    tables = [
        pd.DataFrame({"id": ["a"], "x": [1.0], "y": [2.0], "Unnamed: 0": [7]}),
        pd.DataFrame({"y": [4.0], "id": ["b"], "x": [3.0]}),
    ]
    for number, table in enumerate(tables):
        table.to_parquet(tmp_path / f"{number}.parquet")
    file = FeatureFile(tmp_path)
    assert file.ids == ["a", "b"]
    np.testing.assert_array_equal(file.rows(slice(2)), [[1, 2], [3, 4]])


def test_records_within_gzip(tmp_path):
    path = tmp_path / "f.tfrecord.gz"
    path.write_bytes(gzip.compress(records(tmp_path).read_bytes()))
    file = FeatureFile(path)
    assert file.ids == IDS
    np.testing.assert_array_equal(file.rows(slice(4)), ROWS)


def test_blank_lines_are_no_ids(tmp_path):
    path = npy_and_text(tmp_path)
    with (tmp_path / "f.ids.txt").open("a") as file:
        file.write("  \n\n")
    assert FeatureFile(path).ids == IDS
    (tmp_path / "f.ids.txt").write_text("\n")
    check_refused(path, "0 ids and 4 rows")


def test_whole_numbers_are_ids(tmp_path):
    path = npz(tmp_path, ids=np.array([10, -2, 0, 7]))
    assert FeatureFile(path).ids == ["10", "-2", "0", "7"]


def test_blocks_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("imcl_tf.data.feature_matrix._BLOCK", 7)
    sizes = [len(x) for x in FeatureFile(npz(tmp_path)).blocks()]
    assert sizes == [2, 2]


def test_first_column_that_is_not_finite():
    rows = np.array([[1, np.inf, np.nan], [0, 0, 0], [-np.inf, 0, 0]])
    assert first_not_finite(rows).tolist() == [1, -1, 0]


def test_too_large_for_float32_is_infinite(tmp_path):
    rows = np.array([[1.0], [1e300], [0.0], [-1e39]])
    file = FeatureFile(npz(tmp_path, features=rows))
    assert file.rows(slice(None))[:, 0].tolist() == [1, np.inf, 0, -np.inf]


class TestRefused:
    """Each in one line of what was found and what was expected."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"ids": ["a", "b", "a ", "b"]}, "more than once: a, b"),
            ({"ids": ["a", "b"]}, r"2 ids and 4 rows of features"),
            ({"ids": ["a", " ", "b", "c"]}, "the id of row 1 is empty"),
            ({"ids": ["a", "b\nc", "d", "e"]}, r"line breaks .*b\\nc"),
            ({"ids": np.array(IDS, object)}, "Python objects, which are not"),
            ({"ids": ROWS}, r"ids are \[4, 3\] of type float32; expected"),
            ({"features": ROWS[0]}, r"features are \[3\]; expected \[N, d\]"),
            ({"features": ROWS[None]}, r"features are \[1, 4, 3\]; expected"),
            ({"features": ROWS[:, :0]}, r"features are \[4, 0\]; expected"),
            ({"features": ROWS[:0]}, r"features are \[0, 3\]; expected"),
            ({"features": ROWS * 1j}, "type complex64; numbers expected"),
            ({"features": ROWS.astype(str)}, "type <U32; numbers expected"),
            ({"features": ROWS.astype(object)}, "type object; numbers"),
        ],
    )
    def test_arrays(self, changes, message, tmp_path):
        changes = {k: np.asarray(x) for k, x in changes.items()}
        check_refused(npz(tmp_path, **changes), message)

    def test_other_names(self, tmp_path):
        np.savez(tmp_path / "f.npz", id=IDS, x=ROWS)
        check_refused(tmp_path / "f.npz", "arrays ids and features, got id, x")

    @pytest.mark.parametrize("write", [npz, compressed, npy_and_text])
    def test_a_part_of_a_file(self, write, tmp_path):
        path = write(tmp_path)
        path.write_bytes(path.read_bytes()[:-20])
        check_refused(path, "damaged|not a whole file")

    def test_another_content(self, tmp_path):
        path = compressed(tmp_path)
        content = bytearray(path.read_bytes())
        place = content.rindex(b"features.npy", 0, -60) + 20
        content[place : place + 30] = bytes(30)
        path.write_bytes(content)
        check_refused(path, "damaged")

    def test_another_number(self, tmp_path):
        path = npz(tmp_path)
        content = bytearray(path.read_bytes())
        content[content.index(ROWS[1].tobytes()) + 3] ^= 0x10
        path.write_bytes(content)
        check_refused(path, "damaged: Bad CRC-32 .*features")

    @pytest.mark.parametrize("name", ["f.npz", "f.parquet", "f.tfrecord"])
    def test_garbage(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"garbage" * 9)
        check_refused(tmp_path / name, "damaged")

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ({"x": [1.0]}, "expected one column of ids, called id, ids"),
            ({"id": ["a"], "image": ["a"], "x": [1]}, "one column of ids"),
            ({"id": ["a"]}, "or columns of numbers, got id"),
            ({"id": ["a"], "x": [1], "y": ["u"]}, "column y is large_string|"
             "column y is string"),
            ({"id": [None, "a"], "x": [1, 2]}, "1 of them null"),
            ({"id": ["a", "b", "c"], "features": [[1.0], [1.0, 2.0], None]},
             "c: no features"),
            ({"id": ["a", "b"], "features": [[1.0], [1.0, 2.0]]},
             "b: rows of 2 features, and of 1 before"),
            ({"id": ["a"], "features": [[[1.0]]]}, "column features is list"),
        ],
    )  # fmt: skip
    def test_parquet(self, table, message, tmp_path):
        pd.DataFrame(table).to_parquet(tmp_path / "f.parquet")
        check_refused(tmp_path / "f.parquet", message)

    def test_a_damaged_page(self, tmp_path):
        """It is the file that is at fault, not the temporary one."""
        path = parquet_of_columns(tmp_path)
        content = bytearray(path.read_bytes())
        content[4:12] = b"\xff" * 8
        path.write_bytes(content)
        check_refused(path, r"f\.parquet: damaged")

    def test_columns_of_one_name(self, tmp_path):
        columns = [pyarrow.array(["a"]), *[pyarrow.array([1.0])] * 2]
        table = pyarrow.Table.from_arrays(columns, ["id", "x", "x"])
        pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
        check_refused(tmp_path / "f.parquet", "columns of one name: x")

    def test_other_columns_in_another_file(self, tmp_path):
        for name in "xy":
            table = pd.DataFrame({"id": [name], "both": [2.0], name: [1.0]})
            table.to_parquet(tmp_path / f"{name}.parquet")
        check_refused(
            tmp_path,
            r"y\.parquet: expected the features of the files before it, got y "
            "in place of x$",
        )

    @pytest.mark.parametrize(
        ("examples", "message"),
        [
            ([], r"features are \[0, 0\]"),
            ([example("a", [1, 2]), example("b", [1])],
             "b: rows of 1 features, and of 2 before"),
            # Messages one after the other are one message.
            ([example("a", [1]) + example("a", [1], value="features")],
             "a: both feature and features"),
            ([example("a", [1], value="image")], "a: no features"),
            ([example("a", [1], key="name")], "the id of row 0 is empty"),
            ([b"garbage"], "damaged: Could not parse example|no features"),
        ],
    )  # fmt: skip
    def test_records(self, examples, message, tmp_path):
        write_records(tmp_path / "f.tfrecord", examples)
        check_refused(tmp_path / "f.tfrecord", message)

    def test_npy_without_ids_or_with_two(self, tmp_path):
        path = npy_and_text(tmp_path)
        (tmp_path / "ids.txt").write_text("a")
        check_refused(path, r"holds f\.ids\.txt and ids\.txt; expected one")
        for file in tmp_path.glob("*.txt"):
            file.unlink()
        check_refused(path, r"holds no ids; expected one of f\.ids\.txt")

    def test_other_files(self, tmp_path):
        (tmp_path / "f.csv").write_text("a,1\n")
        for name in ("f.csv", "", "*.csv"):
            check_refused(tmp_path / name, r"expected \.npz, \.npy or ")
        for name in ("none.npz", "none", "none*"):
            with pytest.raises(FileNotFoundError, match="no such file"):
                FeatureFile(tmp_path / name)


def check_refused(path, message):
    with pytest.raises(ValueError) as caught:
        file = FeatureFile(path)
        assert file.ids and [*file.blocks()]
    text = str(caught.value)
    assert text.startswith(str(path.parent)) and "\n" not in text
    assert text.count("damaged: ") <= 1 and "{{" not in text
    assert re.search(message, text), text
