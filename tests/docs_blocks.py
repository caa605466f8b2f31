"""The code blocks of the README and of docs/, and the commands in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# In the order of their commands: a run that one page begins, others resume.
PAGES = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "index", "own_pictures", "methods", "datasets", "python",
            "machines", "reliability", "reproduction", "results", "speed",
            "departures",
        )
    ),
    "CONTRIBUTING.md",
)  # fmt: skip
LANGUAGES = ("bash", "python", "json", "bibtex", "text", "yaml")
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*?) -->\n)?"
    r"```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A code block.

    Attributes:
      page: path below the checkout.
      language: "bash", ...
      text: what is between the fences.
      title: name of the file that it shows, "" = none.
      reason: why it is not run, "" = it is.
    """

    page: str
    language: str
    text: str
    title: str
    reason: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The blocks of a page, in order."""
    found = [
        Block(page, m["language"], m["text"], m["title"] or "",
              m["reason"] or "")
        for m in _BLOCK.finditer(text_of(page))
    ]  # fmt: skip
    return [b for b in found if language in (None, b.language)]


def commands(page: str) -> list[str]:
    """The commands of a page that run, in order."""
    texts = [b.text for b in blocks(page, "bash") if not b.reason]
    lines = "".join(texts).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line.strip()) for line in lines if line.strip()]


def prose(page: str) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", text_of(page))


def inline_code(page: str) -> list[str]:
    """What stands between single backticks, on one line each."""
    found = re.findall(r"`([^`]+)`", prose(page))
    return [re.sub(r"\s+", " ", code) for code in found]


def tables(page: str) -> list[list[list[str]]]:
    """Each table as rows of cells, without its line of dashes."""
    found, rows = [], []
    for line in [*text_of(page).splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            rows.append([cell.strip() for cell in cells])
        elif rows:
            found.append([rows[0], *rows[2:]])
            rows = []
    return found
