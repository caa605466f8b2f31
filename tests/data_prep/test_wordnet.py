"""WordNet: which synset a label is, and Wu & Palmer's similarity."""

import itertools

import numpy as np
import pytest

wn = pytest.importorskip("wn")

from wn import similarity, taxonomy  # noqa: E402

from data_prep import wordnet  # noqa: E402
from imcl_tf.methods.label_graph import LabelGraph  # noqa: E402

# Synset -> hypernyms ("i:" = instance of), with several ways up, long and
# short ones, and two roots.
NOUNS = {
    "entity": [],
    "object": ["entity"],
    "whole": ["object"],
    "organism": ["whole"],
    "animal": ["organism"],
    "chordate": ["animal"],
    "mammal": ["chordate"],
    "carnivore": ["mammal"],
    "canine": ["carnivore"],
    "domestic animal": ["animal"],
    "dog": ["canine", "domestic animal"],
    "wolf": ["canine"],
    "cat": ["carnivore", "domestic animal"],
    "guide dog": ["dog", "instrument"],
    "artifact": ["whole"],
    "instrument": ["artifact"],
    "drill": ["instrument"],
    "bird": ["chordate"],
    "turkey": ["bird", "domestic animal"],
    "country": ["object"],
    "Turkey": ["i:country"],
    "Rin Tin Tin": ["i:dog"],
    "mongrel": ["dog", "organism"],
    "exercise": ["act"],
    "act": [],
    "toy": ["artifact", "dog"],
}
# Word -> its senses, the most frequent one first.
SENSES = {name: [name] for name in NOUNS} | {
    "drill": ["exercise", "drill"],
    "hound": ["dog"],
    "pet": ["domestic animal", "cat"],
}
VERBS = ["run"]


def lexicon_xml(nouns=NOUNS, senses=SENSES):
    """A lexicon in WN-LMF, as Open English WordNet is published."""
    number = {name: n for n, name in enumerate(nouns)}
    entries, synsets = [], []
    for n, (word, meanings) in enumerate(senses.items()):
        sense = "".join(
            f'<Sense id="t-w{n}-{m}" synset="t-{number[name]}-n"/>'
            for m, name in enumerate(meanings)
        )
        entries.append(
            f'<LexicalEntry id="t-w{n}"><Lemma writtenForm="{word}" '
            f'partOfSpeech="n"/>{sense}</LexicalEntry>'
        )
    for n, verb in enumerate(VERBS):
        entries.append(
            f'<LexicalEntry id="t-v{n}"><Lemma writtenForm="{verb}" '
            f'partOfSpeech="v"/><Sense id="t-v{n}-0" synset="t-{n}-v"/>'
            "</LexicalEntry>"
        )
        synsets.append(f'<Synset id="t-{n}-v" ili="" partOfSpeech="v"/>')
    for name, hypernyms in nouns.items():
        relations = "".join(
            "<SynsetRelation relType="
            f'"{"instance_" * h.startswith("i:")}hypernym" '
            f'target="t-{number[h.removeprefix("i:")]}-n"/>'
            for h in hypernyms
        )
        synsets.append(
            f'<Synset id="t-{number[name]}-n" ili="" partOfSpeech="n">'
            f"{relations}</Synset>"
        )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM \
