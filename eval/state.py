"""The state of a plan, NAME.json: which run each of its cells has.

`eval.run` writes it, `eval.tables` reads it.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from absl import logging

from imcl_tf.data.kept import parse_json
from imcl_tf.files import locked, replacing

State = dict[str, Any]
_THEN = " && "
# What a state and each of its cells say -> its type.
_OF_STATES = {
    "plan": str, "title": str, "reported": str, "dataset": str,
    "own_dataset": str, "digests": dict, "command": str, "cells": list,
}  # fmt: skip
_OF_CELLS = {
    "row": str, "column": str, "seed": str, "settings": dict, "chosen": dict,
    "run": str | None, "logistic": str | None, "error": str | None,
}  # fmt: skip


def read(file: Path) -> State | None:
    """What a file says of a plan, None if it is of something else.

    Raises:
      ValueError: if it is damaged.
    """
    try:
        state = parse_json(file.read_bytes())
        if not isinstance(state, dict) or not {"plan", "cells"} <= {*state}:
            return None
        for name, kind in _OF_STATES.items():
            if not isinstance(state.get(name), kind):
                raise ValueError(f"{name} is {state.get(name)!r:.50}")
        _check_cells(state["cells"])
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged: {error}; remove it and run the plan again, "
            "which keeps its runs"
        ) from error
    return state


def _check_cells(cells: list[Any]):
    if not cells:
        raise ValueError("it has no cells")
    for cell in cells:
        for name, kind in _OF_CELLS.items():
            if not isinstance(cell, dict) or name not in cell:
                raise ValueError(f"a cell has no {name}")
            if not isinstance(cell[name], kind):
                raise ValueError(f"{name} of a cell is {cell[name]!r:.50}")
        if not cell["seed"].isdecimal():
            raise ValueError(f"a seed is {cell['seed']!r:.50}")


def write(state: State, place: Path):
    """Writes a state; cells of other seeds that were there stay.

    So do the commands that ran them, apart by "&&".

    Args:
      state: of one plan. Nothing stays of other data or other settings.
      place: directory of the file.

    Raises:
      ValueError: if what was there is damaged.
      OSError: if the file cannot be written.
    """
    file = place / f"{state['plan']}.json"
    with locked(place):  # processes with other seeds write it, too
        if file.is_file():
            state = _joined(read(file), state, file)
        with replacing(file) as new:
            new.write_text(json.dumps(state, indent=2) + "\n", "utf-8")


def _joined(before: State | None, now: State, file: Path) -> State:
    """With the cells of other seeds, if nothing but seeds differs."""
    if before is None:
        return now
    if difference := differing(before, now):
        logging.warning(
            "%s was of runs with other settings (%s); it is of these now, the "
            "others are still there and are found again with theirs", file,
            difference,
        )  # fmt: skip
        return now
    seeds = {cell["seed"] for cell in now["cells"]}
    kept = [cell for cell in before["cells"] if cell["seed"] not in seeds]
    commands = before["command"].split(_THEN), [now["command"]]
    return now | {
        "command": _THEN.join(dict.fromkeys(itertools.chain(*commands))),
        "cells": sorted([*kept, *now["cells"]], key=lambda x: int(x["seed"])),
    }


def differing(one: State, other: State) -> str:
    """What tells states of a plan apart, "" if one table may hold both.

    Rows and columns that only one has do not.
    """
    for name in sorted({*one["digests"], *other["digests"]}):
        if one["digests"].get(name) != other["digests"].get(name):
            return f"{name} of the data"
    settings = _settings(other)
    for cell, own in _settings(one).items():
        others = settings.get(cell, own)
        for name in sorted({*own, *others}):
            values = [x.get(name, "not given") for x in (own, others)]
            if values[0] != values[1]:
                where = ", ".join(filter(None, cell))
                return f"{where}: --{name} {values[0]}, {values[1]}"
    return ""


def _settings(state: State) -> dict[tuple[str, str], dict[str, str]]:
    return {
        (cell["row"], cell["column"]): cell["settings"]
        for cell in state["cells"]
    }
