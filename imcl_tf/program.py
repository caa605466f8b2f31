"""How programs start: flags and `--help` of `Option`s, a quiet TensorFlow."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from logging import Formatter
from pathlib import Path
from types import MappingProxyType
from typing import cast

from absl import app, flags, logging

from imcl_tf.files import parse_or_fail
from imcl_tf.options import Option, Value

_HELP = {"-h", "-?", "--help", "-help", "--helpfull", "--helpshort"}
# The flags that were made of options.
_made: weakref.WeakSet[flags.Flag] = weakref.WeakSet()
_KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
# What TensorFlow's libraries write while they are loaded, before they know
# TF_CPP_MIN_LOG_LEVEL: information, and that it is written to stderr.
_INFORMATION = re.compile(rb"I\d{4} |WARNING: All log messages before absl::")
_END = b"end of filter\n"


def start(
    usage: str,
    options: Sequence[Option],
    shared: Mapping[str, Iterable[Option]] = MappingProxyType({}),
    parse: Callable[[list[str]], list[str]] = flags.FLAGS,
) -> list[str]:
    """Reads the command line of a program, then imports TensorFlow quietly.

    For programs that import TensorFlow at their top: called before, it answers
    `--help` and refuses a wrong flag at once.

    Args:
      usage: text before the flags in the help.
      options: the program's flags.
      shared: heading in the help -> flags that another program defines.
      parse: reads the command line.

    Returns:
      the program's name and the arguments that are no flags, for `run`.
    """
    sys.excepthook = _end_if_interrupted
    define(options)
    print_help_if_asked(sys.argv, usage, {"flags": options, **shared})
    arguments = parse_or_fail(parse)(sys.argv)
    quiet_tensorflow()
    return arguments


def run(
    main: Callable[[list[str]], None],
    arguments: list[str],
    continues: str = "the same command begins again",
    parse: Callable[[list[str]], list[str]] = lambda parsed: parsed,
):
    """Runs a program; after an interrupt it ends with one line, status 130.

    Args:
      main: called with what `parse` returns.
      arguments: what `start` returned, which is parsed already.
      continues: what the line says after an interrupt (SIGINT or SIGTERM).
      parse: reads `arguments` if they are not parsed yet.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app.run(main, arguments, flags_parser=parse)
    except KeyboardInterrupt:
        print(f"imcl_tf: interrupted; {continues}", file=sys.stderr)
        sys.exit(130)


def _end_if_interrupted(kind, error, trace):
    """Hook for what no one handles, while a program still imports."""
    if issubclass(kind, KeyboardInterrupt):
        print("imcl_tf: interrupted before it began", file=sys.stderr)
        os._exit(130)
    sys.__excepthook__(kind, error, trace)


def quiet_tensorflow():
    """Imports TensorFlow without its lines about missing GPUs.

    Warnings and errors are written as ever, and what fails reaches Python as an
    exception. With TF_CPP_MIN_LOG_LEVEL in the environment, other than 3, the
    import is as the user wants it. With --verbosity so is what absl writes;
    without it these are warnings and errors, without time and place.
    """
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setFormatter(
            Formatter("imcl_tf: %(levelname)s: %(message)s")
        )
    logging.get_absl_handler().addFilter(_is_of_use)
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if level == "3" and "tensorflow" not in sys.modules:
        with _without_information():
            importlib.import_module("tensorflow")


def _is_of_use(record) -> bool:
    """Not what TFDS warns of, though no user of a program can change it."""
    return not any(
        part in str(record.msg)
        for part in ("Using custom data configuration", "is deprecated")
    )


@contextlib.contextmanager
def _without_information() -> Iterator[None]:
    """Keeps lines of information off file descriptor 2.

    A process of its own filters them: should this one be aborted, its last
    words are written all the same.
    """
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(writing)
        _copy_all_but_information(reading)
        os._exit(0)
    os.close(reading)
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        # A process that was started within may hold the pipe open.
        os.write(writing, _END)
        os.close(writing)
        os.close(kept)
        os.waitpid(child, 0)


