"""The Python door: the library without the program."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from absl import flags

import imcl_tf
from imcl_tf import main
from imcl_tf.data import scenes_set
from imcl_tf.methods.base import METHODS, MultiLabelModel
from imcl_tf.settings import DEFAULT_METHOD, METHOD_OPTIONS
from tests.methods.common import tiny_cnn

ROOT = Path(__file__).resolve().parents[1]
N, C, D = 24, 5, 4


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N, D)).astype(np.float32)
    return features, rng.choice([-1, 0, 1], size=(N, C)).astype(np.int8)


def numbered(features, labels, batch_size=7):
    index = np.arange(len(labels), dtype=np.int32)
    inputs = {"inputs": features, "image_index": index}
    data = tf.data.Dataset.from_tensor_slices((inputs, labels))
    return data.batch(batch_size)


def made(cls=None, **options):
    keras.utils.set_random_seed(0)
    cls = cls or imcl_tf.IMCL
    if cls is imcl_tf.IMCL:
        options |= {"num_neighbors": 2}  # traced in half the time of five
    model = cls(None, C, **options)
    model.compile(keras.optimizers.RMSprop(0.05))
    return model


@pytest.fixture
def small_scenes(monkeypatch):
    sizes = {"train": 96, "validation": 40, "test": 60}
    monkeypatch.setattr(scenes_set, "_SIZES", sizes)


@pytest.mark.slow
def test_script_and_command_line_give_the_same(
    small_scenes, tmp_path, monkeypatch, capsys
):
    """The README's script on scenes, and the program with its settings."""
    keras.utils.set_random_seed(0)
    data = imcl_tf.load_dataset("scenes", str(tmp_path / "records"))
    backbone = imcl_tf.backbone("small_cnn", image_size=32)
    model = imcl_tf.IMCL(backbone, data.num_labels, num_neighbors=2)
    model.compile("rmsprop")
    history = model.fit(
        data.train.batches(32),
        validation_data=data.validation,
        epochs=2,
        verbose=0,
    ).history
    mean = imcl_tf.evaluate(model, data.test).mean()

    main.define_flags()
    saved = flags.FLAGS.flag_values_dict()
    try:
        main.parse_flags(
            [
                "main", "--dataset=scenes", f"--data_dir={tmp_path}/records",
                f"--workdir={tmp_path}/run", "--image_size=32", "--epochs=2",
                "--initial_epochs=0", "--observed_fraction=1",
                "--num_neighbors=2",
                # Keras's "rmsprop"; the constructor's defaults; a plain fit.
                "--learning_rate=0.001", "--graph_learning_rate=0",
                "--momentum=0", "--epsilon=1e-7", "--lambda_y=1",
                "--lambda_f=0.5", "--loss_scale=initial",
                "--reconstruction=tanh", "--positive_ratio=2",
                "--rate_decay=1", "--keep=latest",
            ]
        )  # fmt: skip
        chosen = main.current_settings()
    finally:
        flags.FLAGS.unparse_flags()
        for name, value in saved.items():
            flags.FLAGS[name].value = value
            flags.FLAGS[name].present = 0
    results = main.run(data, chosen, tmp_path / "run")
    assert results["mAP"] == pytest.approx(100 * mean, abs=1e-3)
    assert results["validation_mAP"] == pytest.approx(
        history["val_mAP"][-1], abs=1e-3
    )
    assert history["val_mAP"][0] != history["val_mAP"][-1]
    assert model.dictionary is not None and model.dictionary.filled
    assert len(model.dictionary) == 96


def test_every_method_is_reachable_and_known_to_keras():
    assert set(imcl_tf.methods()) == set(METHODS) >= set(METHOD_OPTIONS)
    for name in imcl_tf.methods():
        cls = imcl_tf.method(name)
        assert issubclass(cls, imcl_tf.MultiLabelModel)
        registered = keras.saving.get_registered_name(cls)
        assert keras.saving.get_registered_object(registered) is cls
        if name in METHOD_OPTIONS:
            assert METHOD_OPTIONS[name] == cls.OPTIONS
    with pytest.raises(ValueError, match="got 'imlc'"):
        imcl_tf.method("imlc")


