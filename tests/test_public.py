"""Public names: each is documented, and what its example says is true."""

import doctest
import inspect
import re
import shutil

import keras
import pytest
import tensorflow as tf

import imcl_tf
from imcl_tf.methods.base import METHODS

MODULES = ("methods", "presets")
NAMES = [name for name in imcl_tf.__all__ if name not in MODULES]
NAMES += ["presets.load", "presets.names"]
# What the paper, or another one, defines.
OF_PAPERS = {
    "joint_nonnegative_omp", "Similarities", "hide_labels", "impute",
    "cross_entropy", "label_smoothness", "feature_smoothness",
    "average_precision", "AveragePrecision", "IMCL", "MultiLabelModel",
    "LabelGraph", "RateDecay", "RateDrop", "class_balanced_subset", "evaluate",
    "run",
}  # fmt: skip
SOURCE = r"[Ee]qs?\. \(|Algorithm \d|sec\. \d|released|CVPR|table \d"
SHAPE = r"\[[BNMCdknpS\d., ]+[\]*]"
TAKES_TENSORS = OF_PAPERS - {"RateDecay", "RateDrop", "run"} | {
    "Batch", "Batches", "Split", "Dictionary", "PseudoLabels", "check_labels",
    "predict_images", "predict_features", "export", "export_as", "backbone",
    "fixed_features",
}  # fmt: skip


def public(name):
    value = imcl_tf
    for part in name.split("."):
        value = getattr(value, part)
    return value


def documentation(name):
    value = public(name)
    text = inspect.getdoc(value)
    assert text and text != inspect.getdoc(type(value)), name
    return text


def raises(value):
    """Whether a function, or the making of a class, has a check."""
    if inspect.isclass(value):
        value = vars(value).get("__init__")
    try:
        return bool(re.search(r"(?m)^\s+raise ", inspect.getsource(value)))
    except (OSError, TypeError):  # made by dataclass or NamedTuple
        return False


@pytest.mark.parametrize("name", NAMES)
def test_is_documented(name):
    value, text = public(name), documentation(name)
    assert re.match(r"[A-Z].*[.:]", text.splitlines()[0]), text
    assert "Example:" in text and ">>> " in text
    callable_ = value.__init__ if inspect.isclass(value) else value
    arguments = [
        parameter
        for parameter in inspect.signature(callable_).parameters.values()
        if parameter.name not in ("self", "args", "kwargs")
        and not parameter.name.startswith("_")
    ]
    if arguments:
        assert re.search(r"(?m)^(Args|Attributes):$", text), name
        for parameter in arguments:
            pattern = rf"(?m)^\s+(\*\*)?{parameter.name}: "
            assert re.search(pattern, text), f"{name}: {parameter.name}"
    if raises(value):
        assert "Raises:" in text, name
    if name in OF_PAPERS:
        module = inspect.getmodule(value).__doc__
        assert re.search(SOURCE, text) or re.search(SOURCE, module), name
    if name in TAKES_TENSORS:
        assert re.search(SHAPE, text), name


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_folder):
    """A directory with the folder data set `pictures` and new.jpg."""
    path = tmp_path_factory.mktemp("examples")
    # With more for validation than for training, auto takes no folds.
    sizes = {"train": 20, "validation": 28, "test": 11}
    made = make_folder(path / "pictures", sizes)
    image = next(
        made.path / "images" / name
        for name, encoded in made.encoded.items()
        if tf.io.is_jpeg(encoded)
    )
    shutil.copy(image, path / "new.jpg")
    imcl_tf.load_dataset("folder", str(made.path))  # TFDS prints at first
    return path


# That of `auto` is the first command of the README, which tests/test_docs.py
# runs.
@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "auto" else ())
        for name in NAMES
    ],
)
def test_example_runs(name, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["example"])
    registered = dict(METHODS)
    keras.utils.set_random_seed(0)
    keras.config.disable_interactive_logging()  # progress is not printed
    text = documentation(name)
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    skipped = doctest.OPTIONFLAGS_BY_NAME["SKIP"]
    assert not any(skipped in e.options for e in example.examples)
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    output = []
    try:
        assert runner.run(example, out=output.append).failed == 0, output
    finally:
        keras.config.enable_interactive_logging()
        METHODS.clear()
        METHODS.update(registered)


def test_some_forty_names_and_nothing_missing():
    assert len(imcl_tf.__all__) == len(set(imcl_tf.__all__)) >= 38
    assert set(imcl_tf.__all__) <= set(dir(imcl_tf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = imcl_tf.nothing
