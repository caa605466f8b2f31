"""The record schema, against protocol buffers written by hand."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf import records


def csr(dense):
    return scipy.sparse.csr_array(np.asarray(dense, np.int8))


def lists(record):
    features = tf.train.Example.FromString(record).features.feature
    return {
        name: list(
            getattr(feature, feature.WhichOneof("kind") or "int64_list").value
        )
        for name, feature in features.items()
    }


def write(path, serialized):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in serialized:
            writer.write(record)
    return str(path)


class TestFeatureRecords:
    def test_holds_name_feature_and_observed_labels(self):
        feature = np.array([0.5, -1.25, 3e7], np.float32)
        record = records.encode_feature(
            "é.jpg".encode(), feature, csr([[0, 1, -1, 0, 1]])
        )
        assert lists(record) == {
            "image_id": ["é.jpg".encode()],
            "feature": [0.5, -1.25, 3e7],
            "positives": [1, 4],
            "negatives": [2],
        }

    def test_what_is_encoded_is_decoded(self):
        rng = np.random.default_rng(0)
        features = rng.normal(size=(5, 6)).astype(np.float32)
        labels = rng.choice([-1, 0, 1], (5, 4)).astype(np.int8)
        labels[3] = 0
        table = csr(labels)
        encoded = [
            records.encode_feature(b"%d" % i, features[i], table[[i]])
            for i in range(5)
        ]
        decoded = records.decode_features(tf.constant(encoded), 6)
        assert decoded.dtype == tf.float32
        np.testing.assert_array_equal(decoded, features)
        told = records.decode_labels(tf.constant(encoded))
        for i, row in enumerate(labels):
            assert list(told["positives"][i]) == list(np.flatnonzero(row == 1))
            assert list(told["negatives"][i]) == list(np.flatnonzero(row == -1))

    def test_features_of_another_length_are_refused(self):
        record = records.encode_feature(b"a", np.ones(3, "f"), csr([[1]]))
        with pytest.raises(tf.errors.InvalidArgumentError):
            records.decode_features(tf.constant([record]), 4)

    def test_no_dense_label_vector(self):
        """Of 100000 labels one is known: a byte or two each, not 100 kB."""
        labels = scipy.sparse.csr_array(
            (np.ones(1, np.int8), ([0], [99_999])), shape=(1, 100_000)
        )
        record = records.encode_feature(b"a", np.zeros(2, np.float32), labels)
        assert len(record) < 150


class TestImageRecords:
    def test_bytes_are_those_of_the_protocol_buffer(self, make_example):
        image = b"\xff\xd8 any bytes \x00\xff"
        record = records.encode_image(
            "ü/1.jpg", image, [1, 300], np.array([], int),
            {"class_id": [7], "certainties": np.array([4, 1])},
        )  # fmt: skip
        assert record == make_example(
            image_id="ü/1.jpg".encode(),
            image=image,
            positives=[1, 300],
            negatives=[],
            class_id=[7],
            certainties=[4, 1],
        )

    def test_image_comes_back_as_it_was(self):
        image = b"\xff\xd8 any bytes \x00\xff"
        record = records.encode_image("ü/1.jpg", image, [1], [])
        name, encoded = records.decode_image(tf.constant(record))
        assert name.numpy() == "ü/1.jpg".encode()
        assert encoded.numpy() == image
        assert name.shape == encoded.shape == ()

    def test_tfds_writes_these_very_records(self, make_example):
        import tensorflow_datasets as tfds

        schema = records.tfds_features()
        assert set(schema) == {"image_id", "image", "positives", "negatives"}
        image = tf.io.encode_png(np.full((2, 3, 3), 7, np.uint8)).numpy()
        serializer = tfds.core.example_serializer.ExampleSerializer(
            schema.get_serialized_info()
        )
        record = serializer.serialize_example(
            schema.encode_example(
                {
                    "image_id": "a.png",
                    "image": image,
                    "positives": np.array([3, 5]),
                    "negatives": np.array([], np.int64),
                }
            )
        )
        assert lists(record) == {
            "image_id": [b"a.png"],
            "image": [image],
            "positives": [3, 5],
            "negatives": [],
        }
        own = records.encode_image("a.png", image, [3, 5], [])
        assert lists(own) == lists(record)
        told = records.decode_labels(tf.constant([record]))
        assert told["positives"].to_list() == [[3, 5]]
        assert told["negatives"].to_list() == [[]]
        assert told["class_id"].to_list() == [[]]

    def test_label_costs_two_bytes(self):
        """Of 5,000 labels, indices from 128 on take two bytes each.

        "certainties", all of one byte, another one.
        """
        plain = len(records.encode_image("a", b"", [], []))
        labels = [*range(128, 4_128)]
        record = records.encode_image(
            "a", b"", labels[:1000], labels[1000:], {"certainties": [4] * 4000}
        )
        assert len(record) - plain < 3.02 * 4000


class TestReadLabels:
    @pytest.mark.parametrize("lengths", [(5,), (4, 1, 6), (3, 0, 2)])
    def test_rows_in_file_order(self, make_image_shards, tmp_path, lengths):
        made = make_image_shards(tmp_path, lengths, num_labels=9)
        labels, classes = records.read_labels(made.files, lengths, 9)
        assert classes.shape == (0,)
        assert labels.format == "csr" and labels.dtype == np.int8
        np.testing.assert_array_equal(labels.toarray(), made.labels)
        assert labels.nnz == np.count_nonzero(made.labels)
        assert labels.has_sorted_indices
        np.testing.assert_array_equal(
            records.read_labels(made.files[::-1], lengths[::-1], 9)[
                0
            ].toarray(),
            np.concatenate(
                np.split(made.labels, np.cumsum(lengths)[:-1])[::-1]
            ),
        )

    def test_more_records_than_one_batch(self, make_example, tmp_path):
        """Record i tells label i mod 11 by the sign of its parity."""
        serialized = [
            make_example(
                positives=[i % 11] if i % 2 else [],
                negatives=[] if i % 2 else [i % 11],
            )
            for i in range(2500)
        ]
        path = write(tmp_path / "a", serialized)
        labels, _ = records.read_labels([path], [2500], 11)
        expected = np.zeros((2500, 11), np.int8)
        i = np.arange(2500)
        expected[i, i % 11] = np.where(i % 2, 1, -1)
        np.testing.assert_array_equal(labels.toarray(), expected)

    def test_no_record(self, tmp_path):
        path = write(tmp_path / "a", [])
        labels, classes = records.read_labels([path], [0], 4)
        assert classes.shape == (0,)
        assert labels.shape == (0, 4) and labels.nnz == 0

    def test_nothing_observed(self, make_example, tmp_path):
        empty = make_example(positives=[], negatives=[])
        path = write(tmp_path / "a", [empty] * 3)
        labels, _ = records.read_labels([path], [3], 4)
        assert labels.shape == (3, 4) and labels.nnz == 0

    @pytest.mark.parametrize("index", [4, -1])
    @pytest.mark.parametrize("key", ["positives", "negatives"])
    def test_label_out_of_range(self, make_example, tmp_path, index, key):
        told = {"positives": [0], "negatives": [1]} | {key: [index]}
        path = write(tmp_path / "bad", [make_example(**told)])
        with pytest.raises(ValueError, match=rf"bad.*\[0, 4\).*{index}"):
            records.read_labels([path], [1], 4)

    def test_classes(self, make_example, tmp_path):
        paths = [
            write(
                tmp_path / str(number),
                [
                    make_example(positives=[c % 3], negatives=[], class_id=[c])
                    for c in classes
                ],
            )
            for number, classes in enumerate([[199, 0, 7], [], [7]])
        ]
        labels, classes = records.read_labels(paths, [3, 0, 1], 3)
        assert classes.dtype == np.int32
        np.testing.assert_array_equal(classes, [199, 0, 7, 7])
        np.testing.assert_array_equal(labels.indices, classes % 3)

    @pytest.mark.parametrize("wrong", [1, 3])
    def test_another_number_of_records(self, make_example, tmp_path, wrong):
        record = make_example(positives=[0], negatives=[])
        good, bad = (
            write(tmp_path / name, [record] * 2) for name in ("good", "bad")
        )
        with pytest.raises(ValueError, match=f"bad: 2 records where {wrong}"):
            records.read_labels([good, bad], [2, wrong], 1)

    @pytest.mark.parametrize("damage", ["cut", "changed", "text"])
    def test_damaged_file(self, make_image_shards, tmp_path, damage):
        made = make_image_shards(tmp_path, (3, 4))
        path = Path(made.files[1])
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(
            {
                "cut": content[:middle],
                "changed": content[:middle] + b"!!" + content[middle + 2 :],
                "text": b"these are not records, but it is long enough",
            }[damage]
        )
        with pytest.raises(ValueError, match=f"{path}: damaged records"):
            records.read_labels(made.files, made.lengths, 7)

    def test_record_of_another_kind(self, tmp_path):
        path = write(tmp_path / "other", [b"no protocol buffer"])
        with pytest.raises(ValueError, match="other: damaged records"):
            records.read_labels([path], [1], 7)
