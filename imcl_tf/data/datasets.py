"""From the name of a data set to its records."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path

from absl import logging

from imcl_tf.data import builders
from imcl_tf.data.cells import listed
from imcl_tf.data.folder import folder_builder
from imcl_tf.data.multi_label_dataset import (
    MultiLabelDataset,
    never_absent,
    never_present,
    open_source,
)
from imcl_tf.data.scenes_set import Scenes, SmallScenes
from imcl_tf.data.tfds_sets import tfds_builder
from imcl_tf.options import Value, check_all
from imcl_tf.settings import FOLDER, SMALL_SCENES, dataset_kind

# What preparing the paper's data sets takes.
_COSTS = {
    "coco": "19 GB to download, 20 GB of records, half an hour",
    "cub": "2.1 GB to download, 1.2 GB of records, minutes",
    "open_images": "3.8 million pictures, about 300 GB to download and as much "
    "of records, days",
}

# Of what the tables held, what every program says.
_SAID = ("values: ", "images that", "images of the splits", "columns not read")


def load_dataset(
    name: str,
    data_dir: str | None = None,
    on_bad_image: str = "error",
    **options: Value | os.PathLike,
) -> MultiLabelDataset:
    """Opens the records of a data set; makes those of small sets first.

    Args:
      name: "scenes", "scenes/small", "folder", "coco", "cub", "open_images" or
        "tfds:NAME"; a variant follows a slash, as in "coco/2017".
      data_dir: of a folder, the directory that holds images/ (unless there are
        `features`), labels.csv and perhaps splits.csv; of other sets, where
        their records lie. None = TFDS's default directory.
      on_bad_image: for a folder or a set of TFDS: "error", or "skip" to leave
        out pictures that cannot be used.
      **options: how a folder is read: features, label_table, unlisted, zero,
        label_separator, split_seed and split_shares, as the flags of these
        names. With `features` the splits are of features, and models have no
        backbone.

    Returns:
      `MultiLabelDataset`: its splits train, validation and test, label_names
      and num_labels.

    Raises:
      TypeError: for an unknown option.
      ValueError: for an unknown data set or one that is not as it should be,
        or an option that the data set does not have.
      OSError: for a file or directory that is missing or cannot be written.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> data.num_labels == len(data.label_names)
      True
    """
    # Keras draws the seeds of initial weights from this generator, which TFDS
    # uses too: weights must not depend on whether records exist already.
    state = random.getstate()
    given = {
        option: os.fspath(value) if isinstance(value, os.PathLike) else value
        for option, value in options.items()
    }
    try:
        builder = _builder(name, data_dir or None, on_bad_image, given)
    finally:
        random.setstate(state)
    if isinstance(builder, builders.MultiLabelBuilder):
        data = builder.opened()
    else:  # TFDS's own, of records alone
        data = open_source(builder)
    data = data._replace(name=name)
    for what, number in builder.info.metadata.get("counts", {}).items():
        if number and what.startswith(_SAID):
            logging.warning("%s: %d %s", name, number, what)
    left_out = builder.data_path / builders.LEFT_OUT
    if left_out.exists():
        logging.warning(
            "%d images were left out, listed in %s",
            builder.info.metadata["counts"]["images left out"], left_out,
        )  # fmt: skip
    one_colour = Path(builder.data_path) / builders.ONE_COLOUR
    if one_colour.exists():
        logging.warning("%s", _about_one_colour(one_colour))
    unlearned = never_present(data)
    if unlearned:
        logging.warning(
            "%s: %d of %d labels are never observed present in train, so that "
            "no method can learn them: %s", name, len(unlearned),
            data.num_labels, listed(unlearned),
        )  # fmt: skip
    one_sided = never_absent(data)
    if one_sided:
        logging.warning(
            "%s: %d of %d labels are never observed absent in train, so that "
            "only methods that count unobserved labels as absent can learn "
            "them: %s", name, len(one_sided), data.num_labels,
            listed(one_sided),
        )  # fmt: skip
    return data


def _about_one_colour(path) -> str:
    with path.open(newline="", encoding="utf-8") as file:
        names = [row["image_id"] for row in csv.DictReader(file)]
    return (
        f"{len(names)} images are of one colour, listed in {path}: "
        f"{listed(names)}"
    )


def _builder(dataset, data_dir, on_bad_image, options):
    """The builder of a data set whose records exist from then on."""
    kind = dataset_kind(dataset)
    if kind != "folder":
        _refuse_options(options)
    if kind == "scenes":
        scenes = SmallScenes if dataset == SMALL_SCENES else Scenes
        return builders.prepare(scenes(data_dir=data_dir))
    if kind == "tfds":
        return builders.prepare(
            tfds_builder(dataset.removeprefix("tfds:"), data_dir, on_bad_image)
        )
    if kind == "folder":
        if not data_dir:
            raise ValueError(
                "dataset=folder needs data_dir, the directory that holds "
                "images/ and labels.csv"
            )
        builder = folder_builder(data_dir, on_bad_image=on_bad_image, **options)
        return builders.prepare(builder, data_dir)
    try:
        return builders.find(f"imcl_{dataset}", data_dir)
    except FileNotFoundError as error:
        place = f" --data_dir={data_dir}" if data_dir else ""
        variant = dataset.partition("/")[2]
        what = f"with the flags of {variant}; " if variant else ""
        raise FileNotFoundError(
            f"{error}; make them in the project's source checkout: python -m "
            f"data_prep.{kind} --raw_dir=RAW{place} ({what}{_COSTS[kind]})"
        ) from error


def _refuse_options(options):
    """Refuses options of folders that are not at their defaults."""
    chosen = check_all(FOLDER, options)
    for option in FOLDER:
        if chosen[option.name] != option.default:
            raise ValueError(f"{option.name} is an option of dataset=folder")
