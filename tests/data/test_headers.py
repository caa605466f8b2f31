"""What `headers` reads in the first bytes of a file, against Pillow."""

import struct

import numpy as np
import pytest

from imcl_tf.data.headers import (
    MAXIMUM_SEGMENTS,
    Header,
    format_of,
    read_header,
    what_else,
)
from tests.data.pictures import (
    ALPHA,
    DEEP,
    RGB,
    RGBA,
    animation,
    exif_of,
    file_of,
    image_of,
    jpeg,
    opened,
    png_chunk,
    sources,
    tiff,
    with_exif,
)

HEIGHT, WIDTH = RGB.shape[:2]


@pytest.mark.parametrize("number", range(len(sources())))
def test_format_and_size_as_pillow_reads_them(number):
    encoded = sources()[number]
    image = opened(encoded)
    header = read_header(encoded)
    assert format_of(encoded).upper() == image.format
    assert (header.width, header.height) == image.size == (WIDTH, HEIGHT)
    orientation = image.getexif().get(0x0112, 1)
    assert header.orientation == orientation


@pytest.mark.parametrize(
    ("encoded", "kind"),
    [
        (jpeg(), "RGB"),
        (jpeg(progressive=True, subsampling=2), "RGB"),
        (jpeg(RGB[..., 0]), "gray"),
        (jpeg(image_of.fromarray(RGB).convert("CMYK")), "CMYK"),
        (file_of(RGB, "PNG"), "RGB"),
        (file_of(RGB[..., 0], "PNG"), "gray"),
        (file_of(RGBA, "PNG"), "alpha"),
        (file_of(image_of.fromarray(RGB).convert("LA"), "PNG"), "alpha"),
        (file_of(image_of.fromarray(RGB).convert("P"), "PNG"), "palette"),
        (file_of(image_of.fromarray(RGB).convert("P"), "PNG",
                 transparency=3), "alpha"),
        (file_of(RGB, "PNG", transparency=(0, 0, 0)), "alpha"),
        (file_of(DEEP, "PNG"), "16-bit"),
        (file_of(RGB, "GIF"), "palette"),
        (file_of(RGB, "BMP"), "RGB"),
        (file_of(RGBA, "BMP"), "32-bit"),
        (file_of(image_of.fromarray(RGB).convert("P"), "BMP"), "palette"),
        (file_of(RGB, "WEBP"), "RGB"),
        (file_of(RGB, "WEBP", lossless=True), "RGB"),
        (file_of(RGB, "WEBP", exif=exif_of(3)), "RGB"),
        (file_of(RGBA, "WEBP"), "alpha"),
        (file_of(RGBA, "WEBP", lossless=True), "alpha"),
    ],
)  # fmt: skip
def test_kind(encoded, kind):
    assert read_header(encoded).kind == kind


def test_webp_that_moves():
    assert read_header(animation("WEBP")).unusable.startswith("an animated")
    assert not read_header(file_of(RGBA, "WEBP")).unusable


@pytest.mark.parametrize(
    ("marker", "bits", "words"),
    [
        (0xC0, 8, ""),
        (0xC2, 8, ""),
        (0xC9, 8, ""),  # arithmetic coding
        (0xC1, 12, "a JPEG of 12 bits"),
        (0xC3, 16, "a lossless JPEG"),
        (0xF7, 8, "a lossless JPEG"),
    ],
)
def test_jpeg_of_an_unusual_frame(marker, bits, words):
    encoded = bytearray(jpeg())
    place = encoded.index(b"\xff\xc0")
    encoded[place + 1], encoded[place + 4] = marker, bits
    header = read_header(bytes(encoded))
    assert header[:3] == ("RGB", HEIGHT, WIDTH)
    assert header.unusable.startswith(words) and bool(header.unusable) == (
        bool(words)
    )


