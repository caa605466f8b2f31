"""data_prep.label_graph on the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf.data import datasets, records
from imcl_tf.methods import label_graph
from tests import oracles, programs
from tests.data_prep.wikipedia_files import write_dump, write_folder

ROOT = Path(__file__).resolve().parents[2]
MODULE = "data_prep.label_graph"
NAMES = ("dog", "cat", "hound (dog)", "Bone", "wolf", "crane")


def run(command, **kwargs):
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        **kwargs,
    )


def succeed(*arguments):
    done = programs.run(MODULE, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(path, names):
    return label_graph.load(path, names).to_scipy().toarray()


def normalised(similarities, num_neighbors=50):
    """The rule of `from_similarities`, row by row."""
    result = np.zeros((len(similarities), len(similarities)))
    for j, row in enumerate(similarities):
        others = [o for o in range(len(row)) if o != j and row[o] > 0]
        others.sort(key=lambda o: -row[o])
        kept = others[: num_neighbors - 1]
        result[j, kept] = np.array(row)[kept]
        result[j, j] = 1
    return result / result.sum(1, keepdims=True)


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    return path


@pytest.fixture
def articles(tmp_path):
    """A folder of articles for NAMES but wolf."""
    return write_folder(
        tmp_path / "wiki",
        {
            "Dog": "The dog, dog, dog, dog likes a bone and a wolf; dog bones.",
            "Cat": "A cat meets a dog.\n\n== Life ==\nbone bone bone",
            "Bone": "A bone.",
            "Crane": "Crane may refer to:\nCrane (bird)\nCrane (machine)",
            "Crane (bird)": "A bird.",
            "Crane (machine)": "A crane, no bone of a dog.",
        },
        "hound\tDog\n",
    )


#     dog       cat  hound  bone  wolf  crane
WIKIPEDIA = [
    [1, 0, 0, 2 / 5, 1 / 5, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 0, 1, 2 / 5, 1 / 5, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 1, 0],
    [1, 0, 0, 1, 0, 1],
]


def test_cooccurrence(small, tmp_path):
    out = tmp_path / "graph.npz"
    gone = small.splits["train"].pop()
    (small.path / "images" / gone).unlink()
    printed = succeed(
        "--kind=cooccurrence",
        "--dataset=folder",
        f"--data_dir={small.path}",
        "--on_bad_image=skip",
        "--graph_neighbors=4",
        f"--out={out}",
    )
    names = small.label_names
    # The records' order of images is their own; counts know no order.
    rows = small.rows(small.splits["train"])
    expected = oracles.cooccurrence_graph(rows, 4)
    np.testing.assert_allclose(weights(out, names), expected, atol=1e-6)
    alone = (np.count_nonzero(expected, axis=1) == 1).sum()
    train = datasets.load_dataset("folder", small.path, "skip").train
    digest = records.labels_digest(train.labels, names)
    assert label_graph.load_source(out) == ("cooccurrence", digest)
    edges = label_graph.load(out, names).num_edges
    assert printed.splitlines()[-1] == (
        f"{out}: cooccurrence, 7 labels, {edges} edges, {alone} labels "
        "without neighbours"
    )


@pytest.mark.slow
def test_cooccurrence_of_a_run(labels, tmp_path):
    """labels.txt and observed_labels.npz are what a run has written."""
    rng = np.random.default_rng(0)
    observed = rng.choice([-1, 0, 1], (40, 6)).astype(np.int8)
    observed[:, 3] = -1
    scipy.sparse.save_npz(
        tmp_path / "observed_labels.npz", scipy.sparse.csr_array(observed)
    )
    out = tmp_path / "graph.npz"
    printed = succeed(
        "--kind=cooccurrence",
        f"--labels={labels}",
        f"--observed={tmp_path / 'observed_labels.npz'}",
        f"--out={out}",
    )
    np.testing.assert_allclose(
        weights(out, NAMES), oracles.cooccurrence_graph(observed, 50), atol=1e-6
    )
    assert printed == (
        f"{out}: cooccurrence, 6 labels, 26 edges, 1 labels without "
        "neighbours\n"
    )


@pytest.mark.slow
def test_identity(labels, tmp_path):
    out = tmp_path / "graph.npz"
    printed = succeed("--kind=identity", f"--labels={labels}", f"--out={out}")
    np.testing.assert_array_equal(weights(out, NAMES), np.eye(6))
    assert "identity, 6 labels, 6 edges, 6 labels without" in printed


def test_wikipedia(labels, articles, tmp_path):
    out = tmp_path / "graph.npz"
    printed = succeed(
        "--kind=wikipedia",
        f"--labels={labels}",
        f"--articles_from={articles}",
        f"--out={out}",
    )
    np.testing.assert_allclose(
        weights(out, NAMES), normalised(WIKIPEDIA), rtol=1e-6
    )
    assert label_graph.load_source(out) == ("wikipedia", "")
    table = tmp_path / "graph.articles.csv"
    assert table.read_text() == (
        "label,article\ndog,Dog\ncat,Cat\nhound (dog),Dog\nBone,Bone\nwolf,\n"
        "crane,Crane (machine)\n"
    )
    assert printed == (
        f"{out}: wikipedia, 6 labels, 14 edges, 2 labels without neighbours\n"
        f"  1 labels without article (wolf); see {table}\n"
    )


def test_wikipedia_wordnet(labels, tmp_path):
    """Dog and wolf are in WordNet; the crane's article is chosen by hand."""
    pytest.importorskip("mwparserfromhell")
    wn = pytest.importorskip("wn")
    from tests.data_prep.test_wordnet import add, lexicon_xml

    nouns = {"animal": [], "canine": ["animal"], "dog": ["canine"],
             "wolf": ["canine"]}  # fmt: skip
    before = wn.config.database_path.parent
    senses = {name: [name] for name in nouns}
    data = add(tmp_path / "wn", lexicon_xml(nouns, senses))
    wn.config.data_directory = before
    dump = write_dump(
        tmp_path / "enwiki-20240420-pages-articles.xml.bz2",
        ("Dog", "A '''dog''' is no [[cat]]."),
        ("Cat", "A [[cat]], [[Felis|cat]], [[hound]]s and dog."),
        ("Bones", "#REDIRECT [[Bone]]", 0, "Bone"),
        ("Bone", "{{Infobox|dog}} A bone."),
    )
    # In the form that the program writes.
    choices = tmp_path / "mine.csv"
    choices.write_text("label,article\ndog,\ncat,Cat\ncrane,bones\n")
    out = tmp_path / "graph.npz"
    printed = succeed(
        "--kind=wikipedia_wordnet",
        f"--labels={labels}",
        f"--articles_from={dump}",
        f"--articles={choices}",
        f"--wordnet_dir={data}",
        "--lexicon=tiny:1",
        f"--out={out}",
    )
    # Canine has depth 2: 2 * 2 / (1 + 1 + 2 * 2).
    expected = np.zeros((6, 6))
    expected[0, 4] = expected[4, 0] = 4 / 6
    expected[1, [0, 2]] = 1 / 2
    expected[5, 3] = 1
    np.testing.assert_allclose(
        weights(out, NAMES), normalised(expected), rtol=1e-6
    )
    assert printed == (
        f"{out}: wikipedia_wordnet, 6 labels, 11 edges, 2 labels without "
        "neighbours\n"
        "  2 labels in tiny:1; 1 other labels without article (hound "
        f"(dog)); see {tmp_path / 'graph.articles.csv'}\n"
    )


