"""Wikipedia's articles: titles, counts, folders, choices by hand."""

import re

import numpy as np
import pytest
import scipy.sparse

from data_prep import wikipedia
from tests.data_prep.wikipedia_files import named, write_folder

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
        ({"dog": "", "Dog": ""}, None, "dog.txt: has the same title as"),
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
