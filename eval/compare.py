"""Compares all methods on one data set under one protocol.

    python -m eval.compare --workdir=runs/birds --dataset=folder
        --data_dir=DIR --observed_fraction=0.1

Takes the flags of `imcl_tf.main`. For each seed a logistic model is trained;
every row starts from it and gets the same further epochs. On the first seed
each row tries as many settings as any other and keeps the best on validation
for all seeds: with fixed features the four of its `grid`; end to end the one
so chosen, with a tenth and a hundredth of its learning rate for the CNN. The
final runs alone look at test.
What has finished is not run again.

Writes WORKDIR/table.json and WORKDIR/table.md: test mAP in percent, mean and
standard deviation over seeds.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import main as training
    from imcl_tf import program as start

    ARGUMENTS = start.start(
        __doc__, options.COMPARE, training.GROUPS, training.parse_flags
    )

import itertools
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags

from imcl_tf import main as program
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.pipeline import MultiLabelDataset
from imcl_tf.files import fail, replacing
from imcl_tf.ops.metrics import Support
from imcl_tf.options import Value
from imcl_tf.program import values
from imcl_tf.settings import DEFAULT_METHOD, FOLDER
from imcl_tf.training import search
from imcl_tf.training.workdir import Workdir

FLAGS = flags.FLAGS
Grid = dict[str, tuple]


class Row(NamedTuple):
    """One line of the table.

    Attributes:
      method: of `imcl_tf.main`.
      grid: FLAG -> values to try with fixed features, 4 combinations.
      settings: FLAG -> value of all its runs.
      end_to_end: FLAG -> value of those end to end.
    """

    method: str
    grid: Grid
    settings: dict[str, str] = {}
    end_to_end: dict[str, str] = {}


# A mean over observed labels wants higher rates than a sum over all labels.
_MEAN = {"learning_rate": (0.1, 0.3, 1, 3)}
_SUM = {"learning_rate": (0.01, 0.03, 0.1, 0.3)}
_PAIRS = {"learning_rate": (0.001, 0.01, 0.1, 1)}
_TWO = {"learning_rate": (0.03, 0.1)}
_IMCL = {"learning_rate": (0.05, 0.15), "lambda_y": (0.3, 1)}
_LARGE_LOSS = {**_TWO, "large_loss_delta": (0.4, 2)}
ROWS = {
    "logistic (trained on)": Row("logistic", _MEAN),
    "WSABIE": Row("wsabie", _PAIRS),
    "CNN-RNN": Row("cnn_rnn", _PAIRS, {"cnn_rnn_units": "128"}),
    "Fast0Tag": Row("fast0tag", _PAIRS),
    "curriculum labeling": Row("curriculum", _MEAN),
    "latent noise (visual)": Row("latent_noise", _MEAN),
    "latent noise (relevance)": Row(
        "latent_noise", _MEAN, {"latent_noise_scores": "relevance"}
    ),
    "LSEP": Row("lsep", _PAIRS),
    "IMCL (minibatch)": Row(DEFAULT_METHOD, _IMCL, {"dictionary_size": "0"}),
    "IMCL (dictionary)": Row(DEFAULT_METHOD, _IMCL),
    "assume negative": Row("assume_negative", _SUM),
    "weak assume negative": Row("weak_assume_negative", _SUM),
    "smoothed assume negative": Row(
        "smoothed_assume_negative", {**_TWO, "smoothing": (0.1, 0.3)}
    ),
    "large loss (reject)": Row("large_loss", _LARGE_LOSS),
    "large loss (temporary)": Row(
        "large_loss", _LARGE_LOSS, {"large_loss": "correct_temporary"}
    ),
    "large loss (permanent)": Row(
        "large_loss", _LARGE_LOSS, {"large_loss": "correct_permanent"}
    ),
    "asymmetric": Row(
        "asymmetric", {**_TWO, "asymmetric_gamma_unobserved": (4, 7)}
    ),
    "selective": Row("selective", {**_TWO, "selective_top_k": (5, 20)}),
    "Hill": Row("hill", _SUM),
    "SPLC": Row("splc", {**_TWO, "splc_threshold": (0.6, 0.8)}),
    "EM + APL": Row(
        "entropy_maximisation",
        {**_TWO, "entropy_maximisation_alpha": (0.1, 0.2)},
        end_to_end={
            "entropy_maximisation_warmup": "2",
            "entropy_maximisation_rounds": "1",
        },
    ),
}
# With --boost, which needs a feature map: end to end alone.
BOOSTED = ("assume negative", "large loss (reject)", "EM + APL")


def _trials(grid: Grid) -> list[dict[str, str]]:
    return [
        dict(zip(grid, map(str, values), strict=True))
        for values in itertools.product(*grid.values())
    ]


class Comparison:
    """The runs of a table.

    Args:
      source: data set.
      workdir: of all runs.
      seeds: the first one is that of the trials.
      epochs: regime -> epochs of all its rows.
    """

    def __init__(
        self,
        data: MultiLabelDataset,
        chosen: dict[str, Value],
        workdir: Path,
        seeds: list[str],
        epochs: dict[str, int],
    ):
        self._data, self._chosen, self._workdir = data, chosen, workdir
        self._seeds, self._epochs = seeds, epochs

    def logistic(self, seed: str) -> Path:
        """Workdir of the logistic model that every row starts from."""
        workdir = self._workdir / "logistic" / seed
        settings = {"method": "logistic", "epochs": "0", "seed": seed}
        program.run(self._data, self._changed(settings), workdir)
        return workdir

    def _changed(self, settings: dict[str, str]) -> dict[str, Value]:
        return program.changed(self._chosen, settings)

    def row(self, name: str, regime: str, boost: bool = False) -> dict:
        """Tunes and runs a row of `ROWS`; returns its table entry."""
        row = ROWS[name]
        settings, trials = {}, _trials(row.grid)
        if regime == "end_to_end":
            settings = self._best(name, "fixed_features", {}, trials)
            rate = float(settings["learning_rate"])
            rates = f"{rate / 10:.3g}", f"{rate / 100:.3g}"
            trials = _trials({"backbone_learning_rate": rates})
            settings |= row.end_to_end
        if boost:
            settings |= {"boost": "true"}
        best = self._best(name, regime, settings, trials)
        place = self._place(name, regime, settings)
        final = [
            self._run(name, regime, best, place / f"seed-{seed}", seed)
            for seed in self._seeds
        ]
        return {
            "row": name,
            "regime": regime,
            "settings": best,
            "validation_mAP": [r["validation_mAP"] for r in final],
            "initial_mAP": [r["initial_logistic"]["mAP"] for r in final],
            "mAP": [r["mAP"] for r in final],
            "mAP_support": final[0]["mAP_support"],  # of any seed
        }

    def _best(self, name, regime, settings, trials) -> dict[str, str]:
        """`settings` and the best of `trials` beside them."""

        def train(choice, workdir):
            whole = {**settings, **choice}
            return self._run(name, regime, whole, workdir, self._seeds[0], True)

        place = self._place(name, regime, settings)
        return {**settings, **search.search(trials, train, place)}

    def _place(self, name, regime, settings) -> Path:
        boosted = ["boosted"] if "boost" in settings else []
        return self._workdir.joinpath(regime, *boosted, name)

    def _run(self, name, regime, settings, workdir, seed, tuning=False):
        row = ROWS[name]
        whole = {
            **row.settings, **settings, "method": row.method,
            "regime": regime, "seed": seed,
            "epochs": str(self._epochs[regime]),
            "init_from": str(self.logistic(seed)),
        }  # fmt: skip
        return program.run(
            self._data, self._changed(whole), workdir, tuning=tuning
        )


def compare(
    comparison: Comparison, regimes: Sequence[str], names: Sequence[str]
) -> list[dict]:
    """Runs `names` of `ROWS` in each regime; returns the table's entries."""
    entries = [
        comparison.row(name, regime) for regime in regimes for name in names
    ]
    if "end_to_end" in regimes:
        entries += [
            comparison.row(name, "end_to_end", boost=True)
            for name in BOOSTED
            if name in names
        ]
    return entries


