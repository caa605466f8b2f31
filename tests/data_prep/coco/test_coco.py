"""MS-COCO: captions, words and splits against plain readings of the JSON."""

import hashlib
import json

import numpy as np
import pytest

from data_prep import coco
from imcl_tf.data import builders
from imcl_tf.data.captions import is_unspaced
from tests.data_prep.coco.files import (
    REAL,
    RELEASED,
    SIZES,
    SKIPPABLE,
    SPLITS,
    captions_file,
    contents_of,
    edit,
    needs_real,
    oracle_captions,
    oracle_row,
    oracle_vocabulary,
)


class TestWords:
    def test_punctuation_parts_words(self):
        text = "A man's T-shirt,the TV_set; 2 dogs\u2014caf\u00e9!\n\nNo. 7b?"
        assert " ".join(coco.split_words(text)) == (
            "a man s t shirt the tv set 2 dogs café no 7b"
        )

    @pytest.mark.parametrize("text", ["", " \n", "...", "_-'\u201d"])
    def test_no_words(self, text):
        assert coco.split_words(text) == []

    def test_most_frequent_words(self):
        """Each occurrence counts, stop words too; ties go by alphabet."""
        texts = ["The b, the a", "the c c", "D; a. b\ne"]
        assert coco.most_frequent_words(texts) == ("the", *"abcde")
        assert coco.most_frequent_words(texts, 3) == ("the", "a", "b")

    def test_a_thousand_words(self):
        texts = [f"w{n} " * (n % 7 + 1) for n in range(2000)]
        words = coco.most_frequent_words(iter(texts))
        assert list(words) == oracle_vocabulary({"": texts})
        assert len(words) == 1000

    @needs_real
    def test_released_words_are_words(self):
        for row in RELEASED.read_text().splitlines()[1:]:
            word = row.split("\t")[0]
            assert coco.split_words(word) == [word]

    @needs_real
    def test_frequent_words_of_genuine_captions_were_released(self):
        """Split at white space alone, nine of them would not be."""
        released = set(coco.read_vocabulary(RELEASED))
        captions = [
            caption
            for part in ("train", "val")
            for image in oracle_captions(REAL / "coco", part, 2017).values()
            for caption in image
        ]
        assert set(coco.most_frequent_words(captions, 150)) <= released

    @pytest.mark.parametrize(
        ("text", "unspaced"),
        [
            ("一只红色的方块，旁边有蓝色", True),
            ("赤い四角 a", True),
            ("แมวสีแดง", True),
            ("a red square – ½ café, Straße; красный кот", False),
            ("빨간 사각형", False),
            ("", False),
        ],
    )
    def test_scripts_without_spaces(self, text, unspaced):
        assert is_unspaced(text) == unspaced


class TestVocabularyFile:
    @needs_real
    def test_released(self):
        words = coco.read_vocabulary(RELEASED)
        assert len(words) == 1000
        assert words[:3] == ("a", "on", "of") and words[-1] == "rainy"

    @pytest.mark.parametrize(
        "text",
        [
            "a\ncat\nüber\n7\n",
            "a\r\ncat\r\nüber\r\n7",
            "word\tcount\na\t9\ncat\t8\nüber\t7\n7\t\n",
            "count\tword\n9\ta\n9\tcat\n8\tüber\n8\t7\n",
            "\ufeffcount\tword\n9\ta\n9\tcat\n8\tüber\n8\t7\n\n",
        ],
    )
    def test_forms(self, tmp_path, text):
        path = tmp_path / "words"
        path.write_bytes(text.encode())
        assert coco.read_vocabulary(path) == ("a", "cat", "über", "7")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a\nCat\n", "line 2: expected one word"),
            ("a\nhot dog\n", "line 2: expected one word"),
            ("a\nt-shirt\n", "line 2: expected one word"),
            ("a\n\ncat\n", "line 2: expected one word"),
            ("word\tcount\na\t1\n \t1", "line 3: expected one word"),
            ("count\tword\n1\ta\n1\n", "line 3: expected one word"),
            ("word\tcount\na\t1\nb\t1\na\t1", "line 4: a is also in line 2"),
            ("name\tcount\na\t1\n", "column word, got name, count"),
            ("", "got none"),
            ("word\tcount\n", "got none"),
        ],
    )
    def test_bad(self, tmp_path, text, message):
        path = tmp_path / "words"
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path}: .*{message}"):
            coco.read_vocabulary(path)

    def test_not_text(self, tmp_path):
        path = tmp_path / "words"
        path.write_bytes(bytes(range(128, 256)))
        with pytest.raises(ValueError, match=f"{path}: not a text file"):
            coco.read_vocabulary(path)

    def test_missing(self, tmp_path):
        path = tmp_path / "words"
        with pytest.raises(FileNotFoundError, match=f"{path}: no such file"):
            coco.coco_builder(vocabulary=str(path))


