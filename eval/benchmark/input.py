"""Minibatches of pictures against decoding and resizing them alone."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse
import tensorflow as tf

from eval.benchmark.measure import BATCH, Figure, called
from imcl_tf.backbones.pictures import SQUASHED, Resizing
from imcl_tf.data import records
from imcl_tf.data.pipeline import Split, training_batches
from imcl_tf.data.pixels import AUGMENTATIONS
from imcl_tf.ops.labels import LabelTable

_HEIGHT, _WIDTH, _SIZE = 375, 500, 224
_FILES, _LABELS = 8, 5
_WARM_UP = 8  # minibatches, more than are made ahead


def input_pipeline(scale: float, repeats: int) -> list[Figure]:
    """`training_batches` of JPEG records; the figures are of time."""
    with tempfile.TemporaryDirectory() as scratch:
        write_pictures(scratch, max(int(200 * scale), 4))
        steps = max(int(60 * scale), 2)
        return [
            called(
                f"{what} to bare decode and resize", 1.11,
                time_batches, scratch, *options, steps, repeats,
            )
            for what, *options in (
                ("minibatches", 0, False),
                ("by way of 256 pixels", 256, False),
                ("augmented", 0, True),
            )
        ]  # fmt: skip


def write_pictures(directory: str, distinct: int):
    """Records of `distinct` pictures, each in several files' records."""
    rng = np.random.default_rng(0)
    pictures = [_picture(rng) for _ in range(distinct)]
    for file in range(_FILES):
        with tf.io.TFRecordWriter(f"{directory}/{file}") as writer:
            for i, encoded in enumerate(pictures):
                writer.write(records.encode_image(f"{file}-{i}", encoded))


def _picture(rng) -> bytes:
    """A JPEG of 75 kB: noise of all sizes, coarse noise the strongest."""
    image = tf.zeros([_HEIGHT, _WIDTH, 3])
    for size in 2 ** np.arange(9):
        shape = (max(_HEIGHT // size, 2), max(_WIDTH // size, 2), 3)
        noise = tf.constant(rng.normal(size=shape).astype(np.float32))
        image += size**0.3 * tf.image.resize(noise, [_HEIGHT, _WIDTH])
    image = 120 + 55 * tf.image.per_image_standardization(image)
    pixels = tf.saturate_cast(image, tf.uint8)
    return tf.io.encode_jpeg(pixels, quality=90).numpy()


def split_of(directory: str) -> tuple[Split, LabelTable]:
    """The records that `write_pictures` wrote, and a few labels of each."""
    files = tuple(sorted(map(str, Path(directory).iterdir())))
    length = sum(1 for _ in tf.data.TFRecordDataset(files[0]))
    labels = np.ones((length * len(files), _LABELS), np.int8)
    labels = scipy.sparse.csr_array(labels)
    names = tuple(map(str, range(_LABELS)))
    lengths = (length,) * len(files)
    split = Split(files, lengths, labels, np.zeros(0, np.int32), names)
    return split, LabelTable(labels)


def time_batches(
    directory: str, shorter_side: int, augment: bool, steps: int, repeats: int
):
    """Prints seconds of `steps` minibatches over those of bare ones."""
    split, labels = split_of(directory)
    pictures = [
        records.decode_image(record)[1].numpy()
        for record in tf.data.TFRecordDataset(split.files[0])
    ]
    resizing = Resizing(shorter_side) if shorter_side else SQUASHED
    run = training_batches(
        split, labels, (_SIZE, _SIZE, 3), BATCH, 0,
        AUGMENTATIONS["light"] if augment else None, resizing,
    )  # fmt: skip
    floor = _bare(pictures, shorter_side)
    print(
        json.dumps(
            [
                steady_seconds(run, steps) / steady_seconds(floor, steps)
                for _ in range(repeats)
            ]
        )
    )


def _bare(pictures: list[bytes], shorter_side: int) -> tf.data.Dataset:
    size = [_SIZE, _SIZE]
    if shorter_side:
        size = [shorter_side, round(shorter_side * _WIDTH / _HEIGHT)]

    def decode(encoded):
        image = tf.io.decode_jpeg(encoded, channels=3)
        return tf.image.resize(image, size, antialias=True)

    return (
        tf.data.Dataset.from_tensor_slices(pictures)
        .repeat()
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )


def steady_seconds(batches: tf.data.Dataset, steps: int) -> float:
    """Seconds of `steps` minibatches, once they come steadily."""
    batches = iter(batches)
    for _ in range(_WARM_UP):
        next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return time.perf_counter() - start