@pytest.fixture
def graph(tmp_path):
    """Fifty neighbours of each of 60 labels, weights of both signs."""
    pytest.importorskip("matplotlib")
    indices = (np.arange(60)[:, np.newaxis] + np.arange(51)) % 60
    made = label_graph.LabelGraph.from_neighbors(
        indices, np.random.default_rng(0).normal(size=indices.shape)
    )
    path = tmp_path / "graph.npz"
    label_graph.save(path, made, [f"label $number {n}" for n in range(60)])
    return path


def test_picture(graph, tmp_path):
    path, around = tmp_path / "picture.png", "label $number 7"
    printed = succeed(
        f"--graph={graph}", f"--around={around}", f"--picture={path}"
    )
    assert printed == f"{path}: {around} and its 50 neighbours\n"
    blue, red, black, white = colours(path)
    assert blue > 0.01 and red > 0.01
    assert black > 0.002 and white > 0.5


def colours(picture):
    """Shares of pixels that are blue, red, black, white."""
    pixels = tf.io.decode_png(picture.read_bytes(), channels=3).numpy()
    assert 1000 < min(pixels.shape[:2]) <= max(pixels.shape[:2]) < 2000
    red, _, blue = np.moveaxis(pixels.astype(int), 2, 0)
    return (
        (blue > red + 40).mean(),
        (red > blue + 40).mean(),
        (pixels < 100).all(2).mean(),
        (pixels == 255).all(2).mean(),
    )


