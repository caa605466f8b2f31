"""Images with their labels: listed, then read and checked one after another.

A builder lists the image files of a split (`ImageFiles`). What is written to
records are `LabelledImage`s, as the generators here yield them: of image files,
of images that were read already, or of features. What they meet that is
unusual, or cannot be used, they note in `Findings`.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from imcl_tf.data import duplicates, images, records

_IMAGES_PER_TASK = 32


class ImageFiles(NamedTuple):
    """The images of one split, before they are read.

    Attributes:
      names: N distinct image ids.
      labels: [N, C] int8 csr_array, observed entries -1 or +1.
      read: image id -> bytes of its file; raises OSError; can be pickled.
      extras: further integers by name: [N] of the images ("class_id" is their
        class), or a csr_array [N, C] with the entries of `labels`.
    """

    names: list[str] | np.ndarray
    labels: scipy.sparse.csr_array
    read: Callable[[str], bytes]
    extras: dict[str, np.ndarray | scipy.sparse.csr_array] = {}

    def rows(self, chosen: np.ndarray) -> ImageFiles:
        """The images of indices `chosen` [n], in that order, labels sorted."""
        chosen_rows = self._replace(
            names=[str(self.names[i]) for i in chosen],
            labels=self.labels[chosen],
            extras={name: x[chosen] for name, x in self.extras.items()},
        )
        for values in (chosen_rows.labels, *chosen_rows.extras.values()):
            if scipy.sparse.issparse(values):
                values.sort_indices()
        return chosen_rows


class LabelledImage(NamedTuple):
    """One image with its labels, as the generator of a shard yields it.

    Attributes:
      image_id: its name.
      encoded: its file, or what a record holds.
      columns: [P] int32, label indices, ascending.
      values: [P] int8, -1 or +1.
      extras: further integers by name, [P] or [].
      feature: [d] float32 in the place of `encoded`, or None.
    """

    image_id: str
    encoded: bytes
    columns: np.ndarray
    values: np.ndarray
    extras: dict[str, Any] = {}
    feature: np.ndarray | None = None

    def record(self) -> bytes:
        """What is written of it."""
        if self.feature is None:
            return records.encode_image(self.image_id, self.encoded)
        return records.encode_feature(self.image_id.encode(), self.feature)

    def content_digest(self) -> bytes:
        """See `duplicates.digest`: of the picture or the feature, as written.

        What a picture is written as depends on its file alone, and two files
        of the same pixels may be written alike.
        """
        if self.feature is None:
            return duplicates.digest(self.encoded)
        return duplicates.digest(
            np.ascontiguousarray(self.feature, "<f4").tobytes()
        )


class Findings(NamedTuple):
    """What was met among images.

    Attributes:
      counts: numbers, by what they count.
      left_out: (image id, reason) of images that cannot be used.
      one_colour: ids of images whose pixels are all the same.
    """

    counts: collections.Counter
    left_out: list[tuple[str, str]]
    one_colour: list[str]

    def accept(
        self, image_id: str, found: images.Inspection, skip: bool
    ) -> bool:
        """Notes what is unusual about an image; returns whether to keep it.

        Args:
          image_id: its name.
          found: what is to know about it.
          skip: see `labelled_images`.

        Raises:
          ValueError: if the image cannot be used, without `skip`.
        """
        if found.problem and not skip:
            raise ValueError(
                f"{image_id}: {found.problem}; --on_bad_image=skip leaves such "
                "images out"
            )
        if found.problem:
            self.left_out.append((image_id, found.problem))
            return False
        if found.unusual:
            self.counts[f"images: {found.unusual}"] += 1
        if found.is_one_colour:
            self.one_colour.append(image_id)
        return True


def no_findings() -> Findings:
    """Returns `Findings` to be filled."""
    return Findings(collections.Counter(), [], [])


def labelled_images(
    files: ImageFiles, skip: bool, findings: Findings
) -> Iterator[LabelledImage]:
    """Reads and checks image files, in order; see `shards.Shard.images`.

    Args:
      files: the images, labels sorted.
      skip: leave out images that cannot be used, rather than raise.
      findings: gets what was met.

    Raises:
      ValueError: for an image that cannot be used, without `skip`.
    """
    for i, found in enumerate(_read_in_threads(files)):
        if findings.accept(files.names[i], found, skip):
            yield _with_labels(files, i, found.stored)


def checked(
    given: Iterable[LabelledImage], skip: bool, findings: Findings
) -> Iterator[LabelledImage]:
    """Checks images that were read already, as `labelled_images` does.

    Args:
      given: images with `encoded` as it came.
      skip: see `labelled_images`.
      findings: gets what was met.

    Raises:
      ValueError: for an image that cannot be used, without `skip`.
    """
    given = iter(given)
    while some := list(itertools.islice(given, _IMAGES_PER_TASK)):
        inspected = images.inspect_all([image.encoded for image in some])
        for image, found in zip(some, inspected, strict=True):
            if findings.accept(image.image_id, found, skip):
                yield image._replace(encoded=found.stored)


class ListedImages(NamedTuple):
    """The generator of a shard of image files, see `shards.Shard.images`.

    Attributes:
      files: the images, labels sorted.
      skip: see `labelled_images`.
    """

    files: ImageFiles
    skip: bool

    def __call__(self, findings: Findings) -> Iterator[LabelledImage]:
        return labelled_images(*self, findings)


def labelled_features(
    files: ImageFiles,
    read: Callable[[Sequence[str]], tuple[np.ndarray, list[str | None]]],
    skip: bool,
    findings: Findings,
) -> Iterator[LabelledImage]:
    """Reads the features of images; see `shards.Shard.images`.

    Args:
      files: the images, labels sorted.
      read: of `FeatureRows`.
      skip: see `labelled_images`.
      findings: gets what was met.

    Raises:
      ValueError: for features that cannot be used, without `skip`.
    """
    rows, problems = read([*files.names])
    for i, problem in enumerate(problems):
        found = images.Inspection(problem, "RGB")
        if findings.accept(files.names[i], found, skip):
            yield _with_labels(files, i, b"")._replace(feature=rows[i])


def _with_labels(files: ImageFiles, i: int, encoded: bytes) -> LabelledImage:
    row = slice(*files.labels.indptr[i : i + 2])
    return LabelledImage(
        files.names[i],
        encoded,
        files.labels.indices[row],
        files.labels.data[row],
        {
            name: x.data[row] if scipy.sparse.issparse(x) else x[i]
            for name, x in files.extras.items()
        },
    )


def _read_in_threads(files) -> Iterator[images.Inspection]:
    """What `_read_images` returns for all images, in order."""
    read = functools.partial(_read_images, files.read)
    tasks = [
        files.names[start : start + _IMAGES_PER_TASK]
        for start in range(0, len(files.names), _IMAGES_PER_TASK)
    ]
    threads = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # A few at a time: `map` alone would read all of them ahead.
        for start in range(0, len(tasks), 2 * threads):
            for found in pool.map(read, tasks[start : start + 2 * threads]):
                yield from found


def read_file(directory: Path, name: str) -> bytes:
    """The file `name` below `directory`, for `ImageFiles.read`."""
    return (directory / name).read_bytes()


def _read_images(read, names) -> list[images.Inspection]:
    """What is to know about each image; a problem if it cannot be read."""
    encoded, problems = zip(*(_read_image(read, n) for n in names), strict=True)
    return [
        images.Inspection(problem) if problem else found
        for problem, found in zip(
            problems, images.inspect_all(encoded), strict=True
        )
    ]


def _read_image(read, name) -> tuple[bytes, str | None]:
    """An image file, or the problem with it."""
    try:
        return read(name), None
    except FileNotFoundError:
        return b"", "no such image file"
    except OSError as error:
        return b"", error.strerror or str(error)