def _copy_all_but_information(reading: int):
    with open(reading, "rb") as lines:
        for line in lines:
            if line.endswith(_END):
                os.write(2, line.removesuffix(_END))
                return
            if not _INFORMATION.match(line):
                os.write(2, line)


def end_with_the_reader():
    """Ends the program, quietly, once nobody reads its output: `| head`."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def define(options: Iterable[Option], into: flags.FlagValues = flags.FLAGS):
    """Makes flags of options; of options with equal names the first counts.

    Args:
      options: declared ones.
      into: gets the flags.

    Raises:
      flags.DuplicateFlagError: if a flag exists that is of no option.
    """
    for option in options:
        if option.name in into and into[option.name] in _made:
            continue
        _make_flag(option, into)
        _made.add(into[option.name])


class _Checked(flags.ArgumentParser):
    """Parses the flag of an option of several forms or choices at once."""

    def __init__(self, option: Option):
        super().__init__()
        self._option = option

    def parse(self, argument: str) -> Value:
        return self._option.checked(argument)


def _make_flag(option: Option, into: flags.FlagValues):
    if option.repeated:
        flags.DEFINE_multi_string(
            option.name, [], option.help, flag_values=into
        )
        return
    if option.forms or option.several:
        flags.DEFINE(
            _Checked(option), option.name, option.default, option.help,
            flag_values=into,
        )  # fmt: skip
        return
    if option.choices:
        flags.DEFINE_enum(
            option.name, str(option.default) or None, option.choices,
            option.help, flag_values=into,
        )  # fmt: skip
        return
    makers: dict[type, Callable] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    bounds = {"lower_bound": option.minimum, "upper_bound": option.maximum}
    bounds = {name: x for name, x in bounds.items() if x is not None}
    make = makers[type(option.default)]
    make(option.name, option.default, option.help, flag_values=into, **bounds)


def values(options: Iterable[Option]) -> dict[str, Value]:
    """Returns the values of the flags of options."""
    return {o.name: cast(Value, flags.FLAGS[o.name].value) for o in options}


def to_flags(settings: Mapping[str, Value]) -> str:
    """Returns settings as the text of a flag file, a line each."""
    lines = (
        f"--{'' if value else 'no'}{name}"
        if isinstance(value, bool)
        else f"--{name}={value}"
        for name, value in settings.items()
    )
    return "".join(f"{line}\n" for line in lines)


def print_help_if_asked(
    argv: list[str], usage: str, groups: Mapping[str, Iterable[Option]]
):
    """Ends the program with its help if the command line asks for it.

    Args:
      argv: the command line.
      usage: text before the flags, which names the program as `python -m`.
      groups: heading -> options, each listed once.
    """
    if not _HELP & set(argv[1:]):
        return
    lines = [_named(usage.strip(), argv[0])]
    seen: set[str] = set()
    for heading, options in groups.items():
        lines.append(f"\n{heading}:")
        for option in options:
            if option.name not in seen:
                lines.append(_entry(option))
            seen.add(option.name)
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        # `--help | head` has read enough. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _named(usage: str, program: str) -> str:
    """`usage` with the name that a console script was called by."""
    name = Path(program).name
    if not name.startswith("imcl-"):
        return usage
    return re.sub(r"python -m imcl_tf\.\w+", name, usage)


def _entry(option: Option) -> str:
    default = option.default
    if isinstance(default, bool):
        flag = f"--[no]{option.name}"
        default = str(default).lower()
    elif option.choices:
        between = "," if option.several else "|"
        values = between.join((*option.choices, *option.forms))
        flag = f"--{option.name}={values}"
    else:
        flag = f"--{option.name}={_KINDS[type(default)]}"
    known = " May be given more than once." if option.repeated else ""
    known = known if default == "" else f" Default: {default}."
    text = textwrap.fill(
        option.help + known, 79, initial_indent=" " * 6,
        subsequent_indent=" " * 6, break_on_hyphens=False,
    )  # fmt: skip
    return f"  {flag}\n{text}"
