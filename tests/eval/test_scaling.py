"""Steps of several workers: what is counted, fitted, started and printed."""

import itertools
import json
import os
import time

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from eval import growth, loopback, scaling, step_parts, worker_steps
from eval.benchmark.step import Labels, add_dictionary
from eval.scaling import Sizes
from imcl_tf.backbones.make import backbone
from imcl_tf.methods import batches
from imcl_tf.methods.imcl import IMCL
from imcl_tf.ops import workers
from tests import programs
from tests.eval import failing_worker

PARTS = step_parts.Parts(
    update=1.0, image=0.5, repeated=0.25, repeated_image=0.125,
    candidate=1e-3, product=1e-4, record=0.01, decoding=0.02,
    message=1e-3, byte=1e-9, process=1e9, image_memory=1e6,
    repeated_memory=1e5,
)  # fmt: skip


@pytest.mark.parametrize(("number", "images"), [(2, 5), (3, 7), (4, 3)])
@pytest.mark.parametrize("frozen", [True, False])
def test_exchanges_are_those_of_a_step(number, images, frozen, monkeypatch):
    """Worker 0's sums in a step, when the others add nothing to them."""
    sums = []

    def reduced(values):
        sums.append(int(tf.size(values)) * (values.dtype.size // 4))
        return values

    # That of the others, who send nothing: the check of minibatches holds.
    monkeypatch.setattr(batches, "_fingerprint", lambda batch: 0)
    monkeypatch.setattr(workers, "_current", workers.Workers(0, number))
    monkeypatch.setattr(workers, "_reduced", reduced)
    cnn = backbone("small_cnn", image_size=32)
    if frozen:
        cnn = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(6)])
        cnn.build((None, 32, 32, 3))
    labels = scipy.sparse.csr_array(
        np.random.default_rng(0).integers(-1, 2, (40, 4)).astype(np.int8)
    )
    model = IMCL(cnn, 4, dictionary_size=0, num_neighbors=3)
    model.prepare(Labels(labels, (32, 32, 3)))
    model.build((None, 32, 32, 3))
    model.compile("rmsprop")
    add_dictionary(model, np.zeros((20, 1), np.float32), labels)
    step = (
        {
            "inputs": tf.random.stateless_uniform(
                [images, 32, 32, 3], [0, 1], maxval=255.0
            ),
            "image_index": tf.range(20, 20 + images),
        },
        tf.constant(labels[:images].toarray()),
    )
    tf.config.run_functions_eagerly(True)
    try:
        sums.clear()
        model.train_step(step)
    finally:
        tf.config.run_functions_eagerly(False)
    sizes = Sizes(
        batch_size=images, labels=4, features=cnn.output_shape[-1],
        weights=sum(int(np.prod(v.shape)) for v in cnn.trainable_variables),
        edges=model.label_graph.num_edges, neighbors=3,
        statistics=() if frozen else (32, 64, 128, 256, 256),
    )  # fmt: skip
    counted = scaling.exchanges(sizes, number)
    expected = itertools.chain(*([x.numbers] * x.times for x in counted))
    assert sorted(sums) == sorted(expected)


def test_bytes_by_hand():
    sizes = Sizes(
        batch_size=3, weights=100, labels=4, features=5, edges=7, neighbors=2
    )
    # Each of two workers sends as many bytes as the sum has.
    assert scaling.sent(sizes, 2) == {
        "features": 4 * 4 * 5 + 8 * 2,
        "scores of candidates": 4 * 2 * 2 * 2 * 3,
        "their atoms": 4 * 2 * 3 * (4 + 5 + 5),
        "neighbours' features": 4 * 3 * 2 * 5,
        "gradient of A": 4 * 7,
        "gradients of w, theta": 4 * (100 + 6 * 4),
    }
    assert scaling.sent(sizes, 1) == {}
    trained = sizes._replace(statistics=(8, 16))
    more = scaling.sent(trained, 4)["batch statistics"]
    assert more == 4 * 2 * 3 * (8 + 16) * 2 * 3 / 4


def test_seconds_by_hand():
    sizes = Sizes(batch_size=6, dictionary=40, refresh=3, neighbors=1)
    alone = scaling.seconds(sizes, PARTS, 1, 10)
    assert alone == pytest.approx(
        {
            "CNN": 1 + 0.5 * (6 + 1),
            "repeated": 0.25 + 0.125 * 6,
            "candidates": 46 * (1e-3 + 1e-4 * 6),
            "reading": 6 * 0.03,
            "network": 0,
        }
    )
    four = scaling.seconds(sizes, PARTS, 4, 10)
    assert four == pytest.approx(
        {
            "CNN": 1 + 0.5 * (2 + 1 / 3),
            "repeated": alone["repeated"],
            "candidates": 12 * (1e-3 + 1e-4 * 6),
            "reading": 6 * 0.01 + 2 * 0.02,
            # Seven sums, each of six messages; 10 Gbit/s are 0.8 ns for a byte.
            "network": 7 * 6 * 1e-3
            + sum(scaling.sent(sizes, 4).values()) * 1.8e-9,
        }
    )


