"""Flags and `--help` of the package's programs, made from `Option`s."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from absl import flags

from imcl_tf.options import Option, Value

_HELP = {"-h", "-?", "--help", "-help", "--helpfull", "--helpshort"}
_KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def quiet_tensorflow():
    """Keeps TensorFlow's lines about missing GPUs off a program's output.

    What fails still reaches Python as an exception. Must precede the import of
    TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def define(options: Iterable[Option]):
    """Makes flags of options; of those with equal names the first counts."""
    for option in options:
        if option.name in flags.FLAGS:
            continue
        if option.choices:
            flags.DEFINE_enum(
                option.name, str(option.default), option.choices, option.help
            )
            continue
        makers: dict[type, Callable] = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }
        bounds = {"lower_bound": option.minimum, "upper_bound": option.maximum}
        bounds = {name: x for name, x in bounds.items() if x is not None}
        make = makers[type(option.default)]
        make(option.name, option.default, option.help, **bounds)


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
      usage: text before the flags.
      groups: heading -> options, each listed once.
    """
    if not _HELP & set(argv[1:]):
        return
    print(usage.strip())
    seen: set[str] = set()
    for heading, options in groups.items():
        print(f"\n{heading}:")
        for option in options:
            if option.name not in seen:
                print(_entry(option))
            seen.add(option.name)
    sys.exit(0)


def _entry(option: Option) -> str:
    default = option.default
    if isinstance(default, bool):
        flag = f"--[no]{option.name}"
        default = str(default).lower()
    elif option.choices:
        flag = f"--{option.name}={'|'.join(option.choices)}"
    else:
        flag = f"--{option.name}={_KINDS[type(default)]}"
    known = "" if default == "" else f" Default: {default}."
    text = textwrap.fill(
        option.help + known, 79, initial_indent=" " * 6,
        subsequent_indent=" " * 6, break_on_hyphens=False,
    )  # fmt: skip
    return f"  {flag}\n{text}"
