"""Pictures that look the same, made by Pillow."""

import hashlib
import io

import numpy as np
import pytest

from imcl_tf.data import look_alikes as module
from imcl_tf.data.look_alikes import look_alikes

pytestmark = pytest.mark.usefixtures("two_files")


Image = pytest.importorskip("PIL.Image")


def scene(seed, size=(64, 48)):
    """A smooth random picture with edges."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture
def groups(tmp_path):
    """Groups files, as a list of sets of their numbers."""

    def groups(*contents):
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"{number}")
            paths[-1].write_bytes(content)
        digests = np.array(
            [
                np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
                for content in contents
            ]
        )
        found = look_alikes(paths, digests)
        assert found.shape == (len(contents),)
        assert sorted({*found}) == [*range(found.max() + 1)]
        return sorted(
            (set(np.flatnonzero(found == n)) for n in {*found}), key=min
        )

    return groups


def test_copies_of_one_picture(groups):
    one, other = scene(0), scene(1)
    assert groups(
        encoded(one),
        encoded(other),
        encoded(one, "JPEG", quality=60),
        encoded(one.resize((96, 72), Image.Resampling.LANCZOS)),
        encoded(one),
        encoded(other, "BMP"),
    ) == [{0, 2, 3, 4}, {1, 5}]


def page(seed):
    """White, with lines of black marks: as flat as screenshots are."""
    rng = np.random.default_rng(seed)
    pixels = np.full((200, 300), 250, np.uint8)
    for top in range(10, 190, 12):
        marks = rng.random((6, rng.integers(40, 280))) < 0.5
        pixels[top : top + 6, 10 : 10 + marks.shape[1]][marks] = 20
    return Image.fromarray(pixels)


def test_flat_pictures(groups):
    """Between equal neighbours the noise of a JPEG decides which is darker."""
    contents = []
    for one in (page(0), page(1)):
        small = one.resize((240, 160), Image.Resampling.BICUBIC)
        contents += [
            encoded(one),
            encoded(one, "JPEG", quality=40),
            encoded(small, "JPEG", quality=80),
        ]
    assert groups(*contents) == [{0, 1, 2}, {3, 4, 5}]


def test_of_a_picture_counts_what_is_seen(groups):
    """Lying on its side, with alpha, of 12 bits; and what alpha draws."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = scene(0).transpose(Image.Transpose.ROTATE_90)
    clear = scene(0).convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    gray = scene(1).convert("L")
    deep = np.asarray(gray).astype(np.uint16) * 16
    black = Image.new("L", gray.size)
    drawn = Image.merge("RGBA", [black] * 3 + [gray])
    flat = Image.fromarray(255 - np.asarray(gray))
    assert groups(
        encoded(scene(0)),
        encoded(lying, "JPEG", quality=90, exif=exif),
        encoded(clear, "WEBP", lossless=True),
        encoded(gray),
        encoded(Image.fromarray(deep)),
        encoded(drawn),
        encoded(flat),
    ) == [{0, 1, 2}, {3, 4}, {5, 6}]


def test_blocks(groups, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 400)
    pictures = [encoded(scene(n)) for n in range(40)]
    again = [encoded(scene(n), "JPEG", quality=80) for n in range(40)]
    assert groups(*pictures, *again) == [{n, n + 40} for n in range(40)]


def test_other_colours_are_another_picture(groups):
    gray = np.asarray(scene(0).convert("L"), np.float32)
    weights = np.array([0.2989, 0.587, 0.114])

    def tinted(colour):
        """Of the same gray values."""
        colour = np.array(colour) / (weights @ colour)
        return Image.fromarray(
            np.clip(gray[:, :, None] / 3 * colour, 0, 255).astype(np.uint8)
        )

    red, green = tinted([2.0, 0.5, 1.0]), tinted([0.5, 1.2, 1.0])
    _, colours, known = thumbnails_of(groups, red, green)
    assert known.all()
    assert np.abs(colours[0].astype(int) - colours[1]).mean() > 10
    assert groups(encoded(red), encoded(green)) == [{0}, {1}]


def thumbnails_of(groups, *images):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place, f"{n}") for n in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(encoded(image))
        return module.thumbnails(paths)


def test_pages_without_contrast_are_known_by_their_bytes(groups):
    pages = [Image.new("RGB", (32, 32), (n, n, n)) for n in (250, 251, 252)]
    contents = [encoded(page) for page in pages]
    assert groups(*contents, contents[1]) == [{0}, {1, 3}, {2}]


def test_what_is_no_picture_is_known_by_its_bytes(groups):
    assert groups(b"no", encoded(scene(0)), b"no", b"", b"yes") == [
        {0, 2}, {1}, {3}, {4}
    ]  # fmt: skip


def test_what_cannot_be_read_is_a_group_of_its_own(tmp_path):
    found = look_alikes(
        [tmp_path / "a", tmp_path / "b"], np.zeros((2, 32), np.uint8)
    )
    assert sorted(found) == [0, 1]


def test_thumbnail_is_the_mean_of_areas(tmp_path):
    """64 x 48 pixels: areas of 8 x 6 pixels each."""
    image = scene(5)
    _, colours, known = thumbnails_of(None, image)
    expected = np.asarray(image, float).reshape(8, 6, 8, 8, 3).mean((1, 3))
    assert known.all()
    assert np.abs(colours[0].reshape(8, 8, 3) - expected).max() <= 0.51
