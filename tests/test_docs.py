"""The README and docs/: every command and every Python block runs.

On small data and shortened by further flags (`SHORTER`); what cannot run
carries a comment with the reason, `<!-- not run: ... -->`.
"""

import csv
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import imcl_tf
from examples import partial_labels_from_arrays
from imcl_tf import settings
from imcl_tf.backbones.make import backbone
from imcl_tf.data import datasets
from imcl_tf.methods import base
from tests import docs_sites, programs
from tests.docs_blocks import (
    LANGUAGES,
    PAGES,
    ROOT,
    blocks,
    commands,
    inline_code,
    prose,
    tables,
    text_of,
)
from tests.methods.common import batch_of, build, problem, tiny_cnn

SCRIPT = """\
import imcl_tf

data = imcl_tf.load_dataset("folder", "pictures")            # .train, .validation, .test, .label_names
backbone = imcl_tf.backbone("resnet101", weights="imagenet")
model = imcl_tf.IMCL(backbone, data.num_labels)
model.compile("rmsprop")
model.fit(data.train.batches(32), validation_data=data.validation, epochs=3)
print(imcl_tf.evaluate(model, data.test).mean())
imcl_tf.export(model, "saved_model", data.label_names)
imcl_tf.predict_images("saved_model", ["new.jpg"])
"""  # noqa: E501
SMALL = "--backbone=small_cnn --backbone_weights=none"
SHORT = "--initial_epochs=1 --epochs=1 --image_size=32 --num_neighbors=1"
# Methods are traced in a fraction of the time on features.
FIXED = f"{SHORT} --regime=fixed_features"
# The same in Python: pattern -> replacement.
SHORTENED = {
    r"(imcl_tf\.IMCL\([\w., =]+?)(, num_neighbors=\d)?\)":
        r"\1, num_neighbors=1)",
    r"\"epochs\": 1}": "\"epochs\": 1, \"num_neighbors\": 1}",
    r"\"initial_epochs\": 3, \"epochs\": 2}":
        "\"initial_epochs\": 1, \"epochs\": 1}",
    r"options\.pop\(\"backbone\"\)\)":
        "options.pop(\"backbone\"), image_size=32)",
}  # fmt: skip
# What is added to a command to make it short, by its beginning.
SHORTER = {
    "python -m imcl_tf.main --dataset=folder --data_dir=pictures "
    "--workdir=runs/mine": f"{FIXED} --budget=0",
    "python -m imcl_tf.main --dataset=folder --data_dir=pictures "
    "--features": "--initial_epochs=1 --epochs=1 --num_neighbors=1 --budget=0",
    # What follows `mine` need not train: tests/training/test_search.py does.
    "python -m imcl_tf.main --dataset=folder": f"{FIXED} --epochs=0 "
    "--init_from=runs/mine",
    "python -m imcl_tf.main --flagfile": "",  # of a run that was short
    # These show a data set: whatever the training would be.
    "python -m imcl_tf.main": f"{FIXED} {SMALL} --method=logistic "
    "--initial_epochs=0 --epochs=0",
    "python -m imcl_tf.predict": "",
    "imcl-predict": "",
    "python -m data_prep.features": "--backbone=small_cnn --image_size=32 "
    "--backbone_weights=small_cnn.weights.h5",
    "python -m data_prep.label_graph --graph": "--around='Goose, wild'",
    "python -m data_prep": "",
    "python -m wn": "",
    "python -m eval.report": "",
    "python -m eval.compare": f"{SHORT} --epochs=0 --seeds=0 "
    "--regimes=fixed_features --rows=Hill",
    "python -m eval.run": "--features=features.npz --seeds=0 --epochs=0",
    "python -m eval.tables": "",
    "python -m eval.figures": "",
    "tensorboard": "--inspect",
    "make": "",
    "curl -L": "",
    "unzip -q": "",
    "tar -xzf": "",
}
# A sentence that begins with "Of", and words for which there are plainer ones.
UNPLAIN = r"[.:] Of |\"\"\" ?Of |\btold\b|\bgoes on\b|\bfor to\b"
CONSOLE = {"imcl-train": "imcl_tf.main", "imcl-predict": "imcl_tf.predict"}


