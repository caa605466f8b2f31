"""One run: data, model, fit, evaluation, export."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
from absl import logging

from imcl_tf.backbones.graphs import without_pooling
from imcl_tf.backbones.pictures import picture_format
from imcl_tf.backbones.statistics import freeze_batch_statistics
from imcl_tf.data.features import fixed_features
from imcl_tf.data.multi_label_dataset import MultiLabelDataset, reading
from imcl_tf.data.records import labels_digest
from imcl_tf.files import replacing, write_csv
from imcl_tf.methods import method as method_named
from imcl_tf.methods.base import MultiLabelModel, registered_name
from imcl_tf.methods.neighbors import Mixing, TrainingNeighbors
from imcl_tf.ops import workers
from imcl_tf.ops.metrics import observed_counts, require_support
from imcl_tf.options import check_all
from imcl_tf.settings import EXPORTED, OBJECTS, RUN, known_options
from imcl_tf.training.checkpoints import is_whole
from imcl_tf.training.completion import check_size, complete
from imcl_tf.training.conversion import (
    check_convertible,
    export_as,
    formats_of,
)
from imcl_tf.training.evaluation import (
    evaluate,
    scores,
    write_average_precision,
)
from imcl_tf.training.export import export
from imcl_tf.training.guards import guards
from imcl_tf.training.heads import fits_in_memory, solve_head, write_path
from imcl_tf.training.identity import identity_of_run
from imcl_tf.training.mixing import choose_mixing, neighbors_of
from imcl_tf.training.predictions import predict_split
from imcl_tf.training.predictions import save as save_predictions
from imcl_tf.training.provenance import commit_of_checkout, provenance
from imcl_tf.training.stages import (
    check_schedules,
    fit_stage,
    initial_schedule,
    record_solved,
)
from imcl_tf.training.workdir import (
    PREDICTIONS,
    VALIDATION_SCORES,
    Workdir,
    describe,
)

OPTIONS = tuple(option for option in RUN if option.name not in OBJECTS)


def run(
    data: MultiLabelDataset,
    backbone: keras.Model | None,
    method: str | type[MultiLabelModel],
    workdir: str | Path,
    *,
    resume: bool = False,
    tuning: bool = False,
    keep_logistic: bool = False,
    chosen: dict | None = None,
    settings: str = "",
    **options,
) -> dict:
    """Trains, evaluates on test and exports.

    Every method starts from the logistic model (sec. 4.2): that of
    `init_from`, or one fitted here first. A run of method "logistic" is thus
    the logistic model trained further, unless it is solved: on fixed features
    with `initial_head` "solved".

    Initial weights follow `keras.utils.set_random_seed`; the option `seed`
    is that of hidden labels, order and augmentation.

    Args:
      data: of `load_dataset`.
      backbone: of `imcl_tf.backbone`, or any keras.Model [B, S, S, 3] ->
        [B, d]. It is trained in place. None for data of features; the regime
        is then fixed_features.
      method: a name of `imcl_tf.methods()`, or a class.
      workdir: gets every file of the run.
      resume: continue a run of the same settings on the same data from its
        latest checkpoint; `epochs` may be more than before. A finished run is
        returned, once it has written what it lacks of `export`; one that never
        began begins.
      tuning: the test split is not read, no model is exported or kept; the
        scores of the validation split are.
      keep_logistic: keep the initial logistic model of such a run.
      chosen: what results.json is to say of the choice of these settings.
      settings: text of flags.cfg, with which the run can be repeated.
      **options: `OPTIONS` of a run and those of the method, by name; those of
        other methods are ignored, so that a preset serves every method.

    Returns:
      what results.json holds: "mAP" on test in percent, and more; "warnings"
      are sentences on what makes it say less than it seems to.

    Raises:
      TypeError: for an unknown option.
      ValueError: for a value out of range, an `init_from` or a graph that does
        not fit, an `init_from` that has seen what this run hides or evaluates
        on, a train split without an observed label, a validation or test
        split in which no label has an observed positive and an observed
        negative, a backbone that cannot be boosted, a model that a format of
        `export` has no operations for, or `resume` with other settings or
        data.
      ImportError: if an extra is not installed that `export` needs.

    Example:
      >>> import imcl_tf
      >>> data = imcl_tf.load_dataset("folder", "pictures")
      >>> preset = imcl_tf.presets.load("folder")
      >>> backbone = imcl_tf.backbone(preset.pop("backbone"), image_size=32)
      >>> preset |= {"initial_epochs": 1, "epochs": 1}
      >>> results = imcl_tf.run(
      ...     data, backbone, "logistic", "runs/mine", **preset)
      >>> 0 <= results["mAP"] <= 100
      True
    """
    begun = datetime.datetime.now(datetime.UTC)
    commit = commit_of_checkout()
    directory = Workdir(workdir)
    cls = method_named(method) if isinstance(method, str) else method
    _check_objects(data, backbone, cls)
    if backbone is None:
        options = {"regime": "fixed_features"} | options
    given, own = _split_options(options, cls)
    formats = [] if tuning else formats_of(given["export"])
    if given["completion_rounds"]:
        _check_completion(data, backbone, given)
    if backbone is None and given["regime"] != "fixed_features":
        raise ValueError(
            f"regime must be fixed_features for data of features, got "
            f"{given['regime']!r}: they have no network to train"
        )
    if given["unit_norm"] and data.train.num_features == 1:
        raise ValueError(
            "unit_norm: features of one number each, of which unit norm leaves "
            "only the sign; give --nounit_norm"
        )
    _check_support(data)
    data = data.hide_labels(
        given["observed_fraction"], given["seed"], given["observed_rule"]
    )
    if not data.train.labels.nnz:
        raise ValueError(
            "split train: no label is observed, so that nothing can be learned"
        )
    if given["init_from"] and _are_same(given["init_from"], directory.path):
        raise ValueError(
            f"init_from: {workdir} is the workdir itself; take another workdir"
        )
    start = Workdir(given["init_from"]) if given["init_from"] else None
    identity = identity_of_run(
        data,
        backbone,
        cls,
        given,
        own,
        settings,
        start.logistic if start else None,
    )
    # Writing a checkpoint, too, is a step that all workers take.
    alike = identity, resume, formats, given["checkpoint_every"]
    workers.require_same(
        repr(alike),
        "has other settings or data than worker 0; start the same command on "
        "every machine",
    )
    finished = directory.finished(identity, tuning) if resume else None
    if finished and not (lacking := directory.lacking(formats)):
        if finished.get("chosen") != chosen:  # by more trials than before
            finished |= {"chosen": chosen, "settings": settings.splitlines()}
            directory.restate(finished, settings)
        return finished
    if finished:
        logging.warning(
            "resume: the finished run in %s is opened to write %s", workdir,
            ", ".join(lacking),
        )  # fmt: skip
    images = data.train.batches(
        given["batch_size"], seed=given["seed"], augment=given["augment"],
        augment_level=given["augment_level"],
    )  # fmt: skip
    if backbone is not None:
        images = images.sized(*picture_format(backbone))
    logistic = MultiLabelModel(backbone, data.num_labels)
    logistic.build((None, *images.input_shape))
    check_schedules(
        given, images.steps_per_epoch,
        bool(start) or _begins_solved(given, backbone, start),
    )  # fmt: skip
    model = _make_model(cls, backbone, data.num_labels, given, own)
    model.unit_norm = _unit_norm(given, backbone, start)
    model.prepare(images)
    model.build((None, *images.input_shape))
    if start:
        start.load_logistic(logistic, data)
    check_convertible(model, formats)
    warnings = guards(
        data, backbone, check_all(cls.OPTIONS, own) | given,
        start.warnings if start else [],
    )  # fmt: skip
    for warning in warnings if not tuning else ():
        logging.warning("%s", warning)

    # Nothing is written before all that a user may have got wrong is checked.
    # A checkpoint holds the weights and up to two numbers more of each, three
    # with their average.
    size = sum(weight.numpy().nbytes for weight in model.weights)
    directory.check_writable((3 + given["ema"]) * size)
    with directory.alone(), reading(data):
        resumed = directory.start(identity, settings, data, resume)
        stage = _fit_logistic(logistic, data, images, given, directory, start)
        directory.save_logistic(logistic, start)
        if not tuning:  # now, for w may change
            initial = evaluate(logistic, stage.test, given["batch_size"])
        if given["completion_rounds"]:
            _complete(logistic, stage, given, directory.initial)
        model.start_from(logistic)
        if type(model) is MultiLabelModel and _is_solved(stage, given):
            record_solved(model, stage, images, directory.path)
        else:
            schedule = SimpleNamespace(**given)
            fit_stage(model, stage, images, schedule, directory.path)
        model.training_neighbors = _neighbors(model, stage, given)
        results = _validated(model, data, stage, given, directory, tuning)
        if tuning:
            directory.drop_checkpoints(keep_logistic)
        else:
            results |= _tested(model, data, stage, given, directory)
            results["initial_logistic"] = scores(initial, data.train.labels)
        results |= {
            "chosen": chosen,
            "settings": settings.splitlines(),
            "warnings": warnings,
        }
        directory.write_results(results, provenance(begun, commit, resumed))
        # A run is finished without them: one that fails can be tried again.
        for name in formats:
            export_as(model, directory.path / EXPORTED[name], name)
        return results


def _validated(model, data, stage, given, directory, tuning) -> dict:
    """What results.json says of a run before its test."""
    precision = evaluate(model, stage.validation, given["batch_size"])
    if tuning:
        with (
            replacing(directory.path / VALIDATION_SCORES) as path,
            path.open("wb") as file,
        ):
            np.save(file, precision.scores())
    neighbors = model.training_neighbors
    return {
        "method": registered_name(type(model)),
        "regime": given["regime"],
        "seed": given["seed"],
        **describe(data),
        **{
            f"validation_{name}": value
            for name, value in scores(precision, data.train.labels).items()
        },
        "penalty": float(str(model.penalty.numpy())),
        "neighbors": neighbors and neighbors.mixing._asdict(),
        "skipped_minibatches": len(model.skipped),
    }


def _tested(model, data, stage, given, directory) -> dict:
    """Evaluates on test and exports."""
    test, predictions = predict_split(model, stage.test, given["batch_size"])
    save_predictions(predictions, directory.path / PREDICTIONS)
    if test.is_chance():
        logging.warning(
            "test: every image has the same scores, so that mAP is chance: "
            "the features, or the training labels, tell no images apart"
        )
    write_average_precision(
        test, data.label_names, directory.path / "average_precision.csv"
    )
    digest = labels_digest(data.train.labels, data.label_names)
    model.write_extras(directory.path, data.label_names, digest)
    export(model, directory.path / "saved_model", data.label_names)
    return scores(test, data.train.labels)


def _fit_logistic(
    logistic, data, images, given, directory, start
) -> MultiLabelDataset:
    """Fits the initial logistic model; returns the data of the method."""
    backbone, fixed = logistic.backbone, given["regime"] == "fixed_features"
    unit_norm = _unit_norm(given, backbone, start)
    solved = _begins_solved(given, backbone, start)
    if start or _is_trained(backbone):
        freeze_batch_statistics(backbone)
    schedule = initial_schedule(given)
    if given["penalty"] and not solved:
        logistic.penalty.assign(given["penalty"])
    if not (start or (_is_trained(backbone) and (fixed or solved))):
        # A head that is solved afterwards is one of other features.
        logistic.set_inputs(False, unit_norm and not solved)
        fit_stage(logistic, data, images, schedule, directory.initial)
        if schedule.epochs:
            freeze_batch_statistics(backbone)
    stage = data
    if fixed and not data.train.num_features:
        stage = fixed_features(data, backbone, used_by=directory.user)
    logistic.set_inputs(True, unit_norm)  # until the head is fitted
    if is_whole(directory.logistic):  # the run is resumed
        logistic.load_weights(directory.logistic)
    elif solved and (
        not start or start.unit_norm != unit_norm or given["penalty"]
    ):
        features = stage
        if not fixed:
            features = fixed_features(data, backbone, used_by=directory.user)
        _solve(logistic, features, images, given, directory.initial)
    elif fixed and _is_trained(backbone) and not start:
        fit_stage(logistic, stage, images, schedule, directory.initial)
    logistic.set_inputs(fixed, unit_norm)
    return stage


def _is_trained(backbone) -> bool:
    """Whether w is worth keeping: a network of unknown make has weights."""
    return getattr(backbone, "pretrained", True)


def _begins_solved(given, backbone, start) -> bool:
    """Whether the initial logistic model is solved, or is as it was before.

    On fixed features always; a trained network's, before it is trained on, if
    no other run has begun it.
    """
    if given["initial_head"] != "solved":
        return False
    if given["regime"] == "fixed_features":
        return True
    return not start and _is_trained(backbone)


def _unit_norm(given, backbone, start) -> bool:
    """Whether features are brought to unit norm.

    Where the network is trained, as the head that it starts from has it.
    """
    if given["regime"] == "fixed_features":
        return given["unit_norm"]
    if start:
        return start.unit_norm
    return given["unit_norm"] and _begins_solved(given, backbone, start)


def _is_solved(stage, given) -> bool:
    """Whether the logistic model is at its optimum."""
    return (
        given["regime"] == "fixed_features"
        and given["initial_head"] == "solved"
        and fits_in_memory(stage)
    )


def _solve(logistic, stage, images, given, directory):
    """Solves the head; trains it further where a part alone is in memory."""
    head, path, is_whole = solve_head(
        logistic, stage, given["penalty"], seed=given["seed"]
    )
    write_path(path, directory / "penalties.csv")
    logistic.classifier.set_weights([head.kernel, head.bias])
    logistic.penalty.assign(head.penalty)
    if not is_whole:
        schedule = initial_schedule(given)
        fit_stage(logistic, stage, images, schedule, directory)


def _complete(logistic, stage, given, directory):
    """Gives the logistic model the best head of completed labels."""
    tried = complete(logistic, stage, given["completion_rounds"])
    best = max(tried, key=lambda x: x.mean)
    logistic.classifier.set_weights([best.head.kernel, best.head.bias])
    logistic.penalty.assign(best.head.penalty)
    rows = [
        (x.round, x.share, f"{x.head.penalty:g}", f"{x.mean:.4f}")
        for x in tried
    ]
    directory.mkdir(parents=True, exist_ok=True)
    header = "round", "share", "penalty", "validation_mAP"
    write_csv(directory / "completion.csv", header, rows)


def _neighbors(model, stage, given) -> TrainingNeighbors | None:
    """The training images that the model's predictions are to look at."""
    most, seed = given["neighbor_images"], given["seed"]
    mixing = Mixing(0.0)
    if given["neighbors"] == "given":
        mixing = Mixing(
            given["neighbor_share"],
            given["neighbor_number"],
            given["neighbor_temperature"],
            given["neighbor_observed"],
            given["neighbor_by"],
        )
    elif given["neighbors"] == "chosen":
        mixing = choose_mixing(model, stage, most, seed)
    if not mixing.share:
        return None
    return neighbors_of(model, stage, mixing, most, seed)