def test_png_of_which_the_header_is_not_first():
    """As the tools of iOS write it; its size lies elsewhere."""
    encoded = file_of(RGB, "PNG")
    first = png_chunk(b"CgBI", b"abcd")
    assert read_header(encoded[:8] + first + encoded[8:]) == Header()


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_size_of_a_webp_beyond_one_byte(options):
    wide = file_of(np.zeros((3, 3000, 3), np.uint8), "WEBP", **options)
    header = read_header(wide)
    assert (header.height, header.width) == (3, 3000)
    extended = file_of(
        np.dstack(
            [np.zeros((700, 300, 3), np.uint8), np.resize(ALPHA, (700, 300))]
        ),
        "WEBP",
    )
    header = read_header(extended)
    assert (header.height, header.width) == (700, 300)


def test_bmp_from_top_to_bottom():
    encoded = bytearray(file_of(RGB, "BMP"))
    encoded[22:26] = struct.pack("<i", -HEIGHT)
    assert read_header(bytes(encoded))[:3] == ("RGB", HEIGHT, WIDTH)


def test_size_of_a_gif_is_that_of_its_largest_frame():
    """The second frame is larger than the picture that the header promises."""
    encoded = file_of(RGB, "GIF")
    start = encoded.index(b"\x2c\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT))
    frame = bytearray(encoded[start:-1])
    frame[5:9] = struct.pack("<HH", 60000, 50000)
    both = encoded[:-1] + bytes(frame) + b";"
    assert read_header(both)[1:3] == (50000, 60000)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_of_either_type(order, kind):
    encoded = with_exif(jpeg(), tiff(6, order, kind))
    assert read_header(encoded).orientation == 6
    assert opened(encoded).getexif()[0x0112] == 6


HOSTILE = [
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
    tiff(2**32 - 1, kind=4),
    tiff(6, kind=1),
    tiff(6, kind=2),
    tiff(6, count=2),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_exif_is_none(data):
    assert read_header(with_exif(jpeg(), data)) == read_header(jpeg())


def test_of_two_exif_segments_the_first_counts():
    encoded = with_exif(with_exif(jpeg(), tiff(8)), tiff(6))
    assert read_header(encoded).orientation == 6


def test_hostile_files_take_no_time():
    """A segment for each byte or two, for longer than any file has them."""
    length = 20 * MAXIMUM_SEGMENTS
    for encoded in (
        b"\xff\xd8\xff" + bytes(length),
        b"\xff\xd8\xff" + b"\xff\xe1\0\0" * (length // 4),
        file_of(RGB, "PNG")[:33] + bytes(length),
        b"RIFF\0\0\0\0WEBPVP8X" + bytes(length),
        file_of(RGB, "GIF")[:781] + b"!\xf9\0" * (length // 3),
    ):
        assert read_header(encoded).orientation == 1


@pytest.mark.parametrize(
    ("encoded", "name"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><p>Gone", "an HTML page, not an image"),
        (b"\xef\xbb\xbf\r\n <HTML>", "an HTML page, not an image"),
        (b"<?xml version='1.0'?>\n<svg width='9'/>", "an SVG"),
        (b"<svg/>", "an SVG"),
        (b"%PDF-1.4\n%%EOF\n", "a PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC"),
        (b"\0\0\0\x1cftypmif1", "a HEIC"),
        (b"\0\0\0\x1cftypavif", "an AVIF"),
        (b"\0\0\0\x1cftypisom", "a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a raw camera file"),
        (file_of(RGB, "TIFF", big_tiff=True), "a TIFF or raw camera file"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "a resource file of macOS"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS poi"),
        (file_of(RGB, "TIFF"), "a TIFF or raw camera file"),
        (file_of(RGB, "JPEG2000"), "a JPEG 2000"),
        (b"PK\x03\x04abc", "a ZIP archive"),
        (b"no image", "cannot be decoded as JPEG, PNG, WebP, BMP or GIF"),
        (b"\xff\xd8", "cannot be decoded as JPEG, PNG, WebP, BMP or GIF"),
        (b"RIFF\0\0\0\0WAVE", "cannot be decoded as JPEG, PNG, WebP, BMP or G"),
    ],
)
def test_what_else_is_named(encoded, name):
    assert format_of(encoded) is None
    assert what_else(encoded).startswith(name)
