"""Compares all methods and two peers on one data set under one protocol.

    python -m eval.compare --workdir=runs/birds --dataset=folder
        --data_dir=DIR --observed_fraction=0.1

Takes the flags of `imcl_tf.main`, --features and --budget too. For each seed a
logistic model is fitted and solved; every row starts from it, keeps its
penalty and gets the same further epochs. On the first seed each row tries as
many settings as any other and keeps the best on validation for all seeds: with
fixed features the four of its `grid`; end to end the one so chosen, with a
tenth and a hundredth of its learning rate for the CNN. The final runs alone
look at test. What has finished is not run again.

With fixed features there are further rows: neighbours at prediction, `auto`,
which does its own trials, and scikit-learn's peers, see `eval.peers`. With
--observed_fraction below 1 a logistic model of all labels says how much there
is to gain, and the table says which share of that gap each row recovers.

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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags

from eval.peers import KNN, LOGISTIC, peers
from eval.plan import listed
from eval.table import FULL, START, add_shares, table
from imcl_tf import main as program
from imcl_tf.backbones.pictures import picture_format
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.features import fixed_features
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.files import fail, replacing
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.options import Value
from imcl_tf.program import values
from imcl_tf.settings import AUTO, DEFAULT_METHOD, FOLDER, REGIMES
from imcl_tf.training import search
from imcl_tf.training.workdir import Workdir

FLAGS = flags.FLAGS
Grid = dict[str, tuple]
_END_TO_END, _FIXED = REGIMES
PEERS = (LOGISTIC, KNN)
# The initial logistic model alone, solved.
_SOLVED = {
    "method": "logistic", "epochs": "0", "regime": _FIXED,
    "completion_rounds": "0", "neighbors": "none",
}  # fmt: skip


class Row(NamedTuple):
    """One line of the table.

    Attributes:
      method: of `imcl_tf.main`.
      grid: FLAG -> values to try with fixed features, 4 combinations; empty
        = a row of fixed features alone, whose runs choose themselves.
      settings: FLAG -> value of all its runs.
      end_to_end: FLAG -> value of those end to end.
    """

    method: str
    grid: Grid
    settings: dict[str, str] = {}
    end_to_end: dict[str, str] = {}


# Wide apart: a strong penalty wants small steps, other methods large ones.
# The start is kept where none is better.
_RATES = {"learning_rate": (0.0001, 0.001, 0.01, 0.1)}
_TWO = {"learning_rate": (0.001, 0.03)}
_IMCL = {**_TWO, "lambda_y": (0.2, 1)}
_LARGE_LOSS = {**_TWO, "large_loss_delta": (0.4, 2)}
_NEAR = {"neighbors": "chosen"}
ROWS = {
    "logistic (trained on)": Row(
        "logistic", _RATES, {"initial_head": "trained"}
    ),
    "WSABIE": Row("wsabie", _RATES),
    "CNN-RNN": Row("cnn_rnn", _RATES, {"cnn_rnn_units": "128"}),
    "Fast0Tag": Row("fast0tag", _RATES),
    "curriculum labeling": Row("curriculum", _RATES),
    "latent noise (visual)": Row("latent_noise", _RATES),
    "latent noise (relevance)": Row(
        "latent_noise", _RATES, {"latent_noise_scores": "relevance"}
    ),
    "LSEP": Row("lsep", _RATES),
    "IMCL (minibatch)": Row(DEFAULT_METHOD, _IMCL, {"dictionary_size": "0"}),
    "IMCL (dictionary)": Row(DEFAULT_METHOD, _IMCL),
    "assume negative": Row("assume_negative", _RATES),
    "weak assume negative": Row("weak_assume_negative", _RATES),
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
    "Hill": Row("hill", _RATES),
    "SPLC": Row("splc", {**_TWO, "splc_threshold": (0.6, 0.8)}),
    "EM + APL": Row(
        "entropy_maximisation",
        {**_TWO, "entropy_maximisation_alpha": (0.1, 0.2)},
        end_to_end={
            "entropy_maximisation_warmup": "2",
            "entropy_maximisation_rounds": "1",
        },
    ),
    "IMCL (dictionary) + neighbours": Row(DEFAULT_METHOD, _IMCL, _NEAR),
    "logistic + neighbours": Row("logistic", {}, _NEAR),
    "logistic + completed labels": Row(
        "logistic", {}, {"completion_rounds": "3"}
    ),
    AUTO: Row(AUTO, {}),
}
# With --boost, which needs a feature map: end to end alone.
BOOSTED = ("assume negative", "large loss (reject)", "EM + APL")


def is_of(name: str, regime: str) -> bool:
    """Whether a regime has that row: end to end, those that have a grid."""
    return regime == _FIXED or (name in ROWS and bool(ROWS[name].grid))


def _trials(grid: Grid) -> list[dict[str, str]]:
    return [
        dict(zip(grid, map(str, values), strict=True))
        for values in itertools.product(*grid.values())
    ]


class Comparison:
    """The runs of a table.

    Args:
      data: with all labels.
      chosen: settings of all runs.
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
        self._of_features: dict[str, MultiLabelDataset] = {}
        self._starts: dict[tuple[str, str], dict] = {}

    def logistic(self, regime: str) -> list[dict]:
        """The entries of the logistic models that rows are compared with."""
        begun = [self._start(regime, seed) for seed in self._seeds]
        entries = [_entry(START, regime, {}, begun)]
        if float(self._chosen["observed_fraction"]) < 1:
            full = [self._full(seed) for seed in self._seeds]
            entries.append(_entry(FULL, regime, {}, full))
        return entries

    def row(self, name: str, regime: str, boost: bool = False) -> dict:
        """Tunes and runs a row of `ROWS`, or a peer; returns its entry."""
        if name in PEERS:
            found = [self._peers(seed)[name] for seed in self._seeds]
            return _entry(name, regime, {}, found)
        row = ROWS[name]
        settings, trials = {}, _trials(row.grid)
        if regime == _END_TO_END:
            settings = self._best(name, _FIXED, {}, trials)
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
        return _entry(name, regime, best, final)

    def _best(self, name, regime, settings, trials) -> dict[str, str]:
        """`settings` and the best of `trials` beside them."""
        if len(trials) == 1:
            return {**settings, **trials[0]}

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
        self._start(regime, seed)
        whole = {
            **row.settings, **settings, "method": row.method,
            "regime": regime, "seed": seed,
            "epochs": str(self._epochs[regime]),
            "init_from": str(self._place_of_start(regime, seed)),
        }  # fmt: skip
        return self._program(
            self._data_of(regime, seed), whole, workdir, tuning
        )

    def _start(self, regime: str, seed: str) -> dict:
        """Results of the logistic model that the rows of a regime start from.

        With fixed features it is solved on the stored ones: no run needs the
        network.
        """
        if (regime, seed) not in self._starts:
            self._starts[regime, seed] = self._program(
                self._data_of(regime, seed), {**_SOLVED, "seed": seed},
                self._place_of_start(regime, seed),
            )  # fmt: skip
        return self._starts[regime, seed]

    def _place_of_start(self, regime, seed) -> Path:
        return self._place(START, regime, {}) / f"seed-{seed}"

    def _full(self, seed: str) -> dict:
        """Results of the logistic model of all labels, on equal features."""
        return self._program(
            self._data_of(_FIXED, seed),
            {**_SOLVED, "seed": seed, "observed_fraction": "1"},
            self._place(FULL, _FIXED, {}) / f"seed-{seed}",
        )

    def _peers(self, seed: str) -> dict[str, dict]:
        chosen = self._chosen
        data = self._data_of(_FIXED, seed).hide_labels(
            float(chosen["observed_fraction"]),
            int(seed),
            str(chosen["observed_rule"]),
        )
        return peers(data, self._workdir / _FIXED / "peers" / f"{seed}.json")

    def _data_of(self, regime: str, seed: str) -> MultiLabelDataset:
        """The data that a regime's runs take: features if they are fixed."""
        if regime == _END_TO_END or self._data.train.num_features:
            return self._data
        if seed not in self._of_features:
            network = program.network_of(self._chosen)
            if not network.pretrained:
                self._load_trained(network, seed)
            made = fixed_features(self._data, network)
            # As those of a file: no run is to look for pictures or a network.
            alone: dict[str, Any] = {
                name: split._replace(pictures=None)
                for name, split in made.splits.items()
            }
            self._of_features[seed] = made._replace(**alone)
        return self._of_features[seed]

    def _load_trained(self, network, seed):
        """Gives a network the weights of the start that was trained with it."""
        self._start(_END_TO_END, seed)
        model = MultiLabelModel(network, self._data.num_labels)
        size = picture_format(network).image_size
        model.build((None, size, size, 3))
        place = self._place_of_start(_END_TO_END, seed)
        Workdir(place).load_logistic(model, self._data)

    def _program(self, data, settings, workdir, tuning=False) -> dict:
        changed = program.changed(self._chosen, settings)
        return program.run(data, changed, workdir, tuning=tuning)


