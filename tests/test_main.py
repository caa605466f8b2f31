"""Flags: presets, precedence, names of the contract, and what is refused."""

import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
from absl import flags, logging

from imcl_tf import main, presets, program, settings
from imcl_tf.data.datasets import load_dataset
from imcl_tf.files import parse_or_fail
from imcl_tf.methods import label_graph
from imcl_tf.training import run, stages

pytestmark = pytest.mark.usefixtures("two_files")


ROOT = Path(__file__).resolve().parents[1]
# The paper's settings (sec. 4.5 to 4.7): lambda_y, lambda_f, k; label graph;
# images per step, epochs, rate of learning.
PAPER = {
    "open_images": (1, 0.5, 5, "cooccurrence", 32, 1, 1e-3),
    "cub": (2, 0.5, 5, "identity", 32, 3, 1e-2),
    "coco": (0.5, 0.5, 3, "cooccurrence", 1, 4, 1e-2),
}


@pytest.fixture
def parse():
    main.define_flags()
    saved = flags.FLAGS.flag_values_dict()

    def parse(*arguments):
        parse_or_fail(main.parse_flags)(["main", *arguments])
        return flags.FLAGS.flag_values_dict()

    verbosity = logging.get_verbosity()
    yield parse
    logging.set_verbosity(verbosity)
    flags.FLAGS.unparse_flags()
    for name, value in saved.items():
        flags.FLAGS[name].value = value
        flags.FLAGS[name].present = 0


@pytest.fixture
def fail(parse, tmp_path, capsys):
    """Runs main; returns the one line that it ended with, nothing written."""
    workdir = tmp_path / "never"

    def fail(*arguments):
        with pytest.raises(SystemExit) as ended:
            parse(f"--workdir={workdir}", *map(str, arguments))
            main.main(["main"])
        assert ended.value.code == 1
        out, err = capsys.readouterr()
        lines = [x for x in err.splitlines() if "WARNING" not in x]
        assert len(lines) == 1 and "test mAP" not in out
        assert not workdir.exists()
        return lines[0].removeprefix("imcl_tf: error: ")

    return fail


def preset(name):
    lines = (ROOT / "flags" / f"{name}.cfg").read_text().splitlines()
    return dict(
        line.removeprefix("--").split("=", 1)
        for line in lines
        if line.startswith("--") and "=" in line
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


def test_a_flag_file_with_a_byte_order_mark(parse, tmp_path):
    (tmp_path / "my.cfg").write_text("--epochs=9\n", "utf-8-sig")
    values = parse(
        "--dataset=folder", f"--flagfile={tmp_path / 'my.cfg'}", "--workdir=x"
    )
    assert values["epochs"] == 9


ALL_SETS = "of scenes, folder, coco, cub, open_images or tfds:NAME"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=x"], "--dataset must be given"),
        (["--dataset=scenes"], "--workdir must be given"),
        *(
            ([f"--dataset={name}", "--workdir=x"], f"{ALL_SETS}, got '{name}'")
            for name in ("birds", "tfds", "tfds/voc", "coco:2017", "scenes/2")
        ),
        (["--dataset=scenes", "--workdir=x", "extra"], "'extra'"),
        (["--dataset=scenes", "--workdir=x", "--batch_size=0"], "batch_size"),
        (["--dataset=scenes", "--workdir=x", "--lambda_y=-1"], "lambda_y"),
        (["--dataset=scenes", "--workdir=x", "--method=other"], "method"),
        (["--dataset=scenes", "--workdir=x", "--no_such"], "no_such"),
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
        if path.stem not in presets.names():
            continue  # a plan, see tests/eval/test_plan.py
        name = path.stem if path.stem in settings.DATASETS else "scenes"
        parse(f"--dataset={name}", f"--flagfile={path}", "--workdir=x")
    assert {"coco", "cub", "open_images", "scenes", "folder"} <= {
        path.stem for path in (ROOT / "flags").glob("*.cfg")
    }


@pytest.mark.parametrize("name", PAPER)
def test_presets_hold_the_settings_of_the_paper(parse, name):
    """Nothing but the name of the data set need be given."""
    values = parse(f"--dataset={name}")
    names = (
        "lambda_y", "lambda_f", "num_neighbors", "label_graph", "batch_size",
        "epochs", "learning_rate",
    )  # fmt: skip
    assert tuple(values[x] for x in names) == PAPER[name]
    assert values["workdir"] == f"runs/{name}"
    assert values["method"] == settings.DEFAULT_METHOD
    assert values["regime"] == "end_to_end"
    if values["label_graph"] == "cooccurrence":
        assert values["graph_neighbors"] == 50
    # COCO alone: "1e-3 after 2 epochs".
    assert values["rate_drop_epoch"] == (2 if name == "coco" else 0)
    # CUB alone: a of the class one-hot.
    assert values["class_weight"] == (10 if name == "cub" else 0)
    assert (values["backbone"], values["backbone_weights"]) == {
        "open_images": ("resnet_v1_101", "oidv2-resnet_v1_101.ckpt"),
        "cub": ("resnet101", "imagenet"),
        "coco": ("vgg16", "imagenet"),
    }[name]


@pytest.mark.parametrize("name", PAPER)
def test_presets_hold_what_the_paper_left_to_its_code(parse, name):
    values = parse(f"--dataset={name}")
    assert values["epsilon"] == values["initial_epsilon"] == 1
    if name != "cub":  # whose graph stays the identity
        assert values["graph_learning_rate"] == 0.5
    # All of the dictionary in 250 steps, COCO 3,000; but of Open Images, where
    # that is 40 images in each, a step would take half as long again.
    turn = -(-values["dictionary_size"] // values["dictionary_refresh"])
    assert turn == {"open_images": 1000, "coco": 2500, "cub": 250}[name]
    assert values["backbone_learning_rate"] == (
        1e-8 if name == "open_images" else 0
    )
    # Every method starts from the logistic model, trained alike.
    for setting in ("epochs", "learning_rate", "epsilon"):
        assert values[f"initial_{setting}"] == values[setting]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("coco/2017", "coco"), ("tfds:voc/2007", "folder"), ("cub/a", "cub")],
)
def test_variants_take_the_preset_of_their_data_set(parse, dataset, name):
    values = parse(f"--dataset={dataset}", "--workdir=x")
    for flag, text in preset(name).items():
        if flag != "workdir":
            assert str(values[flag]) == text or values[flag] == float(text)


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
         "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)],
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
    for template in (ROOT / "imcl_tf/report/templates").iterdir():
        assert f"imcl_tf/report/templates/{template.name}" in names


