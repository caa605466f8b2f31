"""Trains scenes with one process and with several, and compares their mAP.

    python -m eval.workers --runs=runs/workers

starts, for each number of workers and each seed, that many processes on this
machine with --strategy=multi_worker. They exchange what workers on several
machines do, over the loopback device. Prints the test mAP of each number, its
mean and deviation over the seeds, and the difference to the first number,
paired by seed. The same command continues what was interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.WORKERS)

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from eval.loopback import tf_configs
from imcl_tf.files import fail, make_directory

FLAGS = flags.FLAGS
_RESULTS = "results.json"


def train(number: int, arguments: Sequence[str], workdir: Path) -> float:
    """Trains with some workers on this machine, or continues their run.

    Args:
      number: of workers.
      arguments: flags of `imcl_tf.main`.
      workdir: of the run; what the workers write to stderr comes beside it.

    Returns:
      test mAP in percent.

    Raises:
      RuntimeError: if a worker fails.
    """
    command = [
        sys.executable, "-m", "imcl_tf.main", "--strategy=multi_worker",
        "--resume", f"--workdir={workdir}", *arguments,
    ]  # fmt: skip
    logs = [Path(f"{workdir}-worker-{n}.log") for n in range(number)]
    with contextlib.ExitStack() as stack:
        started = [
            subprocess.Popen(
                command,
                env=os.environ | {"TF_CONFIG": config},
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context(log.open("w")),
            )
            for config, log in zip(tf_configs(number), logs, strict=True)
        ]
        statuses = [process.wait() for process in started]
    for status, log in zip(statuses, logs, strict=True):
        if status:
            said = log.read_text().splitlines() or [f"status {status}"]
            raise RuntimeError(f"{log}: {said[-1]}")
    return json.loads((workdir / _RESULTS).read_text())["mAP"]


def lines(means: dict[int, list[float]]) -> list[str]:
    """A table of the mAP that each number of workers reached.

    Args:
      means: number of workers -> mAP in percent of each seed.
    """
    first = np.array(next(iter(means.values())))
    table = [
        "| workers | test mAP | difference, paired by seed |",
        "|---|---|---|",
    ]
    for number, values in means.items():
        gain = np.array(values) - first
        table.append(
            f"| {number} | {_mean(values)} | "
            + (f"{_mean(gain, '+')} |" if gain.any() else "|")
        )
    return table


def _mean(values, sign="") -> str:
    return (
        f"{np.mean(values):{sign}.2f} ± "
        f"{np.std(values, ddof=1) if len(values) > 1 else np.nan:.2f}"
    )


def main(argv: list[str]):
    del argv
    runs = Path(FLAGS.runs)
    try:
        numbers = [int(text) for text in FLAGS.workers.split(",")]
        if min(numbers) < 1:
            raise ValueError
    except ValueError:
        fail(
            ValueError(
                "workers must be whole numbers >= 1, apart by commas, got "
                f"{FLAGS.workers!r}"
            )
        )
    try:
        make_directory("runs", runs)
        means: dict[int, list[float]] = {}
        for number in numbers:
            means[number] = [
                train(
                    number,
                    [f"--dataset={FLAGS.dataset}", f"--seed={seed}",
                     "--method=imcl"],
                    runs / f"{number}-seed{seed}",
                )
                for seed in range(FLAGS.seeds)
            ]  # fmt: skip
            each = ", ".join(f"{x:.2f}" for x in means[number])
            print(f"{number} workers: {each}", flush=True)
    except (OSError, RuntimeError) as error:
        fail(error)
    print(*lines(means), sep="\n")


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
