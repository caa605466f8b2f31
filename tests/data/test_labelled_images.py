"""Image files: checked, turned upright, left out."""

import collections
import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from imcl_tf.data import builders, datasets, labelled_images, shards
from imcl_tf.data.decoding import decode_stored
from imcl_tf.data.folder import Folder
from tests.data.common import (
    REASONS,
    dense,
    image_ids,
    label_table,
    left_out,
    parsed,
    prepare_folder,
    raw_records,
    shuffled,
    spoil,
    stored,
)
from tests.data.pictures import (
    RGB,
    RGBA,
    exif_of,
    file_of,
    image_of,
    jpeg,
    seen_by_pillow,
)


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

    def test_become_what_pillow_sees(self, make_folder, tmp_path):
        sizes = {"train": 10, "validation": 1, "test": 1}
        made = make_folder(tmp_path / "raw", sizes)
        deep = np.arange(60, dtype=np.uint16).reshape(4, 5, 3) * 1000
        pictures = [
            jpeg(image_of.fromarray(RGB).convert("CMYK")),
            jpeg(RGB[..., 0]),
            file_of(image_of.fromarray(RGB).convert("P"), "PNG"),
            file_of(RGB, "WEBP"),
            jpeg(),
            tf.io.encode_png(deep).numpy(),
            file_of(RGBA, "PNG"),
            file_of(RGB, "PNG", exif=exif_of(5)),
            *(jpeg(exif=exif_of(n)) for n in (6, 3)),
        ]
        as_they_came = pictures[:5]
        files = dict(zip(made.splits["train"], pictures, strict=True))
        for name in made.encoded:
            (made.path / "images" / name).write_bytes(files.get(name, jpeg()))

        builder = prepare_folder(made, tmp_path / "records")
        assert builder.info.metadata["counts"] == {
            "images: CMYK": 1,
            "images: gray": 1,
            "images: palette": 1,
            "images: 16-bit": 1,
            "images: alpha": 1,
            "images: EXIF orientation 5": 1,
            "images: EXIF orientation 6": 1,
            "images: EXIF orientation 3": 1,
            # Validation and test are one picture, the fifth of train.
            "images: copies of images of an earlier split": 2,
        }
        for record in map(parsed, sum(raw_records(builder, "train"), [])):
            (name,), (held,) = record["image_id"], record["image"]
            came = files[name.decode()]
            assert (held == came) == (came in as_they_came)
            pixels = decode_stored(tf.constant(held)).numpy()
            expected = deep / 257
            if came != pictures[5]:
                expected = seen_by_pillow(came)
            # Decoders of JPEG differ by a few steps of 256.
            np.testing.assert_allclose(
                pixels, expected, atol=4 if came[:1] == b"\xff" else 1
            )

    def test_of_one_colour_are_listed_and_named(
        self, small, tmp_path, caplog, monkeypatch
    ):
        names = [small.splits["train"][n] for n in range(6)]
        names.append(small.splits["test"][0])
        for n, name in enumerate(names):
            black = np.zeros((5, 4 + n, 3), np.uint8)
            (small.path / "images" / name).write_bytes(file_of(black, "PNG"))
        builder = prepare_folder(small, tmp_path)
        assert builder.info.metadata["counts"]["images: of one colour"] == 7
        text = (builder.data_path / builders.ONE_COLOUR).read_text()
        assert text.splitlines() == [
            "split,image_id",
            f"test,{names[6]}",
            *(f"train,{name}" for name in sorted(names[:6])),
        ]
        assert not (builder.data_path / builders.LEFT_OUT).exists()

        monkeypatch.setattr(
            datasets, "folder_builder", lambda *_, **__: builder
        )
        with caplog.at_level("WARNING", "absl"):
            datasets.load_dataset("folder", str(small.path))
        words = f"7 images are of one colour, listed in {builder.data_path}"
        assert words in caplog.text
        shown = [names[6], *sorted(names[:6])[:4]]
        assert f": {', '.join(shown)} and 2 more\n" in caplog.text


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
                assert record["image"] == [stored(small.encoded[image])]
            table = label_table(builder, split)
            ids = image_ids(builder, split)
            assert [x.decode() for x in table["image_ids"]] == ids
            np.testing.assert_array_equal(dense(table), small.rows(ids))

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
        monkeypatch.setattr(shards, "_MINIMUM_SHARDS", 1)
        monkeypatch.setattr(labelled_images, "_IMAGES_PER_TASK", 2)
        order = shuffled(small.splits["train"], "train")
        for n, damage in ((0, "cut"), (4, "missing")):
            spoil(small, order[n], damage)
        builder = prepare_folder(small, tmp_path, "skip")
        (records,) = raw_records(builder, "train")
        kept = [order[n] for n in range(10) if n not in (0, 4)]
        for record, image in zip(map(parsed, records), kept, strict=True):
            assert record["image_id"] == [image.encode()]
            assert record["image"] == [stored(small.encoded[image])]
        rows = dense(label_table(builder, "train"))
        np.testing.assert_array_equal(rows, small.rows(kept))
        assert left_out(builder)[1:] == sorted(
            [["train", order[0], REASONS["cut"]],
             ["train", order[4], REASONS["missing"]]]
        )  # fmt: skip

    def test_what_is_left_out_is_not_counted_as_unusual(self, small, tmp_path):
        for name in small.encoded:
            (small.path / "images" / name).write_bytes(jpeg())
        spoil(small, small.splits["train"][0], "cut")  # a gray JPEG
        builder = prepare_folder(small, tmp_path, "skip")
        assert builder.info.metadata["counts"] == {
            "images left out": 1,
            "images: copies of images of an earlier split": 16,
        }

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