@pytest.mark.parametrize(
    ("dataset", "program", "cost"),
    [
        ("coco", "data_prep.coco", r"19 GB .* 20 GB of records, half an hour"),
        ("coco/2017", "data_prep.coco", r"flags of 2017; 19 GB .*, half an h"),
        ("cub", "data_prep.cub", r"2.1 GB .* 1.2 GB of records, minutes"),
        ("open_images", "data_prep.open_images", r"300 GB .*, days"),
    ],
)
def test_without_records_one_line_says_how_and_at_what_cost(
    fail, tmp_path, dataset, program, cost
):
    line = fail(f"--dataset={dataset}", f"--data_dir={tmp_path}")
    command = f"python -m {program} --raw_dir=RAW --data_dir={tmp_path} ("
    assert f"no records of imcl_{dataset}; make them in" in line
    assert command in line
    assert re.search(cost, line)
    assert (ROOT / program.replace(".", "/")).with_suffix(".py").is_file()


def test_one_of_several_variants_must_be_named(fail, prepared, tmp_path):
    for name in ("2014", "2017"):
        place = tmp_path / "imcl_coco" / name / "1.0.0"
        shutil.copytree(prepared.data_path, place)
    line = fail("--dataset=coco", f"--data_dir={tmp_path}")
    assert line.endswith("add one to the name: /2014, /2017")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--backbone=vgg16", "--backbone is for pictures; with --features"),
        ("--image_size=32", "--image_size is for pictures"),
        ("--boost", "--boost is for pictures"),
        ("--augment", "--augment is for pictures"),
        ("--regime=end_to_end", "trains a network; with --features there is"),
        ("--noaugment", None),
        ("--image_size=0", None),
        ("--regime=fixed_features", None),
    ],
)
def test_flags_that_features_give_no_meaning(fail, parse, flag, message):
    arguments = ["--dataset=folder", "--features=f.npz", flag]
    if message:
        assert message in fail(*arguments)
        return
    parse("--workdir=x", *arguments)
    assert main.current_settings()["regime"] == "fixed_features"


