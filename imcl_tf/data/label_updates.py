"""New labels for records that exist: what changed, and where it belongs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from imcl_tf.data import records, shards
from imcl_tf.data.labelled_images import ImageFiles
from imcl_tf.files import existing_file


def files_digest(paths: list[Path]) -> str:
    """A digest of the names and contents of files: 16 hexadecimal digits.

    Raises:
      FileNotFoundError: for a missing file.
    """
    digest = hashlib.sha256()
    for path in paths:
        with existing_file(path).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def rows_of(
    image_ids: np.ndarray, names: Sequence[str] | np.ndarray, left_out: set[str]
) -> np.ndarray:
    """Where in `names` the images of the records are.

    Args:
      image_ids: [N] bytes, in the order of the records.
      names: the images that are listed now.
      left_out: those of them that need no record.

    Returns:
      [N] int.

    Raises:
      ValueError: if the images are not the same.
    """
    rows = pd.Index(names).get_indexer(pd.Index(records.from_bytes(image_ids)))
    if (rows < 0).any():
        gone = image_ids[(rows < 0).argmax()].decode()
        raise ValueError(f"image {gone} is no longer listed")
    new = np.setdiff1d(np.arange(len(names)), rows)
    for name in sorted({str(names[i]) for i in new} - left_out)[:1]:
        raise ValueError(f"image {name} is new")
    return rows


def relabelled(
    table: records.SplitLabels, files: ImageFiles
) -> records.SplitLabels:
    """The label table of the same records with the labels of `files`.

    Args:
      table: of N records, as they were written.
      files: N images in their order, labels sorted.

    Returns:
      `table` with labels, classes and extras of `files`.
    """
    extras: dict[str, Any] = {
        name: x.data if scipy.sparse.issparse(x) else np.asarray(x)
        for name, x in files.extras.items()
    }
    classes = extras.pop(shards.CLASS_ID, np.zeros(0))
    return table._replace(
        labels=files.labels,
        classes=classes.astype(np.int32),
        extras={name: shards.smallest(x) for name, x in extras.items()},
    )
