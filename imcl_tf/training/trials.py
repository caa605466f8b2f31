"""Trials of `--method=auto`: each a run, compared with the best before it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.sparse

from imcl_tf.files import replacing, write_csv
from imcl_tf.ops.jackknife import difference, mean_precisions
from imcl_tf.training.workdir import VALIDATION_SCORES


class Part(NamedTuple):
    """Data on which every trial is trained and evaluated.

    Attributes:
      name: of a directory in those of the trials; "" = these themselves.
      labels: [N, C] int8 csr_array, validation labels.
      train: settings, directory -> results of a run.
    """

    name: str
    labels: scipy.sparse.csr_array
    train: Callable[[dict[str, Any], Path], dict[str, Any]]


class Trial(NamedTuple):
    """A setting that was tried.

    Attributes:
      name: of its directory.
      settings: option -> value, "method" among them.
      means: [1 + G] of `mean_precisions`, on validation.
      seconds: that it took.
      results: of its run on each part.
      gain: validation mAP in points above the best before it.
      error: the gain's standard error.
      is_chosen: whether it was taken in place of that.
    """

    name: str
    settings: dict[str, Any]
    means: np.ndarray
    seconds: float
    results: list[dict[str, Any]]
    gain: float = 0.0
    error: float = 0.0
    is_chosen: bool = True

    @property
    def mean(self) -> float:
        """Validation mAP in percent."""
        return 100 * float(self.means[0])


def timed(place: Path, work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and the seconds that it took.

    Args:
      place: gets `seconds.json`; where work ended before, by an earlier start
        of the program, it says how long that took.
      work: makes `place`.
    """
    begun = time.monotonic()
    result = work()
    seconds = time.monotonic() - begun
    noted = place / "seconds.json"
    if noted.is_file():
        seconds = float(json.loads(noted.read_text()))
    with replacing(noted) as path:
        path.write_text(json.dumps(seconds))
    return result, seconds


class Trials:
    """The trials of a workdir, and the best of them so far.

    Args:
      parts: of the data; scores of all their validation labels together are
        compared.
      directory: gets `trials.csv` and a directory for each trial.
      seconds: budget of all trials.
    """

    def __init__(self, parts: list[Part], directory: Path, seconds: float):
        self._parts, self._directory = parts, directory
        labels = scipy.sparse.vstack([part.labels for part in parts], "csr")
        self._labels = labels.sorted_indices()
        self._seconds = seconds
        self.done: list[Trial] = []
        self.best: Trial | None = None
        self._progress = keras.utils.Progbar(
            max(1, round(seconds)), unit_name="second", stateful_metrics=["mAP"]
        )

    @property
    def spent(self) -> float:
        """Seconds that trials have taken, those of an earlier start too."""
        return sum(trial.seconds for trial in self.done)

    def has_time_for(self, kind: str, at_least: float = 0.0) -> bool:
        """Whether another trial of a method ends within the budget.

        Args:
          kind: the method.
          at_least: seconds that the trial takes.
        """
        like = [t.seconds for t in self.done if t.settings["method"] == kind]
        like = like or [t.seconds for t in self.done[1:]]
        return self.spent + max([*like, at_least]) <= self._seconds

    def attempt(self, name: str, settings: dict[str, Any]) -> Trial:
        """Runs a trial and takes it as the best if it is proved better."""
        place = self._directory / name
        places = [place / part.name for part in self._parts]
        results, seconds = timed(
            place,
            lambda: [
                part.train(settings, path)
                for part, path in zip(self._parts, places, strict=True)
            ],
        )
        scores = [np.load(path / VALIDATION_SCORES) for path in places]
        means = mean_precisions(self._labels, np.concatenate(scores))
        trial = Trial(name, settings, means, seconds, results)
        if self.best is not None:
            gain, error = difference(trial.means, self.best.means)
            trial = trial._replace(
                gain=100 * gain, error=100 * error, is_chosen=gain > error
            )
        if trial.is_chosen:
            self.best = trial
        self.done.append(trial)
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
            for t in self.done
        ]  # fmt: skip
        write_csv(self._directory / "trials.csv", header, rows)
        best = self.best.mean if self.best else 0.0
        self._progress.update(
            min(round(self.spent), self._progress.target), [("mAP", best)]
        )


def explained(trials: list[Trial]) -> dict[str, Any]:
    """What results.json says of the choice.

    Args:
      trials: in the order of trying, one of them chosen at least.

    Returns:
      "settings" of the choice, "why", a paragraph, "parts", how many parts of
      the data each was tried on, and "trials", of which a "standard_error" that
      is not known is None.
    """
    first, best = trials[0], [t for t in trials if t.is_chosen][-1]
    parts = len(best.results)
    text = f"auto tried {len(trials)} setting{'s' * (len(trials) > 1)} "
    if parts > 1:
        text += f"by {parts}-fold cross-validation on the training labels "
    where = "" if parts > 1 else "validation "
    text += f"and chose {_words(best)}: {where}mAP {best.mean:.2f}, "
    if best is first:
        text += "and no other setting was better by more than the standard "
        text += "error of the difference. "
    else:
        text += f"{first.mean:.2f} for logistic regression; {best.gain:.2f} ± "
        text += f"{best.error:.2f} above the best before it. "
    others = sorted(trials, key=lambda t: -t.mean)
    next_best = next((t for t in others if t is not best), None)
    if next_best is not None:
        text += f"The best of the others is {_words(next_best)}, "
        text += f"{next_best.mean:.2f}."
    return {
        "settings": best.settings,
        "why": text.strip(),
        "parts": parts,
        "trials": [
            {
                "name": t.name, "settings": t.settings,
                "validation_mAP": t.mean, "gain": t.gain,
                "standard_error": t.error if np.isfinite(t.error) else None,
            }
            for t in trials
        ],
    }  # fmt: skip


def _words(trial: Trial) -> str:
    """A trial's settings in a line."""
    method, *rest = (f"{x}={y}" for x, y in trial.settings.items())
    name = method.removeprefix("method=")
    return f"{name} ({', '.join(rest)})" if rest else name
