"""Flags of the programs, by program; known without TensorFlow."""

from __future__ import annotations

from imcl_tf.options import Option

_REPEATS = "Runs of each."
GROWTH = (
    Option("out", "growth.csv", "CSV file to write."),
    Option("repeats", 5, _REPEATS, minimum=1),
    Option("scale", 1.0, "Share of the full sizes.", minimum=0, maximum=1),
    Option(
        "cnn_seconds", 0.0,
        "Seconds of the CNN forward and backward for an image, with the step "
        "on its weights, for the section estimate; 0 = as measured here.",
        minimum=0,
    ),
)  # fmt: skip
FAULTS = (
    Option("out", "faults.csv", "CSV file that lists every fault."),
    Option("faults", 20, "Faults of each row.", minimum=1),
    Option("seed", 0, "Seed of kinds and moments of the faults.", minimum=0),
    Option("rows", "", "Rows by name, apart by commas; empty = all methods."),
)
WORKERS = (
    Option("runs", "runs/workers", "Directory that gets a workdir for each."),
    Option(
        "workers", "1,2,3", "Numbers of workers to train with, apart by commas."
    ),
    Option("seeds", 3, "Seeds 0, 1, ... for each number.", minimum=1),
    Option(
        "dataset", "scenes", "scenes, or scenes/small for a shorter run.",
        choices=("scenes", "scenes/small"),
    ),
)  # fmt: skip
PREPARATION_FAULTS = (
    Option("out", "preparation_faults.csv", "CSV file to write."),
    Option(
        "kills", 20,
        "Times that each program is killed; a quarter as often it is killed "
        "beside two others, and finds its disk full.",
        minimum=1,
    ),
    Option(
        "pictures", 20,
        "Pictures of validation and of test; of train there are four times as "
        "many.",
        minimum=8,
    ),
    Option(
        "builds", "",
        "What is built, apart by commas: folder, coco, cub, open_images, "
        "labels (new ones for the records of coco), features; empty = all.",
    ),
    Option("draws", 0, "Seed of the moments.", minimum=0),
)  # fmt: skip
BENCHMARK = (
    Option("out", "", "JSON file to write."),
    Option("repeats", 3, _REPEATS, minimum=1),
    Option(
        "scale", 1.0, "Share of the full size; bars are meant for 1.",
        minimum=0, maximum=1,
    ),
)  # fmt: skip
_SEEDS = Option("seeds", "0,1,2", "Seeds, apart by commas.")
COMPARE = (
    _SEEDS,
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
_DIRECTORY = Option(
    "runs", "",
    "Directory of all runs of one plan or several, which share what they have "
    "in common; several machines may share it.",
)  # fmt: skip
RUN = (
    Option("plan", "", "Plan to run, flags/NAME."),
    _DIRECTORY,
    Option(
        "data", "",
        "Data set in the place of the plan's own: folder:DIR, or a value of "
        "--dataset.",
    ),
    _SEEDS,
    Option(
        "rows", "", "Rows of the plan by name, apart by commas; empty = all."
    ),
    Option(
        "columns", "",
        "Columns of the plan by name, apart by commas; empty = all.",
    ),
    Option(
        "tune", "",
        "Flags to choose on validation, on the first seed, for each row and "
        "column that does not set them: '--FLAG=VALUE|VALUE ...'; all "
        "combinations are tried.",
    ),
    Option(
        "jobs", 1,
        "Runs side by side on this machine, each a process of its own.",
        minimum=1,
    ),
    Option(
        "dry_run", False,
        "List the runs with their flags, and do none; the data are not read.",
    ),
)  # fmt: skip
# What plans say, beside flags of `imcl_tf.main`.
PLAN = (
    Option("title", "", "Heading of a plan's table."),
    Option("reported", "", "Key of the paper's numbers for a plan."),
    Option("row", "", "Row of a plan, NAME: --FLAG=VALUE ...", repeated=True),
    Option(
        "column", "", "Column of a plan, NAME: --FLAG=VALUE ...", repeated=True
    ),
    Option(
        "own_data", "",
        "Flags of a plan that hold for its own data set, not for --data.",
    ),
)  # fmt: skip
TABLES = (
    Option(
        "runs", "", "Directory in which eval.run ran plans.", repeated=True
    ),
    Option("out", "", "Directory that gets the tables."),
)  # fmt: skip
FIGURES = (
    *TABLES[:1],
    Option("out", "", "Directory that gets the figures."),
    Option(
        "image", "",
        "Name of a test image that figure 2 shows; without, the six with most "
        "labels observed present.",
        repeated=True,
    ),
)  # fmt: skip
REPORT = (
    Option(
        "runs", "",
        "Workdir of a finished run, a directory that holds some at any depth, "
        "or one in which eval.run ran plans.",
        repeated=True,
    ),
    Option("out", "report.html", "HTML file to write."),
)  # fmt: skip
