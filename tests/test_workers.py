"""Several processes that train one model, from the command line."""

import csv
import json
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from eval.loopback import tf_configs
from imcl_tf.files import write_csv
from tests import programs

IMAGES, C, D = 90, 6, 12
FLAGS = (
    "--strategy=multi_worker", "--dataset=folder", "--initial_head=trained",
    "--initial_epochs=1", "--epochs=3", "--batch_size=7", "--method=imcl",
    "--dictionary_size=20", "--dictionary_refresh=5", "--num_neighbors=3",
    "--graph_learning_rate=0.1", "--ema", "--checkpoint_every=2",
    "--evaluate_every=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Flags of a folder of features, in which labels depend on them."""
    place = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(IMAGES, D)).astype(np.float32)
    labels = np.sign(features @ rng.normal(size=(D, C))).astype(int)
    labels[rng.random(labels.shape) < 0.3] = 0
    folder = place / "tables"
    folder.mkdir()
    names = [f"{i}.jpg" for i in range(IMAGES)]
    write_csv(
        folder / "labels.csv",
        ("image", "label", "value"),
        [(names[i], f"l{j}", labels[i, j]) for i, j in np.argwhere(labels)],
    )
    splits = ("train", "train", "train", "validation", "test")
    write_csv(
        folder / "splits.csv",
        ("image", "split"),
        [(name, splits[i % 5]) for i, name in enumerate(names)],
    )
    np.savez(place / "f.npz", ids=names, features=features)
    return f"--data_dir={folder}", f"--features={place / 'f.npz'}"


def start(number, *flags):
    return programs.start_workers(
        number, "imcl_tf.main", *FLAGS, *flags, optimized=False
    )


def finished(started):
    return [program.finish() for program in started]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The workdir of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    done = programs.run(
        "imcl_tf.main", *FLAGS[1:], *data, f"--workdir={workdir}",
        optimized=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    """The workdir of two, and what they printed."""
    workdir = tmp_path_factory.mktemp("together")
    done = finished(start(2, *data, f"--workdir={workdir}"))
    assert [x.returncode for x in done] == [0, 0], done[1].stderr
    return workdir, done


def metrics(workdir):
    with (workdir / "metrics.csv").open(newline="") as file:
        return [*csv.reader(file)]


def assert_alike(found, expected):
    """Tables of metrics are equal but for rounding."""
    assert len(found) == len(expected) > 4
    for row, other in zip(found, expected, strict=True):
        for value, wanted in zip(row, other, strict=True):
            if wanted.replace(".", "").isdigit():
                assert float(value) == pytest.approx(float(wanted), rel=1e-4)
            else:
                assert value == wanted


def test_two_workers_leave_what_one_process_does(alone, together):
    workdir, (first, second) = together
    assert_alike(metrics(workdir), metrics(alone))
    assert {x.name for x in workdir.iterdir()} == {
        x.name for x in alone.iterdir()
    }
    assert "folder test mAP" in first.stdout
    assert second.stdout.splitlines() == [
        "waiting for all workers, an hour at most"
    ]


def test_a_worker_is_killed_and_the_run_continues(data, together, tmp_path):
    """The other ends within 30 seconds, with one line.

    Two workers then end with the same bits, three with the same numbers.
    """
    workdir, third = tmp_path / "run", tmp_path / "third"
    one, other = start(2, *data, f"--workdir={workdir}")
    # The second checkpoint: the first is of no step yet.
    while not (workdir / "checkpoints" / "previous.keras").exists():
        time.sleep(0.01)
    other.send_signal(9)
    begun = time.monotonic()
    assert other.finish().returncode == -9
    left = one.finish()
    assert time.monotonic() - begun < 30
    assert left.returncode == 1
    (line,) = left.stderr.splitlines()[-1:]
    assert line.startswith("imcl_tf: error: ")
    assert "worker 1 has stopped" in line
    assert "--resume" in line
    shutil.copytree(workdir, third)
    for place, number in ((workdir, 2), (third, 3)):
        done = finished(start(number, *data, f"--workdir={place}", "--resume"))
        assert [x.returncode for x in done] == [0] * number, done[0].stderr
    assert metrics(workdir) == metrics(together[0])
    assert_alike(metrics(third), metrics(workdir))


def test_a_worker_is_interrupted_amid_training(data, tmp_path):
    """By SIGTERM, as Slurm and Kubernetes do, and of which TensorFlow hears."""
    one, other = start(2, *data, f"--workdir={tmp_path}", "--epochs=100")
    while not (tmp_path / "checkpoints" / "previous.keras").exists():
        assert one.is_running() and other.is_running()
        time.sleep(0.01)
    other.send_signal(signal.SIGTERM)
    ended = other.finish(60)
    assert ended.returncode == 130
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("imcl_tf: interrupted; the same command with")
    left = one.finish(60)
    assert left.returncode == 1
    assert "worker 1 has stopped" in left.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "given",
    [
        ("--lambda_y=1", "--lambda_y=2"),
        # A worker that writes a checkpoint waits for the others' parts.
        ("--checkpoint_every=2", "--checkpoint_every=3"),
    ],
)
def test_other_settings_are_refused_on_every_worker(data, tmp_path, given):
    one, other = (
        programs.Program(
            "imcl_tf.main", *FLAGS, *data, f"--workdir={tmp_path}", flag,
            environment={"TF_CONFIG": config},
        )
        for flag, config in zip(given, tf_configs(2), strict=True)
    )  # fmt: skip
    for done in finished((one, other)):
        assert done.returncode == 1
        assert "worker 1 has other settings or data" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "run.json").exists()


