"""The record schema, against protocol buffers written by hand."""

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
    def test_image_comes_back_as_it_was(self, make_example):
        image = b"\xff\xd8 any bytes \x00\xff"
        record = make_example(
            image_id="ü/1.jpg".encode(),
            image=image,
            positives=[1],
            negatives=[],
        )
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
        told = records.decode_labels(tf.constant([record]))
        assert told["positives"].to_list() == [[3, 5]]
        assert told["negatives"].to_list() == [[]]


class TestReadLabels:
    @pytest.mark.parametrize("lengths", [(5,), (4, 1, 6), (3, 0, 2)])
    def test_rows_in_file_order(self, make_image_shards, tmp_path, lengths):
        made = make_image_shards(tmp_path, lengths, num_labels=9)
        labels = records.read_labels(made.files, 9)
        assert labels.format == "csr" and labels.dtype == np.int8
        np.testing.assert_array_equal(labels.toarray(), made.labels)
        assert labels.nnz == np.count_nonzero(made.labels)
        assert labels.has_sorted_indices
        np.testing.assert_array_equal(
            records.read_labels(made.files[::-1], 9).toarray(),
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
        labels = records.read_labels([write(tmp_path / "a", serialized)], 11)
        expected = np.zeros((2500, 11), np.int8)
        i = np.arange(2500)
        expected[i, i % 11] = np.where(i % 2, 1, -1)
        np.testing.assert_array_equal(labels.toarray(), expected)

    def test_no_record(self, tmp_path):
        labels = records.read_labels([write(tmp_path / "a", [])], 4)
        assert labels.shape == (0, 4) and labels.nnz == 0

    def test_nothing_observed(self, make_example, tmp_path):
        empty = make_example(positives=[], negatives=[])
        labels = records.read_labels([write(tmp_path / "a", [empty] * 3)], 4)
        assert labels.shape == (3, 4) and labels.nnz == 0

    @pytest.mark.parametrize("index", [4, -1])
    @pytest.mark.parametrize("key", ["positives", "negatives"])
    def test_label_out_of_range(self, make_example, tmp_path, index, key):
        told = {"positives": [0], "negatives": [1]} | {key: [index]}
        path = write(tmp_path / "bad", [make_example(**told)])
        with pytest.raises(ValueError, match=rf"bad.*\[0, 4\).*{index}"):
            records.read_labels([path], 4)


class TestWriteShards:
    @pytest.mark.parametrize(
        ("total", "size", "expected"),
        [
            (7, 3, [3, 3, 1]),
            (6, 3, [3, 3]),
            (2, 3, [2]),
            (3, 1, [1, 1, 1]),
            (0, 3, []),
        ],
    )
    def test_sizes_and_order(self, tmp_path, total, size, expected):
        serialized = [b"record %d" % n for n in range(total)]
        records.write_shards(tmp_path, "test", iter(serialized), size)
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == [
            f"test-{n:05d}.tfrecord" for n in range(len(expected))
        ]
        read = [
            list(tf.data.TFRecordDataset(str(f)).as_numpy_iterator())
            for f in files
        ]
        assert [len(part) for part in read] == expected
        assert sum(read, []) == serialized

    def test_takes_records_one_by_one(self, tmp_path):
        """A data set need not fit into memory: files appear on the way."""

        def serialized():
            for n in range(9):
                assert len([*tmp_path.iterdir()]) == -(-n // 2)
                yield b"%d" % n

        records.write_shards(tmp_path, "train", serialized(), 2)
        assert len([*tmp_path.iterdir()]) == 5
