"""Data, model, fit, checkpoints, evaluation, export: one run."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import scipy.sparse

import imcl_tf.baselines  # noqa: F401, registers them
from imcl_tf import dataset
from imcl_tf.backbones import (
    Backbone,
    Resizing,
    freeze_batch_statistics,
    make_backbone,
    without_pooling,
)
from imcl_tf.callbacks import (
    LATEST,
    BestCheckpoint,
    DictionaryRefresh,
    EpochStart,
    Evaluation,
    Pictures,
    RateDecay,
    RateDrop,
    evaluate,
    steps_taken,
)
from imcl_tf.dataset import Source
from imcl_tf.dictionary import Dictionary, class_balanced_subset
from imcl_tf.export import export_saved_model
from imcl_tf.features import fixed_features
from imcl_tf.files import replacing, write_csv
from imcl_tf.label_graph import LabelGraph
from imcl_tf.label_graph import load as load_label_graph
from imcl_tf.label_graph import save as save_label_graph
from imcl_tf.labels import LabelTable, hide_labels
from imcl_tf.metrics import AveragePrecision
from imcl_tf.model import IMCL
from imcl_tf.multilabel import METHODS, MultiLabelModel

REGIMES = ("end_to_end", "fixed_features")
_THUMBNAIL = (64, 64, 3)
_NUM_GROUPS = 5


class Schedule(NamedTuple):
    """How one stage trains.

    Attributes:
      epochs: passes over the training set.
      learning_rate: of theta, and of w where `backbone_learning_rate` is 0.
      backbone_learning_rate: of w; 0 = `learning_rate`.
      graph_learning_rate: of A.
      epsilon: of RMSProp; rho and momentum are 0.9 (released code).
      weight_decay: decoupled, of theta and w, times the learning rate.
      rate_drop_epoch: passes after which all rates are divided by 10, 0 =
        never.
      evaluate_every: steps between evaluations, 0 = once per epoch.
      jit: compile the CNN with XLA.
    """

    epochs: int
    learning_rate: float
    backbone_learning_rate: float = 0.0
    graph_learning_rate: float = 0.5
    epsilon: float = 1.0
    weight_decay: float = 0.0
    rate_drop_epoch: int = 0
    evaluate_every: int = 0
    jit: bool = False


class _Stage(NamedTuple):
    """The records one stage reads: images, or features of a frozen CNN."""

    source: Source
    input_shape: tuple[int, ...]
    labels: LabelTable
    batch_size: int
    seed: int
    augment: bool
    resizing: Resizing

    def training_batches(self, first_step: int):
        return dataset.training_batches(
            self.source.splits["train"], self.labels, self.input_shape,
            self.batch_size, self.seed, self.augment, self.resizing,
            first_step,
        )  # fmt: skip

    def training_pass(self):
        return dataset.one_pass(
            self.source.splits["train"], self.labels, self.input_shape,
            self.batch_size, self.resizing,
        )  # fmt: skip

    def evaluation_batches(self, name: str):
        split = self.source.splits[name]
        return dataset.one_pass(
            split, LabelTable(split.labels), self.input_shape,
            self.batch_size, self.resizing,
        )  # fmt: skip

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.labels.num_images / self.batch_size)

    def with_features(self, cnn: Backbone) -> _Stage:
        source = fixed_features(
            self.source, cnn.model, cnn.image_size, resizing=cnn.resizing
        )
        shape = tuple(cnn.model.output_shape[1:])
        return self._replace(source=source, input_shape=shape, augment=False)


def run(
    source: Source,
    workdir: str | Path,
    *,
    schedule: Schedule,
    initial_schedule: Schedule,
    method: str = "imcl",
    regime: str = "end_to_end",
    backbone: str = "small_cnn",
    backbone_weights: str = "none",
    image_size: int = 0,
    init_from: str = "",
    observed_fraction: float = 1.0,
    observed_rule: str = "per_label",
    batch_size: int = 32,
    augment: bool = True,
    label_graph: str = "cooccurrence",
    graph_neighbors: int = 50,
    dictionary_size: int = 10_000,
    dictionary_refresh: int = 10,
    seed: int = 0,
    boost: bool = False,
    boost_factor: float = 5.0,
    model_options: dict | None = None,
    settings: str = "",
    resume: bool = False,
    tuning: bool = False,
) -> dict:
    """Trains, evaluates on test and exports.

    Every method starts from the logistic model (sec. 4.2): that of
    `init_from`, or one trained here first with `initial_schedule`. A run of
    method "logistic" is thus the logistic model trained on.

    Args:
      source: image records.
      workdir: gets every file of the run.
      schedule: of the method, from the logistic model on.
      initial_schedule: of the logistic model, not used with `init_from`.
      method: one of `imcl_tf.multilabel.METHODS`.
      regime: "end_to_end"; or "fixed_features", w frozen and features stored
        (a CNN that has no weights yet is trained by the initial stage first).
      backbone: see `imcl_tf.backbones.make_backbone`.
      backbone_weights: see there.
      image_size: S in pixels, 0 = the backbone's own.
      init_from: workdir of a run of the same labels and backbone whose
        initial logistic model to take, or "".
      observed_fraction: share in (0, 1] of the training labels that is kept.
      observed_rule: which, see `imcl_tf.labels.hide_labels`.
      batch_size: B.
      augment: crop and mirror training images at random (end to end).
      label_graph: "cooccurrence", "identity", or a file of
        `imcl_tf.label_graph.save`.
      graph_neighbors: k_a.
      dictionary_size: M, 0 = candidates from the minibatch alone.
      dictionary_refresh: images of it that each step brings up to date.
      seed: of masks, order and initialisation.
      boost: classify each position of the CNN's last feature map and boost
        positive logits there, see `MultiLabelModel` (end to end).
      boost_factor: by which.
      model_options: `OPTIONS` of the method.
      settings: text of `flags.cfg`, with which the run can be repeated.
      resume: go on with a run of the same settings from its latest round. A
        run that has finished is returned, one that never began begins.
      tuning: the test split is not looked at, no model is exported or kept.

    Returns:
      what `results.json` holds.

    Raises:
      ValueError: for an unknown method, regime or graph, an `init_from` or a
        graph that does not fit, an evaluation split without positives, a
        backbone that cannot be boosted, or `resume` with other settings.
    """
    workdir = Path(workdir)
    _check_choices(method=method, regime=regime)
    if resume and (finished := _finished(workdir, settings)):
        return finished
    for name in ("validation", "test"):
        if not (source.splits[name].labels.data > 0).any():
            raise ValueError(
                f"split {name} shows no label: average precision needs an "
                "observed positive"
            )
    keras.utils.set_random_seed(seed)
    observed = hide_labels(
        source.splits["train"].labels, observed_fraction, seed, observed_rule
    )
    options = dict(model_options or {})
    if options.get("class_weight") and not source.splits["train"].classes.size:
        raise ValueError(
            f"class_weight: the images of {source.name} have no classes"
        )
    if method == "imcl":
        options["label_graph"] = _label_graph(
            label_graph, observed, graph_neighbors, source.label_names
        )
    cnn = make_backbone(backbone, backbone_weights, image_size)
    images = _Stage(
        source, (cnn.image_size, cnn.image_size, 3), LabelTable(observed),
        batch_size, seed, augment, cnn.resizing,
    )  # fmt: skip
    frozen = regime == "fixed_features"
    body = cnn.model
    if boost:
        if frozen:
            raise ValueError("boost: fixed features have no positions")
        body = without_pooling(cnn.model)
        options["boost_factor"] = boost_factor
    logistic = MultiLabelModel(cnn.model, len(source.label_names))
    logistic.build((None, *images.input_shape))
    model = METHODS[method](
        body, len(source.label_names), fixed_features=frozen, **options
    )
    model.build((None, *images.input_shape))
    model.adapt(observed, source.label_names)
    if init_from:
        _load_initial(logistic, Path(init_from), source.label_names)

    # Nothing is written before all that a user may have got wrong is checked.
    _start(workdir, settings, source.label_names, observed, resume)
    if not init_from:
        _train_initial(logistic, cnn, images, initial_schedule, regime, workdir)
    with replacing(workdir / "checkpoints/logistic.keras") as path:
        logistic.save(path)
    model.start_from(logistic)

    freeze_batch_statistics(cnn.model)
    stage = images.with_features(cnn) if frozen else images
    logistic.fixed_features = frozen
    if not tuning:  # now, for w may change
        initial, _ = evaluate(logistic, stage.evaluation_batches("test"))
    callbacks = []
    if method == "imcl":
        callbacks = _prepare_similarities(
            model, stage, images, observed, dictionary_size,
            dictionary_refresh, workdir,
        )  # fmt: skip
    _fit(model, stage, schedule, workdir, callbacks)

    validation, _ = evaluate(model, stage.evaluation_batches("validation"))
    results = {
        "method": method,
        "dataset": source.name,
        "regime": regime,
        "seed": seed,
        "validation_mAP": 100 * validation.mean(),
        "num_labels": len(source.label_names),
        "num_train": observed.shape[0],
        "observed_labels": int(observed.nnz),
        "settings": settings.splitlines(),
    }
    if tuning:
        for directory in (workdir, workdir / "initial"):  # large, and many
            shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    else:
        test, _ = evaluate(model, stage.evaluation_batches("test"))
        results |= _scores(test, observed)
        results["initial_logistic"] = _scores(initial, observed)
        _write_average_precision(test, source.label_names, workdir)
        _export(model, cnn, source.label_names, workdir)
    with replacing(workdir / "results.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    return results


def _finished(workdir, settings) -> dict | None:
    """The results of a run, if it is through.

    Raises:
      ValueError: if the run of `workdir` has other settings.
    """
    began = workdir / "flags.cfg"
    if not began.is_file():
        return None
    before, now = began.read_text().splitlines(), settings.splitlines()
    if before != now:
        other = sorted(set(before) ^ set(now))
        raise ValueError(
            f"resume: {began} has other settings: {', '.join(other[:4])}"
        )
    file = workdir / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    # Else it is that of an earlier run.
    return results if results.get("settings") == now else None


def _export(model, cnn, label_names, workdir):
    if isinstance(model, IMCL):
        save_label_graph(
            workdir / "label_graph.npz", model.label_graph, label_names
        )
    export_saved_model(
        model, label_names, cnn.image_size, workdir / "saved_model",
        cnn.resizing,
    )  # fmt: skip


def _check_choices(**choices):
    allowed = {
        "method": tuple(METHODS),
        "regime": REGIMES,
    }
    for name, value in choices.items():
        if value not in allowed[name]:
            raise ValueError(
                f"{name} must be one of {', '.join(allowed[name])}, "
                f"got {value!r}"
            )


def _train_initial(logistic, cnn, images, schedule, regime, workdir):
    """Trains theta, and w unless it is to stay as loaded."""
    stage = images
    if cnn.pretrained:
        freeze_batch_statistics(cnn.model)
        if regime == "fixed_features":
            stage = images.with_features(cnn)
            logistic.fixed_features = True
    _fit(logistic, stage, schedule, workdir / "initial", [])


def _start(workdir, settings, label_names, observed, resume):
    """Writes what is known before training."""
    (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    for stage in () if resume else (workdir, workdir / "initial"):
        # Of an earlier run: its curves would be drawn into those of this one,
        # and this one, resumed, would go on from its model.
        shutil.rmtree(stage / "tensorboard", ignore_errors=True)
        (stage / "checkpoints" / LATEST).unlink(missing_ok=True)
    for name, text in (
        ("flags.cfg", settings),
        ("labels.txt", "".join(f"{name}\n" for name in label_names)),
    ):
        with replacing(workdir / name) as path:
            path.write_text(text)
    with replacing(workdir / "observed_labels.npz") as path:
        scipy.sparse.save_npz(path, observed)


def _load_initial(logistic, directory, label_names):
    """Takes w and theta of another run's initial logistic model."""
    names = (directory / "labels.txt").read_text().splitlines()
    if names != list(label_names):
        raise ValueError(
            f"init_from: {directory} has other labels ({len(names)}) than the "
            f"data set ({len(label_names)})"
        )
    try:
        logistic.load_weights(directory / "checkpoints/logistic.keras")
    except ValueError as error:
        raise ValueError(
            f"init_from: the model of {directory} has another backbone: {error}"
        ) from error


