"""Trains, evaluates and exports: `python -m imcl_tf.main --dataset=scenes`.

Reads flags/DATASET.cfg ahead of the command line, which wins over it.
"""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags, logging

from imcl_tf import catalog, train
from imcl_tf.backbones import BACKBONES
from imcl_tf.files import fail, parse_or_fail
from imcl_tf.labels import HIDING_RULES

FLAGS = flags.FLAGS

flags.DEFINE_string("dataset", None, catalog.HELP)
flags.DEFINE_string("workdir", None, "Directory for every file of the run.")
flags.DEFINE_string("data_dir", None, catalog.DATA_DIR_HELP)
flags.DEFINE_enum("method", "imcl", list(train.METHODS), "What to train.")
flags.DEFINE_enum(
    "regime",
    "end_to_end",
    train.REGIMES,
    "Train the CNN too, or keep it fixed and store its features once.",
)
flags.DEFINE_enum("backbone", "small_cnn", list(BACKBONES), "CNN.")
flags.DEFINE_string(
    "backbone_weights",
    "none",
    "imagenet, none, a Keras weights file, or for resnet_v1_101 and vgg_16 a "
    "TF-Slim checkpoint.",
)
flags.DEFINE_integer(
    "image_size", 0, "Pixels; 0 = the backbone's own.", lower_bound=0
)
flags.DEFINE_string(
    "init_from", "", "Workdir of a run whose initial logistic model to take."
)
flags.DEFINE_float(
    "observed_fraction",
    1.0,
    "Share of the training labels to keep; the others are hidden.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_enum(
    "observed_rule",
    "per_label",
    list(HIDING_RULES),
    "Whether each label keeps one positive and one negative, or each image its "
    "share.",
)
flags.DEFINE_integer("batch_size", 32, "Images per step.", lower_bound=1)
flags.DEFINE_integer(
    "epochs", 3, "Of the method, from the logistic model on.", lower_bound=0
)
flags.DEFINE_float(
    "learning_rate", 1e-3, "Of classifiers and CNN.", lower_bound=0.0
)
flags.DEFINE_float(
    "backbone_learning_rate",
    0.0,
    "Of the CNN; 0 = --learning_rate.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "graph_learning_rate", 0.5, "Of the label graph.", lower_bound=0.0
)
flags.DEFINE_integer(
    "initial_epochs", 40, "Of the initial logistic model.", lower_bound=0
)
flags.DEFINE_float(
    "initial_learning_rate",
    1e-3,
    "Of the initial logistic model.",
    lower_bound=0.0,
)
flags.DEFINE_float("epsilon", 1.0, "Of RMSProp.", lower_bound=0.0)
flags.DEFINE_float(
    "initial_epsilon", 1e-7, "Of RMSProp, initial model.", lower_bound=0.0
)
flags.DEFINE_integer(
    "rate_drop_epoch",
    0,
    "Divide all rates by 10 after so many epochs; 0 = never.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "evaluate_every", 0, "Steps; 0 = once per epoch.", lower_bound=0
)
flags.DEFINE_bool("augment", True, "Crop and mirror training images at random.")
flags.DEFINE_float(
    "weight_decay", 0.0, "Times the rate, each step.", lower_bound=0.0
)
flags.DEFINE_float(
    "initial_weight_decay", 1.0, "Of the initial model.", lower_bound=0.0
)
flags.DEFINE_float("lambda_y", 1.0, "Weight of eq. (5).", lower_bound=0.0)
flags.DEFINE_float("lambda_f", 0.5, "Weight of eq. (6).", lower_bound=0.0)
flags.DEFINE_integer(
    "num_neighbors", 5, "k, similar images per image.", lower_bound=1
)
flags.DEFINE_string(
    "label_graph",
    "cooccurrence",
    "A: cooccurrence, identity, or a file of data_prep.label_graph.",
)
flags.DEFINE_integer(
    "graph_neighbors", 50, "k_a, neighbours per label.", lower_bound=1
)
_SIMILARITY = ("learned", "fixed", "none")
flags.DEFINE_enum("image_similarity", "learned", _SIMILARITY, "Ablation.")
flags.DEFINE_enum("label_similarity", "learned", _SIMILARITY, "Ablation.")
flags.DEFINE_integer(
    "dictionary_size",
    10_000,
    "Candidates beyond the minibatch, class-balanced; 0 = none.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "dictionary_refresh", 250, "Steps between refreshes.", lower_bound=1
)
flags.DEFINE_enum(
    "dictionary_gradient",
    "stored",
    ("stored", "full"),
    "What a selected dictionary image brings: its stored feature, or a new "
    "forward pass with gradient.",
)
flags.DEFINE_float(
    "class_weight",
    0.0,
    "a, magnitude of the class one-hot in eq. (5); 0 = without (CUB).",
    lower_bound=0.0,
)
_FORM = ("paper", "released")
flags.DEFINE_enum("solver", "paper", _FORM, "Of the image similarities.")
flags.DEFINE_float("solver_threshold", 1e-6, "Least score, released solver.")
flags.register_validator(
    "solver_threshold", lambda x: x > 0, "--solver_threshold must be > 0"
)
flags.DEFINE_enum("imputation", "paper", _FORM, "Of unobserved labels.")
flags.DEFINE_float(
    "positive_ratio", 2.0, "c: label targets lie in [-1/c, 1].", lower_bound=1.0
)
flags.DEFINE_enum(
    "reconstruction", "tanh", ("tanh", "linear"), "Form of eq. (5)."
)
flags.DEFINE_enum(
    "loss_scale",
    "initial",
    ("initial", "absolute"),
    "lambda times the initial ratio of the losses, or lambda as it is.",
)
flags.DEFINE_enum(
    "graph_update",
    "alternate",
    ("alternate", "joint"),
    "Step on A before the CNN (Algorithm 1) or together with it.",
)
flags.DEFINE_enum(
    "on_bad_image", "error", ("error", "skip"), "Unreadable images."
)
flags.DEFINE_enum(
    "mixed_precision", "none", ("none", "bfloat16"), "Of the CNN."
)
flags.DEFINE_enum(
    "strategy", "none", ("none", "mirrored"), "tf.distribute strategy."
)
flags.DEFINE_integer("seed", 0, "Of masks, order and initialisation.")

