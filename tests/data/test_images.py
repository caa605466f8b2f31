"""What `images` finds in image files, and what it stores of them."""

import concurrent.futures
import struct

import numpy as np
import pytest

from imcl_tf.data.images import Inspection, inspect, inspect_all
from tests.data.pictures import (
    DEEP,
    ORIENTATIONS,
    RGB,
    RGBA,
    animation,
    exif_of,
    file_of,
    image_of,
    jpeg,
    tiff,
    with_exif,
)


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
            (file_of(image_of.fromarray(RGB).convert("P"), "PNG"), "palette"),
            (file_of(RGB, "WEBP"), "RGB"),
            (file_of(RGB, "GIF"), "palette"),
            (file_of(RGB, "BMP"), "RGB"),
            (jpeg() + b"what a telephone appends", "RGB"),
        ],
    )
    def test_whole_files(self, encoded, kind):
        assert inspect(encoded) == Inspection(None, kind, 1, stored=encoded)
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

    @pytest.mark.parametrize("options", [{}, {"lossless": True}])
    def test_webp_cut_anywhere(self, options):
        whole = file_of(RGB, "WEBP", **options)
        for end in range(12, len(whole), 13):
            assert inspect(whole[:end]).problem == "truncated WebP", end

    @pytest.mark.parametrize("format_", ["GIF", "BMP"])
    def test_others_cut_anywhere(self, format_):
        whole = file_of(RGB, format_)
        for end in range(6, len(whole) - 2, 97):
            assert inspect(whole[:end]).problem == f"a damaged {format_}"

    def test_of_an_animation_the_first_frame_counts(self):
        whole = animation("GIF")
        cut = whole[: len(whole) // 2]
        assert inspect(cut).problem is None

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
            (b"no image", "cannot be decoded as JPEG, PNG, WebP, BMP or GIF"),
            (
                file_of(image_of.fromarray(RGB).convert("P"), "BMP"),
                "a BMP with a palette; 24 or 32 bits per pixel expected",
            ),
        ],
    )
    def test_what_is_no_image(self, encoded, problem):
        found = inspect(encoded)
        assert found == Inspection(problem, found.kind)

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
            [file_of(RGBA, "PNG"), jpeg(), file_of(DEEP, "PNG"), b"", jpeg()],
        ):
            assert inspect_all(files) == [*map(inspect, files)]

    def test_from_several_threads(self):
        files = [jpeg(), jpeg()[:400], b"", file_of(RGB, "PNG")] * 20
        one_by_one = [inspect(encoded) for encoded in files]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(inspect, files)) == one_by_one


class TestStored:
    """What records hold of a file; `test_decoding` compares the pixels."""

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_jpeg_is_never_encoded_again(self, orientation):
        encoded = with_exif(jpeg(), tiff(orientation))
        found = inspect(encoded)
        assert found[:3] == (None, "RGB", orientation)
        if orientation == 1:
            assert found.stored is encoded
        else:
            assert found.stored.endswith(encoded[2:])
            assert len(found.stored) == len(encoded) + 36

    @pytest.mark.parametrize(
        ("encoded", "unusual"),
        [
            (file_of(RGBA, "PNG"), "alpha"),
            (file_of(DEEP, "PNG"), "16-bit"),
            (file_of(RGBA, "WEBP"), "alpha"),
            (file_of(RGB, "PNG", exif=exif_of(8)), "EXIF orientation 8"),
            (file_of(RGB, "WEBP", exif=exif_of(2)), "EXIF orientation 2"),
            (file_of(RGBA, "PNG", exif=exif_of(3)),
             "alpha, EXIF orientation 3"),
        ],
    )  # fmt: skip
    def test_what_is_drawn_again_is_an_upright_rgb_png(self, encoded, unusual):
        found = inspect(encoded)
        assert found.problem is None and found.unusual == unusual
        assert found.stored.startswith(b"\x89PNG")
        again = inspect(found.stored)
        assert again == Inspection(None, "RGB", stored=found.stored)

    def test_unusual_names_both(self):
        encoded = with_exif(jpeg(RGB[..., 0]), tiff(8))
        assert inspect(encoded).unusual == "gray, EXIF orientation 8"


class TestOneColour:
    @pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_by_format(self, format_):
        """One pixel in a corner that no coarse grid looks at is enough."""
        pixels = np.full((40, 50, 3), (200, 30, 90), np.uint8)
        assert inspect(file_of(pixels, format_)).is_one_colour
        pixels[-1, -1] = 0
        assert not inspect(file_of(pixels, format_)).is_one_colour

    def test_of_what_is_seen(self):
        """Colours that alpha hides, or that 16 bits had hidden."""
        hidden = np.dstack([RGB, np.zeros_like(RGB[..., :1])])
        assert inspect(file_of(hidden, "PNG")).is_one_colour
        black = np.dstack([np.zeros_like(RGB), RGBA[..., 3:]])
        assert not inspect(file_of(black, "PNG")).is_one_colour
        assert not inspect(file_of(DEEP // 20, "PNG")).is_one_colour

    def test_not_of_a_bad_image(self):
        plain = jpeg(np.zeros((40, 50, 3), np.uint8))
        assert inspect(plain).is_one_colour
        assert not inspect(plain[:-30]).is_one_colour

    def test_among_others(self):
        plain = file_of(np.zeros((8, 8), np.uint8), "PNG")
        files = [jpeg(), plain, b"", file_of(RGBA, "PNG"), plain]
        found = [x.is_one_colour for x in inspect_all(files)]
        assert found == [False, True, False, False, True]
