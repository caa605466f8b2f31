"""Tests of the rendered data set `scenes`."""

import zlib

import numpy as np
import pytest

from imcl_tf.data import scenes

COUNT = 600
OBJECTS = list(scenes._OBJECTS)
COLOURS = list(scenes._PAINTS)
IMAGES_CRC = 394321897
LABELS_CRC = 1247373248


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(
        *(scenes.render(0, index) for index in range(COUNT)), strict=True
    )
    return np.stack(images), np.stack(labels)


@pytest.fixture(scope="module")
def shows(pictures):
    """Label name -> bool [COUNT]."""
    return dict(zip(scenes.LABELS, pictures[1].T > 0, strict=True))


def test_labels_are_many_and_distinct():
    assert len(scenes.LABELS) >= 44
    assert len(set(scenes.LABELS)) == len(scenes.LABELS)


def test_shapes_types_and_values(pictures):
    image, labels = scenes.render(3, 5)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert labels.shape == (len(scenes.LABELS),) and labels.dtype == np.int8
    assert set(np.unique(pictures[1])) == {-1, 1}


def test_render_is_pure_and_depends_on_seed_and_index():
    image, labels = scenes.render(1, 2)
    scenes.render(7, 7)
    again, labels_again = scenes.render(1, 2)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    for other in ((1, 3), (2, 2), (2, 1)):
        assert (scenes.render(*other)[0] != image).mean() > 0.5


def test_pictures_are_the_published_ones(pictures):
    # A change here is a new data set: results before and after do not compare.
    images, labels = pictures
    assert zlib.crc32(images[:32].tobytes()) == IMAGES_CRC
    assert zlib.crc32(labels[:32].tobytes()) == LABELS_CRC


def test_label_frequencies(shows):
    frequencies = {name: column.mean() for name, column in shows.items()}
    outside = {n: f for n, f in frequencies.items() if not 0.02 <= f <= 0.7}
    assert not outside


def test_settings_are_consistent(shows):
    skies = sum(shows[name].astype(int) for name in ("day", "dusk", "night"))
    np.testing.assert_array_equal(
        skies == 0, shows["indoors"] | shows["underwater"]
    )
    assert skies.max() == 1
    assert not (shows["beach"] & ~shows["sea"]).any()
    assert not (shows["sun"] & (shows["night"] | shows["rain"])).any()


def test_number_of_objects_agrees_with_crowded_and_pair(shows):
    kinds = sum(shows[name].astype(int) for name in OBJECTS)
    assert kinds.max() <= 8
    assert shows["crowded"][kinds >= 5].all()
    single = ~shows["pair"]
    assert kinds[single].min() >= 3
    assert not shows["crowded"][single & (kinds < 5)].any()


@pytest.mark.parametrize(
    ("label", "given"),
    [
        ("boat", "sea"),
        ("sailboat", "sea"),
        ("fish", "underwater"),
        ("cactus", "desert"),
        ("moon", "night"),
        ("snowman", "snow"),
        ("pine", "snow"),
        ("car", "city"),
        ("umbrella", "beach"),
        ("flower", "meadow"),
        ("purple", "flower"),
    ],
)
def test_labels_depend_on_one_another(shows, label, given):
    conditional = shows[label][shows[given]].mean()
    assert conditional > 1.8 * shows[label].mean()
    assert conditional > 3 * shows[label][~shows[given]].mean()


def test_each_object_is_visible(monkeypatch):
    """At least 8 pixels of each stand out from the empty scene."""
    full = [scenes._Scene(4, index) for index in range(150)]
    monkeypatch.setattr(scenes._Scene, "add_objects", lambda self: None)
    for index, scene in enumerate(full):
        empty = scenes._Scene(4, index).pixels
        stands_out = np.abs(scene.pixels - empty).max(-1) > 2 * scenes._NOISE
        seen = np.bincount(scene.owner[stands_out], minlength=9)
        assert 3 <= len(scene.objects) <= 8
        assert (seen[1 : 1 + len(scene.objects)] >= 8).all(), scene.objects
        assert set(scene.objects) == scene.truth & set(OBJECTS)


@pytest.mark.parametrize("colour", COLOURS)
def test_colour_is_in_the_picture(pictures, shows, colour):
    def direction(rgb: np.ndarray) -> np.ndarray:
        chroma = rgb - rgb.mean(-1, keepdims=True)
        return chroma / (np.linalg.norm(chroma, axis=-1, keepdims=True) + 1)

    # By day, where neither lamp light nor a sunset tints the picture.
    plain = shows["day"] & ~shows["rain"]
    images = pictures[0][plain & shows[colour]].astype(float)
    alike = direction(images) @ direction(scenes._COLOURS[colour]) > 0.9
    strong = np.ptp(images, -1) > 45
    assert (alike & strong).sum((1, 2)).min() >= 8


def test_settings_show_in_the_brightness(pictures, shows):
    top = pictures[0][:, :12].mean((1, 2, 3))
    bottom = pictures[0][:, 56:].mean((1, 2, 3))
    assert top[shows["night"]].mean() + 50 < top[shows["day"]].mean()
    by_day = shows["day"]
    snow, city = (bottom[by_day & shows[name]] for name in ("snow", "city"))
    assert snow.min() > city.mean() + 50


def test_noise_has_the_stated_sigma(pictures):
    # Neighbours in a row differ by two draws of noise, mostly of nothing else.
    steps = np.diff(pictures[0].astype(float), axis=2)
    sigma = np.median(np.abs(steps)) / 0.6745 / np.sqrt(2)
    assert 6 < sigma < 11
