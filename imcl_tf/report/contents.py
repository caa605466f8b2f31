"""What runs have left in their workdirs, as plain data for a report.

A workdir may come from anyone and from an older version. What it must hold is
results.json with a mAP; what else is missing or damaged is named in `missing`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imcl_tf.data.cells import shown
from imcl_tf.data.kept import parse_json, read_array, read_arrays
from imcl_tf.methods.pictures import END, START, Snapshot, load_snapshot
from imcl_tf.training.predictions import Predictions
from imcl_tf.training.predictions import load as load_predictions
from imcl_tf.training.workdir import (
    EARLIER,
    PREDICTIONS,
    PROVENANCE,
    RESULTS,
)

Row = dict[str, float | None]
# Methods whose scores rank labels: their sigmoid is no probability of presence.
_RANKING = ("wsabie", "fast0tag", "lsep", "cnn_rnn")
# Beyond it nothing is a result; the places of charts would overflow.
_LARGEST = 1e30
_MOST_WARNINGS = 100


class LabelRow(NamedTuple):
    """A row of average_precision.csv.

    Attributes:
      name: of the label.
      ap: in percent, None where the label has none.
      positives: observed ones on test.
      negatives: as well.
    """

    name: str
    ap: float | None
    positives: int
    negatives: int


class Edges(NamedTuple):
    """A label graph, [E] each.

    Attributes:
      into: j, the label that gets weight.
      source: j', the label that it comes from.
      start: a_{j',j} before the method's training, None = not known.
      end: after it.
    """

    into: np.ndarray
    source: np.ndarray
    start: np.ndarray | None
    end: np.ndarray

    def strength(self, num_labels: int) -> np.ndarray:
        """[C] weight at the end between each label and all others."""
        weight = np.where(self.into == self.source, 0, np.abs(self.end))
        ends = np.concatenate([self.into, self.source])
        return np.bincount(ends, np.tile(weight, 2), num_labels)


class Run(NamedTuple):
    """A finished run.

    Attributes:
      path: its workdir.
      results: results.json, an object with a number "mAP".
      provenance: provenance.json, {} without.
      flags: text of flags.cfg, else what results.json says of it.
      settings: flag -> its text, from `flags`.
      label_names: C names.
      metrics: stage, "initial" or "method" -> rows of its metrics.csv.
      penalties: (penalty, validation mAP) that a solved start has tried.
      precisions: average_precision.csv.
      predictions: of the test images, None without.
      similar: "start" and "end" -> `Snapshot`, those that there are.
      graph: the learned label graph, None without.
      train_ids: [N] bytes, names of the training images; [0] without.
      trials: rows of auto/trials.csv, column -> text.
      missing: part -> a sentence that says why it is not there.
    """

    path: Path
    results: dict[str, Any]
    provenance: dict[str, Any]
    flags: str
    settings: dict[str, str]
    label_names: tuple[str, ...]
    metrics: dict[str, list[Row]]
    penalties: list[tuple[float, float]]
    precisions: list[LabelRow]
    predictions: Predictions | None
    similar: dict[str, Snapshot]
    graph: Edges | None
    train_ids: np.ndarray
    trials: list[dict[str, str]]
    missing: dict[str, str]

    @property
    def has_probabilities(self) -> bool:
        """Whether scores are logits of probabilities."""
        return self.results.get("method") not in _RANKING

    @property
    def initial(self) -> dict[str, Any]:
        """Results of the initial logistic model, {} where there are none."""
        found = self.results.get("initial_logistic")
        return found if isinstance(found, dict) else {}

    @property
    def warnings(self) -> list[str]:
        """What casts doubt on its results."""
        found = self.results.get("warnings")
        found = found[:_MOST_WARNINGS] if isinstance(found, list) else []
        return [*map(str, found)]


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The workdirs of finished runs.

    Args:
      places: workdirs, or directories that hold some at any depth. What lies
        within a workdir, such as trials and the start, belongs to its run.

    Returns:
      distinct ones, in the order of `places` and then by name.

    Raises:
      ValueError: if a place holds none, or a damaged results.json.
      OSError: if it cannot be read.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if not place.is_dir():
            raise NotADirectoryError(f"{place}: no such directory")
        paths = [place] if (place / RESULTS).exists() else _below(place)
        if not paths:
            raise ValueError(
                f"{place}: no finished run there: expected {RESULTS}, which "
                "imcl_tf.main leaves in its workdir, or directories with it"
            )
        found |= {path.resolve(): path for path in paths}
    return list(found.values())


def _below(place: Path) -> list[Path]:
    found = []
    for directory, inner, files in os.walk(place):
        inner.sort()
        if RESULTS in files:
            inner.clear()
            # A trial, whose model was never tested, has none.
            if "mAP" in read_object(Path(directory, RESULTS)):
                found.append(Path(directory))
        if EARLIER in inner:
            inner.remove(EARLIER)
    return sorted(found)


def read_results(path: Path) -> dict[str, Any]:
    """results.json of a workdir.

    Raises:
      ValueError: if it is damaged, or of a trial, which has no mAP on test.
      OSError: if there is none.
    """
    results = read_object(path / RESULTS)
    mean = results.get("mAP")
    if not is_number(mean):
        raise ValueError(
            f"{path / RESULTS}: expected a number mAP, the result on test, got "
            f"{shown(repr(mean))}: the run is a trial, or the file is damaged"
        )
    return results


def is_number(value: Any) -> bool:
    """Whether JSON's value is a number, finite and not beyond 1e30."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= _LARGEST
    )


