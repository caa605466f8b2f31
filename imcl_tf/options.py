"""Options: a setting declared once is an argument, a flag and a preset's entry.

Free of TensorFlow, so that `--help` and presets answer at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Value = bool | int | float | str


class Option(NamedTuple):
    """A setting of a method or of a run.

    Attributes:
      name: of the argument, the attribute and the flag.
      default: its type is that of the option: bool, int, float or str.
      help: one sentence.
      choices: allowed values of a str, () = any.
      forms: further ones, in which a word in capitals stands for any text, as
        in "FILE.keras".
      minimum: smallest number allowed, None = any.
      maximum: largest number allowed, None = any.
      repeated: whether a program's flag may be given more than once; its value
        is then a list of texts.
      several: whether the value is any number of `choices`, apart by commas.

    Example:
      >>> import imcl_tf
      >>> epochs = imcl_tf.Option("epochs", 3, "Passes.", minimum=0)
      >>> epochs.checked("5")
      5
    """

    name: str
    default: Value
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    repeated: bool = False
    forms: tuple[str, ...] = ()
    several: bool = False

    def checked(self, value: Any) -> Value:
        """Returns `value` in the type of the option.

        Args:
          value: of that type; or its text, as in a flag file; or a number that
            the type holds exactly.

        Raises:
          ValueError: if it is of another type, not one of `choices` or out of
            bounds.
        """
        value = self._typed(value)
        if self.several:
            return self._several(value)
        known = (*self.choices, *self.forms)
        if known and value not in self.choices and not self._has_form(value):
            raise ValueError(
                f"{self.name} must be one of {', '.join(known)}, got {value!r}"
            )
        for bound, sign, word in (
            (self.minimum, 1, ">="),
            (self.maximum, -1, "<="),
        ):
            if bound is not None and not sign * value >= sign * bound:
                raise ValueError(
                    f"{self.name} must be {word} {bound:g}, got {value}"
                )
        return value

    def _several(self, value):
        names = value.split(",") if value else []
        if not {*names} <= {*self.choices}:
            raise ValueError(
                f"{self.name} must be any of {', '.join(self.choices)}, apart "
                f"by commas, got {value!r}"
            )
        return value

    def _has_form(self, value):
        return any(
            re.fullmatch(re.sub("[A-Z]+", ".+", re.escape(form)), value)
            for form in self.forms
        )

    def _typed(self, value):
        kind = type(self.default)
        try:
            if isinstance(value, bool) and kind in (int, float):
                raise ValueError  # Python counts with True
            if kind is bool:
                return _BOOLEANS[str(value).lower()]
            if kind is str:
                if not isinstance(value, str):
                    raise ValueError
                return value
            typed = kind(value)
            if kind is int and not isinstance(value, str) and typed != value:
                raise ValueError  # 2.5 is no whole number
            if kind is float and not math.isfinite(typed):
                raise ValueError
            return typed
        except (KeyError, ValueError, TypeError, OverflowError):
            raise ValueError(
                f"{self.name} must be a {_KINDS[kind]}, got {value!r}"
            ) from None


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
}


def check_all(
    options: Iterable[Option], given: Mapping[str, Any]
) -> dict[str, Value]:
    """Returns the value of each option: the one given, else its default.

    Args:
      options: declared ones.
      given: name -> value.

    Returns:
      name -> checked value, in the order of `options`.

    Raises:
      TypeError: for a name that is no option.
      ValueError: for a value that `Option.checked` refuses.
    """
    options = list(options)
    unknown = set(given) - {option.name for option in options}
    if unknown:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
    return {o.name: o.checked(given.get(o.name, o.default)) for o in options}
