"""Fixed features, against NumPy."""

import errno
import json
import os
import stat
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.backbones.pictures import SQUASHED, PictureInput, Resizing
from imcl_tf.backbones.statistics import synchronize_batch_statistics
from imcl_tf.data import features, pipeline
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pixels import decode_and_resize
from imcl_tf.ops.labels import LabelTable

S, D, C = 8, 3, 7
LENGTHS = {"train": (4, 0, 3), "validation": (2,), "test": (1, 5)}
ALL = ["test.0", "test.1", "train.0", "train.1", "train.2", "validation.0"]


def make_backbone(seed=0, name="mean", size=S, resizing=SQUASHED):
    """f = W mean(pixels) / 255 + b, with a layer that training changes."""
    inputs = keras.Input((size, size, 3))
    x = PictureInput(*resizing)(inputs)
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Dropout(0.9)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    backbone = keras.Model(inputs, keras.layers.Dense(D)(x), name=name)
    rng = np.random.default_rng(seed)
    backbone.set_weights([rng.normal(size=(3, D)), rng.normal(size=D)])
    return backbone


def by_hand(backbone, pixels):
    kernel, bias = backbone.get_weights()
    return pixels.mean((1, 2)) / 255 @ kernel + bias


class Data:
    """Three splits of image records and the data set made of them."""

    def __init__(self, directory, make_image_shards):
        self.directory = directory
        names = tuple(f"label {n}" for n in range(C))
        self.made = {
            name: make_image_shards(
                directory, lengths, C, S, seed=number, prefix=name
            )
            for number, (name, lengths) in enumerate(LENGTHS.items())
        }
        splits = {
            name: pipeline.Split(
                made.files,
                made.lengths,
                scipy.sparse.csr_array(made.labels),
                np.arange(len(made.names)),
                names,
            )
            for name, made in self.made.items()
        }
        self.dataset = MultiLabelDataset(
            "made", str(directory), names, **splits
        )

    def folders(self):
        return sorted(p.name for p in self.directory.iterdir() if p.is_dir())

    def written(self):
        """Names of the feature files; a note alone lies beside them."""
        (folder,) = self.folders()
        found = sorted(p.name for p in (self.directory / folder).iterdir())
        return [name for name in found if not name.startswith("user-")]

    def check(self, result, backbone):
        """`result` holds the features of all images, in their order."""
        assert set(result.splits) == set(LENGTHS)
        for name, split in result.splits.items():
            made = self.made[name]
            ds = pipeline.one_pass(split, LabelTable(split.labels), (D,), 4)
            got = [(x["inputs"], y) for x, y in ds.as_numpy_iterator()]
            inputs, labels = map(np.concatenate, zip(*got, strict=True))
            np.testing.assert_allclose(
                inputs, by_hand(backbone, made.pixels), rtol=1e-5, atol=1e-5
            )
            np.testing.assert_array_equal(labels, made.labels)
            assert split.lengths == made.lengths
            assert split.num_features == D
            np.testing.assert_array_equal(
                split.classes, np.arange(len(made.names))
            )


@pytest.fixture
def data(tmp_path, make_image_shards):
    return Data(tmp_path, make_image_shards)


def test_features_are_those_of_the_backbone(data):
    """One file of features for each of images, empty ones too."""
    backbone = make_backbone()
    result = features.fixed_features(data.dataset, backbone, batch_size=3)
    data.check(result, backbone)
    assert result.label_names == data.dataset.label_names
    assert result.name == data.dataset.name
    assert data.written() == ALL
    for name, split in result.splits.items():
        images = [Path(file).name for file in data.made[name].files]
        assert [Path(file).name for file in split.files] == images
        for file, length in zip(split.files, split.lengths, strict=True):
            read = tf.data.TFRecordDataset(file).as_numpy_iterator()
            assert len([*read]) == length
    # The data set of the images is as it was.
    assert data.dataset.splits["train"].files == data.made["train"].files


def test_records_hold_image_and_feature_alone(data):
    result = features.fixed_features(data.dataset, make_backbone())
    made = data.made["test"]
    records = tf.data.TFRecordDataset(list(result.test.files))
    for n, record in enumerate(records.as_numpy_iterator()):
        f = tf.train.Example.FromString(record).features.feature
        assert set(f) == {"image_id", "feature"}
        assert f["image_id"].bytes_list.value == [made.names[n]]


def test_computed_once(data):
    backbone = make_backbone()
    first = features.fixed_features(data.dataset, backbone)
    for made in data.made.values():
        for file in made.files:
            tf.io.gfile.remove(file)
    again = features.fixed_features(data.dataset, backbone)
    data.check(again, backbone)
    assert [s.files for s in again.splits.values()] == [
        s.files for s in first.splits.values()
    ]
    # Weights count, not the model object.
    data.check(features.fixed_features(data.dataset, make_backbone()), backbone)