def shortening(command):
    """The entry of `SHORTER` for a command, None = it is not known."""
    plain = command.removeprefix(".venv/bin/")
    known = (more for k, more in SHORTER.items() if plain.startswith(k))
    return next(known, None)


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


def test_every_page_is_here():
    pages = {str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")}
    assert pages == {page for page in PAGES if page.startswith("docs/")}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_or_says_why_not(page):
    assert text_of(page).count("\n```") == 2 * len(blocks(page))
    assert text_of(page).count("<!-- not run") == sum(
        bool(block.reason) for block in blocks(page)
    )
    for block in blocks(page):
        assert block.language in LANGUAGES, block
        assert not block.reason or len(block.reason.split()) > 3, block
    for command in commands(page):
        assert shortening(command) is not None, command


def test_a_block_that_an_example_runs_is_in_the_example():
    found = [
        b for page in PAGES for b in blocks(page) if "examples/" in b.reason
    ]
    assert found
    for block in found:
        example = re.search(r"examples/\w+\.py", block.reason)[0]
        text = "".join(text_of(example).split())
        assert "".join(block.text.split()) in text, block


def test_readme_is_short_and_says_what_make_does():
    assert len(text_of("README.md").splitlines()) <= 150
    assert commands("README.md")[:2] == ["make demo", "make test"]
    assert any("-m pytest" in line for line in make("test"))
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_words():
    """Sentences are plain ones, and no page names the machine it is from."""
    for page in (*PAGES, "CHANGELOG.md"):
        text = re.sub(r"\s+", " ", prose(page))
        assert not re.search(UNPLAIN, text)
        assert str(ROOT) not in text_of(page)
    for directory in ("imcl_tf", "data_prep", "eval", "examples"):
        for source in ROOT.glob(f"{directory}/**/*.py"):
            # Lines that comments and docstrings continue are one sentence.
            text = re.sub(r"\s+(# )?", " ", source.read_text())
            assert not re.search(UNPLAIN, text), source


def section(page, heading):
    """The text below a heading of a page, up to the next one."""
    text = text_of(page).split(f"\n## {heading}\n")[1]
    return re.sub(r"\s+", " ", text.split("\n## ")[0])


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("coco", "MS-COCO captions"),
        ("cub", "CUB-200-2011"),
        ("open_images", "Open Images v3"),
    ],
)
def test_costs_are_the_same_everywhere(name, heading):
    """In the page, in the error that points to it and in the preset."""
    page = section("docs/datasets.md", heading)
    figures = r"[\d.]+ (?:GB|million)|half an hour|minutes|days"
    for figure in re.findall(figures, datasets._COSTS[name]):
        assert figure in page
    preset = (ROOT / "flags" / f"{name}.cfg").read_text()
    preset = re.sub(r"\s+#? *", " ", preset)
    (training,) = re.findall(r"epochs, ([\w ]+) on one GPU\.", preset)
    assert f"{training} of training" in page


# Flags --------------------------------------------------------------------


def known_flags():
    """Names of the flags of all programs, read off their source."""
    sources = [
        *ROOT.glob("imcl_tf/**/*.py"),
        *ROOT.glob("data_prep/*.py"),
        *ROOT.glob("eval/**/*.py"),
    ]
    define = re.compile(r"(?:DEFINE_\w+|Option)\(\s*\"(\w+)\"")
    found = {n for s in sources for n in define.findall(s.read_text())}
    return found | {"flagfile", "help", "verbosity", "logdir"}


@pytest.mark.parametrize("page", PAGES)
def test_flags_files_and_names_in_the_text_exist(page):
    flags = known_flags()
    for code in inline_code(page):
        for flag in re.findall(r"(?<![\w-])--(\w+)", code):
            assert flag in flags, code
        if any(word in code for word in ("NAME", "SPLIT", "DATASET")):
            continue
        for path in re.findall(
            r"(?:imcl_tf|docs|flags|eval|data_prep|tests|examples)/[\w./]*",
            code,
        ):
            assert (ROOT / path).exists(), code
        for dotted in re.findall(r"\bimcl_tf((?:\.\w+)+)", code):
            check_name(dotted.lstrip(".").split("."))


