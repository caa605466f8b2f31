"""Kills runs at random moments, resumes them, and compares what they leave.

    python -m eval.faults --out=faults.csv

trains every method once without a fault. Then each is killed (SIGKILL) at one
of its file operations or at any time, or finds the disk full after some bytes
of a file, and is started again with the same command until it ends. Weights,
optimizers, metrics.csv, results.json and predictions must then be those of the
run without a fault, to the last bit. Prints a table; the exit status is 1 if
anything differs.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.FAULTS)

import collections
import io
import json
import random
import signal
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from absl import flags

import imcl_tf.training.run  # noqa: F401, for the programs that are forked
from eval import plan as plans
from eval.forked import Ended, Program
from imcl_tf.data.kept import read_arrays
from imcl_tf.files import fail, in_existing_directory, write_csv
from imcl_tf.methods import METHODS
from imcl_tf.training.checkpoints import BEST, LATEST
from imcl_tf.training.workdir import RESULTS

FLAGS = flags.FLAGS
KINDS = ("killed at a file operation", "killed at any time", "full disk")
_SHARES = (0.4, 0.45, 0.15)
# What each run trains with: small, but with every part of a run.
_COMMON = (
    "--dataset=scenes/small", "--backbone=small_cnn", "--image_size=32",
    "--regime=end_to_end", "--initial_head=trained", "--initial_epochs=1",
    "--epochs=2", "--batch_size=64", "--evaluate_every=20",
    "--checkpoint_every=4", "--observed_fraction=0.5",
)  # fmt: skip
# So that the state of each method changes within two epochs.
_OF_METHODS = {
    "cnn_rnn": ("--cnn_rnn_units=16", "--cnn_rnn_length=3"),
    "curriculum": ("--curriculum_round_epochs=1",),
    "entropy_maximisation": (
        "--entropy_maximisation_warmup=1", "--entropy_maximisation_rounds=1",
    ),
    "imcl": ("--dictionary_size=200", "--graph_learning_rate=0.1"),
    "large_loss": (
        "--large_loss=correct_permanent", "--large_loss_delta=10",
    ),
    "selective": ("--selective_top_k=1", "--selective_prior_threshold=0.5"),
    "splc": ("--splc_first_epoch=1",),
}  # fmt: skip
_RECIPE = (
    "--method=imcl", "--dictionary_size=200", "--optimizer=adamw",
    "--weight_decay=0.1", "--rate_schedule=cosine", "--warmup_epochs=0.5",
    "--clip_norm=1", "--ema", "--layer_decay=0.5", "--augment_level=strong",
)  # fmt: skip
_FIXED = (
    "--method=imcl", "--dictionary_size=200", "--regime=fixed_features",
    "--initial_head=solved", "--neighbors=chosen",
)  # fmt: skip


class Fault(NamedTuple):
    """What was done to a run.

    Attributes:
      kind: one of `KINDS`.
      moment: in words.
    """

    kind: str
    moment: str


class Outcome(NamedTuple):
    """How a run stood its faults.

    Attributes:
      faults: what was done to it.
      runs: how often it came to its end.
      differences: what differed from the run without a fault, [] = nothing.
    """

    faults: list[Fault]
    runs: int
    differences: list[str]


def rows() -> dict[str, tuple[str, ...]]:
    """Name -> flags of a run: every method, and further ways to train."""
    own = {
        name: (f"--method={name}", *_OF_METHODS.get(name, ()))
        for name in METHODS
    }
    own |= {"imcl_recipe": _RECIPE, "imcl_fixed_features": _FIXED}
    return {name: (*_COMMON, *given) for name, given in own.items()}


def survive(
    command: tuple[str, ...],
    kinds: Sequence[str],
    rng: random.Random,
    directory: Path,
) -> Outcome:
    """Runs a command without a fault, then until it has had some.

    Args:
      command: flags of `imcl_tf.main`.
      kinds: of the faults, in their order.
      rng: chooses their moments.
      directory: gets the workdirs.

    Raises:
      RuntimeError: if a run ends otherwise than it should.
    """
    whole = directory / "whole"
    sound = _sound(command, whole)
    size = (whole / "checkpoints" / LATEST).stat().st_size
    faults: list[Fault] = []
    differences: list[str] = []
    runs = 0
    while len(faults) < len(kinds):
        workdir = directory / f"faulty-{runs}"
        while len(faults) < len(kinds):
            kind = kinds[len(faults)]
            moment = _suffer(command, workdir, kind, rng, sound, size)
            if not moment:
                break
            faults.append(Fault(kind, moment))
        _sound(command, workdir)
        differences += differing(whole, workdir)
        runs += 1
    return Outcome(faults, runs, differences)


def _start(command, workdir, **kwargs) -> Program:
    flags_of_run = [*command, "--resume", f"--workdir={workdir}"]
    return Program("imcl_tf.main", flags_of_run, workdir, **kwargs)


def _sound(command, workdir) -> Ended:
    """Runs to the end, which must be a good one."""
    ended = _start(command, workdir).end()
    if ended.status:
        raise RuntimeError(f"a run failed: {ended.errors[-2000:]}")
    return ended


def _suffer(command, workdir, kind, rng, sound, size) -> str:
    """Starts a run and does it a fault; "" = it came to its end before."""
    if kind == "full disk":
        limit = rng.randint(1000, size)
        ended = _start(command, workdir, limit=limit).end()
        if not ended.status:
            return ""
        last = ended.errors.splitlines()[-1]
        if ended.status != 1 or not last.startswith("imcl_tf: error: "):
            raise RuntimeError(f"full disk: status {ended.status}, {last}")
        return f"files of {limit} bytes"
    if kind == "killed at a file operation":
        operation = rng.randint(1, sound.operations)
        ended = _start(command, workdir, last=operation).end()
        moment = f"operation {operation} of {sound.operations}"
    else:
        seconds = rng.uniform(0, sound.seconds)
        run = _start(command, workdir)
        end = time.monotonic() + seconds
        while run.is_running() and time.monotonic() < end:
            time.sleep(0.001)
        run.kill()
        ended = run.end()
        moment = f"after {seconds:.3f} of {sound.seconds:.3f} s"
    return moment if ended.status == -signal.SIGKILL else ""


def differing(one: Path, other: Path) -> list[str]:
    """What two workdirs do not have in common, of all that a run computes.

    TensorBoard's logs, the report and what is noted of time and machine may
    differ.
    """
    names = [
        str(path.relative_to(place))
        for place in (one, other)
        for pattern in (
            "metrics.csv", "average_precision.csv", RESULTS, "*.npz",
            f"checkpoints/{BEST}", f"checkpoints/{LATEST}",
            "checkpoints/logistic.keras", "initial/*.csv",
            f"initial/checkpoints/{BEST}",
        )
        for path in place.glob(pattern)
    ]  # fmt: skip
    return [
        f"{other.name}: {name}{detail}"
        for name in sorted({*names})
        for detail in _difference(one / name, other / name)
    ]


def _difference(one: Path, other: Path) -> Iterator[str]:
    if not (one.is_file() and other.is_file()):
        yield " is missing"
        return
    first, second = _content(one), _content(other)
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            yield f": {name} is missing"
        elif not np.array_equal(first[name], second[name]):
            yield f": {name}"


def _content(file: Path) -> dict:
    """Name -> array, or anything else to compare, of a file."""
    if file.suffix == ".npz":
        return read_arrays(file)
    if file.suffix == ".keras":
        return _weights(file)
    if file.name == RESULTS:
        results = json.loads(file.read_text("utf-8"))
        results["settings"] = [
            x for x in results["settings"] if not x.startswith("--workdir=")
        ]
        return results
    return {"content": file.read_bytes()}


def _weights(file: Path) -> dict[str, np.ndarray]:
    """Every array of a .keras file by its path."""
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with zipfile.ZipFile(file) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as weights:
        weights.visititems(note)
    return found


def main(argv: list[str]):
    del argv
    chosen = rows()
    try:
        if FLAGS.rows:
            names = plans.listed("rows", FLAGS.rows, chosen)
            chosen = {name: chosen[name] for name in names}
        out = in_existing_directory(Path(FLAGS.out))
        outcomes = {}
        print(f"| row | {' | '.join(KINDS)} | ended | equal |")
        print("|---|---|---|---|---|---|")
        for name, command in chosen.items():
            with tempfile.TemporaryDirectory(dir=out.parent) as place:
                rng = random.Random(f"{FLAGS.seed} {name}")
                kinds = rng.choices(KINDS, _SHARES, k=FLAGS.faults)
                outcome = survive(command, kinds, rng, Path(place))
            outcomes[name] = outcome
            print(_line(name, outcome), flush=True)
        write_csv(
            out,
            ("row", *Fault._fields),
            [
                (name, *fault)
                for name, outcome in outcomes.items()
                for fault in outcome.faults
            ],
        )
    except (ValueError, OSError, RuntimeError) as error:
        fail(error)
    wrong = [x for outcome in outcomes.values() for x in outcome.differences]
    if wrong:
        fail(RuntimeError(f"runs differ: {', '.join(wrong[:10])}"))


def _line(name: str, outcome: Outcome) -> str:
    kinds = collections.Counter(fault.kind for fault in outcome.faults)
    counts = " | ".join(str(kinds[kind]) for kind in KINDS)
    equal = "no" if outcome.differences else "yes"
    return f"| {name} | {counts} | {outcome.runs} | {equal} |"


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
