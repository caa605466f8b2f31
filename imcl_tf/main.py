"""Trains, evaluates and exports: `python -m imcl_tf.main --dataset=scenes`.

Reads flags/DATASET.cfg ahead of the command line, which wins over it.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from absl import flags, logging

from imcl_tf import presets, program, settings
from imcl_tf.files import fail, parse_or_fail
from imcl_tf.options import Option, Value

FLAGS = flags.FLAGS
USAGE = """
usage: python -m imcl_tf.main --dataset=NAME --workdir=DIR [--FLAG=VALUE ...]

Trains a multi-label model from partial labels, evaluates it on the test split
and exports it. The settings of flags/NAME.cfg are read first; the command line
wins over them. --flagfile=FILE reads further flags from a file.
"""
_FIXED = "fixed_features"
# What a head that is solved looks at.
_OF_HEAD = {"regime", "unit_norm", "penalty"}
GROUPS = {
    "data": (*settings.PROGRAM_DATA, *settings.DATA),
    "model": settings.MODEL,
    "method": (
        *settings.METHOD,
        settings.BUDGET,
        *(
            option
            for name, options in settings.METHOD_OPTIONS.items()
            if name != settings.DEFAULT_METHOD
            for option in options
        ),
    ),
    "training": (*settings.FILES, settings.EXPORT, *settings.TRAINING),
    "IMCL": settings.METHOD_OPTIONS[settings.DEFAULT_METHOD],
    "similar training pictures": settings.NEIGHBORS,
    "machine": settings.MACHINE,
}
# What a search may not change: where a run is, and what it is compared on.
_NOT_SEARCHED = {
    *(option.name for option in settings.PROGRAM_DATA),
    *(option.name for option in settings.FILES),
    *(option.name for option in settings.MACHINE),
    settings.EXPORT.name,
    "seed",
}
# What data of features have no use for.
_OF_PICTURES = {
    "augment", "augment_level", "backbone", "backbone_input", "backbone_layer",
    "backbone_learning_rate", "backbone_weights", "boost", "boost_factor",
    "image_size", "layer_decay",
}  # fmt: skip
# What changes the initial logistic model.
OF_INITIAL = {
    option.name
    for options in (
        settings.DATA, settings.MODEL, (settings.INITIAL_HEAD,),
        settings.INITIAL_STAGE, settings.BOTH_STAGES,
    )
    for option in options
}  # fmt: skip


def define_flags():
    """Not at import: other programs may have flags of the same names."""
    for options in GROUPS.values():
        program.define(options)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses `argv` with the data set's flag file ahead of it.

    Raises:
      flags.Error: for a wrong flag or value, or a missing one.
    """
    program.print_help_if_asked(argv, USAGE, GROUPS)
    define_flags()
    given = FLAGS.read_flags_from_files(argv)
    # A file that Windows wrote may begin with a byte order mark.
    given = [argument.removeprefix("\ufeff") for argument in given]
    _define_flags_of(last_value(given, "method"))
    name = last_value(given, "dataset")
    if name is not None:
        try:
            given.insert(1, f"--flagfile={presets.path(name)}")
        except ValueError as error:
            raise flags.IllegalFlagValueError(f"--{error}") from error
    rest = FLAGS(given)
    for name in ("dataset", "workdir"):
        if not FLAGS[name].value:
            raise flags.ValidationError(f"--{name} must be given")
    if rest[1:]:
        raise flags.Error(f"unexpected argument {rest[1]!r}")
    if FLAGS.features:
        _refuse_flags_of_pictures(given[2:])
    return rest


def _refuse_flags_of_pictures(given: list[str]):
    """Refuses what a user gave beside --features without any effect.

    Args:
      given: the command line, without what the preset says.
    """
    names = {x.lstrip("-").partition("=")[0] for x in given if x[:1] == "-"}
    wrong = sorted(
        name
        for name in names & _OF_PICTURES
        if FLAGS[name].value not in (False, 0, "none")
    )
    if wrong:
        raise flags.ValidationError(
            f"--{wrong[0]} is for pictures; with --features there is no network"
        )
    if "regime" in names and FLAGS.regime != _FIXED:
        raise flags.ValidationError(
            f"--regime={FLAGS.regime} trains a network; with --features there "
            f"is none, expected --regime={_FIXED}"
        )


