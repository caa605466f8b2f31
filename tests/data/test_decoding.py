"""Pixels of image files, against Pillow and by hand."""

import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.data import decoding
from imcl_tf.data.headers import format_of, read_header
from imcl_tf.data.images import inspect
from tests.data.pictures import (
    ALPHA,
    DEEP,
    ORIENTATIONS,
    RGB,
    RGBA,
    ROWS,
    animation,
    damaged,
    exif_of,
    file_of,
    image_of,
    jpeg,
    opened,
    png_chunk,
    seen_by_pillow,
    sources,
    tiff,
    with_chunk,
    with_exif,
)
from tests.data.test_headers import HOSTILE

# Steps of 256 by which TensorFlow's fast inverse DCT differs from Pillow's
# exact one.
DECODED = 4


def graph_of(function):
    return tf.function(
        function,
        autograph=False,
        input_signature=[tf.TensorSpec([], tf.string)],
    )


DECODE, DECODE_STORED = map(graph_of, (decoding.decode, decoding.decode_stored))


def decoded(encoded: bytes) -> np.ndarray:
    """[H, W, 3] int."""
    pixels = DECODE(tf.constant(encoded))
    assert pixels.dtype == tf.uint8
    return pixels.numpy().astype(int)


def decoded_stored(encoded: bytes) -> np.ndarray:
    return DECODE_STORED(tf.constant(encoded)).numpy().astype(int)


def png_of(width, height, depth, colour, rows) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


class TestColours:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
    def test_png(self, mode):
        encoded = file_of(image_of.fromarray(RGB).convert(mode), "PNG")
        np.testing.assert_array_equal(decoded(encoded), seen_by_pillow(encoded))

    @pytest.mark.parametrize("depth", [1, 2, 4])
    @pytest.mark.parametrize("transparent", [False, True])
    def test_gray_of_few_bits(self, depth, transparent):
        """Eight pixels in a row, of every value; 1 may be transparent."""
        values = np.arange(8) % 2**depth
        bits = "".join(f"{value:0{depth}b}" for value in values)
        row = b"\0" + int(bits, 2).to_bytes(depth, "big")
        encoded = png_of(8, 1, depth, 0, row)
        expected = values * 255 // (2**depth - 1)
        if transparent:
            encoded = with_chunk(encoded, b"tRNS", b"\0\1")
            expected[values == 1] = 255
        pixels = decoded(encoded)
        np.testing.assert_array_equal(
            pixels, np.repeat(expected[np.newaxis, :, np.newaxis], 3, 2)
        )

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
        assert read_header(encoded).kind == "CMYK"
        # Chroma is rounded before the JPEG is made, too.
        np.testing.assert_allclose(decoded(encoded), RGB, atol=DECODED + 3)
        np.testing.assert_allclose(
            decoded(encoded), seen_by_pillow(encoded), atol=DECODED
        )

    def test_webp(self):
        encoded = file_of(RGB, "WEBP", lossless=True)
        np.testing.assert_array_equal(decoded(encoded), RGB)
        lossy = file_of(RGB, "WEBP")
        np.testing.assert_array_equal(decoded(lossy), seen_by_pillow(lossy))

    def test_of_an_animated_gif_the_first_frame_counts(self):
        encoded = animation("GIF")
        np.testing.assert_array_equal(decoded(encoded), seen_by_pillow(encoded))

    @pytest.mark.parametrize("rest", [b"", bytes(2), b"profile" * 20])
    def test_bmp_with_something_behind_its_pixels(self, rest):
        encoded = file_of(RGB, "BMP")
        found = inspect(encoded + rest)
        assert (found.problem, found.stored) == (None, encoded)
        np.testing.assert_array_equal(decoded(encoded + rest), RGB)


