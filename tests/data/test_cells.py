"""Text tables; `test_fuzz.py` has further ones."""

import csv
import gzip
import io

import numpy as np
import pytest

from imcl_tf.data import cells
from imcl_tf.data.cells import Table, clean, listed, shown

TEXT = 'image,label,value\na.jpg,dog,1\nb.jpg,"cat, ""big""",-1\n'
ROWS = [["a.jpg", "dog", "1"], ["b.jpg", 'cat, "big"', "-1"]]


@pytest.fixture
def table(tmp_path):
    """Makes a `Table` of text or bytes."""

    def make(content, name="labels.csv"):
        path = tmp_path / name
        content = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(content)
        return Table(path)

    return make


def rows_of(table):
    return [row for part in table.rows() for row in part.cells.tolist()]


@pytest.fixture
def refused(table, tmp_path):
    """Asserts that a table is refused in one line; returns the line."""

    def refused(content, name="labels.csv"):
        with pytest.raises(ValueError) as caught:
            rows_of(table(content, name))
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ")
        assert len(message.splitlines()) == 1 and len(message) < 400
        return message.removeprefix(f"{tmp_path / name}: ")

    return refused


class TestTable:
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]
    )
    def test_line_ends_and_encodings(self, table, end, encoding):
        text = TEXT.replace("\n", end)
        if encoding in ("utf-16-le", "utf-16-be"):
            text = "\ufeff" + text
        read = table(text.encode(encoding))
        assert read.header == ("image", "label", "value")
        assert rows_of(read) == ROWS

    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("says_so", [False, True])
    def test_separators(self, table, separator, says_so):
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerows([("image", "a,b;c", "d|e\tf"), *ROWS])
        first = f"sep={separator}\r\n" if says_so else ""
        read = table(first + text.getvalue())
        assert read.header == ("image", "a,b;c", "d|e\tf")
        assert rows_of(read) == ROWS
        assert read.line(1) == 2 + says_so

    def test_gzip(self, table, refused):
        packed = gzip.compress(TEXT.encode())
        assert rows_of(table(packed, "labels.csv.gz")) == ROWS
        assert rows_of(table(packed, "labels.csv")) == ROWS
        for content in (packed[:-9], b"no gzip", packed[:20]):
            message = refused(content, "labels.csv.gz")
            assert message.startswith("not a whole gzip file: ")

    def test_more_than_memory_holds(self, refused, monkeypatch):
        monkeypatch.setattr(cells, "_MOST_BYTES", 1000)
        packed = gzip.compress(b"image,split\n" + b"a" * 10**6)
        assert refused(packed, "x.csv.gz") == "over 1000 bytes of text"

    def test_what_is_empty_is_left_out(self, table):
        text = "\n , \nImage , a,,\n\n x, 1 ,,,,\r\n,,\n, ,,\ny,2\n\n"
        read = table(text)
        assert read.header == ("Image", "a", "", "")
        parts = list(read.rows())
        numbers = np.concatenate([part.numbers for part in parts])
        assert rows_of(read) == [["x", "1 ", "", ""], ["y", "2", "", ""]]
        assert [read.line(n) for n in numbers] == [5, 8]
        assert read.columns("IMAGE") == [0]

    def test_small_chunks(self, table, monkeypatch):
        monkeypatch.setattr(cells, "_CHUNK_CELLS", 7)
        rows = [[f"{n}", "x", f"{n * n}"] for n in range(20)]
        text = "\n\n".join(",".join(row) for row in [["image", "b", ""], *rows])
        read = table(text)
        assert len(list(read.rows())) > 5
        assert rows_of(read) == rows
        numbers = np.concatenate([part.numbers for part in read.rows()])
        assert [read.line(n) for n in numbers] == [*range(3, 43, 2)]

    def test_lines_after_a_quoted_line_break(self, table):
        read = table('image,note\na,"1\r\n2\n3"\n\nb,x\n')
        (part,) = read.rows()
        assert part.cells[0, 1] == "1\r\n2\n3"
        assert [read.line(n) for n in part.numbers] == [2, 6]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "expected a header, got an empty file"),
            ("\n \n", "expected a header, got an empty file"),
            ("image,a\n\nx,1\ny\n", "line 4: 1 fields where the header has 2"),
            ("image,a\nx,1,2\n", "line 2: 3 fields where the header has 2"),
            ('image,a\nx,"1\ny,2\n', "line 2: a quote opens here and is never"),
            ('image,a\nx,1\ny,"1\nz,"2\n', "line 3: text follows a closing "
             "quote in line 4"),
            (f"image,a\nx,{'1' * 200_000}\n", "line 2: a field of over 131072 "
             "characters: perhaps a quote opens here that is not closed"),
            (b"PK\x03\x04 xl/workbook.xml", "an Excel workbook or another"),
            (b"\xd0\xcf\x11\xe0 as Excel 97 writes", "an Excel workbook or"),
            ("image,a\n\nx,\0\n", "line 3: not a text file: it holds a byte 0"),
        ],
    )  # fmt: skip
    def test_refused(self, refused, text, words):
        assert refused(text).startswith(words)

    def test_windows_1252(self, refused):
        message = refused("image,a\r\n\r\nx,café\r\n".encode("cp1252"))
        assert message == (
            "line 3: byte 0xe9 (é in Windows-1252) is not UTF-8; save the file "
            "with the encoding UTF-8"
        )

    def test_utf_16_without_mark(self, refused):
        message = refused(TEXT.encode("utf-16-le"))
        assert message.startswith("line 1: not a text file")

    def test_columns_that_are_missing_or_twice(self, table):
        read = table("image,label,LABEL\n")
        with pytest.raises(ValueError, match="value is not there"):
            read.columns("image", "value")
        with pytest.raises(ValueError, match="label is twice there"):
            read.columns("image", "label")

    def test_a_column_that_pandas_named(self, table):
        assert table("Unnamed: 0,image,Unnamed: x\n").header == (
            "", "image", "Unnamed: x"
        )  # fmt: skip

    def test_whole_lines_in_quotes(self, table):
        read = table('"image,label,value"\n"a,dog,1"\n')
        with pytest.raises(ValueError, match='got "image,label,value": image'):
            read.columns("image")


def test_clean():
    assert clean(" \ufeff e\u0301\u00a0") == "é"
    assert clean("\u200e dog\u200b ") == "dog"
    assert clean("a\u200db") == "a\u200db"


def test_what_cannot_be_seen_is_written_out():
    assert shown("a\u00a0b\u200b c\xad\n") == r"a\xa0b\u200b c\xad\n"
    assert shown("Käse, 犬") == "Käse, 犬"


@pytest.mark.parametrize(
    ("number", "text"), [(1, "0"), (5, "0, 1, 2, 3, 4"),
                         (8, "0, 1, 2, 3, 4 and 3 more")],
)  # fmt: skip
def test_listed(number, text):
    assert listed([*map(str, range(number))]) == text
