"""Makes the records of CUB-200-2011, its 312 attributes per image as labels.

    python -m data_prep.cub --raw_dir=DIR --data_dir=DIR [--config=official]

DIR/CUB_200_2011/       of CUB_200_2011.tgz: images/, images.txt, classes.txt,
                        image_class_labels.txt, train_test_split.txt and
                        attributes/image_attribute_labels.txt
DIR/attributes.txt      of the same archive, there or in DIR/CUB_200_2011/
DIR/xlsa17/data/CUB/    of xlsa17.zip: att_splits.mat and res101.mat, the
                        zero-shot splits; not needed for --config=official
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.CUB)

import csv
import functools
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse
import tensorflow_datasets as tfds
from absl import flags

from data_prep.cub_tables import (
    check_once,
    read_integers,
    read_names,
    read_per_image,
)
from imcl_tf.data import preparation
from imcl_tf.data.cells import shown
from imcl_tf.data.image_builders import Contents, ImageFilesBuilder
from imcl_tf.data.labelled_images import ImageFiles, read_file
from imcl_tf.data.records import SPLITS
from imcl_tf.files import existing_file

FLAGS = flags.FLAGS
_ARCHIVE = "CUB_200_2011"
_BENCHMARK = Path("xlsa17", "data", "CUB", "att_splits.mat")
_BENCHMARK_URL = "https://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip"
# Not its train_loc and val_loc: they divide all images of the seen classes,
# those of test_seen_loc among them.
_BENCHMARK_SPLITS = {
    "trainval_loc": "train",
    "test_seen_loc": "test",
    "test_unseen_loc": "test",
}
_VALIDATION_SHARE = 10  # one in so many training images
_SEED = 0


class Cub(ImageFilesBuilder):
    """CUB-200-2011, 312 attributes per image.

    The label tables also hold the birds' classes, counted from 0, and the
    `certainties` of the labels: 1 not visible, 2 guessing, 3 probably,
    4 definitely. The metadata's "classes" names the classes.

    Args:
      split_file: in place of the benchmark's, see `read_splits`; config
        "zero_shot" only.
      **kwargs: of `ImageFilesBuilder`.
    """

    name = "imcl_cub"
    DESCRIPTION = (
        "CUB-200-2011 (Wah et al., 2011): birds of 200 classes with 312 "
        "attributes per image, is_present 1 = present, 0 = absent."
    )
    HOMEPAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
    LICENSE = "For non-commercial research and education."
    CITATION = (
        "@techreport{wah2011caltech, title={The Caltech-UCSD Birds-200-2011 "
        "Dataset}, author={Wah, Catherine and others}, institution={California "
        "Institute of Technology}, number={CNS-TR-2011-001}, year={2011}}"
    )
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="zero_shot",
            description="Splits of the zero-shot benchmark (Xian et al., "
            "2018), seen and unseen classes as test.",
        ),
        tfds.core.BuilderConfig(
            name="official", description="Splits of train_test_split.txt."
        ),
    ]

    def __init__(self, *, split_file: str | os.PathLike = "", **kwargs):
        super().__init__(**kwargs)
        if split_file and self.builder_config.name == "official":
            raise ValueError("--split_file needs --config=zero_shot")
        self._split_file = split_file

    def split_path(self, raw_dir: Path) -> Path:
        """The file that says which split an image belongs to.

        Raises:
          FileNotFoundError: if it is the benchmark's and there is none.
        """
        if self._split_file:
            return Path(self._split_file)
        if self.builder_config.name == "official":
            return raw_dir / _ARCHIVE / "train_test_split.txt"
        path = raw_dir / _BENCHMARK
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; unpack {_BENCHMARK_URL} in {raw_dir}, "
                "or give --split_file or --config=official"
            )
        return path

    def _contents(self, raw_dir):
        split_path = self.split_path(raw_dir)
        directory = raw_dir / _ARCHIVE
        classes = read_names(directory / "classes.txt")
        attributes = read_names(_attributes_path(raw_dir))
        birds, counts = read_birds(directory, len(classes), len(attributes))
        splits = read_splits(split_path, birds.names)
        used = sum(map(len, splits.values()))
        self.info.metadata["classes"] = classes
        self.info.metadata["split_digest"] = _digest(split_path)
        return Contents(
            tuple(attributes),
            {split: birds.rows(rows) for split, rows in splits.items()},
            {**counts, "images in no split": len(birds.names) - used},
        )

    def _tables(self, raw_dir):
        directory = raw_dir / _ARCHIVE
        return [
            directory / "classes.txt",
            _attributes_path(raw_dir),
            directory / "images.txt",
            directory / "image_class_labels.txt",
            _attribute_labels_path(directory),
            self.split_path(raw_dir),
        ]


def cub_builder(
    raw_dir: str | os.PathLike, split_file: str = "", **kwargs
) -> Cub:
    """The builder of records, new or made from the same splits.

    Args:
      raw_dir: see above.
      split_file: see `Cub`.
      **kwargs: of TFDS builders and of `ImageFilesBuilder`.

    Raises:
      ValueError: if there are records of other splits already.
      FileNotFoundError: if the file of the splits is missing.
    """
    builder = Cub(split_file=split_file, **kwargs)
    path = builder.split_path(Path(raw_dir))
    made_from = builder.info.metadata.get("split_digest")
    if made_from and made_from != _digest(path):
        raise ValueError(
            f"{builder.data_path} was made from other splits than {path}; "
            "give another --data_dir"
        )
    return builder


def read_birds(
    directory: Path, num_classes: int, num_attributes: int
) -> tuple[ImageFiles, dict[str, int]]:
    """Reads and checks everything about the images but themselves and splits.

    Args:
      directory: holds images/, images.txt, image_class_labels.txt and
        attributes/image_attribute_labels.txt.
      num_classes: class ids are 1 to this.
      num_attributes: attribute ids are 1 to this.

    Returns:
      all images in the order of images.txt, with the extras of `Cub`; and what
      the attribute labels held.

    Raises:
      ValueError: for a row that is not of the format, of an unknown image,
        class or attribute, or given twice, naming file and line.
      FileNotFoundError: for a missing file.
    """
    names = read_names(directory / "images.txt")
    images = directory / "images"
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such directory of images")
    class_ids = read_per_image(
        directory / "image_class_labels.txt",
        len(names), "class id", (1, num_classes),
    )  # fmt: skip
    path = _attribute_labels_path(directory)
    table, num_fields = read_integers(
        path,
        {
            "image id": (1, len(names)),
            "attribute id": (1, num_attributes),
            "is_present": (0, 1),
            "certainty id": (1, 4),
        },
    )
    rows, columns, present, certainties = table.T
    check_once(path, rows * num_attributes + columns)

    def matrix(values):
        return scipy.sparse.csr_array(
            (values.astype(np.int8), (rows - 1, columns - 1)),
            shape=(len(names), num_attributes),
        )

    birds = ImageFiles(
        names,
        matrix(2 * present - 1),
        functools.partial(read_file, images),
        {"class_id": class_ids - 1, "certainties": matrix(certainties)},
    )
    return birds, {
        "attribute labels": len(table),
        "attribute labels missing": len(names) * num_attributes - len(table),
        # A fifth column, the time a worker took, is not used.
        "attribute labels with extra columns": int((num_fields > 5).sum()),
    }


def read_splits(path: Path, images: list[str]) -> dict[str, np.ndarray]:
    """Reads which images are for training, validation and test.

    Args:
      path: att_splits.mat of the zero-shot benchmark, with res101.mat beside
        it; or CSV with columns image,split; or train_test_split.txt. All but
        CSV have a seeded tenth of their training images as validation.
      images: names of the images in the order of images.txt.

    Returns:
      "train", "validation" and "test" -> [n] numbers of their images.

    Raises:
      ValueError: for an unknown image or split, an image listed twice, or an
        empty split.
      FileNotFoundError: for a missing file.
    """
    if path.suffix == ".mat":
        splits = _with_validation(_assigned(path, _benchmark(path), images))
    elif path.suffix == ".csv":
        splits = _assigned(path, _listed(path), images)
    elif path.suffix == ".txt":
        training = read_per_image(
            path, len(images), "is_training_image", (0, 1)
        )
        splits = _with_validation(
            {
                "train": np.flatnonzero(training),
                "test": np.flatnonzero(1 - training),
            }
        )
    else:
        raise ValueError(f"{path}: a split file must end in .mat, .csv or .txt")
    for split in SPLITS:
        if not len(splits[split]):
            raise ValueError(f"{path}: split {split} has no image")
    return {split: np.asarray(splits[split]) for split in SPLITS}


def _with_validation(splits):
    shuffled = np.random.default_rng(_SEED).permutation(sorted(splits["train"]))
    size = len(shuffled) // _VALIDATION_SHARE
    return splits | {"train": shuffled[size:], "validation": shuffled[:size]}


def _assigned(
    path: Path, rows: Iterator[tuple[str, str, str]], images: list[str]
) -> dict[str, list[int]]:
    """Collects (place in the file, image, split) by split."""
    numbers = {image: number for number, image in enumerate(images)}
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    known: dict[str, str] = {}
    for place, image, split in rows:
        if split not in SPLITS:
            raise ValueError(
                f"{path}: {place}: split must be {', '.join(SPLITS)}, got "
                f"{shown(split or 'nothing')}"
            )
        if image not in numbers:
            raise ValueError(
                f"{path}: {place}: image {shown(image or 'nothing')} is not in "
                "images.txt"
            )
        if image in known:
            raise ValueError(
                f"{path}: {place}: image {image} is listed twice, before in "
                f"{known[image]}"
            )
        known[image] = place
        splits[split].append(numbers[image])
    return splits


def _listed(path: Path) -> Iterator[tuple[str, str, str]]:
    """Rows of a CSV file with columns image,split."""
    text = existing_file(path).read_text("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text))
    try:
        if not {"image", "split"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected columns image,split")
        for row in reader:
            yield f"line {reader.line_num}", row["image"], row["split"]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}") from error


def _benchmark(path: Path) -> Iterator[tuple[str, str, str]]:
    """Images of att_splits.mat, numbers from 1 into res101.mat's file list."""
    features = path.with_name("res101.mat")
    files = _read_mat(features, ["image_files"])["image_files"].ravel()
    # CLASS/NAME of .../CUB_200_2011/images/CLASS/NAME, on another's disk.
    names = ("/".join(str(np.squeeze(x)).split("/")[-2:]) for x in files)
    images = dict(enumerate(names, 1))
    found = _read_mat(path, list(_BENCHMARK_SPLITS))
    for variable, split in _BENCHMARK_SPLITS.items():
        for row, number in enumerate(found[variable].ravel().tolist(), 1):
            place = f"{variable}, row {row}"
            if number not in images:
                raise ValueError(
                    f"{path}: {place}: expected 1 to {len(images)}, the images "
                    f"of {features.name}, got {number}"
                )
            yield place, images[number], split


