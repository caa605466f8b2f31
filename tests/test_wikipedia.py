"""Wikipedia's articles: titles, redirects, ambiguity, counts, real formats."""

import bz2
import re
import tracemalloc
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
import scipy.sparse

from imcl_tf import wikipedia

# As Wikimedia writes it, export format 0.11.
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/ \
http://www.mediawiki.org/xml/export-0.11.xsd" version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>enwiki</dbname>
    <base>https://en.wikipedia.org/wiki/Main_Page</base>
    <generator>MediaWiki 1.43.0-wmf.28</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="10" case="first-letter">Template</namespace>
    </namespaces>
  </siteinfo>
"""


def page_xml(title, text, namespace=0, redirect=None):
    redirect = f"\n    <redirect title={quoteattr(redirect)} />" if (
        redirect
    ) else ""  # fmt: skip
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{namespace}</ns>
    <id>10</id>{redirect}
    <revision>
      <id>1219062925</id>
      <parentid>1219062840</parentid>
      <timestamp>2024-04-15T14:38:04Z</timestamp>
      <contributor>
        <username>Somebody</username>
        <id>8886</id>
      </contributor>
      <comment>[[Help:Reverting|Reverted]] edits</comment>
      <origin>1219062925</origin>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text)}" sha1="4ro7" xml:space="preserve">\
{escape(text)}</text>
      <sha1>4ro7vvppa5kmm0o1egfjztzcwd0vabw</sha1>
    </revision>
  </page>
"""


def write_dump(path, *pages):
    content = "".join([HEAD, *(page_xml(*p) for p in pages), "</mediawiki>\n"])
    content = content.encode()
    path.write_bytes(
        bz2.compress(content) if path.suffix == ".bz2" else content
    )
    return path


def write_folder(path, texts, redirects=None):
    path.mkdir(exist_ok=True)
    for title, text in texts.items():
        (path / f"{title}.txt").write_text(text, "utf-8")
    if redirects is not None:
        (path / "redirects.tsv").write_text(redirects, "utf-8")
    return path


def named(articles, names):
    """label -> {label that its article names: times}."""
    table = articles.counts.toarray()
    return {
        name: {names[j]: int(n) for j, n in enumerate(row) if n}
        for name, row in zip(names, table, strict=True)
        if row.any()
    }


# Names.


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ("dog", "Dog"),
        ("Dog", "Dog"),
        ("golden_retriever", "Golden retriever"),
        (" golden  _retriever ", "Golden retriever"),
        ("Golden Retriever", "Golden Retriever"),
        ("dog#Breeds", "Dog"),
        (":dog", "Dog"),
        ("iPhone", "IPhone"),
        ("élan", "Élan"),
        ("e\u0301lan", "Élan"),
        ("#Breeds", ""),
    ],
)
def test_normal_title(given, title):
    assert wikipedia.normal_title(given) == title


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("Hoop (rhythmic gymnastics)", "Hoop"),
        ("Bmw 3 series (e46)", "Bmw 3 series"),
        ("a (b) c (d)", "a c"),
        ("dog", "dog"),
        ("(x)", ""),
    ],
)
def test_bare_name(name, bare):
    assert wikipedia.bare_name(name) == bare


# Counting.


def test_counts_by_hand(tmp_path):
    names = ("dog", "Cat", "Ice cream", "hoop (sport)", "bus", "T-shirt",
             "Sprenger's tulip", "été", "fish")  # fmt: skip
    text = (
        "A dog, dogs; DOG's. Doggy hotdog dog_house. Cats and cat! "
        "ice\ncream, Ice-creams, icecream, ice the cream. A hoop. Buses, bus. "
        "t-shirts SPRENGER'S TULIP ÉTÉ."
    )
    folder = write_folder(tmp_path / "w", {"Fish": text})
    articles = wikipedia.read_articles(folder, names)
    assert articles.titles == (None,) * 8 + ("Fish",)
    assert named(articles, names) == {
        "fish": {
            "dog": 3, "Cat": 2, "Ice cream": 2, "hoop (sport)": 1, "bus": 2,
            "T-shirt": 1, "Sprenger's tulip": 1, "été": 1,
        }
    }  # fmt: skip
    assert articles.counts.shape == (9, 9)


