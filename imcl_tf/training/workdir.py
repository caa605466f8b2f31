"""What a run finds in its workdir and what it leaves there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import scipy.sparse

from imcl_tf.data import records
from imcl_tf.data.pipeline import MultiLabelDataset
from imcl_tf.files import replacing
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.training.callbacks import LATEST


class Workdir:
    """The directory of one run.

    Args:
      path: made by `start`.

    Attributes:
      path: the directory.
      initial: directory of the initial logistic model's training.
      logistic: file of the initial logistic model.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.initial = self.path / "initial"
        self.logistic = self.path / "checkpoints" / "logistic.keras"

    def finished(self, settings: str) -> dict | None:
        """Returns the results of a finished run of these settings, or None.

        Raises:
          ValueError: if the run here has other settings.
        """
        began = self.path / "flags.cfg"
        if not began.is_file():
            return None
        before, now = began.read_text().splitlines(), settings.splitlines()
        if before != now:
            other = sorted(set(before) ^ set(now))
            raise ValueError(
                f"resume: {began} has other settings: {', '.join(other[:4])}"
            )
        file = self.path / "results.json"
        results = json.loads(file.read_text()) if file.is_file() else {}
        # Else it is that of an earlier run.
        return results if results.get("settings") == now else None

    def start(self, settings: str, data: MultiLabelDataset, resume: bool):
        """Writes what is known before training."""
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        for stage in () if resume else (self.path, self.initial):
            # Left by an earlier run: its curves would be drawn into those of
            # this one, and this one, resumed, would start from its model.
            shutil.rmtree(stage / "tensorboard", ignore_errors=True)
            (stage / "checkpoints" / LATEST).unlink(missing_ok=True)
        names = "".join(f"{name}\n" for name in data.label_names)
        for name, text in (("flags.cfg", settings), ("labels.txt", names)):
            with replacing(self.path / name) as path:
                path.write_text(text)
        with replacing(self.path / "observed_labels.npz") as path:
            scipy.sparse.save_npz(path, data.train.labels)

    def save_logistic(self, logistic: MultiLabelModel):
        """Keeps the initial logistic model."""
        with replacing(self.logistic) as path:
            logistic.save(path)

    def load_logistic(
        self, logistic: MultiLabelModel, label_names: tuple[str, ...]
    ):
        """Loads w and theta of this run's initial logistic model.

        Raises:
          ValueError: if it has other labels or another backbone.
          OSError: if there is none.
        """
        names = (self.path / "labels.txt").read_text().splitlines()
        if names != list(label_names):
            raise ValueError(
                f"init_from: {self.path} has other labels ({len(names)}) than "
                f"the data set ({len(label_names)})"
            )
        try:
            logistic.load_weights(self.logistic)
        except ValueError as error:
            raise ValueError(
                f"init_from: the model of {self.path} has another backbone: "
                f"{error}"
            ) from error

    def drop_checkpoints(self):
        """Removes the checkpoints: of a search's trials they take too much."""
        for directory in (self.path, self.initial):
            shutil.rmtree(directory / "checkpoints", ignore_errors=True)

    def write_results(self, results: dict):
        """Writes results.json: the run is finished."""
        with replacing(self.path / "results.json") as path:
            path.write_text(json.dumps(results, indent=2) + "\n")


def describe(data: MultiLabelDataset) -> dict:
    """What `results.json` says of the data of a run."""
    train = data.train.labels
    return {
        "dataset": data.name,
        "num_labels": data.num_labels,
        "num_train": train.shape[0],
        "observed_labels": int(train.nnz),
        "labels_digest": records.labels_digest(train, data.label_names),
    }
