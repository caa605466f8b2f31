"""What `images` finds in the bytes of a file, against Pillow and by hand."""

import concurrent.futures
import io
import struct

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.data.images import Inspection, inspect, inspect_all, upright

image_of = pytest.importorskip("PIL.Image")
image_ops = pytest.importorskip("PIL.ImageOps")

# Gentle slopes, which a JPEG keeps within a few steps; no two corners alike.
ROWS, COLUMNS = np.mgrid[:37, :54]
RGB = np.stack([COLUMNS * 4, ROWS * 6, (ROWS + COLUMNS) * 2], -1)
RGB = RGB.astype(np.uint8)
ORIENTATIONS = range(1, 9)
# Steps of 256 by which TensorFlow's fast inverse DCT differs from Pillow's
# exact one, and what a further JPEG in between adds.
DECODED, TWICE = 4, 9


def file_of(pixels, format_, **options) -> bytes:
    """An image file by Pillow; `pixels` may be a Pillow image."""
    image = pixels
    if isinstance(pixels, np.ndarray):
        image = image_of.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def jpeg(pixels=RGB, **options) -> bytes:
    options = {"quality": 95, "subsampling": 0} | options
    return file_of(pixels, "JPEG", **options)


def decoded(encoded: bytes) -> np.ndarray:
    """[H, W, 3] int, as the network's input is decoded."""
    pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    assert pixels.dtype == tf.uint8
    return pixels.numpy().astype(int)


def seen_by_pillow(encoded: bytes) -> np.ndarray:
    image = image_ops.exif_transpose(image_of.open(io.BytesIO(encoded)))
    return np.asarray(image.convert("RGB")).astype(int)


def tiff(orientation, order="<", kind=3, count=1, before=()) -> bytes:
    """A TIFF directory with the orientation behind other entries."""
    entries = [*before, (0x0112, kind, count, orientation)]
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    head = mark + struct.pack(f"{order}IH", 8, len(entries))
    return (
        head
        + b"".join(struct.pack(f"{order}HHIHxx", *entry) for entry in entries)
        + bytes(4)
    )


def with_exif(encoded: bytes, data: bytes) -> bytes:
    """A JPEG with an APP1 segment right after its start."""
    segment = b"Exif\0\0" + data
    size = struct.pack(">H", len(segment) + 2)
    return encoded[:2] + b"\xff\xe1" + size + segment + encoded[2:]


