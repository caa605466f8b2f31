"""Workdirs as a run leaves them, of made predictions."""

import csv
import json

import numpy as np
import scipy.sparse

from imcl_tf.methods.pictures import Snapshot, save_snapshot
from imcl_tf.training.evaluation import scores as mean_scores
from imcl_tf.training.predictions import Predictions, save
from tests.eval.test_tables import cell, write_state

# What a page must show as it is, and must not run.
HOSTILE = (
    '</script><script>window.hit="script"</script>',
    '"><img src=x onerror=window.hit=1>',
    "{{ 7 * 7 }} & 'quotes' \U0001f426 über",
)


def predictions_of(rng, num_images, names, observed=0.3):
    """Predictions of logits that tell something of the labels."""
    shape = num_images, len(names)
    truth = np.where(rng.random(shape) < 0.3, 1, -1)
    labels = np.where(rng.random(shape) < observed, truth, 0).astype(np.int8)
    logits = (1.2 * truth + rng.normal(scale=1.5, size=shape)).astype("f4")
    table = scipy.sparse.csr_array(labels)
    ids = np.array([f"{i:05}.jpg" for i in range(num_images)], "S")
    top = np.argsort(-logits, 1, kind="stable")[:, :50].astype(np.int32)
    return Predictions(ids, table, logits[labels != 0], top)


def write_run(
    path, rng, names=("cat", "dog", "owl"), num_images=40, seed=0, images=None,
    method="imcl", **more
):  # fmt: skip
    """Writes a workdir; returns its predictions.

    Args:
      path: the directory.
      rng: of all numbers.
      names: of the labels.
      num_images: of test.
      seed: of the run.
      images: training images of the snapshots, None = 12.
      method: of the run.
      more: of results.json.
    """
    (path / "tensorboard/similarities").mkdir(parents=True)
    found = predictions_of(rng, num_images, names)
    save(found, path / "test_predictions.npz")
    precision = found.precision()
    mean = mean_scores(precision, found.labels)
    results = {
        "method": method, "regime": "end_to_end", "seed": seed,
        "dataset": "folder", "num_labels": len(names),
        "labels_digest": "0123456789abcdef",
        **mean, **{f"validation_{k}": x for k, x in mean.items()},
        "initial_logistic": mean_scores(precision, found.labels),
        "digests": {"splits": "feedfacefeedface"}, "settings": [], **more,
    }  # fmt: skip
    (path / "results.json").write_text(json.dumps(results))
    provenance = {
        "version": "0.1.0", "commit": "c0ffee", "packages": {"keras": "3"},
        "python": "3.11", "processor": "made", "cores": 2,
        "accelerators": [], "begun": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:01:00+00:00", "seconds": 60.0,
        "resumed": False,
    }  # fmt: skip
    (path / "provenance.json").write_text(json.dumps(provenance))
    (path / "labels.txt").write_text("".join(f"{x}\n" for x in names), "utf-8")
    (path / "flags.cfg").write_text(
        f"--dataset=folder\n--data_dir={path}/none\n--seed={seed}\n--augment\n"
    )
    rows = [
        (name, "" if np.isnan(ap) else f"{100 * ap:.4f}", *counts)
        for name, ap, *counts in zip(
            names, precision.per_label(), precision.positives(),
            precision.negatives(), strict=True,
        )
    ]  # fmt: skip
    write_table(
        path / "average_precision.csv",
        [("label", "AP", "positives", "negatives"), *rows],
    )
    header = (
        "step", "epoch", "split", "mAP", "loss", "logistic_loss",
        "learning_rate",
    )  # fmt: skip
    write_table(
        path / "metrics.csv",
        [
            header,
            (0, 0, "validation", "50.5", "3", "2", "0.1"),
            (9, 1, "train", "", "2.5", "1.5", "0.1"),
            (9, 1, "validation", "60.25", "2", "1", "0.05"),
        ],
    )
    write_graph(path, rng, names, images)
    return found


def write_plan(place, rng, **more):
    """Writes what eval.run leaves of a plan of three rows and two seeds.

    The last row is not there; of the logistic one seed 0 alone is. Directories
    are named as if by digests.

    Args:
      place: the directory.
      rng: of all numbers.
      more: of the plan's state.
    """
    column, cells = "fixed_features", []
    for seed in (0, 1):
        for name in ("0a", "2c") if seed else ("0a", "1b", "2c"):
            method = "imcl" if name == "2c" else "logistic"
            warnings = ["Doubtful."] if name == "2c" else []
            write_run(
                place / f"runs/{name}{seed}", rng, seed=seed, method=method,
                warnings=warnings,
            )  # fmt: skip
        start = f"0a{seed}"
        cells += [
            cell("logistic", seed, None if seed else "1b0", column, start),
            cell("imcl", seed, f"2c{seed}", column, start),
            cell(HOSTILE[0], seed, None, column, error=f"{HOSTILE[1]} failed"),
        ]
    write_state(place, cells, title=f"Table 1 {HOSTILE[2]}", **more)


def write_graph(path, rng, names, images):
    num_labels, number = len(names), images or 12
    edges = np.array(
        [
            (j, (j + step) % num_labels)
            for j in range(num_labels)
            for step in range(min(20, num_labels))
        ],
        np.int32,
    )
    own = np.arange(min(4, number), dtype=np.int32)
    near = rng.integers(-1, number, (len(own), 3)).astype(np.int32)
    for moment in ("start", "end"):
        weights = rng.normal(size=len(edges)).astype("f4")
        c = rng.random((2, *near.shape)).astype("f4")
        save_snapshot(
            Snapshot(edges, weights, own, near, *c),
            path / f"tensorboard/similarities/{moment}.npz",
        )
    np.savez(
        path / "label_graph.npz", edges=edges, weights=weights,
        labels=np.array(names),
    )  # fmt: skip
    np.save(
        path / "train_images.npy",
        np.array([f"train {i}.jpg" for i in range(number)], "S"),
    )


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
