"""How the programs start: help at once, one line of errors, no noise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imcl_tf import program, settings
from imcl_tf.options import Option

ROOT = Path(__file__).resolve().parents[1]
# A flag that each of them has.
PROGRAMS = {
    "imcl_tf.main": "--workdir",
    "imcl_tf.predict": "--model",
    "data_prep.clean": "--[no]remove",
    "data_prep.coco": "--vocabulary",
    "data_prep.cub": "--split_file",
    "data_prep.download": "--annotations",
    "data_prep.features": "--backbone_weights",
    "data_prep.folder": "--raw_dir",
    "data_prep.label_graph": "--articles_from",
    "data_prep.open_images": "--[no]machine_labels",
    "eval.benchmark": "--repeats",
    "eval.compare": "--seeds",
    "eval.faults": "--faults",
    "eval.figures": "--runs",
    "eval.growth": "--scale",
    "eval.preparation_faults": "--kills",
    "eval.report": "--out",
    "eval.run": "--plan",
    "eval.tables": "--out",
    "eval.workers": "--seeds",
}
# A console that nobody has set up for TensorFlow.
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, cwd=ROOT, env=PLAIN,
    )  # fmt: skip


def test_every_program_is_tested():
    sources = [
        path.relative_to(ROOT).with_suffix("")
        for folder in ("imcl_tf", "data_prep", "eval")
        for path in (ROOT / folder).rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    ]
    names = {".".join(path.parts).removesuffix(".__main__") for path in sources}
    assert names == PROGRAMS.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_needs_neither_tensorflow_nor_tables(name):
    done = python("-X", "importtime", "-m", name, "--help")
    assert done.returncode == 0, done.stderr
    assert PROGRAMS[name] in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.split("\n")}
    assert "absl.flags" in imported
    assert not imported & {"tensorflow", "keras", "numpy", "pandas", "pyarrow"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_flag_is_one_line(name):
    done = python("-m", name, "--nothing=1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "imcl_tf: error: Unknown command line flag 'nothing'\n"
    )


def test_what_follows_the_import_of_tensorflow_is_one_line():
    """No lines about missing GPUs, registered factories or instructions."""
    done = python("-m", "data_prep.folder")
    assert done.returncode == 1
    assert done.stderr == "imcl_tf: error: --raw_dir must be given\n"


# With the name of a program on the command line, or `import imcl_tf` would
# import TensorFlow; to be run in a process that has no thread yet.
QUIETLY = """
import os, sys
from imcl_tf import program
with program._without_information():
    for line in sys.stdin:
        os.write(2, line.encode())
    if sys.argv[1] == "abort":
        os.abort()
    if sys.argv[1] == "raise":
        raise OSError("no such library")
os.write(2, b"after\\n")
"""


@pytest.mark.parametrize("end", ["return", "raise", "abort"])
def test_information_is_filtered_and_nothing_else(end):
    kept = [
        "E0000 00:00:1.2 3 a.cc:4] failed",
        "W0000 w",
        "Information",
        "half",
    ]
    written = [
        "WARNING: All log messages before absl::InitializeLog() is called",
        kept[0],
        "I0000 00:00:1795676564.818757    2062 cudart_stub.cc:31] no drivers",
        *kept[1:],
    ]
    done = subprocess.run(
        [sys.executable, "-c", QUIETLY, end, "-m", "imcl_tf.main"],
        input="\n".join(written), capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    text = "\n".join(kept)
    if end == "return":
        assert done.stderr == text + "after\n"
    assert done.stderr.startswith(text)
    assert (done.returncode != 0) == (end != "return")
    if end == "raise":
        assert done.stderr.endswith("OSError: no such library\n")


def test_help_into_a_pipe_that_is_closed():
    """As `--help | head -1`: no traceback."""
    code = f"{sys.executable} -m imcl_tf.main --help | head -c 9"
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("usage: py", "")


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("/usr/bin/imcl-train", "imcl-train"),
        ("/a/imcl_tf/main.py", "python -m imcl_tf.main"),
    ],
)
def test_help_names_the_command_that_was_called(argument, name, capsys):
    usage = "\nusage: python -m imcl_tf.main --dataset=NAME\n"
    with pytest.raises(SystemExit) as ended:
        program.print_help_if_asked([argument, "-h"], usage, {})
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"usage: {name} --dataset=NAME\n"


def test_repeated_and_chosen_flags():
    from absl import flags

    options = (
        Option("of_a_test", "", "Text.", repeated=True),
        Option("chosen_in_a_test", "", "Text.", choices=("a", "b")),
    )
    program.define(options)
    try:
        repeated, chosen = (flags.FLAGS[option.name] for option in options)
        assert repeated.value == [] and chosen.value is None
        for text in ("1", "2"):
            repeated.parse(text)
            repeated.present += 1
        assert repeated.value == ["1", "2"]
        with pytest.raises(flags.IllegalFlagValueError, match="one of <a|b>"):
            chosen.parse("c")
    finally:
        for option in options:
            delattr(flags.FLAGS, option.name)


def test_options_of_the_programs_are_sentences():
    from data_prep import options as preparing
    from eval import options as evaluating

    for module in (preparing, evaluating):
        for name, options in vars(module).items():
            if isinstance(options, Option):
                options = [options]
            for option in options if isinstance(options, list | tuple) else ():
                assert option.help.endswith("."), (name, option)
    assert settings.DATASET in preparing.FEATURES
