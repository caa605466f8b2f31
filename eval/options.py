"""Flags of the programs, by program; known without TensorFlow."""

from __future__ import annotations

from imcl_tf.options import Option

_REPEATS = "Runs of each."
GROWTH = (
    Option("out", "growth.csv", "CSV file to write."),
    Option("repeats", 5, _REPEATS, minimum=1),
    Option(
        "scale", 1.0, "Share of the full sizes M and C.", minimum=0, maximum=1
    ),
)
BENCHMARK = (
    Option("out", "", "JSON file to write."),
    Option("repeats", 3, _REPEATS, minimum=1),
    Option(
        "scale", 1.0, "Share of the full size; bars are meant for 1.",
        minimum=0, maximum=1,
    ),
)  # fmt: skip
COMPARE = (
    Option("seeds", "0,1,2", "Seeds, apart by commas."),
    Option(
        "regimes", "",
        "Regimes, in this order, apart by commas; empty = fixed_features and, "
        "without --features, end_to_end.",
    ),
    Option(
        "rows", "",
        "Rows of the table by their whole names, such as 'auto,kNN (same "
        "features)', beside the logistic models; empty = all.",
    ),
    Option(
        "end_to_end_epochs", 3,
        "Epochs end to end; --epochs is for fixed features.",
        minimum=1,
    ),
)  # fmt: skip
