"""`--method=auto`: tries methods and settings, takes what validation proves.

On fixed features a trial takes seconds. Each is a run of its own, in
WORKDIR/auto, that starts from one logistic model. A trial is chosen over a
simpler one only if its validation mAP is higher by more than the standard error
of the difference, so that where nothing helps the logistic model is the choice.

Where validation is so small that it says little, trials are compared by
cross-validation over the observed training labels, with neighbours as the folds
agree on them, and without completed labels: what each chose for itself would
be chosen on what is compared.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from imcl_tf import presets
from imcl_tf.data.features import fixed_features
from imcl_tf.data.multi_label_dataset import MultiLabelDataset, never_absent
from imcl_tf.data.pipeline import Split
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.jackknife import mean_precisions, standard_error
from imcl_tf.ops.labels import rows_alone
from imcl_tf.ops.metrics import observed_counts
from imcl_tf.settings import (
    AUTO,
    BUDGET,
    INITIAL_HEAD,
    METHOD_STAGE,
    NEIGHBORS,
    OBJECTS,
)
from imcl_tf.training.completion import check_size
from imcl_tf.training.conversion import check_convertible, formats_of
from imcl_tf.training.progress import report
from imcl_tf.training.run import run
from imcl_tf.training.trials import Part, Trials, explained, timed
from imcl_tf.training.workdir import EARLIER, VALIDATION_SCORES, Workdir

_FIXED = "fixed_features"
# The logistic model that trials start from.
_PLAIN = {
    "method": "logistic", "epochs": 0, "neighbors": "none",
    "completion_rounds": 0,
}  # fmt: skip
# Neighbours that each run chooses on its validation.
_NEAR = {"neighbors": "chosen"}
_OTHERS = (
    "large_loss", "weak_assume_negative", "splc", "fast0tag", "curriculum",
)  # fmt: skip
# Validation is small if the mAP of the logistic model has a larger standard
# error.
_LARGE_ERROR = 0.025
# Of a trial: minutes at most, however many the images are.
_MOST_STEPS = 600
_FOLDS = 5
# Rounds of completion, each of which solves a path for two shares of labels.
_ROUNDS = 3
_MOST_SOLVED = 2 * _ROUNDS


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
    trained on these, or may have been by `init_from`, or a fold has no average
    precision. Labels are completed where six times the seconds of the logistic
    model are left of the budget, and not by cross-validation. Other
    methods, of which some count unobserved labels as absent, are tried after
    IMCL; where most labels are never observed absent in training, before it.

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
      ValueError: for `boost` or a wrong budget, and see `imcl_tf.run`.
      ImportError: see there.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> backbone = imcl_tf.backbone("small_cnn", image_size=32)
      >>> results = imcl_tf.auto(
      ...     data, backbone, "runs/auto", budget=0, initial_epochs=1)
      >>> results["chosen"]["trials"][0]["name"]
      'logistic'
    """
    budget = cast(float, BUDGET.checked(budget))
    if options.get("boost"):
        raise ValueError(
            "boost: auto tries methods on fixed features, which have no "
            "positions; expected another method, or no boost"
        )
    formats = formats_of(options.get("export", ""))
    if formats and backbone is not None:  # now, not after the trials
        model = MultiLabelModel(backbone, data.num_labels)
        model.build(backbone.input_shape)
        check_convertible(model, formats)
    place = Path(workdir) / AUTO

    def train(data, backbone, trial, directory, **more):
        keras.utils.set_random_seed(options.get("seed", 0))
        whole = options | trial
        method = whole.pop("method")
        return run(data, backbone, method, directory, **whole, **more)

    with _set_aside(Workdir(workdir), anew=not resume):
        start, solving = _start(train, data, backbone, place, options)
    fixed = _as_preset() | {"regime": _FIXED}
    parts, near = _parts(train, data, backbone, place, start, options, fixed)
    one_sided = 2 * len(never_absent(data)) > data.num_labels
    trials = Trials(parts, place, 60 * budget)
    completing = _MOST_SOLVED * solving
    # Each fold would choose its rounds on what is compared.
    if len(parts) > 1 or not _can_complete(data, backbone, options):
        completing = math.inf
    for name, trial in _proposals(trials, near, completing, one_sided):
        try:
            trials.attempt(name, trial)
        except FloatingPointError as error:
            if not trials.done:  # the logistic model itself
                raise
            report(f"{name}: {error}")
    chosen = explained(trials.done)
    if trials.best and len(parts) > 1:
        chosen["settings"] = _agreed(chosen["settings"], trials.best.results)
    report(chosen["why"])
    final = fixed | {"init_from": str(start)} | chosen["settings"]
    # Of more trials another one may be the best, which is run anew.
    resume = resume and _is_of(Workdir(workdir), options | final)
    return train(
        data, backbone, final, Path(workdir),
        resume=resume, settings=settings, chosen=chosen,
    )  # fmt: skip


@contextlib.contextmanager
def _set_aside(workdir: Workdir, anew: bool) -> Iterator[None]:
    """Begins anew, but not before what the user gave is checked.

    The first run within the context checks it, ahead of its first file.
    """
    place, aside = workdir.path / AUTO, workdir.path / EARLIER / AUTO
    if anew and place.exists():
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        os.replace(place, aside)
    try:
        yield
    finally:
        if anew and place.exists():
            workdir.set_aside()
        elif anew and aside.exists():
            os.replace(aside, place)
            with contextlib.suppress(OSError):  # of a run that was set aside
                aside.parent.rmdir()


def _is_of(workdir: Workdir, options: dict[str, Any]) -> bool:
    """Whether the run in a workdir, if there is one, has these settings."""
    before = workdir.settings()
    return all(before.get(name, x) == x for name, x in options.items())


