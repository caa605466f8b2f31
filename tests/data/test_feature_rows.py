"""Folders of features: records, splits and what is left out."""

import os

import numpy as np
import pytest

import imcl_tf
from data_prep import clean
from imcl_tf.data.builders import prepare
from imcl_tf.data.feature_files import FeatureFile
from imcl_tf.data.feature_rows import FeatureRows
from imcl_tf.data.folder import folder_builder
from imcl_tf.files import write_csv
from tests.data.common import (
    dense,
    image_ids,
    label_table,
    left_out,
    parsed,
    raw_records,
    shuffled,
)

SPLITS = ("train", "validation", "test")


class Made:
    """A folder without pictures, and its file of features.

    Attributes:
      path: the folder.
      features: the file.
      ids: N ids.
      rows: [N, d] float32.
      splits: N splits.
      labels: [N, 2] int8.
    """

    def __init__(self, place):
        self.path, self.features = place / "raw", place / "f.npz"
        self.records = str(place / "records")
        self.path.mkdir()
        rng = np.random.default_rng(0)
        self.ids = [f"x/{i}.jpg" for i in range(18)]
        self.rows = rng.normal(size=(18, 3)).astype(np.float32)
        self.splits = [SPLITS[i % 3] for i in range(18)]
        self.labels = np.array([[1, -1], [-1, 1], [0, 1]], np.int8)[
            np.arange(18) // 6
        ]
        self.write()

    def write(self, **changes):
        write_csv(
            self.path / "labels.csv",
            ("image", "label", "value"),
            (
                (name, "ab"[j], value)
                for name, row in zip(self.ids, self.labels, strict=True)
                for j, value in enumerate(row)
                if value
            ),
        )
        write_csv(
            self.path / "splits.csv",
            ("image", "split"),
            zip(self.ids, self.splits, strict=True),
        )
        # In another order than the tables, with one that they do not list.
        order = np.random.default_rng(1).permutation(18)
        arrays = {
            "ids": [*(self.ids[i] for i in order), "other"],
            "features": np.vstack([self.rows[order], [[9, 9, 9]]]),
        } | changes
        np.savez(self.features, **arrays)

    def builder(self, on_bad_image="error", **options):
        return folder_builder(
            self.path, self.records, on_bad_image, features=str(self.features),
            **options,
        )  # fmt: skip

    def prepared(self, *arguments, **options):
        return prepare(self.builder(*arguments, **options), self.path)


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def test_equal_rows_of_two_splits_are_listed(made):
    """Rows 0, 1 and 2 are of train, validation and test."""
    made.rows[2] = made.rows[0]
    made.rows[4] = made.rows[1]  # both of validation
    made.write()
    builder = made.prepared()
    assert (builder.data_path / "duplicates.csv").read_text() == (
        "split,image_id,other_split,other_image_id\n"
        "test,x/2.jpg,train,x/0.jpg\n"
    )


def test_records_hold_the_rows_of_the_tables(made, caplog):
    builder = made.prepared()
    assert "f.npz: 1 ids are in no table and left out" in caplog.text
    schema = builder.info.features
    assert schema["feature"].shape == (3,)
    for split in SPLITS:
        ids = image_ids(builder, split)
        of_split = [
            i for i, s in zip(made.ids, made.splits, strict=True) if s == split
        ]
        assert ids == shuffled(of_split, split)
        where = [made.ids.index(i) for i in ids]
        found = [
            parsed(record)["feature"]
            for record in sum(raw_records(builder, split), [])
        ]
        np.testing.assert_array_equal(found, made.rows[where])
        np.testing.assert_array_equal(
            dense(label_table(builder, split)), made.labels[where]
        )
    # TFDS reads them too.
    first = next(iter(builder.as_dataset(split="train")))
    assert first["feature"].shape == (3,)


def test_opens_as_a_data_set_of_features(made, monkeypatch):
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", made.records
    )
    data = imcl_tf.load_dataset(
        "folder", str(made.path), features=made.features
    )
    assert data.train.num_features == 3 and data.train.pictures is None
    batches = data.train.batches(4)
    assert batches.input_shape == (3,) and not batches.has_pictures
    found = np.concatenate([x["inputs"] for x, _ in batches.one_pass()])
    where = [made.ids.index(i.decode()) for i in data.train.image_ids]
    np.testing.assert_array_equal(found, made.rows[where])
    with pytest.raises(ValueError, match="takes the pictures of"):
        imcl_tf.fixed_features(data, imcl_tf.backbone("small_cnn"))
    with pytest.raises(ValueError, match="features is an option of dataset=f"):
        imcl_tf.load_dataset("scenes", features="f.npz")


