"""Minibatches, against records written by hand."""

import math
import os
import shutil
import struct
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf import builders, dataset
from imcl_tf.backbones import Resizing
from imcl_tf.labels import LabelTable

LENGTHS = (4, 1, 6, 2)
N, C, S, B = sum(LENGTHS), 7, 8, 5
STEPS = math.ceil(N / B)
NO_CLASSES = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def made(make_image_shards, tmp_path_factory):
    return make_image_shards(tmp_path_factory.mktemp("shards"), LENGTHS, C, S)


@pytest.fixture(scope="module")
def split(made):
    labels = scipy.sparse.csr_array(made.labels)
    return dataset.Split(made.files, made.lengths, labels, NO_CLASSES)


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
    split = dataset.Split(tuple(files), LENGTHS, labels, NO_CLASSES)
    return split, values.astype("f")


def epochs(ds, count):
    """`count` epochs of an endless data set, each a list of NumPy batches."""
    batches = ds.take(count * STEPS).as_numpy_iterator()
    return [[next(batches) for _ in range(STEPS)] for _ in range(count)]


def order(epoch):
    return np.concatenate([x["image_index"] for x, _ in epoch]).tolist()


def image_id(record):
    return tf.train.Example.FromString(record).features.feature["image_id"]


def cropped(pixels, size, shorter_side, tf1):
    """[size, size, 3] float: resized to `shorter_side`, then the centre.

    One output pixel is an average of the input pixels around its place, by
    the triangle of the distance: 1 wide, or as wide as the scale where the
    picture shrinks and `tf1` is not asked for. In TF1 pixel n of the output
    lies at n / scale, else at (n + 1/2) / scale - 1/2, borders on borders.
    """
    scale = shorter_side / min(pixels.shape[:2])
    result = pixels.astype(float)
    for axis in (0, 1):
        before = pixels.shape[axis]
        after = round(before * scale)
        step = before / after
        place = (np.arange(after) + (0 if tf1 else 0.5)) * step
        place = place if tf1 else place - 0.5
        place = np.clip(place, 0, before - 1) if tf1 else place
        distance = abs(place[:, np.newaxis] - np.arange(before))
        weights = np.maximum(0, 1 - distance / (1 if tf1 else max(1, step)))
        weights /= weights.sum(1, keepdims=True)
        start = (after - size) // 2
        result = np.moveaxis(
            np.tensordot(weights[start : start + size], result, (1, axis)),
            0, axis,
        )  # fmt: skip
    return result