def _define_flags_of(method: str | None):
    """Makes flags of the options of a method that `settings` does not know."""
    if method is None or method in {settings.AUTO, *settings.METHOD_OPTIONS}:
        return
    program.quiet_tensorflow()
    from imcl_tf.methods import method as named

    try:
        program.define(named(method).OPTIONS)
    except ValueError as error:
        raise flags.IllegalFlagValueError(f"--{error}") from error


def _options_of(method: str) -> tuple[Option, ...]:
    """The options of a method; auto sets those of the methods that it tries."""
    from imcl_tf.methods import method as named

    return () if method == settings.AUTO else named(method).OPTIONS


def last_value(argv: list[str], flag: str) -> str | None:
    """The value of a flag on a command line, the last one given.

    Args:
      argv: with `--flag=value` or `--flag value`.
      flag: its name.

    Returns:
      the value, None if it is not given.
    """
    value = None
    for i, argument in enumerate(argv):
        name, equals, rest = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            value = rest if equals else "".join(argv[i + 1 : i + 2])
    return value


def current_settings() -> dict[str, Value]:
    """Returns every setting of the flags that a run depends on."""
    options = (
        *settings.PROGRAM_DATA, settings.BUDGET, *settings.RUN,
        *settings.MACHINE, *_options_of(FLAGS.method),
    )  # fmt: skip
    chosen = {"workdir": FLAGS.workdir, **program.values(options)}
    return chosen | ({"regime": _FIXED} if FLAGS.features else {})


def main(argv: list[str]):
    """Runs what the flags say."""
    del argv
    program.quiet_tensorflow()
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from imcl_tf.backbones.make import check
    from imcl_tf.data.datasets import load_dataset
    from imcl_tf.ops import workers
    from imcl_tf.ops.metrics import Support
    from imcl_tf.report.page import leave_report
    from imcl_tf.training import search, together
    from imcl_tf.training.conversion import formats_of
    from imcl_tf.training.workdir import Workdir

    workdir = Path(FLAGS.workdir)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        if FLAGS.strategy == "multi_worker":
            together.start(FLAGS.method, FLAGS.search)
        Workdir(workdir).check_writable()
        check(
            FLAGS.backbone, FLAGS.backbone_weights, FLAGS.backbone_layer,
            FLAGS.backbone_input,
        )  # fmt: skip
        formats_of(FLAGS.export)
        data = load_dataset(
            FLAGS.dataset, FLAGS.data_dir, FLAGS.on_bad_image,
            **program.values(settings.FOLDER),
        )  # fmt: skip
        _warn_of_random_weights()
        _warn_of_what_has_no_effect()
        chosen = current_settings()
        resume = FLAGS.resume
        if FLAGS.search:
            trials = search.read_trials(Path(FLAGS.search))
            chosen |= tune(data, chosen, workdir, trials)
            resume = _is_of_best(workdir, chosen, trials)
        with together.one_workdir(workdir) as place:
            results = run(data, chosen, place, resume=resume)
    except (
        ValueError, OSError, ImportError, FloatingPointError,
        tf.errors.OpError,
    ) as error:  # fmt: skip
        logging.debug("Where it happened:", exc_info=True)
        fail(together.explained(error))
    if workers.current().index:
        return
    leave_report(workdir, data)
    print(
        f"{data.name} test mAP: initial logistic "
        f"{results['initial_logistic']['mAP']:.2f}, {results['method']} "
        f"{results['mAP']:.2f}  ({workdir / 'results.json'})\n"
        f"over {Support(**results['mAP_support'])}"
    )


