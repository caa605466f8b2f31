"""A folder with a bad picture: the programs around training take it too."""

import os
from pathlib import Path

import imcl_tf
from imcl_tf.data.datasets import load_dataset
from tests import programs


def succeed(module, *arguments):
    done = programs.run(module, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_programs_share_the_records_without_it(small, tmp_path):
    bad = small.splits["train"][0]
    (small.path / "images" / bad).write_text("<html>")
    data = load_dataset("folder", str(small.path), "skip")
    records = Path(data.directory)
    before = {p: p.read_bytes() for p in records.iterdir() if p.is_file()}
    network = imcl_tf.backbone("small_cnn", image_size=32)
    weights = tmp_path / "cnn.weights.h5"
    network.save_weights(weights)
    shared = (
        "--dataset=folder", f"--data_dir={small.path}", "--on_bad_image=skip"
    )  # fmt: skip
    printed = succeed(
        "data_prep.features", *shared, "--backbone=small_cnn",
        f"--backbone_weights={weights}", "--image_size=32",
    )  # fmt: skip
    for words in ("train: 9 feat", "validation: 8 feat", "test: 8 feat"):
        assert words in printed
    graph = tmp_path / "graph.npz"
    printed = succeed(
        "data_prep.label_graph", *shared, "--kind=cooccurrence",
        f"--out={graph}",
    )  # fmt: skip
    assert f"{data.num_labels} labels" in printed and graph.is_file()
    # No other records, and in these nothing but features is new.
    folders = Path(os.environ["TFDS_DATA_DIR"], "folder")
    assert records.parent.parent == folders
    assert {p: p.read_bytes() for p in before} == before


def test_without_the_flag_it_is_named(small, tmp_path):
    bad = small.splits["train"][0]
    (small.path / "images" / bad).write_text("<html>")
    done = programs.run(
        "data_prep.label_graph", "--dataset=folder",
        f"--data_dir={small.path}", "--kind=cooccurrence",
        f"--out={tmp_path / 'graph.npz'}",
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{bad}: an HTML page, not an image" in done.stderr
    assert not (tmp_path / "graph.npz").exists()