def check_name(parts):
    """A module of the package, or a public name and its attributes."""
    if importlib.util.find_spec(f"imcl_tf.{parts[0]}") and parts[0] not in (
        "methods", "presets",
    ):  # fmt: skip
        return
    value = imcl_tf
    for part in parts:
        value = getattr(value, part)


@pytest.fixture(scope="module")
def hooks():
    """docs/hooks.py."""
    spec = importlib.util.spec_from_file_location(
        "hooks", ROOT / "docs" / "hooks.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flags_page_has_every_option(hooks):
    page = hooks.flags_page()
    for option in settings.known_options().values():
        (line,) = {x for x in page.splitlines() if f"`--{option.name}`" in x}
        assert option.help.replace("|", "\\|") in line
        for choice in option.choices:
            assert f"`{choice}`" in line
    for name in imcl_tf.methods():
        assert f"`{name}`" in page


def test_api_page_has_every_public_name(hooks):
    page = hooks.api_page()
    for name in imcl_tf.__all__:
        assert page.count(f"heading: imcl_tf.{name}\n") == 1
    for path in re.findall(r"^::: (\S+)$", page, re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.slow
def test_site_builds(tmp_path):
    """Strictly: a dead link or an unknown name fails."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir",
         tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "api.html").read_text()
    for name in imcl_tf.__all__:
        assert f"imcl_tf.{name}" in text


def test_tables_agree():
    """The README's results are rows of docs/results.md, and of the figure."""
    full = tables("docs/results.md")[0]  # the one that the figure shows
    (short,) = (t for t in tables("README.md") if "birds" in str(t[0]))
    assert all(row in full for row in short)
    assert f"all {len(full) - 1} rows" in text_of("README.md")
    methods = [row[0] for row in tables("docs/methods.md")[0][1:]]
    assert sorted(methods) == sorted(f"`{n}`" for n in settings.METHOD_OPTIONS)
    (presets,) = (
        t for t in tables("docs/reproduction.md") if t[0][0] == "preset"
    )
    assert {row[0].strip("`").removesuffix(".cfg") for row in presets[1:]} == {
        *imcl_tf.presets.names()
    }


def test_claims_name_plans_and_results():
    (claims,) = (
        t for t in tables("docs/reproduction.md") if t[0][0] == "claim"
    )
    plans = {path.stem for path in (ROOT / "flags").glob("*.cfg")}
    named = {x for row in claims[1:] for x in re.findall(r"`(\w+)`", row[1])}
    assert named == plans & {*named} >= {f"table{n}" for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("name", ["reproduction", "departures"])
def test_what_is_said_of_birds_stands_in_the_tables(name):
    """That eval.tables wrote: means, and differences with their intervals."""
    page = text_of(f"docs/{name}.md").replace("−", "-")
    parts = re.split(r"\(\.\./(eval/results/[\w-]+\.md)\)", page)[1:]
    number = r"-?\d+\.\d\d"
    for path, part in zip(parts[::2], parts[1::2], strict=True):
        whole = text_of(path).replace("+", "")
        found = re.findall(rf"{number} ± {number}", part)
        found += re.findall(rf"{number} \[{number}, {number}\]", part)
        assert found
        for cell in found:
            assert f"| {cell} |" in whole, (path, cell)


# Commands -----------------------------------------------------------------


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """A directory of what is downloaded, which is served meanwhile."""
    path = tmp_path_factory.mktemp("sites")
    with docs_sites.Serving(path) as address:
        docs_sites.write_sites(path, address)
        yield path


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_folder):
    """Where commands run, with what the pages say that a reader has."""
    path = tmp_path_factory.mktemp("docs")
    # With more for validation than for training, auto takes no folds.
    sizes = {"train": 20, "validation": 28, "test": 11}
    made = make_folder(path / "pictures", sizes, names=("0001.jpg",))
    features = np.random.default_rng(0).normal(size=(len(made.encoded), 8))
    np.savez(path / "features.npz", ids=[*made.encoded], features=features)
    shutil.copy(path / "pictures" / "images" / "0001.jpg", path / "new.jpg")
    (path / "flags").symlink_to(ROOT / "flags")
    small = backbone("small_cnn", image_size=32)
    small.save_weights(path / "small_cnn.weights.h5")
    for block in (b for page in PAGES for b in blocks(page, "json")):
        content = json.loads(block.text)
        if "trials" in content:
            content["trials"] = 1
        (path / block.title).write_text(json.dumps(content))
    return path


def is_slow(page, command):
    """Whether a command is left to `make test-all`.

    Those of the paper's data sets, and what other tests run in part.
    """
    return page == "docs/datasets.md" or any(
        part in command
        for part in (
            "--dataset=cub",
            "eval.compare",
            "runs/neighbors",
            "runs/compl",
            "runs/selective",
            "runs/auto",
        )
    )


def run_commands(place, sites, slow):
    """One after the other, as a reader types them."""
    wanted = dict.fromkeys(
        command
        for page in PAGES
        for command in commands(page)
        if is_slow(page, command) == slow
    )
    assert len(wanted) > 5
    for command in wanted:
        run_command(command, place, sites)


@pytest.fixture(scope="module")
def ran(place, sites):
    """`place` after every command, but for slow ones."""
    run_commands(place, sites, slow=False)
    return place


def run_command(command, place, sites):
    plain = command.removeprefix(".venv/bin/")
    program, *arguments = shlex.split(f"{plain} {shortening(command)}")
    if program == "make":
        assert make(*arguments)
    elif program == "curl":
        docs_sites.download(arguments, place, sites)
    elif program == "unzip":
        *_, directory, archive = arguments
        with zipfile.ZipFile(place / archive) as file:
            file.extractall(place / directory)
    elif program == "tar":
        subprocess.run([program, *arguments], cwd=place, check=True)
    elif arguments[:2] == ["-m", "wn"]:
        docs_sites.download_wordnet(place)
    elif program in CONSOLE:
        run_module(CONSOLE[program], arguments, place)
    elif program == "tensorboard":
        run_module("tensorboard.main", arguments, place)
    else:
        assert (program, arguments[0]) == ("python", "-m")
        run_module(arguments[1], arguments[2:], place)


def run_module(module, arguments, place):
    # tests/test_end_to_end.py runs the programs with optimised graphs.
    done = programs.run(
        module, *arguments, cwd=place, timeout=400, optimized=False
    )
    assert done.returncode == 0, f"{module} {arguments}\n{done.stderr[-3000:]}"
    return done.stdout


def test_commands_run(ran):
    assert len((ran / "runs/tuned/trials.csv").read_text().split()) == 2
    assert (ran / "probabilities.csv").exists()


@pytest.mark.slow  # tests/data_prep/ runs the same programs
def test_slow_commands_run(place, sites):
    run_commands(place, sites, slow=True)
    assert (place / "dog.png").exists()


def test_a_run_is_repeated_by_its_flags(ran):
    """docs/reproduction.md: the same result twice."""
    first, again = (
        json.loads((ran / "runs" / name / "results.json").read_text())
        for name in ("mine", "again")
    )
    assert {**first, "settings": 0} == {**again, "settings": 0}
    assert first["settings"] != again["settings"]  # the workdir


def test_a_workdir_holds_what_the_table_says(ran):
    (table,) = (
        t for t in tables("docs/reliability.md") if "workdir" in str(t[0])
    )
    listed = {row[0].strip("`").rstrip("/") for row in table[1:]}
    found = {path.name for path in (ran / "runs" / "mine").iterdir()}
    assert found <= listed
    # What a run that trains leaves beside: tests/test_end_to_end.py, and what
    # --on_nan=skip does: tests/training/test_run.py.
    assert listed - found == {
        "initial", "label_graph.npz", "skipped_minibatches.csv", "tensorboard",
    }  # fmt: skip
    with (ran / "runs/mine/average_precision.csv").open() as file:
        assert next(csv.reader(file)) == [
            "label",
            "AP",
            "positives",
            "negatives",
        ]


@pytest.mark.slow  # it renders all pictures of the demo
def test_make_demo_trains_on_scenes(tmp_path):
    (line,) = [line for line in make("demo") if "imcl_tf.main" in line]
    arguments = shlex.split(line.split("-m imcl_tf.main ")[1])
    # Scenes are many: an epoch is long, and filling a dictionary longer.
    short = [*SHORT.split(), "--epochs=0", "--dictionary_size=100"]
    output = run_module("imcl_tf.main", [*arguments, *short], tmp_path)
    assert re.search(r"scenes/small test mAP: initial logistic \d+", output)


# Python -------------------------------------------------------------------


def test_the_script_is_the_same_everywhere():
    assert SCRIPT in text_of("examples/quickstart.py")
    for page in ("README.md", "docs/python.md"):
        assert [b.text for b in blocks(page, "python")][0] == SCRIPT


def test_the_script_runs(place, tmp_path, monkeypatch, capsys):
    """As it stands. Nothing can be downloaded here: `imcl_tf.backbone` alone
    is replaced, and makes a small network where the script asks for ResNet-101
    with ImageNet's weights."""

    def small_network(name, weights):
        assert (name, weights) == ("resnet101", "imagenet")
        return tiny_cnn()

    for name in ("pictures", "new.jpg"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imcl_tf, "backbone", small_network)
    keras.utils.set_random_seed(0)
    names = {}
    exec(compile(SCRIPT, "quickstart.py", "exec"), names)
    printed = float(capsys.readouterr().out.splitlines()[-1])
    assert 0 < printed <= 1
    probabilities, labels = imcl_tf.predict_images("saved_model", ["new.jpg"])
    assert tuple(labels) == names["data"].label_names
    assert probabilities.shape == (1, len(labels))


def run_shortened(name, code, place):
    """Runs Python code as a program, and returns what it prints."""
    for pattern, short in SHORTENED.items():
        code = re.sub(pattern, short, code)
    (place / f"{name}.py").write_text(code)
    return run_module(name, [], place)


def test_pages_run(place):
    """The Python blocks of each page, one after the other, as a program."""
    for page in PAGES:
        code = [b.text for b in blocks(page, "python") if not b.reason]
        if page == "README.md":  # `SCRIPT`
            code = code[1:]
        if code:
            name = f"page_{page.replace('/', '_').removesuffix('.md')}"
            output = run_shortened(name, "\n".join(code), place)
            if "print(" in "".join(code):
                assert output


def test_examples_run(place, monkeypatch, capsys):
    own_method = text_of("examples/own_method.py")
    outputs = [run_shortened("own_method", own_method, place)]
    monkeypatch.setattr(partial_labels_from_arrays, "IMAGES", 200)
    monkeypatch.setattr(partial_labels_from_arrays, "TESTED", 100)
    partial_labels_from_arrays.main()
    outputs.append(capsys.readouterr().out)
    for output in outputs:
        assert 0 < float(re.search(r"test mAP ([\d.]+)", output)[1]) <= 100


def test_no_example_is_forgotten():
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert examples == {
        "quickstart", "own_method", "partial_labels_from_arrays"
    }  # fmt: skip


def test_the_own_method_computes_what_it_says(monkeypatch):
    monkeypatch.setattr(base, "METHODS", dict(base.METHODS))
    texts = [b.text for b in blocks("docs/methods.md", "python")]
    (code,) = [x for x in texts if "class ExpectedPositive" in x]
    names = {}
    exec(compile(code, "expected_positive.py", "exec"), names)
    features, labels = problem()
    model = build(names["ExpectedPositive"], expected_weight=4.0)
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    z = model.scores(tf.constant(features)).numpy().astype(float)
    p = 1 / (1 + np.exp(-z))
    observed = -(np.log(p) * (labels > 0) + np.log(1 - p) * (labels < 0))
    distance = 4 * ((p.sum(1).mean() - 3) / labels.shape[1]) ** 2
    assert float(terms["expected_positives_loss"]) == pytest.approx(distance)
    assert float(terms["loss"]) == pytest.approx(
        observed.sum(1).mean() + distance, rel=1e-5
    )
    with pytest.raises(ValueError, match="expected_positives must be >= 0"):
        build(names["ExpectedPositive"], expected_positives=-1.0)
