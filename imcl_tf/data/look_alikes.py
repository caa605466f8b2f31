"""Pictures that look the same: copies, resized, compressed again.

A picture is known by 256 bits: where its gray thumbnail of 16 x 17 pixels grows
darker from left to right, by more than compression can change it (a difference
hash). Two pictures look the same if at most 10 bits differ, and their colour
thumbnails of 8 x 8 pixels by at most 10 of 255 on average. A picture without
contrast, such as a white page, is known by its bytes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
import tensorflow as tf

from imcl_tf.data.decoding import decode

MOST_BITS = 10
MOST_DIFFERENCE = 10.0
_MARGIN = 8.0  # of 255; in flat areas smaller ones are noise
_CONTRAST = 4.0  # standard deviation of the gray thumbnail, of 255
_HASH_SHAPE = (16, 17)
_COLOURS = 8
_BLOCK = 2**24  # comparisons at a time
_CHUNK = 64


def look_alikes(paths: Sequence[Path], digests: np.ndarray) -> np.ndarray:
    """Groups pictures that look the same.

    Time grows with the square of their number, at 50,000 some ten seconds
    beside the time to decode them.

    Args:
      paths: N image files; one that cannot be decoded is known by its bytes.
      digests: [N, 32] uint8 of their contents.

    Returns:
      [N] int, the group of each, numbered from 0. Pictures that look the same
      as a third are in one group.
    """
    unread = ~digests.any(axis=1)  # each is a picture of its own
    keys = np.column_stack(
        [digests, np.where(unread, np.arange(len(paths)), -1)]
    )
    _, first, same_bytes = np.unique(
        keys, axis=0, return_index=True, return_inverse=True
    )
    hashes, colours, known = thumbnails([paths[i] for i in first])
    pairs = _near(hashes, colours, known)
    number = len(first)
    edges = scipy.sparse.coo_array(
        (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])),
        shape=(number, number),
    )
    _, groups = scipy.sparse.csgraph.connected_components(edges, directed=False)
    return groups[same_bytes.ravel()]


def thumbnails(
    paths: Sequence[Path],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What pictures are compared by.

    Args:
      paths: N image files.

    Returns:
      [N, 4] uint64, the hashes; [N, 192] uint8, the colour thumbnails; [N]
      bool, whether a picture could be decoded and has contrast.
    """
    bits = np.zeros((len(paths), 256), bool)
    colours = np.zeros((len(paths), 3 * _COLOURS**2), np.uint8)
    known = np.zeros(len(paths), bool)
    names = tf.constant([str(path) for path in paths], tf.string)
    ds = (
        tf.data.Dataset.from_tensor_slices((tf.range(len(paths)), names))
        .map(_thumbnail, tf.data.AUTOTUNE, deterministic=False)
        .ignore_errors()
        .batch(_CHUNK)
    )
    for i, gray, colour in ds.as_numpy_iterator():
        darker = gray[:, :, :-1] - gray[:, :, 1:] > _MARGIN
        bits[i] = darker.reshape(len(i), -1)
        colours[i] = np.rint(colour).astype(np.uint8).reshape(len(i), -1)
        known[i] = gray.std(axis=(1, 2)) >= _CONTRAST
    return np.packbits(bits, axis=1).view(np.uint64), colours, known


@tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.string)],
)
def _thumbnail(i, path):
    pixels = decode(tf.io.read_file(path))
    gray = tf.image.resize(
        tf.image.rgb_to_grayscale(tf.cast(pixels, tf.float32)),
        _HASH_SHAPE, "area",
    )  # fmt: skip
    colour = tf.image.resize(pixels, (_COLOURS, _COLOURS), "area")
    return i, gray[:, :, 0], colour


def _near(hashes, colours, known) -> np.ndarray:
    """[P, 2] int: pairs that look the same, each once."""
    where = np.flatnonzero(known)
    hashes = hashes[where]
    pairs = [np.zeros((0, 2), int)]
    step = max(1, _BLOCK // max(1, len(where)))
    for start in range(0, len(where), step):
        part, rest = hashes[start : start + step], hashes[start:]
        # One word of four leaves few pairs to look at in full.
        first = np.bitwise_count(part[:, None, 0] ^ rest[None, :, 0])
        row, column = np.nonzero(first <= MOST_BITS)
        row, column = row[row < column], column[row < column]
        bits = np.bitwise_count(part[row] ^ rest[column])
        near = bits.sum(axis=1, dtype=np.int64) <= MOST_BITS
        row, column = row[near], column[near]
        pairs.append(where[start + np.stack([row, column], axis=1)])
    near = np.concatenate(pairs)
    difference = np.empty(len(near))
    for start in range(0, len(near), _BLOCK // colours.shape[1]):
        part = near[start : start + _BLOCK // colours.shape[1]]
        a, b = (colours[part[:, side]].astype(np.int16) for side in (0, 1))
        difference[start : start + len(part)] = np.abs(a - b).mean(axis=1)
    return near[difference <= MOST_DIFFERENCE]
