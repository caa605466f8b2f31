"""Minibatches, against records written by hand."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf.backbones.pictures import Resizing
from imcl_tf.data import pipeline
from imcl_tf.data.multi_label_dataset import naming_damaged_files
from imcl_tf.data.pixels import (
    AUGMENTATIONS,
    Augmentation,
    decode_and_resize,
)
from imcl_tf.ops.labels import LabelTable

LENGTHS = (4, 1, 6, 2)
N, C, S, B = sum(LENGTHS), 7, 8, 5
STEPS = math.ceil(N / B)
NAMES = tuple(f"label {n}" for n in range(C))


def make_split(files, lengths, labels, **options):
    classes = np.zeros(0, np.int32)
    return pipeline.Split(files, lengths, labels, classes, NAMES, **options)


@pytest.fixture(scope="module")
def made(make_image_shards, tmp_path_factory):
    return make_image_shards(tmp_path_factory.mktemp("shards"), LENGTHS, C, S)


@pytest.fixture(scope="module")
def split(made):
    labels = scipy.sparse.csr_array(made.labels)
    return make_split(made.files, made.lengths, labels)


@pytest.fixture(scope="module")
def features(make_example, tmp_path_factory):
    """A split of feature records; feature i is (i, i / 2, -i)."""
    directory = tmp_path_factory.mktemp("features")
    values = np.arange(N)[:, np.newaxis] * np.array([1, 0.5, -1])
    files, start = [], 0
    for number, length in enumerate(LENGTHS):
        files.append(str(directory / str(number)))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for row in values[start : start + length]:
                writer.write(make_example(image_id=b"x", feature=row))
        start += length
    labels = scipy.sparse.csr_array((N, C), dtype=np.int8)
    split = make_split(tuple(files), LENGTHS, labels, num_features=3)
    return split, values.astype("f")


def epochs(ds, count):
    """`count` epochs of an endless data set, each a list of NumPy batches."""
    batches = ds.take(count * STEPS).as_numpy_iterator()
    return [[next(batches) for _ in range(STEPS)] for _ in range(count)]


def order(epoch):
    return np.concatenate([x["image_index"] for x, _ in epoch]).tolist()


def image_id(record):
    return tf.train.Example.FromString(record).features.feature["image_id"]


class TestIndexedRecords:
    @pytest.mark.parametrize("seed", [None, 0, 3])
    def test_each_record_has_its_number(self, made, split, seed):
        pairs = [*pipeline.indexed_records(split, seed).as_numpy_iterator()]
        assert sorted(index for index, _ in pairs) == list(range(N))
        for index, record in pairs:
            assert index.dtype == np.int32
            assert image_id(record).bytes_list.value == [made.names[index]]

    def test_in_order_without_a_seed(self, split):
        pairs = pipeline.indexed_records(split).as_numpy_iterator()
        assert [index for index, _ in pairs] == list(range(N))

    def test_files_without_records(self, make_image_shards, tmp_path):
        made = make_image_shards(tmp_path, (0, 3, 0, 2, 0))
        split = make_split(made.files, made.lengths, None)
        for seed in (None, 1):
            pairs = [*pipeline.indexed_records(split, seed).as_numpy_iterator()]
            assert sorted(index for index, _ in pairs) == list(range(5))
            for index, record in pairs:
                name = image_id(record).bytes_list.value[0]
                assert name == made.names[index]

    def test_seed_decides_the_order(self, split):
        def orders(seed, passes):
            ds = pipeline.indexed_records(split, seed)
            return [[int(i) for i, _ in ds] for _ in range(passes)]

        first, second = orders(5, 2)
        assert first != second != list(range(N)) != first
        assert orders(5, 2) == [first, second]
        assert orders(6, 1) != [first]


class TestTrainingBatches:
    def test_shapes_and_types(self, split):
        table = LabelTable(split.labels)
        ds = pipeline.training_batches(split, table, (S, S, 3), B, 0)
        inputs, labels = ds.element_spec
        assert inputs["inputs"] == tf.TensorSpec((None, S, S, 3), tf.uint8)
        assert inputs["image_index"] == tf.TensorSpec((None,), tf.int32)
        assert labels == tf.TensorSpec((None, C), tf.int8)

    def test_images_labels_and_numbers_belong_together(self, made, split):
        table = LabelTable(split.labels)
        ds = pipeline.training_batches(split, table, (S, S, 3), B, 0)
        for epoch in epochs(ds, 3):
            # 13 images are 5, 5 and 3.
            assert [len(labels) for _, labels in epoch] == [5, 5, 3]
            assert sorted(order(epoch)) == list(range(N))
            for x, labels in epoch:
                index = x["image_index"]
                np.testing.assert_array_equal(x["inputs"], made.pixels[index])
                np.testing.assert_array_equal(labels, made.labels[index])

    def test_each_epoch_has_its_order_and_the_seed_repeats_it(self, split):
        table = LabelTable(split.labels)

        def orders(seed):
            keras.utils.set_random_seed(123)  # as a run does
            ds = pipeline.training_batches(split, table, (S, S, 3), B, seed)
            return [order(epoch) for epoch in epochs(ds, 4)]

        first = orders(7)
        assert len({tuple(o) for o in first}) == 4
        assert orders(7) == first
        assert orders(8)[0] != first[0]

    @pytest.mark.parametrize("seed", [0, 2**31])
    def test_no_two_seeds_share_an_order(self, split, seed):
        """Nor an epoch of one and another epoch of the next."""
        table = LabelTable(split.labels)
        orders = {
            tuple(order(epoch))
            for s in (seed, seed + 1, seed + 2)
            for epoch in epochs(
                pipeline.training_batches(split, table, (S, S, 3), B, s), 3
            )
        }
        # 13! orders: by chance two of nine agree once in 10^8.
        assert len(orders) == 9

    def test_begun_in_the_middle(self, split):
        table = LabelTable(split.labels)

        def batches(first):
            ds = pipeline.training_batches(
                split,
                table,
                (S, S, 3),
                B,
                1,
                AUGMENTATIONS["strong"],
                first_step=first,
            )
            return [x["inputs"] for x, _ in ds.take(7 - first)]

        for one, other in zip(batches(0)[4:], batches(4), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_every_image_comes_early_and_late(self, split):
        """Shuffled over all files, not only within them or their order."""
        table = LabelTable(split.labels)
        ds = pipeline.training_batches(split, table, (S, S, 3), B, 0)
        orders = np.array([order(epoch) for epoch in epochs(ds, 25)])
        place = orders.argsort(1)
        assert (place < N // 2).mean(0).min() > 0.1
        assert (place < N // 2).mean(0).max() < 0.9

    def test_hidden_labels_stay_hidden(self, split):
        """The labels of the run count, not those of the records."""
        hidden = split.labels.toarray()
        hidden[::2] = 0
        hidden[1] = 1
        table = LabelTable(scipy.sparse.csr_array(hidden))
        ds = pipeline.training_batches(split, table, (S, S, 3), B, 0)
        for x, labels in epochs(ds, 1)[0]:
            np.testing.assert_array_equal(labels, hidden[x["image_index"]])

    def test_features(self, features):
        split, values = features
        table = LabelTable(split.labels)
        ds = pipeline.training_batches(split, table, (3,), B, 0)
        (epoch,) = epochs(ds, 1)
        assert sorted(order(epoch)) == list(range(N))
        for x, _ in epoch:
            assert x["inputs"].dtype == np.float32
            np.testing.assert_array_equal(x["inputs"], values[x["image_index"]])


class TestAugmentation:
    @pytest.mark.parametrize("level", AUGMENTATIONS)
    def test_belongs_to_the_image_and_is_reproduced(self, level, made, split):
        table = LabelTable(split.labels)

        def batches(seed):
            ds = pipeline.training_batches(
                split, table, (S, S, 3), B, seed, AUGMENTATIONS[level]
            )
            return sum(epochs(ds, 2), [])

        ds = pipeline.training_batches(split, table, (S, S, 3), B, 4)
        plain = sum(epochs(ds, 2), [])
        first, again, other = batches(4), batches(4), batches(5)
        for (x, labels), (y, _), (z, _) in zip(
            first, again, plain, strict=True
        ):
            index = x["image_index"]
            assert x["inputs"].dtype == np.uint8
            assert x["inputs"].shape == (len(index), S, S, 3)
            np.testing.assert_array_equal(index, z["image_index"])
            np.testing.assert_array_equal(labels, made.labels[index])
            np.testing.assert_array_equal(x["inputs"], y["inputs"])
            assert (x["inputs"] != z["inputs"]).any()
        assert order(first) != order(other)

    def test_whole_images_are_only_mirrored(self, made, split):
        """With crops of area 1: each image as it is or left to right."""
        ds = pipeline.training_batches(
            split, LabelTable(split.labels), (S, S, 3), B, 1, Augmentation(1.0)
        )
        mirrored = np.zeros((80, N), bool)
        for row, epoch in zip(mirrored, epochs(ds, 80), strict=True):
            for x, _ in epoch:
                for i, crop in zip(x["image_index"], x["inputs"], strict=True):
                    row[i] = np.array_equal(crop, made.pixels[i][:, ::-1])
                    if not row[i]:
                        np.testing.assert_array_equal(crop, made.pixels[i])
        # Of 1,040 fair coins five standard deviations are 0.08; new ones for
        # each image and each epoch.
        assert abs(mirrored.mean() - 0.5) < 0.08
        assert len({row.tobytes() for row in mirrored}) > 70
        assert len({column.tobytes() for column in mirrored.T}) == N

    def test_levels_draw_the_crops_of_light(self, split):
        """Other draws follow the crop's: they do not change it."""
        light, erased = (
            pipeline.training_batches(
                split, LabelTable(split.labels), (S, S, 3), B, 4, augmentation
            )
            for augmentation in (Augmentation(), Augmentation(erased=0.9))
        )
        unlike = 0
        for (x, _), (y, _) in zip(
            sum(epochs(light, 4), []), sum(epochs(erased, 4), []), strict=True
        ):
            same = x["inputs"] == y["inputs"]
            assert (same | (y["inputs"] == 128)).all()
            unlike += (~same).sum()
        assert unlike