def test_a_worker_that_waits_can_be_interrupted(data, tmp_path):
    waiting = programs.Program(
        "imcl_tf.main", *FLAGS, *data, f"--workdir={tmp_path / 'run'}",
        environment={"TF_CONFIG": tf_configs(2)[1]},
    )  # fmt: skip
    end = time.monotonic() + 120
    while "waiting for all workers" not in waiting.output():
        assert waiting.is_running() and time.monotonic() < end
        time.sleep(0.1)
    time.sleep(1)  # in TensorFlow, which has it wait for worker 0
    waiting.send_signal(signal.SIGINT)
    assert waiting.finish(60).returncode == -signal.SIGINT
    assert not [*tmp_path.iterdir()]


def test_an_address_in_use_is_named(data, tmp_path):
    config = tf_configs(2)[0]
    address = json.loads(config)["cluster"]["worker"][0]
    host, port = address.split(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        done = programs.run(
            "imcl_tf.main", *FLAGS, *data, f"--workdir={tmp_path}",
            environment={"TF_CONFIG": config},
        )  # fmt: skip
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"imcl_tf: error: strategy: worker 0 at {address}")


@pytest.mark.parametrize(
    ("flag", "config", "message"),
    [
        ("--seed=0", None, "needs the addresses of the workers"),
        ("--seed=0", "{}", "TF_CONFIG must be like"),
        ("--seed=0", "host:1", "TF_CONFIG must be like .*got 'host:1'"),
        (
            "--seed=0",
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", '
            '"index": 1}}',
            "TF_CONFIG must be like",
        ),
        (
            "--seed=0",
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type":'
            ' "worker", "index": 0}}',
            "all tasks workers",
        ),
        ("--method=auto", None, "--method=auto chooses settings on one"),
        ("--search=trials.json", None, "--search searches settings on one"),
    ],
)
def test_what_workers_cannot_do(data, tmp_path, flag, config, message):
    done = programs.run(
        "imcl_tf.main", *FLAGS, *data, f"--workdir={tmp_path}", flag,
        environment={"TF_CONFIG": config} if config else {},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert re.match(f"imcl_tf: error: .*{message}", line), line
