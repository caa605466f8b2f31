"""Every command of the README runs, on small data."""

import functools
import http.server
import json
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf import multilabel, train
from imcl_tf.backbones import make_backbone
from imcl_tf.dataset import open_source
from tests import (
    programs,
    test_coco,
    test_cub,
    test_open_images,
    test_wikipedia,
    test_wordnet,
)
from tests.baselines.common import batch_of, build, problem

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SMALL = "--backbone=small_cnn --backbone_weights=none"
SHORT = "--initial_epochs=1 --epochs=1 --image_size=32"
# What is added to a command to make it short, by its beginning.
SHORTER = {
    "python -m imcl_tf.main --dataset=folder": SHORT,
    "python -m imcl_tf.main": f"{SHORT} {SMALL} --evaluate_every=0",
    "python -m imcl_tf.predict": "",
    "python -m data_prep.features": "--backbone=small_cnn --image_size=32 "
    "--backbone_weights=small_cnn.weights.h5",
    "python -m data_prep.label_graph --graph": "--around='Goose, wild'",
    "python -m data_prep": "",
    "python -m wn": "",
    "python -m eval.compare": f"{SHORT} --seeds=0 --regimes=fixed_features "
    "--rows=Hill",
    "tensorboard": "--inspect",
    "make demo": "",
    "make test": "",
    "curl -L": "",
    "unzip -q": "",
    "tar -xzf": "",
}


def commands():
    """The commands of the README's bash blocks, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    text = "".join(blocks).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line]


def block(language, text=""):
    """The one code block of a language that has `text` in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = (block for block in blocks if text in block)
    return found


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
    # Of 4,000 pictures an epoch is long, and a dictionary of them longer.
    short = f"{SHORT} --epochs=0 --dictionary_size=100"
    output = run(f"python -m imcl_tf.main {arguments} {short}", tmp_path)
    assert re.search(r"scenes test mAP: initial logistic \d+", output)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """What the README downloads, in small: a directory of those files."""
    path = tmp_path_factory.mktemp("sites")
    coco = path / "coco"
    test_coco.write_coco(coco, sizes={"train": 20, "val": 16})
    for name, part in (
        ("annotations_trainval2014", "annotations"),
        ("train2014", "train2014"),
        ("val2014", "val2014"),
    ):
        shutil.make_archive(path / name, "zip", coco, part)
    cub = path / "cub"
    test_cub.write_raw(cub)
    shutil.make_archive(path / "xlsa17", "zip", cub, "xlsa17")
    with tarfile.open(path / "CUB_200_2011.tgz", "w:gz") as archive:
        for name in ("CUB_200_2011", "attributes.txt"):
            archive.add(cub / name, name)
    with tarfile.open(path / "oidv2-resnet_v1_101.ckpt.tar.gz", "w:gz"):
        pass  # `SMALL` takes its place
    test_wikipedia.write_dump(
        path / "enwiki-latest-pages-articles.xml.bz2",
        ("Goose, wild", "A wild goose is a bird."),
    )
    with serving(path) as address:
        write_open_images(path, address)
        yield path


class serving:
    """A context in which `directory` is served over HTTP."""

    def __init__(self, directory):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=directory)
        self._server = http.server.ThreadingHTTPServer(("", 0), handler)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever).start()
        return f"http://localhost:{self._server.server_port}"

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def write_open_images(path, address):
    """The three archives of tables, and the images they point to."""
    raw = path / "2017_11"
    raw.mkdir()
    test_open_images.write_raw(raw)
    for split in test_open_images.SPLITS:
        ids = sorted(p.stem for p in (raw / "images" / split).rglob("*.jpg"))
        (path / split).mkdir()
        for image in (raw / "images" / split).rglob("*.jpg"):
            image.rename(path / split / image.name)
        header = (
            "ImageID,Subset,OriginalURL,OriginalLandingURL,License,"
            "AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
            "Thumbnail300KURL\n"
        )
        rows = (f"{i},{split},,,,,,,,,{address}/{split}/{i}.jpg\n" for i in ids)
        (raw / split / "images.csv").write_text(header + "".join(rows))
    shutil.rmtree(raw / "images")
    for archive, pattern in (
        ("images", "*/images.csv"),
        ("annotations_human", "*/annotations-human.csv"),
        ("classes", "class*"),
    ):
        with tarfile.open(path / f"{archive}_2017_11.tar.gz", "w:gz") as file:
            for table in raw.glob(pattern):
                file.add(table, table.relative_to(path))


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_folder, sites):
    """Where the commands run, with `pictures` and weights as the README has."""
    path = tmp_path_factory.mktemp("readme")
    make_folder(path / "pictures", names=("0001.jpg",))
    small = make_backbone("small_cnn", image_size=32).model
    small.save_weights(path / "small_cnn.weights.h5")
    search = json.loads(block("json")) | {"trials": 2}
    (path / "search.json").write_text(json.dumps(search))
    return path


