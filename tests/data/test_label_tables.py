"""Tables of labels in every form, against what they were written from."""

import gzip
import itertools
import json

import numpy as np
import pytest

from imcl_tf.data import cells
from imcl_tf.data.label_json import read_label_json
from imcl_tf.data.label_tables import (
    Reading,
    alike_names,
    first_contradiction,
    read_label_table,
)
from tests.docs_blocks import blocks

UNOBSERVED = Reading(unlisted="unobserved")


@pytest.fixture
def read(tmp_path):
    """Reads a table from its text: {(image, label): value}, the rest."""

    def read(text, reading=Reading(), name="labels.csv"):  # noqa: B008
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        reader = read_label_json if ".json" in name else read_label_table
        rows = reader(path, reading)
        pairs = zip(rows.rows, rows.columns, rows.values, strict=True)
        found = {
            (rows.images[i], rows.label_names[j]): int(value)
            for i, j, value in pairs
        }
        return found, rows

    return read


@pytest.fixture
def refused(read, tmp_path):
    """The line that refuses a table."""

    def refused(text, reading=Reading(), name="labels.csv"):  # noqa: B008
        with pytest.raises(ValueError) as caught:
            read(text, reading, name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ")
        assert len(message.splitlines()) == 1
        return message.removeprefix(f"{tmp_path / name}: ")

    return refused


class TestLong:
    def test_values(self, read):
        spellings = {
            1: ("1", "+1", "1.0", "1e0", "true", " TRUE "),
            -1: ("-1", "-1.0", "\u22121", "\u20131", "False"),
            0: (
                "0",
                "0.0",
                "-0",
                "",
                "nan",
                "NaN",
                "NA",
                "<NA>",
                "#N/A",
                "n/a",
                "null",
                "None",
            ),
        }
        expected = {
            (f"{value} {n}", "dog"): value
            for value, texts in spellings.items()
            for n in range(len(texts))
        }
        texts = itertools.chain(*spellings.values())
        table = "image,label,value\n" + "".join(
            f"{image},dog,{text}\n"
            for (image, _), text in zip(expected, texts, strict=True)
        )
        found, rows = read(table)
        assert found == expected
        assert rows.counts == {"values: empty, taken for unobserved": 9}

    def test_an_image_without_labels(self, read):
        """Listed with an empty label; and no label is called that."""
        found, rows = read("image,label,value\na,,0\nb,,\nc,dog,1\n")
        assert found == {("c", "dog"): 1}
        assert rows.images == ["a", "b", "c"] and rows.label_names == ("dog",)

    def test_names_are_stripped_and_composed(self, read):
        found, _ = read("image,label,value\na,  cafe\u0301 ,1\n b ,café,-1\n")
        assert found == {("a", "café"): 1, ("b ", "café"): -1}

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ("a,dog,1\na,,1\n", "line 3: the label is empty"),
            ("a,dog,1\n\n ,dog,1\n", "line 4: the image is empty"),
            ('a,dog,1\n"b\nc",dog,1\n', "line 3: the image holds a line break"),
            ('a,"dog\n(big)",1\n', "line 2: the label holds a line break"),
            ("a,do\u2028g,1\n", "line 2: the label holds a line break"),
            ('a,"x\ny",1\n', r"line 2: the label holds a line break or another "
             r"control character: x\ny"),
        ],
    )  # fmt: skip
    def test_refused(self, refused, rows, words):
        assert refused("image,label,value\n" + rows).startswith(words)

    def test_no_row(self, refused):
        assert refused("image,label,value\n\n") == "no row below the header"


