"""Small raw files in the formats that `data_prep` reads, of rendered scenes."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from imcl_tf.data import scenes
from imcl_tf.data.records import SPLITS

_SHARES = (4, 1, 1)  # of train, validation and test


class Scene(NamedTuple):
    """A rendered picture.

    Attributes:
      number: counts the pictures of all splits from 1.
      split: "train", "validation" or "test".
      encoded: a JPEG file.
      labels: [C] int8, -1 or +1.
    """

    number: int
    split: str
    encoded: bytes
    labels: np.ndarray

    @property
    def present(self) -> list[str]:
        """The names of its labels."""
        names = zip(scenes.LABELS, self.labels, strict=True)
        return [name for name, value in names if value > 0]


def write(directory: Path, pictures: int):
    """Writes folder/, coco/, cub/ and open_images/, all of the same pictures.

    Args:
      directory: exists.
      pictures: number of validation and of test; four times as many of train.
    """
    made = [*_scenes(pictures)]
    for writer in (_folder, _coco, _cub, _open_images):
        place = directory / writer.__name__.removeprefix("_")
        place.mkdir()
        writer(place, made)


def _scenes(pictures: int) -> Iterator[Scene]:
    numbers = itertools.count(1)
    for split, share in zip(SPLITS, _SHARES, strict=True):
        for number in itertools.islice(numbers, share * pictures):
            image, labels = scenes.render(0, number)
            encoded = tf.io.encode_jpeg(image, quality=90).numpy()
            yield Scene(number, split, encoded, labels)


def _write(path: Path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_rows(path: Path, rows: Sequence[Sequence], delimiter: str = ","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerows(rows)


def _folder(place: Path, made: list[Scene]):
    for scene in made:
        _write(place / "images" / f"{scene.number}.jpg", scene.encoded)
    labels = [
        (f"{scene.number}.jpg", name, value)
        for scene in made
        for name, value in zip(scenes.LABELS, scene.labels, strict=True)
    ]
    splits = [(f"{scene.number}.jpg", scene.split) for scene in made]
    _write_rows(place / "labels.csv", [("image", "label", "value"), *labels])
    _write_rows(place / "splits.csv", [("image", "split"), *splits])


def _coco(place: Path, made: list[Scene]):
    for part in ("train", "val"):
        chosen = [x for x in made if (x.split == "train") == (part == "train")]
        content = {
            "images": [
                {"id": x.number, "file_name": f"{x.number:012}.jpg"}
                for x in chosen
            ],
            "annotations": [
                {"image_id": x.number, "caption": " ".join(x.present)}
                for x in chosen
            ],
        }
        _write(
            place / "annotations" / f"captions_{part}2014.json",
            json.dumps(content).encode(),
        )
        for x in chosen:
            _write(place / f"{part}2014" / f"{x.number:012}.jpg", x.encoded)


def _cub(place: Path, made: list[Scene]):
    archive = place / "CUB_200_2011"
    for x in made:
        _write(archive / "images" / f"{x.number}.jpg", x.encoded)
    attributes = [*enumerate(scenes.LABELS, 1)]
    for name, rows in (
        ("classes.txt", [(1, "001.Scene")]),
        ("images.txt", [(x.number, f"{x.number}.jpg") for x in made]),
        ("image_class_labels.txt", [(x.number, 1) for x in made]),
        (
            "train_test_split.txt",
            [(x.number, int(x.split == "train")) for x in made],
        ),
        (
            "attributes/image_attribute_labels.txt",
            [
                (x.number, attribute, int(x.labels[attribute - 1] > 0), 4, 1)
                for x in made
                for attribute, _ in attributes
            ],
        ),
        ("attributes.txt", attributes),
    ):
        _write_rows(archive / name, rows, " ")


def _open_images(place: Path, made: list[Scene]):
    mids = {name: f"/m/{j:05}" for j, name in enumerate(scenes.LABELS)}
    _write_rows(place / "classes-trainable.txt", [[x] for x in mids.values()])
    _write_rows(
        place / "class-descriptions.csv", [(m, n) for n, m in mids.items()]
    )
    header = ("ImageID", "Source", "LabelName", "Confidence")
    for split in SPLITS:
        chosen = [x for x in made if x.split == split]
        rows = [
            (f"{x.number:016x}", "verification", mid, int(value > 0))
            for x in chosen
            for mid, value in zip(mids.values(), x.labels, strict=True)
        ]
        _write_rows(place / split / "annotations-human.csv", [header, *rows])
        for x in chosen:
            name = f"{x.number:016x}.jpg"
            _write(place / "images" / split / name[:2] / name, x.encoded)