def test_other_weights_other_features(data):
    one = make_backbone()
    data.check(features.fixed_features(data.dataset, one), one)
    # One number of one weight is enough.
    kernel, bias = one.get_weights()
    bias[2] += 0.5
    one.set_weights([kernel, bias])
    data.check(features.fixed_features(data.dataset, one), one)
    assert len(data.folders()) == 2


def test_images_have_the_size_that_the_backbone_takes(data):
    """Other sizes are other features, of resized images."""
    for size in (S, 5):
        inputs = keras.Input((size, size, 3))
        mean = keras.layers.GlobalAveragePooling2D()(inputs)
        backbone = keras.Model(inputs, mean, name="none")
        result = features.fixed_features(data.dataset, backbone)
        split = result.splits["train"]
        means = pipeline.load_inputs(split, np.arange(7), (3,))
        images = [
            decode_and_resize(tf.io.encode_png(image), size)
            for image in data.made["train"].pixels
        ]
        expected = np.mean(images, (1, 2))
        np.testing.assert_allclose(means, expected, rtol=1e-5)
    assert len(data.folders()) == 2


def test_images_are_resized_as_for_the_backbone(data):
    for resizing in (Resizing(), Resizing(448)):
        backbone = make_backbone(resizing=resizing)
        result = features.fixed_features(data.dataset, backbone)
        stored = pipeline.load_inputs(
            result.splits["train"], np.arange(7), (D,)
        )
        pixels = pipeline.load_inputs(
            data.dataset.splits["train"], np.arange(7), (S, S, 3), resizing
        )
        np.testing.assert_allclose(
            stored, by_hand(backbone, pixels), rtol=1e-5, atol=1e-5
        )
    assert len(data.folders()) == 2


def test_labels_are_those_of_the_data_set(data):
    """Features computed for one choice of labels serve any other."""
    backbone = make_backbone()
    features.fixed_features(data.dataset, backbone)
    place = data.directory / data.folders()[0]
    before = {p.name: p.stat().st_mtime_ns for p in place.iterdir()}
    none = scipy.sparse.csr_array((7, C + 1), dtype="i1")
    names = (*data.dataset.label_names, "new")
    fewer = data.dataset.train._replace(labels=none, label_names=names)
    result = features.fixed_features(
        data.dataset._replace(train=fewer, label_names=names), backbone
    )
    assert result.train.labels.nnz == 0
    assert result.label_names == result.train.label_names == names
    assert before == {p.name: p.stat().st_mtime_ns for p in place.iterdir()}


@pytest.mark.parametrize(
    ("error", "after", "finished"),
    [
        (OSError, 3, []),
        (KeyboardInterrupt, 4, ["train.0", "train.1"]),
        (OSError, 14, [*ALL[:1], *ALL[2:]]),
    ],
)
def test_interrupted_continues_with_what_is_missing(
    data, monkeypatch, error, after, finished
):
    """Stopped after some images of 15; and then run again."""
    backbone = make_backbone()
    original, seen = features.records.encode_feature, []

    def encode(image_id, feature):
        if len(seen) == after:
            raise error
        seen.append(image_id)
        return original(image_id, feature)

    with monkeypatch.context() as patch:
        patch.setattr(features.records, "encode_feature", encode)
        with pytest.raises(error):
            features.fixed_features(data.dataset, backbone)
    assert data.written() == finished
    # Images of finished files are not needed any more.
    for name in finished:
        (data.directory / name).write_bytes(b"not readable")
    result = features.fixed_features(data.dataset, backbone)
    data.check(result, backbone)
    assert data.written() == ALL


def test_resumed_files_are_those_of_one_run(data):
    backbone = make_backbone()
    features.fixed_features(data.dataset, backbone)
    place = data.directory / data.folders()[0]
    before = {path: path.read_bytes() for path in place.iterdir()}
    (place / "train.2").unlink()
    (place / "test.0").unlink()
    features.fixed_features(data.dataset, backbone)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_two_runs_at_once(data, monkeypatch):
    """Amid the first file of one another begins and comes first."""
    backbone = make_backbone()
    original, others = features.records.encode_feature, []

    def encode(*arguments):
        monkeypatch.setattr(features.records, "encode_feature", original)
        others.append(features.fixed_features(data.dataset, backbone))
        return original(*arguments)

    monkeypatch.setattr(features.records, "encode_feature", encode)
    result = features.fixed_features(data.dataset, backbone)
    assert data.written() == ALL
    for one in (*others, result):
        data.check(one, backbone)