def _check_objects(data, backbone, cls):
    if not isinstance(data, MultiLabelDataset) or data.train.pictures:
        raise ValueError(
            f"run takes the data of imcl_tf.load_dataset, got {data!r:.100}"
        )
    if data.train.num_features and backbone is not None:
        raise ValueError(
            f"the data are features already, so the backbone must be None, got "
            f"{backbone!r:.100}"
        )
    if not data.train.num_features and not isinstance(backbone, keras.Model):
        raise ValueError(
            f"run takes a backbone of imcl_tf.backbone, got {backbone!r:.100}"
        )
    if not (isinstance(cls, type) and issubclass(cls, MultiLabelModel)):
        raise ValueError(
            "run takes a method's name or its class, a MultiLabelModel, got "
            f"{cls!r:.100}"
        )


def _check_completion(data, backbone, given):
    if given["regime"] != "fixed_features" or given["initial_head"] != "solved":
        raise ValueError(
            "completion_rounds: the logistic model is solved again, which "
            "needs regime=fixed_features and initial_head=solved, got "
            f"regime={given['regime']}, initial_head={given['initial_head']}"
        )
    size = data.train.num_features or backbone.output_shape[-1]
    check_size(data, size)


def _are_same(place: str, other: Path) -> bool:
    return Path(place).resolve() == other.resolve()


