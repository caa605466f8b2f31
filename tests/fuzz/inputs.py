"""Inputs: well-formed tables, JSON, and files with a few places changed."""

import csv
import functools
import io
import json
import random
import string
import zipfile

import numpy as np
from hypothesis import strategies as st

from tests.data import pictures

# What has a meaning to one reader or another.
TOKENS = [
    *(bytes([value]) for value in b'\0\1\xff\x7f\x80,;|\t\n\r" =-.:[]{}\\/#'),
    b'""', b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe", "é".encode(),
    "e\u0301".encode(), b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xc2\xa0",
    b"0", b"1", b"-1", b"1.0", b"1e999", b"-inf", b"nan", b"NaN", b"Infinity",
    b"9" * 30, b"9" * 5000, b"0x1f", b"1_0", "\u0661\u00b2".encode(),
    b"true", b"null", b"false", b"../", b"/etc/", b"./", b"images/", b"C:\\",
    b"image", b"label", b"value", b"labels", b"sep=;\n", b"id", b'"low": ',
    b"[" * 990, b"[" * 100_000, b'{"a":' * 980, b'"\\ud800"', b'"\\u0000"',
    b"train", b"test", b"a" * 200_000, b"\xff\xff\xff\xff", b"\0\0\0\0",
]  # fmt: skip


def mutate(whole: bytes, rng: random.Random) -> bytes:
    """A file with one to four places changed, moved, lost or cut off."""
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        reach = min(len(content), rng.choice((40, 200, 10**7)))
        place = rng.randrange(reach + 1)
        end = place + rng.choice((0, 0, 1, 1, 2, rng.randrange(60)))
        kind = rng.randrange(8)
        if kind < 3:
            content[place:end] = rng.choice(TOKENS)
        elif kind < 5:
            content[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 5:
            del content[place:end]
        elif kind == 6:
            source = rng.randrange(len(content) + 1)
            content[place:place] = content[source : source + end - place + 1]
        elif rng.random() < 0.3:
            del content[place:]
    return bytes(content)


def mutated(*files: bytes | str) -> st.SearchStrategy[bytes]:
    """One of some files, mutated."""
    whole = [x.encode() if isinstance(x, str) else x for x in files]

    def make(seed):
        rng = random.Random(seed)
        return mutate(rng.choice(whole), rng)

    return st.integers(0, 2**32 - 1).map(make)


def mutated_npz(**arrays) -> st.SearchStrategy[bytes]:
    """A .npz of arrays, one of them mutated under a right checksum."""
    members = {f"{name}.npy": _npy(x) for name, x in arrays.items()}

    def make(seed):
        rng = random.Random(seed)
        changed = members.copy()
        name = rng.choice([*members])
        if rng.randrange(2):
            changed[name] = mutate(members[name], rng)
        else:
            changed[name] = _npy(rng.choice(_ODD_ARRAYS))
        return _zip(changed)

    return mutated(_zip(members)) | st.integers(0, 2**32 - 1).map(make)


_ODD_ARRAYS = [
    np.array(x) for x in (0, [], [-1], [2**40], [[1, 2]], [1.5], ["a"], [b"a"],
                          [True], np.nan, [1 + 1j], "\n", [[[]]])
]  # fmt: skip


def _npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _zip(members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


# What csv can write and a text file can hold.
_CELLS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
)


def _on_one_line(text):
    return text.replace("\r", "").replace("\n", "")


@st.composite
def written_csv(draw) -> bytes:
    """A table by Python's csv module, in every dialect that is read."""
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    # Before Python 3.13 csv leaves line ends other than its own unquoted.
    cells = _CELLS if quoting == csv.QUOTE_ALL else _CELLS.map(_on_one_line)
    rows = draw(st.lists(st.lists(cells, min_size=3, max_size=3), max_size=5))
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        delimiter=draw(st.sampled_from(",;\t|")),
        quoting=quoting,
        lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
    )
    writer.writerows([("image", "label", "value"), *rows])
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return text.getvalue().encode(encoding)


# Short texts of what tables are made of.
GARBAGE = st.one_of(
    st.binary(max_size=60),
    st.text('image,label"\n\r;\t|01-\ufeffé=sep', max_size=60).map(str.encode),
)


def _name(letters):
    return st.text(letters, min_size=1, max_size=5).map(str.strip).filter(bool)


_PAIRS = st.dictionaries(
    st.tuples(
        _name(string.ascii_letters + "é/. "), _name(string.printable[:95] + "ü")
    ),
    st.sampled_from([-1, 0, 1]),
    min_size=1,
    max_size=12,
)
_RESERVED = {"image", "label", "value", "labels", "imageid", "labelname"}


@st.composite
def written_labels(draw) -> bytes:
    """A table of labels by Python's csv module, long or wide."""
    pairs = draw(_PAIRS)
    names = [*dict.fromkeys(name for _, name in pairs)]
    images = [*dict.fromkeys(image for image, _ in pairs)]
    rows: list = [("image", "label", "value")]
    rows += [(*pair, value) for pair, value in pairs.items()]
    if not _RESERVED & {x.lower() for x in names} and draw(st.booleans()):
        rows = [("image", *names)]
        rows += [(i, *(pairs.get((i, x), "") for x in names)) for i in images]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["images", "annotations", "categories", "id", "image_id",
                 "file_name", "name", "category_id", "caption", "grid",
                 "random", "low", "high", "log", "trials", "seed", "identity",
                 "settings", "files", "data", "run", "epochs", "mAP"]
            ),
            inner, max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


def mutated_json(*values) -> st.SearchStrategy[bytes]:
    """JSON of which one to three parts are others, or something else."""
    whole = [json.dumps(value) for value in values]

    def make(seed, odd):
        rng = random.Random(seed)
        value = json.loads(rng.choice(whole))
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            parts = [*_parts(value)]
            if parts:
                inside, key = rng.choice(parts)
                other, place = rng.choice(parts)
                new = rng.choice((other[place], odd, *_ODD_VALUES))
                inside[key] = json.loads(json.dumps(new))
        return json.dumps(value).encode()

    return st.builds(make, st.integers(0, 2**32 - 1), JSON_VALUES)


_ODD_VALUES = [
    0, 1, 2, 7, 8, -1, 1.5, 10**30, True, None, [], {}, "", " b.png ", "dog",
    "c.jpg", "/etc/x.jpg", "../x.jpg", "images/a.jpg", "a\nb", "\ud800", "1",
]  # fmt: skip


def _parts(value):
    """Yields (list or object, index or key) of all that is in a value."""
    if isinstance(value, list | dict):
        for key in range(len(value)) if isinstance(value, list) else value:
            yield value, key
            yield from _parts(value[key])


@functools.cache
def picture_files() -> list[bytes]:
    """Files of all formats and kinds, and a few that are no pictures."""
    others = [b"<!doctype html><p>", b"<svg/>", b"\0\0\0\x18ftypheic"]
    return [*pictures.sources(), pictures.animation("GIF"), *others]
