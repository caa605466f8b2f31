"""Wikipedia's dumps: wikitext, redirects, ambiguity, broken files."""

import bz2
import re
import tracemalloc

import pytest

from data_prep import wikipedia
from tests.data_prep.wikipedia_files import HEAD, named, page_xml, write_dump

# From a dump.

DOG = """{{Short description|Domesticated canid}}
{{About|the animal|other uses|Dog (disambiguation)}}
{{Infobox
| name = cat
| kin = {{ubl|[[cat]]|cat}}
}}
[[File:Dogs.jpg|thumb|A [[cat]] and a '''cat''']]
{| class="wikitable"
| cat
|}
The '''dog''' (''Canis familiaris'') is a [[Canidae|wolf]].<ref>A cat, 2020
</ref> It eats&nbsp;[[fish]]es<!-- a cat -->, [[bone]] and {{lang|la|cat}} fog\
{{disambiguation needed|date=May 2024}}.
[http://example.org/cat A link] & [[:Category:Cat|fish]].
<gallery>
File:Cat.jpg|cat
</gallery>
[[Category:Cat]]

==Cat== <!-- a note -->
cat
"""


@pytest.fixture
def parser():
    return pytest.importorskip("mwparserfromhell")


@pytest.mark.parametrize("name", ["dump.xml", "dump.xml.bz2"])
def test_dump(tmp_path, parser, name):
    """The introduction is prose: no template, picture, table or note."""
    names = ("dog", "cat", "wolf", "fish", "bone", "fog", "link", "canid")
    dump = write_dump(tmp_path / name, ("Dog", DOG))
    articles = wikipedia.read_articles(dump, names)
    assert articles.titles == ("Dog",) + (None,) * 7
    assert named(articles, names) == {
        "dog": {"dog": 1, "wolf": 1, "fish": 2, "bone": 1, "fog": 1, "link": 1}
    }


def test_dump_of_several_streams(tmp_path, parser):
    """*-multistream.xml.bz2: bz2 files one after another."""
    whole = write_dump(tmp_path / "a.xml", ("Dog", DOG), ("Cat", "A cat."))
    content = whole.read_bytes()
    parts = [content[:900], content[900:2500], content[2500:]]
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(b"".join(map(bz2.compress, parts)))
    assert wikipedia.read_articles(path, ["cat", "dog"]).titles == (
        "Cat", "Dog"
    )  # fmt: skip


def test_old_dump(tmp_path, parser):
    """Any version of the format, or none."""
    dump = write_dump(tmp_path / "a.xml", ("Dog", "A cat."))
    text = dump.read_text()
    for xmlns in ('xmlns="http://www.mediawiki.org/xml/export-0.3/"', ""):
        dump.write_text(re.sub('xmlns="[^"]*"', xmlns, text))
        articles = wikipedia.read_articles(dump, ["cat", "dog"])
        assert articles.counts.toarray().tolist() == [[0, 0], [1, 0]]


PAGES = [
    # Redirects to a page before, after, in a chain, in a loop, to nowhere.
    ("Car", "A car, or a dog."),
    ("Automobile", "#REDIRECT [[Car]]", 0, "Car"),
    ("Motor car", "#REDIRECT [[Automobile]]", 0, "Automobile"),
    ("Hound", "#REDIRECT [[Dog]]", 0, "Dog"),
    ("Talk:Dog", "fog", 1),
    ("Dog", "Template", 10),
    ("Dog", "A dog and a car & fog.\n=== x ===\nhound"),
    ("Loop", "", 0, "Looop"),
    ("Looop", "", 0, "Loop"),
    ("Dead end", "", 0, "Nowhere"),
    ("AT&T", "A dog."),
    ("R & D", "", 0, "AT&T"),
    ("Blank", ""),
]


@pytest.mark.parametrize("backwards", [False, True])
def test_redirects_of_a_dump(tmp_path, parser, backwards):
    names = ("automobile", "motor_car", "hound", "loop", "dead end",
             "AT&T", "R & D", "blank", "dog", "fog")  # fmt: skip
    pages = PAGES[::-1] if backwards else PAGES
    dump = write_dump(tmp_path / "dump.xml", *pages)
    articles = wikipedia.read_articles(dump, names)
    assert articles.titles == (
        "Car", "Car", "Dog", None, None, "AT&T", "AT&T", "Blank", "Dog", None
    )  # fmt: skip
    assert named(articles, names) == {
        "automobile": {"dog": 1},
        "motor_car": {"dog": 1},
        "hound": {"dog": 1, "fog": 1},
        "AT&T": {"dog": 1},
        "R & D": {"dog": 1},
        "dog": {"dog": 1, "fog": 1},
    }