class TestOnePass:
    def test_once_in_the_order_of_the_records(self, made, split):
        table = LabelTable(split.labels)
        ds = pipeline.one_pass(split, table, (S, S, 3), B)
        for _ in range(2):
            batches = [*ds.as_numpy_iterator()]
            assert [len(labels) for _, labels in batches] == [5, 5, 3]
            assert order(batches) == list(range(N))
            images = np.concatenate([x["inputs"] for x, _ in batches])
            labels = np.concatenate([labels for _, labels in batches])
            np.testing.assert_array_equal(images, made.pixels)
            np.testing.assert_array_equal(labels, made.labels)

    def test_features(self, features):
        split, values = features
        ds = pipeline.one_pass(split, LabelTable(split.labels), (3,), B)
        got = [x["inputs"] for x, _ in ds.as_numpy_iterator()]
        np.testing.assert_array_equal(np.concatenate(got), values)


class TestLoadInputs:
    @pytest.mark.parametrize(
        "chosen",
        [[12, 0, 4, 3, 10, 5], [4], [*range(N)][::-1]],
    )
    def test_in_the_order_asked_for(self, made, split, features, chosen):
        index = np.array(chosen)
        images = pipeline.load_inputs(split, index, (S, S, 3))
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, made.pixels[index])
        split, values = features
        loaded = pipeline.load_inputs(split, index, (3,))
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, values[index])

    def test_images_are_resized(self, split):
        images = pipeline.load_inputs(split, np.array([3, 1]), (5, 5, 3))
        assert images.shape == (2, 5, 5, 3)

    def test_only_files_that_hold_them_are_read(self, made, split, tmp_path):
        """Images 4 and 11, 12 lie in files 1 and 3; 0 and 2 are broken."""
        broken = tmp_path / "broken"
        broken.write_bytes(b"no TFRecord, but long enough to have a header")
        files = [str(broken) if n in (0, 2) else f
                 for n, f in enumerate(split.files)]  # fmt: skip
        split = split._replace(files=tuple(files))
        index = np.array([12, 4, 11])
        images = pipeline.load_inputs(split, index, (S, S, 3))
        np.testing.assert_array_equal(images, made.pixels[index])
        with pytest.raises(tf.errors.DataLossError):
            pipeline.load_inputs(split, np.array([5]), (S, S, 3))

    def test_files_without_records(self, make_image_shards, tmp_path):
        made = make_image_shards(tmp_path, (0, 3, 0, 2, 0))
        split = make_split(made.files, made.lengths, None)
        index = np.array([4, 2, 3, 0])
        images = pipeline.load_inputs(split, index, (8, 8, 3))
        np.testing.assert_array_equal(images, made.pixels[index])


