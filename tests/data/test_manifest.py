"""Manifests that someone has edited; `test_download.py` has whole ones."""

import pytest

from imcl_tf.data.manifest import read_manifest

HEADER = "image_id,status,reason,bytes\n"
GOOD = "0123456789abcdef,done,,12\n"


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "manifest.csv").write_text(text, newline="")
        return read_manifest(tmp_path / "manifest.csv")

    return read


@pytest.mark.parametrize(
    "size", ["inf", "nan", "-1", "1.5", "1e300", "", "x", "9" * 40]
)
def test_a_number_of_bytes_that_is_none(read, size):
    with pytest.raises(ValueError, match="manifest.csv: line 3: not an image"):
        read(f"{HEADER}{GOOD}00000000000000ff,failed,,{size}\n")


@pytest.mark.parametrize(
    "text",
    [HEADER + "a,b,c,d,e,f\n" + "a\n" + "a,b,c,d,e,f,g,h\n",
     'image_id,status,"a\nb",bytes\n' + GOOD],
)  # fmt: skip
def test_refused_in_one_line(read, tmp_path, text):
    with pytest.raises(ValueError) as caught:
        read(text)
    assert str(caught.value).startswith(f"{tmp_path / 'manifest.csv'}: ")
    assert len(str(caught.value).splitlines()) == 1
