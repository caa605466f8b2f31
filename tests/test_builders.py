"""Records of image files and of scenes, byte by byte."""

import collections
import csv
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf import builders, scenes
from imcl_tf.folder import Folder, folder_builder

SPLITS = ("train", "validation", "test")
LEAST_SHARDS = 8


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


def shuffled(names, split):
    """TFDS's order: by the MD5 sum of the split's name and the image's."""
    return sorted(
        names, key=lambda n: hashlib.md5(f"{split}{n}".encode()).digest()
    )


def label_indices(folder, image, sign):
    labels = folder.labels[image]
    return [
        j for j, n in enumerate(folder.label_names) if labels.get(n) == sign
    ]


def files_of(builder):
    """Name -> content of all files of a data set."""
    return {
        path.name: path.read_bytes()
        for path in Path(str(builder.data_path)).rglob("*")
    }


def left_out(builder):
    text = (builder.data_path / builders.LEFT_OUT).read_text()
    return [*csv.reader(text.splitlines())]


def prepare_folder(made, records, on_bad_image="error", **options):
    builder = folder_builder(made.path, records, on_bad_image)
    return builders.prepare(builder, made.path, **options)


class TestRecords:
    def test_bytes_are_those_of_image_and_labels_in_order_of_a_hash(
        self, folder, prepared, make_example
    ):
        assert tuple(prepared.info.metadata["labels"]) == folder.label_names
        for split in SPLITS:
            expected = [
                make_example(
                    image_id=image.encode(),
                    image=folder.encoded[image],
                    positives=label_indices(folder, image, 1),
                    negatives=label_indices(folder, image, -1),
                )
                for image in shuffled(folder.splits[split], split)
            ]
            assert sum(raw_records(prepared, split), []) == expected

    def test_further_features_of_images_and_of_labels(
        self, folder, richer, make_richer, make_example
    ):
        """Certainties follow the labels, those observed present first."""
        for split in SPLITS:
            expected = []
            for image in shuffled(folder.splits[split], split):
                told = [label_indices(folder, image, sign) for sign in (1, -1)]
                expected.append(
                    make_example(
                        image_id=image.encode(),
                        image=folder.encoded[image],
                        positives=told[0],
                        negatives=told[1],
                        class_id=[make_richer.class_of(image)],
                        certainties=[
                            make_richer.certainty_of(
                                image, folder.label_names[j]
                            )
                            for j in sum(told, [])
                        ],
                    )
                )
            assert sum(raw_records(richer, split), []) == expected

    @pytest.mark.parametrize("which", ["prepared", "richer"])
    def test_tfds_alone_reads_the_same(
        self, folder, make_richer, request, which
    ):
        path = request.getfixturevalue(which).data_path
        builder = tfds.builder_from_directory(path)
        for split, images in folder.splits.items():
            ds = builder.as_dataset(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
            read = {r["image_id"].decode(): r for r in tfds.as_numpy(ds)}
            assert set(read) == set(images)
            for image, record in read.items():
                assert record["image"] == folder.encoded[image]
                row = np.zeros(len(folder.label_names), np.int8)
                row[record["positives"]], row[record["negatives"]] = 1, -1
                np.testing.assert_array_equal(row, folder.rows([image])[0])
                if which == "richer":
                    assert record["class_id"] == make_richer.class_of(image)
                    assert len(record["certainties"]) == np.count_nonzero(row)

    def test_tfds_decodes_the_images(self, folder, prepared):
        builder = tfds.builder_from_directory(prepared.data_path)
        for record in builder.as_dataset("test"):
            image = folder.encoded[record["image_id"].numpy().decode()]
            np.testing.assert_array_equal(
                record["image"], tf.io.decode_image(image, channels=3)
            )

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
            assert len(record) < len(image) + 200  # 3000 bytes if dense


class TestShards:
    def test_enough_to_shuffle_and_read_in_parallel(self, folder, prepared):
        for split, images in folder.splits.items():
            info = prepared.info.splits[split]
            lengths = [len(shard) for shard in raw_records(prepared, split)]
            assert info.num_examples == len(images)
            assert lengths == list(info.shard_lengths)
            assert len(lengths) == LEAST_SHARDS
            assert max(lengths) - min(lengths) <= 1

    def test_fewer_where_a_split_has_fewer_images(self, make_folder, tmp_path):
        sizes = {"train": 9, "validation": 1, "test": 3}
        made = make_folder(tmp_path / "raw", sizes)
        builder = prepare_folder(made, tmp_path / "out")
        for split, shards in (("train", 8), ("validation", 1), ("test", 3)):
            records = raw_records(builder, split)
            assert len(records) == shards
            images = [parsed(r)["image_id"][0] for r in sum(records, [])]
            assert sorted(images) == sorted(
                name.encode() for name in made.splits[split]
            )

    def test_more_where_it_has_many(self, folder, tmp_path, monkeypatch):
        """23 images, two a shard: 11, one of them of three."""
        monkeypatch.setattr(builders, "_SHARD_IMAGES", 2)
        builder = prepare_folder(folder, tmp_path)
        assert sorted(builder.info.splits["train"].shard_lengths) == [
            *[2] * 10, 3,
        ]  # fmt: skip
        ids = [
            parsed(r)["image_id"][0].decode()
            for r in sum(raw_records(builder, "train"), [])
        ]
        assert ids == shuffled(folder.splits["train"], "train")


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
        original, count = builders.records.encode_image, iter(range(13))

        def encode(*arguments):
            if next(count, None) is None:  # amid the second split
                raise error
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(builders.records, "encode_image", encode)
            fails(small, error.args[-1], error=raised)
        builder = prepare_folder(small, tmp_path / "records")
        assert builder.info.splits["train"].num_examples == 10

    @pytest.mark.parametrize("size", [100, 1_000])
    def test_full_disk_leaves_nothing(self, small, fails, small_disk, size):
        with small_disk(size):
            fails(small, error=OSError, limit=2_000)


def pillow_image(seed=0, size=(24, 17), mode="RGB"):
    """A random image that differs on all sides; JPEG hardly changes it."""
    from PIL import Image

    colours = np.random.default_rng(seed).integers(0, 256, (3, 2, 3))
    image = Image.fromarray(colours.astype(np.uint8))
    return image.resize(size).convert(mode)


def encoded_by_pillow(image, kind, orientation=1):
    exif = image.getexif()
    if orientation > 1:
        exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(
        file, kind, exif=exif, **{"quality": 95} if kind == "JPEG" else {}
    )
    return file.getvalue()


class TestUnusualImages:
    def test_are_counted(self, folder, prepared):
        """By Pillow's word for the images of the folder."""
        image = pytest.importorskip("PIL.Image")
        words = {"L": "images: gray", "RGBA": "images: alpha"}
        modes = [
            image.open(io.BytesIO(x)).mode for x in folder.encoded.values()
        ]
        expected = collections.Counter(map(words.get, modes))
        del expected[None]
        counts = tfds.builder_from_directory(prepared.data_path).info.metadata[
            "counts"
        ]
        assert len(expected) == 2 and counts == expected
        assert not (prepared.data_path / builders.LEFT_OUT).exists()

    def test_are_kept_as_they_came_but_for_their_orientation(
        self, make_folder, tmp_path
    ):
        ops = pytest.importorskip("PIL.ImageOps")
        sizes = {"train": 8, "validation": 1, "test": 1}
        made = make_folder(tmp_path / "raw", sizes)
        deep = np.arange(60, dtype=np.uint16).reshape(4, 5, 3) * 1000
        pictures = [
            encoded_by_pillow(pillow_image(1, mode="CMYK"), "JPEG"),
            encoded_by_pillow(pillow_image(2, mode="L"), "JPEG"),
            encoded_by_pillow(pillow_image(3, mode="P"), "PNG"),
            tf.io.encode_png(deep).numpy(),
            encoded_by_pillow(pillow_image(4), "PNG", 5),
            *(encoded_by_pillow(pillow_image(n), "JPEG", n) for n in (6, 3)),
            encoded_by_pillow(pillow_image(7), "JPEG"),
        ]
        upright = pictures[:4] + pictures[7:]
        files = dict(zip(made.splits["train"], pictures, strict=True))
        plain = tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy()
        for name in made.encoded:
            (made.path / "images" / name).write_bytes(files.get(name, plain))

        builder = prepare_folder(made, tmp_path / "records")
        assert builder.info.metadata["counts"] == {
            "images: CMYK": 1,
            "images: gray": 1,
            "images: palette": 1,
            "images: 16-bit": 1,
            "images: EXIF orientation 5": 1,
            "images: EXIF orientation 6": 1,
            "images: EXIF orientation 3": 1,
        }
        open_image = pytest.importorskip("PIL.Image").open
        for record in map(parsed, sum(raw_records(builder, "train"), [])):
            (name,), (stored,) = record["image_id"], record["image"]
            came = files[name.decode()]
            if came in upright:
                assert stored == came
                continue
            assert stored != came
            expected = ops.exif_transpose(open_image(io.BytesIO(came)))
            # TensorFlow ignores orientations: so training sees it.
            pixels = tf.io.decode_image(stored, channels=3).numpy()
            assert pixels.shape == (*expected.size[::-1], 3)
            difference = np.abs(pixels.astype(float) - np.asarray(expected))
            assert difference.mean() <= (0 if stored[:1] == b"\x89" else 4)


REASONS = {
    "missing": "no such image file",
    "html": "an HTML page, not an image",
    "empty": "empty file",
    "cut": "truncated JPEG",
    "directory": "Is a directory",
}


def spoil(folder, name, damage):
    """Makes an image unusable."""
    path = folder.path / "images" / name
    path.unlink()
    if damage == "html":
        path.write_text("<html><body>404 Not Found</body></html>\n")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 1))
        content = tf.io.encode_jpeg(pixels.astype(np.uint8)).numpy()
        path.write_bytes(content[: len(content) // 2])
    elif damage == "directory":
        path.mkdir()
    return name


class TestBadImages:
    @pytest.mark.parametrize("damage", REASONS)
    def test_error_names_image_and_reason(self, small, fails, damage):
        name = spoil(small, small.splits["train"][1], damage)
        fails(small, f"{name}: {REASONS[damage]}", "--on_bad_image=skip")

    def test_skipped_ones_are_listed_and_counted(self, small, tmp_path):
        bad = dict(zip(REASONS, small.splits["train"], strict=False))
        bad["html 2"] = small.splits["test"][2]
        for damage, name in bad.items():
            spoil(small, name, damage.split()[0])
        builder = prepare_folder(small, tmp_path, "skip")
        expected = [
            ["train", bad[damage], reason] for damage, reason in REASONS.items()
        ]
        expected.append(["test", bad["html 2"], REASONS["html"]])
        header, *rows = left_out(builder)
        assert header == ["split", "image_id", "reason"]
        assert rows == sorted(expected)
        for split, images in small.splits.items():
            records = map(parsed, sum(raw_records(builder, split), []))
            read = {
                record["image_id"][0].decode(): record for record in records
            }
            assert set(read) == set(images) - set(bad.values())
            for image, record in read.items():
                assert record["image"] == [small.encoded[image]]
                for key, sign in (("positives", 1), ("negatives", -1)):
                    assert record[key] == label_indices(small, image, sign)

        # On disk, not only in the builder that wrote it; and TFDS still
        # reads all of it, though some shards are empty.
        again = tfds.builder_from_directory(builder.data_path)
        assert again.info.metadata["counts"]["images left out"] == 6
        assert 0 in again.info.splits["train"].shard_lengths
        for split, size in (("train", 5), ("validation", 8), ("test", 7)):
            assert again.info.splits[split].num_examples == size
            assert len([*again.as_dataset(split)]) == size

    def test_images_and_labels_stay_together_over_many_tasks(
        self, small, tmp_path, monkeypatch
    ):
        """One shard, two images at a time, the first and the fifth bad."""
        monkeypatch.setattr(builders, "_LEAST_SHARDS", 1)
        monkeypatch.setattr(builders, "_IMAGES_PER_TASK", 2)
        order = shuffled(small.splits["train"], "train")
        for n, damage in ((0, "cut"), (4, "missing")):
            spoil(small, order[n], damage)
        builder = prepare_folder(small, tmp_path, "skip")
        (records,) = raw_records(builder, "train")
        kept = [order[n] for n in range(10) if n not in (0, 4)]
        for record, image in zip(map(parsed, records), kept, strict=True):
            assert record["image_id"] == [image.encode()]
            assert record["image"] == [small.encoded[image]]
            assert record["positives"] == label_indices(small, image, 1)
        assert left_out(builder)[1:] == sorted(
            [["train", order[0], REASONS["cut"]],
             ["train", order[4], REASONS["missing"]]]
        )  # fmt: skip

    def test_what_is_left_out_is_not_counted_as_unusual(self, small, tmp_path):
        plain = tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy()
        for name in small.encoded:
            (small.path / "images" / name).write_bytes(plain)
        spoil(small, small.splits["train"][0], "cut")  # a gray JPEG
        builder = prepare_folder(small, tmp_path, "skip")
        assert builder.info.metadata["counts"] == {"images left out": 1}

    def test_nothing_to_skip(self, small, tmp_path):
        builder = prepare_folder(small, tmp_path, "skip")
        assert not (builder.data_path / builders.LEFT_OUT).exists()
        assert "images left out" not in builder.info.metadata["counts"]
        assert builder.info.splits["train"].num_examples == 10

    def test_no_split_may_become_empty(self, small, fails):
        for name in small.splits["validation"]:
            spoil(small, name, "html")
        fails(small, "validation", "no image", on_bad_image="skip")

    def test_is_error_or_skip(self, tmp_path):
        with pytest.raises(ValueError, match="error or skip.*'ignore'"):
            Folder(on_bad_image="ignore", data_dir=tmp_path)


class TestBeam:
    @pytest.fixture(autouse=True)
    def beam(self):
        pytest.importorskip("apache_beam")

    @pytest.mark.parametrize("on_bad_image", ["error", "skip"])
    def test_every_file_is_the_same(
        self, small, make_richer, tmp_path, on_bad_image
    ):
        if on_bad_image == "skip":
            spoil(small, small.splits["train"][0], "cut")
            spoil(small, small.splits["test"][3], "missing")
        plain, by_beam = (
            files_of(
                builders.prepare(
                    make_richer(data_dir=tmp_path / f"{runner}records",
                                on_bad_image=on_bad_image),
                    small.path, runner,
                )
            )
            for runner in ("", "DirectRunner")
        )  # fmt: skip
        assert len(plain) == 24 + 3 + (on_bad_image == "skip")
        assert {"dataset_info.json", "metadata.json"} < set(plain)
        assert ("left_out.csv" in plain) == (on_bad_image == "skip")
        assert by_beam == plain

    def test_scenes_too(self, few_scenes, tmp_path, monkeypatch):
        monkeypatch.setattr(builders, "_SCENES_SIZES", SCENES_SIZES)
        builder = builders.prepare(
            builders.Scenes(data_dir=tmp_path), beam_runner="DirectRunner"
        )
        assert files_of(builder) == files_of(few_scenes)

    def test_bad_image_is_named(self, small, fails):
        name = spoil(small, small.splits["train"][1], "html")
        options = {"beam_runner": "DirectRunner"}
        message = fails(small, f"{name}: {REASONS['html']}; ", **options)
        assert message.endswith("leaves such images out")

    def test_is_an_extra(self, small, fails, monkeypatch):
        for name in ("apache_beam", "apache_beam.options.pipeline_options"):
            monkeypatch.setitem(sys.modules, name, None)
        fails(small, "imcl_tf[beam]", beam_runner="DirectRunner")

    def test_wrong_runner(self, small, fails):
        fails(small, "NoRunner", beam_runner="NoRunner")


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
        place("birds/1.9.0", "birds/1.10.0", "birds/1.2.11")
        for data_dir in (place.directory, str(place.directory)):
            found = builders.find("birds", data_dir)
            assert Path(found.data_path) == place.directory / "birds" / "1.10.0"
        assert tuple(found.info.metadata["labels"]) == folder.label_names
        assert len([*found.as_dataset("test")]) == len(folder.splits["test"])

    def test_unfinished_records_do_not_count(self, place):
        place("birds/1.0.0", "birds/2.0.0.incompleteXYZ")
        found = builders.find("birds", place.directory)
        assert Path(found.data_path).name == "1.0.0"

    def test_the_only_config_need_not_be_named(self, place):
        place("birds/zero_shot/1.0.0", "birds/zero_shot/1.0.1")
        for name in ("birds", "birds/zero_shot"):
            found = builders.find(name, place.directory)
            assert Path(found.data_path).parts[-2:] == ("zero_shot", "1.0.1")

    def test_one_of_several_configs_must_be_named(self, place):
        place("birds/a/1.0.0", "birds/b/1.0.0")
        with pytest.raises(ValueError, match="birds.* /a, /b$"):
            builders.find("birds", place.directory)
        found = builders.find("birds/b", place.directory)
        assert Path(found.data_path).parts[-2:] == ("b", "1.0.0")

    def test_none(self, place):
        place("birds/a/1.0.0", "birds_2/1.0.0.incompleteXYZ")
        for name in ("bird", "birds/b", "birds_2", "a"):
            with pytest.raises(FileNotFoundError, match=f"{name}: no records"):
                builders.find(name, place.directory)

    def test_default_place_is_that_of_tfds(self, small):
        builder = builders.prepare(folder_builder(small.path), small.path)
        name = f"folder/{builder.builder_config.name}"
        assert builders.find(name).data_path == builder.data_path


SCENES_SIZES = {"train": 11, "validation": 8, "test": 9}


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "_SCENES_SIZES", SCENES_SIZES)
        records = tmp_path_factory.mktemp("scenes")
        return builders.prepare(builders.Scenes(data_dir=records))


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

    def test_order_is_that_of_the_hash(self, few_scenes):
        for seed, (split, size) in enumerate(SCENES_SIZES.items()):
            records = sum(raw_records(few_scenes, split), [])
            names = [parsed(r)["image_id"][0].decode() for r in records]
            everything = [f"{seed}-{n:05d}.jpg" for n in range(size)]
            assert names == shuffled(everything, split)

    def test_real_sizes(self):
        assert set(builders._SCENES_SIZES) == set(SPLITS)
        assert sum(builders._SCENES_SIZES.values()) == 6000
