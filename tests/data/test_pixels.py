"""Decoding and resizing of pictures, against weights by hand."""

import struct

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.backbones.pictures import Resizing
from imcl_tf.data.pixels import (
    AUGMENTATIONS,
    Augmentation,
    Crop,
    decode_and_resize,
    random_crop,
    recoloured,
    resized,
)
from imcl_tf.settings import AUGMENT_LEVELS


def cropped(pixels, size, shorter_side, tf1, corner=(0, 0), side=1):
    """[size, size, 3] float: resized to `shorter_side`, then the centre.

    Of that, if asked for, the crop whose pixel n lies at corner + side n: its
    averages are taken over pixels `side` apart.

    One output pixel is an average of the input pixels around its place, by
    the triangle of the distance: 1 wide, or as wide as the scale where the
    picture shrinks and `tf1` is not asked for. In TF1 pixel n of the output
    lies at n / scale, else at (n + 1/2) / scale - 1/2, borders on borders.
    """
    scale = shorter_side / min(pixels.shape[:2])
    result = pixels.astype(float)
    for axis in (0, 1):
        before = pixels.shape[axis]
        after = round(before * scale) if shorter_side else size
        step = before / after
        start = (after - size) // 2
        place = start + corner[axis] + side * np.arange(size)
        place = (place + (0 if tf1 else 0.5)) * step
        place = place if tf1 else place - 0.5
        place = np.clip(place, 0, before - 1) if tf1 else place
        distance = abs(place[:, np.newaxis] - np.arange(before))
        width = 1 if tf1 else max(1, step * side)
        weights = np.maximum(0, 1 - distance / width)
        weights /= weights.sum(1, keepdims=True)
        result = np.moveaxis(np.tensordot(weights, result, (1, axis)), 0, axis)
    return result