def number_in(value: Any) -> float | None:
    """JSON's value where it is a number, else None."""
    return value if is_number(value) else None


def read_brief(path: Path) -> Run:
    """The results, provenance and flags of a workdir, as if it had no more.

    Raises:
      ValueError: if results.json is damaged or of a trial.
      OSError: if there is none.
    """
    results = read_results(path)
    part = _Parts(path)
    flags = part("flags", "flags.cfg", _text, "")
    if not flags and isinstance(results.get("settings"), list):
        flags = "".join(f"{line}\n" for line in results["settings"])
    provenance = part("provenance", PROVENANCE, read_object, {})
    return Run(
        path, results, provenance, flags, _settings(flags), (),
        {"initial": [], "method": []}, [], [], None, {}, None,
        np.zeros(0, bytes), [], part.missing,
    )  # fmt: skip


def read_run(path: Path) -> Run:
    """Reads a workdir.

    Raises:
      ValueError: if results.json is damaged or of a trial.
      OSError: if there is none.
    """
    brief = read_brief(path)
    part = _Parts(path)
    names = part("labels", "labels.txt", _lines, ())
    num_labels = len(names)
    similar = {}
    for name, file in (("start", START), ("end", END)):
        snapshot = part(
            name, f"tensorboard/similarities/{file}",
            lambda place: _snapshot(place, num_labels), None,
        )  # fmt: skip
        if snapshot is not None:
            similar[name] = snapshot
    return brief._replace(
        label_names=names,
        metrics={
            "initial": part("initial", "initial/metrics.csv", _metrics, []),
            "method": part("metrics", "metrics.csv", _metrics, []),
        },
        penalties=part("penalties", "initial/penalties.csv", _penalties, []),
        precisions=part(
            "precisions", "average_precision.csv",
            lambda place: _precisions(place, names), [],
        ),
        predictions=part(
            "predictions", PREDICTIONS,
            lambda place: _predictions(
                place, num_labels, brief.results["mAP"]
            ), None,
        ),
        similar=similar,
        graph=part(
            "graph", "label_graph.npz",
            lambda place: _graph(place, names, similar), None,
        ),
        train_ids=part(
            "train_ids", "train_images.npy", _ids, np.zeros(0, bytes)
        ),
        trials=part("trials", "auto/trials.csv", _rows, []),
        missing=brief.missing | part.missing,
    )  # fmt: skip


class _Parts:
    """Reads the files of a workdir, and notes which there are not.

    Args:
      path: the workdir.

    Attributes:
      missing: part -> a sentence that says why it is not there.
    """

    def __init__(self, path: Path):
        self._path = path
        self.missing: dict[str, str] = {}

    def __call__(
        self, name: str, file: str, read: Callable[[Path], Any], without: Any
    ) -> Any:
        """A part, or `without` where its file is missing or damaged."""
        try:
            return read(self._path / file)
        except FileNotFoundError:
            self.missing[name] = f"The workdir holds no {file}."
        except (ValueError, OSError, KeyError, TypeError) as error:
            reason = shown(" ".join(str(error).split()))
            self.missing[name] = f"{file} cannot be read: {reason}"
        return without


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of a run.

    Raises:
      ValueError: if it is damaged, or no object.
      OSError: if it cannot be read.
    """
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is damaged: expected a JSON object, got "
            f"{shown(repr(found))}"
        )
    return found


def _text(path: Path) -> str:
    return path.read_text("utf-8")


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(_text(path).splitlines())


def _settings(flags: str) -> dict[str, str]:
    """Flag -> text of a flag file; of a truth value "true" or "false"."""
    found = {}
    for line in flags.splitlines():
        name, equals, text = line.strip().lstrip("-").partition("=")
        if equals:
            found[name] = text
        elif name.startswith("no"):
            found[name[2:]] = "false"
        elif name:
            found[name] = "true"
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        try:
            header, *rows = csv.reader(file, strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from error
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} fields where {len(header)} are named")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _metrics(path: Path) -> list[Row]:
    """Rows with "validation" 1 or 0 in the place of the split's name."""
    found = []
    for row in _rows(path):
        is_validation = float(row.pop("split") == "validation")
        numbers: Row = {name: _number(text) for name, text in row.items()}
        if numbers["epoch"] is None:
            raise ValueError("a row without epoch")
        found.append(numbers | {"validation": is_validation})
    return found


