"""Names in tables, against the files that they mean."""

import unicodedata
from pathlib import Path

import pytest

from imcl_tf.data.image_names import ImageNames

TABLE = Path("labels.csv")


@pytest.fixture
def names(tmp_path):
    """`ImageNames` of empty files."""

    def make(*paths):
        for path in paths:
            file = tmp_path / "images" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
        return ImageNames(tmp_path / "images")

    return make


NFD = unicodedata.normalize("NFD", "é.jpg")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "a.jpg"),
        (" a.jpg ", "a.jpg"),
        ("é.jpg", NFD),
        (NFD, "é.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("./images/b/a.jpg", "b/a.jpg"),
        ("b\\a.jpg", "b/a.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
        ("images\\b\\a.jpg", "b/a.jpg"),
        ("a.JPG", "a.jpg"),
        ("a.jpg", "a.JPG"),
        ("a", "a.jpg"),
        ("00a1", "00a1.JPEG"),
        ("leading.jpg", " leading.jpg"),
        ("b/a", "b/a.png"),
        ("images/a.jpg", "images/a.jpg"),
    ],
)
def test_one_file_is_meant(names, name, file):
    assert names(file, "other.jpg", "x/y.jpg").find([name], TABLE) == {
        name: file
    }


def test_the_exact_name_wins(names):
    found = names("a", "a.jpg", "a.JPG", " a.jpg", "images/a.jpg", NFD, "é.jpg")
    given = ["a", "a.jpg", "a.JPG", " a.jpg", "images/a.jpg", NFD, "é.jpg"]
    assert found.find(given, TABLE) == {name: name for name in given}


@pytest.mark.parametrize(
    ("name", "files"),
    [("a", ("a.jpg", "a.png")), ("a.Jpg", ("a.JPG", "a.jpg")),
     ("a.jpg", (" a.jpg", "a.jpg "))],
)  # fmt: skip
def test_several_are_not_guessed(names, name, files):
    with pytest.raises(ValueError) as caught:
        names(*files).find([name], TABLE)
    for word in (str(TABLE), f"image {name} may be any of", *files):
        assert word in str(caught.value)


def test_missing(names):
    found = names("a.jpg", "b/c.jpg")
    (found.place / "gone.jpg").symlink_to("nowhere")
    given = ["a.png", "images\\c.jpg", "b", "gone.jpg", "x" * 300, "a.jpg"]
    ids = [*found.find(given, TABLE).values()]
    assert ids == ["a.png", "c.jpg", "b", "gone.jpg", "x" * 300, "a.jpg"]
    # A directory is there: to read it says what it is.
    assert found.missing(ids) == ["a.png", "c.jpg", "gone.jpg", "x" * 300]


@pytest.mark.parametrize(
    "name",
    ["/a.jpg", "\\a.jpg", "\\\\server\\a.jpg", "C:\\a.jpg", "c:/a.jpg",
     "../a.jpg", "b/../../a.jpg", "b\\..\\a.jpg", " /a.jpg", "..",
     "images//a.jpg", ".//a.jpg", "images/C:/a.jpg", "\ufeff/a.jpg",
     "\ufeff../a.jpg", "./images//a.jpg"],
)  # fmt: skip
def test_outside(names, name):
    with pytest.raises(ValueError, match="neither absolute nor with ..; got"):
        names("a.jpg").find([name], TABLE)


def test_up_to_five_are_named(names):
    with pytest.raises(ValueError, match="got /0, /1, /2, /3, /4 and 2 more"):
        names("a.jpg").find([f"/{n}" for n in range(7)], TABLE)


def test_linked_directories(names, tmp_path):
    """Twice by two names; but not for ever where one leads back."""
    found = names("a.jpg", "b/c.jpg")
    (found.place / "link").symlink_to("b")
    (found.place / "b" / "up").symlink_to("..")
    (found.place / "b" / "self").symlink_to(".")
    found = ImageNames(found.place)
    given = ["a.jpg", "b/c.jpg", "link/c.jpg"]
    assert found.find(given, TABLE) == {name: name for name in given}
    assert found.num_others(given) == 0
    assert found.num_others(given[:1]) == 2


def test_what_systems_leave_is_not_counted(names):
    found = names("a.jpg", ".DS_Store", "b/Thumbs.db", "._a.jpg", "b.txt")
    assert found.num_others(["a.jpg"]) == 1


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("C:\\my\\IMG_7.PNG", "deep/img_0007.jpg"),
        ("https://x.org/img_0007.jpg", "deep/img_0007.jpg"),
        ("'img_0007.jpg'", "deep/img_0007.jpg"),
        ("70", "0070.jpg"),
        ("7", None),
        ("img_70.jpg", None),
    ],
)
def test_a_hint_at_what_may_be_meant(tmp_path, name, file):
    for path in ("deep/img_0007.jpg", "0070.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    hint = ImageNames(tmp_path).hint(["nothing like it", name])
    assert hint == (f"; for {name} there is {file}" if file else "")


def test_no_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such directory of images"):
        ImageNames(tmp_path / "images")


def test_a_line_break_in_a_name_is_written_out(names):
    with pytest.raises(ValueError) as caught:
        names("a.jpg", "a.png").find(["a\n"], TABLE)
    assert str(caught.value).startswith(f"{TABLE}: image a\\n may be any of ")
