"""Thumbnails of a data set's images, as text that a page can hold."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from imcl_tf.data import records
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.decoding import decode_stored
from imcl_tf.data.multi_label_dataset import MultiLabelDataset, reading
from imcl_tf.data.pipeline import (
    Split,
    chosen_records,
    prefetched,
    without_autograph,
)
from imcl_tf.options import check_all
from imcl_tf.report.contents import Run
from imcl_tf.settings import FOLDER, PROGRAM_DATA

SIDE = 96  # pixels of a thumbnail's longer side
_QUALITY = 75
# What data may raise that have gone, have changed or are damaged.
UNREADABLE = ValueError, TypeError, OSError, ImportError, tf.errors.OpError
# What the numbers of a run's images depend on.
_SAME = "label names", "splits", "pictures"


def open_data(run: Run) -> MultiLabelDataset:
    """Opens the data set that a run's flags name, as training did.

    Raises:
      ValueError: if they name none, or it cannot be opened.
      OSError: if a file is missing.
    """
    name = run.settings.get("dataset", "")
    if not name:
        raise ValueError("flags.cfg names no data set")
    known = {option.name for option in PROGRAM_DATA}
    given = {k: text for k, text in run.settings.items() if k in known}
    folder = {option.name for option in FOLDER}
    options = check_all(PROGRAM_DATA, {"on_bad_image": "error"} | given)
    # Its warnings are about training, which is over.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        return load_dataset(
            name,
            str(options["data_dir"]) or None,
            str(options["on_bad_image"]),
            **{k: value for k, value in options.items() if k in folder},
        )
    finally:
        logging.set_verbosity(verbosity)


def check_same(run: Run, data: MultiLabelDataset):
    """Checks that image numbers of a run are those of data.

    Raises:
      ValueError: if labels, splits or pictures have changed since the run, or
        the data hold no pictures.
    """
    before, now = run.results.get("digests"), data.digests()
    if not isinstance(before, dict):
        raise ValueError("results.json has no digests of the data")
    changed = [name for name in _SAME if before.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"the data set has other {', '.join(changed)} now than in the run"
        )
    if data.train.num_features and data.train.pictures is None:
        raise ValueError("the data set holds features, not pictures")


class Album:
    """Thumbnails that a page asks for, each kept once and loaded at the end."""

    def __init__(self):
        self._left = 0
        self._wanted: dict[tuple[int, str], dict[int, str]] = {}
        self._data: list[MultiLabelDataset] = []

    def allow(self, most: int):
        """From now on keeps that many more thumbnails, those asked first."""
        self._left = most

    def add_data(self, data: MultiLabelDataset) -> int:
        """A number for data, for `key`."""
        self._data.append(data)
        return len(self._data) - 1

    def key(self, number: int, split: str, image: int) -> str:
        """What an image's thumbnail is called on the page.

        Args:
          number: of the data.
          split: "train" or "test".
          image: its number there.

        Returns:
          a name, "" where the page has no space left or the split no such
          image.
        """
        keys = self._wanted.setdefault((number, split), {})
        length = sum(getattr(self._data[number], split).lengths)
        if image not in keys and self._left and 0 <= image < length:
            keys[image] = f"{number}-{split}-{image}"
            self._left -= 1
        return keys.get(image, "")

    def load(self) -> dict[str, str]:
        """Name -> data URI of a JPEG picture.

        Raises:
          ValueError: if a record is damaged.
          OSError: if a file is missing.
        """
        found = {}
        for (number, split), keys in self._wanted.items():
            data = self._data[number]
            with reading(data):
                part = getattr(data, split)
                for image, jpeg in thumbnails(part.pictures or part, keys):
                    text = base64.b64encode(jpeg).decode()
                    found[keys[image]] = f"data:image/jpeg;base64,{text}"
        return found


def thumbnails(
    split: Split, images: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """JPEG pictures of chosen images, their longer side `SIDE` pixels.

    Smaller ones grow to it.

    Args:
      split: of pictures.
      images: distinct numbers of images.

    Yields:
      (number, bytes of the file), in the order of the records.
    """
    chosen = np.array(sorted(images), int)
    if chosen.size:
        for index, jpeg in _shrunk(split, chosen):
            yield int(index), jpeg.numpy()


@without_autograph
def _shrunk(split, chosen) -> tf.data.Dataset:
    def shrink(index, record):
        _, encoded = records.decode_image(record)
        pixels = decode_stored(encoded)
        before = tf.cast(tf.shape(pixels)[:2], tf.float32)
        scale = SIDE / tf.reduce_max(before)
        size = tf.maximum(1, tf.cast(tf.round(before * scale), tf.int32))
        small = tf.image.resize(pixels, size, antialias=True)
        small = tf.cast(tf.round(small), tf.uint8)
        return index, tf.io.encode_jpeg(small, quality=_QUALITY)

    ds = chosen_records(split, chosen)
    return prefetched(ds.map(shrink, num_parallel_calls=tf.data.AUTOTUNE))


def image_name(ids: np.ndarray, image: int) -> str:
    """The name of an image, else its number.

    Args:
      ids: [N] bytes, or [0] where they are not known.
      image: its number.
    """
    if 0 <= image < len(ids):
        return bytes(ids[image]).decode("utf-8", "replace")
    return f"image {image}"


def path_text(path: Path) -> str:
    """A path as text in which every byte can be shown."""
    return os.fsencode(path).decode("utf-8", "replace")