def _as_preset() -> dict[str, Any]:
    """What trials do unless they say otherwise."""
    preset = presets.load("folder")
    stage = {option.name: option.default for option in METHOD_STAGE}
    stage |= {x: preset[x] for x in preset if x not in OBJECTS}
    # Those of neighbours are tried; their number is the user's.
    none = {o.name: o.default for o in NEIGHBORS if o.name != "neighbor_images"}
    return stage | none | {"max_steps": _MOST_STEPS}


def _start(train, data, backbone, place, options) -> tuple[Path, float]:
    """Workdir of the model that all trials start from, and seconds to solve it.

    With those to compute features of a network that stays as it is.
    """
    start, settings = place / "start", _PLAIN
    how = {"resume": True, "tuning": True, "keep_logistic": True}
    if backbone is not None and options.get("regime") != _FIXED:
        # The initial stage trains the network; then the head is solved on its
        # features, once and not in each trial.
        trained = _PLAIN | {"initial_head": "trained"}
        train(data, backbone, trained, start, **how)
        settings = _PLAIN | {"regime": _FIXED, "init_from": str(start)}
        start = place / "solved"
    _, seconds = timed(
        start, lambda: train(data, backbone, settings, start, **how)
    )
    return start, seconds


def _parts(
    train, data, backbone, place, start, options, fixed
) -> tuple[list[Part], dict[str, Any]]:
    """The data of each trial, the whole or folds; neighbours that are tried."""

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
        return [whole], _NEAR
    folds = [*_folds(data)]
    if not all(_has_precision(fold.validation) for fold in folds):
        return [whole], _NEAR
    if backbone is not None:
        folds = [*_folds(fixed_features(data, backbone))]
    parts, found = [], []
    for number, fold in enumerate(folds, 1):
        # The latest weights: the best ones would be chosen on what is compared.
        more = {"observed_fraction": 1.0, "keep": "latest"}
        name = f"fold-{number}"
        result = train(
            fold, None, fixed | _PLAIN | _NEAR | more | {"init_from": ""},
            start / name, resume=True, tuning=True, keep_logistic=True,
        )  # fmt: skip
        found.append(result["neighbors"])
        more |= {"init_from": str(start / name)}
        parts.append(part(name, fold, None, more))
    return parts, _agreed_neighbors(found)


def _has_precision(split: Split) -> bool:
    """Whether a label is observed both present and absent."""
    counts = observed_counts(split.labels)
    return bool(np.logical_and(*counts).any())


def _is_trained(backbone, options) -> bool:
    """Whether the network has seen the training labels, or may have."""
    if backbone is None:
        return False
    return (
        options.get("regime") != _FIXED
        or bool(options.get("init_from"))
        or getattr(backbone, "of_run", False)
        or not getattr(backbone, "pretrained", True)
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
    """What to run with on all labels: the folds' median penalty."""
    penalty = _median([result["penalty"] for result in results])
    return settings | {"penalty": penalty, "keep": "latest"}


def _agreed_neighbors(found: list[dict[str, Any] | None]) -> dict[str, Any]:
    """The medians of the mixings that folds chose; empty for share 0."""
    share = _median([mixing["share"] if mixing else 0.0 for mixing in found])
    if not share:
        return {}
    mixings = [mixing for mixing in found if mixing]
    agreed = {name: _median([m[name] for m in mixings]) for name in mixings[0]}
    agreed["share"] = share
    return {"neighbors": "given"} | {
        f"neighbor_{name}": x for name, x in agreed.items()
    }


def _can_complete(data, backbone, options) -> bool:
    """Whether labels can be completed, see `imcl_tf.run`."""
    size = data.train.num_features or backbone.output_shape[-1]
    try:
        check_size(data, size)
    except ValueError:
        return False
    return options.get("initial_head", INITIAL_HEAD.default) == "solved"


def _variations(trials: Trials) -> tuple[dict[str, Any], ...]:
    """What to vary of IMCL, one after the other, from the best so far."""
    penalty = _median([result["penalty"] for result in trials.done[0].results])
    # From a head that hardly has a penalty little can be learned; a head that
    # was trained, not solved, has none.
    stronger = [{"penalty": float(f"{10 * penalty:.2g}")}] if penalty else []
    return (
        *stronger,
        {"label_graph": "cooccurrence", "graph_self_weight": 0.5},
        {"lambda_y": 0.2},
        {"lambda_y": 5.0},
        {"num_neighbors": 10},
        {"learning_rate": 0.1},
        {"lambda_f": 5.0},
    )


def _median(values: list) -> Any:
    """One of them."""
    return sorted(values)[len(values) // 2]


def _proposals(
    trials: Trials,
    neighbors: dict[str, Any],
    completing: float,
    one_sided: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What to try next, from the simplest on, as long as there is time.

    Args:
      trials: those done so far.
      neighbors: settings of neighbours to try; empty = none.
      completing: seconds to complete labels; infinite where that cannot be.
      one_sided: whether most labels are never observed absent in training: then
        methods that count unobserved labels as absent come first.
    """
    yield "logistic", {"method": "logistic"}
    near = {}
    if neighbors:
        yield "neighbors", {"method": "logistic"} | neighbors
        # What they are worth to the logistic model they are to others.
        near = neighbors if trials.done[1:] and trials.done[1].is_chosen else {}
    if one_sided:
        yield from _other_methods(trials, near)
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
    if trials.has_time_for("logistic", completing):
        trial = {"method": "logistic", "completion_rounds": _ROUNDS}
        yield "completion", trial | near
    if not one_sided:
        yield from _other_methods(trials, near)


def _other_methods(
    trials: Trials, near: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for method in _OTHERS:
        if trials.has_time_for(method):
            yield method, {"method": method} | near