class TestConfig:
    def test_names(self, tmp_path):
        """Records that differ do not share a directory."""
        files = []
        for text in ("a\nb\n", "word\tn\na\t1\nb\t1\n", "b\na\n"):
            files.append(tmp_path / f"words{len(files)}")
            files[-1].write_text(text)
        one, same, other = (
            coco.coco_builder(vocabulary=str(file)).builder_config.name
            for file in files
        )
        assert one == same and one.startswith("2014_vocabulary_")
        names = [coco.coco_builder().builder_config.name, one, other]
        for year, absent in ((2014, "unobserved"), (2017, "unobserved"),
                             (2017, "negative")):  # fmt: skip
            builder = coco.coco_builder(year, absent=absent)
            names.append(builder.builder_config.name)
        assert names[0] == "2014" and names[-1] == "2017"
        assert names[-2] == "2017_absent_unobserved"
        assert len(set(names)) == len(names)

    def test_default_is_2014(self):
        names = [config.name for config in coco.Coco.BUILDER_CONFIGS]
        assert names == ["2014", "2017"]

    @pytest.mark.parametrize(
        "options", [{"year": 2015}, {"absent": "zero"}, {"year": "2014"}]
    )
    def test_bad(self, options):
        with pytest.raises(ValueError, match="expected one of"):
            coco.coco_builder(**options)


class TestContents:
    @pytest.mark.parametrize("absent", ["negative", "unobserved"])
    def test_labels(self, raw, absent):
        contents = contents_of(raw, absent=absent)
        train = oracle_captions(raw, "train")
        captions = train | oracle_captions(raw, "val")
        assert list(contents.label_names) == oracle_vocabulary(train)
        assert len(contents.label_names) == 1000
        value = {"negative": -1, "unobserved": 0}[absent]
        for files in contents.splits.values():
            expected = [
                oracle_row(captions[name], contents.label_names, value)
                for name in files.names
            ]
            assert files.labels.format == "csr"
            assert files.labels.dtype == np.int8
            assert files.labels.indices.dtype == np.int32
            np.testing.assert_array_equal(files.labels.toarray(), expected)
            assert files.labels.nnz == np.count_nonzero(expected)
            assert files.labels.has_canonical_format

    def test_vocabulary_from_a_file(self, raw, tmp_path):
        path = tmp_path / "words"
        train = oracle_captions(raw, "train")
        words = ["nowhere", *oracle_vocabulary(train)[40:60:3]]
        path.write_text("\n".join(words))
        contents = contents_of(raw, vocabulary=str(path))
        assert list(contents.label_names) == words
        files = contents.splits["train"]
        expected = [oracle_row(train[name], words) for name in files.names]
        np.testing.assert_array_equal(files.labels.toarray(), expected)

    def test_splits(self, raw):
        splits = contents_of(raw).splits
        assert sorted(splits["train"].names) == sorted(
            oracle_captions(raw, "train")
        )
        validation, test = splits["validation"].names, splits["test"].names
        assert (len(validation), len(test)) == (20, 21)
        assert sorted(validation + test) == sorted(oracle_captions(raw, "val"))

    def test_order_of_the_files_does_not_matter(self, spoilt):
        before = contents_of(spoilt)
        for part in SIZES:

            def reverse(content):
                content["images"].reverse()
                content["annotations"].reverse()

            edit(spoilt, reverse, part)
        after = contents_of(spoilt)
        assert before.label_names == after.label_names
        for split in SPLITS:
            one, two = before.splits[split], after.splits[split]
            assert one.names == two.names
            assert (one.labels != two.labels).nnz == 0

    def test_test_images_are_the_same_for_ever(self):
        halves = coco.halves(range(40504))
        assert [len(half) for half in halves] == [20252, 20252]
        listed = [sorted(half) for half in halves]
        assert sorted(listed[0] + listed[1]) == list(range(40504))
        # Drawn by lot: as many of the first as of the last images, nearly.
        assert abs(np.mean(listed[0]) - np.mean(listed[1])) < 350
        digest = hashlib.sha256(repr(listed[1]).encode()).hexdigest()
        assert digest[:16] == "1f45d4e82ef35e1e"

    @needs_real
    def test_genuine(self):
        contents = contents_of(REAL / "coco", 2017)
        train = oracle_captions(REAL / "coco", "train", 2017)
        captions = train | oracle_captions(REAL / "coco", "val", 2017)
        assert list(contents.label_names) == oracle_vocabulary(train)
        sizes = {s: len(f.names) for s, f in contents.splits.items()}
        assert sizes == {"train": 80, "validation": 39, "test": 40}
        assert contents.counts["captions"] == 795
        for files in contents.splits.values():
            np.testing.assert_array_equal(
                files.labels.toarray(),
                [
                    oracle_row(captions[name], contents.label_names)
                    for name in files.names
                ],
            )


