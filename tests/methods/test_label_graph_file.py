"""The label graph as one file: written, read, damaged."""

import pickle

import numpy as np
import pytest

import imcl_tf
from imcl_tf.methods import label_graph
from imcl_tf.methods.label_graph import LabelGraph
from tests.methods.common import data_of
from tests.methods.graphs import dense, random_graph

# One file.

NAMES = ("dog", "über sea", "a, b", "NA", "001", "dog ", "犬")


@pytest.fixture
def written(tmp_path):
    """A graph of NAMES in a file: (path, graph)."""
    graph, _ = random_graph(9, c=len(NAMES))
    path = tmp_path / "graph.npz"
    label_graph.save(path, graph, NAMES)
    return path, graph


def test_saved_and_loaded(written):
    path, graph = written
    for loaded in (
        label_graph.load(path, NAMES),
        label_graph.load(str(path), list(NAMES)),
        label_graph.load_named(path)[0],
    ):
        np.testing.assert_array_equal(loaded.edges, graph.edges)
        np.testing.assert_array_equal(loaded.edge_weights, graph.edge_weights)
        assert loaded.num_labels == len(NAMES)
    assert label_graph.load_named(path)[1] == NAMES
    assert [p.name for p in path.parent.iterdir()] == ["graph.npz"]


def test_the_file_speaks_for_itself(written):
    """NumPy alone reads it, without pickle."""
    path, graph = written
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["labels"].tolist() == list(NAMES)
        np.testing.assert_array_equal(arrays["edges"], graph.edges)
        np.testing.assert_array_equal(arrays["weights"], graph.edge_weights)


def test_says_where_it_comes_from(written, tmp_path):
    path, graph = written
    assert label_graph.load_source(path) == ("", "")
    source = label_graph.Source("learned", "0123456789abcdef")
    label_graph.save(path, graph, NAMES, source)
    assert label_graph.load_source(path) == source
    assert label_graph.load_named(path)[1] == NAMES
    # As files were before they said it.
    np.savez(tmp_path / "before.npz", **GOOD)
    assert label_graph.load_source(tmp_path / "before.npz") == ("", "")


@pytest.mark.parametrize(
    "change",
    [
        {"source": np.array(1)},
        {"source": np.array(["learned"])},
        {"source": np.array("learned"), "labels_digest": np.array(b"x")},
    ],
)
def test_a_source_that_is_no_text(tmp_path, change):
    np.savez(tmp_path / "x.npz", **GOOD, **change)
    with pytest.raises(ValueError, match="x.npz: not a label graph: source an"):
        label_graph.load_source(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (("", ""), True),
        (("cooccurrence", "mine"), False),
        (("cooccurrence", "others"), True),
        (("learned", "others"), True),
        (("wikipedia", ""), False),
    ],
)
def test_may_come_from_other_labels(source, expected):
    assert label_graph.Source(*source).may_know_others("mine") == expected


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("cooccurrence", ("learned", "mine")),
        ("identity", ("learned", "mine")),
        (("wikipedia", ""), ("learned", "mine")),
        (("learned", "mine"), ("learned", "mine")),
        (("cooccurrence", "others"), ("cooccurrence", "others")),
        (("", ""), ("", "")),
    ],
)
def test_a_learned_graph_says_what_it_began_with(start, expected, tmp_path):
    """What it knew of other labels training does not take from it."""
    names = ("a", "b", "c")
    if isinstance(start, tuple):
        path, start = tmp_path / "start.npz", label_graph.Source(*start)
        label_graph.save(path, LabelGraph.identity(3), names, start)
        start = str(path)
    model = imcl_tf.IMCL(None, 3, label_graph=start)
    model.prepare(data_of(np.ones((4, 3), np.int8), names=names))
    model.write_extras(tmp_path, names, "mine")
    assert label_graph.load_source(tmp_path / "label_graph.npz") == expected


