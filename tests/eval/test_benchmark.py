"""The benchmark at a small fraction of its size, by the command line."""

import json

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from eval import growth
from eval.benchmark import __main__ as benchmark
from eval.benchmark import cost, formats, graph, measure, serving, step
from eval.benchmark import records as records_section
from imcl_tf.data import records
from imcl_tf.methods.base import METHODS
from tests import programs

SECTIONS = {
    "records": {
        "label on disk": ("bytes", 12),
        "rows to records": ("s", 60),
        "peak memory": ("GB", 2),
        "time to that of copying the images": ("x", None),
    },
    "graph": {
        "co-occurrence graph": ("s", None),
        "peak memory": ("GB", 4),
        "time to that of the sparse product": ("x", None),
        "step on A to that of a dense A": ("x", 0.2),
    },
    "similarity": {
        "5 candidates to the products alone": ("x", 1.1),
        "10 candidates to the products alone": ("x", 1.1),
        **{
            f"within the minibatch to one image at a time, {how}": ("x", 0.05)
            for how in ("compiled", "as written")
        },
    },
    "input": {
        f"{what} to bare decode and resize": ("x", 1.11)
        for what in ("minibatches", "by way of 256 pixels", "augmented")
    },
    "average_precision": {
        "time to that of scikit-learn": ("x", 1 / 30),
        "largest difference": ("", 1e-12),
        "memory": ("MB", 200),
    },
    "head": {
        "6 penalties to plain L-BFGS": ("x", 1.5),
        "largest relative excess of the loss": ("", 1e-5),
    },
    "start": {
        "start to first step of scenes to importing TensorFlow": ("x", 3),
    },
}


