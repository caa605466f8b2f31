"""`--method=auto`: tries methods and settings, takes what validation proves.

On fixed features a trial takes seconds. Each is a run of its own, in
WORKDIR/auto, that starts from one logistic model. A trial is chosen over a
simpler one only if its validation mAP is higher by more than the standard error
of the difference, so that where nothing helps the logistic model is the choice.

Where validation is so small that it says little, trials are compared by
cross-validation over the observed training labels.
"""

from __future__ import annotations

import collections
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from imcl_tf import presets
from imcl_tf.data.features import fixed_features
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.ops.jackknife import mean_precisions, standard_error
from imcl_tf.ops.labels import rows_alone
from imcl_tf.settings import AUTO, BUDGET, METHOD_STAGE, OBJECTS
from imcl_tf.training.progress import report
from imcl_tf.training.run import run
from imcl_tf.training.trials import Part, Trials, explained
from imcl_tf.training.workdir import VALIDATION_SCORES, Workdir

_FIXED = "fixed_features"
_OTHERS = (
    "curriculum", "large_loss", "weak_assume_negative", "splc", "fast0tag",
)  # fmt: skip
# Validation is small if the mAP of the logistic model has a larger standard
# error.
_LARGE_ERROR = 0.025
# Of a trial: minutes at most, however many the images are.
_MOST_STEPS = 600
_FOLDS = 5


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
    all trials start from; they see its features, and train as the preset
    "folder" says, for 600 steps at most.

    Where the standard error of the logistic model's validation mAP is above 2.5
    points, and more training than validation labels are observed, trials are
    compared by 5-fold cross-validation on the former, unless the network was
    trained on these.

    Args:
      data: of `load_dataset`.
      backbone: see `imcl_tf.run`.
      workdir: gets the files of the chosen run, and `auto/` with the trials.
      budget: minutes for the trials, the first of which, the logistic model and
        its neighbours, run in any case.
      resume: see `imcl_tf.run`; finished trials are not run again.
      settings: see there.
      **options: of `imcl_tf.run`; those that are tried, and those of the
        method's stage, are replaced.

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

    def train(data, backbone, trial, directory, **more):
        keras.utils.set_random_seed(options.get("seed", 0))
        whole = options | trial
        method = whole.pop("method")
        return run(data, backbone, method, directory, **whole, **more)

    start = _start(train, data, backbone, place, options)
    if not resume:  # what the user gave is checked by now
        Workdir(workdir).set_aside()
    fixed = _as_preset() | {"regime": _FIXED}
    parts = _parts(train, data, backbone, place, start, options, fixed)
    trials = Trials(parts, place, 60 * budget)
    for name, trial in _proposals(trials):
        trials.attempt(name, trial)
    chosen = explained(trials.done)
    if trials.best and len(parts) > 1:
        chosen["settings"] = _agreed(chosen["settings"], trials.best.results)
    report(chosen["why"])
    return train(
        data, backbone,
        fixed | {"init_from": str(start)} | chosen["settings"],
        Path(workdir), resume=resume, settings=settings, chosen=chosen,
    )  # fmt: skip


def _as_preset() -> dict[str, Any]:
    """What trials do unless they say otherwise."""
    preset = presets.load("folder")
    stage = {option.name: option.default for option in METHOD_STAGE}
    stage |= {x: preset[x] for x in preset if x not in OBJECTS}
    return stage | {"max_steps": _MOST_STEPS}


def _start(train, data, backbone, place: Path, options) -> Path:
    """Workdir of the logistic model that all trials start from."""
    plain = {"method": "logistic", "epochs": 0, "neighbors": "none"}
    start = place / "start"
    how = {"resume": True, "tuning": True, "keep_logistic": True}
    train(data, backbone, plain, start, **how)
    if backbone is None or options.get("regime") == _FIXED:
        return start
    # The head is one of the features of a network that is trained: solved
    # once, not in each trial.
    fixed = {"regime": _FIXED, "init_from": str(start)}
    train(data, backbone, plain | fixed, place / "solved", **how)
    return place / "solved"


