"""Makes the records of MS-COCO with the words of its captions as labels.

    python -m data_prep.coco --raw_dir=DIR --data_dir=DIR [--config=2017]

DIR/annotations/              captions_train2014.json, captions_val2014.json
DIR/train2014/, DIR/val2014/  the images, as the official archives unpack
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.COCO)

import collections
import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import tensorflow_datasets as tfds
from absl import flags

from imcl_tf.data import label_json, preparation
from imcl_tf.data.captions import (
    is_unspaced,
    most_frequent_words,
    split_words,
)
from imcl_tf.data.cells import listed
from imcl_tf.data.image_builders import Contents, ImageFilesBuilder
from imcl_tf.data.image_names import leads_out
from imcl_tf.data.labelled_images import ImageFiles, read_file
from imcl_tf.files import existing_file

FLAGS = flags.FLAGS
YEARS = (2014, 2017)
ABSENT = ("negative", "unobserved")
_SPLIT_SEED = 2020


class CaptionedImage(NamedTuple):
    """An image and its captions.

    Attributes:
      file_name: of the image.
      text: all captions, one a line; "" = none.
    """

    file_name: str
    text: str


@dataclasses.dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
    """Which release, and which labels.

    Attributes:
      name: follows from the others: other records, other directory.
      year: 2014 or 2017.
      vocabulary: file of the words, "" = `most_frequent_words`.
      absent: "negative": a word that no caption of an image has is observed
        absent (the paper's text); "unobserved" (the released code).
    """

    name: str = dataclasses.field(default="", init=False)
    year: int = 2014
    vocabulary: str = ""
    absent: str = "negative"

    def __post_init__(self):
        for value, allowed in ((self.year, YEARS), (self.absent, ABSENT)):
            if value not in allowed:
                raise ValueError(f"expected one of {allowed}, got {value!r}")
        self.name = str(self.year)
        if self.vocabulary:
            words = " ".join(read_vocabulary(self.vocabulary))
            digest = hashlib.sha256(words.encode()).hexdigest()
            self.name += f"_vocabulary_{digest[:8]}"
        if self.absent != "negative":
            self.name += f"_absent_{self.absent}"


class Coco(ImageFilesBuilder):
    """MS-COCO images, caption words as labels."""

    name = "imcl_coco"
    DESCRIPTION = (
        "MS-COCO (Lin et al., 2014) with the most frequent words of its "
        "training captions (Chen et al., 2015) as labels, present where a "
        "caption of the image has them. Half of the validation images is test."
    )
    HOMEPAGE = "https://cocodataset.org"
    LICENSE = (
        "Annotations CC BY 4.0, each image under the licence that the "
        "annotations name."
    )
    CITATION = (
        "@inproceedings{lin2014microsoft, title={Microsoft COCO: Common "
        "Objects in Context}, author={Lin, Tsung-Yi and others}, "
        "booktitle={ECCV}, year={2014}}"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack annotations_trainval2014.zip, train2014.zip and val2014.zip, "
        "or those of 2017, of https://cocodataset.org into one directory."
    )
    BUILDER_CONFIGS = [CocoConfig(year=year) for year in YEARS]

    def _contents(self, raw_dir):
        config, counts = self.builder_config, collections.Counter()
        skip = self.on_bad_image == "skip"
        paths = self._tables(raw_dir)
        train, val = (read_captions(path, skip, counts) for path in paths)
        for image_id in sorted(train.keys() & val.keys())[:1]:
            raise ValueError(
                f"{paths[1]}: image {image_id} is also in {paths[0].name}"
            )
        if config.vocabulary:
            words = read_vocabulary(config.vocabulary)
        else:
            words = most_frequent_words(image.text for image in train.values())
        validation, test = halves([*val.values()])
        splits = {
            split: _image_files(
                # Those without a caption were counted.
                [image for image in images if image.text],
                words,
                config.absent,
                raw_dir / f"{part}{config.year}",
            )
            for split, part, images in (
                ("train", "train", train.values()),
                ("validation", "val", validation),
                ("test", "val", test),
            )
        }
        return Contents(words, splits, counts)

    def _tables(self, raw_dir):
        # The words of a vocabulary are in the config's name.
        return [
            raw_dir
            / "annotations"
            / f"captions_{part}{self.builder_config.year}.json"
            for part in ("train", "val")
        ]


def coco_builder(
    year: int = 2014,
    vocabulary: str = "",
    absent: str = "negative",
    data_dir: str | None = None,
    on_bad_image: str = "error",
) -> Coco:
    """The builder of any config, listed in `Coco.BUILDER_CONFIGS` or not.

    Args:
      year: see `CocoConfig`.
      vocabulary: see there.
      absent: see there.
      data_dir: where the records go, None = TFDS's default place.
      on_bad_image: "error", or "skip" to leave out and count captions without
        a word or without an image, and images without a caption.

    Raises:
      ValueError: for a vocabulary that is none.
      FileNotFoundError: for a missing vocabulary.
    """
    config = CocoConfig(year=year, vocabulary=vocabulary, absent=absent)
    return Coco(
        # TFDS insists on its own object where it knows the name.
        config=Coco.builder_configs.get(config.name, config),
        data_dir=data_dir,
        on_bad_image=on_bad_image,
    )


def read_vocabulary(path: str | os.PathLike) -> tuple[str, ...]:
    """Reads a list of words.

    Args:
      path: of one word a line, or of a TSV file with a column `word`.

    Raises:
      ValueError: for something that is not one word in lower case, which no
        caption would ever have, or for a word that is listed twice.
      FileNotFoundError: if there is no such file.
    """
    path = existing_file(Path(path))
    try:
        rows = path.read_text("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from error
    first, column = 1, 0
    if rows and "\t" in rows[0]:
        header = rows.pop(0).split("\t")
        if "word" not in header:
            raise ValueError(
                f"{path}: expected a column word, got {', '.join(header)}"
            )
        first, column = 2, header.index("word")
    words: dict[str, int] = {}
    for number, row in enumerate(rows, first):
        word = "".join(row.split("\t")[column : column + 1])
        if split_words(word) != [word]:
            raise ValueError(
                f"{path}: line {number}: expected one word in lower case "
                f"without punctuation, got {word[:40]!r}"
            )
        if word in words:
            raise ValueError(
                f"{path}: line {number}: {word} is also in line {words[word]}"
            )
        words[word] = number
    if not words:
        raise ValueError(f"{path}: expected words, got none")
    return tuple(words)


def read_captions(
    path: Path, skip: bool, counts: collections.Counter
) -> dict[int, CaptionedImage]:
    """Reads captions_*.json.

    Args:
      path: of the file.
      skip: leave out captions without a word, without spaces between words or
        without an image, and the texts of images without a caption, rather
        than raise.
      counts: gets how many there were.

    Returns:
      image id -> image, by ascending id.

    Raises:
      ValueError: if it is not such a file or, without `skip`, for what would
        be left out.
      FileNotFoundError: if there is no such file.
    """
    content = label_json.load(path)
    images, annotations = (
        label_json.entries(path, content, part)
        for part in ("images", "annotations")
    )
    ids = label_json.column(path, "images", images, "id", (int,))
    names = label_json.column(path, "images", images, "file_name", (str,))
    outside = [x for x in names if leads_out(x) or not x.strip(" ./\\")]
    if outside:
        raise ValueError(
            f"{path}: file_name must be a path below the directory of images, "
            f"got {listed(outside)}"
        )
    for values in (ids, names):
        for value, number in collections.Counter(values).most_common(1):
            if number > 1:
                places = [
                    f"images[{i}]" for i, x in enumerate(values) if x == value
                ]
                raise ValueError(
                    f"{path}: image {value} is listed {number} times: "
                    f"{', '.join(places[:5])}"
                )
    captions: dict[int, list[str]] = {image_id: [] for image_id in ids}
    stray, wordless, unspaced = [], [], []
    for image_id, caption in zip(
        *(
            label_json.column(path, "annotations", annotations, key, (kind,))
            for key, kind in (("image_id", int), ("caption", str))
        ),
        strict=True,
    ):
        if image_id not in captions:
            stray.append(image_id)
        elif not split_words(caption):
            wordless.append(image_id)
        elif is_unspaced(caption):
            unspaced.append(image_id)
        else:
            captions[image_id].append(caption)
    counts["captions"] += len(annotations)
    for what, of_images in (
        ("captions of images that are not listed", stray),
        ("captions without a word", wordless),
        ("captions in a script without spaces between words", unspaced),
        ("images without a caption", [i for i in ids if not captions[i]]),
    ):
        if of_images and not skip:
            first = ", ".join(map(str, [*dict.fromkeys(of_images)][:5]))
            raise ValueError(
                f"{path}: {len(of_images)} {what}, of image {first}; "
                "--on_bad_image=skip leaves them out"
            )
        counts[what] += len(of_images)
    return {
        image_id: CaptionedImage(name, "\n".join(captions[image_id]))
        for image_id, name in sorted(zip(ids, names, strict=True))
    }


def halves(images: Sequence) -> tuple[list, list]:
    """Splits images into validation and test at random, always alike."""
    # RandomState is frozen: no release of NumPy will change what it draws.
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(images))
    middle = len(order) // 2
    return [images[i] for i in order[:middle]], [
        images[i] for i in order[middle:]
    ]


def _image_files(
    images: Sequence[CaptionedImage],
    words: tuple[str, ...],
    absent: str,
    directory: Path,
) -> ImageFiles:
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory of images")
    return ImageFiles(
        [image.file_name for image in images],
        label_matrix([image.text for image in images], words, absent),
        functools.partial(read_file, directory),
    )


def label_matrix(
    texts: Sequence[str], words: Sequence[str], absent: str = "negative"
) -> scipy.sparse.csr_array:
    """Which texts have which words.

    Args:
      texts: N captions.
      words: C, as of `split_words`.
      absent: see `CocoConfig`.

    Returns:
      [N, C] int8, +1 = has it, else -1 or unobserved. It takes 415 MB if all
      1,000 labels of the 82,783 training images are observed.
    """
    column = {word: number for number, word in enumerate(words)}
    shape = len(texts), len(words)
    values = np.full(shape, -1 if absent == "negative" else 0, np.int8)
    for row, text in enumerate(texts):
        values[row, [column[w] for w in split_words(text) if w in column]] = 1
    if absent == "unobserved":
        return scipy.sparse.csr_array(values)
    # SciPy's own conversion of a full array takes five times the memory.
    index = np.int32 if values.size < 2**31 else np.int64
    columns = np.tile(np.arange(shape[1], dtype=index), shape[0])
    ends = np.arange(shape[0] + 1, dtype=index) * shape[1]
    return scipy.sparse.csr_array((values.ravel(), columns, ends), shape)


def main(argv: list[str]):
    preparation.run(
        argv,
        lambda: coco_builder(
            int(FLAGS.config),
            FLAGS.vocabulary,
            FLAGS.absent,
            FLAGS.data_dir or None,
            FLAGS.on_bad_image,
        ),
        FLAGS.raw_dir,
        FLAGS.beam_runner,
        FLAGS.beam_option,
    )


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
