"""MS-COCO: captions, words and splits against plain readings of the JSON."""

import collections
import hashlib
import json
import os
import shutil
import unittest
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from data_prep import coco
from imcl_tf import builders
from imcl_tf.dataset import open_source
from tests import programs

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "raw"
needs_real = pytest.mark.skipif(
    not (REAL / "coco").is_dir(), reason="no genuine files"
)
RELEASED = REAL / "coco" / "vocab_1000_released.tsv"
SPLITS = ("train", "validation", "test")
SIZES = {"train": 150, "val": 41}
MADE_UP = 1500  # words of the generated captions


def write_coco(directory, year=2014, sizes=SIZES, seed=0):
    """Captions and images in the official format, ids and order at random.

    Captions look like "Wa-wb, wc_wd WE's wf." and share too few words with
    punctuation for any other way to split them to give the same labels.
    """
    rng = np.random.default_rng(seed)
    letters = [*"abcdefghijklmnopqrstuvwxyz0é"]
    words = ["".join(rng.choice(letters, 3 + n % 4)) for n in range(MADE_UP)]
    often = 1 / np.arange(5, MADE_UP + 5)
    marks = [" ", " ", ", ", "-", "_", "'", ". ", " / ", "\n", "--"]
    every_id = iter(rng.permutation(600_000).tolist())
    (directory / "annotations").mkdir(parents=True)
    for part, size in sizes.items():
        images, annotations = [], []
        place = directory / f"{part}{year}"
        place.mkdir()
        for _ in range(size):
            image_id = next(every_id)
            prefix = f"COCO_{part}2014_" if year == 2014 else ""
            name = f"{prefix}{image_id:012d}.jpg"
            images.append(
                {
                    "license": 3,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{part}/{name}",
                    "height": 9,
                    "width": 8,
                    "date_captured": "2013-11-14 17:02:52",
                    "id": image_id,
                }
            )
            pixels = rng.integers(0, 256, (9, 8, 3)).astype(np.uint8)
            (place / name).write_bytes(tf.io.encode_jpeg(pixels).numpy())
            for _ in range(5):
                chosen = rng.choice(words, 10, p=often / often.sum())
                parts = [w + rng.choice(marks) for w in chosen]
                parts[0], parts[4] = parts[0].capitalize(), parts[4].upper()
                annotations.append(
                    {
                        "image_id": image_id,
                        "id": len(annotations),
                        "caption": "".join(parts),
                    }
                )
        content = {
            "info": {"year": year},
            "images": [images[i] for i in rng.permutation(len(images))],
            "licenses": [],
            "annotations": [
                annotations[i] for i in rng.permutation(len(annotations))
            ],
        }
        captions_file(directory, part, year).write_text(json.dumps(content))


def captions_file(directory, part, year=2014):
    return directory / "annotations" / f"captions_{part}{year}.json"


def oracle_words(caption):
    """Letter by letter: what is neither letter nor digit ends a word."""
    return "".join(c if c.isalnum() else " " for c in caption.lower()).split()


