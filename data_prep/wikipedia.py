"""Label graphs from Wikipedia: the labels that each introduction names.

The graph `wikipedia` of the paper (table 3) connects each label to the labels
that the introduction of its article names most often. Articles are read from

a dump    *-pages-articles*.xml[.bz2] of https://dumps.wikimedia.org, streamed;
          mwparserfromhell turns introductions into plain text
a folder  files `Article title.txt` of plain text, the introduction or the whole
          article; optionally redirects.tsv with lines from<TAB>to

A disambiguation page lists the articles that a title may mean. In a dump it has
a template such as {{disambiguation}}, and the candidates are the pages it links
to. In a folder its introduction says "may refer to:", and the candidates are
the pages titled `Name (something)`. The label's article is the candidate whose
introduction names the most other labels; of equal ones, the first listed.
"""

from __future__ import annotations

import bz2
import csv
import io
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import scipy.sparse
from absl import logging

_WORD = re.compile(r"\w+")
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
_HEADING = re.compile(r"^==.+==", re.MULTILINE)
_TEMPLATE_NAME = re.compile(r"\{\{([^{}|]+)")
_MAY_REFER = re.compile(r"\bmay (?:also )?refer to:")
# Templates of disambiguation pages without "disambig" in their name.
_SHORT_TEMPLATES = {"dab", "disamb", "geodis", "hndis"}
# Links and tags whose content is not prose.
_NO_PROSE = re.compile(r"\s*(?:category|file|image)\s*:", re.IGNORECASE)
_NO_TEXT = ("gallery", "ref", "table")


class Articles(NamedTuple):
    """The labels' articles.

    Attributes:
      titles: C titles, None for a label without article.
      counts: [C, C] int64 csr_array; n(j, j') is the number of times that the
        introduction of label j's article names label j'.
    """

    titles: tuple[str | None, ...]
    counts: scipy.sparse.csr_array


class _Page(NamedTuple):
    """The parts of a page that are kept.

    Attributes:
      redirect: title that a redirect leads to; None for other pages.
      listed: titles on a disambiguation page, in order; None for other pages.
      counts: label number -> times that the introduction names the label.
    """

    redirect: str | None = None
    listed: tuple[str, ...] | None = None
    counts: Mapping[int, int] = {}


def read_articles(
    path: str | Path,
    label_names: Sequence[str],
    chosen: Mapping[str, str] | None = None,
) -> Articles:
    """Finds the labels' articles and counts label names in them.

    A label's article has the label's name as its title, or else the name
    without its part in parentheses. A name is counted as whole words, in upper
    or lower case, without its part in parentheses, and also with -s or -es at
    its end.

    Args:
      path: dump or folder, see above. A dump is read 2 to 4 times, because a
        redirect may lead to a page further up; an unpacked dump is read about
        eight times as fast.
      label_names: C names.
      chosen: label name -> title of the article that was chosen by hand.

    Returns:
      `Articles`.

    Raises:
      OSError: if a file cannot be read.
      ValueError: if a file is malformed.
    """
    path, chosen = Path(path), chosen or {}
    reader = _folder_reader if path.is_dir() else _dump_reader
    read = reader(path, _name_counter(label_names))
    wanted = [
        [normal_title(chosen[name])]
        if name in chosen
        else [normal_title(name), normal_title(bare_name(name))]
        for name in label_names
    ]
    pages: dict[str, _Page] = {}
    _fetch(read, itertools.chain(*wanted), pages)
    ends = [_follow(title, pages) for titles in wanted for title in titles]
    listed = [pages[end].listed or () for end in ends if end is not None]
    _fetch(read, itertools.chain(*listed), pages)
    titles = tuple(
        _first(_article(title, label, pages) for title in of_label)
        for label, of_label in enumerate(wanted)
    )
    counts = [pages[title].counts if title else {} for title in titles]
    return Articles(titles, _as_matrix(counts))


