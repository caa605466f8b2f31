"""MS-COCO in the official format, and plain readings of it."""

import collections
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data_prep import coco
from imcl_tf.data.multi_label_dataset import open_source
from tests.data.common import image_ids

ROOT = Path(__file__).resolve().parents[3]
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


def check_records(builder, directory, year, vocabulary=None, absent=-1):
    """All that the records and their tables say, against the oracle."""
    train, val = (
        oracle_captions(directory, part, year) for part in ("train", "val")
    )
    vocabulary = vocabulary or oracle_vocabulary(train)
    dataset = open_source(builder)
    assert list(dataset.label_names) == vocabulary
    names = {split: image_ids(builder, split) for split in SPLITS}
    assert sorted(names["train"]) == sorted(train)
    assert sorted(names["validation"] + names["test"]) == sorted(val)
    assert len(names["validation"]) == len(val) // 2
    for split in SPLITS:
        expected = [
            oracle_row((train | val)[name], vocabulary, absent)
            for name in names[split]
        ]
        labels = dataset.splits[split].labels
        np.testing.assert_array_equal(labels.toarray(), expected)
        assert labels.nnz == np.count_nonzero(expected)
    return names


def shards(builder):
    """File name -> bytes of records and label tables."""
    return {
        path.name: path.read_bytes()
        for path in Path(str(builder.data_path)).iterdir()
        if "tfrecord" in path.name or path.suffix == ".npz"
    }


def snapshot(directory):
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
    }


def contents_of(directory, year=2014, **options):
    return coco.coco_builder(year, **options)._contents(directory)


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


def unspaced_caption(content):
    content["annotations"][9]["caption"] = "一只红色的方块"


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
        "2 captions of images that are not listed, of image 999999",
    ),
    "captions without a word": (wordless_caption, "1 captions without a word"),
    "captions in a script without spaces between words": (
        unspaced_caption,
        "1 captions in a script without spaces between words",
    ),
    "images without a caption": (
        uncaptioned_image,
        "1 images without a caption",
    ),
}


def written(directory):
    """All files but TFDS's note of which config is the default."""
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and path.parent.name != ".config"
    ]


def copy_to_spoil(raw, tmp_path):
    """A copy to spoil; of images, which are links, not the content."""
    copy = tmp_path / "spoilt"
    shutil.copytree(raw, copy, copy_function=os.link)
    for path in (copy / "annotations").iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return copy