BAD = {
    "id twice": (
        lambda c: c["images"][2].update(id=c["images"][1]["id"]),
        "is listed 2 times: images[1], images[2]",
    ),
    "name twice": (
        lambda c: c["images"][2].update(file_name=c["images"][1]["file_name"]),
        "is listed 2 times: images[1], images[2]",
    ),
    "name outside": (
        lambda c: c["images"][2].update(file_name="../up.jpg"),
        "below the directory of images, got ../up.jpg",
    ),
    "name of the directory": (
        lambda c: c["images"][2].update(file_name="./"),
        "below the directory of images, got ./",
    ),
    "name absolute": (
        lambda c: c["images"][2].update(file_name="/etc/up.jpg"),
        "below the directory of images, got /etc/up.jpg",
    ),
    "no id": (
        lambda c: c["images"][2].pop("id") and None,
        "images[2]: id must be int, got none; it holds ",
    ),
    "id as text": (
        lambda c: c["images"][2].update(id="9"),
        'images[2]: id must be int, got "9"',
    ),
    "id is no number": (
        lambda c: c["images"][2].update(id=float("nan")),
        "images[2]: id must be int, got NaN",
    ),
    "id is a truth value": (
        lambda c: c["images"][2].update(id=True),
        "images[2]: id must be int, got true",
    ),
    "caption is null": (
        lambda c: c["annotations"][3].update(caption=None),
        "annotations[3]: caption must be str, got null",
    ),
    "no file name": (
        lambda c: c["images"][0].pop("file_name") and None,
        "images[0]: file_name must be str, got none; it holds ",
    ),
    "image is no object": (
        lambda c: c["images"].insert(0, 7),
        "images[0]: expected an object, got 7",
    ),
    "no image id": (
        lambda c: c["annotations"][6].pop("image_id") and None,
        "annotations[6]: image_id must be int, got none; it holds ",
    ),
    "no caption": (
        lambda c: c["annotations"][6].pop("caption") and None,
        "annotations[6]: caption must be str, got none; it holds ",
    ),
    "caption is a list": (
        lambda c: c["annotations"][6].update(caption=["a", "cat"] * 999),
        'annotations[6]: caption must be str, got ["a", "cat"',
    ),
    "objects in place of captions": (
        lambda c: c.update(annotations=[{"image_id": 1, "category_id": 3}]),
        "annotations[0]: caption must be str, got none; it holds category_id, "
        "image_id",
    ),
    "no annotations": (
        lambda c: c.pop("annotations") and None,
        "expected COCO instances or captions, got nothing in 'annotations'",
    ),
    "no images": (
        lambda c: c.update(images=[]),
        "expected COCO instances or captions, got nothing in 'images'",
    ),
    "a list": (
        lambda c: [c],
        "expected COCO's object with images and annotations",
    ),
}


