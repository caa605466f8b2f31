"""What several programs print: tables as Markdown, and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, each row as long as the header."""
    lines = [
        [*map(escaped, header)],
        ["---"] * len(header),
        *([*map(escaped, row)] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """A text for Markdown: no end of a cell, no beginning of a tag."""
    return text.replace("|", r"\|").replace("<", r"\<")


def in_words(flags: Mapping[str, str]) -> str:
    """Flags and their values, FLAG VALUE, apart by commas."""
    return ", ".join(f"{name} {value}" for name, value in flags.items())
