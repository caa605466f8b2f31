"""Flags: presets, precedence, and names of the contract."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from absl import flags

from imcl_tf import main
from imcl_tf.files import parse_or_fail

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def parse():
    saved = flags.FLAGS.flag_values_dict()

    def parse(*arguments):
        parse_or_fail(main.parse_flags)(["main", *arguments])
        return flags.FLAGS.flag_values_dict()

    yield parse
    flags.FLAGS.unparse_flags()
    for name, value in saved.items():
        flags.FLAGS[name].value = value
        flags.FLAGS[name].present = 0


def preset(name):
    lines = (ROOT / "flags" / f"{name}.cfg").read_text().splitlines()
    return dict(
        line.removeprefix("--").split("=", 1)
        for line in lines
        if line.startswith("--")
    )


@pytest.mark.parametrize("form", ["--dataset=folder", "--dataset folder"])
def test_preset_of_the_data_set_is_read_first(parse, form):
    values = parse(*form.split(), "--workdir=x", "--lambda_y=7.5")
    expected = preset("folder")
    assert values["lambda_y"] == 7.5  # the command line wins
    assert float(expected["learning_rate"]) == values["learning_rate"]
    assert expected["loss_scale"] == values["loss_scale"]


def test_preset_is_read_for_a_data_set_of_a_flag_file(parse, tmp_path):
    (tmp_path / "my.cfg").write_text("--dataset=folder\n--num_neighbors=9\n")
    values = parse(f"--flagfile={tmp_path / 'my.cfg'}", "--workdir=x")
    assert values["num_neighbors"] == 9
    assert float(preset("folder")["learning_rate"]) == values["learning_rate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=x"], "--dataset must be given"),
        (["--dataset=scenes"], "--workdir must be given"),
        (["--dataset=birds", "--workdir=x"], "scenes, folder, got 'birds'"),
        (["--dataset=scenes", "--workdir=x", "extra"], "'extra'"),
        (["--dataset=scenes", "--workdir=x", "--batch_size=0"], "batch_size"),
    ],
)
def test_wrong_flags(parse, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_every_preset_parses(parse):
    for path in (ROOT / "flags").rglob("*.cfg"):
        header = path.read_text().splitlines()[0]
        assert header.startswith("# "), path
        name = path.stem if path.stem in main.DATASETS else "scenes"
        parse(f"--dataset={name}", f"--flagfile={path}", "--workdir=x")


def test_released_sets_every_departure():
    released = preset("released")
    for name in ("solver", "imputation"):
        assert released[name] == "released"
    assert released["reconstruction"] == "linear"
    assert released["loss_scale"] == "initial"
    assert released["dictionary_gradient"] == "full"
    assert released["graph_update"] == "joint"


def test_wheel_holds_the_library_and_its_flags_alone(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
         "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "imcl_tf"
    }
    for cfg in (ROOT / "flags").rglob("*.cfg"):
        assert f"imcl_tf/flags/{cfg.relative_to(ROOT / 'flags')}" in names