class TestDecodeAndResize:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_png_of_the_right_size_stays(self, channels):
        """Grey three times, and no transparency."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (6, 6, channels)).astype(np.uint8)
        image = dataset.decode_and_resize(tf.io.encode_png(pixels), 6)
        assert image.dtype == tf.uint8 and image.shape == (6, 6, 3)
        expected = np.repeat(pixels, 3, 2) if channels == 1 else pixels[..., :3]
        np.testing.assert_array_equal(image, expected)

    def test_sixteen_bit_png(self):
        pixels = np.arange(27, dtype=np.uint16).reshape(3, 3, 3) * 257
        image = dataset.decode_and_resize(tf.io.encode_png(pixels), 3)
        np.testing.assert_array_equal(image, pixels // 257)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_jpeg(self, channels):
        colour = [200] if channels == 1 else [200, 30, 90]
        pixels = np.full((16, 24, channels), colour, np.uint8)
        encoded = tf.io.encode_jpeg(pixels, quality=100)
        image = dataset.decode_and_resize(encoded, 10)
        assert image.shape == (10, 10, 3)
        expected = np.broadcast_to(np.array(colour), (10, 10, 3))
        np.testing.assert_allclose(image, expected, atol=3)

    def test_bmp(self):
        """Two pixels, red and blue: BGR, rows padded to four bytes."""
        row = bytes([0, 0, 255, 255, 0, 0]) + b"\0\0"
        header = struct.pack("<2sIHHI", b"BM", 54 + 8, 0, 0, 54)
        header += struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 24, 0, 8, *[0] * 4)
        image = dataset.decode_and_resize(tf.constant(header + row), 2)
        np.testing.assert_array_equal(image, [[[255, 0, 0], [0, 0, 255]]] * 2)

    def test_first_frame_of_a_gif(self):
        """One red and one blue pixel, a frame each."""
        colours = bytes([255, 0, 0, 0, 0, 255])

        def frame(bits):
            return b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + bits

        content = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + colours
        # LZW of minimum size 2: clear, index 0 or 1, end.
        content += frame(b"\x02\x02\x44\x01\x00")
        content += frame(b"\x02\x02\x4c\x01\x00") + b";"
        image = dataset.decode_and_resize(tf.constant(content), 1)
        np.testing.assert_array_equal(image, [[[255, 0, 0]]])

    def test_shrinking_averages(self):
        """Halving weights by the triangle 1, 3, 3, 1 (over 8), then rounds.

        Columns 0 0 0 0 10 90 0 0 0 0: output 1 sees columns 1..4, 10 / 8;
        output 2 columns 3..6, (3 10 + 3 90) / 8 = 37.5; output 3 columns
        5..8, 90 / 8 = 11.25. Without antialiasing 2 would be 50, 1 and 3 0.
        """
        columns = np.array([0, 0, 0, 0, 10, 90, 0, 0, 0, 0], np.uint8)
        pixels = np.broadcast_to(columns[None, :, None], (10, 10, 3))
        image = dataset.decode_and_resize(tf.io.encode_png(pixels), 5)
        np.testing.assert_array_equal(image[2, :, 0], [0, 1, 38, 11, 0])

    def test_values_are_rounded(self):
        """100, 103 enlarged twofold: 100, 100.75, 102.25, 103."""
        columns = np.array([[100, 103], [100, 103]], np.uint8)
        pixels = np.repeat(columns[..., np.newaxis], 3, 2)
        image = dataset.decode_and_resize(tf.io.encode_png(pixels), 4)
        np.testing.assert_array_equal(image[1, :, 1], [100, 101, 102, 103])

    def test_aspect_ratio_is_not_kept(self):
        """Left half black, right half white: so it stays at any size."""
        pixels = np.zeros((4, 40, 3), np.uint8)
        pixels[:, 20:] = 255
        image = dataset.decode_and_resize(tf.io.encode_png(pixels), 10)
        np.testing.assert_array_equal(image[:, :4], 0)
        np.testing.assert_array_equal(image[:, 6:], 255)

    @pytest.mark.parametrize("tf1", [True, False])
    @pytest.mark.parametrize("size", [224, 299, 32])
    @pytest.mark.parametrize(
        "height, width",
        [(300, 451), (451, 300), (257, 256), (90, 77), (5, 9), (33, 500)],
    )
    def test_central_crop(self, height, width, size, tf1):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        shorter_side = {224: 256, 299: 341, 32: 36}[size]
        expected = cropped(pixels, size, shorter_side, tf1)
        image = dataset.decode_and_resize(
            tf.io.encode_png(pixels), size, Resizing(256, tf1)
        )
        # Rounded to bytes, of numbers that float32 has a little off.
        assert image.dtype == tf.uint8
        np.testing.assert_allclose(image, expected, rtol=0, atol=0.51)

    @pytest.mark.parametrize("tf1", [True, False])
    def test_picture_of_the_size_before_the_crop(self, tf1):
        """Nothing to resize: an odd rest is cut off below and at the right."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (36, 43, 3)).astype(np.uint8)
        image = dataset.decode_and_resize(
            tf.io.encode_png(pixels), 32, Resizing(256, tf1)
        )
        np.testing.assert_array_equal(image, pixels[2:34, 5:37])

    def test_tf1_does_not_average(self):
        """Halved, it takes every other pixel, from the first one on."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        image = dataset.decode_and_resize(
            tf.io.encode_png(pixels), 6, Resizing(224, tf1=True)
        )
        np.testing.assert_array_equal(image, pixels[::2, 2:14:2])

    def test_no_image(self):
        with pytest.raises(tf.errors.InvalidArgumentError):
            dataset.decode_and_resize(tf.constant(b"<html>"), 4)


class TestNumbered:
    @pytest.mark.parametrize("seed", [None, 0, 3])
    def test_each_record_has_its_number(self, made, split, seed):
        pairs = [*dataset.numbered(split, seed).as_numpy_iterator()]
        assert sorted(index for index, _ in pairs) == list(range(N))
        for index, record in pairs:
            assert index.dtype == np.int32
            assert image_id(record).bytes_list.value == [made.names[index]]

    def test_in_order_without_a_seed(self, split):
        pairs = dataset.numbered(split).as_numpy_iterator()
        assert [index for index, _ in pairs] == list(range(N))

    def test_files_without_records(self, make_image_shards, tmp_path):
        made = make_image_shards(tmp_path, (0, 3, 0, 2, 0))
        split = dataset.Split(made.files, made.lengths, None, NO_CLASSES)
        for seed in (None, 1):
            pairs = [*dataset.numbered(split, seed).as_numpy_iterator()]
            assert sorted(index for index, _ in pairs) == list(range(5))
            for index, record in pairs:
                name = image_id(record).bytes_list.value[0]
                assert name == made.names[index]

    def test_seed_decides_the_order(self, split):
        def orders(seed, passes):
            ds = dataset.numbered(split, seed)
            return [[int(i) for i, _ in ds] for _ in range(passes)]

        first, second = orders(5, 2)
        assert first != second != list(range(N)) != first
        assert orders(5, 2) == [first, second]
        assert orders(6, 1) != [first]


class TestTrainingBatches:
    def test_shapes_and_types(self, split):
        table = LabelTable(split.labels)
        ds = dataset.training_batches(split, table, (S, S, 3), B, 0)
        inputs, labels = ds.element_spec
        assert inputs["inputs"] == tf.TensorSpec((None, S, S, 3), tf.uint8)
        assert inputs["image_index"] == tf.TensorSpec((None,), tf.int32)
        assert labels == tf.TensorSpec((None, C), tf.int8)

    def test_images_labels_and_numbers_belong_together(self, made, split):
        table = LabelTable(split.labels)
        ds = dataset.training_batches(split, table, (S, S, 3), B, 0)
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
            ds = dataset.training_batches(split, table, (S, S, 3), B, seed)
            return [order(epoch) for epoch in epochs(ds, 4)]

        first = orders(7)
        assert len({tuple(o) for o in first}) == 4
        assert orders(7) == first
        assert orders(8)[0] != first[0]

    def test_every_image_comes_early_and_late(self, split):
        """Shuffled over all files, not only within them or their order."""
        table = LabelTable(split.labels)
        ds = dataset.training_batches(split, table, (S, S, 3), B, 0)
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
        ds = dataset.training_batches(split, table, (S, S, 3), B, 0)
        for x, labels in epochs(ds, 1)[0]:
            np.testing.assert_array_equal(labels, hidden[x["image_index"]])

    def test_features(self, features):
        split, values = features
        table = LabelTable(split.labels)
        ds = dataset.training_batches(split, table, (3,), B, 0)
        (epoch,) = epochs(ds, 1)
        assert sorted(order(epoch)) == list(range(N))
        for x, _ in epoch:
            assert x["inputs"].dtype == np.float32
            np.testing.assert_array_equal(x["inputs"], values[x["image_index"]])


class TestAugmentation:
    def test_belongs_to_the_image_and_is_reproduced(self, made, split):
        table = LabelTable(split.labels)

        def batches(seed):
            ds = dataset.training_batches(
                split, table, (S, S, 3), B, seed, augment=True
            )
            return sum(epochs(ds, 2), [])

        ds = dataset.training_batches(split, table, (S, S, 3), B, 4)
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

    def test_whole_images_are_only_mirrored(self, made):
        """With crops of area 1: each image as it is or left to right."""
        index = np.arange(520, dtype=np.int32)
        images = np.tile(made.pixels, (40, 1, 1, 1))
        ds = tf.data.Dataset.from_tensor_slices((index, images)).batch(52)
        mirrored = np.zeros((2, 520), bool)
        for first_step, epoch in zip((0, 10), mirrored, strict=True):
            made_anew = dataset.augmented(ds, S, 1, first_step, least_area=1.0)
            for numbers, crops in made_anew.as_numpy_iterator():
                for i, crop in zip(numbers, crops, strict=True):
                    epoch[i] = np.array_equal(crop, images[i][:, ::-1])
                    if not epoch[i]:
                        np.testing.assert_array_equal(crop, images[i])
        # Of 520 fair coins five standard deviations are 0.11; new ones for
        # each minibatch and each epoch.
        assert (abs(mirrored.mean(1) - 0.5) < 0.11).all()
        assert 0.39 < (mirrored[0] == mirrored[1]).mean() < 0.61
        batches = mirrored.reshape(20, 52)
        assert len({row.tobytes() for row in batches}) == 20

    def test_crops_are_upright_squares_within_the_image(self):
        """On a ramp of x and y a crop shows where its corners were.

        Red is 4 x, green 4 y: the crop from (x0, y0) to (x1, y1) is the ramp
        from 4 x0 to 4 x1; a mirrored one runs down in red, never in green.
        """
        size = 64
        ramp = np.broadcast_to(4 * np.arange(size), (size, size))
        pixels = np.stack([ramp, ramp.T, 0 * ramp], -1).astype(np.uint8)
        images = np.repeat(pixels[np.newaxis], 200, 0)
        ds = dataset.augmented(
            tf.data.Dataset.from_tensors((np.arange(200, dtype="i"), images)),
            size,
            seed=0,
        )
        ((index, crops),) = ds.as_numpy_iterator()
        np.testing.assert_array_equal(index, np.arange(200))
        red, green = crops[..., 0] / 4.0, crops[..., 1] / 4.0
        x0, x1 = red[:, 0, 0], red[:, 0, -1]
        y0, y1 = green[:, 0, 0], green[:, -1, 0]
        for corner in (x0, x1, y0, y1):
            assert (corner >= 0).all() and (corner <= size - 1).all()
        assert (y1 > y0).all()
        np.testing.assert_allclose(abs(x1 - x0), y1 - y0, atol=0.3)
        area = ((y1 - y0) / (size - 1)) ** 2
        assert area.min() > 0.78 and area.max() < 1.01
        # Uniform in [0.8, 1].
        assert np.quantile(area, [0.1, 0.9]) == pytest.approx(
            [0.82, 0.98], abs=0.02
        )
        steps = np.linspace(0, 1, size)
        np.testing.assert_allclose(
            red[:, size // 2],
            x0[:, np.newaxis] + (x1 - x0)[:, np.newaxis] * steps,
            atol=0.3,
        )
        np.testing.assert_allclose(
            green[:, :, size // 2],
            y0[:, np.newaxis] + (y1 - y0)[:, np.newaxis] * steps,
            atol=0.3,
        )
        assert 60 < (x1 < x0).sum() < 140  # mirrored, of 200
        # Anywhere: left and top margins are independent of each other.
        left = np.minimum(x0, x1)
        assert left.max() > 4 and y0.max() > 4
        assert abs(np.corrcoef(left, y0)[0, 1]) < 0.7


class TestOnePass:
    def test_once_in_the_order_of_the_records(self, made, split):
        table = LabelTable(split.labels)
        ds = dataset.one_pass(split, table, (S, S, 3), B)
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
        ds = dataset.one_pass(split, LabelTable(split.labels), (3,), B)
        got = [x["inputs"] for x, _ in ds.as_numpy_iterator()]
        np.testing.assert_array_equal(np.concatenate(got), values)


class TestLoadInputs:
    @pytest.mark.parametrize(
        "chosen",
        [[12, 0, 4, 3, 10, 5], [4], [*range(N)][::-1]],
    )
    def test_in_the_order_asked_for(self, made, split, features, chosen):
        index = np.array(chosen)
        images = dataset.load_inputs(split, index, (S, S, 3))
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, made.pixels[index])
        split, values = features
        loaded = dataset.load_inputs(split, index, (3,))
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, values[index])

    def test_images_are_resized(self, split):
        images = dataset.load_inputs(split, np.array([3, 1]), (5, 5, 3))
        assert images.shape == (2, 5, 5, 3)

    def test_only_files_that_hold_them_are_read(self, made, split, tmp_path):
        """Images 4 and 11, 12 lie in files 1 and 3; 0 and 2 are broken."""
        broken = tmp_path / "broken"
        broken.write_bytes(b"no TFRecord, but long enough to have a header")
        files = [str(broken) if n in (0, 2) else f
                 for n, f in enumerate(split.files)]  # fmt: skip
        split = split._replace(files=tuple(files))
        index = np.array([12, 4, 11])
        images = dataset.load_inputs(split, index, (S, S, 3))
        np.testing.assert_array_equal(images, made.pixels[index])
        with pytest.raises(tf.errors.DataLossError):
            dataset.load_inputs(split, np.array([5]), (S, S, 3))

    def test_files_without_records(self, make_image_shards, tmp_path):
        made = make_image_shards(tmp_path, (0, 3, 0, 2, 0))
        split = dataset.Split(made.files, made.lengths, None, NO_CLASSES)
        index = np.array([4, 2, 3, 0])
        images = dataset.load_inputs(split, index, (8, 8, 3))
        np.testing.assert_array_equal(images, made.pixels[index])


def test_all_ways_to_images_obey_the_resizing(made, split):
    resizing = Resizing(448)  # the inner quarter, enlarged
    expected = np.stack(
        [
            dataset.decode_and_resize(tf.io.encode_png(p), S, resizing)
            for p in made.pixels
        ]
    )
    assert np.abs(expected - made.pixels.astype(float)).mean() > 10
    table = LabelTable(split.labels)
    for ds in (
        dataset.training_batches(
            split, table, (S, S, 3), B, 0, resizing=resizing
        ).take(STEPS),
        dataset.one_pass(split, table, (S, S, 3), B, resizing),
    ):
        for x, _ in ds.as_numpy_iterator():
            np.testing.assert_array_equal(
                x["inputs"], expected[x["image_index"]]
            )
    images = dataset.load_inputs(split, np.arange(N), (S, S, 3), resizing)
    np.testing.assert_array_equal(images, expected)


class TestOpenSource:
    def test_what_the_builder_wrote(self, folder, prepared):
        source = dataset.open_source(prepared)
        assert source.name == "folder"
        assert source.directory == str(prepared.data_path)
        assert source.label_names == folder.label_names
        assert set(source.splits) == set(folder.splits)
        for name, split in source.splits.items():
            records = [*dataset.numbered(split).as_numpy_iterator()]
            ids = [
                image_id(record).bytes_list.value[0].decode()
                for _, record in records
            ]
            assert sorted(ids) == sorted(folder.splits[name])
            assert sum(split.lengths) == len(ids)
            np.testing.assert_array_equal(
                split.labels.toarray(), folder.rows(ids)
            )

    def test_classes(self, folder, richer, make_richer, prepared):
        assert dataset.open_source(prepared).splits["train"].classes.size == 0
        for name, split in dataset.open_source(richer).splits.items():
            records = dataset.numbered(split).as_numpy_iterator()
            ids = [image_id(r).bytes_list.value[0].decode() for _, r in records]
            assert sorted(ids) == sorted(folder.splits[name])
            assert split.classes.dtype == np.int32
            np.testing.assert_array_equal(
                split.classes, [make_richer.class_of(i) for i in ids]
            )

    def test_real_images_become_batches(self, folder, prepared):
        split = dataset.open_source(prepared).splits["train"]
        ds = dataset.training_batches(
            split, LabelTable(split.labels), (16, 16, 3), 8, 0, augment=True
        )
        x, labels = next(ds.as_numpy_iterator())
        assert x["inputs"].shape == (8, 16, 16, 3)
        np.testing.assert_array_equal(
            labels, split.labels.toarray()[x["image_index"]]
        )


def contents(source):
    """All that is known of the images of a source, in the order of records."""
    return {
        name: (split.labels.toarray().tolist(), split.classes.tolist())
        for name, split in source.splits.items()
    }


def overwrite(split):
    """Makes the files of a split unreadable, of the size they had."""
    for file in map(Path, split.files):
        file.write_bytes(b"\0" * file.stat().st_size)


@pytest.fixture(scope="module")
def unopened(make_folder, make_richer, tmp_path_factory):
    """The directory of a small data set that nobody opened."""
    place = tmp_path_factory.mktemp("unopened")
    sizes = {"train": 10, "validation": 3, "test": 1}
    made = make_folder(place / "raw", sizes)
    builder = make_richer(data_dir=place / "records")
    return builders.prepare(builder, made.path).data_path


class TestLabelCache:
    """Labels that were read once are kept beside the records."""

    @pytest.fixture
    def builder(self, unopened, tmp_path):
        shutil.copytree(unopened, tmp_path / "1.0.0")
        return tfds.builder_from_directory(tmp_path / "1.0.0")

    @pytest.fixture
    def caches(self, builder):
        return [
            Path(str(builder.data_path)) / f"labels-{split}.npz"
            for split in ("test", "train", "validation")
        ]

    def test_no_record_is_read_a_second_time(self, builder, caches):
        first = dataset.open_source(builder)
        for split in first.splits.values():
            overwrite(split)
        again = dataset.open_source(builder)
        assert contents(again) == contents(first)
        labels = again.splits["train"].labels
        assert labels.format == "csr" and labels.dtype == np.int8
        assert labels.has_sorted_indices
        assert again.splits["train"].classes.dtype == np.int32
        directory = Path(first.directory)
        assert sorted(directory.glob("*labels-*")) == caches

        caches[0].unlink()
        with pytest.raises(ValueError, match="damaged records"):
            dataset.open_source(builder)

    def test_new_records_are_read(self, builder, make_example):
        """The second file's records now know label 5 alone, and class 77."""
        before = dataset.open_source(builder).splits["train"]
        start, end = np.cumsum(before.lengths)[:2]
        record = make_example(
            image_id=b"x", image=b"x" * 999, positives=[], negatives=[5],
            class_id=[77],
        )  # fmt: skip
        with tf.io.TFRecordWriter(before.files[1]) as writer:
            for _ in range(end - start):
                writer.write(record)
        labels, classes = before.labels.toarray(), before.classes.copy()
        labels[start:end], classes[start:end] = 0, 77
        labels[start:end, 5] = -1
        for _ in range(2):  # the second time kept ones, of these records
            after = dataset.open_source(builder).splits["train"]
            np.testing.assert_array_equal(after.labels.toarray(), labels)
            np.testing.assert_array_equal(after.classes, classes)
            overwrite(after)

    @pytest.mark.parametrize("content", [b"", b"PK\3\4 cut short", "old"])
    def test_damaged_is_made_anew(self, builder, caches, content):
        expected = contents(dataset.open_source(builder))
        sound = caches[1].stat().st_size
        if content == "old":  # of another layout
            with np.load(caches[1]) as kept:
                np.savez(caches[1], sizes=kept["sizes"])
        else:
            caches[1].write_bytes(content)
        assert contents(dataset.open_source(builder)) == expected
        assert caches[1].stat().st_size == sound

    def test_full_disk(self, builder, caches, small_disk):
        with small_disk(100):
            source = dataset.open_source(builder)
        assert source.splits["train"].labels.nnz > 0
        assert not any(path.exists() for path in caches)
        assert not [*Path(source.directory).glob(".*")]
        assert contents(dataset.open_source(builder)) == contents(source)

    def test_read_only_directory(self, builder, caches):
        directory = Path(str(builder.data_path))
        directory.chmod(0o555)
        try:
            if os.access(directory, os.W_OK):
                pytest.skip("root may write anywhere")
            source = dataset.open_source(builder)
        finally:
            directory.chmod(0o755)
        assert not any(path.exists() for path in caches)
        assert contents(dataset.open_source(builder)) == contents(source)

    @pytest.mark.parametrize("damage", ["cut", "missing", "a record less"])
    @pytest.mark.parametrize("opened_before", [False, True])
    def test_damaged_file_is_named(self, builder, damage, opened_before):
        if opened_before:
            dataset.open_source(builder)
        path = Path(str(builder.info.splits["validation"].filepaths[-1]))
        if damage == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif damage == "missing":
            path.unlink()
        else:
            kept = [*tf.data.TFRecordDataset(str(path)).as_numpy_iterator()][1:]
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in kept:
                    writer.write(record)
        with pytest.raises(ValueError) as caught:
            dataset.open_source(builder)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert message.endswith("prepare the data set again")
        assert len(message.splitlines()) == 1
