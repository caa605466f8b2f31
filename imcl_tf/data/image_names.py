"""What an image's name in a table means: a file of images/, or an id."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imcl_tf.data.cells import clean, listed, shown

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")  # which spreadsheets drop
# What systems leave in directories that they show.
_NOT_IMAGES = {".ds_store", "thumbs.db", "desktop.ini"}


class Names:
    """The images that there are, found by the names that tables use.

    Differences in Unicode's NFC and NFD and in blanks around a name do not
    matter.

    Args:
      place: of the images, for messages.
      names: distinct ones, cleaned too.

    Attributes:
      place: as above.
      kind: what an image is there, for messages.
    """

    kind = "id"

    def __init__(self, place: Path, names: Iterable[str]):
        self.place = place
        self._names = {name: clean(name) for name in names}
        self._by_clean = {key: name for name, key in self._names.items()}
        self._by_stem: dict[str, str] | None = None

    def find(self, names: Sequence[str], table: Path) -> dict[str, str]:
        """The image ids that names mean.

        Args:
          names: distinct, as they stand in a table.
          table: the file that they stand in.

        Returns:
          name -> image id; of an image that is not there, the name itself
          without blanks around it.

        Raises:
          ValueError: for a name that may mean several images, or none.
        """
        del table
        return {
            name: self._by_clean.get(clean(name), clean(name)) for name in names
        }

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        """Those that are not there."""
        return [name for name in image_ids if name not in self._names]

    def num_others(self, image_ids: Sequence[str]) -> int:
        """The number of images beside these distinct ones."""
        return len(self._names.keys() - set(image_ids))

    def hint(self, image_ids: Sequence[str]) -> str:
        """For messages about missing images: what the first may mean.

        Returns:
          "; for IMG_7.png there is a/img_0007.jpg", if there is.
        """
        if self._by_stem is None:
            self._by_stem = {_stem(name): name for name in self._names}
        for image_id in image_ids:
            name = self._by_stem.get(_stem(image_id))
            if name:
                return f"; for {shown(image_id)} there is {shown(name)}"
        return ""

    def check(self, image_ids: Sequence[str]):
        """Refuses images that are not there.

        Raises:
          ValueError: with the names of some of them.
        """
        missing = sorted(self.missing(image_ids))
        if missing:
            raise ValueError(
                f"{self.place}: {listed(missing)}: no such {self.kind} "
                f"({len(missing)} of {len(image_ids)} images)"
                f"{self.hint(missing)}; --on_bad_image=skip leaves such images "
                "out"
            )


class ImageNames(Names):
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

    kind = "image file"

    def __init__(self, directory: Path):
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: no such directory of images")
        super().__init__(directory, _files(directory))
        # From the strictest reading of a name to the loosest.
        self._by_key: list[dict[str, list[str]]] = []
        for key in (clean, _with_lower_extension, _without_extension):
            found = defaultdict(list)
            for path in self._names:
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
                f"{self.place}, neither absolute nor with ..; got "
                f"{listed(outside)}"
            )
        return {name: self._found(name, table) for name in names}

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        """Those that are not there."""
        return [
            image_id
            for image_id in image_ids
            if image_id not in self._names
            # True of a directory: to read it says what it is.
            and not os.path.exists(self.place / image_id)
        ]

    def num_others(self, image_ids: Sequence[str]) -> int:
        """The number of files, but for those that systems leave, beside them.

        Args:
          image_ids: distinct ones, as `find` returns.
        """
        others = self._names.keys() - set(image_ids)
        return sum(not _left_by_system(path) for path in others)

    def _found(self, name, table):
        if name in self._names:
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
                        f"{listed(sorted(found))} in {self.place}"
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
