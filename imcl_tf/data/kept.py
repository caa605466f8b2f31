"""JSON and NumPy's files, read without trust in who wrote them.

Nothing here unpickles. Whatever is wrong with a file is one ValueError.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from imcl_tf.files import existing_file


def parse_json(text: str | bytes) -> Any:
    """What JSON holds.

    Args:
      text: with or without byte order mark.

    Raises:
      ValueError: if it is no JSON, nested too deep, or an object has a key
        twice: Python would keep the last one.
    """
    if isinstance(text, str):
        text = text.removeprefix("\ufeff")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("not a JSON file: nested too deep") from error
    except _RepeatedKey:
        raise
    except ValueError as error:  # also of a number of too many digits
        raise ValueError(f"not a whole JSON file: {error}") from error


class _RepeatedKey(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, number),) = Counter(key for key, _ in pairs).most_common(1)
        raise _RepeatedKey(f"an object has the key {key!r} {number} times")
    return found


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Reads arrays of a .npz.

    Args:
      path: of the file.
      names: of the arrays, none = all.

    Raises:
      ValueError: if it is no such file, or has no such array.
      FileNotFoundError: if there is no such file.
    """
    # np.load leaves a damaged file open that it has opened itself.
    with existing_file(path).open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as kept:
                found = {name: kept[name] for name in names or kept.files}
        except Exception as error:  # whatever NumPy and zipfile stumble over
            raise ValueError(" ".join(str(error).split())) from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is no array")
    return found


def read_array(path: Path) -> np.ndarray:
    """Reads the array of a .npy; raises as `read_arrays`."""
    with existing_file(path).open("rb") as file:
        try:
            found = np.load(file, allow_pickle=False)
        except Exception as error:  # as above
            raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(found, np.ndarray):
        raise ValueError("no array")
    return found