def test_features_are_searched_for_no_flag_of_pictures(parse, tmp_path):
    parse(
        "--workdir=x", "--dataset=folder", "--features=f.npz", "--method=imcl"
    )
    trials = [{"image_size": "32"}]
    with pytest.raises(ValueError, match="with features, image_size has no"):
        main.tune(None, main.current_settings(), tmp_path, trials)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "dataset=folder needs data_dir"),
        (["--data_dir=/nowhere"], "/nowhere: no such directory"),
        (["--data_dir={folder}", "--label_table=/nowhere/x.csv"],
         "/nowhere/x.csv: no such file"),
        (["--data_dir={folder}", "--class_weight=1"], "images have no classes"),
        (["--data_dir={folder}", "--label_graph=wiki"], "got 'wiki'"),
        (["--data_dir={folder}", "--label_graph={folder}/splits.csv"],
         "splits.csv: not a label graph"),
        (["--data_dir={folder}", "--init_from=/nowhere"], "/nowhere"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_set(fail, folder, arguments, message):
    arguments = [x.format(folder=folder.path) for x in arguments]
    assert message in fail("--dataset=folder", "--method=imcl", *arguments)


def test_what_auto_sets_itself_is_named(parse, caplog):
    parse(
        "--dataset=folder", "--workdir=x", "--lambda_y=3", "--epochs=6",
        "--neighbors=given", "--observed_fraction=0.5", "--clip_norm=1",
        "--optimizer=rmsprop",
    )  # fmt: skip
    main._warn_of_what_has_no_effect()
    assert (
        "so that --epochs=6 --lambda_y=3.0 --neighbors=given "
        "--optimizer=rmsprop has no effect"
    ) in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method=logistic", "--ema", "--epochs=9", "--penalty=0.1"],
         "logistic regression is solved, not trained, where its features fit "
         "in memory, so that --ema=True --epochs=9 has no effect"),
        (["--method=imcl", "--neighbor_share=0.9", "--neighbor_images=9"],
         "neighbors: none, not given, so that --neighbor_share=0.9 has no"),
        (["--method=imcl", "--neighbors=chosen", "--neighbor_by=logits"],
         "neighbors: chosen, not given, so that --neighbor_by=logits has no"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_named(parse, caplog, flags, message):
    parse("--dataset=folder", "--workdir=x", *flags)
    main._warn_of_what_has_no_effect()
    assert message in caplog.text


@pytest.mark.parametrize(
    "flags",
    [
        ["--method=imcl", "--lambda_y=3", "--ema"],
        ["--lambda_y=1"],
        ["--method=logistic", "--epochs=9", "--initial_head=trained"],
        ["--regime=end_to_end", "--optimizer=rmsprop"],
        ["--method=imcl", "--neighbors=given", "--neighbor_share=0.9"],
    ],
)
def test_what_has_its_effect_is_not_named(parse, caplog, flags):
    parse("--dataset=folder", "--workdir=x", *flags)
    main._warn_of_what_has_no_effect()
    assert not caplog.text


def test_auto_is_not_searched(parse, tmp_path):
    parse("--dataset=folder", "--workdir=x")
    with pytest.raises(ValueError, match="method=auto searches by itself"):
        main.tune(None, main.current_settings(), tmp_path, [{"lambda_y": "1"}])


def test_images_that_were_left_out_are_told(small, caplog):
    gone = small.splits["train"][0]
    (small.path / "images" / gone).unlink()
    with pytest.raises(ValueError, match=f"{gone}: no such image file"):
        load_dataset("folder", str(small.path))
    for _ in range(2):  # the second time records exist
        caplog.clear()
        with caplog.at_level("WARNING", "absl"):
            source = load_dataset("folder", str(small.path), "skip")
        assert source.splits["train"].labels.shape[0] == 9
        assert f"1 images were left out, listed in {source.directory}" in (
            caplog.text
        )


@pytest.mark.parametrize("change", ["renamed", "reversed", "fewer"])
def test_label_graph_of_other_labels_is_refused(fail, folder, tmp_path, change):
    names = list(folder.label_names)
    if change == "renamed":
        names[3] = "a bicycle"
    elif change == "reversed":
        names.reverse()
    else:
        names.pop()
    graph = label_graph.LabelGraph.identity(len(names))
    path = tmp_path / "graph.npz"
    label_graph.save(path, graph, names)
    line = fail(
        "--dataset=folder", f"--data_dir={folder.path}", "--method=imcl",
        f"--label_graph={path}",
    )  # fmt: skip
    assert line.startswith(f"{path}: a graph of {len(names)} labels, the data")


def test_initial_stage_has_its_own_options(parse):
    """What has no initial_ twin is shared, or off: the rate's drop, say."""
    parse(
        "--dataset=folder", "--workdir=x", "--jit", "--momentum=0.5",
        "--rate_drop_epoch=2", "--backbone_learning_rate=0.1", "--epochs=3",
        "--initial_epochs=7", "--weight_decay=0.2", "--initial_weight_decay=4",
    )  # fmt: skip
    schedule = stages.initial_schedule(main.current_settings())
    assert vars(schedule) | {
        "jit": True, "momentum": 0.5, "rate_drop_epoch": 0, "epochs": 7,
        "backbone_learning_rate": 0.0, "weight_decay": 4.0, "keep": "best",
    } == vars(schedule)  # fmt: skip


@pytest.mark.parametrize("name", presets.names())
def test_presets_reach_python_typed(parse, name):
    """What flags/NAME.cfg sets, as absl's own parser reads it."""
    loaded = presets.load(name)
    data = name if name in settings.DATASETS else "scenes"
    file = ROOT / "flags" / f"{name}.cfg"
    parse(f"--dataset={data}", f"--flagfile={file}", "--workdir=x")
    given = {
        line.lstrip("-").split("=")[0]
        for line in file.read_text().splitlines()
        if line.startswith("--")
    }
    assert {n.removeprefix("no") for n in given} <= {*loaded, "method"}
    assert "method" not in loaded  # `run` takes it by itself
    for option, value in loaded.items():
        if option != "workdir":
            assert value == flags.FLAGS[option].value
            assert type(value) is type(settings.known_options()[option].default)


def test_unknown_presets_and_options_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="^the preset must .* got 'birds'"):
        presets.load("birds")
    with pytest.raises(ValueError, match="dataset must be one of .* got None"):
        load_dataset(None)
    monkeypatch.setattr(presets, "_directory", lambda: tmp_path)
    (tmp_path / "mine.cfg").write_text("# Mine.\n--no_such=1\n")
    with pytest.raises(ValueError, match="--no_such=1.*no such option"):
        presets.load("mine")


