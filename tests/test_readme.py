"""Every command of the README runs, on small data."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SHORT = "--initial_epochs=1 --epochs=1 --image_size=32"
# What is added to a command to make it short, by its beginning.
SHORTER = {
    "python -m imcl_tf.main --dataset=folder": SHORT,
    "python -m imcl_tf.predict": "",
    "python -m data_prep.folder": "",
    "python -m eval.compare": SHORT,
    "tensorboard": "--inspect",
    "make demo": "",
    "make test": "",
}


def commands():
    """The commands of the README's bash blocks, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    text = "".join(blocks).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_folder):
    """A directory with `pictures` as the README has it, and ResNet weights."""
    path = tmp_path_factory.mktemp("readme")
    make_folder(path / "pictures", names=("0001.jpg",))
    network = keras.applications.ResNet101(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    network.save_weights(path / "resnet101.weights.h5")
    return path


def make(target):
    """What `make target` would run."""
    listing = subprocess.run(
        ["make", "--dry-run", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return listing.replace("\\\n", " ").splitlines()


def test_every_command_is_known():
    assert commands()[:2] == ["make demo", "make test"]
    for command in commands():
        plain = command.removeprefix(".venv/bin/")
        assert any(plain.startswith(known) for known in SHORTER), command


def test_make_test_runs_the_tests_and_ci_runs_make_test():
    assert any("-m pytest" in line for line in make("test"))
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_make_demo_trains_on_scenes(tmp_path):
    runs = [line for line in make("demo") if "imcl_tf.main" in line]
    assert runs
    (first,) = [line for line in runs if "--init_from" not in line]
    arguments = first.split("-m imcl_tf.main ")[1]
    arguments = arguments.replace("runs/", f"{tmp_path}/")
    output = run(f"imcl_tf.main {arguments} --initial_epochs=1 --epochs=1")
    assert re.search(r"scenes test mAP: initial logistic \d+", output)


def test_commands_run(place):
    """One after the other, as a reader would type them."""
    for command in commands():
        if command.startswith("make"):
            continue
        plain = command.removeprefix(".venv/bin/")
        known = next(k for k in SHORTER if plain.startswith(k))
        line = f"{plain} {SHORTER[known]}"
        line = line.replace(
            "backbone_weights=imagenet",
            f"backbone_weights={place / 'resnet101.weights.h5'}",
        )
        line = line.replace(
            "eval.compare ", "eval.compare --seeds=0 --regimes=fixed_features "
        )
        for name in ("pictures", "runs/", "records"):
            line = re.sub(rf"(?<=[= ]){name}", f"{place}/{name}", line)
        run(line.removeprefix("python -m "))


def run(line):
    program, *arguments = line.split()
    if program == "tensorboard":
        program = "tensorboard.main"
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return done.stdout
