"""Docstrings as mkdocstrings is to read them."""

from __future__ import annotations

import re

import griffe

# "`Class`: what it holds" below Returns; the type is named without backticks.
_RETURNED = re.compile(r"(\bReturns:\n\s+)`(\w+)`(?=: )")


class Docstrings(griffe.Extension):
    """Adapts this project's docstrings to what griffe parses."""

    def on_object(self, *, obj: griffe.Object, **kwargs):
        """Changes the docstring of one object."""
        if obj.docstring is None:
            return
        # `Example:` alone would be taken for a note, not for a session.
        text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
        obj.docstring.value = _RETURNED.sub(r"\1\2", text)