def _parts(train, data, backbone, place, start, options, fixed) -> list[Part]:
    """The data of each trial: the whole, or folds of the training images."""

    def part(name, data, backbone, more):
        def train_part(trial, directory):
            return train(
                data, backbone, fixed | more | trial, directory,
                resume=True, tuning=True,
            )  # fmt: skip

        return Part(name, data.validation.labels, train_part)

    whole = part("", data, backbone, {"init_from": str(start)})
    data = data.hide_labels(
        options.get("observed_fraction", 1.0), options.get("seed", 0),
        options.get("observed_rule", "per_label"),
    )  # fmt: skip
    if _is_trained(backbone, options) or not _is_small(data, start):
        return [whole]
    if backbone is not None:
        data = fixed_features(data, backbone)
    parts = []
    for number, fold in enumerate(_folds(data), 1):
        # The latest weights: the best ones would be chosen on what is compared.
        more = {"observed_fraction": 1.0, "keep": "latest"}
        name = f"fold-{number}"
        plain = {"method": "logistic", "epochs": 0, "neighbors": "none"}
        train(
            fold, None, fixed | plain | more, start / name,
            resume=True, tuning=True, keep_logistic=True,
        )  # fmt: skip
        more |= {"init_from": str(start / name)}
        parts.append(part(name, fold, None, more))
    return parts


def _is_trained(backbone, options) -> bool:
    """Whether the network has seen the training labels."""
    if backbone is None:
        return False
    return options.get("regime") != _FIXED or not getattr(
        backbone, "pretrained", True
    )


def _is_small(data: MultiLabelDataset, start: Path) -> bool:
    """Whether training labels tell better what is good than validation."""
    labels = data.validation.labels.sorted_indices()
    if data.train.labels.nnz <= labels.nnz:
        return False
    scores = np.load(start / VALIDATION_SCORES)
    means = mean_precisions(labels, scores)
    return standard_error(means) > _LARGE_ERROR


def _folds(data: MultiLabelDataset) -> Iterator[MultiLabelDataset]:
    """The training images; each time, labels of some are for validation.

    Images without labels teach nothing, and are not looked at as neighbours.
    """
    train = data.train._replace(pictures=None)
    of_image = np.random.default_rng(0).permutation(train.labels.shape[0])
    for number in range(_FOLDS):
        held = of_image % _FOLDS == number
        yield data._replace(
            train=train._replace(labels=rows_alone(train.labels, ~held)),
            validation=train._replace(labels=rows_alone(train.labels, held)),
        )


def _agreed(
    settings: dict[str, Any], results: list[dict[str, Any]]
) -> dict[str, Any]:
    """What to run with on all labels, after folds chose each for itself.

    The median penalty, and the mixing that most folds chose.
    """
    penalty = _median([result["penalty"] for result in results])
    settings = settings | {"penalty": penalty, "keep": "latest"}
    if settings.get("neighbors") == "chosen":
        mixings = [tuple((x["neighbors"] or {}).items()) for x in results]
        (most, _), *_ = collections.Counter(mixings).most_common(1)
        settings["neighbors"] = "given" if most else "none"
        settings |= {f"neighbor_{name}": value for name, value in most}
    return settings


def _variations(trials: Trials) -> tuple[dict[str, Any], ...]:
    """What to vary of IMCL, one after the other, from the best so far."""
    penalties = [result["penalty"] for result in trials.done[0].results]
    return (
        # From a head that hardly has a penalty little can be learned.
        {"penalty": float(f"{10 * _median(penalties):.2g}")},
        {"label_graph": "cooccurrence", "graph_self_weight": 0.5},
        {"lambda_y": 0.2},
        {"lambda_y": 5.0},
        {"num_neighbors": 10},
        {"learning_rate": 0.1},
        {"lambda_f": 5.0},
    )


def _median(values: list[float]) -> float:
    """One of them."""
    return sorted(values)[len(values) // 2]


def _proposals(trials: Trials) -> Iterator[tuple[str, dict[str, Any]]]:
    """What to try next, from the simplest on, as long as there is time."""
    yield "logistic", {"method": "logistic"}
    yield "neighbors", {"method": "logistic", "neighbors": "chosen"}
    # What neighbours are worth to the logistic model they are to others.
    near = {}
    if trials.done[-1].is_chosen:
        near = {"neighbors": "chosen"}
    best = {"method": "imcl"} | near
    if trials.has_time_for("imcl"):
        yield "imcl", best
        mean = trials.done[-1].mean
        for number, change in enumerate(_variations(trials), 1):
            if not trials.has_time_for("imcl"):
                break
            yield f"imcl-{number}", best | change
            if trials.done[-1].mean > mean:
                best, mean = best | change, trials.done[-1].mean
    if trials.has_time_for("logistic"):
        trial = {"method": "logistic", "completion_rounds": 3}
        yield "completion", trial | near
    for method in _OTHERS:
        if trials.has_time_for(method):
            yield method, {"method": method} | near