def test_all_ways_to_images_obey_the_resizing(made, split):
    resizing = Resizing(448)  # the inner quarter, enlarged
    expected = np.stack(
        [
            decode_and_resize(tf.io.encode_png(p), S, resizing)
            for p in made.pixels
        ]
    )
    assert np.abs(expected - made.pixels.astype(float)).mean() > 10
    table = LabelTable(split.labels)
    for ds in (
        pipeline.training_batches(
            split, table, (S, S, 3), B, 0, resizing=resizing
        ).take(STEPS),
        pipeline.one_pass(split, table, (S, S, 3), B, resizing),
    ):
        for x, _ in ds.as_numpy_iterator():
            np.testing.assert_array_equal(
                x["inputs"], expected[x["image_index"]]
            )
    images = pipeline.load_inputs(split, np.arange(N), (S, S, 3), resizing)
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("size", [0, -1, 2.5, "3", None])
def test_batch_size_is_a_positive_whole_number(split, size):
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        split.batches(size)


def test_a_minibatch_larger_than_the_split_is_all_of_it(split):
    batches = split.batches(10**12, augment=False)
    assert batches.steps_per_epoch == 1
    ((inputs, _),) = batches.sized(8, Resizing()).one_pass()
    assert len(inputs["image_index"]) == sum(split.lengths)


def test_a_damaged_file_is_named(make_image_shards, tmp_path):
    made = make_image_shards(tmp_path, (2, 3))
    content = bytearray(Path(made.files[1]).read_bytes())
    content[-20] ^= 1
    Path(made.files[1]).write_bytes(content)
    split = make_split(made.files, made.lengths, None)
    with (
        pytest.raises(ValueError, match=f"^{made.files[1]}: damaged records"),
        naming_damaged_files(made.files),
    ):
        list(pipeline.indexed_records(split))