def _warn_of_random_weights():
    """A person's own pictures are too few to train a network from scratch."""
    from imcl_tf.backbones.make import is_pretrained

    if (
        FLAGS.dataset == "folder"
        and not FLAGS.features
        and not FLAGS.init_from
        and not is_pretrained(FLAGS.backbone, FLAGS.backbone_weights)
    ):
        logging.warning(
            "backbone: %s begins with random weights; pretrained ones matter "
            "more than the method: --backbone=keras:EfficientNetV2B0 "
            "--backbone_weights=imagenet, or --backbone=FILE.keras",
            FLAGS.backbone,
        )  # fmt: skip


def _warn_of_what_has_no_effect():
    """Names flags that are given and that the run does not look at."""
    usual = presets.load(FLAGS.dataset)
    for why, options in _without_effect():
        given = {
            f"--{option.name}={FLAGS[option.name].value}"
            for option in options
            if FLAGS[option.name].value
            != usual.get(option.name, option.default)
        }
        if given:
            logging.warning(
                "%s, so that %s has no effect", why, " ".join(sorted(given))
            )


def _without_effect() -> Iterator[tuple[str, Iterable[Option]]]:
    """Options that a run does not look at, and why."""
    is_fixed = bool(FLAGS.features) or FLAGS.regime == _FIXED
    is_solved = is_fixed and FLAGS.initial_head == "solved"
    # A network, or a head, that is trained looks at all of these.
    in_both = {
        option.name: option for option in settings.BOTH_STAGES
        if is_solved and option.name not in _OF_HEAD
    }  # fmt: skip
    neighbors = {
        option.name: option for option in settings.NEIGHBORS
        if option.name != "neighbor_images"
    }  # fmt: skip
    if FLAGS.method == settings.AUTO:
        yield (
            "method: auto chooses method and settings itself (--method=NAME "
            "takes them)",
            [
                *settings.METHOD_STAGE, *neighbors.values(),
                *itertools.chain(*settings.METHOD_OPTIONS.values()),
                *(in_both[x] for x in presets.load("folder") if x in in_both),
            ],
        )  # fmt: skip
        return
    if FLAGS.method == "logistic" and is_solved:
        yield (
            "method: logistic regression is solved, not trained, where its "
            "features fit in memory",
            [*settings.METHOD_STAGE, *in_both.values()],
        )
    if FLAGS.neighbors != "given":
        yield (
            f"neighbors: {FLAGS.neighbors}, not given",
            [neighbors[x] for x in neighbors if x.startswith("neighbor_")],
        )


def run(
    data: Any,
    chosen: dict[str, Value],
    workdir: Path,
    resume: bool = True,
    tuning: bool = False,
) -> dict[str, Any]:
    """Makes the objects of a run from their names, and runs it.

    Args:
      data: `MultiLabelDataset`.
      chosen: as `current_settings` returns; `workdir` replaces what it says.
      workdir: of the run.
      resume: see `imcl_tf.run`.
      tuning: see there.

    Returns:
      the results, as `imcl_tf.run`.
    """
    import keras
    import tensorflow as tf

    from imcl_tf.training.auto import auto
    from imcl_tf.training.run import OPTIONS
    from imcl_tf.training.run import run as run_objects

    method = str(chosen["method"])
    names = {option.name for option in (*OPTIONS, *_options_of(method))}
    arguments: dict[str, Any] = {
        name: x for name, x in chosen.items() if name in names
    }
    arguments |= {
        "resume": resume,
        "settings": program.to_flags(replayed(chosen, workdir)),
    }
    keras.backend.clear_session()  # of a run before in this process
    precision = str(chosen["mixed_precision"])
    keras.mixed_precision.set_global_policy(
        "float32" if precision == "none" else f"mixed_{precision}"
    )
    keras.utils.set_random_seed(chosen["seed"])
    strategy = tf.distribute.get_strategy()
    # Workers need no strategy: the methods exchange what they must.
    if chosen["strategy"] == "mirrored":
        strategy = _mirrored()
    with strategy.scope():
        network = None
        if not data.train.num_features:
            network = network_of(chosen)
        if method == settings.AUTO:
            budget = float(chosen["budget"])
            return auto(data, network, workdir, budget=budget, **arguments)
        return run_objects(
            data, network, method, workdir, tuning=tuning, **arguments
        )