@pytest.mark.slow
def test_all_sections(tmp_path):
    out = tmp_path / "out.json"
    done = programs.run(
        "eval.benchmark", *SECTIONS, "--scale=0.001", "--repeats=1",
        f"--out={out}", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found.keys() == SECTIONS.keys()
    for section, expected in SECTIONS.items():
        assert f"| {section} | | at most |" in done.stdout
        told = {
            row["what"]: (row["unit"], row["bar"]) for row in found[section]
        }
        assert told == expected
        for row in found[section]:
            assert row.keys() == {"what", "value", "unit", "bar"}
            assert 0 <= row["value"] < float("inf")
            line = f"| {row['what']} | {row['value']:.3g} {row['unit']} |"
            assert line in done.stdout
    # A label's sign and column are five bytes; the rest is shared by the
    # labels of an image, and the small tables' heads and names come on top.
    assert found["records"][0]["value"] > 5


def test_unknown_section():
    done = programs.run("eval.benchmark", "records", "nothing")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
    (told,) = lines
    names = ", ".join(benchmark.SECTIONS)
    assert benchmark.SECTIONS.keys() - SECTIONS.keys() == {
        "step", "methods", "cost", "variants", "serving", "formats",
    }  # fmt: skip
    assert told.endswith(f"expected sections of {names}, got 'nothing'")


def test_bytes_of_labels(tmp_path):
    """All of the tables' bytes, and their observed labels."""
    sizes = []
    for split, values in (("train", [1, -1, 1]), ("test", [-1])):
        file = records.labels_file(tmp_path, split)
        labels = scipy.sparse.csr_array(np.array([values], np.int8))
        records.write_labels(
            file,
            records.SplitLabels(
                np.array([b"a"]), labels, ("x", "y", "z")[: len(values)],
                np.zeros(0, np.int32), {}, np.array([7]),
            ),
        )  # fmt: skip
        sizes.append(len(file.read_bytes()))
    tables = sorted(tmp_path.iterdir())
    assert records_section._label_bytes(tables) == (sum(sizes), 4)


def test_labels_of_the_graph():
    labels = graph.skewed_labels(0.001)
    assert labels.shape == (3600, 5000) and labels.dtype == np.int8
    assert labels.has_canonical_format
    assert 19_000 < labels.nnz < 21_000
    assert set(np.unique(labels.data)) == {-1, 1}
    often = np.bincount(labels.indices, minlength=5000)
    assert often[0] > often[10] > often[1000:1010].mean()


def printed(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_steps(capsys):
    """Of a small CNN: of a ResNet-101 the section takes minutes."""
    step.time_methods(2, 1, "small_cnn")
    ratios = printed(capsys)
    assert ratios.keys() == METHODS.keys()
    assert all(ratio > 0 for ratio in ratios.values())
    step.time_steps(2, 30, 1, "small_cnn")
    ratios = printed(capsys)
    assert list(ratios) == ["minibatch", "dictionary of 30"]
    # A step on A and ten images more, at two images and a small CNN.
    assert 1 < ratios["minibatch"] < ratios["dictionary of 30"]
    step.take_step(2, 5, "small_cnn")
    step.time_variant("small_cnn", "float32", False, 2, 1)
    assert 0 < printed(capsys) < 60


@pytest.mark.slow
@pytest.mark.parametrize("size", [50, 0])
def test_epochs_on_fixed_features(capsys, size):
    step.time_fixed(size, 2, steps=2)
    ratios = printed(capsys)
    assert len(ratios) == 2 and min(ratios) > 0


def test_weight_of_a_dictionary(capsys):
    step.weigh_dictionary(7)
    assert printed(capsys) == [0.5]


@pytest.mark.parametrize(("method", "size"), [("logistic", 0), ("imcl", 4)])
def test_parameters(capsys, method, size):
    cost.weigh(method, size, 2, "small_cnn")
    whole, beside = printed(capsys)
    expected = 256 * 5000 + 5000
    if method == "imcl":
        present = (graph.skewed_labels(10_000 / 3.6e6) > 0).astype(np.int64)
        together = (present.T @ present).tocsr()
        together.setdiag(1)  # a label is its own neighbour
        expected += np.minimum(np.diff(together.indptr), 50).sum()
    assert beside == expected
    convolutions = (27, 32), (288, 64), (576, 128), (1152, 256), (2304, 256)
    # A kernel, and scale and offset of the normalisation, of each.
    assert whole - beside == sum(n * d + 2 * d for n, d in convolutions)


@pytest.mark.slow
def test_costs_on_features(capsys):
    cost.weigh_fixed("wsabie", 0, 2)
    cost.time_cost("imcl", 3, 2, "small_cnn", 1)
    more, on_features = printed(capsys)
    assert np.isfinite(more) and on_features > 0
    cost.time_whole(2, "small_cnn", 1)
    assert printed(capsys) > 0


def test_a_table_with_a_row_for_each_method():
    figures = [
        measure.Figure("a: time", 2, "s"), measure.Figure("a: size", 0.5, ""),
        measure.Figure("b: time", 3, "s"), measure.Figure("b: size", 4, ""),
    ]  # fmt: skip
    assert cost.by_row("method", figures).splitlines() == [
        "| method | time, s | size |", "| --- | --- | --- |",
        "| a | 2 | 0.5 |", "| b | 3 | 4 |",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    pytest.importorskip("PIL")
    return serving.exported(str(tmp_path_factory.mktemp("served")))


def test_requests_are_answered_alone(served):
    """As Pillow and the network see the pictures, or refused by their name."""
    kinds = {request.kind: request for request in serving.requests()}
    assert len(kinds) == len([*serving.requests()]) > 100
    bad = {kind for kind, request in kinds.items() if not request.is_good}
    assert 30 < len(bad) < len(kinds) / 2
    for kind, words in (
        ("a page", "not a JPEG, PNG, WebP, BMP or GIF"),
        ("a text", "not a JPEG, PNG, WebP, BMP or GIF"),
        ("noise", "not a JPEG, PNG, WebP, BMP or GIF"),
        ("4 good files and a page", "not a JPEG, PNG, WebP, BMP or GIF"),
        ("an animated WebP", "an animated WebP"),
        ("a PNG of a huge header", "more than 178,956,970 pixels"),
        ("half a PNG", "Invalid PNG data"),
        ("one file, no batch", "[] is not compatible with expected shape"),
        ("features of another length", "[2,7] is not compatible with expect"),
        ("numbers", "expected to be a string tensor but is a int32"),
    ):
        assert kind in bad
        assert words in serving.answer(served, kinds[kind])
    files = serving.good_files()
    two = [kind for kind in files if kind.endswith(" of 60 x 80")][:2]
    alone = [serving.answer(served, kinds[kind]) for kind in two]
    batch = tf.constant([files[kind] for kind in two])
    together = served.signatures["serving_default"](images=batch)
    np.testing.assert_allclose(
        np.concatenate(alone), together["probabilities"], atol=1e-6
    )


def test_a_wrong_answer_under_load_is_seen(served):
    kinds = [*serving.requests()][::7]
    assert 3 < sum(request.is_good for request in kinds) < len(kinds) - 3
    found = serving.load(served, kinds, 150)
    assert found.wrong == found.strange == {}
    assert 0 < found.seconds < 300 and found.peak > 1e8

    alone = 3 * len(kinds)

    class Strained:
        """Answers others once each request has been asked alone."""

        calls = 0

        def __init__(self, serve):
            self.serve = serve

        def __call__(self, **inputs):
            Strained.calls += 1
            if Strained.calls <= alone:
                return self.serve(**inputs)
            if Strained.calls % 2:
                return {"probabilities": tf.zeros([1, 20])}
            return self.serve(images=tf.constant([b"another"]))

    class Model:
        signatures = {k: Strained(x) for k, x in served.signatures.items()}

    found = serving.load(Model, kinds, 60)
    assert found.wrong and found.strange
    # But a text that is no image may get the error of another one.
    assert 50 < sum((*found.wrong.values(), *found.strange.values())) <= 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["files", "pixels", "onnx", "litert"])
def test_formats(name, capsys):
    if name in ("onnx", "litert"):
        pytest.importorskip({"litert": "ai_edge_litert"}.get(name, name))
    formats.time_format(name, "small_cnn", 0.01, 1)
    size, difference, one, many = printed(capsys)
    # Weights of small_cnn and 100 labels, four bytes each, and the graph.
    assert 4e6 < size < 6e6
    assert 0 <= difference < 1e-5
    assert 0 < one < many < 60


def test_growth(tmp_path, monkeypatch):
    """Runs that take and hold what their counts say have their exponents."""
    calls = []

    def call(function, m, c, b, k, repeats):
        assert function is growth.solve
        calls.append((m, c, b, k))
        size = growth.Size(m, c, b, k)
        held = 0 if m == 1 else 40 * size.numbers
        seconds = f"{3 * size.operations}"
        return measure.Measured(0.0, 1000 + held, seconds)

    monkeypatch.setattr(growth, "call", call)
    points = growth.curves(1.0, 2)
    assert len(points) == len(calls) - 1 == 20
    assert (32_000, 5000, 32, 5) in calls and (8000, 5000, 32, 16) in calls
    for _, time, operations, memory, numbers in growth.fits(points):
        assert time == pytest.approx(operations, abs=1e-9)
        assert memory == pytest.approx(numbers, abs=1e-3)
    times = {name: time for name, time, *_ in growth.fits(points)}
    assert times["M"] == pytest.approx(1) and times["k"] == pytest.approx(1)
    assert times["C"] < 1  # features take their part


def test_solved_problem_tells_its_seconds(capsys):
    growth.solve(40, 9, 3, 2, 3)
    assert 0 < printed(capsys) < 60


@pytest.mark.slow
def test_growth_program(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "curves.csv"
    done = programs.run(
        "eval.growth", f"--out={out}", "--scale=0.002", "--repeats=1"
    )
    assert done.returncode == 0, done.stderr
    lines = out.read_text().splitlines()
    assert lines[0] == "name,M,C,B,k,seconds,bytes" and len(lines) == 21
    assert len(done.stdout.splitlines()) == 2 + 4
    png = out.with_suffix(".png").read_bytes()
    assert png.startswith(b"\x89PNG")
