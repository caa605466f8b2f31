"""The data set of rendered scenes as records."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from imcl_tf.data import scenes, shards
from imcl_tf.data.builders import MultiLabelBuilder
from imcl_tf.data.labelled_images import LabelledImage

_SIZES = {"train": 4000, "validation": 500, "test": 1500}
_SMALL_SIZES = {"train": 1500, "validation": 250, "test": 500}


class Scenes(MultiLabelBuilder):
    """Rendered scenes, 64 px, every label of every image known."""

    DESCRIPTION = "Rendered scenes with dependent labels."

    def _split_generators(self, dl_manager):
        del dl_manager
        self.info.metadata["labels"] = list(scenes.LABELS)
        return {
            split: self._shard_generators(split, seed, size)
            for seed, (split, size) in enumerate(self._sizes().items())
        }

    def _sizes(self) -> dict[str, int]:
        """Split -> number of pictures."""
        return _SIZES

    def _shard_generators(self, split, seed, size):
        names = [f"{seed}-{number:05d}.jpg" for number in range(size)]
        return [
            functools.partial(_render, seed, [(int(i), names[i]) for i in rows])
            for rows in shards.cut(names, split)
        ]


class SmallScenes(Scenes):
    """The first of the scenes of each split, for a demo of a minute."""

    name = "scenes_small"

    def _sizes(self) -> dict[str, int]:
        return _SMALL_SIZES


def _render(seed, numbered, findings):
    del findings
    for number, name in numbered:
        image, labels = scenes.render(seed, number)
        encoded = tf.io.encode_jpeg(image, quality=90).numpy()
        observed = np.flatnonzero(labels)
        yield LabelledImage(name, encoded, observed, labels[observed])
