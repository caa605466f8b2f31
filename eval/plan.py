"""Plans: rows and columns of a table or figure, in one file of flags.

A plan is flags/NAME.cfg: flags of `imcl_tf.main` for all its runs, and a line

    --row=NAME: --FLAG=VALUE ...
    --column=NAME: --FLAG=VALUE ...

for each row and column. A cell has the flags of both; where a value is several
apart by "|", validation chooses one, on the first seed, for all seeds.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from eval import options
from eval.reported import reported
from imcl_tf import main as training
from imcl_tf import presets, program
from imcl_tf.options import Option
from imcl_tf.settings import (
    AUTO,
    FILES,
    METHOD_OPTIONS,
    PROGRAM_DATA,
    known_options,
)

FLAGS = flags.FLAGS
# Flags of `imcl_tf.main` that a plan has no use for.
_WITHOUT_EFFECT = {
    "search": "--tune='--FLAG=VALUE|VALUE' has validation choose",
    "resume": "the same command continues",
    "seed": "--seeds lists seeds",
}


class Variant(NamedTuple):
    """A row or a column.

    Attributes:
      name: as tables show it.
      flags: FLAG -> values, one or several to choose from.
    """

    name: str
    flags: dict[str, tuple[str, ...]]


class Plan(NamedTuple):
    """What a table or a figure is made of.

    Attributes:
      name: of its file.
      title: as its table is headed.
      reported: key of the paper's numbers, "" = none.
      dataset: the data set that it is meant for.
      rows: at least one.
      columns: at least one.
    """

    name: str
    title: str
    reported: str
    dataset: str
    rows: tuple[Variant, ...]
    columns: tuple[Variant, ...]

    def cells(self) -> list[tuple[str, str]]:
        """Names of row and column of each cell, a column after another."""
        return [(r.name, c.name) for c in self.columns for r in self.rows]


def parse(argv: list[str]) -> list[str]:
    """Parses a command line, the plan's flags ahead of it.

    Raises:
      flags.Error: see `imcl_tf.main.parse_flags`; or for a missing or unknown
        plan.
    """
    program.define(options.PLAN)
    for name in ("plan", "runs"):
        if not training.last_value(argv, name):
            training.define_flags()
            FLAGS(argv)  # an unknown flag is said first
            raise flags.ValidationError(f"--{name} must be given")
    try:
        file = plan_file(str(training.last_value(argv, "plan")))
    except (FileNotFoundError, ValueError) as error:
        raise flags.IllegalFlagValueError(f"--{error}") from error
    ahead = [f"--flagfile={file}"]
    data = training.last_value(argv, "data")
    if not data:
        lines = FLAGS.read_flags_from_files([argv[0], *ahead])
        own = training.last_value(lines, "own_data") or ""
        ahead += shlex.split(own)
    rest = training.parse_flags([
        argv[0], *ahead, *argv[1:], *(_data_flags(data) if data else ()),
        f"--workdir={training.last_value(argv, 'runs')}",
    ])  # fmt: skip
    for name, instead in _WITHOUT_EFFECT.items():
        if FLAGS[name].present and FLAGS[name].value is not False:
            raise flags.ValidationError(
                f"--{name} has no effect here: {instead}"
            )
    return rest


def _data_flags(data: str) -> list[str]:
    kind, _, place = data.partition(":")
    if kind == "folder":
        return ["--dataset=folder", f"--data_dir={place}"]
    return [f"--dataset={data}"]


def read() -> Plan:
    """The plan that the flags hold.

    Raises:
      ValueError: see `variants`; if there is no row, if a row and a column
        set the same flag, or if the paper's numbers are not known.
    """
    known = options_of_rows()
    rows = variants("row", FLAGS.row, known)
    if not rows:
        raise ValueError(f"plan: {FLAGS.plan} has no --row")
    columns = variants("column", FLAGS.column, known) or (Variant("", {}),)
    for row, column in itertools.product(rows, columns):
        if both := row.flags.keys() & column.flags.keys():
            raise ValueError(
                f"row {row.name} and column {column.name} both set "
                f"--{min(both)}"
            )
    reported(FLAGS.reported)  # of a known table
    file = plan_file(FLAGS.plan)
    lines = FLAGS.read_flags_from_files([file.name, f"--flagfile={file}"])
    dataset = training.last_value(lines, "dataset") or ""
    return Plan(
        file.stem, FLAGS.title or file.stem, FLAGS.reported, dataset, rows,
        columns,
    )  # fmt: skip


def options_of_rows() -> dict[str, Option]:
    """What rows, columns and --tune may set: no seed, no place, no data."""
    common = {option.name for option in (*PROGRAM_DATA, *FILES)} | {"seed"}
    return {
        name: option
        for name, option in known_options().items()
        if name not in common
    }


def plan_file(name: str) -> Path:
    """The file of a plan.

    Args:
      name: flags/NAME, with or without .cfg.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is no text.
    """
    path = Path(name)
    path = path if path.suffix == ".cfg" else path.with_name(f"{path.name}.cfg")
    if not path.is_file():
        raise FileNotFoundError(f"plan: {path}: no such file")
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"plan: {path} is no text in UTF-8") from error
    return path


def variants(
    flag: str, lines: Sequence[str], options: dict[str, Option]
) -> tuple[Variant, ...]:
    """Reads the lines of a flag, NAME: --FLAG=VALUE ...

    Args:
      flag: "row" or "column".
      lines: its values.
      options: that rows may set, by name.

    Raises:
      ValueError: for another form, a name that comes twice, an unknown flag,
        or a value that the flag does not take.
    """
    found: list[Variant] = []
    for line in lines:
        name, colon, text = line.partition(":")
        name = name.strip()
        if not name or not colon or "," in name:
            raise ValueError(
                f"{flag}: expected NAME: --FLAG=VALUE ..., without a comma in "
                f"the name, got {line!r}"
            )
        if name in {variant.name for variant in found}:
            raise ValueError(f"{flag}: {name!r} comes twice")
        found.append(Variant(name, flags_of(f"{flag} {name}", text, options)))
    return tuple(found)


def flags_of(
    what: str, text: str, options: dict[str, Option]
) -> dict[str, tuple[str, ...]]:
    """Reads flags of a line, with one value or several apart by "|".

    Args:
      what: names the line in errors.
      text: --FLAG=VALUE ..., as in a shell.
      options: that may be set, by name.

    Returns:
      FLAG -> values, each of which the flag takes.

    Raises:
      ValueError: for an unknown flag, one that comes twice, or a wrong value.
    """
    flags: dict[str, tuple[str, ...]] = {}
    try:
        for part in shlex.split(text):
            option, values = presets.parsed(part, options)
            chosen = tuple(x.strip() for x in values.split("|"))
            for value in chosen:
                option.checked(value)
                if option.name == "method":
                    _check_method(value)
            if option.name in flags:
                raise ValueError(f"--{option.name} comes twice")
            flags[option.name] = chosen
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return flags


def _check_method(name: str):
    if name not in (AUTO, *METHOD_OPTIONS):
        from imcl_tf.methods import method  # also those of other packages

        method(name)


def trials(flags: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """All combinations of the values of flags."""
    return [
        dict(zip(flags, values, strict=True))
        for values in itertools.product(*flags.values())
    ]


def named(
    flag: str, text: str, known: Sequence[Variant]
) -> tuple[Variant, ...]:
    """Those variants that a flag lists by name, in their order; "" = all.

    Raises:
      ValueError: see `listed`.
    """
    if not text:
        return tuple(known)
    if [variant.name for variant in known] == [""]:
        raise ValueError(f"--{flag}: the plan has none")
    names = listed(flag, text, [variant.name for variant in known])
    return tuple(variant for variant in known if variant.name in names)


def listed(flag: str, text: str, known: Iterable[str] = ()) -> list[str]:
    """What a flag lists, apart by commas.

    Args:
      flag: its name.
      text: its value.
      known: what it may list, none = whole numbers.

    Raises:
      ValueError: for anything else, for what is listed twice, or for nothing.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    what = "; ".join(known) or "whole numbers"
    for part in parts:
        if not (part in known if known else re.fullmatch(r"\d+", part)):
            raise ValueError(f"--{flag} must be of {what}, got {part!r}")
    if not known:
        parts = [str(int(part)) for part in parts]
    if not parts or len({*parts}) < len(parts):
        raise ValueError(f"--{flag} must be of {what}, each once, got {text!r}")
    return parts