def table(entries: list[dict]) -> str:
    """The entries as a Markdown table, one column per regime."""
    regimes = list(dict.fromkeys(entry["regime"] for entry in entries))
    cells: dict[str, dict[str, str]] = {}
    for entry in entries:
        boosted = ", boosted" if "boost" in entry["settings"] else ""
        best = ", ".join(
            f"{flag.replace('learning_', '')} {value}"
            for flag, value in entry["settings"].items()
            if flag != "boost"
        )
        start = cells.setdefault("logistic", {})
        start[entry["regime"]] = _spread(entry["initial_mAP"])
        line = cells.setdefault(entry["row"] + boosted, {})
        line[entry["regime"]] = f"{_spread(entry['mAP'])} ({best})"
    lines = [f"| | {' | '.join(regimes)} |", "|---" * (len(regimes) + 1) + "|"]
    for name, line in cells.items():
        values = " | ".join(line.get(regime, "") for regime in regimes)
        lines.append(f"| {name} | {values} |")
    support = Support(**entries[0]["mAP_support"])
    lines += ["", f"Test mAP on {support}."]
    return "\n".join(lines)


def _spread(scores) -> str:
    """Mean and deviation, which a single score has not."""
    deviation = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.2f}{deviation}"


def chosen(flag: str, text: str, known: Iterable[str] = ()) -> list[str]:
    """What a flag lists, apart by commas.

    Args:
      flag: its name.
      text: its value.
      known: what it may list, none = whole numbers.

    Raises:
      ValueError: for anything else, for what is listed twice, or for nothing.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    what = "; ".join(known) or "whole numbers"
    for part in parts:
        if not (part in known if known else re.fullmatch(r"\d+", part)):
            raise ValueError(f"--{flag} must be of {what}, got {part!r}")
    if not parts or len({*parts}) < len(parts):
        raise ValueError(f"--{flag} must be of {what}, each once, got {text!r}")
    return parts


def main(argv: list[str]):
    del argv
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    workdir = Path(FLAGS.workdir)
    epochs = {
        "fixed_features": FLAGS.epochs,
        "end_to_end": FLAGS.end_to_end_epochs,
    }
    try:
        names = chosen("rows", FLAGS.rows or ",".join(ROWS), ROWS)
        regimes = chosen("regimes", FLAGS.regimes, epochs)
        seeds = chosen("seeds", FLAGS.seeds)
        Workdir(workdir).check_writable()
        data = load_dataset(
            FLAGS.dataset, FLAGS.data_dir, FLAGS.on_bad_image,
            **values(FOLDER),
        )  # fmt: skip
        comparison = Comparison(
            data, program.current_settings(), workdir, seeds, epochs
        )
        entries = compare(comparison, regimes, names)
        for file, text in (
            ("table.json", json.dumps(entries, indent=2)),
            ("table.md", table(entries)),
        ):
            with replacing(workdir / file) as path:
                path.write_text(text + "\n", "utf-8")
    except (
        ValueError, OSError, FloatingPointError, tf.errors.OpError
    ) as error:  # fmt: skip
        fail(error)
    print(table(entries))


if __name__ == "__main__":
    start.run(main, ARGUMENTS, "the same command continues")