class TestDecodeAndResize:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_png_of_the_right_size_stays(self, channels):
        """Grey three times, and no transparency."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (6, 6, channels)).astype(np.uint8)
        image = decode_and_resize(tf.io.encode_png(pixels), 6)
        assert image.dtype == tf.uint8 and image.shape == (6, 6, 3)
        expected = np.repeat(pixels, 3, 2) if channels == 1 else pixels[..., :3]
        np.testing.assert_array_equal(image, expected)

    def test_sixteen_bit_png(self):
        pixels = np.arange(27, dtype=np.uint16).reshape(3, 3, 3) * 257
        image = decode_and_resize(tf.io.encode_png(pixels), 3)
        np.testing.assert_array_equal(image, pixels // 257)

    @pytest.mark.parametrize("tf1", [False, True])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_only_the_middle_of_a_long_picture_is_resized(self, axis, tf1):
        """All of it would take 5 GB. A slope, of which the middle is seen."""
        slope = np.arange(6001) / 6000
        pixels = np.full((6001, 1, 3), 255) * slope[:, np.newaxis, np.newaxis]
        pixels = pixels.round().astype(np.uint8)
        if axis:
            pixels = pixels.transpose(1, 0, 2)
        image = decode_and_resize(
            tf.io.encode_png(pixels), 224, Resizing(256, tf1)
        )
        assert image.shape == (224, 224, 3)
        assert {*np.unique(image)} <= {127, 128}

    @pytest.mark.parametrize("channels", [1, 3])
    def test_jpeg(self, channels):
        colour = [200] if channels == 1 else [200, 30, 90]
        pixels = np.full((16, 24, channels), colour, np.uint8)
        encoded = tf.io.encode_jpeg(pixels, quality=100)
        image = decode_and_resize(encoded, 10)
        assert image.shape == (10, 10, 3)
        expected = np.broadcast_to(np.array(colour), (10, 10, 3))
        np.testing.assert_allclose(image, expected, atol=3)

    def test_bmp(self):
        """Two pixels, red and blue: BGR, rows padded to four bytes."""
        row = bytes([0, 0, 255, 255, 0, 0]) + b"\0\0"
        header = struct.pack("<2sIHHI", b"BM", 54 + 8, 0, 0, 54)
        header += struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 24, 0, 8, *[0] * 4)
        image = decode_and_resize(tf.constant(header + row), 2)
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
        image = decode_and_resize(tf.constant(content), 1)
        np.testing.assert_array_equal(image, [[[255, 0, 0]]])

    def test_shrinking_averages(self):
        """Halving weights by the triangle 1, 3, 3, 1 (over 8), then rounds.

        Columns 0 0 0 0 10 90 0 0 0 0: output 1 sees columns 1..4, 10 / 8;
        output 2 columns 3..6, (3 10 + 3 90) / 8 = 37.5; output 3 columns
        5..8, 90 / 8 = 11.25. Without antialiasing 2 would be 50, 1 and 3 0.
        """
        columns = np.array([0, 0, 0, 0, 10, 90, 0, 0, 0, 0], np.uint8)
        pixels = np.broadcast_to(columns[None, :, None], (10, 10, 3))
        image = decode_and_resize(tf.io.encode_png(pixels), 5)
        np.testing.assert_array_equal(image[2, :, 0], [0, 1, 38, 11, 0])

    def test_values_are_rounded(self):
        """100, 103 enlarged twofold: 100, 100.75, 102.25, 103."""
        columns = np.array([[100, 103], [100, 103]], np.uint8)
        pixels = np.repeat(columns[..., np.newaxis], 3, 2)
        image = decode_and_resize(tf.io.encode_png(pixels), 4)
        np.testing.assert_array_equal(image[1, :, 1], [100, 101, 102, 103])

    def test_aspect_ratio_is_not_kept(self):
        """Left half black, right half white: so it stays at any size."""
        pixels = np.zeros((4, 40, 3), np.uint8)
        pixels[:, 20:] = 255
        image = decode_and_resize(tf.io.encode_png(pixels), 10)
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
        image = decode_and_resize(
            tf.io.encode_png(pixels), size, Resizing(256, tf1)
        )
        # Rounded to bytes, of numbers that float32 has a little off.
        assert image.dtype == tf.uint8
        np.testing.assert_allclose(image, expected, rtol=0, atol=0.51)

    @pytest.mark.parametrize("is_mirrored", [True, False])
    @pytest.mark.parametrize("tf1", [True, False])
    @pytest.mark.parametrize("shorter_side", [0, 256])
    @pytest.mark.parametrize(
        "height, width", [(300, 451), (451, 300), (90, 77), (33, 500), (3, 2)]
    )
    def test_random_crop(self, height, width, shorter_side, tf1, is_mirrored):
        """From (a, b) of the S - 1 on, `side` of a pixel apart."""
        size, rng = 224, np.random.default_rng(0)
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        for top, left, side in ((0.1, 0.05, 0.9), (0, 0.4, 0.55), (0, 0, 1)):
            expected = cropped(
                pixels, size, shorter_side, tf1,
                (top * (size - 1), left * (size - 1)), side,
            )  # fmt: skip
            crop = Crop(
                tf.constant([top, left], tf.float32),
                tf.constant(side, tf.float32),
                tf.constant(is_mirrored),
            )
            image = resized(pixels, size, Resizing(shorter_side, tf1), crop)
            if is_mirrored:
                image = image[:, ::-1]
            # Places are off by some 1e-5 of a pixel of up to 255.
            assert image.dtype == tf.uint8
            np.testing.assert_allclose(image, expected, rtol=0, atol=0.53)

    @pytest.mark.parametrize("tf1", [True, False])
    def test_picture_of_the_size_before_the_crop(self, tf1):
        """Nothing to resize: an odd rest is cut off below and at the right."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (36, 43, 3)).astype(np.uint8)
        image = decode_and_resize(
            tf.io.encode_png(pixels), 32, Resizing(256, tf1)
        )
        np.testing.assert_array_equal(image, pixels[2:34, 5:37])

    def test_tf1_does_not_average(self):
        """Halved, it takes every other pixel, from the first one on."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        image = decode_and_resize(
            tf.io.encode_png(pixels), 6, Resizing(224, tf1=True)
        )
        np.testing.assert_array_equal(image, pixels[::2, 2:14:2])

    def test_no_image(self):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_and_resize(tf.constant(b"<html>"), 4)


def test_crops_are_upright_squares_within_the_image():
    """On a ramp of x and y a crop shows where its corners were.

    Red is 4 x, green 4 y: the crop from (x0, y0) to (x1, y1) is the ramp
    from 4 x0 to 4 x1; a mirrored one runs down in red, never in green.
    """
    size = 64
    ramp = np.broadcast_to(4 * np.arange(size), (size, size))
    pixels = np.stack([ramp, ramp.T, 0 * ramp], -1).astype(np.uint8)
    ds = tf.data.Dataset.range(200).map(
        lambda i: resized(
            tf.constant(pixels),
            size,
            crop=random_crop(tf.stack([0, i]), i, 0.8),
        )
    )
    crops = np.stack([*ds.as_numpy_iterator()])
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


def changed(images, augmentation, seed=0):
    """`recoloured` images of one minibatch."""
    number = np.arange(len(images), dtype=np.int32)
    ds = tf.data.Dataset.from_tensors((number, images))
    ds = recoloured(ds, seed, augmentation=augmentation)
    index, found = next(ds.as_numpy_iterator())
    np.testing.assert_array_equal(index, number)
    return found.astype(float)


def test_every_level_has_its_augmentation():
    assert tuple(AUGMENTATIONS) == AUGMENT_LEVELS
    assert AUGMENTATIONS["light"] == (0.8, 0, 0)


def test_colours_are_scaled_about_black_the_mean_and_gray():
    """A gray picture is made brighter alone, by 1 - c to 1 + c."""
    images = np.full((400, 2, 2, 3), 100, np.uint8)
    found = changed(images, Augmentation(1.0, colour=0.2))
    assert (found == found[:, :1, :1, :1]).all()
    factor = found[:, 0, 0, 0] / 100
    assert factor.min() == pytest.approx(0.8, abs=0.01)
    assert factor.max() == pytest.approx(1.2, abs=0.01)
    assert factor.mean() == pytest.approx(1, abs=0.03)

    # Two gray pixels: their distance to the mean is scaled twice, by
    # brightness and by contrast.
    images[:, 0] = 140
    found = changed(images, Augmentation(1.0, colour=0.2))[..., 0]
    bright, dark = found[:, 0, 0], found[:, 1, 0]
    contrast = (bright - dark) / (bright + dark) * (240 / 40)
    assert contrast.min() == pytest.approx(0.8, abs=0.03)
    assert contrast.max() == pytest.approx(1.2, abs=0.03)

    # Equal channel means: saturation alone changes how far channels differ.
    images = np.zeros((400, 1, 3, 3), np.uint8)
    images[:, 0] = 60 + 60 * np.eye(3, dtype=np.uint8)
    found = changed(images, Augmentation(1.0, colour=0.2))
    gray = found @ [0.2989, 0.587, 0.114]
    spread = (found.max(-1) - found.min(-1)).mean((1, 2))
    assert np.std(spread / gray.mean((1, 2))) > 0.05


def test_colours_stay_within_bytes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    found = changed(images, Augmentation(1.0, colour=0.9))
    assert found.min() == 0 and found.max() == 255
    # Nothing wraps: what was white in a brighter picture is not black.
    white = changed(np.full((50, 2, 2, 3), 255, np.uint8), Augmentation(1, 0.4))
    assert white.min() >= 152


def test_a_gray_square_lies_within_every_other_picture():
    size = 20
    images = np.full((600, size, size, 3), 7, np.uint8)
    gray = changed(images, Augmentation(1.0, erased=0.5)) == 128
    assert (gray == gray[..., :1]).all()
    gray = gray[..., 0]
    rows, columns = gray.any(2).sum(1), gray.any(1).sum(1)
    # A square: as many rows as columns, but for rounding at its border.
    np.testing.assert_array_equal(gray.sum((1, 2)), rows * columns)
    assert abs(rows - columns).max() <= 1
    assert rows.max() in (9, 10, 11)
    # Half of the pictures, less those whose square holds no pixel's middle.
    assert 0.38 < (rows > 0).mean() < 0.55
    # Anywhere, up to the borders.
    assert gray.any((0, 1)).all() and gray.any((0, 2)).all()


def test_light_changes_no_colours():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 156, (20, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(changed(images, Augmentation()), images)
    erased = changed(images, Augmentation(erased=0.5))
    same = erased == images
    assert (same | (erased == 128)).all() and not same.all()


def test_each_place_and_each_minibatch_draws_its_own_crop():
    def drawn(step, place):
        crop = random_crop(tf.constant([3, step]), tf.constant(place), 0.5)
        return *crop.corner.numpy(), float(crop.side)

    crops = [drawn(step, place) for step in (0, 1) for place in range(4)]
    assert len({*crops}) == 8
    assert crops[5] == drawn(1, 1)
