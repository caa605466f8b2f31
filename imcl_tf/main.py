"""Trains, evaluates and exports: `python -m imcl_tf.main --dataset=scenes`.

Reads flags/DATASET.cfg ahead of the command line, which wins over it.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import sys
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags, logging

from imcl_tf import catalog, search, train
from imcl_tf.backbones import BACKBONES
from imcl_tf.files import fail, parse_or_fail
from imcl_tf.labels import HIDING_RULES
from imcl_tf.multilabel import METHODS, Option

FLAGS = flags.FLAGS

flags.DEFINE_string("dataset", None, catalog.HELP)
flags.DEFINE_string("workdir", None, "Directory for every file of the run.")
flags.DEFINE_string("data_dir", None, catalog.DATA_DIR_HELP)
flags.DEFINE_enum("method", "imcl", list(METHODS), "What to train.")
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
flags.DEFINE_string(
    "label_graph",
    "cooccurrence",
    "A: cooccurrence, identity, or a file of data_prep.label_graph.",
)
flags.DEFINE_integer(
    "graph_neighbors", 50, "k_a, neighbours per label.", lower_bound=1
)
flags.DEFINE_integer(
    "dictionary_size",
    10_000,
    "Candidates beyond the minibatch, class-balanced; 0 = none.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "dictionary_refresh",
    10,
    "Images of the dictionary, in turn, whose features each step renews.",
    lower_bound=1,
)
flags.DEFINE_bool(
    "boost",
    False,
    "Boost positive attribution scores (methods whose scores are the "
    "classifier's, end to end, CNNs that pool a feature map).",
)
flags.DEFINE_float("boost_factor", 5.0, "alpha, of --boost.", lower_bound=1.0)
flags.DEFINE_enum(
    "on_bad_image", "error", ("error", "skip"), "Unreadable images."
)
flags.DEFINE_enum(
    "mixed_precision", "none", ("none", "bfloat16"), "Of the CNN."
)
flags.DEFINE_bool(
    "jit", False, "Compile the CNN with XLA, for accelerators; slower on CPUs."
)
flags.DEFINE_enum(
    "strategy", "none", ("none", "mirrored"), "tf.distribute strategy."
)
flags.DEFINE_integer("seed", 0, "Of masks, order and initialisation.")

flags.DEFINE_string(
    "search",
    "",
    "JSON file of settings to try on validation first (imcl_tf/search.py); "
    "may be interrupted and called again.",
)
flags.DEFINE_bool(
    "resume", False, "Go on with the run of --workdir from its latest round."
)


def _define(option: Option):
    """Makes an option of a method a flag."""
    if option.choices:
        flags.DEFINE_enum(
            option.name, option.default, option.choices, option.help
        )
        return
    define = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }[type(option.default)]
    bounds = {"lower_bound": option.least, "upper_bound": option.most}
    bounds = {name: x for name, x in bounds.items() if x is not None}
    define(option.name, option.default, option.help, **bounds)


for _option in dict.fromkeys(
    option for cls in METHODS.values() for option in cls.OPTIONS
):
    _define(_option)

_RUN_FLAGS = (
    "method", "regime", "backbone", "backbone_weights", "image_size",
    "init_from", "observed_fraction", "observed_rule", "batch_size", "augment",
    "label_graph", "graph_neighbors", "dictionary_size", "dictionary_refresh",
    "seed", "boost", "boost_factor",
)  # fmt: skip
_NOT_SEARCHED = (
    "dataset", "workdir", "data_dir", "search", "resume", "seed", "strategy",
    "mixed_precision", "jit", "on_bad_image",
)  # fmt: skip
# What does not change the initial logistic model.
_AFTER_INITIAL = {
    "method", "epochs", "learning_rate", "backbone_learning_rate",
    "graph_learning_rate", "epsilon", "weight_decay", "rate_drop_epoch",
    "label_graph", "graph_neighbors", "dictionary_size", "dictionary_refresh",
    "boost", "boost_factor",
    *(option.name for cls in METHODS.values() for option in cls.OPTIONS),
}  # fmt: skip


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
        if FLAGS.search:
            trials = search.read_trials(Path(FLAGS.search))
            with overridden(tune(source, workdir, trials)):
                results = run(source, workdir)
        else:
            results = run(source, workdir, resume=FLAGS.resume)
    except (
        ValueError, OSError, FloatingPointError, tf.errors.OpError
    ) as error:  # fmt: skip
        logging.debug("Where it happened:", exc_info=True)
        fail(error)
    print(
        f"{source.name} test mAP: initial logistic "
        f"{results['initial_logistic']['mAP']:.2f}, {results['method']} "
        f"{results['mAP']:.2f}  ({workdir / 'results.json'})"
    )


def run(
    source, workdir: Path, resume: bool = True, tuning: bool = False
) -> dict:
    """`train.run` with the settings of the flags."""
    keras.backend.clear_session()  # of a run before in this process
    with _strategy().scope():
        return train.run(
            source,
            workdir,
            schedule=_schedule(""),
            initial_schedule=_schedule("initial_"),
            settings=_settings(),
            resume=resume,
            tuning=tuning,
            model_options={
                option.name: FLAGS[option.name].value
                for option in METHODS[FLAGS.method].OPTIONS
            },
            **{name: FLAGS[name].value for name in _RUN_FLAGS},
        )


def tune(source, workdir: Path, trials: list[dict[str, str]]) -> dict[str, str]:
    """Searches `trials` on validation; returns the flags of the best.

    All trials start from one logistic model, WORKDIR/logistic, unless
    --init_from names one or a searched flag makes it another one.
    """
    for name in trials[0]:
        if name not in FLAGS or name in _NOT_SEARCHED:
            raise ValueError(f"search: {name} is no flag to search")
    for settings in trials:  # wrong values now, not after hours
        with overridden(settings):
            pass
    shared = {}
    if not FLAGS.init_from and set(trials[0]) <= _AFTER_INITIAL:
        shared["init_from"] = str(workdir / "logistic")
        plain = {"method": "logistic", "epochs": "0", "boost": "false"}
        with overridden(plain):
            run(source, workdir / "logistic")

    def trial(settings, directory):
        with overridden(settings):
            return run(source, directory, tuning=True)

    with overridden(shared):
        return {**shared, **search.search(trials, trial, workdir)}


@contextlib.contextmanager
def overridden(settings: dict[str, str]):
    """A context in which flags have other values.

    Raises:
      ValueError: for a wrong value.
    """
    before = {name: FLAGS[name].value for name in settings}
    try:
        for name, value in settings.items():
            try:
                setattr(FLAGS, name, FLAGS[name].parser.parse(value))
            except (ValueError, flags.Error) as error:
                raise ValueError(f"--{name}={value}: {error}") from error
        yield
    finally:
        for name, value in before.items():
            setattr(FLAGS, name, value)


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
        jit=FLAGS.jit,
    )


def _strategy():
    if FLAGS.strategy == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _options(classes) -> set[str]:
    return {option.name for cls in classes for option in cls.OPTIONS}


def _settings() -> str:
    """Every setting that the run depends on, to be replayed with --flagfile."""
    ignored = _options(METHODS.values()) - _options([METHODS[FLAGS.method]])
    ignored |= {"resume", "search"}
    key_flags = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    lines = [
        flag.serialize()
        for flag in key_flags
        if flag.value is not None and flag.name not in ignored
    ]
    return "\n".join(filter(None, lines)) + "\n"


if __name__ == "__main__":
    app.run(main, flags_parser=parse_or_fail(parse_flags))
