"""Opening prepared records: labels, classes, and what is damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data import builders, pipeline
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.data.pixels import AUGMENTATIONS
from imcl_tf.ops.labels import LabelTable
from tests.data.common import image_ids


class TestOpenSource:
    def test_what_the_builder_wrote(self, folder, prepared):
        dataset = open_source(prepared)
        assert dataset.name == "folder"
        assert dataset.directory == str(prepared.data_path)
        assert dataset.label_names == folder.label_names
        assert set(dataset.splits) == set(folder.splits)
        for name, split in dataset.splits.items():
            ids = image_ids(prepared, name)
            assert sorted(ids) == sorted(folder.splits[name])
            assert sum(split.lengths) == len(ids)
            assert split.label_names == folder.label_names
            assert split.num_features == 0
            assert split.classes.size == 0
            labels = split.labels
            assert labels.format == "csr" and labels.dtype == np.int8
            assert labels.has_sorted_indices
            np.testing.assert_array_equal(labels.toarray(), folder.rows(ids))

    def test_classes(self, folder, richer, make_richer):
        for name, split in open_source(richer).splits.items():
            ids = image_ids(richer, name)
            assert sorted(ids) == sorted(folder.splits[name])
            assert split.classes.dtype == np.int32
            np.testing.assert_array_equal(
                split.classes, [make_richer.class_of(i) for i in ids]
            )

    def test_real_images_become_batches(self, folder, prepared):
        split = open_source(prepared).splits["train"]
        ds = pipeline.training_batches(
            split,
            LabelTable(split.labels),
            (16, 16, 3),
            8,
            0,
            AUGMENTATIONS["strong"],
        )
        x, labels = next(ds.as_numpy_iterator())
        assert x["inputs"].shape == (8, 16, 16, 3)
        np.testing.assert_array_equal(
            labels, split.labels.toarray()[x["image_index"]]
        )


@pytest.fixture(scope="module")
def unopened(make_folder, make_richer, tmp_path_factory):
    """The directory of a small data set, one image a shard and fewer."""
    place = tmp_path_factory.mktemp("unopened")
    sizes = {"train": 10, "validation": 3, "test": 1}
    made = make_folder(place / "raw", sizes)
    builder = make_richer(data_dir=place / "records")
    return builders.prepare(builder, made.path).data_path


class TestFiles:
    @pytest.fixture
    def builder(self, unopened, tmp_path):
        shutil.copytree(unopened, tmp_path / "2.2.0")
        return tfds.builder_from_directory(tmp_path / "2.2.0")

    def test_no_record_is_read_nor_anything_written(self, builder):
        directory = Path(str(builder.data_path))
        for path in directory.glob("*tfrecord*"):
            path.write_bytes(b"\0" * path.stat().st_size)
        before = sorted(
            (path.name, path.stat().st_mtime_ns) for path in directory.iterdir()
        )
        assert open_source(builder).train.labels.nnz > 0
        assert before == sorted(
            (path.name, path.stat().st_mtime_ns) for path in directory.iterdir()
        )

    @pytest.mark.parametrize(
        "damage", ["cut", "missing", "a record less", "replaced"]
    )
    def test_damaged_file_is_named(self, builder, damage):
        files = builder.info.splits["validation"].filepaths
        path = Path(str(files[-1]))
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        elif damage == "missing":
            path.unlink()
        elif damage == "replaced":
            other = builder.info.splits["train"].filepaths[0]
            assert Path(str(other)).stat().st_size != path.stat().st_size
            shutil.copy(str(other), path)
        else:
            kept = [*tf.data.TFRecordDataset(str(path)).as_numpy_iterator()][1:]
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in kept:
                    writer.write(record)
        self.refused(builder, path)

    @pytest.mark.parametrize("damage", ["missing", "cut", "other records"])
    def test_damaged_table_is_named(self, builder, damage):
        directory = Path(str(builder.data_path))
        path = directory / "labels-train.npz"
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        else:  # as many files as of the split, of the same sizes
            with np.load(path) as arrays:
                arrays = dict(arrays)
            arrays["image_ids"] = arrays["image_ids"][:-1]
            arrays["row_splits"] = arrays["row_splits"][:-1]
            number = arrays["row_splits"][-1]
            for name in ("values", "columns"):
                arrays[name] = arrays[name][:number]
            np.savez(path, **arrays)
        self.refused(builder, path)

    def refused(self, builder, path):
        with pytest.raises(ValueError) as caught:
            open_source(builder)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert message.endswith("prepare the data set again")
        assert len(message.splitlines()) == 1

    def test_table_of_another_split(self, builder):
        directory = Path(str(builder.data_path))
        shutil.copy(
            directory / "labels-test.npz", directory / "labels-validation.npz"
        )
        with pytest.raises(ValueError, match="where 1 were|files where"):
            open_source(builder)

    def test_records_of_the_first_version(self, builder):
        """Labels within records, and a cache of them named like a table."""
        directory = Path(str(builder.data_path))
        old = directory.with_name("1.0.0")
        directory.rename(old)
        info = json.loads((old / "dataset_info.json").read_text())
        (old / "dataset_info.json").write_text(
            json.dumps(info | {"version": "1.0.0"})
        )
        for path in old.glob("labels-*.npz"):
            np.savez(path, sizes=[1], values=[1], columns=[0], row_splits=[0])
        with pytest.raises(ValueError, match="damaged label table.*again"):
            open_source(tfds.builder_from_directory(old))
