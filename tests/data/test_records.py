"""Records and label tables, against protocol buffers and arrays by hand."""

import hashlib
import json

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf.data import records


def csr(dense):
    return scipy.sparse.csr_array(np.asarray(dense, np.int8))


def lists(record):
    features = tf.train.Example.FromString(record).features.feature
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in features.items()
    }


class TestFeatureRecords:
    def test_holds_name_and_feature_alone(self):
        feature = np.array([0.5, -1.25, 3e7], np.float32)
        record = records.encode_feature("é.jpg".encode(), feature)
        assert lists(record) == {
            "image_id": ["é.jpg".encode()],
            "feature": [0.5, -1.25, 3e7],
        }

    def test_what_is_encoded_is_decoded(self):
        rng = np.random.default_rng(0)
        features = rng.normal(size=(5, 6)).astype(np.float32)
        encoded = [
            records.encode_feature(b"%d" % i, features[i]) for i in range(5)
        ]
        decoded = records.decode_features(tf.constant(encoded), 6)
        assert decoded.dtype == tf.float32
        np.testing.assert_array_equal(decoded, features)

    def test_features_of_another_length_are_refused(self):
        record = records.encode_feature(b"a", np.ones(3, "f"))
        with pytest.raises(tf.errors.InvalidArgumentError):
            records.decode_features(tf.constant([record]), 4)


class TestImageRecords:
    IMAGE = b"\xff\xd8 any bytes \x00\xff"

    def test_bytes_are_those_of_the_protocol_buffer(self, make_example):
        record = records.encode_image("ü/1.jpg", self.IMAGE)
        assert record == make_example(
            image_id="ü/1.jpg".encode(), image=self.IMAGE
        )

    def test_image_comes_back_as_it_was(self):
        record = records.encode_image("ü/1.jpg", self.IMAGE)
        name, encoded = records.decode_image(tf.constant(record))
        assert name.numpy() == "ü/1.jpg".encode()
        assert encoded.numpy() == self.IMAGE
        assert name.shape == encoded.shape == ()

    def test_tfds_writes_these_very_records(self):
        import tensorflow_datasets as tfds

        schema = records.tfds_features()
        assert set(schema) == {"image_id", "image"}
        image = tf.io.encode_png(np.full((2, 3, 3), 7, np.uint8)).numpy()
        serializer = tfds.core.example_serializer.ExampleSerializer(
            schema.get_serialized_info()
        )
        record = serializer.serialize_example(
            schema.encode_example({"image_id": "a.png", "image": image})
        )
        assert lists(record) == {"image_id": [b"a.png"], "image": [image]}
        assert lists(records.encode_image("a.png", image)) == lists(record)


LABELS = [[0, 1, -1, 0], [0, 0, 0, 0], [-1, 0, 0, 1]]
NAMES = ("cat", "über", "a, b", "")
IDS = ("1.jpg", "sub dir/é.png", "x")


def table(**changes):
    made = records.SplitLabels(
        image_ids=np.array([name.encode() for name in IDS]),
        labels=csr(LABELS),
        label_names=NAMES,
        classes=np.array([7, 0, 199], np.int32),
        extras={"certainties": np.array([4, 1, 2, 3], np.uint8)},
        file_sizes=np.array([10, 0, 2**40]),
        source_digest="0123456789abcdef",
        file_digests=np.array([b"aa", b"bb", b"cc"]),
    )
    return made._replace(**changes)


