"""`--search`: which settings are tried, and which one is kept."""

import csv
import json

import numpy as np
import pytest

from imcl_tf import main as program
from imcl_tf.settings import known_options
from imcl_tf.training import search
from tests import programs


def write(path, spec):
    file = path / "search.json"
    file.write_text(spec if isinstance(spec, str) else json.dumps(spec))
    return file


def test_grid_is_all_combinations(tmp_path):
    spec = {"grid": {"a": [1, 0.5], "b": ["x", "y", "x"], "c": [True]}}
    assert search.read_trials(write(tmp_path, spec)) == [
        {"a": a, "b": b, "c": "true"} for a in ("1", "0.5") for b in "xy"
    ]


def test_random_draws_are_in_bounds_and_reproduced(tmp_path):
    axes = {
        "log": {"low": 1e-4, "high": 1, "log": True},
        "flat": {"low": 2, "high": 3},
        "list": ["a", "b"],
    }
    spec = {"random": axes, "trials": 200, "seed": 1}
    trials = search.read_trials(write(tmp_path, spec))
    assert trials == search.read_trials(write(tmp_path, spec))
    assert trials != search.read_trials(write(tmp_path, spec | {"seed": 2}))
    assert len(trials) == 200
    logs = np.log10([float(t["log"]) for t in trials])
    assert logs.min() >= -4 and logs.max() <= 0
    # Uniform: its mean has standard deviation 4 / sqrt(12 * 200) = 0.08.
    assert abs(logs.mean() + 2) < 0.4
    flat = np.array([float(t["flat"]) for t in trials])
    assert flat.min() >= 2 and flat.max() <= 3 and abs(flat.mean() - 2.5) < 0.1
    assert {t["list"] for t in trials} == {"a", "b"}


def test_whole_numbers_are_drawn_between_whole_numbers(tmp_path):
    spec = {"random": {"a": {"low": 2, "high": 4}}, "trials": 100}
    assert {t["a"] for t in search.read_trials(write(tmp_path, spec))} == {
        "2", "3", "4",
    }  # fmt: skip


