"""A few kills of programs that prepare data; and of one that is careless."""

import csv
import json
import random

from eval import preparation_faults
from tests import programs


def faults_of(path):
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def test_builds_survive(tmp_path):
    """48 pictures: kills amid reading, writing and renaming."""
    done = programs.run(
        "eval.preparation_faults", f"--out={tmp_path}/faults.csv", "--kills=2",
        "--builds=folder", "--pictures=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = faults_of(tmp_path / "faults.csv")
    assert [row["fault"] for row in rows] == [
        "killed", "killed", "killed beside two others", "full disk",
    ]  # fmt: skip
    assert {(row["build"], row["differences"]) for row in rows} == {
        ("folder", "")
    }
    _, _, row = done.stdout.splitlines()
    _, name, operations, _, *equal, _, _ = map(str.strip, row.split("|"))
    assert name == "folder" and equal == ["2 of 2", "1 of 1", "1 of 1"]
    # 48 pictures, which are hashed and read, and 24 shards.
    assert int(operations) > 2 * 48 + 24


def of_a_careless_program(directory):
    """Writes the faults of the program to a file."""
    careless = preparation_faults.Build(
        "tests.eval.careless", ("--data_dir=RECORDS",)
    )
    preparation_faults.BUILDS["careless"] = careless
    trials = preparation_faults.Trials("careless", directory, random.Random(0))
    faults = [*trials.killed_at_operations(2)]
    (directory / "faults").write_text(json.dumps(faults))


def test_a_careless_program_is_found_out(tmp_path):
    """It opens two files: before the second, half of the first is written."""
    process = programs.FORKS.Process(
        target=of_a_careless_program, args=(tmp_path,)
    )
    process.start()
    process.join()
    faults = json.loads((tmp_path / "faults").read_text())
    assert [fault[:3] for fault in faults] == [
        ["careless", "killed", f"operation {n} of 2"] for n in (1, 2)
    ]
    assert [fault[4] for fault in faults] == [[], ["log", "records"]]
