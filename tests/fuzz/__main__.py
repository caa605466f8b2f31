"""Fuzzes what reads files: `python -m tests.fuzz [--inputs=N] [TARGET...]`.

Each target gets its share of the inputs, see `targets.TARGETS`. It must take an
input for what it says or refuse it in one line; it may take `MOST_SECONDS` of
the processor and `MOST_BYTES` more memory than before. An input that fails is
made small and kept in OUT/TARGET/, also if it ends this process; the last line
says how to repeat it.
"""

import argparse
import faulthandler
import gc
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import logging  # noqa: E402

from tests.fuzz import trial  # noqa: E402
from tests.fuzz.targets import TARGETS, Target  # noqa: E402

# A picture may have 2^29 bytes of pixels: `decoding.MAXIMUM_PIXELS`.
MOST_SECONDS, MOST_BYTES = 5, 3 * 2**30


def main() -> int:
    """Runs what the command line says; returns the exit status."""
    arguments = parsed()
    logging.set_verbosity(logging.ERROR)
    warnings.simplefilter("ignore")  # but not while an input is read
    faulthandler.enable()
    gc.freeze()  # to collect what the imports made takes a second
    limit_memory()
    chosen = [t for t in TARGETS if t.name in (arguments.targets or [t.name])]
    if arguments.input:
        return repeat(chosen[0], arguments.input)
    shares = sum(target.share for target in chosen)
    failures = 0
    print("target            inputs    read refused  seconds  peak MB")
    for target in chosen:
        number = max(1, round(arguments.inputs * target.share / shares))
        failures += not fuzz(target, number, arguments.seed, arguments.out)
    return int(failures > 0)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz")
    names = [target.name for target in TARGETS]
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=Path, help="the only one to read")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=", ".join(names)
    )
    arguments = parser.parse_args()
    if unknown := {*arguments.targets} - {*names}:
        parser.error(f"no target {unknown.pop()}: one of {', '.join(names)}")
    if arguments.input and len(arguments.targets) != 1:
        parser.error("--input needs one target")
    return arguments


def limit_memory():
    """Lets this process have `MOST_BYTES` more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(target: Target, number: int, seed: int, out: Path) -> bool:
    """Whether a target stands `number` inputs; prints what happened."""
    place = out / target.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        report = trial.run(target, number, place, seed, MOST_SECONDS)
    except BaseException:
        traceback.print_exc(limit=-4)
        print(
            f"{target.name}: FAILED; to repeat: {sys.executable} -m tests.fuzz "
            f"--input={place / target.file} {target.name}"
        )
        return False
    shutil.rmtree(place)
    print(
        f"{target.name:16}{report.read + report.refused:8}{report.read:8}"
        f"{report.refused:8}{report.seconds:9.3f}{trial.peak_megabytes():9.0f}",
        flush=True,
    )
    return True


def repeat(target: Target, file: Path) -> int:
    """Reads one input, and fails as it did."""
    with tempfile.TemporaryDirectory() as place:
        target.prepare(Path(place))
        taken = trial.attempt(target, file.read_bytes(), Path(place))
    print(f"{target.name}: {'read' if taken else 'refused'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