class TestAlpha:
    """c over white by a: (a c + (255 - a) 255) / 255."""

    EXPECTED = 255 - ALPHA / 255 * (255 - RGB.astype(float))

    @pytest.mark.parametrize(
        ("format_", "options"),
        [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})],
    )
    def test_is_over_white(self, format_, options):
        encoded = file_of(RGBA, format_, **options)
        np.testing.assert_allclose(decoded(encoded), self.EXPECTED, atol=0.5)
        np.testing.assert_allclose(
            decoded(encoded), seen_by_pillow(encoded), atol=1
        )

    def test_transparent_black_is_white(self):
        clear = np.zeros((4, 5, 4), np.uint8)
        for format_ in ("PNG", "WEBP"):
            assert (decoded(file_of(clear, format_)) == 255).all()

    @pytest.mark.parametrize("mode", ["L", "P", "RGB"])
    def test_one_transparent_colour(self, mode):
        image = image_of.fromarray(RGB).convert(mode)
        colour = image.getpixel((20, 20))
        encoded = file_of(image, "PNG", transparency=colour)
        pixels = decoded(encoded)
        np.testing.assert_array_equal(pixels, seen_by_pillow(encoded))
        assert (pixels[20, 20] == 255).all()
        opaque = seen_by_pillow(file_of(image, "PNG"))
        assert (opaque[20, 20] != 255).any()

    def test_lossy_webp(self):
        encoded = file_of(RGBA, "WEBP")
        np.testing.assert_allclose(
            decoded(encoded), seen_by_pillow(encoded), atol=1
        )

    def test_of_16_bits(self):
        deep = np.dstack([RGB.astype(int) * 257, ALPHA.astype(int) * 257])
        encoded = tf.io.encode_png(deep.astype(np.uint16)).numpy()
        np.testing.assert_allclose(decoded(encoded), self.EXPECTED, atol=0.5)


class Test16Bits:
    @pytest.mark.parametrize(
        ("largest", "white"),
        [
            (1, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095),
            (4095, 4095), (4096, 16383), (16384, 65535), (65535, 65535),
        ],
    )  # fmt: skip
    def test_are_scaled_by_their_depth(self, largest, white):
        values = np.linspace(0, largest, 300).round().reshape(15, 20)
        encoded = file_of(values.astype(np.uint16), "PNG")
        expected = (values * 255 / white)[..., np.newaxis]
        np.testing.assert_allclose(
            decoded(encoded), np.repeat(expected, 3, 2), atol=0.5
        )

    def test_colours_share_one_scale(self):
        values = RGB.astype(np.uint16)
        values[..., 0] *= 16
        encoded = tf.io.encode_png(values).numpy()
        np.testing.assert_allclose(
            decoded(encoded), values * (255 / 4095), atol=0.5
        )

    def test_black_stays_black(self):
        black = np.zeros((3, 4), np.uint16)
        assert (decoded(file_of(black, "PNG")) == 0).all()

    @pytest.mark.parametrize(
        ("bits", "largest", "white"),
        [
            (12, 255, 4095),  # dark, of 12 bits as they are
            (12, 4095, 4095),
            (12, 4096, 65535),  # scaled up, as the standard wants it
            (16, 255, 65535),  # dark
            (9, 400, 511),
            (0, 400, 1023),  # not allowed: as if it were not there
            (200, 400, 65535),
        ],
    )
    def test_significant_bits(self, bits, largest, white):
        values = np.linspace(0, largest, 300).round().reshape(15, 20)
        plain = file_of(values.astype(np.uint16), "PNG")
        encoded = with_chunk(plain, b"sBIT", bytes([bits]))
        expected = (values * 255 / white)[..., np.newaxis]
        np.testing.assert_allclose(
            decoded(encoded), np.repeat(expected, 3, 2), atol=0.5
        )