def test_a_name_is_no_others_plural(tmp_path):
    names = ("new", "news", "glass", "glasses", "a (x)", "a (y)", "?")
    folder = write_folder(
        tmp_path / "w", {"New": "new news newes glass glasses a as"}
    )
    assert named(wikipedia.read_articles(folder, names), names) == {
        "new": {
            "new": 2, "news": 1, "glass": 1, "glasses": 1, "a (x)": 2,
            "a (y)": 2,
        }
    }  # fmt: skip


def test_counts_against_regular_expressions(tmp_path):
    """Random texts; each name searched for by itself."""
    rng = np.random.default_rng(0)
    words = ["ab", "cd", "ef", "gh", "ij"]
    names = sorted(
        {" ".join(rng.choice(words, n)) for n in (1, 1, 2, 2, 2, 3, 3)}
    )
    forms = [w + e for w in words for e in ("", "s", "es", "x")]
    texts = {
        wikipedia.normal_title(name): ", ".join(rng.choice(forms, 200))
        for name in names
    }
    folder = write_folder(tmp_path / "w", texts)
    articles = wikipedia.read_articles(folder, names)
    for row, name in zip(articles.counts.toarray(), names, strict=True):
        text = texts[wikipedia.normal_title(name)]
        for count, other in zip(row, names, strict=True):
            pattern = rf"(?=\b{other.replace(' ', ', ')}(?:s|es)?\b)"
            assert count == len(re.findall(pattern, text)), (name, other)


def test_similarities():
    counts = scipy.sparse.csr_array([[4, 2, 0], [3, 1, 12], [0, 0, 0]])
    np.testing.assert_allclose(
        wikipedia.similarities(counts).toarray(),
        [[1, 0.5, 0], [0.25, 1 / 12, 1], [0, 0, 0]],
    )


# From a folder.


def test_folder(tmp_path):
    """Titles, redirects in a chain and in a loop, what has no article."""
    names = ("dog", "Automobile", "motor car", "Loop", "dead end", "fog",
             "Drill (tool)", "cat")  # fmt: skip
    folder = write_folder(
        tmp_path / "w",
        {
            "dog": "Dog and cat.",
            "Car": "An automobile. A motor car.\n\n== History ==\nDog, fog.",
            "Fog": "\ufeff",
            "Drill": "A drill, in fog.",
        },
        "automobile\tcar\nmotor_car\tAutomobile\nLoop\tLooop\nLooop\tLoop\n"
        "Dead end\tNowhere\n",
    )
    articles = wikipedia.read_articles(folder, names)
    assert articles.titles == (
        "Dog", "Car", "Car", None, None, "Fog", "Drill", None
    )  # fmt: skip
    assert named(articles, names) == {
        "dog": {"dog": 1, "cat": 1},
        "Automobile": {"Automobile": 1, "motor car": 1},
        "motor car": {"Automobile": 1, "motor car": 1},
        "Drill (tool)": {"Drill (tool)": 1, "fog": 1},
    }


CRANES = {
    "Crane": "Crane may refer to:\n\nCrane (bird)\nCrane (machine)",
    "Crane (bird)": "Cranes are a bird, bird, bird of the crane family.",
    "Crane (machine)": "A crane is a machine with a hook and a wire.",
    "Crane (surname)": "Hook, wire.",
}


def test_ambiguous_folder(tmp_path):
    """The machine names three others, the bird one however often."""
    names = ("crane", "bird", "machine", "hook", "wire")
    folder = write_folder(tmp_path / "w", CRANES)
    articles = wikipedia.read_articles(folder, names)
    assert articles.titles == ("Crane (machine)", None, None, None, None)
    # Without the labels hook and wire: the bird, first of equals. The label
    # itself, which only the bird names twice, is no other.
    articles = wikipedia.read_articles(folder, names[:3])
    assert articles.titles[0] == "Crane (bird)"
    assert named(articles, names[:3]) == {"crane": {"crane": 2, "bird": 3}}


@pytest.mark.parametrize("name", ["Crane", "crane (disambiguation)"])
def test_ambiguous_folder_under_other_titles(tmp_path, name):
    """Pages that are ambiguous themselves are no choice."""
    texts = CRANES | {
        "Crane (disambiguation)": "crane may also refer to: hook wire machine",
        "Crane (x)": "Crane may refer to: bird hook wire machine",
    }
    folder = write_folder(tmp_path / "w", texts)
    names = (name, "hook", "wire", "machine", "bird")
    articles = wikipedia.read_articles(folder, names)
    assert articles.titles[0] == "Crane (machine)"


