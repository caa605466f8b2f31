"""`--method=auto`: tries methods and settings, takes what validation proves.

On fixed features a trial takes seconds. Each is a run of its own, in
WORKDIR/auto, that starts from one logistic model. A trial is chosen over a
simpler one only if its validation mAP is higher by more than the standard error
of the difference, so that where nothing helps the logistic model is the choice.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import keras
import numpy as np

from imcl_tf.data.pipeline import MultiLabelDataset
from imcl_tf.files import replacing, write_csv
from imcl_tf.ops.jackknife import difference, mean_precisions
from imcl_tf.settings import AUTO, BUDGET
from imcl_tf.training.progress import report
from imcl_tf.training.run import VALIDATION_SCORES, run

# Of every trial that trains. Small steps of equal size: features of unit norm
# have small gradients.
_TRAINING = {
    "optimizer": "adamw", "learning_rate": 0.03, "momentum": 0.9,
    "weight_decay": 0.0, "epochs": 6, "batch_size": 32,
    "rate_schedule": "plateau", "ema": False, "clip_norm": 0.0,
}  # fmt: skip
_IMCL: dict[str, Any] = {
    "method": "imcl", "loss_scale": "common", "reconstruction": "linear",
    "positive_ratio": 1.0, "label_graph": "identity", "lambda_y": 1.0,
    "lambda_f": 0.5, "num_neighbors": 5, "graph_learning_rate": 0.003,
}  # fmt: skip
# What to vary of IMCL, one after the other, from the best so far.
_VARIATIONS: tuple[dict[str, Any], ...] = (
    {"learning_rate": 0.1},
    {"label_graph": "cooccurrence", "graph_self_weight": 0.5},
    {"lambda_y": 0.2},
    {"lambda_y": 5.0},
    {"num_neighbors": 10},
    {"lambda_f": 5.0},
)
_OTHERS = (
    "curriculum", "large_loss", "weak_assume_negative", "splc", "fast0tag",
)  # fmt: skip


class Trial(NamedTuple):
    """A setting that was tried.

    Attributes:
      name: of its directory.
      settings: option -> value, "method" among them.
      means: [1 + G] of `mean_precisions`, on validation.
      seconds: that it took.
      gain: validation mAP in points above the best before it.
      error: the gain's standard error.
      is_chosen: whether it was taken in place of that.
    """

    name: str
    settings: dict[str, Any]
    means: np.ndarray
    seconds: float
    gain: float = 0.0
    error: float = 0.0
    is_chosen: bool = True

    @property
    def mean(self) -> float:
        """Validation mAP in percent."""
        return 100 * float(self.means[0])


class Search:
    """The trials of a workdir, and the best of them so far.

    Args:
      data: training and validation data.
      train: settings, directory -> results of a run.
      directory: gets `trials.csv` and a directory for each trial.
      seconds: budget of all trials.
    """

    def __init__(
        self,
        data: MultiLabelDataset,
        train: Callable[[dict, Path], dict],
        directory: Path,
        seconds: float,
    ):
        self._labels = data.validation.labels.sorted_indices()
        self._train, self._directory = train, directory
        self._seconds = seconds
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self._progress = keras.utils.Progbar(
            max(1, round(seconds)), unit_name="second", stateful_metrics=["mAP"]
        )

    @property
    def spent(self) -> float:
        """Seconds that trials have taken, those of an earlier start too."""
        return sum(trial.seconds for trial in self.trials)

    def has_time_for(self, kind: str) -> bool:
        """Whether another trial of a method ends within the budget."""
        like = [t.seconds for t in self.trials if t.settings["method"] == kind]
        like = like or [t.seconds for t in self.trials[1:]] or [0.0]
        return self.spent + max(like) <= self._seconds

    def attempt(self, name: str, settings: dict[str, Any]) -> Trial:
        """Runs a trial and takes it as the best if it is proved better."""
        place = self._directory / name
        begun = time.monotonic()
        self._train(settings, place)
        seconds = time.monotonic() - begun
        noted = place / "seconds.json"
        if noted.is_file():  # by the start before
            seconds = float(json.loads(noted.read_text()))
        with replacing(noted) as path:
            path.write_text(json.dumps(seconds))
        scores = np.load(place / VALIDATION_SCORES)
        trial = Trial(
            name, settings, mean_precisions(self._labels, scores), seconds
        )
        if self.best is not None:
            gain, error = difference(trial.means, self.best.means)
            trial = trial._replace(
                gain=100 * gain, error=100 * error, is_chosen=gain > error
            )
        if trial.is_chosen:
            self.best = trial
        self.trials.append(trial)
        self._write()
        return trial

    def _write(self):
        header = (
            "trial", "validation_mAP", "gain", "standard_error", "chosen",
            "seconds", "settings",
        )  # fmt: skip
        rows = [
            (
                t.name, f"{t.mean:.4f}", f"{t.gain:.4f}", f"{t.error:.4f}",
                int(t.is_chosen), f"{t.seconds:.1f}", json.dumps(t.settings),
            )
            for t in self.trials
        ]  # fmt: skip
        write_csv(self._directory / "trials.csv", header, rows)
        best = self.best.mean if self.best else 0.0
        self._progress.update(
            min(round(self.spent), self._progress.target), [("mAP", best)]
        )


def auto(
    data: MultiLabelDataset,
    backbone: keras.Model | None,
    workdir: str | Path,
    *,
    budget: float = cast(float, BUDGET.default),
    resume: bool = False,
    settings: str = "",
    **options,
) -> dict:
    """Chooses method and settings by validation, then runs them.

    The network is fitted as `regime` says, once, for the logistic model that
    all trials start from; they see its features.

    Args:
      data: of `load_dataset`.
      backbone: see `imcl_tf.run`.
      workdir: gets the files of the chosen run, and `auto/` with the trials.
      budget: minutes for the trials, the first of which, the logistic model and
        its neighbours, run in any case.
      resume: see `imcl_tf.run`; finished trials are not run again.
      settings: see there.
      **options: of `imcl_tf.run`; those that are tried are replaced.

    Returns:
      what results.json holds: of the chosen run, and "chosen".

    Raises:
      ValueError: see `imcl_tf.run`.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> backbone = imcl_tf.backbone("small_cnn", image_size=32)
      >>> results = imcl_tf.auto(
      ...     data, backbone, "runs/auto", budget=0, initial_epochs=1)
      >>> results["chosen"]["trials"][0]["name"]
      'logistic'
    """
    place = Path(workdir) / AUTO
    if not resume and (place / "trials.csv").is_file():
        shutil.rmtree(place)  # those of an earlier start
    seed = options.get("seed", 0)

    def train(trial, directory, **more):
        keras.utils.set_random_seed(seed)
        whole = options | trial
        method = whole.pop("method")
        return run(data, backbone, method, directory, **whole, **more)

    start = _start(train, place, options)
    fixed = {"regime": "fixed_features", "init_from": str(start)} | _TRAINING
    search = Search(
        data,
        lambda trial, directory: train(
            fixed | trial, directory, resume=True, tuning=True
        ),
        place,
        60 * budget,
    )
    for name, trial in _proposals(search):
        search.attempt(name, trial)
    chosen = explained(search.trials)
    report(chosen["why"])
    return train(
        fixed | chosen["settings"], Path(workdir), resume=resume,
        settings=settings, chosen=chosen,
    )  # fmt: skip


def _start(train, place: Path, options) -> Path:
    """Workdir of the logistic model that all trials start from."""
    plain = {"method": "logistic", "epochs": 0, "neighbors": "none"}
    start = place / "start"
    how = {"resume": True, "tuning": True, "keep_logistic": True}
    train(plain, start, **how)
    if options.get("regime") == "fixed_features":
        return start
    # The head is one of the features of a network that is trained: solved
    # once, not in each trial.
    fixed = {"regime": "fixed_features", "init_from": str(start)}
    train(plain | fixed, place / "solved", **how)
    return place / "solved"


def _proposals(search: Search) -> Iterator[tuple[str, dict[str, Any]]]:
    """What to try next, from the simplest on, as long as there is time."""
    yield "logistic", {"method": "logistic"}
    yield "neighbors", {"method": "logistic", "neighbors": "chosen"}
    # What neighbours are worth to the logistic model they are to others.
    near = {}
    if search.trials[-1].is_chosen:
        near = {"neighbors": "chosen"}
    best = _IMCL | near
    if search.has_time_for("imcl"):
        yield "imcl", best
        mean = search.trials[-1].mean
        for number, change in enumerate(_VARIATIONS, 1):
            if not search.has_time_for("imcl"):
                break
            yield f"imcl-{number}", best | change
            if search.trials[-1].mean > mean:
                best, mean = best | change, search.trials[-1].mean
    for method in _OTHERS:
        if search.has_time_for(method):
            yield method, {"method": method} | near


def explained(trials: list[Trial]) -> dict[str, Any]:
    """What results.json says of the choice.

    Args:
      trials: in the order of trying, one of them chosen at least.

    Returns:
      "settings" of the choice, "why", a paragraph, and "trials".
    """
    first, best = trials[0], [t for t in trials if t.is_chosen][-1]
    text = f"auto tried {len(trials)} settings and chose {_words(best)}: "
    if best is first:
        text += f"validation mAP {best.mean:.2f}, and no other setting was "
        text += "better by more than the standard error of the difference. "
    else:
        text += f"validation mAP {best.mean:.2f}, {first.mean:.2f} for "
        text += f"logistic regression; {best.gain:.2f} ± {best.error:.2f} "
        text += "above the best before it. "
    others = sorted(trials, key=lambda t: -t.mean)
    next_best = next((t for t in others if t is not best), None)
    if next_best is not None:
        text += f"The best of the others is {_words(next_best)}, "
        text += f"{next_best.mean:.2f}."
    return {
        "settings": best.settings,
        "why": text.strip(),
        "trials": [
            {
                "name": t.name, "settings": t.settings,
                "validation_mAP": t.mean, "gain": t.gain,
                "standard_error": t.error, "seconds": t.seconds,
            }
            for t in trials
        ],
    }  # fmt: skip


def _words(trial: Trial) -> str:
    """A trial's settings in a line."""
    method, *rest = (f"{x}={y}" for x, y in trial.settings.items())
    name = method.removeprefix("method=")
    return f"{name} ({', '.join(rest)})" if rest else name