class TestZero:
    TEXT = "image,label,value\na,dog,1\na,cat,0\nb,dog,0\n"

    def test_unclear_without_minus_one(self, read, refused):
        message = refused(self.TEXT)
        assert message.startswith("line 3: 0 may be absent or unobserved")
        assert "--zero=absent or --zero=unobserved" in message
        for zero, value in (("absent", -1), ("unobserved", 0)):
            found, rows = read(self.TEXT, Reading(zero=zero))
            assert found == {
                ("a", "dog"): 1, ("a", "cat"): value, ("b", "dog"): value
            }  # fmt: skip
            assert rows.counts == {f"values: 0, taken for {zero}": 2}

    def test_marks_an_image_without_labels(self, read):
        """Whose only row it is; also where only what is present is listed."""
        found, rows = read("image,label,value\na,dog,1\nb,dog,0\n")
        assert found == {("a", "dog"): 1, ("b", "dog"): 0}
        assert not rows.counts

    def test_is_unobserved_beside_minus_one(self, read):
        found, rows = read(self.TEXT + "b,cat,-1\n")
        assert found["a", "cat"] == 0 and not rows.counts

    def test_is_unclear_beside_false(self, read, refused):
        """As pandas writes a column of truths that met one of numbers."""
        text = "image,label,value\na,dog,True\na,cat,0\nb,dog,False\n"
        assert refused(text).startswith("line 3: 0 may be absent or unobserved")
        for zero, value in (("absent", -1), ("unobserved", 0)):
            found, _ = read(text, Reading(zero=zero))
            assert found == {
                ("a", "dog"): 1, ("a", "cat"): value, ("b", "dog"): -1
            }  # fmt: skip
        message = refused("image,dog,cat\na,True,0\nb,False,True\n")
        assert message.startswith("line 2: 0 may be absent or unobserved in a")

    def test_in_a_wide_table(self, read, refused):
        text = "image,dog,cat\na,1,0\nb,,1\n"
        found, rows = read(text)
        assert found == {("a", "dog"): 1, ("a", "cat"): -1, ("b", "cat"): 1}
        assert rows.counts == {"values: 0, taken for absent": 1}
        found, _ = read(text, Reading(zero="unobserved"))
        assert found["a", "cat"] == 0
        message = refused(text + "c,-1,\n")
        assert message.startswith("line 2: 0 may be absent or unobserved in a")
        for zero, value in (("absent", -1), ("unobserved", 0)):
            found, _ = read(text + "c,-1,\n", Reading(zero=zero))
            assert found["a", "cat"] == value and found["c", "dog"] == -1


class TestWide:
    def test_small_chunks(self, read, monkeypatch):
        monkeypatch.setattr(cells, "_CHUNK_CELLS", 11)
        rng = np.random.default_rng(0)
        values = rng.choice([-1, 1, 2], (20, 4))
        names = ["red", "b, c", "é", "10"]
        text = ',image,red,"b, c",é,10,\n' + "".join(
            f"{i},{i}.jpg,{','.join('' if x == 2 else f'{x}' for x in row)},\n"
            for i, row in enumerate(values)
        )
        found, rows = read(text)
        assert rows.label_names == tuple(names)
        assert found == {
            (f"{i}.jpg", names[j]): values[i, j]
            for i, j in np.argwhere(values != 2)
        }

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("image,a,b,a,c,c\n", "columns are there twice: a, c"),
            ("image\nx\n", "expected columns image,label,value, got image"),
            ("image,a,b\n\nx,1,\ny,1,2\n", "line 4: value of y, b must be"),
            ('image,a,"b\nc"\nx,1,1\n', "line 1: the label holds a line break"),
        ],
    )
    def test_refused(self, refused, text, words):
        assert refused(text).startswith(words)