MERCURY = """{{Wiktionary|Mercury}}
'''Mercury''' most commonly refers to:
* [[Mercury (planet)]], the nearest to the [[Sun]]
* [[Mercury (element)|Mercury]], a metal
==Other==
* [[#Other|here]]
* [[Mercury (god)]]
* [[mercury_(cars)#Models|Mercury cars]]
* [[Mercury (none)]]
* [[File:Mercury.jpg]]
* [[Mercury (other)]]
{{disambiguation|geo}}
"""


@pytest.mark.parametrize("backwards", [False, True])
def test_ambiguous_dump(tmp_path, parser, backwards):
    """Pages that a list names may be redirects, or ambiguous themselves."""
    pages = [
        ("Merc", "#REDIRECT [[Mercury]]", 0, "Mercury"),
        ("Mercury", MERCURY),
        ("Mercury (planet)", "A planet. Sun, sun, sun."),
        ("Sun", "A star."),
        ("Mercury (god)", "", 0, "Mercurius"),
        ("Mercurius", "A god with a wing and a car."),
        ("Mercury (cars)", "A car with a wing on the planet."),
        ("Mercury (other)", "Sun planet god wing car {{Disambig}}"),
    ]
    names = ("mercury", "Sun", "planet", "god", "wing", "car", "merc")
    dump = write_dump(
        tmp_path / "dump.xml", *(pages[::-1] if backwards else pages)
    )
    articles = wikipedia.read_articles(dump, names)
    # The god and the cars name three others each: the first listed.
    assert articles.titles[0] == articles.titles[-1] == "Mercurius"
    assert articles.titles[1:6] == ("Sun", None, None, None, None)
    assert named(articles, names)["merc"] == {"god": 1, "wing": 1, "car": 1}
    # Without the label god, the cars.
    articles = wikipedia.read_articles(dump, (*names[:3], *names[4:]))
    assert articles.titles[0] == "Mercury (cars)"


@pytest.mark.parametrize(
    ("template", "ambiguous"),
    [
        ("{{disambiguation}}", True),
        ("{{Disambig}}", True),
        ("{{ disambiguation | geo }}", True),
        ("{{dab}}", True),
        ("{{Hndis|Crane, Al}}", True),
        ("{{human name disambiguation\n|x}}", True),
        ("{{Disambiguation needed|date=x}}", False),
        ("{{Other uses|Dog (disambiguation)}}", False),
        ("{{x|disambiguation}}", False),
        ("disambiguation", False),
    ],
)
def test_disambiguation_templates(tmp_path, parser, template, ambiguous):
    dump = write_dump(
        tmp_path / "a.xml", ("Dog", f"[[Cat]] {template}"), ("Cat", "A cat.")
    )
    titles = wikipedia.read_articles(dump, ["dog"]).titles
    assert titles == ("Cat" if ambiguous else "Dog",)


def test_only_wanted_pages_are_parsed(tmp_path, parser, monkeypatch):
    parsed = []
    parse = parser.parse
    monkeypatch.setattr(
        parser, "parse", lambda text: parsed.append(text) or parse(text)
    )
    others = [(f"Page {n}", f"text {n}") for n in range(50)]
    dump = write_dump(
        tmp_path / "a.xml", *others[:25], ("Dog", "A dog."), *others[25:]
    )
    wikipedia.read_articles(dump, ["dog", "cat"])
    assert parsed == ["A dog."]


def test_a_dump_streams(tmp_path, parser):
    """20 MB of pages, one of them wanted."""
    text = "filler " * 2800
    pages = [(f"Page {n}", text) for n in range(1000)]
    dump = write_dump(tmp_path / "a.xml", *pages, ("Dog", "A dog and a cat."))
    assert dump.stat().st_size > 20e6
    tracemalloc.start()
    articles = wikipedia.read_articles(dump, ["dog", "cat"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert articles.counts.toarray().tolist() == [[1, 1], [0, 0]]
    assert peak < 1e6


GOOD = HEAD + page_xml("Dog", "A dog.") + "</mediawiki>\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", b""),
        ("a.xml", b"label,article\n"),
        ("a.xml", b"<!DOCTYPE html><html><p>404</html>"),
        ("a.xml", b"<html><page><title>Dog</title></page></html>"),
        ("a.xml", GOOD.encode()[:-400]),
        ("a.xml", GOOD.encode()[:300]),
        ("a.xml", bz2.compress(GOOD.encode())),
        ("a.xml.bz2", GOOD.encode()),
        ("a.xml.bz2", b""),
        ("a.xml.bz2", bz2.compress(GOOD.encode())[:-30]),
        ("a.xml.bz2", bz2.compress(GOOD.encode()[:-400])),
    ],
)
def test_bad_dump(tmp_path, parser, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"^{path}: not a complete XML dump of MediaWiki: "
    ):
        wikipedia.read_articles(path, ["cat"])


def test_missing_dump(tmp_path):
    for name in ("a.xml", "a.xml.bz2", "folder"):
        with pytest.raises(FileNotFoundError, match=name):
            wikipedia.read_articles(tmp_path / name, ["cat"])
