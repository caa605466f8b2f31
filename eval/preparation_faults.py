"""Kills programs that prepare data, starts them again and compares the bytes.

    python -m eval.preparation_faults --out=FILE.csv

Raw files of rendered scenes, in the formats of the data sets, become records
and stored features three times over with a fault: the program is killed
(SIGKILL), at any of its file operations or at any time; two others build the
same directory while it is killed; the disk is full after some bytes of a file.
Then the same command runs once more, and data_prep.clean removes what was
left. The files must be, byte by byte, those of a build without a fault.

Writes a row for each fault and prints a table. If any file differs it ends
with status 1.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.PREPARATION_FAULTS)

import math
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
from absl import flags

# Imported once, for the programs that are forked.
import imcl_tf.data.preparation
import imcl_tf.training.workdir  # noqa: F401
from eval import plan as plans
from eval import raw_files
from eval.forked import FORKS, Ended, Program
from imcl_tf.data.picture_digests import SETTLED
from imcl_tf.files import fail, in_existing_directory, write_csv

FLAGS = flags.FLAGS
KILLED, BESIDE, FULL = "killed", "killed beside two others", "full disk"


class Build(NamedTuple):
    """A command that prepares data.

    Attributes:
      module: of the program.
      flags: its flags; RAW and RECORDS stand for directories.
      needs: name of the build that comes before it, "" = none.
      change: what then happens to RAW, None = nothing.
    """

    module: str
    flags: tuple[str, ...]
    needs: str = ""
    change: Callable[[Path], None] | None = None


def _with_other_captions(raw: Path):
    for path in (raw / "coco" / "annotations").iterdir():
        path.write_text(path.read_text().replace(" sun ", " moon "))


BUILDS = {
    "folder": Build(
        "data_prep.folder", ("--raw_dir=RAW/folder", "--data_dir=RECORDS")
    ),
    "coco": Build(
        "data_prep.coco", ("--raw_dir=RAW/coco", "--data_dir=RECORDS")
    ),
    "cub": Build(
        "data_prep.cub",
        ("--raw_dir=RAW/cub", "--data_dir=RECORDS", "--config=official"),
    ),
    "open_images": Build(
        "data_prep.open_images",
        ("--raw_dir=RAW/open_images", "--data_dir=RECORDS"),
    ),
    "labels": Build(
        "data_prep.coco",
        ("--raw_dir=RAW/coco", "--data_dir=RECORDS"),
        "coco",
        _with_other_captions,
    ),  # fmt: skip
    "features": Build(
        "data_prep.features",
        (
            "--dataset=coco",
            "--data_dir=RECORDS",
            "--backbone=RAW/network.keras",
        ),
        "coco",
    ),
}


class Fault(NamedTuple):
    """What was done to a build, and what came of it.

    Attributes:
      build: its name.
      fault: which kind.
      moment: when.
      left: files that data_prep.clean had to remove.
      differences: paths that are not as without a fault.
      seconds: of the command that ran afterwards, without its imports.
    """

    build: str
    fault: str
    moment: str
    left: int
    differences: list[str]
    seconds: float


class Trials:
    """Builds with faults, in the place of a build without.

    Args:
      name: of the build.
      place: holds raw/; gets records/.
      moments: draws when a fault happens.
    """

    def __init__(self, name: str, place: Path, moments: random.Random):
        self._name, self._build = name, BUILDS[name]
        self._place, self._random = place, moments
        self._records, self._before = place / "records", place / "before"
        for directory in (self._records, self._before):
            shutil.rmtree(directory, ignore_errors=True)
        self._before.mkdir()
        if self._build.needs:
            self._sound(BUILDS[self._build.needs])
            self._before.rmdir()
            self._records.rename(self._before)
        if self._build.change:
            self._build.change(place / "raw")
        self._restore()
        self.sound = self._sound(self._build)
        self._expected = contents(self._records)

    def _restore(self):
        shutil.rmtree(self._records, ignore_errors=True)
        shutil.copytree(self._before, self._records)

    def _start(self, build: Build, **kwargs) -> Program:
        places = {"RAW": self._place / "raw", "RECORDS": self._records}
        arguments = list(build.flags)
        for word, path in places.items():
            arguments = [x.replace(word, str(path)) for x in arguments]
        return Program(build.module, arguments, self._place, **kwargs)

    def _sound(self, build: Build) -> Ended:
        ended = self._start(build).end()
        if ended.status:
            raise ValueError(f"{build.module}: {ended.errors.strip()}")
        return ended

    def killed_at_operations(self, number: int) -> Iterator[Fault]:
        """Kills the program when it begins a file operation."""
        for n in range(number):
            status = 0
            while status != -signal.SIGKILL:
                last = self._operation(n, number)
                self._restore()
                status = self._start(self._build, last=last).end().status
            yield self._again(KILLED, self._words(last))

    def killed_at_times(self, number: int) -> Iterator[Fault]:
        """Kills the program whatever it does."""
        killed = 0
        while killed < number:
            seconds = self._random.uniform(0, self.sound.seconds)
            self._restore()
            program = self._start(self._build)
            program.wait_for_operation()
            time.sleep(seconds)
            program.kill()
            if program.end().status == -signal.SIGKILL:
                killed += 1
                yield self._again(KILLED, f"after {seconds:.3f} s")

    def beside_two(self, number: int) -> Iterator[Fault]:
        """Kills the first of three programs that do the same."""
        for n in range(number):
            status = 0
            while status != -signal.SIGKILL:  # else another was faster
                last = self._operation(n, number)
                self._restore()
                first = self._start(self._build, last=last)
                first.wait_for_operation()
                others = [self._start(self._build) for _ in range(2)]
                status = first.end().status
                ended = [other.end() for other in others]
            wrong = [
                f"status {x.status}: {x.errors.strip()}"
                for x in ended
                if x.status
            ]
            yield self._again(BESIDE, self._words(last), wrong)

    def full_disk(self, number: int) -> Iterator[Fault]:
        """Lets no file grow beyond some size, then starts the program again."""
        before = contents(self._before)
        largest = max(
            len(content)
            for name, content in self._expected.items()
            if content != before.get(name)
        )
        for _ in range(number):
            limit = self._random.randrange(largest)
            self._restore()
            ended = self._start(self._build, limit=limit).end()
            wrong = []
            if ended.status != 1 or ended.errors.count("\n") != 1:
                wrong = [f"status {ended.status}: {ended.errors.strip()}"]
            # Each file is as it was, or whole.
            wrong += [
                name
                for name, content in contents(self._records).items()
                if content not in (before.get(name), self._expected.get(name))
            ]
            yield self._again(FULL, f"files of {limit} bytes", wrong)

    def _operation(self, n: int, number: int) -> int:
        """An operation of the n-th of equal parts of all."""
        part = self.sound.operations / number
        return int(self._random.uniform(n * part, (n + 1) * part)) + 1

    def _words(self, operation: int) -> str:
        return f"operation {operation} of {self.sound.operations}"

    def _again(
        self, fault: str, moment: str, wrong: Sequence[str] = ()
    ) -> Fault:
        """Runs the command once more and compares."""
        differences = list(wrong)
        ended = self._start(self._build).end()
        if ended.status:
            differences.append(f"status {ended.status}: {ended.errors.strip()}")
        found = contents(self._records)
        differences += [
            name
            for name, content in self._expected.items()
            if found.get(name) != content
        ]
        left = found.keys() - self._expected.keys()
        if left:
            self._start(
                Build("data_prep.clean", ("--data_dir=RECORDS", "--remove"))
            ).end()
            found = contents(self._records)
            differences += sorted(found.keys() - self._expected.keys())
        return Fault(
            self._name, fault, moment, len(left), differences, ended.seconds
        )


def contents(directory: Path) -> dict[str, bytes]:
    """Path below a directory -> content, of all files."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _make_raw_files(directory: Path, pictures: int):
    """Writes what the builds read; see `raw_files.write`."""
    raw_files.write(directory, pictures)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 5, 4, activation="relu")(inputs)
    outputs = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, outputs).save(directory / "network.keras")