def similarities(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Divides each row of counts by its largest one.

    Args:
      counts: [C, C] csr_array, n(j, j').

    Returns:
      [C, C] float64 csr_array, n(j, j') / max n(j, .); empty rows stay empty.
    """
    largest = np.maximum(counts.max(axis=1).toarray().ravel(), 1)
    return scipy.sparse.csr_array(counts / largest[:, np.newaxis])


def read_chosen(path: str | Path, label_names: Sequence[str]) -> dict[str, str]:
    """Reads a CSV file label,article of articles chosen by hand.

    Args:
      path: the file; a row with an empty article chooses none.
      label_names: C names.

    Returns:
      label name -> article title.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if a row is malformed; the text names its line.
    """
    rows = csv.reader(io.StringIO(_read_text(Path(path)), newline=""))
    if (header := next(rows, [])) != ["label", "article"]:
        raise ValueError(
            f"{path}: expected columns label,article, got {header}"
        )
    known = set(label_names)
    chosen: dict[str, str] = {}
    for row in filter(None, rows):
        where = f"{path}: line {rows.line_num}"
        if len(row) != 2:
            raise ValueError(f"{where}: expected label,article, got {row}")
        label, article = row
        if label not in known:
            raise ValueError(f"{where}: no label {label!r}")
        if chosen.setdefault(label, article) != article:
            raise ValueError(f"{where}: label {label!r} is given twice")
    return {label: article for label, article in chosen.items() if article}


def normal_title(title: str) -> str:
    """Returns a title in the form in which Wikipedia looks it up.

    Underscores become spaces, the first letter becomes a capital, and
    `#section` is dropped.
    """
    title = unicodedata.normalize("NFC", title).partition("#")[0]
    title = " ".join(title.replace("_", " ").removeprefix(":").split())
    return title[:1].upper() + title[1:]


def bare_name(name: str) -> str:
    """Returns `name` without its parts in parentheses."""
    return " ".join(_IN_PARENTHESES.sub(" ", name).split())


def _name_counter(label_names) -> Callable[[str], Counter[int]]:
    """Returns `count(text)`: label -> number of times that text names it."""
    names: dict[tuple[str, ...], list[int]] = {}
    for label, name in enumerate(label_names):
        if words := _words(bare_name(name)):
            names.setdefault(words, []).append(label)
    plurals: dict[tuple[str, ...], list[int]] = {}
    for words, labels in names.items():
        for ending in ("s", "es"):
            plural = (*words[:-1], words[-1] + ending)
            plurals.setdefault(plural, []).extend(labels)
    # A word that is itself a label's name is not the plural of another label.
    phrases = plurals | names
    lengths = {len(phrase) for phrase in phrases}

    def count(text):
        words, counts = _words(text), Counter()
        for length in lengths:
            for start in range(len(words) - length + 1):
                counts.update(phrases.get(words[start : start + length], ()))
        return counts

    return count


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _fetch(read, titles, pages: dict[str, _Page]):
    """Adds the pages of `titles` and of their redirects to `pages`."""
    missing = set()
    wanted = set(titles) - pages.keys()
    while wanted:
        asked = set(wanted)
        # `read` looks at `wanted` for each page, so redirects add to it.
        for title, page in read(wanted):
            wanted.remove(title)
            pages[title] = page
            target = page.redirect
            if target and target not in pages and target not in missing:
                wanted.add(target)
            if not wanted:
                break
        missing |= asked - pages.keys()
        wanted -= missing


def _follow(title: str, pages: Mapping[str, _Page]) -> str | None:
    """Follows redirects from a title; None = no such page, or a loop."""
    seen = set()
    while title in pages and title not in seen:
        target = pages[title].redirect
        if target is None:
            return title
        seen.add(title)
        title = target
    return None


def _article(title: str, label: int, pages) -> str | None:
    """The title of a label's article, found from `title`; None = none."""
    end = _follow(title, pages)
    if end is None or pages[end].listed is None:
        return end
    options = [_follow(option, pages) for option in pages[end].listed]
    return max(
        (o for o in options if o is not None and pages[o].listed is None),
        key=lambda option: len(pages[option].counts.keys() - {label}),
        default=None,
    )


def _first(values):
    return next((value for value in values if value is not None), None)


def _as_matrix(counts: Sequence[Mapping[int, int]]) -> scipy.sparse.csr_array:
    """Turns row -> column -> value into an [C, C] int64 csr_array."""
    rows = np.repeat(np.arange(len(counts)), [len(row) for row in counts])
    columns = np.fromiter(itertools.chain(*counts), int)
    values = np.fromiter((n for row in counts for n in row.values()), int)
    return scipy.sparse.csr_array((values, (rows, columns)), [len(counts)] * 2)


def _folder_reader(directory: Path, count):
    """Returns `read(wanted)`, which yields (title, `_Page`) of a folder."""
    files: dict[str, Path] = {}
    for path in sorted(directory.glob("*.txt")):
        other = files.setdefault(normal_title(path.stem), path)
        if other != path:
            raise ValueError(f"{path}: has the same title as {other.name}")
    if not files:
        raise ValueError(f"{directory}: expected files TITLE.txt, found none")
    redirects = _read_redirects(directory / "redirects.tsv")

    def page(title):
        if title in redirects:
            return _Page(redirect=redirects[title])
        text = _HEADING.split(_read_text(files[title]))[0]
        if not _MAY_REFER.search(text):
            return _Page(counts=count(text))
        start = f"{bare_name(title)} ("
        return _Page(listed=tuple(t for t in files if t.startswith(start)))

    def read(wanted):
        while found := wanted & (files.keys() | redirects.keys()):
            for title in sorted(found):
                yield title, page(title)

    return read


def _read_redirects(path: Path) -> dict[str, str]:
    redirects = {}
    lines = _read_text(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        titles = [normal_title(title) for title in line.split("\t")]
        if len(titles) != 2 or not all(titles):
            raise ValueError(f"{path}: line {number}: expected from<TAB>to")
        redirects[titles[0]] = titles[1]
    return redirects


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from error


def _dump_reader(path: Path, count):
    """Returns `read(wanted)`, which yields (title, `_Page`) of a dump."""

    def read(wanted):
        logging.info("%s: looking for %d pages", path, len(wanted))
        for title, redirect, text in _dump_pages(path):
            title = normal_title(title)
            if title not in wanted:
                continue
            if redirect:
                yield title, _Page(redirect=normal_title(redirect))
            elif _is_disambiguation(text):
                yield title, _Page(listed=_links(text))
            else:
                yield title, _Page(counts=count(_introduction(text)))

    return read


def _dump_pages(path: Path) -> Iterator[tuple[str, str | None, str]]:
    """Yields (title, target of a redirect or None, wikitext) of articles."""
    opener = bz2.open if path.suffix == ".bz2" else open
    with opener(path, "rb") as file:
        try:
            events = ElementTree.iterparse(file, ("start", "end"))
            _, root = next(events)
            xmlns, name = root.tag[: root.tag.find("}") + 1], root.tag
            if name != f"{xmlns}mediawiki":
                raise ValueError(
                    f"its outermost element is <{name.removeprefix(xmlns)}>"
                )
            for event, element in events:
                if event == "start" or element.tag != f"{xmlns}page":
                    continue
                if element.findtext(f"{xmlns}ns", "0") == "0":
                    redirect = element.find(f"{xmlns}redirect")
                    yield (
                        element.findtext(f"{xmlns}title", ""),
                        None if redirect is None else redirect.get("title"),
                        element.findtext(f"{xmlns}revision/{xmlns}text", ""),
                    )
                # Otherwise all pages would stay in memory.
                root.clear()
        # bz2 raises EOFError and OSError for truncated and for other files.
        except (ElementTree.ParseError, ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"{path}: not a complete XML dump of MediaWiki: {error}"
            ) from error


def _is_disambiguation(wikitext: str) -> bool:
    names = _TEMPLATE_NAME.findall(wikitext)
    return any(
        name in _SHORT_TEMPLATES
        # {{disambiguation needed}} marks a link within an article.
        or ("disambig" in name and "needed" not in name)
        for name in (name.strip().lower() for name in names)
    )


def _links(wikitext: str) -> tuple[str, ...]:
    import mwparserfromhell

    links = mwparserfromhell.parse(wikitext).filter_wikilinks()
    titles = (normal_title(str(link.title)) for link in links)
    return tuple(dict.fromkeys(title for title in titles if title))


def _introduction(wikitext: str) -> str:
    """The plain text before the first heading."""
    import mwparserfromhell

    code = mwparserfromhell.parse(_HEADING.split(wikitext)[0])
    others = code.RECURSE_OTHERS
    for link in code.filter_wikilinks(
        others,
        matches=lambda link: _NO_PROSE.match(str(link.title)) is not None,
    ):
        code.remove(link)
    for tag in code.filter_tags(others, matches=lambda t: t.tag in _NO_TEXT):
        code.remove(tag)
    return code.strip_code()