class TestLists:
    TEXT = "image,labels\na.jpg,dog|big  cat| \nb.jpg,\nc.jpg,dog|dog\n"

    def test_separator_must_be_given(self, refused):
        message = refused(self.TEXT, UNOBSERVED)
        assert "as in 'dog|big  cat| '" in message
        assert message.endswith(
            "--label_separator=comma|semicolon|tab|pipe|space"
        )

    def test_unlisted_must_be_given(self, refused):
        message = refused(self.TEXT, Reading(label_separator="pipe"))
        assert "--unlisted=absent, --unlisted=unobserved or --unlisted=ab" in (
            message
        )

    @pytest.mark.parametrize(
        ("name", "separator"),
        [("comma", ","), ("semicolon", ";"), ("tab", "\t"), ("pipe", "|")],
    )
    def test_is_read(self, read, name, separator):
        text = self.TEXT.replace("|", separator)
        text = "\n".join(
            ",".join([line.split(",")[0], f'"{line.split(",", 1)[1]}"'])
            for line in text.splitlines()
        )
        found, rows = read(text, Reading("absent", label_separator=name))
        assert found == {
            ("a.jpg", "dog"): 1, ("a.jpg", "big  cat"): 1, ("c.jpg", "dog"): 1
        }  # fmt: skip
        assert rows.images == ["a.jpg", "b.jpg", "c.jpg"]

    def test_blanks(self, read):
        text = "image,labels\na,haze  primary\nb,primary\n"
        found, _ = read(text, Reading("absent", label_separator="space"))
        assert set(found) == {("a", "haze"), ("a", "primary"), ("b", "primary")}

    @pytest.mark.parametrize(
        "cell", ["['dog', 'cat']", '[""dog"", ""cat""]', " ['dog']"]
    )
    def test_lists_of_programs(self, refused, cell):
        text = f'image,labels\na,"cat, cow"\nb,"{cell}"\n'
        message = refused(text, Reading("absent", label_separator="comma"))
        assert message.startswith("line 3: the labels are a list of Python or")

    @pytest.mark.parametrize(
        ("text", "warns"),
        [
            ("a,dog|cat\nb,dog|cow|cat\nc,dog\n", True),
            ("a,dog\nb,\nc,wild boar\n", False),
            ('a,"dog,big|red"\nb,cow\n', False),
        ],
    )
    def test_another_separator(self, read, caplog, text, warns):
        text = f"image,labels\n{text}"
        with caplog.at_level("WARNING", "absl"):
            read(text, Reading("absent", label_separator="comma"))
        assert bool(caplog.messages) == warns
        if warns:
            assert caplog.messages[0].endswith(
                "no list holds the separator ',', but 2 labels hold another: "
                "dog|cat, dog|cow|cat"
            )


def test_columns_that_are_not_read(read):
    long = "split,image,label,value,,note\ntrain,a,dog,1,,x\n"
    assert read(long)[1].unread == ("split", "note")
    lists = "image,split,labels\na,train,dog\n"
    reading = Reading("absent", label_separator="pipe")
    assert read(lists, reading)[1].unread == ("split",)
    assert read("image,dog\na,1\n")[1].unread == ()


class TestOpenImages:
    def test_is_read(self, read):
        text = (
            "ImageID,Source,LabelName,Confidence\n"
            "00a1,verification,/m/01,1\n00a1,verification,/m/02,0.0\n"
        )
        found, rows = read(text)
        assert found == {("00a1", "/m/01"): 1, ("00a1", "/m/02"): -1}
        assert rows.counts == {"values: 0, taken for absent": 1}

    def test_confidence_of_a_machine(self, refused):
        text = "ImageID,Source,LabelName,Confidence\n00a1,machine,/m/01,0.7\n"
        assert refused(text).startswith("line 2: value of 00a1, /m/01 must be")


def coco(**changes):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"},
                   {"id": 3, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 3, "category_id": 20},
                        {"image_id": 3, "category_id": 20},
                        {"image_id": 7, "category_id": 10}],
        "categories": [{"id": 10, "name": "dog"}, {"id": 20, "name": "cat"},
                       {"id": 30, "name": "cow"}],
    }  # fmt: skip
    return json.dumps(content | changes)