def _penalties(path: Path) -> list[tuple[float, float]]:
    found = [
        (float(row["penalty"]), float(row["validation_mAP"]))
        for row in _rows(path)
    ]
    # In the order of trying; 0 has no place on an axis of powers.
    return sorted(
        (penalty, mean)
        for penalty, mean in found
        if 1 / _LARGEST <= penalty <= _LARGEST and is_number(mean)
    )


def _number(text: str) -> float | None:
    return number_in(float(text)) if text else None


def _precisions(path: Path, names: tuple[str, ...]) -> list[LabelRow]:
    found = [
        LabelRow(
            row["label"], _number(row["AP"]), int(row["positives"]),
            int(row["negatives"]),
        )
        for row in _rows(path)
    ]  # fmt: skip
    if [row.name for row in found] != list(names):
        raise ValueError("its labels are not those of labels.txt")
    return found


def _predictions(path: Path, num_labels: int, mean: float) -> Predictions:
    found = load_predictions(path, mean)
    number, columns = found.labels.shape
    if columns != num_labels:
        raise ValueError(f"{columns} labels, {num_labels} in labels.txt")
    if found.top.ndim != 2 or len(found.top) != number:
        raise ValueError(f"{found.top.shape} likeliest labels")
    _check_range(found.top, 0, num_labels)
    if len(found.image_ids) not in (0, number):
        raise ValueError(f"{len(found.image_ids)} names of {number} images")
    if not np.isfinite(found.scores.astype(float)).all():
        raise ValueError("a score is not finite")
    return found._replace(image_ids=_checked_ids(found.image_ids))


def _snapshot(path: Path, num_labels: int) -> Snapshot:
    found = load_snapshot(path)
    _check_edges(found.edges, found.edge_weights, num_labels)
    _check_range(found.image_index, 0, np.iinfo(np.int32).max)
    _check_range(found.neighbors, -1, np.iinfo(np.int32).max)
    shapes = {
        array.shape for array in found[3:] if array.ndim == 2
    }  # of neighbours and both weights
    if len(shapes) != 1 or shapes.pop()[0] != len(found.image_index):
        raise ValueError("its arrays do not fit each other")
    return found


def _graph(path: Path, names: tuple[str, ...], similar) -> Edges:
    kept = read_arrays(path, "edges", "weights", "labels")
    if kept["labels"].tolist() != list(names):
        raise ValueError("its labels are not those of labels.txt")
    edges, weights = kept["edges"], kept["weights"]
    _check_edges(edges, weights, len(names))
    start = similar.get("start")
    before = None
    if start is not None and np.array_equal(start.edges, edges):
        before = start.edge_weights
    return Edges(edges[:, 0], edges[:, 1], before, weights)


def _check_edges(edges: np.ndarray, weights: np.ndarray, num_labels: int):
    if edges.shape != (*weights.shape, 2) or weights.dtype.kind != "f":
        raise ValueError(f"edges {edges.shape}, weights {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError("weights must be finite")
    _check_range(edges, 0, num_labels)


def _check_range(numbers: np.ndarray, low: int, high: int):
    if numbers.dtype.kind not in "iu" or (
        numbers.size and not low <= numbers.min() <= numbers.max() < high
    ):
        raise ValueError(f"expected whole numbers in [{low}, {high})")


def _ids(path: Path) -> np.ndarray:
    return _checked_ids(read_array(path))


def _checked_ids(ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind != "S" or ids.ndim != 1:
        raise ValueError(f"expected names of images, got {ids.dtype}")
    return ids