def test_commands_run(place, sites):
    """One after the other, as a reader would type them."""
    for command in commands():
        plain = command.removeprefix(".venv/bin/")
        known = next(k for k in SHORTER if plain.startswith(k))
        line = f"{plain} {SHORTER[known]}"
        program, *arguments = shlex.split(line)
        if program == "make":
            continue
        if program == "curl":
            download(arguments, place, sites)
        elif program == "unzip":
            *_, directory, archive = arguments
            with zipfile.ZipFile(place / archive) as file:
                file.extractall(place / directory)
        elif arguments[:2] == ["-m", "wn"]:
            lexicon = test_wordnet.lexicon_xml().replace('"tiny"', '"oewn"')
            lexicon = lexicon.replace('version="1"', 'version="2024"')
            test_wordnet.add(place / "wordnet", lexicon)
        elif program == "tar":
            subprocess.run([program, *arguments], cwd=place, check=True)
        else:
            run(line, place)
    assert len((place / "runs/tuned/trials.csv").read_text().split()) == 3


def test_method_of_your_own(prepared, tmp_path, monkeypatch):
    """The README's example trains, and its loss is what it says."""
    code = block("python", "@method")
    assert len(code.splitlines()) < 30
    methods = dict(train.METHODS)
    for module in (multilabel, train):
        monkeypatch.setattr(module, "METHODS", methods)
    names = {}
    exec(compile(code, "expected_positive.py", "exec"), names)
    results = train.run(
        open_source(prepared), tmp_path, method="expected_positive",
        schedule=train.Schedule(1, 0.1), regime="fixed_features", image_size=32,
        initial_schedule=train.Schedule(0, 0.1),
        model_options={"expected_positives": 2.0},
    )  # fmt: skip
    assert results["method"] == "expected_positive" and results["mAP"] > 0

    features, labels = problem()
    model = build(names["ExpectedPositive"], expected_weight=4.0)
    loss = model.loss_terms(tf.constant(features), batch_of(features, labels))
    z = model.scores(tf.constant(features)).numpy().astype(float)
    p = 1 / (1 + np.exp(-z))
    observed = -(np.log(p) * (labels > 0) + np.log(1 - p) * (labels < 0))
    expected = observed.sum(1).mean()
    expected += 4 * ((p.sum(1).mean() - 3) / labels.shape[1]) ** 2
    assert float(loss["loss"]) == pytest.approx(expected, rel=1e-5)


def download(arguments, place, sites):
    """What curl would do, from `sites`."""
    directory = place
    if "--output-dir" in arguments:
        name = arguments[arguments.index("--output-dir") + 1]
        directory = place / name
        directory.mkdir(exist_ok="--create-dirs" in arguments)
    shutil.copy(sites / arguments[-1].rpartition("/")[2], directory)


def run(line, place):
    program, *arguments = shlex.split(line)
    if program == "tensorboard":
        program, arguments = "python", ["-m", "tensorboard.main", *arguments]
    assert program == "python"
    flag, module, *arguments = arguments
    assert flag == "-m"
    done = programs.run(module, *arguments, cwd=place, timeout=400)
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return done.stdout
