"""From the name of a data set to its records."""

from __future__ import annotations

from absl import logging

from imcl_tf import builders
from imcl_tf.dataset import Source, open_source
from imcl_tf.folder import folder_builder
from imcl_tf.tfds_sets import tfds_builder

# The paper's data sets, prepared by data_prep/, and what that takes.
PREPARED = {
    "coco": "19 GB to download, 20 GB of records, half an hour",
    "cub": "1.2 GB to download, 1.2 GB of records, minutes",
    "open_images": "3.7 million pictures, about 300 GB to download and as much "
    "of records, days",
}
DATASETS = ("scenes", "folder", *PREPARED)
HELP = (
    f"{', '.join(DATASETS)}, or tfds:NAME for a set of TFDS; a variant follows "
    "after a slash, as in coco/2017."
)
DATA_DIR_HELP = (
    "folder: the directory of images/, labels.csv[.gz] and splits.csv. Other "
    "data sets: where their records lie; TFDS's default place if not given."
)


def check_name(dataset: str) -> str:
    """Returns the data set's name without variant, "tfds" for those of TFDS.

    Raises:
      ValueError: for an unknown one.
    """
    if dataset.startswith("tfds:"):
        return "tfds"
    name = dataset.split("/")[0]
    if dataset not in DATASETS and name not in PREPARED:
        raise ValueError(
            f"--dataset must be one of {', '.join(DATASETS)} or tfds:NAME, "
            f"got {dataset!r}"
        )
    return name


def open_dataset(
    dataset: str, data_dir: str | None = None, on_bad_image: str = "error"
) -> Source:
    """Opens the records of a data set; makes those of small sets first.

    Args:
      dataset: see `HELP`.
      data_dir: see `DATA_DIR_HELP`.
      on_bad_image: of a folder, "error" or "skip".

    Returns:
      `Source`.

    Raises:
      ValueError: for an unknown data set or one that is not as it should be.
      OSError: for a file or directory that is missing or cannot be written.
    """
    builder = _builder(dataset, data_dir, on_bad_image)
    left_out = builder.data_path / builders.LEFT_OUT
    if left_out.exists():
        logging.warning(
            "%d images were left out, listed in %s",
            builder.info.metadata["counts"]["images left out"], left_out,
        )  # fmt: skip
    return open_source(builder)._replace(name=dataset)


def _builder(dataset, data_dir, on_bad_image):
    """The builder of a data set whose records exist from then on."""
    name = check_name(dataset)
    if name == "scenes":
        return builders.prepare(builders.Scenes(data_dir=data_dir))
    if name == "tfds":
        return builders.prepare(
            tfds_builder(dataset.removeprefix("tfds:"), data_dir)
        )
    if name == "folder":
        if not data_dir:
            raise ValueError("--dataset=folder needs --data_dir=DIR")
        builder = folder_builder(data_dir, on_bad_image=on_bad_image)
        return builders.prepare(builder, data_dir)
    try:
        return builders.find(f"imcl_{dataset}", data_dir)
    except FileNotFoundError as error:
        place = f" --data_dir={data_dir}" if data_dir else ""
        variant = dataset.partition("/")[2]
        what = f"with the flags of {variant}; " if variant else ""
        raise FileNotFoundError(
            f"{error}; make them with: python -m data_prep.{name} "
            f"--raw_dir=RAW{place} ({what}{PREPARED[name]}; see the README)"
        ) from error