def fails(directory, tmp_path, *words, error=ValueError, **options):
    """Preparing ends with one line that has `words`, and leaves no file."""
    out = tmp_path / "out"
    with pytest.raises(error) as caught:
        builders.prepare(coco.coco_builder(data_dir=out, **options), directory)
    message = str(caught.value)
    for word in words:
        assert str(word) in message
    assert len(message.splitlines()) == 1 and len(message) < 500
    assert not out.exists()


class TestBadInput:
    @pytest.mark.parametrize("what", BAD)
    @pytest.mark.parametrize("part", ["train", "val"])
    @pytest.mark.parametrize("on_bad_image", ["error", "skip"])
    def test_no_captions_file(self, spoilt, what, part, on_bad_image):
        change, message = BAD[what]
        path = edit(spoilt, change, part)
        with pytest.raises(ValueError) as caught:
            contents_of(spoilt, on_bad_image=on_bad_image)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value) and len(str(caught.value)) < 300

    @pytest.mark.parametrize("what", SKIPPABLE)
    def test_what_skip_would_leave_out(self, spoilt, tmp_path, what):
        change, message = SKIPPABLE[what]
        path = edit(spoilt, change)
        fails(spoilt, tmp_path, path, message, "--on_bad_image=skip")

    def test_a_key_twice(self, spoilt, tmp_path):
        """Python would keep the last of the two lists."""
        path = captions_file(spoilt, "val")
        text = path.read_text()
        path.write_text(text.replace("{", '{"images": [], ', 1))
        fails(spoilt, tmp_path, f"{path}: an object has the key 'images' 2")

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_encodings(self, spoilt, encoding):
        expected = contents_of(spoilt)
        path = captions_file(spoilt, "val")
        path.write_text(path.read_text(), encoding)
        found = contents_of(spoilt)
        assert found.label_names == expected.label_names
        assert found.splits["test"].names == expected.splits["test"].names

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "not a whole JSON file"),
            (b"<html><body>404</body></html>", "not a whole JSON file"),
            (None, "not a whole JSON file"),
            (b"\xff\xfe\x00", "is not UTF-8"),
        ],
    )
    def test_not_json(self, spoilt, tmp_path, content, words):
        path = captions_file(spoilt, "val")
        whole = path.read_bytes()
        path.write_bytes(whole[:-100] if content is None else content)
        fails(spoilt, tmp_path, path, words)

    @pytest.mark.parametrize(
        "name",
        [
            "annotations",
            "annotations/captions_val2014.json",
            "train2014",
            "val2014",
        ],
    )
    def test_missing_file(self, spoilt, tmp_path, name):
        (spoilt / name).rename(tmp_path / "elsewhere")
        fails(spoilt, tmp_path, spoilt / name, "no such",
              error=FileNotFoundError)  # fmt: skip

    def test_other_year(self, spoilt, tmp_path):
        fails(spoilt, tmp_path, captions_file(spoilt, "train", 2017),
              error=FileNotFoundError, year=2017)  # fmt: skip

    def test_training_image_in_the_test_set(self, spoilt, tmp_path):
        training = json.loads(captions_file(spoilt, "train").read_text())
        image_id = training["annotations"][0]["image_id"]

        def add(content):
            content["annotations"].append(training["annotations"][0])
            content["images"] += [
                image for image in training["images"] if image["id"] == image_id
            ]

        path = edit(spoilt, add, "val")
        fails(spoilt, tmp_path, path, f"image {image_id} is also in")

    @pytest.mark.parametrize("what", ["missing", "html", "cut"])
    def test_bad_image(self, spoilt, tmp_path, what):
        path = next((spoilt / "val2014").iterdir())
        content = path.read_bytes()
        path.unlink()
        if what != "missing":
            path.write_bytes(
                content[:99] if what == "cut" else b"<html></html>"
            )
        fails(spoilt, tmp_path, path.name, "--on_bad_image=skip")
