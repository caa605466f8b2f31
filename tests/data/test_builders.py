"""Records and label tables of image files, byte by byte; finding them."""

import concurrent.futures
import csv
import errno
import hashlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data import builders, shards
from imcl_tf.data.folder import Folder, folder_builder
from tests.data.common import (
    SPLITS,
    label_table,
    parsed,
    prepare_folder,
    raw_records,
    shuffled,
    stored,
)

pytestmark = pytest.mark.usefixtures("two_files")


def observed(folder, image):
    """(label index, value) of an image, ascending."""
    labels = folder.labels[image]
    return [
        (j, labels[name])
        for j, name in enumerate(folder.label_names)
        if name in labels
    ]


class TestRecords:
    def test_bytes_are_those_of_images_in_order_of_a_hash(
        self, folder, prepared, make_example
    ):
        for split in SPLITS:
            expected = [
                make_example(
                    image_id=image.encode(),
                    image=stored(folder.encoded[image]),
                )
                for image in shuffled(folder.splits[split], split)
            ]
            assert sum(raw_records(prepared, split), []) == expected

    def test_tfds_alone_reads_the_same(self, folder, richer):
        builder = tfds.builder_from_directory(richer.data_path)
        for split, images in folder.splits.items():
            ds = builder.as_dataset(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
            read = {r["image_id"].decode(): r for r in tfds.as_numpy(ds)}
            assert set(read) == set(images)
            for image, record in read.items():
                assert set(record) == {"image_id", "image"}
                assert record["image"] == stored(folder.encoded[image])

    def test_tfds_decodes_the_images(self, folder, prepared):
        builder = tfds.builder_from_directory(prepared.data_path)
        for record in builder.as_dataset("test"):
            image = stored(folder.encoded[record["image_id"].numpy().decode()])
            np.testing.assert_array_equal(
                record["image"], tf.io.decode_image(image, channels=3)
            )


class TestLabelTables:
    def test_hold_the_labels_in_the_order_of_the_records(
        self, folder, prepared
    ):
        assert tuple(prepared.info.metadata["labels"]) == folder.label_names
        for split in SPLITS:
            images = shuffled(folder.splits[split], split)
            pairs = [observed(folder, image) for image in images]
            table = label_table(prepared, split)
            assert table["image_ids"].tolist() == [x.encode() for x in images]
            names = [name.encode() for name in folder.label_names]
            assert table["label_names"].tolist() == names
            assert table["columns"].tolist() == [j for j, _ in sum(pairs, [])]
            assert table["values"].tolist() == [v for _, v in sum(pairs, [])]
            ends = np.cumsum([0, *map(len, pairs)])
            np.testing.assert_array_equal(table["row_splits"], ends)
            assert table["classes"].size == 0
            assert table["file_sizes"].tolist() == [
                Path(str(path)).stat().st_size
                for path in prepared.info.splits[split].filepaths
            ]
            assert table["file_digests"].tolist() == [
                hashlib.sha256(b"".join(shard)).hexdigest().encode()
                for shard in raw_records(prepared, split)
            ]
            for name, dtype in (
                ("values", np.int8), ("columns", np.int32),
                ("row_splits", np.int32), ("classes", np.int32),
            ):  # fmt: skip
                assert table[name].dtype == dtype
            assert not [name for name in table if name.startswith("extra_")]

    def test_further_integers_of_images_and_of_labels(
        self, folder, richer, make_richer
    ):
        for split in SPLITS:
            images = shuffled(folder.splits[split], split)
            table = label_table(richer, split)
            assert table["classes"].dtype == np.int32
            assert table["classes"].tolist() == [
                make_richer.class_of(image) for image in images
            ]
            assert table["extra_certainties"].dtype == np.uint8
            assert table["extra_certainties"].tolist() == [
                make_richer.certainty_of(image, folder.label_names[j])
                for image in images
                for j, _ in observed(folder, image)
            ]

    def test_nothing_else_is_left_beside_the_records(self, prepared):
        names = {
            path.name
            for path in Path(str(prepared.data_path)).iterdir()
            # Directories: features that other tests stored.
            if path.is_file() and "tfrecord" not in path.name
        }
        assert names == {
            "dataset_info.json", "features.json", "metadata.json",
            *(f"labels-{split}.npz" for split in SPLITS),
        }  # fmt: skip

    def test_no_dense_label_vector_on_disk(self, make_folder, tmp_path):
        names = [f"label {n}" for n in range(3000)]
        sizes = {"train": 8, "validation": 8, "test": 8}
        made = make_folder(tmp_path / "raw", sizes, names[:5], names=())
        with (made.path / "labels.csv").open("a") as file:
            rows = [(made.splits["test"][0], n, 0) for n in names[5:]]
            csv.writer(file).writerows(rows)
        builder = prepare_folder(made, tmp_path / "records")
        assert len(builder.info.metadata["labels"]) == 3000
        for record in sum(raw_records(builder, "train"), []):
            image = parsed(record)["image"][0]
            assert len(record) < len(image) + 100
        for name, values in label_table(builder, "train").items():
            # 24,000 entries if dense.
            assert values.size <= (3000 if name == "label_names" else 40)


class TestPrepare:
    def test_needs_a_directory_of_raw_files(self, tmp_path):
        (tmp_path / "empty").mkdir()
        for name in ("nowhere", "empty"):
            builder = Folder(data_dir=tmp_path / "records")
            with pytest.raises(FileNotFoundError, match=f"{name}: "):
                builders.prepare(builder, tmp_path / name)

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (OSError(28, "No space left on device"), OSError),
            (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt),
        ],
    )
    def test_interrupted_leaves_nothing(
        self, small, fails, tmp_path, monkeypatch, error, raised
    ):
        original, count = shards.records.encode_image, iter(range(13))

        def encode(*arguments):
            if next(count, None) is None:  # amid the second split
                raise error
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(shards.records, "encode_image", encode)
            fails(small, error.args[-1], error=raised)
        builder = prepare_folder(small, tmp_path / "records")
        assert builder.info.splits["train"].num_examples == 10

    def test_two_at_once(self, small, tmp_path, monkeypatch):
        """The second waits, and finds what the first has made."""
        original, begun, go = shards.write, threading.Event(), threading.Event()
        written = []

        def write(shard):
            begun.set()
            go.wait()
            written.append(shard.path)
            original(shard)

        monkeypatch.setattr(shards, "write", write)
        made = [
            folder_builder(small.path, tmp_path / "records") for _ in range(2)
        ]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(builders.prepare, made[0], small.path)
            begun.wait()
            second = pool.submit(builders.prepare, made[1], small.path)
            with pytest.raises(TimeoutError):
                second.result(0.3)
            go.set()
            results = first.result(), second.result()
        assert len(written) == len({*written}) == 6
        for builder in results:
            assert builder.info.splits["train"].num_examples == 10
            names = tuple(builder.info.metadata["labels"])
            assert names == small.label_names

    def test_two_at_once_without_locks(self, small, tmp_path, monkeypatch):
        """Both write, and the slower one finds what the other has made."""
        original, begun, go = shards.write, threading.Event(), threading.Event()

        def write(shard):
            if threading.current_thread() != threading.main_thread():
                begun.set()
                go.wait()
            original(shard)

        def flock(*_):
            raise OSError(errno.ENOLCK, "no locks here")

        monkeypatch.setattr(shards, "write", write)
        monkeypatch.setattr("fcntl.flock", flock)
        made = [
            folder_builder(small.path, tmp_path / "records") for _ in range(2)
        ]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slower = pool.submit(builders.prepare, made[0], small.path)
            begun.wait()
            try:
                builders.prepare(made[1], small.path)
                place = Path(made[0].data_path).parent
                # That of the slower one, and its directory of no downloads.
                assert len([*place.glob("incomplete.*_2.2.0")]) == 2
            finally:
                go.set()
            slower.result()
        assert [path.name for path in place.iterdir()] == ["2.2.0"]
        for builder in made:
            assert builder.info.splits["train"].num_examples == 10
            assert builder.opened().label_names == small.label_names

    def test_what_a_killed_program_left_is_removed(self, small, tmp_path):
        builder = folder_builder(small.path, tmp_path / "records")
        place = Path(str(builder.data_path)).parent
        for name in ("incomplete.ABCDEF_2.2.0", "incomplete.ABCDEF_9.9.9"):
            (place / name).mkdir(parents=True)
            (place / name / "half").write_text("half")
        builders.prepare(builder, small.path)
        assert sorted(path.name for path in place.iterdir()) == [
            "2.2.0", "incomplete.ABCDEF_9.9.9",
        ]  # fmt: skip

    def test_source_is_noted(self, small, tmp_path):
        """That of a copy too, which has the same records."""
        builder = prepare_folder(small, tmp_path / "records")
        assert builder.info.metadata["sources"] == [str(small.path)]
        copy = small._replace(path=tmp_path / "copy")
        shutil.copytree(small.path, copy.path)
        for path in (copy.path / "images").rglob("*"):
            shutil.copystat(small.path / path.relative_to(copy.path), path)
        for _ in range(2):
            again = prepare_folder(copy, tmp_path / "records")
        assert again.data_path == builder.data_path
        read = tfds.builder_from_directory(builder.data_path)
        assert read.info.metadata["sources"] == [
            str(small.path), str(copy.path),
        ]  # fmt: skip
        assert read.info.metadata["labels"] == list(small.label_names)

    def test_no_temporary_directory_is_left(self, small, tmp_path, monkeypatch):
        """Nor made outside the records: a kill would leave it there."""
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        original, found = shards.write, []

        def write(shard):
            found.extend((tmp_path / "tmp").iterdir())
            original(shard)

        monkeypatch.setattr(shards, "write", write)
        prepare_folder(small, tmp_path / "records")
        assert not found and not [*(tmp_path / "tmp").iterdir()]

    @pytest.mark.parametrize("size", [100, 1_000])
    def test_full_disk_leaves_nothing(self, small, fails, small_disk, size):
        # Where pytest keeps what is printed, the disk is full too.
        tfds.disable_progress_bar()
        with small_disk(size):
            fails(small, error=OSError, limit=2_000)


