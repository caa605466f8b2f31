"""No file that is read can run code or reach out of its directory."""

import ast
from pathlib import Path

import keras
import pytest

from imcl_tf.backbones.make import backbone
from imcl_tf.training.workdir import Workdir

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for x in ("imcl_tf", "data_prep", "eval") for path in
    (ROOT / x).rglob("*.py")
)  # fmt: skip
# What runs code of the file that it reads.
UNSAFE_MODULES = {
    "pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml",
    "torch",
}  # fmt: skip
UNSAFE_CALLS = {
    "eval", "exec", "load_model", "model_from_json", "read_pickle",
    "enable_unsafe_deserialization",
}  # fmt: skip


def unsafe(node) -> bool:
    """Whether a part of a source imports or calls such a thing."""
    if isinstance(node, ast.Import):
        modules = {alias.name.split(".")[0] for alias in node.names}
        return bool(modules & UNSAFE_MODULES)
    if isinstance(node, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        module = (node.module or "").split(".")[0]
        return module in UNSAFE_MODULES or bool(names & UNSAFE_CALLS)
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [ast.unparse(keyword) for keyword in node.keywords]
        # Whole models, but no code that they hold.
        if name == "load_model" and "safe_mode=True" in given:
            return False
        return name in UNSAFE_CALLS
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
        safe = {"allow_pickle": False, "safe_mode": True}
        return node.value.value != safe.get(node.arg, node.value.value)
    return False


def test_no_source_reads_what_runs_code():
    assert len(SOURCES) > 80
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not unsafe(node), (path, node.lineno)


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from joblib import load", "keras.saving.load_model(x)",
     "np.load(x, allow_pickle=True)", "f(safe_mode=False)", "exec(x)",
     "from keras.saving import load_model"],
)  # fmt: skip
def test_such_a_source_is_found(source):
    assert any(map(unsafe, ast.walk(ast.parse(source))))


@pytest.fixture(scope="module")
def with_lambda(tmp_path_factory):
    """A .keras file whose layer writes a file when it is called."""
    place = tmp_path_factory.mktemp("lambda")
    mark = str(place / "ran")

    layer = keras.layers.Lambda(lambda x: (open(mark, "w").close(), x)[1])
    model = keras.Sequential([keras.Input([3]), layer])
    model.add(keras.layers.Dense(2))
    model.save(place / "model.keras")
    Path(mark).unlink()
    return place / "model.keras"


def test_a_lambda_layer_in_the_weights_of_a_backbone(with_lambda):
    with pytest.raises(ValueError, match="cannot make small_cnn") as caught:
        backbone("small_cnn", str(with_lambda), 32)
    assert len(str(caught.value).splitlines()) == 1
    assert not (with_lambda.parent / "ran").exists()


def test_a_lambda_layer_in_a_workdir(with_lambda, tmp_path, monkeypatch):
    """Weights alone are read of a model that a run left."""
    monkeypatch.setattr(Workdir, "_check_seen", lambda self, data: None)
    workdir = Workdir(tmp_path)
    workdir.logistic.parent.mkdir()
    workdir.logistic.write_bytes(with_lambda.read_bytes())
    (tmp_path / "labels.txt").write_text("a\n")
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4)])

    class Data:
        label_names = ("a",)

    with pytest.raises(ValueError, match="has another backbone"):
        workdir.load_logistic(model, Data())
    assert not (with_lambda.parent / "ran").exists()


def test_keras_itself_refuses_it(with_lambda):
    """As docs/reliability.md says of whole models."""
    with pytest.raises(ValueError, match="safe_mode|unsafe"):
        keras.saving.load_model(with_lambda)
    assert not (with_lambda.parent / "ran").exists()