def _label_graph(kind, observed, num_neighbors, label_names) -> LabelGraph:
    if kind == "identity":
        return LabelGraph.identity(observed.shape[1])
    if kind == "cooccurrence":
        return LabelGraph.from_cooccurrence(observed, num_neighbors)
    if not Path(kind).is_file():
        raise ValueError(
            "label_graph must be cooccurrence, identity or a file of "
            f"data_prep.label_graph, got {kind!r}"
        )
    return load_label_graph(kind, label_names)


def _prepare_similarities(
    model, stage, images, observed, size, refresh, workdir
) -> list:
    """Gives IMCL its dictionary; returns the callbacks that go with it."""
    train = stage.source.splits["train"]
    if train.classes.size:
        model.classes = train.classes
    callbacks = []
    if size:
        chosen = class_balanced_subset(observed, size, stage.seed)
        model.dictionary = Dictionary(
            chosen,
            dataset.load_inputs(
                train, chosen, stage.input_shape, stage.resizing
            ),
            stage.labels,
            model.classifier.kernel.shape[0],
        )
        model.refresh_dictionary()
        callbacks.append(DictionaryRefresh(refresh))
    if model.image_similarity == "fixed":
        model.fix_similarities(stage.training_pass())

    def thumbnails(numbers):
        split = images.source.splits["train"]
        return dataset.load_inputs(split, numbers, _THUMBNAIL)

    first = next(iter(stage.training_pass().take(1)))
    directory = workdir / "tensorboard" / "similarities"
    names = stage.source.label_names
    return [*callbacks, Pictures(directory, first, thumbnails, names)]


