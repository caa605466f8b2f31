"""JSON and arrays that others wrote."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from imcl_tf.data import kept


class TestJson:
    @pytest.mark.parametrize(
        "text", ['{"a": [1, null]}', '\ufeff{"a": [1, null]}']
    )
    def test_text_and_bytes(self, text):
        assert kept.parse_json(text) == {"a": [1, None]}
        assert kept.parse_json(text.encode()) == {"a": [1, None]}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not a whole JSON file: Expecting"),
            (b"\xff\xff", "not a whole JSON file: 'utf-8' codec"),
            ("9" * 5000, "not a whole JSON file: Exceeds the limit"),
            ("[" * 100_000, "not a JSON file: nested too deep"),
            ('[{"a": 1, "b": 2, "a": 1}]', "an object has the key 'a' 2 times"),
        ],
    )
    def test_refused(self, text, message):
        with pytest.raises(ValueError) as caught:
            kept.parse_json(text)
        assert str(caught.value).startswith(message)


def header(text: str) -> bytes:
    """A .npy file of a header alone."""
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\1\0\x76\0" + text.encode() + bytes(16)


def packed(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("a.npy", content)
    return file.getvalue()


BAD = [
    b"",
    b"no array",
    pickle.dumps(np.zeros(3)),
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }"),  # cut
    header("{'descr': '<i8', 'fortran_order': False, 'shape': (10**30,), }"),
    header(f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**50},)}}"),
    header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
    header("{'descr': '<i8', 'fortran_order': (((((("),
    header("[] + {}"),
]


@pytest.mark.parametrize("content", BAD)
def test_arrays_that_are_none(tmp_path, content):
    """Refused in one line, nothing is unpickled, no exabyte is asked for."""
    path = tmp_path / "x"
    for read, file in (
        (kept.read_array, content),
        (kept.read_arrays, packed(content)),
        (kept.read_arrays, content),
    ):
        path.write_bytes(file)
        with pytest.raises(ValueError) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1


def test_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.zeros(2))
    found = kept.read_arrays(tmp_path / "x.npz", "a")
    assert [*found] == ["a"] and found["a"].tolist() == [0, 1, 2]
    assert [*kept.read_arrays(tmp_path / "x.npz")] == ["a", "b"]
    with pytest.raises(ValueError, match="c is not a file in the archive"):
        kept.read_arrays(tmp_path / "x.npz", "c")
    np.save(tmp_path / "x.npy", np.arange(3))
    assert kept.read_array(tmp_path / "x.npy").tolist() == [0, 1, 2]
    with pytest.raises(FileNotFoundError, match="gone"):
        kept.read_arrays(tmp_path / "gone")