def test_import_registers_defines_no_flags_and_hides_no_errors(tmp_path):
    """In a process of its own: a saved model opens after `import imcl_tf`."""
    model = made(imcl_tf.method("curriculum"))
    model.build((None, D))
    model.save(tmp_path / "model.keras")
    code = (
        "import os; before = dict(os.environ)\n"
        "from absl import flags\n"
        "for name in ('batch_size', 'model', 'top', 'workdir'):\n"
        "    flags.DEFINE_string(name, 'mine', '')\n"
        "import imcl_tf, imcl_tf.main, imcl_tf.predict, keras\n"
        "ours = {n for n in os.environ if os.environ[n] != before.get(n)}\n"
        "ours = {n for n in ours if n.startswith('TF_')}\n"
        "assert not ours & {'TF_CPP_MIN_LOG_LEVEL'}, ours\n"
        "own = [f.name for m, fs in flags.FLAGS.flags_by_module_dict().items()"
        " for f in fs if 'imcl_tf' in m]\n"
        "assert not own, own\n"
        f"keras.saving.load_model({str(tmp_path / 'model.keras')!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def fitted():
    """IMCL after two epochs of a plain fit on `arrays`."""
    model = made()
    model.fit(numbered(*arrays()), epochs=2, verbose=0)
    return model


def test_plain_fit_makes_dictionary_and_graph_from_the_data(fitted):
    (features, labels), model = arrays(), fitted
    np.testing.assert_array_equal(model.dictionary.image_index, np.arange(N))
    graph = imcl_tf.LabelGraph.from_cooccurrence(labels).to_scipy()
    assert model.label_graph.to_scipy().nnz == graph.nnz
    np.testing.assert_array_equal(
        model.label_graph.to_scipy().toarray() != 0, graph.toarray() != 0
    )
    # Renewed under the model as it was, features are those of the data.
    np.testing.assert_array_equal(
        model.dictionary.features, features.astype(np.float16)
    )


def test_shuffled_numbers_find_their_labels():
    features, labels = arrays()
    order = np.random.default_rng(1).permutation(N).astype(np.int32)
    inputs = {"inputs": features[order], "image_index": order}
    data = tf.data.Dataset.from_tensor_slices((inputs, labels[order])).batch(7)
    model = made(dictionary_size=6)
    model.fit(data, verbose=0)
    chosen = model.dictionary.image_index.numpy()
    assert len(chosen) == 6
    np.testing.assert_array_equal(
        model.dictionary.labels(tf.range(6)), labels[chosen]
    )
    np.testing.assert_array_equal(model.dictionary.inputs, features[chosen])


def test_without_numbers_the_minibatch_alone_and_a_line(caplog):
    with caplog.at_level("WARNING", "absl"):
        model = made()
        model.fit(*arrays(), batch_size=8, verbose=0)
    assert model.dictionary is None
    assert "without a dictionary" in caplog.text


def test_pseudo_labels_and_epochs_by_plain_fit():
    features, labels = arrays()
    model = made(imcl_tf.method("curriculum"), curriculum_threshold=0.01)
    model.fit(numbered(features, labels), epochs=3, verbose=0)
    assert int(model.epoch) == 2
    marks = model.pseudo_labels.rows(tf.range(N)).numpy()
    assert (marks[labels == 0] != 0).mean() > 0.9
    assert not marks[labels != 0].any()


class Doubled(imcl_tf.IMCL):
    """A method of one's own."""

    def loss_terms(self, *arguments):
        terms = super().loss_terms(*arguments)
        return terms | {"loss": 2 * terms["loss"]}


def test_a_subclass_gets_graph_dictionary_and_pictures(tmp_path):
    """Also in a run: its pictures are in TensorBoard's directory."""
    features, labels = arrays()
    images = np.repeat(features[:, None, None, :3], 8, 1).repeat(8, 2)
    images = (images * 40 + 120).clip(0, 255).astype(np.uint8)
    cnn = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model = Doubled(cnn, C, num_neighbors=2)
    model.compile("rmsprop")
    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    model.fit(numbered(images, labels), verbose=0, callbacks=[board])
    assert len(model.dictionary) == N
    assert model.label_graph.num_labels == C
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(tmp_path / "similarities"))
    events.Reload()
    assert {"label_graph", "similarities"} <= set(events.Tags()["tensors"])