"http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
<Lexicon id="tiny" label="Tiny" language="en" email="a@example.org" \
license="https://creativecommons.org/licenses/by/4.0/" version="1">
{"".join(entries)}{"".join(synsets)}
</Lexicon></LexicalResource>
"""


def add(directory, xml):
    """Makes a data directory of `wn` with one lexicon."""
    directory.mkdir()
    (directory / "tiny.xml").write_text(xml)
    wn.config.data_directory = directory
    wn.add(directory / "tiny.xml", progress_handler=None)
    return directory


@pytest.fixture(scope="module", autouse=True)
def own_data(tmp_path_factory):
    """No test may see the data of this machine."""
    before = wn.config.database_path.parent
    wn.config.data_directory = tmp_path_factory.mktemp("none")
    yield
    wn.config.data_directory = before


@pytest.fixture(scope="module")
def data(tmp_path_factory, own_data):
    return add(tmp_path_factory.mktemp("wn") / "data", lexicon_xml())


def find(names, directory):
    return wordnet.find_nouns(names, "tiny:1", directory)


def meaning(synset):
    """Name of a synset in NOUNS."""
    return list(NOUNS)[int(synset.id.split("-")[1])]


# Labels.


def test_find_nouns(data):
    """First senses; in either case, but turkey is not Turkey."""
    expected = {
        "Dog": "dog",
        "hound": "dog",
        "GUIDE DOG": "guide dog",
        "Guide  dog (working)": "guide dog",
        "drill (tool)": "exercise",
        "Pet": "domestic animal",
        "Turkey": "turkey",
        "rin tin tin": "Rin Tin Tin",
        "run": None,
        "unicorn": None,
        "(dog)": None,
        "guide_dog": None,
    }
    found = find(list(expected), data)
    assert [s and meaning(s) for s in found] == list(expected.values())


def test_no_data(tmp_path):
    directory = tmp_path / "x"
    message = (
        f"^{directory}/wn.db: no such file; to download it, run "
        f"`python -m wn --dir={directory} download tiny:1`"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find(["dog"], directory)
    assert not directory.exists()


def test_no_lexicon(data):
    with pytest.raises(ValueError, match=f"^{data}/wn.db: .*'oewn:1999'"):
        wordnet.find_nouns(["dog"], "oewn:1999", data)


def test_no_database(tmp_path):
    (tmp_path / "wn.db").write_text("label,article\n" * 100)
    with pytest.raises(ValueError, match=f"^{tmp_path}/wn.db: "):
        find(["dog"], tmp_path)


# Similarity.


def wup_of(one, other):
    """WUP by the functions of `wn`, for each of the equal subsumers."""
    values = []
    for common in one.lowest_common_hypernyms(other, simulate_root=True):
        i, j = (
            len(s.shortest_path(common, simulate_root=True))
            for s in (one, other)
        )
        k = common.max_depth() + 1
        values.append(2 * k / (i + j + 2 * k))
    return values


def all_similarities(synsets):
    return wordnet.similarities(synsets, len(synsets)).toarray()


def test_wup_by_hand(data):
    """Depth of canine 9, of carnivore 8; the added root counts as 1."""
    names = ["dog", "wolf", "cat", "hound", "act", "exercise"]
    got = all_similarities(find(names, data))
    assert got[0, 1] == pytest.approx(18 / 20, rel=1e-12)
    assert got[0, 2] == pytest.approx(16 / 19, rel=1e-12)
    assert got[0, 3] == got[0, 0] == 1
    # To the added root: act 1 edge, exercise 2.
    assert got[4, 5] == pytest.approx(2 / 3, rel=1e-12)
    # dog - domestic animal - animal - organism - whole - object - entity -
    # root: 7, though canine is the longer way.
    assert got[0, 4] == pytest.approx(2 / (7 + 1 + 2), rel=1e-12)


def check_against_wn(synsets):
    """Every pair; returns how many pairs leave `wn` a choice."""
    got = all_similarities(synsets)
    ambiguous = 0
    for (a, one), (b, other) in itertools.product(enumerate(synsets), repeat=2):
        values = wup_of(one, other)
        assert abs(got[a, b] - max(values)) <= 1e-12, (one, other)
        if len(set(values)) == 1:
            expected = similarity.wup(one, other, simulate_root=True)
            assert abs(got[a, b] - expected) <= 1e-12, (one, other)
        else:
            ambiguous += 1
    return ambiguous


def test_wup_is_that_of_wn(data):
    synsets = find(list(NOUNS), data)
    assert None not in synsets
    assert max(len(taxonomy.hypernym_paths(s)) for s in synsets) > 2
    assert check_against_wn(synsets) < len(synsets)


def test_wup_of_random_nets(tmp_path):
    """Many roots and ways up; of equally deep subsumers the nearest."""
    ambiguous = 0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        nouns = {}
        for n in range(18):
            parents = rng.integers(0, max(n, 1), rng.integers(1, 4))
            nouns[f"n{n}"] = [f"n{p}" for p in set(parents) if n > 2]
        senses = {name: [name] for name in nouns}
        directory = tmp_path / str(seed)
        add(directory, lexicon_xml(nouns, senses))
        ambiguous += check_against_wn(find(list(nouns), directory))
    assert ambiguous


@pytest.mark.parametrize("block", [1, 4, 512])
def test_the_most_similar(data, monkeypatch, block):
    """k = 5 per row, ties by label number; labels without synset between."""
    monkeypatch.setattr(wordnet, "_BLOCK", block)
    names = ["unicorn", *NOUNS, "hound", "x"]
    synsets = find(names, data)
    got = wordnet.similarities(synsets, 5)
    assert got.shape == (len(names), len(names))
    known = [j for j, s in enumerate(synsets) if s is not None]
    full = np.full(got.shape, -1.0)
    full[np.ix_(known, known)] = all_similarities([synsets[j] for j in known])
    for j, row in enumerate(got.toarray()):
        best = sorted(known, key=lambda other: -full[j, other])[:5]
        expected = np.zeros(len(names))
        if j in known:
            expected[best] = full[j, best]
        np.testing.assert_allclose(row, expected, rtol=1e-12)
    graph = LabelGraph.from_similarities(got, 5).to_scipy()
    assert (np.diff(graph.indptr)[known] == 5).all()
    assert graph[[0]].indices.tolist() == [0]


@pytest.mark.parametrize("synsets", [[], [None, None]])
def test_no_label_in_wordnet(synsets):
    got = wordnet.similarities(synsets)
    assert got.shape == (len(synsets), len(synsets))
    assert got.nnz == 0


def test_hypernyms_in_a_circle(tmp_path):
    nouns = {"a": ["b"], "b": ["c"], "c": ["b"]}
    senses = {name: [name] for name in nouns}
    directory = add(tmp_path / "x", lexicon_xml(nouns, senses))
    with pytest.raises(ValueError, match="cycle.*t-1-n"):
        wordnet.similarities(find(["a"], directory))
