"""The comparison: equal budgets, all methods, and the table."""

import json

import numpy as np
import pytest

from eval import compare
from imcl_tf import main as program
from imcl_tf.backbones.pictures import picture_format
from imcl_tf.data.datasets import load_dataset
from imcl_tf.methods.base import METHODS
from imcl_tf.settings import AUTO, known_options
from tests.methods.common import tiny_cnn


def test_every_method_has_rows_of_equal_budget():
    methods = {row.method for row in compare.ROWS.values()}
    assert methods == {*METHODS, AUTO}
    program.define_flags()
    chosen = {o.name: o.default for o in known_options().values()}
    for name, row in compare.ROWS.items():
        trials = compare._trials(row.grid)
        assert len(trials) == (4 if row.grid else 1), name
        # Flags that exist, and values that they take.
        for settings in trials:
            whole = {**row.settings, **row.end_to_end, **settings}
            changed = program.changed(chosen, {"method": row.method, **whole})
            assert changed.keys() >= whole.keys()
        if not row.grid:
            continue  # its runs choose themselves
        options = {option.name for option in METHODS[row.method].OPTIONS}
        tuned = {*row.grid, *row.end_to_end, *row.settings}
        common = {"learning_rate", "neighbors", "initial_head"}
        assert tuned <= options | common, name
    assert set(compare.BOOSTED) <= compare.ROWS.keys()


def test_end_to_end_starts_from_what_fixed_features_chose(tmp_path):
    """A tenth and a hundredth of the rate for the CNN, the rest as it was."""
    runs = []

    class Recorded(compare.Comparison):
        def logistic(self, regime):
            return []

        def _run(self, name, regime, settings, workdir, seed, tuning=False):
            runs.append((regime, settings, seed, tuning))
            return {
                "validation_mAP": float(settings["learning_rate"]),
                "mAP": 1.0,
                "mAP_support": {},
                "chosen": None,
            }

    epochs = {"fixed_features": 10, "end_to_end": 3}
    comparison = Recorded(None, {}, tmp_path, ["5", "6"], epochs)
    entry = comparison.row("EM + APL", "end_to_end", boost=True)
    alpha, warmup, rounds = (
        f"entropy_maximisation_{name}" for name in ("alpha", "warmup", "rounds")
    )
    kept = {
        "learning_rate": "0.03", alpha: "0.1", warmup: "2", rounds: "1",
        "boost": "true",
    }  # fmt: skip
    best = {**kept, "backbone_learning_rate": "0.003"}
    assert entry["settings"] == best and entry["mAP"] == [1.0, 1.0]
    slower = {**kept, "backbone_learning_rate": "0.0003"}
    assert runs[4:] == [
        ("end_to_end", best, "5", True),
        ("end_to_end", slower, "5", True),
        ("end_to_end", best, "5", False),
        ("end_to_end", best, "6", False),
    ]
    assert [run[0] for run in runs[:4]] == ["fixed_features"] * 4
    assert all(seed == "5" and tuning for _, _, seed, tuning in runs[:4])
    both = compare.compare(comparison, ["fixed_features", "end_to_end"],
                           ["Hill", "EM + APL"])  # fmt: skip
    assert [
        (e["row"], e["regime"], "boost" in e["settings"]) for e in both
    ] == [
        ("Hill", "fixed_features", False),
        ("EM + APL", "fixed_features", False),
        ("Hill", "end_to_end", False),
        ("EM + APL", "end_to_end", False),
        ("EM + APL", "end_to_end", True),
    ]


def test_rows_without_a_grid_are_of_fixed_features():
    rows = (*compare.PEERS, *compare.ROWS)
    both = [name for name in rows if compare.is_of(name, "end_to_end")]
    assert all(compare.is_of(name, "fixed_features") for name in rows)
    assert set(rows) - set(both) == {
        *compare.PEERS, "auto", "logistic + neighbours",
        "logistic + completed labels",
    }  # fmt: skip


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    "row",
    [
        "logistic + completed labels",
        pytest.param("auto", marks=pytest.mark.slow),
    ],
)
def test_rows_start_from_the_solved_model(
    make_folder, tmp_path, monkeypatch, row
):
    """Rows of each kind on a file of features; finished ones are not run."""
    made = make_folder(tmp_path / "data", names=())
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(made.encoded), 4))
    np.savez(tmp_path / "f.npz", ids=[*made.encoded], features=features)
    data = load_dataset("folder", made.path, features=f"{tmp_path}/f.npz")
    monkeypatch.setitem(
        compare.ROWS, "Hill", compare.Row("hill", {"learning_rate": (0.1,)})
    )
    program.define_flags()
    chosen = {o.name: o.default for o in known_options().values()}
    chosen |= {"observed_fraction": 0.5, "budget": 0.0, "keep": "latest"}
    epochs = {"fixed_features": 1, "end_to_end": 1}
    names = [compare.LOGISTIC, compare.KNN, "Hill", row]

    def entries():
        comparison = compare.Comparison(
            data, chosen, tmp_path / "runs", ["4"], epochs
        )
        return compare.compare(comparison, ["fixed_features"], names)

    found = entries()
    assert [entry["row"] for entry in found] == [
        "logistic", "logistic, all labels observed", *names
    ]  # fmt: skip
    # Test labels are the same for all, and hidden labels those of the seed.
    assert len({str(entry["mAP_support"]) for entry in found}) == 1
    place = tmp_path / "runs" / "fixed_features"
    start, full, hill = (
        json.loads((place / row / "seed-4" / "results.json").read_text())
        for row in ("logistic", "logistic, all labels observed", "Hill")
    )
    hidden = data.hide_labels(0.5, 4).train.labels
    assert start["observed_labels"] == hill["observed_labels"] == hidden.nnz
    assert full["observed_labels"] == data.train.labels.nnz > hidden.nnz
    assert hill["initial_logistic"]["mAP"] == start["mAP"]
    assert hill["penalty"] == start["penalty"] > 0
    assert found[0]["chosen"] == [{"penalty": start["penalty"]}]
    if row == "auto":
        assert found[-1]["chosen"][0]["method"] == "logistic"
    files = [*place.rglob("results.json"), *place.glob("peers/*.json")]
    times = [file.stat().st_mtime_ns for file in files]
    assert entries() == found
    assert times == [file.stat().st_mtime_ns for file in files]


def test_a_pretrained_network_is_not_trained(make_folder, tmp_path):
    """Its features are those of all seeds, which need no run."""
    made = make_folder(tmp_path / "data", names=())
    network = tiny_cnn()
    network.save(tmp_path / "net.keras")
    program.define_flags()
    chosen = {o.name: o.default for o in known_options().values()}
    chosen["backbone"] = f"{tmp_path}/net.keras"
    data = load_dataset("folder", made.path)
    comparison = compare.Comparison(
        data, chosen, tmp_path / "runs", ["1", "2"], {}
    )
    found = [comparison._data_of("fixed_features", seed) for seed in "12"]
    assert not (tmp_path / "runs").exists()
    (pictures, _), *_ = (
        data.test.batches(64).sized(*picture_format(network)).one_pass()
    )
    expected = network(pictures["inputs"])
    for dataset in found:
        (features, _), *_ = dataset.test.batches(64).one_pass()
        np.testing.assert_allclose(features["inputs"], expected, rtol=1e-5)
