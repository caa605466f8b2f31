"""The benchmark at a small fraction of its size, by the command line."""

import json

import numpy as np
import pytest
import tensorflow as tf

from eval.benchmark import graph, step
from eval.benchmark import records as records_section
from imcl_tf import records
from imcl_tf.multilabel import METHODS
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
        "5 candidates to the products alone": ("x", 1.4),
        "10 candidates to the products alone": ("x", 1.4),
        "within the minibatch to one image at a time": ("x", 0.05),
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
    "start": {
        "start to first step of scenes to importing TensorFlow": ("x", 3),
    },
}


@pytest.mark.slow
def test_all_sections(tmp_path):
    out = tmp_path / "out.json"
    done = programs.run(
        "eval.benchmark", *SECTIONS, "--scale=0.001", "--repeats=1",
        f"--out={out}",
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
    # Two bytes at most of its number, and a ninth of the names of both
    # features, their types and lengths: 25 to 40 bytes.
    assert 2 + 25 / 9 < found["records"][0]["value"] < 2 + 40 / 9


def test_unknown_section():
    done = programs.run("eval.benchmark", "records", "nothing")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = [x for x in done.stderr.splitlines() if x.startswith("imcl_tf")]
    (told,) = lines
    names = ", ".join([*SECTIONS, "methods"])
    assert told.endswith(f"expected sections of {names}, got 'nothing'")


def test_bytes_of_labels(tmp_path):
    """Of the map's entry, its name, its feature, the list in that and the
    numbers in that there are a tag and a length each: ten bytes."""
    file = str(tmp_path / "records")
    with tf.io.TFRecordWriter(file) as writer:
        writer.write(records.encode_image("a", b"image", [1, 300], [4999]))
        writer.write(records.encode_image("b", b"another", [], [0]))
    numbers = (1 + 2) + 2 + 0 + 1  # bytes as varints
    names = 2 * (len("positives") + len("negatives"))
    lists = 3 * 10 + 8  # an empty list has no numbers, nor their tag
    assert records_section._label_bytes([file]) == (numbers + names + lists, 4)


def test_labels_of_the_graph():
    labels = graph.skewed_labels(0.001)
    assert labels.shape == (3600, 5000) and labels.dtype == np.int8
    assert labels.has_canonical_format
    assert 19_000 < labels.nnz < 21_000
    assert set(np.unique(labels.data)) == {-1, 1}
    often = np.bincount(labels.indices, minlength=5000)
    assert often[0] > often[10] > often[1000:1010].mean()


@pytest.mark.slow
def test_steps_of_methods(capsys):
    step.time_methods(2, 1, "small_cnn")
    ratios = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name.partition(",")[0] for name in ratios} == METHODS.keys()
    assert ratios.keys() - METHODS.keys() == {"imcl, dictionary of 10,000"}
    assert all(ratio > 0 for ratio in ratios.values())