HELP_GROUPS = ("data", "model", "method", "training", "IMCL", "machine")


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_is_grouped_and_needs_no_tensorflow(flag):
    code = (
        "import sys, runpy; sys.argv = ['main', sys.argv[1]]\n"
        "try: runpy.run_module('imcl_tf.main', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    # As `python -m imcl_tf.main` starts: its name is on the command line.
    done = subprocess.run(
        [sys.executable, "-c", code, flag, "-m", "imcl_tf.main"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    headings = re.findall(r"(?m)^(\w+):$", done.stdout)
    assert tuple(headings) == HELP_GROUPS
    shown = re.findall(r"(?m)^  --(?:\[no\])?(\w+)", done.stdout)
    assert sorted(shown) == sorted(settings.known_options())


def test_every_help_is_a_sentence():
    for option in settings.known_options().values():
        assert option.help[0].isupper() and option.help.endswith("."), option
        assert len(option.help.split()) >= 2, option


def test_a_run_option_is_declared_in_one_place(parse, monkeypatch):
    """One more `Option` is a flag, a setting and an argument of `run`."""
    parse("--dataset=folder", "--workdir=x")
    names = {option.name for option in settings.RUN}
    assert names <= set(main.current_settings())
    arguments = {option.name for option in run.OPTIONS}
    assert arguments == names - set(settings.OBJECTS)
    text = program.to_flags(main.current_settings())
    for name in names:
        assert re.search(rf"(?m)^--(no)?{name}(=|$)", text), name


@pytest.mark.parametrize(
    ("precision", "policy"),
    [("none", "float32"), ("bfloat16", "mixed_bfloat16")],
)
def test_a_run_has_the_precision_that_it_records(
    precision, policy, monkeypatch, tmp_path
):
    """Also that of programs which do many runs, as eval.run."""
    import keras

    seen = []
    monkeypatch.setattr(
        run, "run", lambda *_, **__: seen.append(keras.config.dtype_policy())
    )
    before = keras.config.dtype_policy()
    chosen = {o.name: o.default for o in settings.known_options().values()}
    chosen |= {"mixed_precision": precision, "method": "logistic"}
    split = types.SimpleNamespace(num_features=4)
    try:
        main.run(types.SimpleNamespace(train=split), chosen, tmp_path)
    finally:
        keras.config.set_dtype_policy(before)
    assert [found.name for found in seen] == [policy]
