"""Fixed features: a backbone runs over a data set once; records keep f."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.backbones.pictures import picture_format
from imcl_tf.data import records
from imcl_tf.data.multi_label_dataset import (
    MultiLabelDataset,
    naming_damaged_files,
)
from imcl_tf.data.pipeline import without_autograph
from imcl_tf.data.pixels import decode_and_resize
from imcl_tf.files import locked, replacing
from imcl_tf.ops import workers

# Below TFDS's directory: features of records that lie where no one may write.
ELSEWHERE = "imcl_features"
# In a directory of features, a file for each of those who use them.
USER = "user-{}.json"


def fixed_features(
    data: MultiLabelDataset,
    backbone: keras.Model,
    batch_size: int = 64,
    used_by: dict[str, str] | None = None,
) -> MultiLabelDataset:
    """Computes the features of all images, or finds those computed before.

    They are kept beside the image records, or below the user's TFDS directory
    if that is read-only, under a digest of the images, the network, its weights
    and its precision. They hold no labels, and so serve any labels.

    Args:
      data: of image records.
      backbone: [B, S, S, 3] -> features [B, d].
      batch_size: images at a time.
      used_by: "workdir" and "run" of the run that they are for; None = they
        are kept, whoever uses them. For `data_prep.clean`.

    Returns:
      the same data set with feature records in place of image records, for
      models with `fixed_features=True`.

    Raises:
      ValueError: if the data are no data set, or are features already; if the
        backbone does not take pictures of one size, or for
        damaged records.
      OSError: if the features cannot be written.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> backbone = imcl_tf.backbone("small_cnn", image_size=32)
      >>> imcl_tf.fixed_features(data, backbone).train.num_features
      256
    """
    if not isinstance(data, MultiLabelDataset) or data.train.num_features:
        raise ValueError(
            "fixed_features takes the pictures of imcl_tf.load_dataset, got "
            f"{data!r:.100}"
        )
    image_size, resizing = picture_format(backbone)
    name = f"{backbone.name}-{_digest(data, backbone)}"
    directory = _directory(data, name)
    if workers.current().index == 0:
        _note_user(directory, data, backbone, used_by)
    run = tf.function(
        lambda images: backbone(images, training=False),
        autograph=False, reduce_retracing=True,
    )  # fmt: skip
    splits: dict[str, Any] = {}
    for name, split in data.splits.items():
        files = tuple(str(directory / Path(file).name) for file in split.files)
        # Several runs may write them at once, but no one may remove them.
        with locked(directory, shared=True), naming_damaged_files(split.files):
            _write_missing(files, split, run, image_size, batch_size, resizing)
        splits[name] = split._replace(
            files=files, num_features=backbone.output_shape[-1], pictures=split
        )
    return data._replace(**splits)


def _digest(data, backbone) -> str:
    """16 hexadecimal digits that depend on all that features depend on."""
    image_size, resizing = picture_format(backbone)
    digest = hashlib.sha256(f"{image_size} {resizing}".encode())
    digest.update(architecture_digest(backbone).encode())
    for split in data.splits.values():
        digest.update(f"{split.digest}\n".encode())
    for weight in backbone.weights:
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()[:16]


def architecture_digest(network: keras.Model) -> str:
    """A digest of a network's layers, their settings and their precision.

    Not of its weights, nor of names, which Keras numbers anew in each process,
    nor of what is trainable or synchronized between devices.

    Args:
      network: a network of a class of its own without `get_config` is known
        by the name of its class.

    Returns:
      16 hexadecimal digits.
    """
    try:
        text = network.to_json()
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        cls = type(network)
        text = json.dumps(f"{cls.__module__}.{cls.__qualname__}")
    numbers: dict[str, str] = {}
    for name in _names(json.loads(text)):
        numbers.setdefault(json.dumps(name), str(len(numbers)))
    # Whole strings alone: a name may be a part of another.
    text = re.sub(r'"(?:[^"\\]|\\.)*"', lambda x: numbers.get(x[0], x[0]), text)
    text = re.sub('"(trainable|synchronized)": (true|false)', "", text)
    text += network.compute_dtype
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _names(config) -> Iterator[str]:
    """The names of layers in a configuration, those within others too."""
    if isinstance(config, dict):
        inner = config.get("config")
        # A precision's name says what it is.
        if isinstance(inner, dict) and "Policy" not in str(
            config.get("class_name")
        ):
            yield inner.get("name", "")
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _names(part)


def _directory(data, name) -> Path:
    """Where features of that name lie, or may be written."""
    beside = Path(data.directory) / name
    files = [f for split in data.splits.values() for f in split.files]
    if all((beside / Path(file).name).exists() for file in files):
        return beside
    with _unless_read_only():
        beside.mkdir(exist_ok=True)
        if os.access(beside, os.W_OK):
            return beside
    place = Path(tfds.core.constants.DATA_DIR).expanduser() / ELSEWHERE / name
    place.mkdir(parents=True, exist_ok=True)
    return place


@contextlib.contextmanager
def _unless_read_only() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def _note_user(directory, data, backbone, used_by):
    note = {
        "backbone": backbone.name,
        "precision": backbone.compute_dtype,
        "records": str(data.directory),
        **(used_by or {}),
    }
    user = json.dumps(used_by and used_by["workdir"]).encode()
    file = directory / USER.format(hashlib.sha256(user).hexdigest()[:16])
    text = json.dumps(note, indent=2) + "\n"
    if file.is_file() and file.read_text() == text:
        return
    # Features that are read-only are used all the same.
    with _unless_read_only(), replacing(file) as new:
        new.write_text(text)


@without_autograph
def _write_missing(files, split, run, image_size, batch_size, resizing):
    """Writes those feature files of a split that are not there yet.

    Each worker writes its share, and then those that are missing all the same,
    if the others write to another disk.
    """
    share = workers.current()
    missing = _missing(files)
    progress = keras.utils.Progbar(sum(split.lengths), unit_name="image")
    progress.update(sum(split.lengths) - sum(split.lengths[n] for n in missing))
    write = functools.partial(
        _write, files, split, run, image_size, batch_size, resizing, progress
    )
    write(missing[share.index :: share.number])
    workers.wait_for_all()
    write(_missing(files))


def _missing(files):
    return [n for n, file in enumerate(files) if not Path(file).exists()]


def _write(
    files, split, run, image_size, batch_size, resizing, progress, missing
):  # fmt: skip
    """Writes the files of these numbers."""
    if not missing:
        return
    features = _features_of(
        [split.files[n] for n in missing],
        run, image_size, batch_size, resizing,
    )  # fmt: skip
    # By file; one without records has no group.
    groups = itertools.groupby(features, key=lambda feature: feature[0])
    number, group = next(groups, (None, ()))
    for place, n in enumerate(missing):
        mine = place == number
        _write_file(files[n], group if mine else (), split, n)
        if mine:
            number, group = next(groups, (None, ()))
        progress.add(split.lengths[n])


def _write_file(file, features, split, n):
    """Writes one file of features, whole or not at all."""
    with replacing(Path(file)) as new:
        count = 0
        with tf.io.TFRecordWriter(str(new)) as writer:
            for _, name, feature in features:
                writer.write(records.encode_feature(name, feature))
                count += 1
        if count != split.lengths[n]:
            raise ValueError(
                f"{split.files[n]}: {count} records where {split.lengths[n]} "
                "were written; prepare the data set again"
            )


def _features_of(files, run, image_size, batch_size, resizing):
    """Yields the numbers of files, image ids and features [d], in order."""

    def decode(number, record):
        name, encoded = records.decode_image(record)
        return number, name, decode_and_resize(encoded, image_size, resizing)

    # No minibatch crosses from one file to the next: what is computed of an
    # image, to the last bit, must not depend on which files are missing.
    batches = (
        tf.data.Dataset.from_tensor_slices(files)
        .enumerate()
        .flat_map(
            lambda number, file: (
                tf.data.TFRecordDataset(file)
                .map(
                    lambda record: decode(number, record),
                    num_parallel_calls=tf.data.AUTOTUNE,
                )
                .batch(batch_size)
            )
        )
    )
    for numbers, names, images in batches.prefetch(2):
        features = run(images).numpy()
        yield from zip(numbers.numpy(), names.numpy(), features, strict=True)
