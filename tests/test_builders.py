"""The data sets that main prepares by itself, against their CSV files."""

import csv
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf import builders, scenes

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
SPLITS = ("train", "validation", "test")


def snapshot(directory):
    """Path, size and time of everything below `directory`."""
    directory = Path(directory)  # of TFDS's own kind, it would not glob
    paths = [directory, *directory.rglob("*")]
    stats = {str(p.relative_to(directory)): p.stat() for p in paths}
    return {name: (s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def raw_records(builder, split):
    """The records of a split, file by file."""
    return [
        list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        for path in builder.info.splits[split].filepaths
    ]


def parsed(record):
    """Feature name -> list of values, by the protocol buffer alone."""
    values = {}
    for name, f in tf.train.Example.FromString(record).features.feature.items():
        kind = f.WhichOneof("kind")
        values[name] = list(getattr(f, kind).value) if kind else []
    return values


def read_csv(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edit(path, change):
    """Rewrites a text file."""
    path.write_text(change(path.read_text()))


def fails(folder, tmp_path, *words, error=ValueError, limit=500, **options):
    """Preparing fails in one line with `words` and leaves no file behind."""
    records = tmp_path / "records"
    with pytest.raises(error) as caught:
        builders.prepare("folder", str(folder.path), str(records), **options)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert len(message.strip().splitlines()) == 1
    assert len(message) < limit
    assert [p for p in records.rglob("*") if p.is_file()] == []
    assert not [*records.rglob("1.0.0")]
    assert not [*records.rglob("*incomplete*")]
    return message


@pytest.fixture
def small(make_folder, tmp_path):
    """A folder to spoil."""
    sizes = {"train": 10, "validation": 8, "test": 8}
    return make_folder(tmp_path / "raw", sizes, names=())


class TestReadFolder:
    def test_labels_and_splits_are_those_of_the_tables(self, folder):
        read = builders.read_folder(folder.path)
        assert read.label_names == folder.label_names
        assert read.skipped == ()
        assert set(read.images) == set(read.labels) == set(SPLITS)
        for split in SPLITS:
            assert read.images[split] == sorted(folder.splits[split])
            labels = read.labels[split]
            assert labels.format == "csr" and labels.dtype == np.int8
            np.testing.assert_array_equal(
                labels.toarray(), folder.rows(read.images[split])
            )
            # Observed entries alone are stored.
            assert labels.nnz == np.count_nonzero(labels.toarray())

    def test_packed_table_says_the_same(self, make_folder, tmp_path):
        plain = make_folder(tmp_path / "plain")
        packed = make_folder(tmp_path / "packed", packed=True)
        assert (packed.path / "labels.csv.gz").is_file()
        assert not (packed.path / "labels.csv").exists()
        one, two = map(builders.read_folder, (plain.path, packed.path))
        assert one.label_names == two.label_names and one.images == two.images
        for split in SPLITS:
            assert (one.labels[split] != two.labels[split]).nnz == 0

    @pytest.mark.parametrize(
        "labels",
        [("001", "002", "10"), ("1", "01", "1.0", "1e0"), ("False", "True")],
    )
    @pytest.mark.parametrize("width", [1, 3])
    def test_names_stay_text_where_all_are_numbers(
        self, make_folder, tmp_path, labels, width
    ):
        sizes = {"train": 3, "validation": 2, "test": 2}
        names = [f"{n:0{width}d}" for n in range(7)]
        made = make_folder(tmp_path / "raw", sizes, labels, names)
        read = builders.read_folder(made.path)
        assert read.label_names == made.label_names == tuple(sorted(labels))
        for split in SPLITS:
            assert read.images[split] == sorted(made.splits[split])
            np.testing.assert_array_equal(
                read.labels[split].toarray(), made.rows(read.images[split])
            )

    def test_byte_order_mark_and_line_ends_of_windows(self, small):
        for name in ("labels.csv", "splits.csv"):
            path = small.path / name
            text = path.read_bytes().replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + text)
        read = builders.read_folder(small.path)
        assert read.label_names == small.label_names
        for split in SPLITS:
            np.testing.assert_array_equal(
                read.labels[split].toarray(), small.rows(read.images[split])
            )

    def test_the_same_pair_twice_with_one_value_counts_once(self, small):
        (image, given), *_ = (i for i in small.labels.items() if i[1])
        name, value = next(iter(given.items()))
        with (small.path / "labels.csv").open("a") as file:
            csv.writer(file).writerow((image, name, value))
        read = builders.read_folder(small.path)
        for split in SPLITS:
            np.testing.assert_array_equal(
                read.labels[split].toarray(), small.rows(read.images[split])
            )

    def test_further_columns_and_order_do_not_matter(self, small):
        rows = read_csv(small.path / "labels.csv")
        columns = ("note", "value", "label", "image")
        with (small.path / "labels.csv").open("w") as file:
            writer = csv.DictWriter(file, columns, restval="x")
            writer.writeheader()
            writer.writerows(rows)
        read = builders.read_folder(small.path)
        assert read.label_names == small.label_names
        for split in SPLITS:
            np.testing.assert_array_equal(
                read.labels[split].toarray(), small.rows(read.images[split])
            )

    def test_images_that_no_table_names_do_not_matter(self, small):
        (small.path / "images" / "Thumbs.db").write_bytes(b"no image")
        read = builders.read_folder(small.path)
        assert sum(map(len, read.images.values())) == 26

    def test_on_bad_image_is_error_or_skip(self, small):
        with pytest.raises(ValueError, match="on_bad_image.*ignore"):
            builders.read_folder(small.path, "ignore")


class TestPrepare:
    def test_records_hold_files_and_labels(self, folder, prepared):
        names = prepared.info.metadata["labels"]
        assert tuple(names) == folder.label_names
        assert not prepared.info.metadata["skipped"]
        for split in SPLITS:
            records = map(parsed, sum(raw_records(prepared, split), []))
            images = set()
            for record in records:
                image = record["image_id"][0].decode()
                images.add(image)
                assert record["image"] == [folder.encoded[image]]
                expected = folder.labels[image]
                for key, sign in (("positives", 1), ("negatives", -1)):
                    told = {names[index] for index in record[key]}
                    assert len(told) == len(record[key])
                    assert told == {n for n, v in expected.items() if v == sign}
                assert set(record) <= {
                    "image_id", "image", "positives", "negatives"
                }  # fmt: skip
            assert images == set(folder.splits[split])

    def test_tfds_reads_the_same(self, folder, prepared):
        ds = prepared.as_dataset(
            split="train", decoders={"image": tfds.decode.SkipDecoding()}
        )
        read = {r["image_id"].decode(): r for r in tfds.as_numpy(ds)}
        assert set(read) == set(folder.splits["train"])
        for image, record in read.items():
            assert record["image"] == folder.encoded[image]
            row = np.zeros(len(folder.label_names), np.int8)
            row[record["positives"]], row[record["negatives"]] = 1, -1
            np.testing.assert_array_equal(row, folder.rows([image])[0])

    def test_split_sizes_and_shards(self, folder, prepared):
        for split, images in folder.splits.items():
            info = prepared.info.splits[split]
            shards = raw_records(prepared, split)
            assert info.num_examples == len(images)
            assert len(shards) == 8  # to shuffle and read in parallel
            assert [len(s) for s in shards] == list(info.shard_lengths)

    def test_no_dense_label_vector_on_disk(self, make_folder, tmp_path):
        names = [f"label {n}" for n in range(3000)]
        sizes = {"train": 8, "validation": 8, "test": 8}
        made = make_folder(tmp_path / "raw", sizes, names[:5], names=())
        with (made.path / "labels.csv").open("a") as file:
            rows = [(made.splits["test"][0], n, 0) for n in names[5:]]
            csv.writer(file).writerows(rows)
        builder = builders.prepare(
            "folder", str(made.path), str(tmp_path / "records")
        )
        assert len(builder.info.metadata["labels"]) == 3000
        for record in sum(raw_records(builder, "train"), []):
            image = parsed(record)["image"][0]
            assert len(record) < len(image) + 200  # 3000 bytes if dense

    def test_folder_stays_as_it_was(self, make_folder, tmp_path):
        made = make_folder(tmp_path / "raw", packed=True)
        before = snapshot(made.path)
        everything = [made.path, *made.path.rglob("*")]
        modes = {path: path.stat().st_mode for path in everything}
        try:
            for path in everything:
                path.chmod(modes[path] & ~0o222)
            builders.prepare("folder", str(made.path), str(tmp_path / "out"))
        finally:
            for path in everything:
                path.chmod(modes[path])
        assert snapshot(made.path) == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]

    def test_second_prepare_reuses(self, folder, prepared, monkeypatch):
        before = snapshot(prepared.data_path)

        def refuse(*_):
            raise AssertionError("read again")

        monkeypatch.setattr(builders, "read_folder", refuse)
        root = prepared.data_path.parents[2]
        again = builders.prepare("folder", str(folder.path), str(root))
        assert again.data_path == prepared.data_path
        assert snapshot(prepared.data_path) == before
        assert again.info.metadata["labels"] == list(folder.label_names)
        assert again.info.splits["test"].num_examples == 11

    def test_a_copy_elsewhere_is_the_same_data_set(
        self, folder, prepared, tmp_path, monkeypatch
    ):
        copy = tmp_path / "copy"
        shutil.copytree(folder.path, copy)  # keeps times
        monkeypatch.setattr(builders, "read_folder", None)
        root = prepared.data_path.parents[2]
        again = builders.prepare("folder", str(copy), str(root))
        assert again.data_path == prepared.data_path

    def test_default_place_is_that_of_tfds(self, small):
        builder = builders.prepare("folder", str(small.path))
        place = Path(os.environ["TFDS_DATA_DIR"])
        assert builder.data_path.is_relative_to(place / "folder")

    def test_interrupted_preparation_leaves_nothing(
        self, small, tmp_path, monkeypatch
    ):
        count = iter(range(3))  # stops amid the images

        def example(*_):
            if next(count, None) is None:
                raise OSError(28, "No space left on device")
            return original(*_)

        original = builders._example
        monkeypatch.setattr(builders, "_example", example)
        fails(small, tmp_path, "No space left", error=OSError)
        monkeypatch.undo()
        builder = builders.prepare(
            "folder", str(small.path), str(tmp_path / "records")
        )
        assert builder.info.splits["train"].num_examples == 10

    def test_full_disk_leaves_nothing(self, small, tmp_path, small_disk):
        with small_disk(5_000):
            fails(small, tmp_path, error=OSError, limit=2_000)

    def test_splits_smaller_than_the_number_of_shards(
        self, make_folder, tmp_path
    ):
        sizes = {"train": 9, "validation": 1, "test": 3}
        made = make_folder(tmp_path / "raw", sizes)
        builder = builders.prepare(
            "folder", str(made.path), str(tmp_path / "out")
        )
        for split, size in sizes.items():
            shards = raw_records(builder, split)
            assert len(shards) <= size
            images = [
                parsed(r)["image_id"][0].decode() for r in sum(shards, [])
            ]
            assert sorted(images) == sorted(made.splits[split])

    def test_large_splits_get_more_shards(self):
        """TFDS's files are of 1 GiB at most; three images fill three."""
        config = builders._DownloadConfig().get_shard_config()
        assert config.get_number_shards(20 * 2**30, 10**6) >= 20
        assert config.get_number_shards(1000, 3) == 3

    def test_unknown_data_set(self):
        with pytest.raises(ValueError, match="scenes or folder.*'mnist'"):
            builders.prepare("mnist")

    def test_folder_needs_a_directory(self):
        with pytest.raises(ValueError, match="directory"):
            builders.prepare("folder")


class TestDigest:
    def test_same_content_same_key(self, folder, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(folder.path, copy)
        key = builders.folder_digest(folder.path, "error")
        assert builders.folder_digest(copy, "error") == key
        assert builders.folder_digest(str(copy), "error") == key

    @pytest.mark.parametrize(
        "what",
        ["labels", "splits", "bytes", "time", "new", "gone", "renamed"],
    )
    def test_other_content_other_key(self, small, what):
        key = builders.folder_digest(small.path, "error")
        image = small.path / "images" / small.splits["train"][0]
        stat = image.stat()
        if what in ("labels", "splits"):
            path = small.path / f"{what}.csv"
            edit(path, lambda text: text + text.splitlines()[-1] + "\n")
        elif what == "bytes":  # with the time it had
            image.write_bytes(image.read_bytes() + b"more")
            os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        elif what == "time":
            os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        elif what == "new":
            (image.parent / "another").write_bytes(b"")
        elif what == "gone":
            image.unlink()
        else:
            image.rename(image.with_name("renamed.jpg"))
        assert builders.folder_digest(small.path, "error") != key

    def test_other_treatment_other_key(self, folder):
        keys = {
            builders.folder_digest(folder.path, option)
            for option in ("error", "skip")
        }
        assert len(keys) == 2


class TestBadInput:
    def test_no_such_folder(self, small, tmp_path):
        nowhere = small._replace(path=tmp_path / "nowhere")
        fails(nowhere, tmp_path, "nowhere", error=FileNotFoundError)

    @pytest.mark.parametrize("name", ["labels.csv", "splits.csv", "images"])
    def test_missing_file(self, small, tmp_path, name):
        (small.path / name).rename(tmp_path / "elsewhere")
        fails(small, tmp_path, str(small.path / name), error=FileNotFoundError)

    @pytest.mark.parametrize(
        ("file", "column"),
        [
            ("labels.csv", "image"),
            ("labels.csv", "label"),
            ("labels.csv", "value"),
            ("splits.csv", "image"),
            ("splits.csv", "split"),
        ],
    )
    def test_missing_column(self, small, tmp_path, file, column):
        path = small.path / file
        edit(path, lambda text: text.replace(column, "other", 1))
        fails(small, tmp_path, str(path), f"{column}", "other")

    @pytest.mark.parametrize("file", ["labels.csv", "splits.csv"])
    def test_empty_file(self, small, tmp_path, file):
        (small.path / file).write_text("")
        fails(small, tmp_path, str(small.path / file))

    @pytest.mark.parametrize("file", ["labels.csv", "splits.csv"])
    def test_not_a_text_file(self, small, tmp_path, file):
        (small.path / file).write_bytes(bytes(range(128, 256)))
        fails(small, tmp_path, str(small.path / file))

    @pytest.mark.parametrize("value", ["2", "nan", "NaN", "", "yes", "0.5"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_wrong_value(self, make_folder, tmp_path, value, packed):
        sizes = {"train": 2, "validation": 1, "test": 1}
        made = make_folder(tmp_path / "raw", sizes, names=(), packed=packed)
        path = made.path / ("labels.csv.gz" if packed else "labels.csv")
        rows = [[*row.values()] for row in read_csv(path)]
        rows[4][2] = value
        made.write_table(path.name, rows)
        told = fails(
            made, tmp_path, str(path), "line 6", rows[4][0], rows[4][1]
        )
        assert told.endswith(f"got {value or 'nothing'}")

    def test_wrong_value_is_told_as_it_was_written(self, small, tmp_path):
        """Not as 7.0, which nobody will find in the file."""
        path = small.path / "labels.csv"
        edit(path, lambda text: f"{text}{small.splits['train'][0]},cat,7\n")
        assert fails(small, tmp_path, str(path)).endswith("got 7")

    def test_line_without_a_value(self, small, tmp_path):
        path = small.path / "labels.csv"
        edit(path, lambda text: f"{text}{small.splits['train'][0]},cat\n")
        fails(small, tmp_path, str(path), "cat")

    @pytest.mark.parametrize("file", ["labels.csv", "splits.csv"])
    @pytest.mark.parametrize("which", ["last", "all"])
    def test_line_with_a_field_too_many(self, small, tmp_path, file, which):
        path = small.path / file

        def add(text):
            header, *lines = text.splitlines()
            if which == "last":
                return "\n".join([header, *lines[:-1], lines[-1] + ",1\n"])
            return "\n".join([header, *(line + ",1" for line in lines), ""])

        edit(path, add)
        fails(small, tmp_path, str(path))

    @pytest.mark.parametrize("other", [-1, 0])
    def test_one_pair_with_two_values(self, small, tmp_path, other):
        path = small.path / "labels.csv"
        with path.open("a") as file:
            image = small.splits["test"][0]
            writer = csv.writer(file)
            writer.writerows([(image, "new", 1), (image, "new", other)])
        fails(small, tmp_path, str(path), image, "new", "different")

    def test_labelled_image_without_a_split(self, small, tmp_path):
        image = small.splits["train"][0]
        rows = read_csv(small.path / "splits.csv")
        rows = [[*r.values()] for r in rows if r["image"] != image]
        small.write_table("splits.csv", rows)
        fails(small, tmp_path, str(small.path / "splits.csv"), image)

    def test_image_of_a_split_without_a_label(self, small, tmp_path):
        with (small.path / "splits.csv").open("a") as file:
            file.write("stranger.jpg,train\n")
        fails(small, tmp_path, str(small.path / "labels.csv"), "stranger.jpg")

    def test_image_twice_in_the_splits(self, small, tmp_path):
        image = small.splits["train"][0]
        with (small.path / "splits.csv").open("a") as file:
            file.write(f"{image},test\n")
        fails(small, tmp_path, str(small.path / "splits.csv"), image, "twice")

    @pytest.mark.parametrize("split", ["val", "Train", ""])
    def test_unknown_split(self, small, tmp_path, split):
        path = small.path / "splits.csv"
        rows = [[*row.values()] for row in read_csv(path)]
        rows[2][1] = split
        small.write_table("splits.csv", rows)
        told = f"got {split or 'nothing'}"
        fails(small, tmp_path, str(path), "line 4", told)

    @pytest.mark.parametrize("split", SPLITS)
    def test_empty_split(self, small, tmp_path, split):
        other = "train" if split != "train" else "test"
        path = small.path / "splits.csv"
        edit(path, lambda text: text.replace(f",{split}", f",{other}"))
        fails(small, tmp_path, str(path), split, "no image")

    def test_labels_not_gzip(self, small, tmp_path):
        path = small.path / "labels.csv"
        path.rename(path.with_name("labels.csv.gz"))
        fails(small, tmp_path, str(path) + ".gz")

    def test_labels_gzip_cut_short(self, make_folder, tmp_path):
        made = make_folder(tmp_path / "raw", packed=True)
        path = made.path / "labels.csv.gz"
        path.write_bytes(path.read_bytes()[:-20])
        fails(made, tmp_path, str(path))

    @pytest.mark.parametrize("damage", ["missing", "html", "empty", "cut"])
    def test_bad_image(self, small, tmp_path, damage):
        name = spoil(small, small.splits["train"][1], damage)
        path = small.path / "images" / name
        fails(small, tmp_path, str(path), "on_bad_image=skip")

    def test_several_bad_images_are_counted(self, small, tmp_path):
        for name in small.splits["train"][:3]:
            spoil(small, name, "html")
        fails(small, tmp_path, "3 such images")


def spoil(folder, name, damage):
    """Makes an image unreadable."""
    path = folder.path / "images" / name
    if damage == "missing":
        path.unlink()
    elif damage == "html":
        path.write_text("<html><body>404 Not Found</body></html>\n")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
        content = tf.io.encode_jpeg(pixels.astype(np.uint8)).numpy()
        path.write_bytes(content[: len(content) // 2])
    return name


class TestSkip:
    @pytest.mark.parametrize("damage", ["missing", "html", "empty", "cut"])
    def test_bad_image_is_left_out_and_listed(
        self, small, tmp_path, damage, caplog
    ):
        bad = spoil(small, small.splits["train"][1], damage)
        with caplog.at_level("WARNING", "absl"):
            builder = builders.prepare(
                "folder", str(small.path), str(tmp_path / "out"), "skip"
            )
        records = map(parsed, sum(raw_records(builder, "train"), []))
        images = {record["image_id"][0].decode() for record in records}
        assert images == set(small.splits["train"]) - {bad}
        assert builder.info.splits["train"].num_examples == 9
        assert builder.info.splits["test"].num_examples == 8
        (line,) = builder.info.metadata["skipped"]
        assert line.startswith(f"{bad}: ")
        assert "1 unreadable image" in caplog.text and bad in caplog.text

        # The list is on disk, not only in the builder that wrote it.
        again = builders.prepare(
            "folder", str(small.path), str(tmp_path / "out"), "skip"
        )
        assert list(again.info.metadata["skipped"]) == [line]
        assert tuple(again.info.metadata["labels"]) == small.label_names

    def test_rows_still_belong_to_their_images(self, small):
        spoil(small, sorted(small.splits["train"])[0], "html")
        read = builders.read_folder(small.path, "skip")
        assert read.images["train"] == sorted(small.splits["train"])[1:]
        np.testing.assert_array_equal(
            read.labels["train"].toarray(), small.rows(read.images["train"])
        )

    def test_nothing_to_skip(self, small, tmp_path):
        builder = builders.prepare(
            "folder", str(small.path), str(tmp_path / "out"), "skip"
        )
        assert not builder.info.metadata["skipped"]
        assert builder.info.splits["train"].num_examples == 10

    def test_no_split_may_become_empty(self, small, tmp_path):
        for name in small.splits["validation"]:
            spoil(small, name, "html")
        fails(small, tmp_path, "validation", on_bad_image="skip")


SCENES_SIZES = {"train": 11, "validation": 8, "test": 9}


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "_SCENES_SIZES", SCENES_SIZES)
        records = tmp_path_factory.mktemp("scenes")
        return builders.prepare("scenes", records_dir=str(records))


class TestScenes:
    def test_every_label_is_observed(self, few_scenes):
        assert tuple(few_scenes.info.metadata["labels"]) == scenes.LABELS
        for split, size in SCENES_SIZES.items():
            records = sum(raw_records(few_scenes, split), [])
            assert len(records) == size
            for record in map(parsed, records):
                known = record["positives"] + record["negatives"]
                assert sorted(known) == list(range(len(scenes.LABELS)))

    def test_pictures_and_labels_are_those_of_render(self, few_scenes):
        names = set()
        for seed, (split, size) in enumerate(SCENES_SIZES.items()):
            records = sum(raw_records(few_scenes, split), [])
            for record in map(parsed, records):
                name = record["image_id"][0].decode()
                names.add(name)
                index = int(name.split("-")[1].removesuffix(".jpg"))
                assert index < size
                image, labels = scenes.render(seed, index)
                np.testing.assert_array_equal(
                    np.flatnonzero(labels == 1), record["positives"]
                )
                pixels = tf.io.decode_jpeg(record["image"][0]).numpy()
                assert pixels.shape == image.shape
                # JPEG changes noisy pixels a little, another picture is far.
                assert np.abs(pixels - image.astype(float)).mean() < 12
        assert len(names) == sum(SCENES_SIZES.values())

    def test_real_sizes(self):
        assert set(builders._SCENES_SIZES) == set(SPLITS)
        assert sum(builders._SCENES_SIZES.values()) == 6000


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
class TestRealData:
    def test_birds(self):
        """README.txt: 5902 images, 184 attributes, one vector per class."""
        read = builders.read_folder(REAL / "birds")
        assert len(read.label_names) == 184
        sizes = {split: len(names) for split, names in read.images.items()}
        assert sizes == {"train": 2703, "validation": 296, "test": 2903}
        vectors = {}
        for split in SPLITS:
            table = read.labels[split]
            assert table.nnz == sizes[split] * 184  # fully observed
            dense = table.toarray()
            for name, row in zip(read.images[split], dense, strict=True):
                vectors.setdefault(name.split("__")[0], set()).add(
                    row.tobytes()
                )
        assert len(vectors) == 100
        assert {len(rows) for rows in vectors.values()} == {1}

    def test_clothing(self, tmp_path):
        """README.txt: 1856 images, 36 labels, 15.5 % of pairs missing."""
        directory = REAL / "clothing"
        table = read_csv(directory / "labels.csv.gz")
        of_image = {r["image"]: r["split"] for r in read_csv(
            directory / "splits.csv")}  # fmt: skip
        expected = {split: np.zeros((36, 2), int) for split in SPLITS}
        names = sorted({row["label"] for row in table})
        column = {name: number for number, name in enumerate(names)}
        for row in table:
            counts = expected[of_image[row["image"]]]
            counts[column[row["label"]], int(row["value"] == "1")] += 1

        builder = builders.prepare("folder", str(directory), str(tmp_path))
        assert builder.info.metadata["labels"] == names and len(names) == 36
        total = 0
        for split in SPLITS:
            records = [*map(parsed, sum(raw_records(builder, split), []))]
            total += len(records)
            assert len(records) == sum(s == split for s in of_image.values())
            for sign, key in enumerate(("negatives", "positives")):
                told = np.concatenate([r[key] for r in records]).astype(int)
                np.testing.assert_array_equal(
                    np.bincount(told, minlength=36), expected[split][:, sign]
                )
        assert total == 1856
        assert 1 - len(table) / (1856 * 36) == pytest.approx(0.155, abs=5e-4)
