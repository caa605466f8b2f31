"""What a run finds in its workdir and what it leaves there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from absl import logging

from imcl_tf.data import records
from imcl_tf.data.cells import listed
from imcl_tf.data.kept import parse_json, read_array, read_arrays
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.files import locked, remove_unfinished, replacing
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.metrics import Support
from imcl_tf.settings import EXPORTED
from imcl_tf.training.checkpoints import BEST, LATEST, PREVIOUS, is_whole
from imcl_tf.training.identity import ELSE, Identity, check_same, is_fewer

# Of trials: scores of the observed validation labels, in their order.
VALIDATION_SCORES = "validation_scores.npy"
RESULTS, _IDENTITY, _FLAGS = "results.json", "run.json", "flags.cfg"
_LABELS, _IMAGES = "observed_labels.npz", "train_images.npy"
# What the test images were said to show, see `predictions`; how it was made.
PREDICTIONS, PROVENANCE = "test_predictions.npz", "provenance.json"
REPORT = "report.html"  # of `imcl_tf.report`
EARLIER, _CHECKPOINTS = "earlier", "checkpoints"
# What runs write. Without run.json no run has left it.
_WRITTEN = (
    "metrics.csv", VALIDATION_SCORES, _LABELS, _IMAGES,
    "average_precision.csv", _FLAGS, "label_graph.npz", "labels.txt",
    PREDICTIONS, PROVENANCE, _CHECKPOINTS, "initial", "saved_model",
    "tensorboard", "skipped_minibatches.csv", *EXPORTED.values(), REPORT,
    RESULTS,
)  # fmt: skip


class WorkdirInUseError(ValueError):
    """Another program trains in a workdir."""


class Workdir:
    """The directory of one run.

    Args:
      path: made by `start`.

    Attributes:
      path: the directory.
      initial: directory of the initial logistic model's training.
      logistic: file of the initial logistic model.
      user: what stored features note of who uses them, after `start`.
    """

    user: dict[str, str]

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.initial = self.path / "initial"
        self.logistic = self.path / _CHECKPOINTS / "logistic.keras"

    def check_writable(self, num_bytes: int = 0):
        """Checks that a run can be written here; writes nothing.

        Args:
          num_bytes: that must be free on the disk.

        Raises:
          OSError: if not.
          ValueError: if it would write over what no run has written.
        """
        place = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not place.is_dir():
            raise NotADirectoryError(f"workdir: {place} is no directory")
        if not os.access(place, os.W_OK):
            raise PermissionError(f"workdir: {place} cannot be written to")
        free = shutil.disk_usage(place).free
        if free < num_bytes:
            raise OSError(
                f"workdir: {place} has {free >> 20} MB free, the checkpoints "
                f"need {num_bytes >> 20} MB"
            )
        if not (self.path / _IDENTITY).exists():
            others = [n for n in _WRITTEN if _is_there(self.path / n)]
            if others:
                raise ValueError(
                    f"workdir: {self.path} holds {', '.join(others[:5])} but "
                    f"no {_IDENTITY}: no run has written that; take another "
                    "workdir"
                )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs out of this directory, and makes it.

        Raises:
          WorkdirInUseError: if another program trains here.
        """
        place = self.path / _CHECKPOINTS
        place.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                is_locked = stack.enter_context(locked(place, wait=False))
            except BlockingIOError as error:
                raise WorkdirInUseError(
                    f"workdir: another program is training in {self.path}"
                ) from error
            if is_locked:
                # They may be as large as checkpoints.
                for parent in (self.path, self.initial):
                    for directory in (parent, parent / _CHECKPOINTS):
                        remove_unfinished(directory)
            yield

    def finished(self, identity: Identity, tuning: bool = False) -> dict | None:
        """Returns the results of a finished run that is the same, or None.

        A run that differs in having fewer epochs is the same, and unfinished.

        Args:
          identity: of the run.
          tuning: results without those on test are enough.

        Raises:
          ValueError: if the run here is another one.
        """
        before = self._begun()
        if before is None:
            return None
        check_same(Identity(**before["identity"]), identity, self.path)
        if is_fewer(Identity(**before["identity"]), identity):
            logging.warning(
                "resume: %s was of %d epochs and trains on to %d", self.path,
                before["identity"]["settings"]["epochs"],
                identity.settings["epochs"],
            )  # fmt: skip
            return None
        results = self._results()
        return results if tuning and results or "mAP" in results else None

    def lacking(self, formats: Sequence[str]) -> list[str]:
        """What is not here of formats of the option `export`, by file."""
        names = [EXPORTED[name] for name in formats]
        return [name for name in names if not (self.path / name).exists()]

    def settings(self) -> dict[str, Any]:
        """The settings of the run here, none if no run has begun.

        Raises:
          ValueError: if they cannot be read.
        """
        before = self._begun()
        return before["identity"]["settings"] if before else {}

    @property
    def unit_norm(self) -> bool:
        """Whether the initial logistic model has features of unit norm.

        Raises:
          ValueError: if it cannot be read.
          OSError: if there is none.
        """
        self._check_logistic()
        try:
            with zipfile.ZipFile(self.logistic) as archive:
                config = parse_json(archive.read("config.json"))
            return bool(config["config"]["unit_norm"])
        except (
            zipfile.BadZipFile,
            zlib.error,
            LookupError,
            ValueError,
        ) as error:
            raise ValueError(
                f"init_from: {self.logistic} is damaged: {error}"
            ) from error

    @property
    def warnings(self) -> list[str]:
        """The warnings in the results of the run here, none without results.

        Raises:
          ValueError: if they cannot be read.
        """
        try:
            found = self._results().get("warnings", [])
            if not isinstance(found, list) or {*map(type, found)} - {str}:
                raise ValueError("warnings must be a list of sentences")
        except ValueError as error:
            raise ValueError(
                f"init_from: {self.path / RESULTS} is damaged"
            ) from error
        return found

    def _results(self) -> dict:
        file = self.path / RESULTS
        if not file.is_file():
            return {}
        try:
            results = parse_json(file.read_bytes())
            if not isinstance(results, dict):
                raise TypeError
            if "mAP" in results:  # what the program says at its end
                both = results, results["initial_logistic"]
                if not all(isinstance(one["mAP"], float) for one in both):
                    raise TypeError
                Support(**results["mAP_support"])
                results["method"]
            return results
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"resume: {file} is damaged; {ELSE}") from error

    def _begun(self) -> dict | None:
        file = self.path / _IDENTITY
        if not file.is_file():
            latest = self.path / _CHECKPOINTS / LATEST
            if latest.exists() or (self.path / RESULTS).exists():
                raise ValueError(f"resume: {file} is missing; {ELSE}")
            return None
        try:
            before = parse_json(file.read_bytes())
            parts = Identity(**before["identity"])
            if not all(isinstance(part, dict) for part in parts):
                raise TypeError
            if not isinstance(before["run"], str):
                raise TypeError
            return before
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"resume: {file} is damaged; {ELSE}") from error

    def start(
        self,
        identity: Identity,
        settings: str,
        data: MultiLabelDataset,
        resume: bool,
    ) -> bool:
        """Writes what is known before training; within `alone`.

        Args:
          identity: of the run.
          settings: text of flags.cfg.
          data: with the labels that are observed.
          resume: keep what the run has left so far.

        Returns:
          whether there is something that is kept.
        """
        before = self._begun() if resume else None
        # Results of fewer epochs, and all that an earlier run left, would from
        # here on pass for this one's.
        others = _WRITTEN
        if before:
            was_fewer = is_fewer(Identity(**before["identity"]), identity)
            exported = EXPORTED.values() if was_fewer else ()
            others = (*exported, REPORT, RESULTS)
        self._set_aside(others)
        names = "".join(f"{name}\n" for name in data.label_names)
        number = before["run"] if before else uuid.uuid4().hex
        run = {"run": number, "identity": identity._asdict()}
        for name, text in (
            # First: it says that the others are a run's.
            (_IDENTITY, json.dumps(run, indent=2) + "\n"),
            (_FLAGS, settings),
            ("labels.txt", names),
        ):
            with replacing(self.path / name) as path:
                path.write_text(text, "utf-8")
        with replacing(self.path / _LABELS) as path:
            scipy.sparse.save_npz(path, data.train.labels)
        with replacing(self.path / _IMAGES) as path:
            np.save(path, data.train.image_ids)
        self.user = {"workdir": str(self.path.absolute()), "run": number}
        return before is not None

    def set_aside(self):
        """Moves what a finished run left, if there was one, to EARLIER."""
        if (self.path / RESULTS).exists():
            self._set_aside(_WRITTEN)

    def _set_aside(self, names: Sequence[str]):
        """Moves what a finished run left to EARLIER, removes it of another.

        Args:
          names: files and directories, results.json last: should this program
            be killed, the next one continues.
        """
        place = self.path / EARLIER
        if (self.path / RESULTS).exists():
            if (place / RESULTS).exists():
                shutil.rmtree(place)
            (place / _CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path / _IDENTITY, place / _IDENTITY)
            for path in self._left(names):
                os.replace(path, place / path.relative_to(self.path))
        for path in self._left(names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _left(self, names: Sequence[str]) -> list[Path]:
        """What there is of `names`; of checkpoints, which is locked, parts."""
        paths = [self.path / name for name in names if name != _CHECKPOINTS]
        if _CHECKPOINTS in names:
            paths = [*(self.path / _CHECKPOINTS).iterdir(), *paths]
        return [path for path in paths if path.exists()]

    def save_logistic(
        self, logistic: MultiLabelModel, start: Workdir | None = None
    ):
        """Keeps the initial logistic model, and which labels it has seen.

        Args:
          logistic: the model.
          start: the workdir that it comes from, None = it was trained here.
        """
        if is_whole(self.logistic):
            return  # resumed: runs that start from it know its digest
        seen = start.logistic.parent if start else self.path
        for name in (_LABELS, _IMAGES):
            with replacing(self.logistic.with_name(name)) as path:
                shutil.copyfile(seen / name, path)
        with replacing(self.logistic) as path:
            logistic.save(path)

    def load_logistic(self, logistic: MultiLabelModel, data: MultiLabelDataset):
        """Loads w and theta of this run's initial logistic model.

        Args:
          logistic: gets them.
          data: what it is to be trained or evaluated on from now on.

        Raises:
          ValueError: if it has other labels or another backbone, or has seen
            what `data` hide or evaluate on.
          OSError: if there is none.
        """
        self._check_logistic()
        label_names = data.label_names
        names = (self.path / "labels.txt").read_text("utf-8").splitlines()
        if names != list(label_names):
            raise ValueError(
                f"init_from: {self.path} has other labels ({len(names)}) than "
                f"the data set ({len(label_names)})"
            )
        self._check_seen(data)
        try:
            logistic.load_weights(self.logistic)
        except ValueError as error:
            raise ValueError(
                f"init_from: the model of {self.path} has another backbone: "
                f"{error}"
            ) from error

    def _check_logistic(self):
        if not self.logistic.is_file():
            raise FileNotFoundError(
                f"init_from: {self.path} holds no initial logistic model "
                f"({self.logistic})"
            )

    def _check_seen(self, data: MultiLabelDataset):
        """Checks that the model was trained on nothing `data` hold back."""
        try:
            ids = read_array(self.logistic.with_name(_IMAGES))
            seen = _read_sparse(self.logistic.with_name(_LABELS))
            if ids.dtype.kind != "S" or seen.shape != (
                len(ids),
                len(data.label_names),
            ):
                raise ValueError(f"{len(ids)} images, labels {seen.shape}")
        except ValueError as error:
            raise ValueError(
                f"init_from: {self.path}: which labels it was trained on "
                f"cannot be read: {error}"
            ) from error
        for split in data.splits.values():
            if len(split.image_ids) != split.labels.shape[0]:
                raise ValueError(
                    "init_from: the data do not name their images (image_ids), "
                    f"so what {self.path} has seen cannot be compared"
                )
        trained_on = ids[np.diff(seen.indptr) > 0]
        for name in ("validation", "test"):
            split = data.splits[name]
            held_back = split.image_ids[np.diff(split.labels.indptr) > 0]
            both = np.intersect1d(trained_on, held_back)
            if both.size:
                raise ValueError(
                    f"init_from: {self.path} was trained on {both.size} images "
                    f"of split {name}: "
                    f"{listed([name.decode() for name in both.tolist()])}"
                )
        rows, columns = _hidden(seen, ids, data.train)
        if rows.size:
            pairs = [
                f"{data.train.image_ids[i].decode()} {data.label_names[j]!r}"
                for i, j in zip(rows[:5], columns[:5], strict=True)
            ]
            raise ValueError(
                f"init_from: {self.path} was trained on {rows.size} labels "
                f"that this run does not have: {', '.join(pairs)}"
            )

    def drop_checkpoints(self, keep_logistic: bool = False):
        """Removes the checkpoints: of a search's trials they take too much.

        Args:
          keep_logistic: keep those that other runs can start from.
        """
        shutil.rmtree(self.initial / _CHECKPOINTS, ignore_errors=True)
        if not keep_logistic:
            shutil.rmtree(self.path / _CHECKPOINTS, ignore_errors=True)
        for name in (LATEST, PREVIOUS, BEST):
            (self.path / _CHECKPOINTS / name).unlink(missing_ok=True)

    def restate(self, results: dict, settings: str):
        """Writes anew what a finished run says of its settings."""
        with self.alone():
            (self.path / REPORT).unlink(missing_ok=True)
            with replacing(self.path / _FLAGS) as path:
                path.write_text(settings, "utf-8")
            self.write_results(results)

    def write_results(self, results: dict, provenance: dict | None = None):
        """Writes results.json: the run is finished.

        Args:
          results: what depends on settings and data alone.
          provenance: what may differ when the run is repeated; None = as it is.
        """
        if provenance is not None:
            with replacing(self.path / PROVENANCE) as path:
                path.write_text(json.dumps(provenance, indent=2) + "\n")
        with replacing(self.path / RESULTS) as path:
            path.write_text(json.dumps(results, indent=2) + "\n")
        shutil.rmtree(self.path / EARLIER, ignore_errors=True)


def _is_there(path: Path) -> bool:
    """Whether there is such a file, or a directory that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _read_sparse(path: Path) -> scipy.sparse.csr_array:
    """What `scipy.sparse.save_npz` wrote of a csr_array, checked."""
    try:
        found = read_arrays(path, "data", "indices", "indptr", "shape")
        parts = found["data"], found["indices"], found["indptr"]
        sparse = scipy.sparse.csr_array(parts, tuple(found["shape"].tolist()))
        sparse.check_format()
        return sparse
    except TypeError as error:
        raise ValueError(str(error)) from error


def _hidden(seen, ids, train) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in `train` of labels `seen` that it does not have."""
    order = np.argsort(ids)
    place = np.searchsorted(ids, train.image_ids, sorter=order)
    place = order[np.minimum(place, len(ids) - 1)]
    rows = np.flatnonzero(ids[place] == train.image_ids)
    before, now = seen[place[rows]], train.labels[rows]
    hidden = before - before.multiply(before.multiply(now) > 0)
    at, columns = hidden.nonzero()
    return rows[at], columns


def describe(data: MultiLabelDataset) -> dict:
    """What `results.json` says of the data of a run."""
    train = data.train.labels
    return {
        "dataset": data.name,
        "num_labels": data.num_labels,
        "num_train": train.shape[0],
        "observed_labels": int(train.nnz),
        "labels_digest": records.labels_digest(train, data.label_names),
        "digests": data.digests(),
    }


def run_number(workdir: str | Path) -> str | None:
    """The number of the run that a workdir holds, None if it holds none."""
    try:
        run = parse_json((Path(workdir) / _IDENTITY).read_bytes())["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run if isinstance(run, str) else None