def test_size_of_the_file(tmp_path):
    """250,000 random weights of 4 bytes do not pack; little comes on top."""
    rng = np.random.default_rng(5)
    indices = np.argsort(rng.random((5000, 500)), axis=1)[:, :50]
    graph = LabelGraph.from_neighbors(indices, rng.random((5000, 50)))
    names = [f"a label's name {number}" for number in range(5000)]
    label_graph.save(tmp_path / "graph.npz", graph, names)
    assert (tmp_path / "graph.npz").stat().st_size < 2_000_000


def test_save_refuses_other_labels(tmp_path):
    path = tmp_path / "graph.npz"
    with pytest.raises(ValueError, match=f"{path}: 2 names for 3 labels"):
        label_graph.save(path, LabelGraph.identity(3), ["a", "b"])
    assert not path.exists()


def test_save_leaves_what_was_there(written, small_disk):
    path, graph = written
    before = path.read_bytes()
    with small_disk(100), pytest.raises(OSError, match="graph.npz"):
        label_graph.save(path, graph, NAMES)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["graph.npz"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:6], "7 labels, the data set has 6; label 6 is '犬', .* None"),
        ((*NAMES, "x"), "7 labels, the data set has 8; label 7 is None, .*'x'"),
        (
            (*NAMES[:2], "cat", *NAMES[3:]),
            "has 7; label 2 is 'a, b', in the data set 'cat'",
        ),
        ((*NAMES[:4], *NAMES[5:], "001"), "label 4 is '001', .* 'dog '"),
        ((), "has 0; label 0 is 'dog'"),
    ],
)
def test_load_refuses_other_labels(written, names, message):
    path, _ = written
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        label_graph.load(path, names)


def test_load_without_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="graph.npz"):
        label_graph.load(tmp_path / "graph.npz", NAMES)


GOOD = {
    "edges": np.array([[0, 0], [1, 1]]),
    "weights": np.ones(2, np.float32),
    "labels": np.array(["a", "b"]),
}


@pytest.mark.parametrize(
    "change",
    [
        {"edges": np.array([[0, 0], [1, 2]])},
        {"edges": np.array([[0, 0], [-1, 1]])},
        {"edges": np.array([[0, 0], [0, 0]])},
        {"edges": np.array([[0.0, 0], [1, 1]])},
        {"edges": np.array([0, 1])},
        {"weights": np.ones(3)},
        {"weights": np.array([1, np.nan])},
        {"weights": np.array(["1", "2"])},
        {"weights": np.array([1, None])},  # pickled
        {"edges": None},
        {"weights": None},
        {"labels": None},
    ],
)
def test_load_foreign_arrays(tmp_path, change):
    path = tmp_path / "graph.npz"
    np.savez(path, **GOOD)
    assert label_graph.load(path, ["a", "b"]).num_edges == 2
    arrays = {k: v for k, v in (GOOD | change).items() if v is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"^{path}: not a label graph: "):
        label_graph.load(path, ["a", "b"])


@pytest.mark.parametrize("keep", [0, 1, 30, 200, 400, -1])
def test_load_cut_file(written, keep):
    path, _ = written
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"^{path}: not a label graph: "):
        label_graph.load(path, NAMES)


def test_load_damaged_file(written):
    """Every 5th byte, changed, is either of no matter or found out."""
    path, graph = written
    good = path.read_bytes()
    found = 0
    for place in range(0, len(good), 5):
        bad = bytearray(good)
        bad[place] ^= 255
        path.write_bytes(bytes(bad))
        try:
            loaded = label_graph.load(path, NAMES)
            assert label_graph.load_source(path) == ("", "")
        except ValueError as error:
            found += 1
            assert str(error).startswith(f"{path}: ")
        else:
            np.testing.assert_array_equal(loaded.to_scipy().toarray(),
                                          dense(graph))  # fmt: skip
    assert found > len(good) / 5 / 2


@pytest.mark.parametrize("content", [b"", b"label,weight\n", pickle.dumps([1])])
def test_load_other_files(tmp_path, content):
    path = tmp_path / "graph.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: not a label graph: "):
        label_graph.load(path, NAMES)


def test_load_npy_file(tmp_path):
    np.save(tmp_path / "graph.npy", np.ones(3))
    with pytest.raises(ValueError, match="not a label graph: "):
        label_graph.load(tmp_path / "graph.npy", NAMES)