class TestLabelTable:
    @pytest.fixture
    def path(self, tmp_path):
        return records.labels_file(tmp_path, "train")

    def test_lies_beside_the_records(self, tmp_path):
        path = records.labels_file(tmp_path, "train")
        assert path == tmp_path / "labels-train.npz"
        assert records.labels_file(str(tmp_path), "train") == path

    def test_arrays_are_those_of_the_docstring(self, path):
        """Read with NumPy alone."""
        records.write_labels(path, table())
        with np.load(path) as found:
            found = dict(found)
        expected = {
            "image_ids": np.array([name.encode() for name in IDS]),
            "label_names": np.array([name.encode() for name in NAMES]),
            "values": np.array([1, -1, -1, 1], np.int8),
            "columns": np.array([1, 2, 0, 3], np.int32),
            "row_splits": np.array([0, 2, 2, 4], np.int32),
            "classes": np.array([7, 0, 199], np.int32),
            "extra_certainties": np.array([4, 1, 2, 3], np.uint8),
            "file_sizes": np.array([10, 0, 2**40]),
            "source_digest": np.array("0123456789abcdef"),
            "file_digests": np.array([b"aa", b"bb", b"cc"]),
        }
        assert set(found) == set(expected)
        for name, values in expected.items():
            assert found[name].dtype == values.dtype, name
            np.testing.assert_array_equal(found[name], values)
            assert f"    {name.split('_')[0]}" in records.__doc__

    def test_what_is_written_is_read(self, path):
        records.write_labels(path, table())
        read = records.read_labels(path)
        assert read.labels.format == "csr" and read.labels.dtype == np.int8
        assert read.labels.has_sorted_indices
        assert read.labels.indices.dtype == np.int32
        np.testing.assert_array_equal(read.labels.toarray(), LABELS)
        assert read.label_names == NAMES
        assert records.from_bytes(read.image_ids) == IDS
        assert read.classes.tolist() == [7, 0, 199]
        assert read.extras.keys() == {"certainties"}
        assert read.extras["certainties"].tolist() == [4, 1, 2, 3]
        assert read.file_sizes.tolist() == [10, 0, 2**40]
        assert read.source_digest == "0123456789abcdef"
        assert [*path.parent.iterdir()] == [path]

    def test_nothing_observed(self, path):
        empty = scipy.sparse.csr_array((3, 4), dtype=np.int8)
        written = table(labels=empty, classes=np.zeros(0, np.int32), extras={})
        records.write_labels(path, written)
        read = records.read_labels(path)
        assert read.labels.shape == (3, 4) and read.labels.nnz == 0
        assert read.classes.shape == (0,) and not read.extras

    def test_label_costs_five_bytes(self, path):
        """One byte for the value, four for the label; 4,000 of 5,000."""
        rows = csr(np.pad(np.ones((20, 4_000)), [(0, 0), (1_000, 0)]))
        written = table(
            image_ids=np.array([b"%016d" % i for i in range(20)]),
            labels=rows,
            label_names=tuple("x" * 5_000),
            classes=np.zeros(0, np.int32),
            extras={},
        )
        records.write_labels(path, written)
        assert path.stat().st_size < 5.1 * 80_000 + 5_000

    def test_same_table_same_bytes(self, path):
        records.write_labels(path, table())
        before = path.read_bytes()
        records.write_labels(path, records.read_labels(path))
        assert path.read_bytes() == before

    def test_full_disk_leaves_the_old_one(self, path, small_disk):
        records.write_labels(path, table())
        before = path.read_bytes()
        with small_disk(100), pytest.raises(OSError):
            records.write_labels(path, table(label_names=("new",) * 4))
        assert path.read_bytes() == before
        assert [*path.parent.iterdir()] == [path]

    def test_missing(self, path):
        with pytest.raises(ValueError) as caught:
            records.read_labels(path)
        assert str(caught.value) == (
            f"{path}: no such file; prepare the data set again"
        )

    @pytest.mark.parametrize(
        "damage", ["empty", "cut", "changed", "text", "old", "row_splits"]
    )
    def test_damaged(self, path, damage):
        records.write_labels(path, table())
        content = path.read_bytes()
        middle = content.index(b"\x01\xff\xff\x01")  # the values
        if damage in ("old", "row_splits"):
            with np.load(path) as found:
                kept = dict(found)
            if damage == "old":  # a cache of the first version
                del kept["image_ids"], kept["label_names"]
            else:
                kept["row_splits"] = kept["row_splits"][:-1]
            np.savez(path, **kept)
        else:
            path.write_bytes(
                {
                    "empty": b"",
                    "cut": content[:middle],
                    "changed": content[:middle] + b"!" + content[middle + 1 :],
                    "text": b"PK\3\4 no zip file",
                }[damage]
            )
        with pytest.raises(ValueError) as caught:
            records.read_labels(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: damaged label table (")
        assert message.endswith("; prepare the data set again")
        assert len(message.splitlines()) == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"columns": np.array([0, 2**20, 1], np.int32)},
            {"columns": np.array([0, -1, 1], np.int32)},
            {"values": np.array([1, 5, 1], np.int8)},
            {"values": np.array([1, 1, 1], np.int64)},
            {"row_splits": np.array([0, 3, 2, 3], np.int32)},
            {"classes": np.zeros(2, np.int32)},
            {"label_names": np.arange(2)},
            {"label_names": np.array([b"a", b"\xff"])},
            {"image_ids": np.array(3)},
            {"extra_x": np.zeros(9, np.int64)},
            {"file_sizes": np.array(["9"])},
        ],
    )
    def test_arrays_that_do_not_fit(self, path, change):
        """Under right checksums: an index outside would reach anywhere."""
        good = {
            "image_ids": np.array([b"a", b"b", b"c"]),
            "label_names": np.array([b"cat", b"dog"]),
            "values": np.array([1, -1, 1], np.int8),
            "columns": np.array([0, 1, 1], np.int32),
            "row_splits": np.array([0, 2, 2, 3], np.int32),
            "classes": np.zeros(0, np.int32),
            "file_sizes": np.array([10]),
            "file_digests": np.array([b"0"]),
            "source_digest": np.array("abc"),
        }
        np.savez(path, **good)
        assert records.read_labels(path).labels.toarray().tolist() == [
            [1, -1], [0, 0], [0, 1]
        ]  # fmt: skip
        np.savez(path, **(good | change))
        with pytest.raises(ValueError) as caught:
            records.read_labels(path)
        assert str(caught.value).startswith(f"{path}: damaged label table (")
        assert len(str(caught.value).splitlines()) == 1