def _split_options(options, cls) -> tuple[dict, dict]:
    """Checked options of the run, and those of the method that were given."""
    of_run = {option.name for option in OPTIONS}
    of_method = {option.name for option in cls.OPTIONS}
    unknown = set(options) - of_run - of_method - set(known_options())
    if unknown:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
    given = {name: x for name, x in options.items() if name in of_run}
    own = {name: x for name, x in options.items() if name in of_method}
    return check_all(OPTIONS, given), own


_OF_FOLDERS = (
    ". In labels.csv the value 1 is present, -1 absent, 0 unobserved; where "
    "every pair that is not listed as present is absent, "
    "--unlisted=absent_in_evaluation says so for validation and test"
)


def _check_support(data):
    for name in ("validation", "test"):
        try:
            require_support(*observed_counts(data.splits[name].labels))
        except ValueError as error:
            way = _OF_FOLDERS if data.name == "folder" else ""
            raise ValueError(f"split {name}: {error}{way}") from error


def _make_model(cls, backbone, num_labels, given, own) -> MultiLabelModel:
    fixed = given["regime"] == "fixed_features"
    if given["boost"]:
        if fixed:
            raise ValueError("boost: fixed features have no positions")
        backbone = without_pooling(backbone)
        own = own | {"boost_factor": given["boost_factor"]}
        if given["neighbors"] != "none":
            raise ValueError(
                "neighbors: boost has features at each position of a picture, "
                "which similar pictures do not share"
            )
    return cls(backbone, num_labels, fixed_features=fixed, **own)
