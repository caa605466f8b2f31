"""Workers: who they are, and what they exchange."""

import contextlib
import itertools
import json
import os
import socket

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.ops import workers
from imcl_tf.ops.workers import Workers
from tests import programs


@pytest.mark.parametrize("number", [2, 3])
def test_exchanges(number):
    started = programs.start_workers(number, "tests.ops.exchanging_workers")
    for done in [program.finish() for program in started]:
        assert done.returncode == 0, done.stderr[-3000:]


def test_exchanges_of_tasks_that_slurm_starts():
    job = next(job for job in itertools.count(os.getpid()) if are_free(job))
    started = [
        programs.Program(
            "tests.ops.exchanging_workers",
            environment={
                "SLURM_JOB_ID": str(job),
                "SLURM_PROCID": str(task),
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_TASKS_PER_NODE": "2",
            },
        )
        for task in range(2)
    ]
    for done in [program.finish() for program in started]:
        assert done.returncode == 0, done.stderr[-3000:]


def are_free(job):
    """Whether the two ports are free that a job of this number has."""
    with contextlib.ExitStack() as stack:
        try:
            for task in range(2):
                one = stack.enter_context(socket.socket())
                one.bind(("127.0.0.1", 12_000 + job % 20_000 + task))
        except OSError:
            return False
    return True


def test_shares_are_disjoint_and_all():
    rows = np.arange(8)
    shares = [Workers(index, 3).rows(rows).tolist() for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_one_process_exchanges_nothing():
    assert workers.current() == Workers(0, 1)
    values = object()
    assert workers.all_sum(values) is values
    assert workers.joined(values, 1) is values
    workers.require_same("a", "b")
    workers.wait_for_all()


@pytest.fixture
def of_slurm(monkeypatch):
    """Variables of the third of four tasks on two nodes."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in {
        "SLURM_JOB_ID": "40003",
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("of_slurm")
def test_slurm_says_who_is_where():
    """The job's number chooses the ports."""
    resolver = workers._resolver()
    assert resolver.cluster_spec().as_dict() == {
        "worker": ["gpu07:12003", "gpu07:12004", "gpu08:12003", "gpu08:12004"]
    }
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


@pytest.mark.usefixtures("of_slurm")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_ID", "abc"), ("SLURM_PROCID", None), ("SLURM_PROCID", "x"),
        ("SLURM_PROCID", "4"), ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_STEP_NODELIST", None), ("SLURM_STEP_NODELIST", "gpu[07"),
        ("SLURM_STEP_TASKS_PER_NODE", None),
        ("SLURM_STEP_TASKS_PER_NODE", "two"),
    ],
)  # fmt: skip
def test_variables_of_slurm_that_say_too_little(monkeypatch, name, value):
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="srun's variables .* do not say"):
        workers._resolver()


@pytest.mark.parametrize(("visible", "taken"), [(4, 2), (2, 0), (1, None)])
def test_tasks_of_a_node_take_other_gpus(monkeypatch, visible, taken):
    """Slurm may show a task all GPUs of its node, or its own alone."""
    chosen = []
    monkeypatch.setenv("SLURM_LOCALID", "2")
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: [*range(visible)]
    )
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda one, kind: chosen.append(one)
    )
    workers._take_one_gpu()
    assert chosen == ([] if taken is None else [taken])


@pytest.mark.parametrize(
    ("hosts", "index"),
    [
        (["a:1", "a:1"], 0), (["a", "b:1"], 0), (["a:99999"], 0), ([":1"], 0),
        (["http://a:1"], 0), (["a b:1"], 0), ([1, 2], 0), ("ab", 0),
        ({"0": "a:1"}, 0), ([["a:1"]], 0),
        (["a:1"], 1), (["a:1"], -1), (["a:1"], 0.5), (["a:1", "b:1"], True),
        (["a:1"], float("inf")), (["a:1"], None), ([], 0),
    ],
)  # fmt: skip
def test_addresses_that_cannot_be(monkeypatch, hosts, index):
    config = {
        "cluster": {"worker": hosts},
        "task": {"type": "worker", "index": index},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match="TF_CONFIG must be like"):
        workers._resolver()


@pytest.mark.parametrize("index", [1, "1"])
def test_addresses(monkeypatch, index):
    hosts = ["node-1.net:2222", "[::1]:2222"]
    config = {
        "cluster": {"worker": hosts},
        "task": {"type": "worker", "index": index},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    resolver = workers._resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": hosts}
    assert int(resolver.task_id) == 1