def network_of(chosen: dict[str, Any]) -> Any:
    """Makes the network of a run, see `run`."""
    from imcl_tf.backbones.make import backbone

    return backbone(
        str(chosen["backbone"]),
        str(chosen["backbone_weights"]),
        int(chosen["image_size"]),
        str(chosen["backbone_layer"]),
        str(chosen["backbone_input"]),
    )


@functools.cache
def _mirrored():
    """All GPUs. One for all runs: collectives may fail under a second one."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy()


def replayed(chosen: dict[str, Value], workdir: Path) -> dict[str, Value]:
    """The settings that flags.cfg keeps: none without effect.

    Args:
      chosen: as `current_settings` returns.
      workdir: of the run.
    """
    own = {option.name for option in _options_of(str(chosen["method"]))}
    other = {
        option.name
        for options in settings.METHOD_OPTIONS.values()
        for option in options
    } - own
    if chosen["method"] != settings.AUTO:
        other.add(settings.BUDGET.name)
    if chosen.get("features"):
        other |= _OF_PICTURES
    kept = {name: x for name, x in chosen.items() if name not in other}
    return kept | {"workdir": str(workdir)}


def changed(
    chosen: dict[str, Value], change: dict[str, str]
) -> dict[str, Value]:
    """Returns settings with some changed, and the options of their method.

    Args:
      chosen: as `current_settings` returns.
      change: option -> text of its new value.

    Raises:
      ValueError: for an unknown option or a wrong value.
    """
    own = _options_of(change.get("method", str(chosen["method"])))
    options = settings.known_options() | {option.name: option for option in own}
    for name in change:
        if name not in options:
            raise ValueError(f"{name} is no option")
    return (
        program.values(own)
        | chosen
        | {name: options[name].checked(text) for name, text in change.items()}
    )


def tune(
    data: Any,
    chosen: dict[str, Value],
    workdir: Path,
    trials: list[dict[str, str]],
) -> dict[str, Value]:
    """Searches `trials` on validation; returns the settings of the best.

    All trials start from one logistic model, WORKDIR/logistic, unless
    --init_from names one or a searched option changes it.
    """
    from imcl_tf.training import search

    if chosen["method"] == settings.AUTO:
        raise ValueError(
            "search: --method=auto searches by itself; expected another "
            "--method, or no --search"
        )
    for name in trials[0]:
        if name in _NOT_SEARCHED or name not in settings.known_options():
            raise ValueError(f"search: {name} is no option to search")
        if chosen.get("features") and name in {*_OF_PICTURES, "regime"}:
            raise ValueError(f"search: with features, {name} has no effect")
    for trial in trials:  # wrong values now, not after hours
        changed(chosen, trial)
    shared = {}
    if not chosen["init_from"] and not set(trials[0]) & OF_INITIAL:
        shared["init_from"] = str(workdir / "logistic")
        plain = {"method": "logistic", "epochs": "0", "boost": "false"}
        run(data, changed(chosen, plain), workdir / "logistic")

    def train(trial, directory):
        return run(
            data, changed(chosen, shared | trial), directory, tuning=True
        )

    best = search.search(trials, train, workdir)
    return changed(chosen, shared | best)


def _is_of_best(
    workdir: Path, chosen: dict[str, Value], trials: list[dict[str, str]]
) -> bool:
    """Whether the run in `workdir`, if there is one, is of the best trial.

    With more trials than before another one may be the best now.
    """
    from imcl_tf.training.workdir import Workdir

    before = Workdir(workdir).settings()
    for name in trials[0]:
        # One that the run's method does not have makes no difference.
        was, best = before.get(name, chosen[name]), chosen[name]
        if str(was) != str(best):
            logging.warning(
                "search: the best trial has --%s=%s now, not %s: the run in %s "
                "is begun anew", name, best, was, workdir,
            )  # fmt: skip
            return False
    return True


def console():
    """Runs the program `imcl-train`."""
    program.run(
        main,
        sys.argv,
        "the same command with --resume continues the run",
        parse_or_fail(parse_flags),
    )


if __name__ == "__main__":
    console()
