"""Which file of images/ a name in a table means."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from imcl_tf.data.cells import clean, listed, shown

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")  # which spreadsheets drop
# What systems leave in directories that they show.
_NOT_IMAGES = {".ds_store", "thumbs.db", "desktop.ini"}


class ImageNames:
    """The files below a directory, found by the names that tables use.

    A name is the file's path below the directory. These differences do not
    matter where only one file is meant: Unicode's NFC and NFD, blanks around
    the name, a backslash for a slash, `images/` ahead of the name, upper or
    lower case of the extension, and no extension at all. Linked directories
    count as what they link to.

    Args:
      directory: images/.

    Raises:
      FileNotFoundError: if there is no such directory.
    """

    def __init__(self, directory: Path):
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: no such directory of images")
        self.directory = directory
        self._paths = {path: clean(path) for path in _files(directory)}
        self._by_stem: dict[str, str] | None = None
        # From the strictest reading of a name to the loosest.
        self._by_key: list[dict[str, list[str]]] = []
        for key in (clean, _with_lower_extension, _without_extension):
            found = defaultdict(list)
            for path in self._paths:
                found[key(path)].append(path)
            self._by_key.append(found)

    def find(self, names: Sequence[str], table: Path) -> dict[str, str]:
        """The image ids that names mean.

        Args:
          names: distinct, as they stand in a table.
          table: the file that they stand in.

        Returns:
          name -> path of the file below the directory; of a file that is not
          there, the name itself without blanks around it.

        Raises:
          ValueError: for a path that is absolute or leads out of the directory,
            or that may mean several files.
        """
        outside = [
            name for name in names
            if leads_out(name) or leads_out(_below_images(_slashed(name)))
        ]  # fmt: skip
        if outside:
            raise ValueError(
                f"{table}: an image is named by its path below "
                f"{self.directory}, neither absolute nor with ..; got "
                f"{listed(outside)}"
            )
        return {name: self._found(name, table) for name in names}

    def path(self, image_id: str) -> Path:
        """The path of an image, whether or not there is such a file."""
        return self.directory / image_id

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        """Those that are not there."""
        return [
            image_id
            for image_id in image_ids
            if image_id not in self._paths
            # True of a directory: to read it says what it is.
            and not os.path.exists(self.path(image_id))
        ]

    def hint(self, image_ids: Sequence[str]) -> str:
        """For messages about missing images: what the first may mean.

        Returns:
          "; for IMG_7.png there is a/img_0007.jpg", if there is.
        """
        if self._by_stem is None:
            self._by_stem = {_stem(path): path for path in self._paths}
        for image_id in image_ids:
            path = self._by_stem.get(_stem(image_id))
            if path:
                return f"; for {shown(image_id)} there is {shown(path)}"
        return ""

    def num_others(self, image_ids: Sequence[str]) -> int:
        """The number of files, but for those that systems leave, beside them.

        Args:
          image_ids: distinct ones, as `find` returns.
        """
        others = self._paths.keys() - set(image_ids)
        return sum(not _left_by_system(path) for path in others)

    def _found(self, name, table):
        if name in self._paths:
            return name
        slashed = _slashed(name)
        for reading in (name, slashed, _below_images(slashed)):
            for key, files in zip(
                (clean, _with_lower_extension, clean), self._by_key, strict=True
            ):
                found = files.get(key(reading), [])
                if len(found) == 1:
                    return found[0]
                if found:
                    raise ValueError(
                        f"{table}: image {shown(name)} may be any of "
                        f"{listed(sorted(found))} in {self.directory}"
                    )
        return _below_images(slashed)


def _files(
    directory: str | Path, below: str = "", above: frozenset = frozenset()
) -> Iterator[str]:
    """Paths of all files below `directory`, by name; links are followed.

    But for a link to a directory that it lies in, one of those `above`.
    """
    stat = os.stat(directory)
    here = stat.st_dev, stat.st_ino
    if here in above:
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(
                entry.path, f"{below}{entry.name}/", above | {here}
            )
        elif entry.is_file():
            yield below + entry.name


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _below_images(path: str) -> str:
    return clean(path).removeprefix("./").removeprefix("images/")


def _with_lower_extension(path: str) -> str:
    stem, extension = os.path.splitext(clean(path))
    return stem + extension.lower()


def _without_extension(path: str) -> str:
    return os.path.splitext(clean(path))[0]


def _stem(path: str) -> str:
    """What is left of a name of which everything else may be wrong."""
    name = _without_extension(_slashed(path)).rpartition("/")[2]
    return _ZEROS.sub("", name.strip("'\"").casefold())


def leads_out(name: str) -> bool:
    """Whether a path is absolute or has a part "..": of any system."""
    name = clean(name)
    parts = _slashed(name).split("/")
    return bool(_ABSOLUTE.match(name)) or ".." in parts


def _left_by_system(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return name in _NOT_IMAGES or name.startswith("._")