def _fit(model, stage, schedule, directory, callbacks):
    """Trains `model` and leaves it with its best weights on validation."""
    if not schedule.epochs:
        return
    _compile(model, schedule)
    (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
    steps = schedule.evaluate_every or stage.steps_per_epoch
    latest = directory / "checkpoints" / LATEST
    first_step = 0
    if latest.is_file():  # the run goes on
        model.load_weights(latest)
        first_step = steps_taken(model)
    evaluation = Evaluation(
        stage.evaluation_batches("validation"), directory / "metrics.csv",
        stage.steps_per_epoch, first_step,
    )  # fmt: skip
    checkpoint = BestCheckpoint(directory / "checkpoints", evaluation.past)
    model.fit(
        stage.training_batches(first_step),
        epochs=math.ceil(schedule.epochs * stage.steps_per_epoch / steps),
        initial_epoch=first_step // steps,
        steps_per_epoch=steps,
        callbacks=[
            *callbacks,
            EpochStart(stage.steps_per_epoch, stage.training_pass()),
            evaluation,
            RateDecay(past=evaluation.past),
            checkpoint,  # with the rates of the next round
            *(
                [RateDrop(schedule.rate_drop_epoch, stage.steps_per_epoch)]
                if schedule.rate_drop_epoch
                else []
            ),
            keras.callbacks.TensorBoard(
                directory / "tensorboard", write_graph=False
            ),
        ],
        shuffle=False,  # the data set is shuffled; True only warns
        verbose=1 if sys.stdout.isatty() else 2,
    )
    model.load_weights(checkpoint.best_file)


def _compile(model, schedule):
    def rmsprop(rate, weight_decay):
        return keras.optimizers.RMSprop(
            rate, rho=0.9, momentum=0.9, epsilon=schedule.epsilon,
            weight_decay=weight_decay or None,
        )  # fmt: skip

    decay = schedule.weight_decay
    optimizers = {"optimizer": rmsprop(schedule.learning_rate, decay)}
    if schedule.backbone_learning_rate and not model.fixed_features:
        optimizers["backbone_optimizer"] = rmsprop(
            schedule.backbone_learning_rate, decay
        )
    if isinstance(model, IMCL):
        optimizers["graph_optimizer"] = rmsprop(
            schedule.graph_learning_rate, 0.0
        )
    model.compile(**optimizers, jit_compile=schedule.jit)
    # Built now, so that a checkpoint of the untrained model has their state.
    for optimizer, variables in model.variable_groups():
        optimizer.build(variables)


def _scores(precision: AveragePrecision, observed) -> dict:
    """mAP in percent: both conventions, and by groups of labels.

    Groups are a fifth of the labels each, ranked by their number of
    annotations in training, fewest first (sec. 4.5).
    """
    per_label = 100 * precision.per_label()
    annotations = np.bincount(observed.indices, minlength=len(per_label))
    order = np.argsort(annotations, kind="stable")
    groups = np.array_split(per_label[order], _NUM_GROUPS)
    skip = _mean(per_label)
    return {
        "mAP": skip,
        "mAP_empty_skip": skip,
        "mAP_empty_zero": 100 * precision.mean(empty="zero"),
        "mAP_groups": [_mean(group) for group in groups],
    }


def _mean(values) -> float | None:
    """Mean of the labels that have a positive; JSON has no NaN."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def _write_average_precision(precision, label_names, workdir):
    columns = (
        precision.per_label(), precision.positives(), precision.negatives()
    )  # fmt: skip
    rows = (
        (name, "" if np.isnan(ap) else f"{100 * ap:.4f}", *counts)
        for name, ap, *counts in zip(label_names, *columns, strict=True)
    )
    write_csv(
        workdir / "average_precision.csv",
        ("label", "AP", "positives", "negatives"),
        rows,
    )