def _entry(name: str, regime: str, settings: dict, final: list[dict]) -> dict:
    """What table.json says of a row, from its results for each seed."""
    return {
        "row": name,
        "regime": regime,
        "settings": settings,
        "chosen": [_own_choice(results) for results in final],
        "validation_mAP": [results["validation_mAP"] for results in final],
        "mAP": [results["mAP"] for results in final],
        "mAP_support": final[0]["mAP_support"],  # of any seed
    }


def _own_choice(results: dict) -> dict:
    """What a run chose itself, on its own validation."""
    own = dict(results["chosen"] or {})
    if "settings" in own:  # of auto
        return own["settings"]
    if results.get("neighbors"):
        own["neighbors"] = results["neighbors"]
    if results.get("method") == "logistic":
        own["penalty"] = results["penalty"]
    return own


def compare(
    comparison: Comparison, regimes: Sequence[str], names: Sequence[str]
) -> list[dict]:
    """Runs `names` in each regime that has them; returns the entries."""
    entries = []
    for regime in regimes:
        entries += comparison.logistic(regime)
        entries += [
            comparison.row(name, regime)
            for name in names
            if is_of(name, regime)
        ]
    if _END_TO_END in regimes:
        entries += [
            comparison.row(name, _END_TO_END, boost=True)
            for name in BOOSTED
            if name in names
        ]
    return entries


def main(argv: list[str]):
    del argv
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    workdir = Path(FLAGS.workdir)
    epochs = {_FIXED: FLAGS.epochs, _END_TO_END: FLAGS.end_to_end_epochs}
    try:
        known = (*PEERS, *ROWS)
        names = listed("rows", FLAGS.rows or ",".join(known), known)
        known = (_FIXED,) if FLAGS.features else (_FIXED, _END_TO_END)
        regimes = listed("regimes", FLAGS.regimes or ",".join(known), known)
        seeds = listed("seeds", FLAGS.seeds)
        Workdir(workdir).check_writable()
        data = load_dataset(
            FLAGS.dataset, FLAGS.data_dir, FLAGS.on_bad_image,
            **values(FOLDER),
        )  # fmt: skip
        comparison = Comparison(
            data, program.current_settings(), workdir, seeds, epochs
        )
        entries = compare(comparison, regimes, names)
        add_shares(entries)
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
