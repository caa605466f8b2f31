"""A whole plan on a file of features: shared starts, trials, failures."""

import contextlib
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from eval import plan as plans
from eval.schedule import Schedule
from imcl_tf import main as program
from imcl_tf.settings import known_options
from imcl_tf.training.workdir import Workdir
from tests import programs

PLAN = """\
# A plan.
--title=Few rows
--method=imcl
--epochs=1
--row=logistic: --method=logistic --epochs=0
--row=lsep: --method=lsep --learning_rate=0.01|0.1
--row=broken: --label_graph=none.npz
--column=half: --observed_fraction=0.5
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_folder):
    """Holds plan.cfg, data/ and f.npz."""
    place = tmp_path_factory.mktemp("plan")
    made = make_folder(place / "data", names=())
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(made.encoded), 4))
    np.savez(place / "f.npz", ids=[*made.encoded], features=features)
    (place / "plan.cfg").write_text(PLAN)
    return place


def command(place, *arguments):
    return (
        f"--plan={place}/plan", f"--runs={place}/runs",
        f"--data=folder:{place}/data", f"--features={place}/f.npz",
        "--seeds=0,1", *arguments,
    )  # fmt: skip


def run(place, *arguments):
    return programs.run("eval.run", *command(place, *arguments))


def kill_amid_a_run(runs, program):
    """Kills a process of `program` that trains; returns its run's name."""
    while program.is_running():
        for claim in (runs / "claims").glob("[!.]*.json"):
            workdir = runs / "runs" / claim.stem
            if not (workdir / "run.json").exists():
                continue
            with contextlib.suppress(FileNotFoundError):  # just given up
                process = json.loads(claim.read_text())["pid"]
                os.kill(process, signal.SIGSTOP)
                if not (workdir / "results.json").exists():
                    os.kill(process, signal.SIGKILL)
                    return claim.stem
                os.kill(process, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError(program.errors())


@pytest.fixture(scope="module")
def finished(place):
    """What three processes ended with, and the plan's state.

    One of the three is killed amid a run.
    """
    program = programs.Program("eval.run", *command(place, "--jobs=3"))
    killed = kill_amid_a_run(place / "runs", program)
    done = program.finish(timeout=600)
    assert (place / "runs" / "runs" / killed / "results.json").exists()
    return done, json.loads((place / "runs" / "plan.json").read_text())


def results_of(place, cell):
    file = place / "runs" / "runs" / cell["run"] / "results.json"
    return json.loads(file.read_text())


def test_what_is_run(place, finished):
    done, state = finished
    assert done.returncode == 1
    assert done.stdout.count("eval.tables makes its table") == 1
    *_, failure = done.stderr.splitlines()
    assert "error: failed: 2 runs, the first of them: broken, " in failure
    assert "broken, half, seed 0: label_graph must be" in done.stderr
    assert state["title"] == "Few rows" and len(state["cells"]) == 6
    assert state["command"].endswith("--seeds=0,1 --jobs=3")
    for cell in state["cells"]:
        assert (cell["error"] is None) == (cell["row"] != "broken")
        if cell["row"] == "broken":
            assert cell["run"] is None
            continue
        results = results_of(place, cell)
        assert results["method"] == cell["row"]
        assert str(results["seed"]) == cell["seed"]
        assert "mAP" in results
        assert "--observed_fraction=0.5" in results["settings"]
    # Each run is done by one process, once, that of the killed one too: 2
    # starts, which are the logistic row, 2 others, and 2 trials.
    assert "a process was ended by SIGKILL" in done.stderr
    ends = re.findall(r"runs done.*?; (.*): validation mAP", done.stdout)
    assert len(ends) == len({*ends}) == 6
    assert not [*(place / "runs" / "claims").iterdir()]
    names = {path.name for path in (place / "runs" / "runs").iterdir()}
    wanted = {cell["run"] for cell in state["cells"]} - {None}
    assert len(wanted) == 4 and wanted < names
    assert len([name for name in names if name.endswith("-trial")]) == 2


def test_one_process_has_the_same_results(place, finished):
    del finished
    run(place, f"--runs={place}/alone", "--seeds=0")
    alone, together = (place / name / "runs" for name in ("alone", "runs"))
    names = {path.name for path in alone.iterdir()}
    # A start, two trials and the other row; and those of the second seed.
    assert len(names) == 4 and names < {x.name for x in together.iterdir()}
    for name in names:
        one, other = (x / name / "metrics.csv" for x in (alone, together))
        assert one.read_text() == other.read_text()
        one, other = (
            json.loads((x / name / "results.json").read_text())
            for x in (alone, together)
        )
        # They say where the workdirs lie.
        del one["settings"], other["settings"]
        assert one == other


def test_all_start_from_one_logistic_model(place, finished):
    _, state = finished
    start = {
        cell["seed"]: results_of(place, cell)["mAP"]
        for cell in state["cells"]
        if cell["row"] == "logistic"
    }
    for cell in state["cells"]:
        if cell["run"]:
            found = results_of(place, cell)["initial_logistic"]["mAP"]
            assert found == start[cell["seed"]]
            assert results_of(place, {"run": cell["logistic"]})["mAP"] == found


def test_validation_of_the_first_seed_chooses(place, finished):
    _, state = finished
    cells = [cell for cell in state["cells"] if cell["row"] == "lsep"]
    assert all(cell["chosen"].keys() == {"learning_rate"} for cell in cells)
    (rate,) = {cell["chosen"]["learning_rate"] for cell in cells}
    assert rate in {"0.01", "0.1"}
    for cell in cells:
        settings = results_of(place, cell)["settings"]
        assert f"--learning_rate={rate}" in settings
    for trial in (place / "runs" / "runs").glob("*-trial"):
        found = json.loads((trial / "results.json").read_text())
        assert "mAP" not in found and found["seed"] == 0


def test_what_is_finished_is_not_run_again(place, finished):
    files = [*(place / "runs" / "runs").glob("*/results.json")]
    times = [file.stat().st_mtime_ns for file in files]
    done = run(place, "--rows=logistic,lsep")
    assert done.returncode == 0, done.stderr
    assert times == [file.stat().st_mtime_ns for file in files]
    again = json.loads((place / "runs" / "plan.json").read_text())
    runs = [cell["run"] for cell in again["cells"]]
    assert runs == [cell["run"] for cell in finished[1]["cells"]]


def test_another_seed_joins_and_waits_for_who_trains(place, finished):
    """Whoever still trains in a workdir, without a claim, is no failure."""
    del finished
    single = "--rows=logistic", "--seeds=2"
    listed = {path.name for path in (place / "runs" / "runs").iterdir()}
    assert run(place, *single).returncode == 0
    (name,) = {x.name for x in (place / "runs" / "runs").iterdir()} - listed
    shutil.rmtree(place / "runs" / "runs" / name)
    busy = Workdir(place / "runs" / "runs" / name)
    with busy.alone():
        waiting = programs.Program("eval.run", *command(place, *single))
        deadline = time.monotonic() + 120
        while "another program is training in" not in waiting.errors():
            assert waiting.is_running() and time.monotonic() < deadline
            time.sleep(0.1)
    done = waiting.finish()
    assert done.returncode == 0, done.stderr
    state = json.loads((place / "runs" / "plan.json").read_text())
    assert [cell["seed"] for cell in state["cells"]] == [*"000111222"]
    found = [cell for cell in state["cells"] if cell["run"] == name]
    assert [(x["row"], x["column"], x["seed"]) for x in found] == [
        ("logistic", "half", "2")
    ]


def test_other_data_have_other_runs(place):
    """Names depend on data and settings, not on where these lie."""
    program.define_flags()
    chosen = {o.name: o.default for o in known_options().values()}
    chosen |= {"regime": "fixed_features"}
    row = plans.Variant("imcl", {"method": ("imcl",)})
    plan = plans.Plan("p", "P", "", "", (row,), (plans.Variant("", {}),))

    def name(digest="a", **changes):
        digests = {"labels": digest}
        schedule = Schedule(plan, chosen | changes, place, ["0"], {}, digests)
        (cell,) = schedule.cells()
        return schedule.final(cell).name

    assert name() == name(data_dir="elsewhere", workdir="w")
    assert len({name(), name("b"), name(penalty=0.1), name(lambda_y=0.3)}) == 4


def test_a_start_has_nothing_to_choose(tmp_path):
    """But what the initial model depends on."""
    program.define_flags()
    chosen = {o.name: o.default for o in known_options().values()}
    row = {"method": ("logistic",), "epochs": ("0",)}

    def schedule(**tuned):
        plan = plans.Plan(
            "p", "P", "", "", (plans.Variant("logistic", row),),
            (plans.Variant("", {}),),
        )  # fmt: skip
        return Schedule(plan, chosen, tmp_path, ["0"], tuned, {})

    rates = schedule(learning_rate=("0.1", "0.2"))
    (cell,) = rates.cells()
    (work,) = {x.name: x for x in rates.open(cell)}.values()
    assert not work.tuning
    epochs = schedule(initial_epochs=("1", "2"))
    assert len(epochs.open(cell)) == 2
    for schedule, means in ((rates, [60.0]), (epochs, [50.0, 70.0])):
        for work, mean in zip(schedule.open(cell), means, strict=False):
            place = schedule.directory(work.name)
            place.mkdir(parents=True, exist_ok=True)
            results = {"validation_mAP": mean, "mAP": 0.0}
            (place / "results.json").write_text(json.dumps(results))
    assert rates.chosen(cell) == {} and rates.open(cell) == []
    assert rates.count([cell]) == (1, 1)
    assert epochs.chosen(cell) == {"initial_epochs": "2"}


def test_a_trial_that_diverged_is_not_chosen(tmp_path):
    """Three rates: the second has diverged, the third is the best."""
    program.define_flags()
    chosen = {o.name: o.default for o in known_options().values()}
    rates = {"method": ("imcl",), "learning_rate": ("0.1", "9", "0.01")}
    plan = plans.Plan(
        "p", "P", "", "", (plans.Variant("imcl", rates),),
        (plans.Variant("", {}),),
    )  # fmt: skip
    schedule = Schedule(plan, chosen, tmp_path, ["3", "4"], {}, {})
    cell = schedule.cells()[1]

    def finish(work, mean):
        place = schedule.directory(work.name)
        place.mkdir(parents=True)
        results = {"validation_mAP": mean, "mAP": 0.0}
        (place / "results.json").write_text(json.dumps(results))

    (start,) = schedule.open(cell)  # that of the first seed, as all trials
    finish(start, 50.0)
    trials = schedule.open(cell)
    assert [x.settings["learning_rate"] for x in trials] == [0.1, 9, 0.01]
    assert {x.settings["seed"] for x in trials} == {3}
    finish(trials[0], 51.0)
    finish(trials[2], 52.0)
    assert schedule.choice(cell) is None
    schedule.directory(trials[1].name).mkdir()
    schedule.note_divergence(trials[1], FloatingPointError("nan"))
    assert schedule.choice(cell)["learning_rate"] == "0.01"
    assert schedule.count([cell]) == (4, 6)  # left: a start and the final run
    assert not schedule.has_diverged(cell)
    for trial in (trials[0], trials[2]):
        schedule.note_divergence(trial, FloatingPointError("nan"))
    assert schedule.has_diverged(cell) and schedule.choice(cell) is None