class TestInspect:
    @pytest.mark.parametrize(
        ("encoded", "kind"),
        [
            (jpeg(), "RGB"),
            (jpeg(progressive=True, subsampling=2), "RGB"),
            (jpeg(RGB[..., 0]), "gray"),
            (jpeg(image_of.fromarray(RGB).convert("CMYK")), "CMYK"),
            (file_of(RGB, "PNG"), "RGB"),
            (file_of(RGB[..., 0], "PNG"), "gray"),
            (file_of(np.dstack([RGB, RGB[..., :1]]), "PNG"), "alpha"),
            (file_of(image_of.fromarray(RGB).convert("LA"), "PNG"), "alpha"),
            (file_of(image_of.fromarray(RGB).convert("P"), "PNG"), "palette"),
            (file_of(RGB[..., 0].astype(np.uint16), "PNG"), "16-bit"),
            (tf.io.encode_png(RGB.astype(np.uint16)).numpy(), "16-bit"),
            (file_of(RGB, "GIF"), "palette"),
            (file_of(RGB, "BMP"), "RGB"),
            (jpeg() + b"what a telephone appends", "RGB"),
        ],
    )
    def test_whole_files(self, encoded, kind):
        assert inspect(encoded) == Inspection(None, kind, 1)
        assert upright(encoded) is encoded
        assert inspect(encoded).unusual == ("" if kind == "RGB" else kind)

    @pytest.mark.parametrize("options", [{}, {"progressive": True}])
    def test_jpeg_cut_anywhere(self, options):
        # With a whole JPEG in it, as cameras have it: the thumbnail.
        whole = with_exif(jpeg(**options), tiff(1) + jpeg(RGB[::8, ::8]))
        assert inspect(whole).problem is None
        start = whole.rindex(b"\xff\xda") if not options else len(whole) // 2
        for end in (*range(3, len(whole), 41), start + 20, len(whole) - 1):
            assert inspect(whole[:end]).problem == "truncated JPEG", end

    def test_png_cut_anywhere(self):
        whole = file_of(RGB, "PNG")
        for end in (*range(8, len(whole) - 12, 11), len(whole) - 9):
            assert inspect(whole[:end]).problem == "truncated PNG", end
        assert inspect(whole[:-3]).problem == "a damaged PNG"

    @pytest.mark.parametrize("format_", ["GIF", "BMP"])
    def test_others_cut_anywhere(self, format_):
        whole = file_of(RGB, format_)
        for end in range(6, len(whole) - 2, 97):
            assert inspect(whole[:end]).problem == f"a damaged {format_}"

    def test_of_an_animation_the_first_frame_counts(self):
        frames = [image_of.fromarray(np.roll(RGB, n, 1)) for n in range(3)]
        whole = file_of(
            frames[0], "GIF", save_all=True, append_images=frames[1:]
        )
        cut = whole[: len(whole) // 2]
        assert inspect(cut).problem is None
        np.testing.assert_array_equal(decoded(cut), decoded(whole))

    def test_checksum_of_a_png(self):
        damaged = bytearray(file_of(RGB, "PNG"))
        damaged[60] ^= 1
        assert inspect(bytes(damaged)).problem == "a damaged PNG"

    def test_damage_in_the_header(self):
        damaged = bytearray(jpeg())
        damaged[damaged.index(b"\xff\xc0") + 9] = 7  # colour channels
        assert inspect(bytes(damaged)).problem == "a damaged JPEG"

    @pytest.mark.parametrize(
        ("encoded", "problem"),
        [
            (b"", "empty file"),
            (b"<!DOCTYPE html><html><p>Gone", "an HTML page, not an image"),
            (b"\xef\xbb\xbf\r\n <HTML>", "an HTML page, not an image"),
            (b"GIF89a", "a damaged GIF"),
            (b"\xff\xd8\xff", "truncated JPEG"),
            (b"no image", "cannot be decoded as JPEG, PNG, BMP or GIF"),
            (b"\xff\xd8", "cannot be decoded as JPEG, PNG, BMP or GIF"),
            (
                file_of(RGB, "WEBP"),
                "cannot be decoded as JPEG, PNG, BMP or GIF",
            ),
            (
                file_of(image_of.fromarray(RGB).convert("P"), "BMP"),
                "a BMP with a palette; 24 or 32 bits per pixel expected",
            ),
        ],
    )
    def test_what_is_no_image(self, encoded, problem):
        assert inspect(encoded) == (problem, inspect(encoded).kind, 1)

    def test_a_size_beyond_all_memory(self):
        """A few bytes that promise 65500 x 65500 pixels."""
        huge = bytearray(jpeg())
        place = huge.index(b"\xff\xc0")
        huge[place + 5 : place + 9] = struct.pack(">HH", 65500, 65500)
        assert inspect(bytes(huge)).problem is not None

    def test_several_at_once(self):
        whole = [jpeg(), file_of(RGB, "PNG"), file_of(RGB, "GIF")]
        palette = file_of(image_of.fromarray(RGB).convert("P"), "BMP")
        assert inspect_all([]) == []
        for files in (
            whole,
            [*whole, palette],  # the decoder takes it, wrongly
            [*whole, jpeg()[:-50], with_exif(jpeg(), tiff(6)), b"<html>", b""],
        ):
            assert inspect_all(files) == [*map(inspect, files)]

    def test_from_several_threads(self):
        files = [jpeg(), jpeg()[:400], b"", file_of(RGB, "PNG")] * 20
        one_by_one = [inspect(encoded) for encoded in files]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(inspect, files)) == one_by_one


class TestDecoding:
    """What the network gets of unusual images is what Pillow sees."""

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_png(self, mode):
        encoded = file_of(image_of.fromarray(RGB).convert(mode), "PNG")
        np.testing.assert_array_equal(decoded(encoded), seen_by_pillow(encoded))

    def test_16_bits_lose_the_lower_8(self):
        deep = RGB.astype(np.uint16) * 256 + 77
        np.testing.assert_array_equal(
            decoded(tf.io.encode_png(deep).numpy()), RGB
        )
        gray = decoded(file_of(deep[..., 0], "PNG"))
        np.testing.assert_array_equal(gray, np.dstack([RGB[..., 0]] * 3))

    def test_cmyk_of_adobe_programs_is_inverted(self):
        encoded = jpeg(image_of.fromarray(RGB).convert("CMYK"))
        assert b"Adobe" in encoded
        np.testing.assert_allclose(decoded(encoded), RGB, atol=DECODED)
        np.testing.assert_allclose(
            decoded(encoded), seen_by_pillow(encoded), atol=DECODED
        )

    def test_cmyk_with_black(self):
        """Red = 255 (1 - cyan) (1 - black), and so on."""
        ink = np.dstack([RGB, 120 - 2 * ROWS]).astype(np.uint8)
        encoded = jpeg(image_of.fromarray(ink, "CMYK"))
        light = 1 - ink / 255
        expected = 255 * light[..., :3] * light[..., 3:]
        np.testing.assert_allclose(decoded(encoded), expected, atol=DECODED)
        np.testing.assert_allclose(
            decoded(encoded), seen_by_pillow(encoded), atol=DECODED
        )

    def test_ycck(self):
        """Stored are Y, Cb and Cr of 255 - RGB, and black as 255 - K = 255."""
        ycc = np.asarray(image_of.fromarray(255 - RGB).convert("YCbCr"))
        stored = np.dstack([ycc, np.full(RGB.shape[:2], 255, np.uint8)])
        # Pillow inverts all four channels as it writes them.
        encoded = bytearray(jpeg(image_of.fromarray(255 - stored, "CMYK")))
        encoded[encoded.index(b"Adobe") + 11] = 2  # transform: YCCK
        encoded = bytes(encoded)
        assert inspect(encoded) == (None, "CMYK", 1)
        # Chroma is rounded before the JPEG is made, too.
        np.testing.assert_allclose(decoded(encoded), RGB, atol=DECODED + 3)
        np.testing.assert_allclose(
            decoded(encoded), seen_by_pillow(encoded), atol=DECODED
        )