class TestCoco:
    def test_instances(self, read):
        for name in ("labels.json", "labels.json.gz"):
            text = coco().encode("utf-8-sig")
            text = gzip.compress(text) if name.endswith("gz") else text
            found, rows = read(text, UNOBSERVED, name)
            assert found == {("a.jpg", "dog"): 1, ("b.jpg", "cat"): 1}
            assert rows.images == ["a.jpg", "b.jpg"]
            assert rows.label_names == ("dog", "cat", "cow")

    def test_captions(self, read):
        content = json.loads(coco())
        del content["categories"]
        content["annotations"] = [
            {"image_id": 7, "caption": "A dog, a cat."},
            {"image_id": 3, "caption": "The dog!"},
        ]
        found, rows = read(json.dumps(content), UNOBSERVED, "labels.json")
        assert rows.label_names == ("a", "dog", "cat", "the")
        assert set(found) == {
            ("a.jpg", "a"), ("a.jpg", "dog"), ("a.jpg", "cat"),
            ("b.jpg", "the"), ("b.jpg", "dog"),
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{", "not a whole JSON file"),
            ("[" * 100_000, "not a JSON file: nested too deep"),
            ('{"images": [], "images": [1]}', "an object has the key 'images' "
             "2 times"),
            ("9" * 5000, "not a whole JSON file: Exceeds the limit"),
            ("[]", "expected COCO's object with images and annotations"),
            ("{}", "expected COCO instances or captions, got nothing in "
             "'images'; it holds nothing"),
            (coco(annotations=[]), "expected COCO instances or captions"),
            (coco(annotations=[3]), "annotations[0]: expected an object"),
            (coco(annotations=[{"image_id": 7, "category_id": None}]),
             "annotations[0]: category_id must be int or str, got null"),
            (coco(annotations=[{"image_id": 7, "category_id": 10},
                               {"image_id": 8, "category_id": 10}]),
             "annotations[1]: image_id 8 is not in 'images' (1 such"),
            (coco(images=[{"id": 7, "file_name": "a"},
                          {"id": 7, "file_name": "b"}]),
             "images: id is given several times: 7"),
            (coco(images=[{"id": 7, "file_name": "a"},
                          {"id": 3, "file_name": " a"}]),
             "images: file_name is given several times: a"),
            (coco(images=[{"id": True, "file_name": "a"}]),
             "images[0]: id must be int or str, got true"),
            (coco(images=[{"id": 1, "file_name": "a\nb"}]),
             "images[0]: file_name holds a line break"),
            (coco(images=[{"id": 1, "file_name": "\ud800"}]),
             "images[0]: file_name holds a line break or another control "
             r"character: \ud800"),
            (coco(categories=[{"id": 10, "name": " "}]),
             "categories[0]: name is empty"),
        ],
    )  # fmt: skip
    def test_refused(self, refused, text, words):
        assert refused(text, UNOBSERVED, "labels.json").startswith(words)

    def test_unlisted_must_be_given(self, refused):
        assert "--unlisted=absent" in refused(coco(), name="labels.json")


def test_the_forms_of_the_docs(read):
    forms = [
        block.text
        for block in blocks("docs/own_pictures.md", "text")
        if block.text.lower().startswith("image")
    ]
    expected = [
        {("0001.jpg", "dog"): 1, ("0001.jpg", "cat"): -1},
        {("0001.jpg", "dog"): 1, ("0001.jpg", "cat"): -1,
         ("0002.jpg", "cat"): 1},
        {("0001.jpg", "dog"): 1, ("0001.jpg", "cat"): 1},
        {("000a1b2c3d4e5f60", "/m/0bt9lr"): 1},
    ]  # fmt: skip
    reading = Reading("absent", label_separator="pipe")
    assert [read(text, reading)[0] for text in forms] == expected


def test_first_contradiction():
    cells_ = np.array([5, 3, 5, 9, 3, 9])
    assert first_contradiction(cells_, np.array([1, 0, 1, -1, 0, -1])) is None
    assert first_contradiction(cells_, np.array([1, 0, 1, -1, 0, 1])) == (3, 5)
    assert first_contradiction(np.zeros(0, int), np.zeros(0, int)) is None


def test_alike_names():
    names = ("Dog", "dog ", "a  b", "ab", "A b", "cow", "DOG")
    assert alike_names(names) == ["Dog, dog , DOG", "a  b, A b"]
    names = ("red", "r\xaded", "a b", "a\xa0b", "ab", "ａb", "Käse", "Kase")
    assert alike_names(names) == [
        r"red, r\xaded", r"a b, a\xa0b", "ab, ａb"
    ]  # fmt: skip