@pytest.mark.parametrize("name", sorted(METHOD_OPTIONS))
def test_each_method_logs_its_own_terms(name):
    model = made(imcl_tf.method(name))
    logs = model.fit(numbered(*arrays()), verbose=0).history
    assert set(logs) == set(model.TERMS) and "loss" in logs
    smooth = {"label_smoothness", "feature_smoothness"} & set(logs)
    assert bool(smooth) == (name == DEFAULT_METHOD)


def test_validation_logs_map_in_percent():
    features, labels = arrays()
    model = made(MultiLabelModel)
    logs = model.fit(
        features, labels, 8, 2, verbose=0, validation_data=(features, labels)
    ).history
    mean = imcl_tf.average_precision(labels, model(features)).mean()
    assert logs["val_mAP"][-1] == pytest.approx(100 * mean, rel=1e-6)
    again = model.evaluate(features, labels, return_dict=True)
    assert again["mAP"] == pytest.approx(100 * mean, rel=1e-6)
    assert again["loss"] == pytest.approx(logs["val_loss"][-1], rel=1e-6)


def test_training_again_continues(fitted):
    """Two fits of one epoch are one of two, the dictionary's turns too."""
    model = made()
    data = numbered(*arrays())
    for _ in range(2):
        model.fit(data, epochs=1, verbose=0)
    for one, other in zip(fitted.weights, model.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mse"}, "loss cannot be honoured"),
        ({"metrics": ["accuracy"]}, "metrics cannot be honoured"),
        ({"weighted_metrics": ["accuracy"]}, "weighted_metrics cannot"),
        ({"loss_weights": [1.0]}, "loss_weights cannot be honoured"),
        ({"steps_per_execution": 2}, "steps_per_execution must be 1"),
    ],
)
def test_compile_refuses_what_it_cannot_honour(arguments, message):
    with pytest.raises(ValueError, match=message):
        imcl_tf.IMCL(None, C).compile("rmsprop", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_weight": np.ones(N)}, "sample_weight cannot be honoured"),
        ({"class_weight": {0: 1.0}}, "class_weight cannot be honoured"),
        ({"validation_split": 0.1}, "validation_split cannot be honoured"),
    ],
)
def test_fit_refuses_what_it_cannot_honour(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(MultiLabelModel).fit(*arrays(), verbose=0, **arguments)


def test_validation_weights_are_refused():
    model = made(MultiLabelModel)
    with pytest.raises(ValueError, match="sample_weight cannot be honoured"):
        model.fit(*arrays(), verbose=0, validation_data=triple())


def triple():
    features, labels = arrays()
    weighted = features, labels, np.ones(N, np.float32)
    return tf.data.Dataset.from_tensor_slices(weighted).batch(8)


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({}, triple, "sample weights cannot be honoured"),
        ({"dictionary_size": 9}, arrays, "dictionary_size > 0 needs the num"),
        ({"class_weight": 1.0}, arrays, "class_weight needs the number"),
        ({"class_weight": 1.0}, lambda: [numbered(*arrays())], "no classes"),
        ({"image_similarity": "fixed"}, arrays, "fixed needs a dictionary"),
        ({}, lambda: [numbered(*arrays()).repeat()], "data are endless"),
        ({"label_graph": "wiki"}, arrays, "cooccurrence, identity or the file"),
        ({}, lambda: [arrays()[0]], "without labels"),
    ],
)
def test_data_that_cannot_be_honoured(options, data, message):
    data = data()
    data = data if isinstance(data, list | tuple) else [data]
    with pytest.raises(ValueError, match=message):
        made(**options).fit(*data, verbose=0)