def oracle_captions(directory, part, year=2014):
    """File name -> captions."""
    content = json.loads(captions_file(directory, part, year).read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    captions = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        captions[names[annotation["image_id"]]].append(annotation["caption"])
    return captions


def oracle_vocabulary(captions):
    counts = collections.Counter()
    for of_image in captions.values():
        for caption in of_image:
            counts.update(oracle_words(caption))
    listed = sorted(counts)  # the sort that follows keeps ties in this order
    listed.sort(key=counts.__getitem__, reverse=True)
    return listed[:1000]


def oracle_row(captions, vocabulary, absent=-1):
    """[C] labels of an image."""
    words = {word for caption in captions for word in oracle_words(caption)}
    return [1 if word in words else absent for word in vocabulary]


def names_of(builder, split):
    """Image ids in the order of the records."""
    return [
        tf.train.Example.FromString(record)
        .features.feature["image_id"]
        .bytes_list.value[0]
        .decode()
        for path in builder.info.splits[split].filepaths
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]


def check_records(builder, directory, year, vocabulary=None, absent=-1):
    """All that the records say, against the oracle."""
    train, val = (
        oracle_captions(directory, part, year) for part in ("train", "val")
    )
    vocabulary = vocabulary or oracle_vocabulary(train)
    source = open_source(builder)
    assert list(source.label_names) == vocabulary
    names = {split: names_of(builder, split) for split in SPLITS}
    assert sorted(names["train"]) == sorted(train)
    assert sorted(names["validation"] + names["test"]) == sorted(val)
    assert len(names["validation"]) == len(val) // 2
    for split in SPLITS:
        expected = [
            oracle_row((train | val)[name], vocabulary, absent)
            for name in names[split]
        ]
        labels = source.splits[split].labels
        np.testing.assert_array_equal(labels.toarray(), expected)
        assert labels.nnz == np.count_nonzero(expected)
    return names


def shards(builder):
    """File name -> bytes of all that preparing writes but TFDS's notes."""
    return {
        path.name: path.read_bytes()
        for path in Path(builder.data_path).iterdir()
        if "tfrecord" in path.name
    }


def snapshot(directory):
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A generated release of 2014, not to be changed."""
    directory = tmp_path_factory.mktemp("coco") / "raw"
    write_coco(directory)
    return directory


@pytest.fixture
def spoilt(raw, tmp_path):
    """A copy to spoil; of images, which are links, not the content."""
    copy = tmp_path / "spoilt"
    shutil.copytree(raw, copy, copy_function=os.link)
    for path in (copy / "annotations").iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return copy


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("records")
    return builders.prepare(coco.coco_builder(data_dir=data_dir), raw)


def contents_of(directory, year=2014, **options):
    return coco.coco_builder(year, **options)._contents(directory)


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
        ("text", "told"),
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
    def test_bad(self, tmp_path, text, told):
        path = tmp_path / "words"
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path}: .*{told}"):
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


class TestRecords:
    def test_open_source(self, raw, prepared):
        check_records(prepared, raw, 2014)

    def test_absent_words_unobserved(self, raw, tmp_path):
        builder = coco.coco_builder(absent="unobserved", data_dir=tmp_path)
        check_records(builders.prepare(builder, raw), raw, 2014, absent=0)

    @needs_real
    def test_genuine_images_and_released_words(self, tmp_path):
        builder = coco.coco_builder(
            2017, vocabulary=str(RELEASED), data_dir=tmp_path
        )
        builders.prepare(builder, REAL / "coco")
        rows = [r.split("\t") for r in RELEASED.read_text().splitlines()[1:]]
        check_records(builder, REAL / "coco", 2017, [row[0] for row in rows])

    def test_plain_tfds(self, raw, prepared):
        """With nothing of this project but the files."""
        builder = tfds.builder_from_directory(str(prepared.data_path))
        words = builder.info.metadata["labels"]
        captions = oracle_captions(raw, "val")
        ds = builder.as_dataset(
            split="test", decoders={"image": tfds.decode.SkipDecoding()}
        )
        seen = 0
        for record in tfds.as_numpy(ds):
            name = record["image_id"].decode()
            row = np.zeros(len(words), int)
            row[record["positives"]] = 1
            row[record["negatives"]] = -1
            np.testing.assert_array_equal(
                row, oracle_row(captions[name], words)
            )
            assert record["image"] == (raw / "val2014" / name).read_bytes()
            seen += 1
        assert seen == 21
        (record,) = tfds.as_numpy(builder.as_dataset(split="train").take(1))
        assert record["image"].shape == (9, 8, 3)

    def test_labels_cost_little(self, raw, prepared):
        """At most 12 bytes each; here all 1,000 of an image."""
        images = sum(
            (raw / "train2014" / name).stat().st_size
            for name in names_of(prepared, "train")
        )
        written = sum(
            len(content)
            for name, content in shards(prepared).items()
            if "train" in name
        )
        assert written - images < 2.5 * 1000 * SIZES["train"]

    def test_beam_writes_the_same(self, raw, prepared, tmp_path):
        pytest.importorskip("apache_beam")
        builder = coco.coco_builder(data_dir=tmp_path)
        builders.prepare(builder, raw, beam_runner="DirectRunner")
        assert shards(builder) == shards(prepared)
        assert len(shards(builder)) == 24

    def test_raw_files_stay_as_they_were(self, raw, tmp_path):
        before = snapshot(raw)
        builders.prepare(coco.coco_builder(data_dir=tmp_path), raw)
        assert snapshot(raw) == before


def edit(directory, change, part="train"):
    """Rewrites a file of captions: `change` gets its content."""
    path = captions_file(directory, part)
    content = json.loads(path.read_text())
    content = change(content) or content
    path.write_text(json.dumps(content))
    return path


def stray_caption(content):
    content["annotations"][3]["image_id"] = 999_999
    content["annotations"][7]["image_id"] = 999_998


def wordless_caption(content):
    content["annotations"][4]["caption"] = " .\n"


def uncaptioned_image(content):
    image_id = content["images"][5]["id"]
    content["annotations"] = [
        annotation
        for annotation in content["annotations"]
        if annotation["image_id"] != image_id
    ]


# What is wrong, and what the message says of it beyond the file.
SKIPPABLE = {
    "captions of images that are not listed": (
        stray_caption,
        "2 captions of images that are not listed, first of image 999999",
    ),
    "captions without a word": (wordless_caption, "1 captions without a word"),
    "images without a caption": (
        uncaptioned_image,
        "1 images without a caption",
    ),
}
BAD = {
    "id twice": (
        lambda c: c["images"][2].update(id=c["images"][1]["id"]),
        "is listed 2 times",
    ),
    "name twice": (
        lambda c: c["images"][2].update(file_name=c["images"][1]["file_name"]),
        "is listed 2 times",
    ),
    "no id": (
        lambda c: c["images"][2].pop("id") and None,
        "images[2]: id must be int, got null",
    ),
    "id as text": (
        lambda c: c["images"][2].update(id="9"),
        'images[2]: id must be int, got "9"',
    ),
    "no file name": (
        lambda c: c["images"][0].pop("file_name") and None,
        "images[0]: file_name must be str, got null",
    ),
    "image is no object": (
        lambda c: c["images"].insert(0, 7),
        "images[0]: id must be int, got null",
    ),
    "no image id": (
        lambda c: c["annotations"][6].pop("image_id") and None,
        "annotations[6]: image_id must be int, got null",
    ),
    "no caption": (
        lambda c: c["annotations"][6].pop("caption") and None,
        "annotations[6]: caption must be str, got null",
    ),
    "caption is a list": (
        lambda c: c["annotations"][6].update(caption=["a", "cat"] * 999),
        'annotations[6]: caption must be str, got ["a", "cat"',
    ),
    "objects in place of captions": (
        lambda c: c.update(annotations=[{"image_id": 1, "category_id": 3}]),
        "annotations[0]: caption must be str",
    ),
    "no annotations": (
        lambda c: c.pop("annotations") and None,
        "expected COCO captions, got nothing in 'annotations'",
    ),
    "no images": (
        lambda c: c.update(images=[]),
        "expected COCO captions, got nothing in 'images'",
    ),
    "a list": (lambda c: [c], "expected COCO captions"),
}


def written(directory):
    """All files but TFDS's note of which config is the default."""
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and path.parent.name != ".config"
    ]


