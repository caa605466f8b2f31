"""The real command line on a small folder of images."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from imcl_tf.data import builders
from imcl_tf.methods import label_graph
from imcl_tf.methods.pictures import load_snapshot
from imcl_tf.ops.metrics import Support
from imcl_tf.settings import DEFAULT_METHOD
from imcl_tf.training.predictions import load
from tests import programs

ROOT = Path(__file__).resolve().parents[1]
FAST = [
    "--initial_epochs=1", "--epochs=1", "--image_size=32", "--num_neighbors=2",
]  # fmt: skip


def run(arguments, limit=None, module="imcl_tf.main"):
    """Runs a program of the project; `limit` = largest file in bytes."""
    return programs.run(module, *arguments, limit=limit)


def succeed(*arguments, **kwargs):
    done = run(arguments, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fail(*arguments, **kwargs):
    """Returns the one line that the program ended with."""
    done = run(arguments, **kwargs)
    assert done.returncode == 1, done.stderr
    lines = [
        x for x in done.stderr.splitlines() if x.startswith("imcl_tf: error:")
    ]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_folder):
    path = tmp_path_factory.mktemp("pictures")
    make_folder(path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder):
    """Workdir and output of a finished IMCL run, end to end."""
    workdir = tmp_path_factory.mktemp("run")
    output = succeed(
        "--dataset=folder", f"--data_dir={folder}", f"--workdir={workdir}",
        "--observed_fraction=0.5", "--seed=3", "--dictionary_refresh=1",
        "--method=imcl", "--regime=end_to_end", *FAST,
    )  # fmt: skip
    return workdir, output


def assert_counts(results, table, validation):
    """On which labels and entries each mAP rests, counted from the tables."""
    names = "positives", "negatives"
    counts = np.array([[int(row[name]) for name in names] for row in table])
    having = (counts > 0).all(1)
    assert [bool(row["AP"]) for row in table] == having.tolist()
    support = {"labels": int(having.sum()), "num_labels": len(table)}
    support |= dict(zip(names, counts[having].sum(0).tolist(), strict=True))
    assert results["mAP_support"] == support
    assert results["initial_logistic"]["mAP_support"] == support
    groups = results["mAP_groups_support"]
    for name in support:
        assert sum(group[name] for group in groups) == support[name]
    for group, mean in zip(groups, results["mAP_groups"], strict=True):
        assert (group["labels"] > 0) == (mean is not None)
    support = results["validation_mAP_support"]
    for row in validation:
        for name in ("labels", *names):
            assert int(row[f"mAP_{name}"]) == support[name]


def test_leaves_every_file_of_the_contract(finished):
    workdir, output = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results["method"] == DEFAULT_METHOD
    assert results["dataset"] == "folder"
    assert results["regime"] == "end_to_end"
    assert results["seed"] == 3
    assert 0 <= results["mAP_empty_zero"] <= results["mAP"] <= 100
    assert len(results["mAP_groups"]) == 5
    assert f"{results['mAP']:.2f}  (" in output
    assert f"\nover {Support(**results['mAP_support'])}\n" in output
    with (workdir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:9] == [
        "step", "epoch", "split", "mAP", "loss", "logistic_loss",
        "label_smoothness", "feature_smoothness", "learning_rate",
    ]  # fmt: skip
    validation = [row for row in rows if row["split"] == "validation"]
    assert [row["epoch"] for row in validation] == ["0", "1"]
    assert all(float(row["label_smoothness"]) > 0 for row in validation)
    assert max(float(r["mAP"]) for r in validation) == pytest.approx(
        results["validation_mAP"], abs=1e-3
    )
    names = (workdir / "labels.txt").read_text().splitlines()
    with (workdir / "average_precision.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["label"] for row in table] == names
    mean = np.mean([float(row["AP"]) for row in table if row["AP"]])
    assert mean == pytest.approx(results["mAP"], abs=1e-3)
    assert_counts(results, table, validation)
    assert (workdir / "checkpoints" / "best.keras").is_file()
    graph = label_graph.load(workdir / "label_graph.npz", names)
    assert graph.num_labels == len(names)
    assert list((workdir / "tensorboard").rglob("events.out*"))
    predictions = load(workdir / "test_predictions.npz", results["mAP"])
    assert 100 * predictions.precision().mean() == pytest.approx(
        results["mAP"], abs=1e-9
    )
    assert json.loads((workdir / "provenance.json").read_text())["seconds"] > 0
    assert not list(workdir.rglob("*unfinished*"))


def test_tensorboard_has_terms_rates_and_pictures(finished):
    from tensorboard.backend.event_processing import event_accumulator

    tags = {}
    for directory in (finished[0] / "tensorboard").iterdir():
        events = event_accumulator.EventAccumulator(str(directory))
        events.Reload()
        tags[directory.name] = set(events.Tags()["tensors"])
    terms = {"logistic_loss", "label_smoothness", "feature_smoothness", "loss"}
    assert {f"epoch_{name}" for name in terms} <= tags["train"]
    assert "epoch_learning_rate" in tags["train"]
    assert {f"epoch_{name}" for name in terms | {"mAP"}} <= tags["validation"]
    assert {"label_graph", "similarities"} <= tags["similarities"]


def test_similarities_of_start_and_end_are_kept(finished):
    """Of the same images; training has changed A, not its edges."""
    workdir, _ = finished
    place = workdir / "tensorboard" / "similarities"
    start, end = (
        load_snapshot(place / f"{name}.npz") for name in ("start", "end")
    )
    np.testing.assert_array_equal(start.image_index, end.image_index)
    np.testing.assert_array_equal(start.edges, end.edges)
    assert np.abs(start.edge_weights - end.edge_weights).max() > 0
    mask = scipy.sparse.load_npz(workdir / "observed_labels.npz")
    for found in (start, end):
        assert found.neighbors.shape == (len(found.image_index), 2)
        assert -1 <= found.neighbors.min() <= found.neighbors.max()
        assert found.neighbors.max() < mask.shape[0]
        assert (found.neighbors != found.image_index[:, np.newaxis]).all()
        unused = found.neighbors < 0
        assert not found.label_weights[unused].any()
        assert found.label_weights.max() > 0


def test_mask_is_saved_and_is_what_the_seed_says(finished, folder):
    mask = scipy.sparse.load_npz(finished[0] / "observed_labels.npz")
    splits = Counter(row["split"] for row in read_csv(folder / "splits.csv"))
    assert mask.shape[0] == splits["train"]
    assert set(np.unique(mask.data)) <= {-1, 1}
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["observed_labels"] == mask.nnz


def test_resume_returns_a_finished_run(finished, folder):
    workdir, output = finished
    arguments = [f"--flagfile={workdir / 'flags.cfg'}", "--resume"]
    assert succeed(*arguments).splitlines()[-1] == output.splitlines()[-1]
    assert "--seed=3, --seed=7" in fail(*arguments, "--seed=7")
    assert json.loads((workdir / "results.json").read_text())["seed"] == 3


def test_resume_begins_a_run_that_has_not_begun(folder, tmp_path):
    succeed(
        "--dataset=folder", f"--data_dir={folder}", f"--workdir={tmp_path}",
        "--image_size=32", "--method=assume_negative", "--initial_epochs=0",
        "--epochs=0", "--resume",
    )  # fmt: skip
    assert (tmp_path / "results.json").is_file()


@pytest.mark.slow  # the test of the docs repeats a run too
def test_flagfile_replays_the_run(finished, tmp_path):
    flagfile = finished[0] / "flags.cfg"
    succeed(f"--flagfile={flagfile}", f"--workdir={tmp_path}")
    first = json.loads((finished[0] / "results.json").read_text())
    again = json.loads((tmp_path / "results.json").read_text())
    changed = set(first.pop("settings")) ^ set(again.pop("settings"))
    assert changed == {f"--workdir={finished[0]}", f"--workdir={tmp_path}"}
    assert again == first


def test_predict_prints_labels_and_writes_all(finished, folder, tmp_path):
    images = sorted((folder / "images").rglob("*.*"))[:3]
    table = tmp_path / "out.csv"
    output = succeed(
        f"--model={finished[0] / 'saved_model'}", "--top=2", f"--csv={table}",
        *images, module="imcl_tf.predict",
    )  # fmt: skip
    lines = output.splitlines()
    assert [lines[i] for i in (0, 3, 6)] == [str(path) for path in images]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    names = (finished[0] / "labels.txt").read_text().splitlines()
    assert len(rows) == 3 * len(names)
    first = {r["label"]: float(r["probability"]) for r in rows[: len(names)]}
    value, label = lines[1].split(maxsplit=1)
    assert float(value) == pytest.approx(max(first.values()), abs=1e-3)
    assert first[label] == max(first.values())


def test_predict_bad_input(finished, folder, tmp_path):
    model = f"--model={finished[0] / 'saved_model'}"
    text = tmp_path / "no.jpg"
    text.write_text("<html>")
    module = "imcl_tf.predict"
    assert "no.jpg" in fail(model, text, module=module)
    assert "no image" in fail(model, module=module)


@pytest.mark.slow
def test_fixed_features_from_an_earlier_run(finished, folder, tmp_path):
    common = [
        "--dataset=folder", f"--data_dir={folder}", "--observed_fraction=0.5",
        "--seed=3", "--method=imcl", f"--init_from={finished[0]}", *FAST,
    ]  # fmt: skip
    succeed(*common, f"--workdir={tmp_path / 'a'}", "--method=logistic")
    a = json.loads((tmp_path / "a" / "results.json").read_text())
    first = json.loads((finished[0] / "results.json").read_text())
    assert a["initial_logistic"] == first["initial_logistic"]
    # Every choice of the released code, and a small dictionary.
    names = (finished[0] / "labels.txt").read_text().splitlines()
    next_one = np.arange(1, len(names) + 1)[:, np.newaxis] % len(names)
    graph = label_graph.LabelGraph.from_neighbors(next_one, 0 * next_one + 0.5)
    label_graph.save(tmp_path / "ring.npz", graph, names)
    succeed(
        *common, f"--workdir={tmp_path / 'b'}",
        f"--flagfile={ROOT / 'flags' / 'released.cfg'}",
        "--dictionary_size=5", "--image_similarity=fixed",
        f"--label_graph={tmp_path / 'ring.npz'}",
    )  # fmt: skip
    b = json.loads((tmp_path / "b" / "results.json").read_text())
    assert b["initial_logistic"] == first["initial_logistic"]
    used = label_graph.load(tmp_path / "b" / "label_graph.npz", names)
    used = used.to_scipy().tocoo()
    np.testing.assert_array_equal(used.row, range(len(names)))
    np.testing.assert_array_equal(used.col, next_one[:, 0])


@pytest.mark.slow
def test_prepared_data_set_in_mixed_precision_on_a_strategy(
    folder, make_richer, tmp_path
):
    """With classes of images, labels hidden per image, a drop of the rate."""

    class Cub(make_richer, skip_registration=True):
        name = "imcl_cub"

    records = tmp_path / "records"
    builders.prepare(Cub(data_dir=records), folder)
    workdir = tmp_path / "run"
    succeed(
        "--dataset=cub", f"--data_dir={records}", f"--workdir={workdir}",
        "--backbone=small_cnn", "--backbone_weights=none", *FAST, "--epochs=2",
        "--regime=fixed_features",
        "--rate_drop_epoch=1", "--observed_fraction=0.5",
        "--observed_rule=per_image", "--mixed_precision=bfloat16",
        "--strategy=mirrored",
    )  # fmt: skip
    results = json.loads((workdir / "results.json").read_text())
    assert results["dataset"] == "cub" and 0 < results["mAP"] <= 100
    settings = (workdir / "flags.cfg").read_text().splitlines()
    assert {"--class_weight=10.0", "--label_graph=identity"} < set(settings)
    with (workdir / "metrics.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "validation"]
    assert all(float(row["label_smoothness"]) > 0 for row in rows)
    before, after = (float(row["learning_rate"]) for row in rows[1:])
    assert before == pytest.approx(0.01)
    # RateDecay may have come on top.
    assert min(abs(after - rate) for rate in (1e-3, 0.8e-3)) < 1e-6

    observed = Counter()
    for row in read_csv(folder / "labels.csv"):
        observed[row["image"]] += float(row["value"]) != 0
    train = [
        row["image"]
        for row in read_csv(folder / "splits.csv")
        if row["split"] == "train"
    ]
    mask = scipy.sparse.load_npz(workdir / "observed_labels.npz")
    assert sorted(np.diff(mask.indptr)) == sorted(
        max(round(0.5 * observed[image]), min(observed[image], 1))
        for image in train
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=folder", "--no_such_flag"], "no_such_flag"),
        (
            ["--dataset=coco", "--data_dir=nowhere"],
            "python -m data_prep.coco --raw_dir=RAW --data_dir=nowhere (19 GB",
        ),
    ],
)
def test_wrong_flags_end_in_one_line(arguments, message, tmp_path):
    workdir = tmp_path / "never"
    assert message in fail(*arguments, f"--workdir={workdir}")
    assert not workdir.exists()


def test_wrong_init_from_touches_nothing(folder, finished, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "logistic.keras").write_text("")
    files = [path for path in finished[0].rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    line = fail(
        "--dataset=folder", f"--data_dir={folder}", *FAST, "--seed=9",
        f"--workdir={finished[0]}", f"--init_from={tmp_path}",
    )  # fmt: skip
    assert "init_from" in line and "other labels" in line
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_full_disk_keeps_what_an_earlier_run_left(finished, folder, tmp_path):
    workdir = finished[0]
    kept = [
        "results.json", "metrics.csv", "checkpoints/best.keras",
        "checkpoints/logistic.keras", "saved_model/saved_model.pb",
    ]  # fmt: skip
    before = {name: (workdir / name).read_bytes() for name in kept}
    fail(
        "--dataset=folder", f"--data_dir={folder}", f"--workdir={workdir}",
        *FAST, "--seed=4", "--method=imcl", "--regime=end_to_end",
        limit=200_000,
    )  # fmt: skip
    for name, content in before.items():
        assert (workdir / "earlier" / name).read_bytes() == content, name
        # Else it would pass for that of the run that failed.
        assert not (workdir / name).exists()
    assert not list(workdir.rglob("*unfinished*"))
