"""Presets: the settings of flags/NAME.cfg, for programs and for Python."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from imcl_tf.options import Option, Value
from imcl_tf.settings import dataset_kind, known_options


def path(name: str) -> Path:
    """Returns the flag file of a preset, in the wheel or in the checkout.

    Args:
      name: of the preset, or of a data set: "coco/2017", "tfds:voc".

    Raises:
      ValueError: if there is no such preset.
    """
    kind = name if name in names() else dataset_kind(name)
    if kind == "tfds":  # unknown pictures, as a folder's are
        kind = "folder"
    return _directory() / f"{kind}.cfg"


def names() -> tuple[str, ...]:
    """Returns the names of all presets; a plan, which has rows, is none.

    Example:
      >>> import imcl_tf
      >>> "folder" in imcl_tf.presets.names()
      True
    """
    return tuple(
        sorted(
            file.stem
            for file in _directory().glob("*.cfg")
            if "\n--row=" not in file.read_text("utf-8")
        )
    )


def load(name: str) -> dict[str, Value]:
    """Reads the settings of a preset.

    Args:
      name: of the preset, or of a data set.

    Returns:
      option -> value, in the option's type: what flags/NAME.cfg sets, but for
      the method, which `imcl_tf.run` takes by itself.

    Raises:
      ValueError: if there is no such preset, or for a wrong line in it.

    Example:
      >>> import imcl_tf
      >>> imcl_tf.presets.load("folder")["learning_rate"]
      0.03
    """
    options = known_options()
    settings: dict[str, Value] = {}
    try:
        file = path(name)
    except ValueError as error:
        raise ValueError(
            f"the preset must be one of {', '.join(names())}, or the name of "
            f"a data set, got {name!r}"
        ) from error
    for line in file.read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            option, text = parsed(line, options)
            settings[option.name] = option.checked(text)
    settings.pop("method", None)
    return settings


def parsed(line: str, options: dict[str, Option]) -> tuple[Option, str]:
    """Reads a line of a flag file.

    Args:
      line: --FLAG=VALUE, --FLAG or --noFLAG.
      options: by name.

    Returns:
      the option, and its value as text.

    Raises:
      ValueError: if there is no such option.
    """
    flag, equals, text = line.lstrip("-").partition("=")
    if flag in options:
        return options[flag], text if equals else "true"
    if not equals and flag.startswith("no") and flag[2:] in options:
        return options[flag[2:]], "false"
    raise ValueError(f"{line!r}: no such option")


def _directory() -> Path:
    installed = Path(str(importlib.resources.files("imcl_tf"))) / "flags"
    checkout = installed.parents[1] / "flags"
    return installed if installed.is_dir() else checkout