def fails(directory, tmp_path, *words, error=ValueError, **options):
    """Preparing ends with one line that has `words`, and leaves no file."""
    out = tmp_path / "out"
    with pytest.raises(error) as caught:
        builders.prepare(coco.coco_builder(data_dir=out, **options), directory)
    message = str(caught.value)
    for word in words:
        assert str(word) in message
    assert len(message.splitlines()) == 1 and len(message) < 500
    assert not written(out)


class TestBadInput:
    @pytest.mark.parametrize("what", BAD)
    @pytest.mark.parametrize("part", ["train", "val"])
    @pytest.mark.parametrize("on_bad_image", ["error", "skip"])
    def test_no_captions_file(self, spoilt, what, part, on_bad_image):
        change, told = BAD[what]
        path = edit(spoilt, change, part)
        with pytest.raises(ValueError) as caught:
            contents_of(spoilt, on_bad_image=on_bad_image)
        assert str(caught.value).startswith(f"{path}: ")
        assert told in str(caught.value) and len(str(caught.value)) < 300

    @pytest.mark.parametrize("what", SKIPPABLE)
    def test_what_skip_would_leave_out(self, spoilt, tmp_path, what):
        change, told = SKIPPABLE[what]
        path = edit(spoilt, change)
        fails(spoilt, tmp_path, path, told, "--on_bad_image=skip")

    @pytest.mark.parametrize(
        "content",
        [b"", b"<html><body>404</body></html>", b"\xff\xfe\x00", None],
    )
    def test_not_json(self, spoilt, tmp_path, content):
        path = captions_file(spoilt, "val")
        whole = path.read_bytes()
        path.write_bytes(whole[:-100] if content is None else content)
        fails(spoilt, tmp_path, path, "not a whole JSON file")

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


class TestSkip:
    def test_all_is_counted(self, spoilt, tmp_path):
        before = contents_of(spoilt)
        contents = (
            json.loads(captions_file(spoilt, part).read_text())
            for part in SIZES
        )
        gone = {content["images"][5]["file_name"] for content in contents}
        for part in ("train", "val"):
            for change, _ in SKIPPABLE.values():
                edit(spoilt, change, part)
        builder = coco.coco_builder(data_dir=tmp_path, on_bad_image="skip")
        builders.prepare(builder, spoilt)
        counts = builder.info.metadata["counts"]
        assert counts["captions of images that are not listed"] == 4
        assert counts["captions without a word"] >= 1
        assert counts["images without a caption"] == 2
        for split in SPLITS:
            # The halves are as ever, but for what was left out.
            expected = set(before.splits[split].names) - gone
            assert set(names_of(builder, split)) == expected

    def test_labels_belong_to_their_images(self, spoilt, tmp_path):
        def spoil(content):
            uncaptioned_image(content)
            content["annotations"].append(
                {"image_id": 999_999, "id": 0, "caption": "Stranger words"}
            )
            content["annotations"].append(
                {"image_id": content["images"][8]["id"], "caption": "?"}
            )

        edit(spoilt, spoil)
        contents = contents_of(spoilt, on_bad_image="skip")

        def without(content):
            content["images"].pop(5)
            content["annotations"] = content["annotations"][:-2]

        edit(spoilt, without)
        clean = contents_of(spoilt)
        assert contents.label_names == clean.label_names
        for split in SPLITS:
            one, two = contents.splits[split], clean.splits[split]
            assert one.names == two.names
            assert (one.labels != two.labels).nnz == 0

    def test_nothing_to_skip(self, raw):
        assert contents_of(raw, on_bad_image="skip").counts == {
            "captions": 5 * sum(SIZES.values()), **dict.fromkeys(SKIPPABLE, 0)
        }  # fmt: skip