def run_trials(
    names: Sequence[str], kills: int, pictures: int, seed: int
) -> Iterator[tuple[Ended, list[Fault]]]:
    """Yields for each build how it ended without a fault, and its faults."""
    some = math.ceil(kills / 4)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch).resolve()
        (place / "raw").mkdir()
        # This process must not use TensorFlow before it forks.
        made = FORKS.Process(
            target=_make_raw_files, args=(place / "raw", pictures)
        )
        made.start()
        made.join()
        if made.exitcode:
            raise OSError(f"{place}: raw files cannot be written")
        # What is younger is hashed again each time: see `PictureDigests`.
        time.sleep(SETTLED / 1e9)
        for name in names:
            trials = Trials(name, place, random.Random(f"{seed} {name}"))
            yield (
                trials.sound,
                [
                    *trials.killed_at_operations(kills - kills // 2),
                    *trials.killed_at_times(kills // 2),
                    *trials.beside_two(some),
                    *trials.full_disk(some),
                ],
            )


def _row(name: str, sound: Ended, faults: list[Fault]) -> str:
    """A row of the table."""
    cells = [name, str(sound.operations), f"{sound.seconds:.1f}"]
    for kind in (KILLED, BESIDE, FULL):
        own = [fault for fault in faults if fault.fault == kind]
        equal = sum(not fault.differences for fault in own)
        cells.append(f"{equal} of {len(own)}")
    cells.append(f"{max(fault.seconds for fault in faults):.1f}")
    return f"| {' | '.join(cells)} |"


def main(argv: list[str]):
    del argv
    try:
        out = in_existing_directory(Path(FLAGS.out))
        names = (
            plans.listed("builds", FLAGS.builds, BUILDS)
            if FLAGS.builds
            else [*BUILDS]
        )
        print(
            "| build | file operations | s | killed | killed beside two others "
            "| full disk | s, at most, of the command after it |\n"
            "|---|---|---|---|---|---|---|"
        )
        faults: list[Fault] = []
        for sound, found in run_trials(
            names, FLAGS.kills, FLAGS.pictures, FLAGS.draws
        ):
            print(_row(found[0].build, sound, found), flush=True)
            faults += found
        write_csv(
            out,
            Fault._fields,
            [(*x[:4], "; ".join(x.differences), x.seconds) for x in faults],
        )
        for fault in faults:
            if fault.differences:
                raise ValueError(
                    f"{fault.build}, {fault.fault}, {fault.moment}: "
                    f"{fault.differences[0]}"
                )
    except (ValueError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