class TestCheckFiles:
    @pytest.fixture
    def files(self, tmp_path):
        paths = [tmp_path / name for name in "abc"]
        for path, content in zip(paths, (b"123", b"", b"12"), strict=True):
            path.write_bytes(content)
        return [*map(str, paths)]

    def test_the_same(self, files):
        records.check_files(files, np.array([3, 0, 2]))

    def test_another_size(self, files):
        with pytest.raises(ValueError) as caught:
            records.check_files(files, np.array([3, 1, 2]))
        assert str(caught.value) == (
            f"{files[1]}: 0 bytes where 1 were written; prepare the data set "
            "again"
        )

    def test_missing(self, files, tmp_path):
        (tmp_path / "c").unlink()
        with pytest.raises(ValueError, match="c: no such file; prepare the"):
            records.check_files(files, [3, 0, 2])

    def test_another_number(self, files):
        with pytest.raises(ValueError, match="of 3 files where 2 were"):
            records.check_files(files, [3, 0])


class TestLabelsDigest:
    def test_by_hand(self):
        """Names as JSON; shape, row lengths, columns and values."""
        content = json.dumps([*NAMES]).encode()
        content += np.array([3, 4], "<i8").tobytes()
        content += np.array([2, 0, 2], "<i8").tobytes()
        content += np.array([1, 2, 0, 3], "<i4").tobytes()
        content += np.array([1, -1, -1, 1], "i1").tobytes()
        expected = hashlib.sha256(content).hexdigest()[:16]
        assert records.labels_digest(csr(LABELS), NAMES) == expected

    def test_forms_of_the_same_entries(self):
        expected = records.labels_digest(csr(LABELS), NAMES)
        unsorted = scipy.sparse.csr_array(
            (
                np.array([-1, 1, 0, 1, -1], np.int8),
                np.array([2, 1, 3, 3, 0]),
                np.array([0, 2, 3, 5]),
            ),
            shape=(3, 4),
        )
        assert unsorted.indices.dtype == np.int64
        before = unsorted.indices.copy()
        assert records.labels_digest(unsorted, [*NAMES]) == expected
        np.testing.assert_array_equal(unsorted.indices, before)

    def test_other_labels(self):
        digests = {records.labels_digest(csr(LABELS), NAMES)}
        for i, j, value in ((0, 1, -1), (0, 1, 0), (1, 3, 1)):
            changed = np.array(LABELS)
            changed[i, j] = value
            digests.add(records.labels_digest(csr(changed), NAMES))
        digests.add(records.labels_digest(csr(LABELS), ("dog", *NAMES[1:])))
        digests.add(records.labels_digest(csr(LABELS)[[0, 2, 1]], NAMES))
        wider = np.pad(LABELS, [(0, 0), (0, 1)])
        digests.add(records.labels_digest(csr(wider), (*NAMES, "new")))
        assert len(digests) == 7
        assert all(len(digest) == 16 for digest in digests)
