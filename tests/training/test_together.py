"""What workers of a run share, beside what tests/test_workers.py runs."""

import os
import time

import pytest
import tensorflow as tf

from imcl_tf.files import locked
from imcl_tf.ops import workers
from imcl_tf.training import together


def test_copies_of_killed_workers_are_removed(tmp_path):
    """Those that are locked, new, or no copies stay."""
    names = {
        name: tmp_path / f"imcl_tf-worker-{name}"
        for name in ("abandoned", "in-use", "new")
    }
    names["other"] = tmp_path / "imcl_tf-other"
    before = time.time() - 3600
    for name, path in names.items():
        (path / "run").mkdir(parents=True)
        (path / "run" / "latest.keras").write_text("large")
        if name != "new":
            os.utime(path, (before, before))
    with locked(names["in-use"]):
        together.remove_abandoned(tmp_path)
    left = {name for name, path in names.items() if path.exists()}
    assert left == {"in-use", "new", "other"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            tf.errors.UnavailableError(
                None, None, "Collective ops is aborted by: tasks are unhealthy"
                ":\n/job:worker/replica:0/task:3\n",
            ),
            "worker 3 has stopped, or cannot be reached",
        ),
        (
            tf.errors.UnavailableError(
                None, None, "Coordination service: /job:worker/task:0 is lost"
            ),
            "another worker has stopped",
        ),
        (
            tf.errors.DeadlineExceededError(
                None, None, "Collective ops is aborted by: Deadline Exceeded"
            ),
            "another worker has stopped",
        ),
        (
            tf.errors.InvalidArgumentError(
                None, None, "no operation for node CollectiveReduceV2"
            ),
            "no operation",
        ),
        (tf.errors.DataLossError(None, None, "a record"), "a record"),
        (ValueError("seed"), "seed"),
    ],
)  # fmt: skip
def test_one_line_says_what_ended_a_run(monkeypatch, error, line):
    monkeypatch.setattr(workers, "_current", workers.Workers(0, 4))
    assert str(together.explained(error)).startswith(line)
    monkeypatch.setattr(workers, "_current", workers.ALONE)
    assert together.explained(error) is error
