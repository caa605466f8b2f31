"""The table of the comparison: shares of the gap, by hand, and Markdown."""

import numpy as np
import pytest

import imcl_tf
from eval import table

SUPPORT = {"labels": 3, "num_labels": 4, "positives": 9, "negatives": 20}


def entry(row, scores, regime="fixed_features", own=(), **settings):
    return {
        "row": row, "regime": regime, "settings": settings, "mAP": scores,
        "chosen": list(own) or [{}] * len(scores), "mAP_support": SUPPORT,
    }  # fmt: skip


def test_share_of_the_gap():
    # (52 - 50) / (60 - 50) and (51 - 53) / (57 - 53)
    assert table.shares([52, 51], [50, 53], [60, 57]) == [20.0, -50.0]
    # The first seed alone: (52 - 50) / (60 - 50)
    assert table.shares([52], [50], [60]) == [20.0]


@pytest.mark.parametrize(
    "full",
    [
        [51.0, 56.0],  # gaps 1 and 5: mean 3 is above 2.83, see below
        [50.5, 56.0],  # 0.5 and 5: mean 2.75, deviation 3.18
        [49.0, 60.0],  # -1 and 9
        [50.0, 51.0],  # none
    ],
)
def test_no_share_of_a_gap_that_is_chance(full):
    found = table.shares([51.0, 52.0], [50.0, 51.0], full)
    assert (found is None) == (full[0] != 51.0)


def test_no_number_is_minus_zero():
    assert table._spread([-0.4, 0.2], 0) == "0 ± 0"
    assert table._spread([-0.6], 0) == "-1"


def test_each_regime_has_a_table():
    first, second = [50.0, 52.0], [60.0, 63.0]
    near = imcl_tf.Mixing(0.5, 10, by="logits")
    entries = [
        entry("logistic", [40.0, 41.0], own=[{"penalty": 0.01}] * 2),
        entry(table.FULL, [70.0, 71.0],
              own=[{"penalty": 0.01}, {"penalty": 0.0032}]),
        entry("Hill", first, learning_rate="0.1"),
        entry("near", [40.0, 41.0], own=[
            {"neighbors": near._asdict(), "penalty": 1.0}, {},
        ]),
        entry("auto", [40.0, 41.0], own=[
            {"method": "imcl", "neighbors": "chosen", "lambda_y": 1.0},
            {"method": "logistic"},
        ]),
        entry("logistic", [40.0, 41.0], "end_to_end"),
        entry("Hill", second, "end_to_end", learning_rate="0.3"),
        entry("Hill", first, "end_to_end", boost="true", learning_rate="1"),
    ]  # fmt: skip
    table.add_shares(entries)
    assert entries[2]["gap_share"] == pytest.approx([100 / 3, 1100 / 30])
    assert "gap_share" not in entries[-1]
    deviation = np.std(second, ddof=1)
    assert table.table(entries).splitlines() == [
        "| fixed_features | mAP | share of the gap, % | chosen |",
        "| --- | --- | --- | --- |",
        "| logistic | 40.50 ± 0.71 | 0 ± 0 | penalty 0.01 |",
        f"| {table.FULL} | 70.50 ± 0.71 | 100 ± 0 | penalty 0.01; "
        "penalty 0.0032 |",
        "| Hill | **51.00 ± 1.41** | 35 ± 2 | rate 0.1 |",
        "| near | 40.50 ± 0.71 | 0 ± 0 | penalty 1, share 0.5 of 10 "
        "neighbours by logits |",
        "| auto | 40.50 ± 0.71 | 0 ± 0 | imcl, with neighbours; logistic |",
        "",
        "| end_to_end | mAP | chosen |",
        "| --- | --- | --- |",
        "| logistic | 40.50 ± 0.71 |  |",
        f"| Hill | **61.50 ± {deviation:.2f}** | rate 0.3 |",
        "| Hill, boosted | 51.00 ± 1.41 | rate 1 |",
        "",
        "Test mAP on 3 of 4 labels, 9 entries observed present, 20 absent.",
    ]


def test_a_gap_of_chance_is_said():
    entries = [
        entry("logistic", [50.0, 51.0]),
        entry(table.FULL, [49.0, 60.0]),  # gaps -1 and 9
        entry("Hill", [51.25, 51.25]),
    ]
    table.add_shares(entries)
    text = table.table(entries)
    assert "| Hill | **51.25 ± 0.00** |  |  |" in text
    assert "No share: the gap is 4.00 ± 7.07, not above chance." in text


def test_one_seed_has_no_deviation():
    lines = table.table([entry("Hill", [51.25])]).splitlines()
    assert lines[2] == "| Hill | **51.25** |  |"
