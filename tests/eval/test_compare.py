"""The comparison: equal budgets, all methods, and the table."""

import numpy as np
import pytest

from eval import compare
from imcl_tf import main as program
from imcl_tf.methods.base import METHODS
from imcl_tf.settings import known_options


def test_every_method_has_rows_of_equal_budget():
    assert {row.method for row in compare.ROWS.values()} == METHODS.keys()
    program.define_flags()
    chosen = {o.name: o.default for o in known_options().values()}
    for name, row in compare.ROWS.items():
        trials = compare._trials(row.grid)
        assert len(trials) == 4, name
        # Flags that exist, and values that they take.
        for settings in trials:
            whole = {**row.settings, **row.end_to_end, **settings}
            changed = program.changed(chosen, {"method": row.method, **whole})
            assert changed.keys() >= whole.keys()
        options = {option.name for option in METHODS[row.method].OPTIONS}
        tuned = {*row.grid, *row.end_to_end, *row.settings}
        assert tuned <= options | {"learning_rate"}, name
    assert set(compare.BOOSTED) <= compare.ROWS.keys()


def test_table_has_mean_and_deviation_of_each_regime():
    def entry(row, regime, scores, **settings):
        return {
            "row": row, "regime": regime, "settings": settings, "mAP": scores,
            "validation_mAP": scores, "initial_mAP": [40.0, 41.0],
            "mAP_support": {
                "labels": 3, "num_labels": 4, "positives": 9, "negatives": 20
            },
        }  # fmt: skip

    first, second = [50.0, 52.0], [60.0, 63.0]
    text = compare.table(
        [
            entry("Hill", "fixed_features", first, learning_rate="0.1"),
            entry("Hill", "end_to_end", second, learning_rate="0.3"),
            entry("Hill", "end_to_end", first, boost="true", learning_rate="1"),
        ]
    )
    deviation = np.std(second, ddof=1)
    assert text.splitlines() == [
        "| | fixed_features | end_to_end |",
        "|---|---|---|",
        "| logistic | 40.50 ± 0.71 | 40.50 ± 0.71 |",
        f"| Hill | 51.00 ± 1.41 (rate 0.1) | 61.50 ± {deviation:.2f} "
        "(rate 0.3) |",
        "| Hill, boosted |  | 51.00 ± 1.41 (rate 1) |",
        "",
        "Test mAP on 3 of 4 labels, 9 entries observed present, 20 absent.",
    ]


def test_end_to_end_starts_from_what_fixed_features_chose(tmp_path):
    """A tenth and a hundredth of the rate for the CNN, the rest as it was."""
    runs = []

    class Recorded(compare.Comparison):
        def _run(self, name, regime, settings, workdir, seed, tuning=False):
            runs.append((regime, settings, seed, tuning))
            return {
                "validation_mAP": float(settings["learning_rate"]),
                "mAP": 1.0,
                "mAP_support": {},
                "initial_logistic": {"mAP": 0.0},
            }

    epochs = {"fixed_features": 10, "end_to_end": 3}
    comparison = Recorded(None, {}, tmp_path, ["5", "6"], epochs)
    entry = comparison.row("EM + APL", "end_to_end", boost=True)
    alpha, warmup, rounds = (
        f"entropy_maximisation_{name}" for name in ("alpha", "warmup", "rounds")
    )
    kept = {
        "learning_rate": "0.1", alpha: "0.1", warmup: "2", rounds: "1",
        "boost": "true",
    }  # fmt: skip
    best = {**kept, "backbone_learning_rate": "0.01"}
    assert entry["settings"] == best and entry["mAP"] == [1.0, 1.0]
    slower = {**kept, "backbone_learning_rate": "0.001"}
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


def test_one_seed_has_no_deviation():
    support = {"labels": 1, "num_labels": 1, "positives": 1, "negatives": 1}
    entry = {
        "row": "Hill", "regime": "end_to_end", "settings": {},
        "initial_mAP": [40], "mAP": [51.25], "mAP_support": support,
    }  # fmt: skip
    lines = compare.table([entry]).splitlines()
    assert lines[2:4] == ["| logistic | 40.00 |", "| Hill | 51.25 () |"]


@pytest.mark.parametrize(
    ("text", "known", "words"),
    [
        ("", (), "must be of whole numbers, each once, got ''"),
        ("0,1,0", (), "must be of whole numbers, each once, got '0,1,0'"),
        ("0,a", (), "must be of whole numbers, got 'a'"),
        (" , ", ("Hill", "SPLC"), "must be of Hill; SPLC, each once"),
        ("Hill,hill", ("Hill", "SPLC"), "of Hill; SPLC, got 'hill'"),
        ("Hill,Hill", ("Hill", "SPLC"), "of Hill; SPLC, each once"),
    ],
)
def test_lists_of_flags(text, known, words):
    with pytest.raises(ValueError, match="^--flag ") as caught:
        compare.chosen("flag", text, known)
    assert words in str(caught.value)
    assert compare.chosen("flag", " 2,0", ()) == ["2", "0"]
    assert compare.chosen("flag", "b, a b", ("a b", "b")) == ["b", "a b"]