def test_last_step_fails(data, monkeypatch):
    """Features that could not be put in place are an error, not a success."""

    def replace(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(features.os, "replace", replace)
    with pytest.raises(OSError) as caught:
        features.fixed_features(data.dataset, make_backbone())
    assert caught.value.errno == errno.EIO
    assert data.written() == []


def test_full_disk(data, small_disk):
    with small_disk(200), pytest.raises((OSError, tf.errors.OpError)):
        features.fixed_features(data.dataset, make_backbone())
    assert data.written() == []


def test_others_may_read_them(data):
    """As far as they may read any new directory and file."""
    features.fixed_features(data.dataset, make_backbone())
    (name,) = data.folders()
    usual = data.directory / "usual"
    usual.mkdir()
    (usual / "file").touch()
    for paths in (
        (data.directory / name, usual),
        (data.directory / name / "train.0", usual / "file"),
    ):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in paths]
        assert modes[0] == modes[1]


def test_other_precision_other_features(data):
    """The same float32 weights, computed with bfloat16."""
    exact = make_backbone()
    features.fixed_features(data.dataset, exact)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = make_backbone()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for one, other in zip(exact.weights, half.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    features.fixed_features(data.dataset, half)
    assert len(data.folders()) == 2
    data.check(features.fixed_features(data.dataset, exact), exact)


def test_other_layers_other_features(data):
    """The same weights behind pictures that are scaled in another way."""
    networks = []
    for scale in (1 / 255, 2 / 255):
        inputs = keras.Input((S, S, 3))
        x = keras.layers.Rescaling(scale)(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        network = keras.Model(inputs, keras.layers.Dense(D)(x), name="mine")
        network.set_weights(make_backbone().get_weights())
        networks.append(network)
    first, second = (
        features.fixed_features(data.dataset, network) for network in networks
    )
    assert first.train.files != second.train.files
    # What Keras numbers anew in each process does not count.
    digests = {features.architecture_digest(make_backbone()) for _ in range(2)}
    assert len(digests) == 1
    frozen = make_backbone()
    frozen.trainable = False
    assert features.architecture_digest(frozen) in digests


def test_a_network_that_was_trained_on_several_devices():
    """Their statistics are synchronized from then on."""
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization()]
    )
    before = features.architecture_digest(network)
    synchronize_batch_statistics(network)
    assert network.layers[0].synchronized
    assert features.architecture_digest(network) == before


def test_a_network_of_a_class_of_its_own():
    class Mine(keras.Model):
        def __init__(self, size):
            super().__init__()

    class Other(Mine):
        pass

    one, other = (features.architecture_digest(c(3)) for c in (Mine, Other))
    assert one != other and len(one) == 16


def test_other_pictures_other_features(data):
    """Records made anew in the same directory, of the same names and sizes."""
    backbone = make_backbone()
    train = data.dataset.train
    for digest in ("one", "two"):
        dataset = data.dataset._replace(train=train._replace(digest=digest))
        features.fixed_features(dataset, backbone)
    assert len(data.folders()) == 2


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs /sys")
def test_read_only_records(data, tmp_path, monkeypatch):
    """Not even root may make a directory there."""
    home = tmp_path / "home"
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(home))
    backbone = make_backbone()
    for _ in range(2):
        result = features.fixed_features(
            data.dataset._replace(directory="/sys"), backbone
        )
        data.check(result, backbone)
        (place,) = (home / "imcl_features").iterdir()
        assert {Path(f).parent for f in result.train.files} == {place}


def test_who_uses_them_is_noted(data, tmp_path):
    users = [{"workdir": str(tmp_path / x), "run": x} for x in "ab"]
    for user in (*users, users[0], None):
        result = features.fixed_features(
            data.dataset, make_backbone(), used_by=user
        )
    place = Path(result.train.files[0]).parent
    notes = [json.loads(p.read_text()) for p in place.glob("user-*.json")]
    common = {
        "backbone": "mean", "precision": "float32",
        "records": str(data.directory),
    }  # fmt: skip
    expected = [common | (user or {}) for user in (*users, None)]
    assert sorted(notes, key=str) == sorted(expected, key=str)


def test_fewer_records_than_were_written(data):
    """One was lost; the features of the others must not move up."""
    split = data.dataset.train
    lengths = (split.lengths[0] + 1, *split.lengths[1:])
    dataset = data.dataset._replace(train=split._replace(lengths=lengths))
    with pytest.raises(ValueError) as caught:
        features.fixed_features(dataset, make_backbone())
    assert str(caught.value).startswith(
        f"{split.files[0]}: {split.lengths[0]} records where {lengths[0]} were"
    )
    assert data.written() == []


def test_a_damaged_file_is_named(data):
    path = Path(data.made["train"].files[2])
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: damaged records; prep"):
        features.fixed_features(data.dataset, make_backbone())
    assert data.written() == []