def test_records_depend_on_rows_and_not_on_their_file(made):
    before = made.builder().builder_config.name
    made.write(features=np.vstack([made.rows, [[1, 1, 1]]]).astype(float),
               ids=[*made.ids, "unlisted"])  # fmt: skip
    assert made.builder().builder_config.name == before
    changed = made.rows.copy()
    changed[4, 1] += 1
    made.write(features=changed, ids=made.ids)
    assert made.builder().builder_config.name != before


def test_a_changed_label_writes_no_record(made):
    builder = made.prepared()
    paths = [str(p) for s in SPLITS for p in builder.info.splits[s].filepaths]
    before = [os.stat(path) for path in paths]
    made.labels[0, 0] = -1
    made.write()
    after = made.prepared()
    assert [os.stat(path) for path in paths] == before
    table = label_table(after, "train")
    row = [*table["image_ids"]].index(made.ids[0].encode())
    assert dense(table)[row].tolist() == [-1, -1]


class TestBadRows:
    """Refused with the names of five, or left out and listed."""

    def test_missing(self, made):
        made.write(ids=made.ids[7:], features=made.rows[7:])
        with pytest.raises(ValueError) as caught:
            made.prepared()
        assert str(caught.value) == (
            f"{made.features}: x/0.jpg, x/1.jpg, x/2.jpg, x/3.jpg, x/4.jpg and "
            "2 more: no such id (7 of 18 images); --on_bad_image=skip leaves "
            "such images out"
        )
        assert not os.path.exists(made.records)

    def test_not_finite(self, made):
        rows = made.rows.copy()
        rows[2, 1], rows[5, 0] = np.nan, np.inf
        made.write(ids=made.ids, features=rows)
        with pytest.raises(ValueError) as caught:
            made.prepared()
        assert str(caught.value) == (
            f"{made.features}: features that are not finite in single "
            "precision: x/2.jpg: column 1 is not finite; x/5.jpg: column 0 is "
            "not finite (2 of 18 images); --on_bad_image=skip leaves such "
            "images out"
        )

    def test_skipped(self, made):
        rows = made.rows.copy()
        rows[2, 1] = np.nan
        made.write(ids=made.ids[1:], features=rows[1:])
        builder = made.prepared("skip")
        assert left_out(builder) == [
            ["split", "image_id", "reason"],
            ["test", "x/2.jpg", "column 1 is not finite"],
            ["train", "x/0.jpg", "no such id"],
        ]
        assert "x/0.jpg" not in image_ids(builder, "train")
        assert len(image_ids(builder, "train")) == 5

    def test_a_hint_at_what_is_meant(self, made):
        ids = [name.removesuffix(".jpg") for name in made.ids]
        made.write(ids=ids, features=made.rows)
        with pytest.raises(ValueError, match=r"; for x/0\.jpg there is x/0;"):
            made.prepared()


def test_equal_rows_stay_in_one_split(made):
    made.rows[:] = made.rows[np.arange(18) // 3]  # six rows, each three times
    made.write()
    (made.path / "splits.csv").unlink()
    builder = made.prepared(split_shares="50/25/25")
    splits = {
        name: split for split in SPLITS for name in image_ids(builder, split)
    }
    groups = [{splits[i] for i in made.ids[k : k + 3]} for k in range(0, 18, 3)]
    assert all(len(group) == 1 for group in groups)
    assert set.union(*groups) == {*SPLITS}


class TestRemembered:
    def rows_of(self, made, cache):
        return FeatureRows(FeatureFile(made.features), cache)

    def test_a_file_that_stays_is_not_read(self, made, tmp_path, monkeypatch):
        os.utime(made.features, (1, 1))
        monkeypatch.setattr("imcl_tf.data.feature_rows.SETTLED", -(10**18))
        cache = tmp_path / "c" / "cache.npz"
        first = self.rows_of(made, cache)
        first.save()
        monkeypatch.setattr(FeatureFile, "_content", None)  # cannot be read
        again = self.rows_of(made, cache)
        assert again.num_features == 3
        np.testing.assert_array_equal(again(made.ids), first(made.ids))
        # Each row has a digest of its own, a missing one zeros.
        assert len(np.unique(first(made.ids), axis=0)) == 18
        assert not first(["none"]).any()
        cache.write_bytes(b"garbage")
        with pytest.raises(TypeError):
            self.rows_of(made, cache)

    def test_a_new_file_is_not_remembered(self, made, tmp_path):
        self.rows_of(made, tmp_path / "cache.npz").save()
        assert not (tmp_path / "cache.npz").exists()


def test_clean_knows_features(made, tmp_path):
    place = tmp_path / "records"

    def reasons():
        return [x.reason for x in clean.find(place)]

    made.prepared()
    assert reasons() == []
    made.write(ids=made.ids, features=made.rows + 1)
    assert reasons() == [f"{made.path} holds other features or splits now"]
    made.features.unlink()
    assert reasons() == [f"{made.features} is gone"]