def test_memory_of_the_dictionary_is_divided_and_that_of_weights_is_not():
    one, four = (scaling.memory(Sizes(), PARTS, n) for n in (1, 4))
    for name in ("dictionary: images", "dictionary: features, atoms"):
        assert four[name] == one[name] / 4
    assert one["dictionary: images"] == 10_000 * 224 * 224 * 3
    trained = 42_500_000 + 2049 * 5000 + 95_000
    assert one["weights, optimizer, gradients"] == 4 * 4 * trained
    assert four["weights, optimizer, gradients"] == 6 * 4 * trained


def test_fits():
    assert step_parts.linear({2: 7.0, 5: 13.0}) == pytest.approx([3, 2])
    values = {
        (b, m): 1 + 2 * b + 0.5 * m + 0.25 * b * m
        for b in (2, 32) for m in (10, 100)
    }  # fmt: skip
    assert step_parts.bilinear(values) == pytest.approx([1, 2, 0.5, 0.25])
    falling = step_parts.linear({2: 7.0, 5: 6.0})
    assert falling[1] == 0 and 6 < falling[0] < 7


def test_report():
    text = scaling.report(PARTS)
    assert text.count("| workers |") == 8
    rows = [x for x in text.splitlines() if x.startswith("| 64 |")]
    assert len(rows) == 8
    whole = sum(scaling.seconds(Sizes(), PARTS, 64, 100).values())
    assert f"| {whole:.3g} |" in rows[3]
    assert rows[4].endswith("| 1,190 |")


def test_time_of_parts_is_told(capsys):
    step_parts.time_after(3, 8, 1)
    step_parts.time_cnn("small_cnn", 2, 1)
    worker_steps.take_steps(32, 3, 2)
    worker_steps.time_exchange(1)  # alone: nothing is exchanged
    found = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    assert found[0] > 0 and found[1] >= 0
    assert min(found[2]) > 0
    assert len(found[3]) == 2


def test_several_workers_are_compared(monkeypatch):
    """With cores for two: three workers as fast as two have ideal speed."""
    seconds = {1: [6.0, 6.0], 2: [3.0, 4.0], 3: [4.0, 2.0]}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(worker_steps, "run_workers", lambda n, *_: seconds[n])
    one, two, three = worker_steps.measured(1.0, 3)
    assert (one.speed, one.to_ideal, one.divided) == (1, 1, 1)
    assert (two.speed, two.to_ideal, two.divided) == (2, 1, 0.75)
    assert (three.speed, three.to_ideal, three.divided) == (1.5, 0.75, 1)
    assert two.images_per_second == 48 / 3


def test_a_worker_has_one_thread_and_one_core():
    assert loopback.run_workers(1, failing_worker.tell, 7) == [7, False, "1", 1]
    cores = len(os.sched_getaffinity(0))
    found = loopback.run_workers(cores + 1, failing_worker.tell, 8)
    assert found == [8, True, "1", cores]


def test_a_worker_that_fails_ends_the_others():
    begun = time.monotonic()
    expected = "worker 1 of 2 failed: ValueError: no such device"
    with pytest.raises(ChildProcessError, match=expected):
        loopback.run_workers(2, failing_worker.one_fails)
    assert time.monotonic() - begun < 60


def test_a_failure_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(
        growth.SECTIONS,
        "workers",
        lambda: loopback.run_workers(2, failing_worker.one_fails),
    )
    for section, message in (
        ("workers", "worker 1 of 2 failed: ValueError: no such device"),
        ("rest", "expected one section of similarity, workers, estimate, got "
         "'rest'"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            growth.main(["growth", section])
        assert capsys.readouterr().err == f"imcl_tf: error: {message}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "rows"), [("workers", 3), ("estimate", 6 * 7 + 2 * 6)]
)
def test_program(section, rows):
    done = programs.run("eval.growth", section, "--scale=0.002", "--repeats=1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([x for x in lines if x.startswith(tuple(
        f"| {n} |" for n in range(1, 65)
    ))]) == rows  # fmt: skip