def test_listed_values_stay_as_they_are(tmp_path):
    values = [0.00012345, 12345.0, "é", 'x"y', False]
    spec = {"grid": {"a": values}}
    assert [t["a"] for t in search.read_trials(write(tmp_path, spec))] == [
        "0.00012345", "12345.0", "é", 'x"y', "false",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{", "not a whole JSON file"),
        ([1], "expected"),
        ({}, "expected"),
        ({"grid": {}}, "expected"),
        ({"grid": {"a": [1]}, "random": {"a": [1]}}, "expected"),
        ({"grid": {"a": [1]}, "tries": 3}, "expected"),
        ({"grid": {"a": 1}}, "a must be a list"),
        ({"random": {"a": {"low": 1}}}, "a must be a list of values or two"),
        ({"random": {"a": []}}, "a must be a list"),
        ({"random": {"a": 3}}, "a must be a list"),
        ({"grid": ["a"]}, "expected"),
        ({"random": ["a"]}, "expected"),
        ({"random": {"a": [1]}, "trials": 0}, "trials must be a number >= 1"),
        ({"random": {"a": [1]}, "trials": "x"}, "trials must be a number"),
        ({"random": {"a": [1]}, "seed": "x"}, "seed must be a number"),
        ({"random": {"a": {"low": 0, "high": 1, "log": True}}}, "low > 0"),
        ({"random": {"a": {"low": 0, "high": 0, "log": True}}}, "low > 0"),
        ({"random": {"a": {"low": 1, "high": 0, "log": True}}}, "low <= high"),
        ({"random": {"a": {"low": 3, "high": 2}}}, "low <= high"),
        ({"random": {"a": {"low": 1, "high": 10**400}}}, "numbers low"),
        ({"random": {"a": {"low": "1", "high": 2}}}, "numbers low"),
        ({"random": {"a": {"low": "1", "high": "2"}}}, "numbers low"),
        ({"random": {"a": {"low": True, "high": 2}}}, "numbers low"),
        (
            {"random": {"a": {"low": 1, "high": 2, "log": "false"}}},
            "numbers "
            'low <= high; log must be true or false, .* "log": "false"}',
        ),
        ({"random": {"a": {"low": 1, "high": 2, "lgo": True}}}, "numbers low"),
        ({"grid": {"a": [1]}, "trials": 3}, "trials and seed are for random"),
        ({"random": {"a": [1]}, "trials": True}, "trials must be a number"),
        ({"random": {"a": [1]}, "trials": 10**9}, "at most 10000"),
        ({"grid": {x: [0] * 99 for x in "abc"}}, "at most 10000"),
        ({"grid": {"a": [None]}}, "got null"),
        ({"random": {"a": [[1]]}}, r"got \[1\]"),
        ('{"grid": {"a": [NaN]}}', "got NaN"),
        ('{"grid": {"a": [1e999]}}', "got Infinity"),
        ({"grid": {"a\nb": []}}, r"json: a\\nb must be a list of values"),
        ('{"grid": {"a": [1], "a": [2]}}', "has the key 'a' 2 times"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_other_files_are_refused(spec, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        search.read_trials(write(tmp_path, spec))
    assert "search.json" in str(caught.value)


def test_byte_order_mark(tmp_path):
    file = write(tmp_path, "\ufeff" + json.dumps({"grid": {"a": [1]}}))
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    assert search.read_trials(file) == [{"a": "1"}]
    file.write_text(json.dumps({"grid": {"a": [2]}}), "utf-16")
    assert search.read_trials(file) == [{"a": "2"}]


def test_directories_of_trials_are_short_and_distinct(tmp_path):
    """At most 255 bytes make a file name on most systems."""
    long = "/data/" + "é" * 300
    trials = [
        {"a": x} for x in ("1", "x/y", "x_y", long + "1", long + "2", "..", "é")
    ]
    places = []

    def train(settings, workdir):
        workdir.mkdir(parents=True)
        places.append(workdir)
        return {"validation_mAP": 0.0}

    search.search(trials, train, tmp_path)
    assert len({*places}) == len(trials)
    assert {place.parent for place in places} == {tmp_path / "trials"}
    assert places[0].name == "a=1"


def test_best_on_validation_is_kept_and_every_trial_listed(tmp_path):
    def train(settings, workdir):
        assert workdir.parent == tmp_path / "trials"
        if settings["a"] == "3":
            raise FloatingPointError("diverged")
        return {"validation_mAP": 10.0 * (settings["a"] == "2")}

    trials = [{"a": a, "b": "x/y"} for a in "1232"]
    best = search.search(trials, train, tmp_path)
    assert best is trials[1]  # the first of equals
    with (tmp_path / "trials.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["a", "b", "validation_mAP", "error"],
            ["1", "x/y", "0.0000", ""],
            ["2", "x/y", "10.0000", ""],
            ["3", "x/y", "", "diverged"],
            ["2", "x/y", "10.0000", ""],
        ]
    with pytest.raises(ValueError, match="no trial"):
        search.search(trials[2:3], train, tmp_path)


@pytest.mark.slow  # the test of the docs runs the program too
def test_program_trains_the_best_trial_and_can_be_called_again(
    folder, tmp_path
):
    grid = {"learning_rate": [1e-9, 0.3], "lambda_y": [0.5]}
    arguments = [
        "--dataset=folder", f"--data_dir={folder.path}", "--image_size=32",
        "--initial_epochs=1", "--epochs=1", "--method=imcl",
        f"--workdir={tmp_path / 'run'}",
    ]  # fmt: skip
    file = write(tmp_path, {"grid": grid})
    done = programs.run("imcl_tf.main", *arguments, f"--search={file}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run/trials.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["learning_rate"] for row in rows] == ["1e-09", "0.3"]
    best = max(rows, key=lambda row: float(row["validation_mAP"]))
    flags = (tmp_path / "run/flags.cfg").read_text().splitlines()
    assert f"--learning_rate={float(best['learning_rate'])}" in flags
    assert "--lambda_y=0.5" in flags
    for trial in (tmp_path / "run/trials").iterdir():
        results = json.loads((trial / "results.json").read_text())
        assert "mAP" not in results and "validation_mAP" in results
        assert not (trial / "checkpoints").exists()

    before = (tmp_path / "run/trials.csv").read_bytes()
    again = programs.run("imcl_tf.main", *arguments, f"--search={file}")
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "Epoch" not in again.stdout  # nothing trained twice
    assert (tmp_path / "run/trials.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("best", "is_of_best"),
    [
        ({"learning_rate": 0.1, "lambda_y": 0.5}, True),
        ({"learning_rate": 0.3, "lambda_y": 0.5}, False),
        # An option that its method does not have.
        ({"learning_rate": 0.1, "smoothing": 0.2}, True),
    ],
)
def test_another_best_trial_begins_the_run_anew(
    best, is_of_best, tmp_path, caplog
):
    trials = [
        {name: "9" for name in best},
        {n: str(x) for n, x in best.items()},
    ]
    assert program._is_of_best(tmp_path, best, trials)  # never begun
    settings = {"learning_rate": 0.1, "lambda_y": 0.5, "epochs": 3}
    identity = {"settings": settings, "files": {}, "data": {}}
    text = json.dumps({"run": "1", "identity": identity})
    (tmp_path / "run.json").write_text(text)
    with caplog.at_level("WARNING", "absl"):
        assert program._is_of_best(tmp_path, best, trials) == is_of_best
    said = "best trial has --learning_rate=0.3 now, not 0.1" in caplog.text
    assert said != is_of_best


def defaults():
    options = known_options().values()
    return {option.name: option.default for option in options}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"no_flag": "1"}, "no_flag is no option"),
        ({"seed": "1"}, "seed is no option"),
        ({"lambda_y": "-1"}, "lambda_y must be >= 0, got -1"),
        ({"epochs": "2", "method": "imlc"}, "method must be one of .*'imlc'"),
    ],
)
def test_wrong_flags_are_found_before_the_first_trial(
    settings, message, tmp_path
):
    program.define_flags()
    with pytest.raises(ValueError, match=message):
        program.tune(None, defaults(), tmp_path / "never", [settings])
    assert not (tmp_path / "never").exists()
