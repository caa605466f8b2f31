"""Fixed features, against NumPy."""

import errno
import os
import stat
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf import dataset, features
from imcl_tf.backbones import Resizing
from imcl_tf.labels import LabelTable

S, D, C = 8, 3, 7
LENGTHS = {"train": (4, 0, 3), "validation": (2,), "test": (1, 5)}
ALL = ["test.0", "test.1", "train.0", "train.1", "train.2", "validation.0"]


def make_backbone(seed=0, name="mean"):
    """f = W mean(pixels) / 255 + b, with a layer that training changes."""
    inputs = keras.Input((S, S, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
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
    """Three splits of image records and the source made of them."""

    def __init__(self, directory, make_image_shards):
        self.directory = directory
        self.made = {
            name: make_image_shards(
                directory, lengths, C, S, seed=number, prefix=name
            )
            for number, (name, lengths) in enumerate(LENGTHS.items())
        }
        splits = {
            name: dataset.Split(
                made.files,
                made.lengths,
                scipy.sparse.csr_array(made.labels),
                np.arange(len(made.names)),
            )
            for name, made in self.made.items()
        }
        names = tuple(f"label {n}" for n in range(C))
        self.source = dataset.Source("made", str(directory), names, splits)

    def folders(self):
        return sorted(p.name for p in self.directory.iterdir() if p.is_dir())

    def written(self):
        """Names of the feature files; nothing else lies beside them."""
        (folder,) = self.folders()
        return sorted(p.name for p in (self.directory / folder).iterdir())

    def check(self, source, backbone):
        """`source` holds the features of all images, in their order."""
        assert set(source.splits) == set(LENGTHS)
        for name, split in source.splits.items():
            made = self.made[name]
            ds = dataset.one_pass(split, LabelTable(split.labels), (D,), 4)
            got = [(x["inputs"], y) for x, y in ds.as_numpy_iterator()]
            inputs, labels = map(np.concatenate, zip(*got, strict=True))
            np.testing.assert_allclose(
                inputs, by_hand(backbone, made.pixels), rtol=1e-5, atol=1e-5
            )
            np.testing.assert_array_equal(labels, made.labels)
            assert split.lengths == made.lengths
            np.testing.assert_array_equal(
                split.classes, np.arange(len(made.names))
            )


@pytest.fixture
def data(tmp_path, make_image_shards):
    return Data(tmp_path, make_image_shards)


def test_features_are_those_of_the_backbone(data):
    """One file of features for each of images, empty ones too."""
    backbone = make_backbone()
    source = features.fixed_features(data.source, backbone, S, batch_size=3)
    data.check(source, backbone)
    assert source.label_names == data.source.label_names
    assert source.name == data.source.name
    assert data.written() == ALL
    for name, split in source.splits.items():
        images = [Path(file).name for file in data.made[name].files]
        assert [Path(file).name for file in split.files] == images
        for file, length in zip(split.files, split.lengths, strict=True):
            read = tf.data.TFRecordDataset(file).as_numpy_iterator()
            assert len([*read]) == length
    # The source of the images is as it was.
    assert data.source.splits["train"].files == data.made["train"].files


def test_records_say_the_image_and_its_labels(data):
    source = features.fixed_features(data.source, make_backbone(), S)
    made = data.made["test"]
    records = tf.data.TFRecordDataset(list(source.splits["test"].files))
    for n, record in enumerate(records.as_numpy_iterator()):
        f = tf.train.Example.FromString(record).features.feature
        assert f["image_id"].bytes_list.value == [made.names[n]]
        for key, sign in (("positives", 1), ("negatives", -1)):
            told = list(f[key].int64_list.value)
            assert told == list(np.flatnonzero(made.labels[n] == sign))


def test_computed_once(data):
    backbone = make_backbone()
    first = features.fixed_features(data.source, backbone, S)
    for made in data.made.values():
        for file in made.files:
            tf.io.gfile.remove(file)
    again = features.fixed_features(data.source, backbone, S)
    data.check(again, backbone)
    assert [s.files for s in again.splits.values()] == [
        s.files for s in first.splits.values()
    ]
    # Weights count, not the model object.
    data.check(
        features.fixed_features(data.source, make_backbone(), S), backbone
    )


def test_other_weights_other_features(data):
    one = make_backbone()
    data.check(features.fixed_features(data.source, one, S), one)
    # One number of one weight is enough.
    kernel, bias = one.get_weights()
    bias[2] += 0.5
    one.set_weights([kernel, bias])
    data.check(features.fixed_features(data.source, one, S), one)
    assert len(data.folders()) == 2


def test_images_have_the_size_that_the_backbone_takes(data):
    """Other sizes are other features, of resized images."""
    inputs = keras.Input((None, None, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    backbone = keras.Model(inputs, mean, name="none")
    for size in (S, 5):
        source = features.fixed_features(data.source, backbone, size)
        split = source.splits["train"]
        means = dataset.load_inputs(split, np.arange(7), (3,))
        images = [
            dataset.decode_and_resize(tf.io.encode_png(image), size)
            for image in data.made["train"].pixels
        ]
        expected = np.mean(images, (1, 2))
        np.testing.assert_allclose(means, expected, rtol=1e-5)
    assert len(data.folders()) == 2


def test_images_are_resized_as_for_the_backbone(data):
    backbone = make_backbone()
    for resizing in (Resizing(), Resizing(448)):
        source = features.fixed_features(
            data.source, backbone, S, resizing=resizing
        )
        stored = dataset.load_inputs(source.splits["train"], np.arange(7), (D,))
        pixels = dataset.load_inputs(
            data.source.splits["train"], np.arange(7), (S, S, 3), resizing
        )
        np.testing.assert_allclose(
            stored, by_hand(backbone, pixels), rtol=1e-5, atol=1e-5
        )
    assert len(data.folders()) == 2


def test_labels_are_those_of_the_source(data):
    """Features computed for one choice of labels serve any other."""
    backbone = make_backbone()
    features.fixed_features(data.source, backbone, S)
    split = data.source.splits["train"]
    fewer = split._replace(labels=scipy.sparse.csr_array((7, C), dtype="i1"))
    source = data.source._replace(splits=data.source.splits | {"train": fewer})
    source = features.fixed_features(source, backbone, S)
    assert source.splits["train"].labels.nnz == 0


@pytest.mark.parametrize(
    ("error", "after", "finished"),
    [
        (OSError, 3, []),
        (KeyboardInterrupt, 4, ["train.0", "train.1"]),
        (OSError, 14, [*ALL[:1], *ALL[2:]]),
    ],
)
def test_interrupted_goes_on_with_what_is_missing(
    data, monkeypatch, error, after, finished
):
    """Stopped after some images of 15; and then run again."""
    backbone = make_backbone()
    original, seen = features.records.encode_feature, []

    def encode(image_id, feature, labels):
        if len(seen) == after:
            raise error
        seen.append(image_id)
        return original(image_id, feature, labels)

    with monkeypatch.context() as patch:
        patch.setattr(features.records, "encode_feature", encode)
        with pytest.raises(error):
            features.fixed_features(data.source, backbone, S)
    assert data.written() == finished
    # Images of finished files are not needed any more.
    for name in finished:
        (data.directory / name).write_bytes(b"not readable")
    source = features.fixed_features(data.source, backbone, S)
    data.check(source, backbone)
    assert data.written() == ALL


def test_resumed_files_are_those_of_one_run(data):
    backbone = make_backbone()
    features.fixed_features(data.source, backbone, S)
    place = data.directory / data.folders()[0]
    before = {path: path.read_bytes() for path in place.iterdir()}
    (place / "train.2").unlink()
    (place / "test.0").unlink()
    features.fixed_features(data.source, backbone, S)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_two_runs_at_once(data, monkeypatch):
    """Amid the first file of one another begins and comes first."""
    backbone = make_backbone()
    original, others = features.records.encode_feature, []

    def encode(*arguments):
        monkeypatch.setattr(features.records, "encode_feature", original)
        others.append(features.fixed_features(data.source, backbone, S))
        return original(*arguments)

    monkeypatch.setattr(features.records, "encode_feature", encode)
    source = features.fixed_features(data.source, backbone, S)
    assert data.written() == ALL
    for one in (*others, source):
        data.check(one, backbone)


def test_last_step_fails(data, monkeypatch):
    """Features that could not be put in place are an error, not a success."""

    def replace(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(features.os, "replace", replace)
    with pytest.raises(OSError) as caught:
        features.fixed_features(data.source, make_backbone(), S)
    assert caught.value.errno == errno.EIO
    assert data.written() == []


def test_full_disk(data, small_disk):
    with small_disk(200), pytest.raises((OSError, tf.errors.OpError)):
        features.fixed_features(data.source, make_backbone(), S)
    assert data.written() == []


def test_others_may_read_them(data):
    """As far as they may read any new directory and file."""
    features.fixed_features(data.source, make_backbone(), S)
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
