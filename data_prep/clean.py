"""Lists what nothing uses any more among prepared records, and removes it.

    python -m data_prep.clean --data_dir=DIR [--remove]

That is: what killed programs left; records of a folder that is gone or holds
other pictures now; records that a newer version replaces; and stored features
whose runs are gone. What another program is using is left alone, and so is
whatever this program does not know.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.CLEAN)

import glob
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds
from absl import flags

from imcl_tf.data.builders import INCOMPLETE, MultiLabelBuilder
from imcl_tf.data.features import ELSEWHERE, USER
from imcl_tf.data.folder import Folder, folder_digest
from imcl_tf.files import OLD, UNFINISHED, fail, locked
from imcl_tf.training.workdir import run_number

FLAGS = flags.FLAGS
# Names of this project's builders, and no one else's.
_SETS = (
    "folder", "imcl_coco", "imcl_cub", "imcl_open_images", "scenes",
    "scenes_small", "tfds_copy",
)  # fmt: skip
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Remains(NamedTuple):
    """Something that nothing uses.

    Attributes:
      path: a file or a directory.
      reason: why.
    """

    path: Path
    reason: str

    def size(self) -> int:
        """Bytes on disk."""
        inner = [self.path, *self.path.rglob("*")]
        return sum(p.lstat().st_size for p in inner if not p.is_dir())


def find(data_dir: Path) -> Iterator[Remains]:
    """Yields what nothing uses below a data directory of TFDS.

    Args:
      data_dir: holds records.

    Raises:
      FileNotFoundError: if there is no such directory.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{data_dir}: no such directory")
    for name in _SETS:
        place = data_dir / name
        configs = (path for path in sorted(place.glob("*")) if path.is_dir())
        for holder in (place, *configs):
            yield from _of_set(holder)
    for features in sorted((data_dir / ELSEWHERE).glob("*-*")):
        yield from _of_features(features)


def _of_set(holder: Path) -> Iterator[Remains]:
    """What nothing uses in a directory of versions of one data set."""
    for path in sorted(holder.glob(f"{INCOMPLETE}*_*")):
        yield Remains(path, "a killed program was preparing it")
    yield from _unfinished(holder)
    versions = [
        path
        for path in sorted(holder.glob("*.*.*"))
        if _VERSION.fullmatch(path.name)
        and (path / "dataset_info.json").is_file()
    ]
    for records in versions:
        reason = _why_unused(records, versions)
        if reason:
            yield Remains(records, reason)
            continue
        yield from _unfinished(records)
        for features in sorted(records.glob("*-*")):
            if features.is_dir():
                yield from _of_features(features)


def _why_unused(records: Path, versions: list[Path]) -> str:
    newest = max(versions, key=_number)
    current = tuple(map(int, str(MultiLabelBuilder.VERSION).split(".")))
    if _number(records) < _number(newest):
        return f"version {newest.name} replaces it"
    if _number(records) < current:
        return f"of version {records.name}, which is no longer read"
    if records.parent.parent.name != Folder.name:
        return ""
    try:
        metadata = json.loads((records / "metadata.json").read_text())
        sources, on_bad_image = metadata["sources"], metadata["on_bad_image"]
    except (OSError, ValueError, KeyError):
        return ""  # unknown
    reasons = [
        _why_stale(source, on_bad_image, records.parent.name)
        for source in sources
    ]
    return "; ".join(reasons) if all(reasons) else ""


def _number(records: Path) -> tuple[int, ...]:
    return tuple(map(int, records.name.split(".")))


def _why_stale(source: str | list[str], on_bad_image: str, digest: str) -> str:
    """Why records no longer are those of a folder, or of it and features."""
    directory, features = source if isinstance(source, list) else (source, "")
    if not Path(directory).is_dir():
        return f"{directory} is gone"
    if features and not (Path(features).exists() or glob.glob(features)):
        return f"{features} is gone"
    try:
        current = folder_digest(directory, on_bad_image, features) == digest
    except (ValueError, OSError):
        return ""  # maybe it is being edited
    what = "features" if features else "pictures"
    return "" if current else f"{directory} holds other {what} or splits now"


def _unfinished(directory: Path) -> Iterator[Remains]:
    for path in sorted(directory.glob(f"{UNFINISHED}*")):
        yield Remains(path, "a killed program was writing it")
    for path in sorted(directory.glob(f"{OLD}*-*")):
        # Else it is all there is of what was being replaced.
        if (directory / path.name.removeprefix(OLD).partition("-")[2]).exists():
            yield Remains(path, "a killed program had replaced it")


def _of_features(features: Path) -> Iterator[Remains]:
    notes = [_read_note(note) for note in features.glob(USER.format("*"))]
    reasons = [_why_unneeded(note) for note in notes]
    if reasons and all(reasons):
        reason = "; ".join(sorted({*reasons}))
        yield Remains(features, f"features, and {reason}")
    else:
        yield from _unfinished(features)


def _read_note(note: Path) -> dict:
    """What `fixed_features` noted of one who uses features."""
    try:
        return {"workdir": None} | json.loads(note.read_text())
    except (OSError, ValueError, TypeError):
        return {"workdir": None}  # unknown


def _why_unneeded(note: dict) -> str:
    workdir = note["workdir"]
    if workdir and run_number(workdir) != note.get("run"):
        return f"{workdir} is gone or holds another run"
    records = note.get("records")
    if records and not Path(records).is_dir():
        return f"{records} is gone"
    return ""


def _in_use(path: Path, stack: ExitStack) -> bool:
    """Whether another program may use `path`; else `stack` keeps it so."""
    info = path / "dataset_info.json"
    places = [place for place in (path.parent, path) if place.is_dir()]
    try:
        for place in (*places, *([info] if info.is_file() else [])):
            if not stack.enter_context(locked(place, wait=False)):
                return True
    except (BlockingIOError, FileNotFoundError):
        return True
    return False


def clean(data_dir: Path, remove: bool) -> None:
    """Prints what nothing uses, and removes it if `remove`."""
    total, number = 0, 0
    for remains in list(find(data_dir)):
        with ExitStack() as stack:
            if _in_use(remains.path, stack):
                print(f"in use     {remains.path}")
                continue
            size = remains.size()
            print(f"{_text(size):>10} {remains.path}: {remains.reason}")
            if remove:
                _remove(remains.path)
        total, number = total + size, number + 1
    what = "removed" if remove else "unused; --remove removes it"
    print(f"{number} places, {_text(total)} {what}")


def _text(size: int) -> str:
    """Bytes, for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _remove(path: Path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        if path.parent.parent.name == Folder.name and not any(
            path.parent.iterdir()
        ):
            path.parent.rmdir()
    else:
        path.unlink()


def main(argv: list[str]):
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        place = Path(FLAGS.data_dir or tfds.core.constants.DATA_DIR)
        clean(place.expanduser(), FLAGS.remove)
    except (ValueError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    program.run(main, ARGUMENTS, "the same command continues")