# Mistakes, all in one process; what `app.run` does with FLAGS, over and over.
DRIVER = f"""
import contextlib, io, json, sys
from absl import flags
from data_prep import label_graph as program
from data_prep.options import LABEL_GRAPH
from imcl_tf.files import parse_or_fail
from imcl_tf.program import define
define(LABEL_GRAPH)
start = flags.FLAGS.flag_values_dict()
results = []
for arguments in json.load(sys.stdin):
    for name, value in start.items():
        flags.FLAGS[name].value = value
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(None):
        try:
            program.main(parse_or_fail(flags.FLAGS)(["{MODULE}", *arguments]))
            code = 0
        except SystemExit as ended:
            code = ended.code
    results.append((code, error.getvalue()))
json.dump(results, sys.__stdout__)
"""
L, W = "--labels={0}/labels.txt", "--articles_from={0}/wiki"
OUT = "--out={0}/graph.npz"
WIKIPEDIA_FLAGS = ["--kind=wikipedia", L, OUT]
WORDNET_FLAGS = ["--kind=wikipedia_wordnet", L, W, OUT]
MISTAKES = [
    (["x"], "unexpected argument 'x'"),
    ([OUT, L], "--kind must be given"),
    (["--kind=wordnet"], "wikipedia_wordnet"),
    (["--kind=identity", L], "--out must be given"),
    (["--kind=identity", OUT], "either --dataset or --labels"),
    (["--kind=identity", OUT, L, "--dataset=x"], "either --dataset or --label"),
    (["--kind=cooccurrence", L, OUT], "needs --dataset or --observed"),
    (["--kind=identity", L, "--out=/none/x.npz"], "/none: no such directory"),
    (["--kind=identity", "--labels={0}/no", OUT], "{0}/no"),
    (
        ["--kind=identity", "--labels={0}/empty", OUT],
        "{0}/empty: holds no label name",
    ),
    (["--kind=identity", "--labels={0}/gap", OUT], "{0}/gap: line 2 is empty"),
    (
        ["--kind=identity", "--labels={0}/twice", OUT],
        "line 3: 'a' is listed twice",
    ),
    (["--kind=identity", "--labels={0}/latin", OUT], "{0}/latin: line 1: byte"),
    (["--kind=identity", "--labels={0}/blanks", OUT], "line 2: 'é' is listed"),
    (["--kind=identity", "--dataset=x", OUT], "dataset must be one of"),
    (["--kind=identity", "--graph_neighbors=0", L, OUT], "graph_neighbors"),
    (
        ["--kind=cooccurrence", L, OUT, "--observed={0}/labels.txt"],
        "{0}/labels.txt: not observed labels",
    ),
    (
        ["--kind=cooccurrence", L, OUT, "--observed={0}/of_two.npz"],
        "{0}/of_two.npz: holds 2 labels, expected 6",
    ),
    (
        ["--kind=cooccurrence", L, OUT, "--observed={0}/twos.npz"],
        "must be -1, 0 or 1, got 2",
    ),
    (WIKIPEDIA_FLAGS, "--articles_from must be given"),
    ([*WIKIPEDIA_FLAGS, "--articles_from={0}/no"], "{0}/no"),
    (
        [*WIKIPEDIA_FLAGS, "--articles_from={0}/none"],
        "{0}/none: expected files",
    ),
    ([*WIKIPEDIA_FLAGS, "--articles_from={0}/gap"], "{0}/gap: not a complete"),
    ([*WIKIPEDIA_FLAGS, W, "--articles={0}/bad.csv"], "{0}/bad.csv: line 3: "),
    ([*WORDNET_FLAGS, "--wordnet_dir={0}/no"], "{0}/no/wn.db: no such file"),
    ([*WORDNET_FLAGS, "--wordnet_dir={0}/gap"], "{0}/gap/wn.db: no such file"),
    ([*WORDNET_FLAGS, "--wordnet_dir={0}/wn"], "{0}/wn/wn.db: no lexicon"),
    (["--graph={0}/g.npz", "--around=dog"], "--picture must be given"),
    (["--graph={0}/g.npz", "--picture=x.png"], "--around must be given"),
    (["--around=dog", "--picture=x.png"], "--graph must be given"),
    (
        ["--graph={0}/gap", "--around=dog", "--picture={0}/x.png"],
        "{0}/gap: not a label graph",
    ),
    (
        ["--graph={0}/g.npz", "--around=hound", "--picture={0}/x.png"],
        "{0}/g.npz: no label 'hound'; the closest: hound (dog)",
    ),
    (
        ["--graph={0}/g.npz", "--around=dog", "--picture={0}/x.docx"],
        "Format 'docx' is not supported",
    ),
]


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """(directory, what files it holds, results of MISTAKES)."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("wn")
    from tests.data_prep.test_wordnet import add, lexicon_xml

    place = tmp_path_factory.mktemp("mistakes")
    add(place / "wn", lexicon_xml())
    write_folder(place / "wiki", {"Dog": "A dog."})
    (place / "none").mkdir()
    for name, content in {
        "labels.txt": "".join(f"{name}\n" for name in NAMES).encode(),
        "empty": b"",
        "gap": b"a\n \nb\n",
        "twice": b"a\nb\na\n",
        "latin": "é".encode("latin-1"),
        "blanks": "é\n e\u0301 \n".encode(),
        "bad.csv": b"label,article\ndog,Dog\nunicorn,Dog\n",
    }.items():
        (place / name).write_bytes(content)
    for name, shape in (("of_two", (3, 2)), ("twos", (3, 6))):
        array = scipy.sparse.csr_array(np.full(shape, 2, np.int8))
        scipy.sparse.save_npz(place / f"{name}.npz", array)
    label_graph.save(place / "g.npz", label_graph.LabelGraph.identity(6), NAMES)
    files = sorted(place.rglob("*"))
    arguments = [[a.format(place) for a in given] for given, _ in MISTAKES]
    picture = place.parent / "alone.png"
    arguments.append(
        [f"--graph={place}/g.npz", "--around=dog", f"--picture={picture}"]
    )
    done = run([sys.executable, "-c", DRIVER], input=json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    assert sorted(place.rglob("*")) == files
    results = json.loads(done.stdout)
    assert results.pop() == [0, ""]
    # A label without neighbours is a name in the middle.
    blue, red, black, white = colours(picture)
    assert blue == red == 0 and black > 0 and white > 0.99
    return place, results


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes(mistakes, number):
    place, results = mistakes
    code, error = results[number]
    assert code == 1, error
    assert MISTAKES[number][1].format(place) in error
    assert error.startswith("imcl_tf: error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_a_mistake_on_the_command_line(tmp_path):
    done = run([sys.executable, "-m", MODULE, f"--graph={tmp_path}/no",
                "--around=dog", "--picture=dog.png"])  # fmt: skip
    assert done.returncode == 1 and not done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imcl_tf: error: ") and f"{tmp_path}/no" in last
    assert "Traceback" not in done.stderr