@pytest.mark.parametrize(
    "name", ["curriculum", "entropy_maximisation", "large_loss"]
)
def test_pseudo_labels_need_numbers(name):
    options = {}
    if name == "large_loss":
        options["large_loss"] = "correct_permanent"
    with pytest.raises(ValueError, match="needs the number of each training"):
        made(imcl_tf.method(name), **options).fit(*arrays(), verbose=0)


@pytest.mark.parametrize("kind", [MultiLabelModel, imcl_tf.IMCL])
def test_regularisers_count(kind):
    """0.5 * the squares of a kernel, and its gradient, are in the step."""
    features, labels = arrays()
    losses, kernels = [], []
    for factor in (0.0, 0.5):
        keras.utils.set_random_seed(0)
        backbone = keras.Sequential(
            [
                keras.Input((D,)),
                keras.layers.Dense(
                    3, kernel_regularizer=keras.regularizers.L2(factor)
                ),
            ]
        )
        options = {"num_neighbors": 2} if kind is imcl_tf.IMCL else {}
        model = kind(backbone, C, **options)
        model.compile(keras.optimizers.SGD(0.1))
        before = backbone.layers[0].kernel.numpy()
        logs = model.fit(numbered(features, labels, N), verbose=0).history
        losses.append(logs["loss"][0])
        kernels.append(backbone.layers[0].kernel.numpy())
    added = 0.5 * float((before**2).sum())
    assert losses[1] - losses[0] == pytest.approx(added, rel=1e-4)
    # d/dK of 0.5 |K|^2 is K, times the rate.
    np.testing.assert_allclose(
        kernels[0] - kernels[1], 0.1 * before, rtol=1e-3, atol=1e-5
    )


def test_features_and_pictures_are_not_mixed_up(prepared):
    from imcl_tf.data.multi_label_dataset import open_source

    data = open_source(prepared)
    backbone = tiny_cnn()
    features = imcl_tf.fixed_features(data, backbone)
    few = {"num_neighbors": 2}
    fixed = imcl_tf.IMCL(backbone, data.num_labels, fixed_features=True, **few)
    fixed.compile("rmsprop")
    with pytest.raises(ValueError, match="make them by imcl_tf.fixed_features"):
        fixed.fit(data.train.batches(8), verbose=0)
    whole = imcl_tf.IMCL(backbone, data.num_labels, **few)
    whole.compile("rmsprop")
    with pytest.raises(ValueError, match="fixed_features=True"):
        whole.fit(features.train.batches(8), verbose=0)
    with pytest.raises(ValueError, match="give Split.batches"):
        whole.fit(data.train, verbose=0)
    for no_pictures in (features, data.train, "pictures"):
        with pytest.raises(ValueError, match="fixed_features takes the pict"):
            imcl_tf.fixed_features(no_pictures, backbone)
    with pytest.raises(ValueError, match="run takes the data of imcl_tf.load"):
        imcl_tf.run(features, backbone, "logistic", "never")
    with pytest.raises(ValueError, match="evaluate takes a MultiLabelModel"):
        imcl_tf.evaluate(backbone, data.test)
    with pytest.raises(ValueError, match="such as data.test"):
        imcl_tf.evaluate(whole, data)
    fixed.fit(features.train.batches(8), verbose=0)
    mean = imcl_tf.evaluate(fixed, features.test).mean()
    # The same weights on pictures rank alike.
    fixed.fixed_features = False
    assert imcl_tf.evaluate(fixed, data.test).mean() == pytest.approx(mean)


def test_hide_labels_keeps_a_share_of_the_training_labels(prepared):
    from imcl_tf.data.multi_label_dataset import open_source

    data = open_source(prepared)
    hidden = data.hide_labels(0.5, seed=3, rule="per_image")
    expected = imcl_tf.hide_labels(data.train.labels, 0.5, 3, "per_image")
    assert (hidden.train.labels != expected).nnz == 0
    assert hidden.train.labels.nnz < data.train.labels.nnz
    assert hidden.test is data.test
    assert isinstance(hidden.train.labels, scipy.sparse.csr_array)
