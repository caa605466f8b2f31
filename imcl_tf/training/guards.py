"""What makes a run's results say less than they seem to.

A run is not refused for it, as it may be meant; its results name it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np

from imcl_tf.data import duplicates
from imcl_tf.data.cells import listed, shown
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pipeline import Split
from imcl_tf.data.records import SPLITS, from_bytes, labels_digest, to_bytes
from imcl_tf.methods import label_graph

# What an image of both splits means.
_MEANING = {
    ("train", "validation"): "settings and weights are chosen on images that "
    "were trained on",
    ("train", "test"): "the test mAP counts images that were trained on",
    ("validation", "test"): "what is chosen on validation is chosen on test",
}
_BACKBONE, _START = "backbone: ", "init_from: the start has the warning: "


def guards(
    data: MultiLabelDataset,
    backbone: keras.Model | None,
    options: dict[str, Any],
    of_start: list[str],
) -> list[str]:
    """Looks for what leads from hidden or held-back labels into a run.

    Args:
      data: with the training labels that are observed.
      backbone: of the run, None for data of features.
      options: of the run and its method, by name.
      of_start: warnings of the run of `init_from`.

    Returns:
      a sentence for each warning; they depend on settings and data alone.

    Raises:
      ValueError: for a damaged file of duplicates or of a label graph.
      OSError: if such a file cannot be read.
    """
    hides = options["observed_fraction"] < 1
    found = [
        *_about_shared_images(data),
        *_about_copies(data),
        *_about_backbone(data, backbone, hides),
    ]
    return [
        *found,
        *_about_start(of_start, found),
        *_about_graph(data, options, hides),
    ]


def _about_shared_images(data):
    for pair in itertools.combinations(SPLITS, 2):
        one, other = (data.splits[name] for name in pair)
        both = _shared(_counting(one), _counting(other))
        number, names = both.size, f" ({listed(from_bytes(both))})"
        if not one.image_ids.size and one.digest and one.digest == other.digest:
            number, names = one.labels.shape[0], ""
        if number:
            yield (
                f"{pair[0]} and {pair[1]} share {number} images{names}: "
                f"{_MEANING[pair]}"
            )


def _shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The names that are in both, sorted; each must hold distinct ones.

    With 4 million names that takes two seconds, without `assume_unique` 15.
    """
    return np.intersect1d(one, other, assume_unique=True)


def _counting(split: Split) -> np.ndarray:
    """Names of the images with labels, which are trained or evaluated on."""
    if not split.image_ids.size:
        return split.image_ids
    return split.image_ids[np.diff(split.labels.indptr) > 0]


def _about_copies(data):
    copies = duplicates.read(Path(data.directory))
    for pair in itertools.combinations(SPLITS, 2):
        one, other = (data.splits[name] for name in pair)
        between = [x for x in copies if (x.other_split, x.split) == pair]
        counting = _among([x.image_id for x in between], _counting(other))
        known = _among([x.other_image_id for x in between], one.image_ids)
        pairs = [
            f"{x.image_id} = {x.other_image_id}"
            for x in between
            if x.image_id in counting and x.other_image_id in known
        ]
        if pairs:
            yield (
                f"{pair[0]} holds copies of {len(pairs)} of "
                f"{other.labels.shape[0]} {pair[1]} images ({listed(pairs)}; "
                f"listed in {duplicates.DUPLICATES} beside the records): "
                f"{_MEANING[pair]}"
            )


def _among(names: list[str], image_ids: np.ndarray) -> set[str]:
    """Those names that are among `image_ids`."""
    return {*from_bytes(_shared(np.unique(to_bytes(names)), image_ids))}


def _about_backbone(data, backbone, hides):
    trained_on = getattr(backbone, "trained_on", "")
    if trained_on and trained_on in data.name:
        hidden = ", also on those that this run hides" if hides else ""
        yield (
            f"{_BACKBONE}its weights were trained on labels of {trained_on}"
            f"{hidden}: results do not show what the observed labels alone "
            "teach"
        )
    if getattr(backbone, "of_run", False):
        yield (
            f"{_BACKBONE}{backbone.name} is the network of an earlier run, "
            "which may have been trained on labels that this run hides or "
            "evaluates on: results may be too high"
        )


def _about_start(of_start, found):
    """Weights of the network come with the start, and with its own start."""
    for sentence in of_start:
        sentence = sentence.removeprefix(_START)
        if sentence.startswith(_BACKBONE) and sentence not in found:
            yield _START + sentence


def _about_graph(data, options, hides):
    path = Path(str(options.get("label_graph") or "."))
    if options.get("label_similarity") == "none" or not path.is_file():
        return
    source = label_graph.load_source(path)
    digest = labels_digest(data.train.labels, data.label_names)
    if source.kind and source.may_know_others(digest):
        yield (
            f"label_graph: {path.name} ({shown(source.kind)}) comes from other "
            f"labels ({shown(source.labels_digest)}) than those that this run "
            f"observes ({digest}): it may know labels that this run hides or "
            "evaluates on"
        )
    if not source.kind and hides:
        yield (
            f"label_graph: {path.name} does not say where it comes from: if "
            "it was counted from all training labels, it knows those that "
            "this run hides"
        )
