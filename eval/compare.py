"""Compares IMCL with logistic regression on one data set, over seeds.

    python -m eval.compare --out=runs/birds --seeds=0,1,2 -- \
        --dataset=folder --data_dir=DIR --observed_fraction=0.1

What follows `--` goes to every `imcl_tf.main` run. For each seed a logistic
model is trained first; every row starts from it and gets the same epochs:

    logistic          that model
    logistic, longer  trained on with eq. (2) alone
    IMCL, minibatch   candidates from the minibatch alone
    IMCL, dictionary  and from the dictionary

Each row but the first tries the settings of `--grid` on the first seed and
keeps the best on validation for all seeds. Finished runs are not run again.
Prints a Markdown table, mean and standard deviation of test mAP over seeds,
and writes it to OUT/table.md.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

from imcl_tf.files import fail, parse_or_fail, replacing

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "Directory of the runs.", required=True)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
flags.DEFINE_list(
    "regimes", ["fixed_features", "end_to_end"], "Regimes to compare in."
)
flags.DEFINE_multi_string(
    "logistic_grid", ["learning_rate=1e-3"], "FLAG=V1,V2,... for logistic."
)
flags.DEFINE_multi_string(
    "imcl_grid", ["learning_rate=1e-3"], "FLAG=V1,V2,... for both IMCL rows."
)

ROWS = {
    "logistic, longer": ("logistic", []),
    "IMCL, minibatch": ("imcl", ["--dictionary_size=0"]),
    "IMCL, dictionary": ("imcl", []),
}


def run(workdir: Path, arguments: list[str]) -> dict:
    """Runs `imcl_tf.main` unless it has finished; returns its results."""
    results = workdir / "results.json"
    if not results.is_file():
        command = [sys.executable, "-m", "imcl_tf.main", *arguments]
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / "log.txt").open("w") as log:
            subprocess.run(
                [*command, f"--workdir={workdir}"],
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    return json.loads(results.read_text())


def settings(grid: list[str]) -> list[list[str]]:
    """All combinations of FLAG=V1,V2,... as flag lists."""
    axes = []
    for axis in grid:
        name, _, values = axis.partition("=")
        axes.append([f"--{name}={value}" for value in values.split(",")])
    return [list(choice) for choice in itertools.product(*axes)]


def main(argv: list[str]):
    out, seeds, common = Path(FLAGS.out), FLAGS.seeds, argv[1:]
    grids = {"logistic": FLAGS.logistic_grid, "imcl": FLAGS.imcl_grid}
    try:
        lines = _table(out, seeds, common, grids)
    except (subprocess.CalledProcessError, OSError) as error:
        fail(error)
    with replacing(out / "table.md") as path:
        path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _table(out, seeds, common, grids):
    for seed in seeds:
        first = [*common, f"--seed={seed}", "--epochs=0", "--method=logistic"]
        run(out / "initial" / seed, first)
    lines = ["| regime | row | test mAP | settings |", "|---|---|---|---|"]
    for regime in FLAGS.regimes:

        def trial(name, choice, seed, regime=regime):
            method, extra = ROWS[name]
            tag = "_".join(c.lstrip("-") for c in choice)
            place = out / regime / name.replace(", ", "_") / tag / seed
            return run(
                place,
                [*common, f"--regime={regime}", f"--method={method}", *extra,
                 *choice, f"--seed={seed}",
                 f"--init_from={out / 'initial' / seed}"],
            )  # fmt: skip

        for name, (method, _) in ROWS.items():
            best = max(
                settings(grids[method]),
                key=lambda c, n=name: trial(n, c, seeds[0])["validation_mAP"],
            )
            results = [trial(name, best, seed) for seed in seeds]
            if name == next(iter(ROWS)):
                initial = [r["initial_logistic"]["mAP"] for r in results]
                lines.append(_line(regime, "logistic", initial, []))
            scores = [r["mAP"] for r in results]
            lines.append(_line(regime, name, scores, best))
    return lines


def _line(regime, name, scores, choice):
    spread = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
    flat = " ".join(f"`{c}`" for c in choice)
    mean = f"{np.mean(scores):.2f} ± {spread:.2f}"
    return f"| {regime} | {name} | {mean} | {flat} |"


if __name__ == "__main__":
    app.run(main, flags_parser=parse_or_fail(FLAGS))