class TestUpright:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_jpeg(self, orientation, order):
        other = ((0x0100, 3, 1, 54), (0x010F, 2, 3, 0))
        data = tiff(orientation, order, before=other)
        encoded = with_exif(jpeg(), data)
        assert inspect(encoded) == (None, "RGB", orientation)
        turned = upright(encoded)
        assert inspect(turned) == (None, "RGB", 1)
        assert (turned is encoded) == (orientation == 1)
        expected = seen_by_pillow(encoded)
        np.testing.assert_allclose(decoded(turned), expected, atol=TWICE)
        # Colour is stored for every pixel, not for blocks of 2 by 2.
        layers = image_of.open(io.BytesIO(turned)).layer
        assert all(layer[1:3] == (1, 1) for layer in layers)

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_png_stays_the_same_pixels(self, orientation):
        exif = image_of.Exif()
        exif[0x0112] = orientation
        encoded = file_of(RGB, "PNG", exif=exif)
        assert inspect(encoded) == (None, "RGB", orientation)
        turned = upright(encoded)
        assert turned.startswith(b"\x89PNG")
        np.testing.assert_array_equal(decoded(turned), seen_by_pillow(encoded))

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_of_other_colours(self, mode):
        image = image_of.fromarray(RGB).convert(mode)
        encoded = with_exif(jpeg(image), tiff(6))
        expected = seen_by_pillow(encoded)
        assert expected.shape == (54, 37, 3)
        np.testing.assert_allclose(
            decoded(upright(encoded)), expected, atol=TWICE
        )

    def test_by_hand(self):
        """6: the camera's right side is the picture's top."""
        encoded = with_exif(jpeg(), tiff(6))
        turned = decoded(upright(encoded))
        np.testing.assert_allclose(turned[0, -1], RGB[0, 0], atol=TWICE)
        np.testing.assert_allclose(turned[0, 0], RGB[-1, 0], atol=TWICE)

    def test_of_two_exif_segments_the_first_counts(self):
        encoded = with_exif(with_exif(jpeg(), tiff(8)), tiff(6))
        assert inspect(encoded).orientation == 6
        expected = seen_by_pillow(encoded)
        np.testing.assert_allclose(
            decoded(upright(encoded)), expected, atol=TWICE
        )

    def test_unusual_names_both(self):
        encoded = with_exif(jpeg(RGB[..., 0]), tiff(8))
        assert inspect(encoded).unusual == "gray, EXIF orientation 8"

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"II*\0",
            b"XX*\0" + tiff(6)[4:],
            tiff(6)[:13],
            tiff(6)[:-8],
            tiff(6)[:4] + b"\xff\xff\xff\xff" + tiff(6)[8:],
            tiff(6)[:8] + b"\0\0" + tiff(6)[10:],  # no entry
            tiff(6)[:8] + b"\xff\xff" + tiff(9)[10:],  # 65535 of them
            tiff(0),
            tiff(9),
            tiff(65535),
            tiff(6, kind=2),
            tiff(6, count=2),
        ],
    )
    def test_hostile_exif_is_none(self, data):
        encoded = with_exif(jpeg(), data)
        assert inspect(encoded) == (None, "RGB", 1)
        assert upright(encoded) is encoded

    def test_random_damage_never_raises(self):
        rng = np.random.default_rng(0)
        exif = image_of.Exif()
        exif[0x0112] = 6
        sources = [
            with_exif(jpeg(), tiff(6)),
            file_of(RGB, "PNG", exif=exif),
            file_of(RGB, "GIF"),
            file_of(RGB, "BMP"),
        ]
        good = 0
        for number in range(1000):
            encoded = bytearray(sources[number % 4])
            places = rng.integers(0, min(len(encoded), 500), 3)
            encoded[places[0]] = rng.integers(256)
            encoded[places[1]] = rng.integers(256)
            if number % 3 == 0:
                del encoded[places[2] :]
            if inspect(bytes(encoded)).problem is None:
                good += 1
                turned = upright(bytes(encoded))
                assert inspect(turned)[::2] == (None, 1)
        assert 100 < good < 900