class TestFind:
    @pytest.fixture
    def place(self, prepared, tmp_path):
        """Makes copies of `prepared` under other names and versions."""

        def copy(*names):
            for name in names:
                shutil.copytree(prepared.data_path, tmp_path / name)
                path = tmp_path / name / "dataset_info.json"
                info = json.loads(path.read_text())
                info["version"] = path.parent.name
                path.write_text(json.dumps(info))

        copy.directory = tmp_path
        return copy

    def test_newest_version(self, folder, place):
        place("birds/2.9.0", "birds/2.10.0", "birds/2.2.11")
        for data_dir in (place.directory, str(place.directory)):
            found = builders.find("birds", data_dir)
            assert Path(found.data_path) == place.directory / "birds" / "2.10.0"
        assert tuple(found.info.metadata["labels"]) == folder.label_names
        assert len([*found.as_dataset("test")]) == len(folder.splits["test"])

    def test_an_earlier_version_is_no_longer_read(self, place):
        """It does not say what stands in two splits."""
        place("birds/2.1.0", "birds/2.0.9")
        with pytest.raises(
            FileNotFoundError, match="birds/2.1.0: records of an earlier versi"
        ):
            builders.find("birds", place.directory)

    def test_unfinished_records_do_not_count(self, place):
        place("birds/3.0.0", "birds/4.0.0.incompleteXYZ")
        found = builders.find("birds", place.directory)
        assert Path(found.data_path).name == "3.0.0"

    def test_the_only_config_need_not_be_named(self, place):
        place("birds/zero_shot/3.0.0", "birds/zero_shot/3.0.1")
        for name in ("birds", "birds/zero_shot"):
            found = builders.find(name, place.directory)
            assert Path(found.data_path).parts[-2:] == ("zero_shot", "3.0.1")

    def test_one_of_several_configs_must_be_named(self, place):
        place("birds/a/3.0.0", "birds/b/3.0.0")
        with pytest.raises(ValueError, match="birds.* /a, /b$"):
            builders.find("birds", place.directory)
        found = builders.find("birds/b", place.directory)
        assert Path(found.data_path).parts[-2:] == ("b", "3.0.0")

    @pytest.mark.parametrize("text", ["", "{", "[]", "\\0"])
    def test_damaged_description(self, place, small, tmp_path, text):
        place("birds/3.0.0")
        (tmp_path / "birds/3.0.0/dataset_info.json").write_text(text)
        with pytest.raises(ValueError, match="birds/3.0.0/dataset_info.json"):
            builders.find("birds", place.directory)
        builder = prepare_folder(small, tmp_path / "records")
        info = builder.data_path / "dataset_info.json"
        info.write_text(text)
        with pytest.raises(ValueError, match=f"{info} is damaged.*; delete"):
            prepare_folder(small, tmp_path / "records")

    def test_none(self, place):
        place("birds/a/3.0.0", "birds_2/3.0.0.incompleteXYZ")
        for name in ("bird", "birds/b", "birds_2", "a"):
            with pytest.raises(FileNotFoundError, match=f"{name}: no records"):
                builders.find(name, place.directory)

    def test_default_place_is_that_of_tfds(self, small):
        builder = builders.prepare(folder_builder(small.path), small.path)
        name = f"folder/{builder.builder_config.name}"
        assert builders.find(name).data_path == builder.data_path