def _read_mat(path: Path, variables: list[str]) -> dict[str, np.ndarray]:
    existing_file(path)
    try:
        found = scipy.io.loadmat(
            path, variable_names=variables, appendmat=False
        )
        return {variable: found[variable] for variable in variables}
    except Exception as error:  # whatever SciPy stumbles over
        raise ValueError(
            f"{path}: expected MATLAB 5 with {', '.join(variables)}: {error!r}"
        ) from error


def _attribute_labels_path(directory: Path) -> Path:
    return directory / "attributes" / "image_attribute_labels.txt"


def _attributes_path(raw_dir: Path) -> Path:
    # The archive has it beside CUB_200_2011/; copies often have it inside.
    inside = raw_dir / _ARCHIVE
    places = (raw_dir, inside, inside / "attributes")
    paths = [place / "attributes.txt" for place in places]
    return next((path for path in paths if path.is_file()), paths[0])


def _digest(path: Path) -> str:
    return hashlib.sha256(existing_file(path).read_bytes()).hexdigest()[:16]


def main(argv: list[str]):
    preparation.run(
        argv,
        lambda: cub_builder(
            FLAGS.raw_dir,
            FLAGS.split_file,
            config=FLAGS.config,
            on_bad_image=FLAGS.on_bad_image,
            data_dir=FLAGS.data_dir or None,
        ),
        FLAGS.raw_dir,
        FLAGS.beam_runner,
        FLAGS.beam_option,
    )


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