_MODEL_FLAGS = (
    "lambda_y", "lambda_f", "num_neighbors", "solver", "solver_threshold",
    "imputation", "positive_ratio", "reconstruction", "loss_scale",
    "graph_update", "image_similarity", "label_similarity",
    "dictionary_gradient", "class_weight",
)  # fmt: skip
_RUN_FLAGS = (
    "method", "regime", "backbone", "backbone_weights", "image_size",
    "init_from", "observed_fraction", "observed_rule", "batch_size", "augment",
    "label_graph", "graph_neighbors", "dictionary_size", "dictionary_refresh",
    "seed",
)  # fmt: skip


def parse_flags(argv: list[str]) -> list[str]:
    """Parses `argv` with the data set's flag file ahead of it.

    Raises:
      flags.Error: for a wrong flag or value, or a missing one.
    """
    given = FLAGS.read_flags_from_files(argv)
    name = _last_value(given, "dataset")
    if name is not None:
        given.insert(1, f"--flagfile={_preset(name)}")
    rest = FLAGS(given)
    for name in ("dataset", "workdir"):
        if not FLAGS[name].value:
            raise flags.ValidationError(f"--{name} must be given")
    if rest[1:]:
        raise flags.Error(f"unexpected argument {rest[1]!r}")
    return rest


def _last_value(argv: list[str], flag: str) -> str | None:
    """The value of `--flag=value` or `--flag value`, the last one given."""
    value = None
    for i, argument in enumerate(argv):
        name, equals, rest = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            value = rest if equals else "".join(argv[i + 1 : i + 2])
    return value


def _preset(dataset: str) -> Path:
    """The flag file of a data set, in the wheel or in the checkout."""
    try:
        name = catalog.check_name(dataset)
    except ValueError as error:
        raise flags.IllegalFlagValueError(str(error)) from error
    if name == "tfds":  # unknown pictures, as a folder's are
        name = "folder"
    installed = Path(str(importlib.resources.files("imcl_tf"))) / "flags"
    checkout = installed.parents[1] / "flags"
    for directory in (installed, checkout):
        path = directory / f"{name}.cfg"
        if path.is_file():
            return path
    raise flags.Error(f"{path}: no such flag file")


def main(argv: list[str]):
    del argv
    workdir = Path(FLAGS.workdir)
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    if FLAGS.mixed_precision != "none":
        keras.mixed_precision.set_global_policy(
            f"mixed_{FLAGS.mixed_precision}"
        )
    try:
        source = catalog.open_dataset(
            FLAGS.dataset, FLAGS.data_dir, FLAGS.on_bad_image
        )
        with _strategy().scope():
            results = train.run(
                source,
                workdir,
                schedule=_schedule(""),
                initial_schedule=_schedule("initial_"),
                settings=_settings(),
                model_options={name: FLAGS[name].value for name in _MODEL_FLAGS}
                if FLAGS.method == "imcl"
                else {},
                **{name: FLAGS[name].value for name in _RUN_FLAGS},
            )
    except (ValueError, OSError, tf.errors.OpError) as error:
        logging.debug("Where it happened:", exc_info=True)
        fail(error)
    print(
        f"{source.name} test mAP: initial logistic "
        f"{results['initial_logistic']['mAP']:.2f}, {FLAGS.method} "
        f"{results['mAP']:.2f}  ({workdir / 'results.json'})"
    )


def _schedule(prefix: str) -> train.Schedule:
    return train.Schedule(
        epochs=FLAGS[prefix + "epochs"].value,
        learning_rate=FLAGS[prefix + "learning_rate"].value,
        epsilon=FLAGS[prefix + "epsilon"].value,
        backbone_learning_rate=0.0 if prefix else FLAGS.backbone_learning_rate,
        graph_learning_rate=FLAGS.graph_learning_rate,
        weight_decay=FLAGS[prefix + "weight_decay"].value,
        rate_drop_epoch=0 if prefix else FLAGS.rate_drop_epoch,
        evaluate_every=FLAGS.evaluate_every,
    )


def _strategy():
    if FLAGS.strategy == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _settings() -> str:
    """Every setting of the run, to be replayed with --flagfile."""
    key_flags = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    lines = [flag.serialize() for flag in key_flags if flag.value is not None]
    return "\n".join(filter(None, lines)) + "\n"


if __name__ == "__main__":
    app.run(main, flags_parser=parse_or_fail(parse_flags))