def test_ambiguous_without_choice(tmp_path):
    folder = write_folder(tmp_path / "w", {"Crane": CRANES["Crane"]})
    assert wikipedia.read_articles(folder, ["crane"]).titles == (None,)


def test_an_article_may_refer(tmp_path):
    """Only the colon makes a list of it, and only in the introduction."""
    texts = {"Dog": "Dog may refer to a cat.\n== X ==\nIt may refer to: fog."}
    folder = write_folder(tmp_path / "w", texts)
    assert wikipedia.read_articles(folder, ["dog"]).titles == ("Dog",)


def test_chosen_by_hand(tmp_path):
    """Wins over title and ambiguity, follows redirects, may be missing."""
    folder = write_folder(
        tmp_path / "w", CRANES | {"Dog": "dog", "Wolf": "wolf"}, "Lupus\tWolf"
    )
    chosen = {"crane": "crane_(surname)", "dog": "Lupus", "wolf": "Nothing"}
    articles = wikipedia.read_articles(
        folder, ("crane", "dog", "wolf", "bird"), chosen
    )
    assert articles.titles == ("Crane (surname)", "Wolf", None, None)


@pytest.mark.parametrize(
    ("texts", "redirects", "message"),
    [
        ({}, None, "w: expected files TITLE.txt, found none"),
        ({}, "a\tb\n", "w: expected files TITLE.txt, found none"),
        ({"dog": "", "Dog": ""}, None, "dog.txt: the same title as Dog.txt"),
        ({"a": ""}, "a\tb\nc d\n", "redirects.tsv: line 2: expected from<TAB>"),
        ({"a": ""}, "a\tb\tc\n", "redirects.tsv: line 1: expected from<TAB>to"),
        ({"a": ""}, "a\t\n", "redirects.tsv: line 1: expected from<TAB>to"),
        ({"a": "\udcff"}, None, "a.txt: not UTF-8 text"),
        ({"a": ""}, "\udcff", "redirects.tsv: not UTF-8 text"),
    ],
)
def test_bad_folder(tmp_path, texts, redirects, message):
    folder = tmp_path / "w"
    folder.mkdir()
    files = {f"{title}.txt": text for title, text in texts.items()}
    if redirects:
        files["redirects.tsv"] = redirects
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        wikipedia.read_articles(folder, ["a"])


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
        ValueError, match=f"^{path}: not a whole XML dump of MediaWiki: "
    ):
        wikipedia.read_articles(path, ["cat"])


def test_missing_dump(tmp_path):
    for name in ("a.xml", "a.xml.bz2", "folder"):
        with pytest.raises(FileNotFoundError, match=name):
            wikipedia.read_articles(tmp_path / name, ["cat"])


# Choices by hand.


def test_read_chosen(tmp_path):
    path = tmp_path / "articles.csv"
    path.write_text(
        '\ufefflabel,article\ndog,Dog\n"a, b",A_(b)\n\ncat,\ndog,Dog\n', "utf-8"
    )
    assert wikipedia.read_chosen(path, ["dog", "cat", "a, b"]) == {
        "dog": "Dog",
        "a, b": "A_(b)",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"expected columns label,article, got \[\]"),
        ("dog,Dog\n", "expected columns label,article, got"),
        ("label,article\ndog\n", r"line 2: expected label,article, got \['dog"),
        ('label,article\n"do\ng",D\na,b,c\n', "line 3: no label 'do"),
        ("label,article\ndog,Dog\n\ndog,a,b\n", "line 4: expected label,art"),
        ("label,article\ncow,Cow\n", "line 2: no label 'cow'"),
        ("label,article\ndog,A\ndog,B\n", "line 3: label 'dog' is given twice"),
        ("label,article\n\udcff,B\n", "not UTF-8 text"),
    ],
)
def test_bad_choices(tmp_path, content, message):
    path = tmp_path / "articles.csv"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        wikipedia.read_chosen(path, ["dog", "cat"])


def test_missing_choices(tmp_path):
    with pytest.raises(FileNotFoundError, match="articles.csv"):
        wikipedia.read_chosen(tmp_path / "articles.csv", ["dog"])