class TestOrientation:
    @pytest.mark.parametrize("kind", [3, 4])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_jpeg(self, orientation, order, kind):
        other = ((0x0100, 3, 1, 54), (0x010F, 2, 3, 0))
        data = tiff(orientation, order, kind, before=other)
        encoded = with_exif(jpeg(), data)
        expected = seen_by_pillow(encoded)
        assert (expected.shape == RGB.shape) == (orientation < 5)
        np.testing.assert_allclose(decoded(encoded), expected, atol=DECODED)

    @pytest.mark.parametrize("format_", ["PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_without_loss(self, format_, orientation):
        options = {"lossless": True} if format_ == "WEBP" else {}
        exif = exif_of(orientation)
        encoded = file_of(RGB, format_, exif=exif, **options)
        np.testing.assert_array_equal(decoded(encoded), seen_by_pillow(encoded))

    def test_by_hand(self):
        """6: the camera's right side is the picture's top."""
        turned = decoded(with_exif(jpeg(), tiff(6)))
        np.testing.assert_allclose(turned[0, -1], RGB[0, 0], atol=DECODED + 1)
        np.testing.assert_allclose(turned[0, 0], RGB[-1, 0], atol=DECODED + 1)

    def test_png_behind_the_pixels(self):
        plain = file_of(RGB, "PNG")
        encoded = plain[:-12] + png_chunk(b"eXIf", tiff(6)) + plain[-12:]
        np.testing.assert_array_equal(decoded(encoded), np.rot90(RGB, -1))

    def test_webp_with_the_mark_of_a_jpeg(self):
        plain = file_of(RGB, "WEBP", lossless=True, exif=exif_of(6))
        place = plain.index(b"EXIF")
        exif = b"Exif\0\0" + tiff(6)
        encoded = plain[:place] + b"EXIF" + struct.pack("<I", len(exif)) + exif
        np.testing.assert_array_equal(decoded(encoded), np.rot90(RGB, -1))

    def test_of_16_bits(self):
        encoded = with_chunk(file_of(DEEP, "PNG"), b"eXIf", tiff(8))
        upright = decoded(file_of(DEEP, "PNG"))
        np.testing.assert_array_equal(decoded(encoded), np.rot90(upright))

    @pytest.mark.parametrize("data", HOSTILE)
    def test_hostile_exif_is_none(self, data):
        encoded = with_exif(jpeg(), data)
        np.testing.assert_array_equal(decoded(encoded), decoded(jpeg()))

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_stored_at_the_start(self, orientation):
        encoded = with_exif(jpeg(), tiff(3))
        stored = decoding.with_orientation(encoded, orientation)
        assert opened(stored).getexif()[0x0112] == orientation
        np.testing.assert_array_equal(decoded_stored(stored), decoded(stored))
        np.testing.assert_allclose(
            decoded(stored), seen_by_pillow(stored), atol=DECODED
        )


def masked_bmp():
    """32 bits, from top to bottom, with masks for blue, green, red, nothing."""
    height, width = RGB.shape[:2]
    masks = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)
    pixels = np.dstack([RGB[..., ::-1], ROWS]).astype(np.uint8).tobytes()
    fields = (40, width, -height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    return (
        struct.pack("<2sIHHI", b"BM", 66 + len(pixels), 0, 0, 66)
        + struct.pack("<IiiHHIIiiII", *fields)
        + masks
        + pixels
    )


def promising(encoded, place, content):
    return encoded[:place] + content + encoded[place + len(content) :]


def bombs():
    """Small files whose headers promise more pixels than are allowed."""
    frame = jpeg().index(b"\xff\xc0") + 5
    sides = 14000, 13000
    assert sides[0] * sides[1] > decoding.MAXIMUM_PIXELS
    big, little = struct.pack(">II", *sides), struct.pack("<II", *sides)
    lossless = (sides[0] - 1) | (sides[1] - 1) << 14
    extended = b"".join(struct.pack("<I", s - 1)[:3] for s in sides)
    return {
        "PNG": promising(file_of(RGB, "PNG"), 16, big),
        "JPEG": promising(jpeg(), frame, struct.pack(">HH", *sides)),
        "GIF": promising(file_of(RGB, "GIF"), 6, struct.pack("<HH", *sides)),
        "BMP": promising(file_of(RGB, "BMP"), 18, little),
        "upside down": promising(
            file_of(RGB, "BMP"), 18, struct.pack("<ii", 14000, -13000)
        ),
        "WebP": promising(
            file_of(RGB, "WEBP"), 26, struct.pack("<HH", *sides)
        ),
        "lossless": promising(
            file_of(RGB, "WEBP", lossless=True), 21,
            struct.pack("<I", lossless),
        ),
        "extended": promising(file_of(RGBA, "WEBP"), 24, extended),
    }  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("name", bombs())
    def test_too_many_pixels_by_the_header(self, name):
        encoded = bombs()[name]
        problem = inspect(encoded).problem
        assert problem.endswith("pixels; at most 178,956,970 expected")
        assert "14000" in problem and "13000" in problem
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="more than 178,956,970 pixels"
        ):
            decoded(encoded)

    def test_as_many_as_allowed(self, monkeypatch):
        monkeypatch.setattr(decoding, "MAXIMUM_PIXELS", 54 * 37)
        graph = graph_of(decoding.decode)
        larger = np.pad(RGB, ((0, 1), (0, 0), (0, 0)))
        for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
            encoded = file_of(RGB, format_)
            assert inspect(encoded).problem is None
            assert graph(tf.constant(encoded)).shape == RGB.shape
            encoded = file_of(larger, format_)
            assert inspect(encoded).problem.startswith("54 x 38 pixels; ")
            with pytest.raises(tf.errors.InvalidArgumentError, match="1,998"):
                graph(tf.constant(encoded))

    def test_animated_webp(self):
        encoded = animation("WEBP")
        with pytest.raises(tf.errors.InvalidArgumentError, match="animated"):
            decoded(encoded)
        assert inspect(encoded).problem.startswith("an animated WebP")

    def test_bmp_with_a_palette(self):
        encoded = file_of(image_of.fromarray(RGB).convert("P"), "BMP")
        with pytest.raises(tf.errors.InvalidArgumentError, match="palette"):
            decoded(encoded)
        assert inspect(encoded).problem.startswith("a BMP with a palette")

    @pytest.mark.parametrize(
        ("place", "content", "words"),
        [
            (14, struct.pack("<I", 12), "without a header of Windows"),
            (14, b"text", "without a header of Windows"),
            (28, b"\x10", "a BMP of 16 bits per pixel"),
            (30, b"\x04", "a compressed BMP"),
            (54, struct.pack("<I", 255), "colours in an unusual order"),
            (58, struct.pack("<I", 255), "colours in an unusual order"),
        ],
    )
    def test_unusual_bmp(self, place, content, words):
        """Not with its colours swapped: TensorFlow looks at no mask."""
        encoded = masked_bmp()
        np.testing.assert_array_equal(decoded(encoded), RGB)
        assert inspect(encoded).problem is None
        encoded = promising(encoded, place, content)
        assert words in inspect(encoded).problem
        with pytest.raises(tf.errors.InvalidArgumentError, match="a BMP"):
            decoded(encoded)

    def test_jpeg_xl(self):
        """Which TensorFlow would decode, whatever its size."""
        with pytest.raises(tf.errors.InvalidArgumentError, match="not a JPEG"):
            decoded(b"\xff\x0a" + bytes(100))

    @pytest.mark.parametrize("encoded", [b"", b"x", b"<html>", jpeg()[:200]])
    def test_what_is_no_image(self, encoded):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decoded(encoded)


def test_the_same_pixels_from_the_file_and_from_its_record():
    """And of damaged files, where they can still be decoded."""
    good = turned = 0
    for encoded in (*sources(), *damaged(400, seed=1)):
        found = inspect(encoded)
        if found.problem is None:
            good += 1
            turned += found.orientation > 1
            pixels = decoded(encoded)
            np.testing.assert_array_equal(decoded_stored(found.stored), pixels)
            assert found.is_one_colour == (np.ptp(pixels, (0, 1)) == 0).all()
        elif format_of(encoded) is None or found.problem[:2] in ("a ", "tr"):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decoded(encoded)
    assert 80 < good < 350 and turned > 15