def run(*arguments, module="data_prep.coco"):
    return programs.run(module, *arguments)


class TestProgram:
    def test_success(self, raw, prepared, tmp_path):
        done = run(f"--raw_dir={raw}", f"--data_dir={tmp_path}")
        assert done.returncode == 0, done.stderr
        builder = builders.find("imcl_coco", str(tmp_path))
        assert str(builder.data_path) == str(
            tmp_path / "imcl_coco" / "2014" / "1.0.0"
        )
        check_records(builder, raw, 2014)
        assert shards(builder) == shards(prepared)
        positives = sum(
            sum(label > 0 for label in oracle_row(captions, words))
            for words in [oracle_vocabulary(oracle_captions(raw, "train"))]
            for captions in oracle_captions(raw, "train").values()
        )
        for line in (
            f"{builder.data_path}: 1000 labels",
            f"train: 150 images, {positives} labels observed present, "
            f"{150_000 - positives} absent",
            "captions: 955",
        ):
            assert line in done.stdout

    @pytest.mark.slow
    def test_all_flags(self, spoilt, tmp_path):
        words = tmp_path / "words"
        vocabulary = oracle_vocabulary(oracle_captions(spoilt, "train"))[::9]
        words.write_text("\n".join(vocabulary))
        for part in ("train", "val"):
            path = captions_file(spoilt, part)
            path.rename(captions_file(spoilt, part, 2017))
            (spoilt / f"{part}2014").rename(spoilt / f"{part}2017")
        expected = {part: oracle_captions(spoilt, part, 2017) for part in SIZES}
        path = captions_file(spoilt, "val", 2017)
        content = json.loads(path.read_text())
        content["annotations"].append({"image_id": 999_999, "caption": "Word"})
        path.write_text(json.dumps(content))
        done = run(
            f"--raw_dir={spoilt}", f"--data_dir={tmp_path}", "--config=2017",
            f"--vocabulary={words}", "--absent=unobserved",
            "--on_bad_image=skip",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "captions of images that are not listed: 1\n" in done.stdout
        source = open_source(builders.find("imcl_coco", str(tmp_path)))
        assert list(source.label_names) == vocabulary
        total = sum(
            sum(oracle_row(captions, vocabulary, absent=0))
            for part in expected.values()
            for captions in part.values()
        )
        labels = [split.labels for split in source.splits.values()]
        assert sum(x.nnz for x in labels) == total
        assert all((x.data == 1).all() for x in labels)

    @pytest.mark.slow
    def test_failure(self, spoilt, tmp_path):
        out, path = tmp_path / "out", captions_file(spoilt, "train")
        path.write_bytes(path.read_bytes()[:-1000])
        done = run(f"--raw_dir={spoilt}", f"--data_dir={out}")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
        assert len(lines) == 1
        assert f"{path}: not a whole JSON file" in lines[0]
        assert not written(out)

    def test_tfds_build(self, raw, prepared, tmp_path):
        pytest.importorskip("mlcroissant")  # the program `tfds` imports it
        done = run(
            "build", "data_prep/coco.py", f"--manual_dir={raw}",
            f"--data_dir={tmp_path}", "--config=2014",
            module="tensorflow_datasets.scripts.cli.main",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        builder = builders.find("imcl_coco/2014", str(tmp_path))
        assert shards(builder) == shards(prepared)


def test_tfds_own_tests(tmp_path):
    pytest.importorskip("dill")  # tfds.testing imports it
    for year in (2014, 2017):
        write_coco(tmp_path / str(year), year, {"train": 9, "val": 9})
        shutil.copytree(
            tmp_path / str(year), tmp_path / "raw", dirs_exist_ok=True
        )

    class Case(tfds.testing.DatasetBuilderTestCase):
        DATASET_CLASS = coco.Coco
        EXAMPLE_DIR = str(tmp_path / "raw")
        SPLITS = {"train": 9, "validation": 4, "test": 5}  # of both configs

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
    result = suite.run(unittest.TestResult())
    assert result.testsRun > 4
    assert result.errors == result.failures == []
