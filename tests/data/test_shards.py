"""Shards: their number and order, and how Apache Beam writes them."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from imcl_tf.data import builders, shards
from tests.data.common import (
    REASONS,
    files_of,
    image_ids,
    parsed,
    prepare_folder,
    raw_records,
    shuffled,
    spoil,
)

MINIMUM_SHARDS = 8


class TestShards:
    def test_enough_to_shuffle_and_read_in_parallel(self, folder, tmp_path):
        prepared = prepare_folder(folder, tmp_path)
        for split, images in folder.splits.items():
            info = prepared.info.splits[split]
            lengths = [len(shard) for shard in raw_records(prepared, split)]
            assert info.num_examples == len(images)
            assert lengths == list(info.shard_lengths)
            assert len(lengths) == MINIMUM_SHARDS
            assert max(lengths) - min(lengths) <= 1

    def test_fewer_where_a_split_has_fewer_images(self, make_folder, tmp_path):
        sizes = {"train": 9, "validation": 1, "test": 3}
        made = make_folder(tmp_path / "raw", sizes)
        builder = prepare_folder(made, tmp_path / "out")
        for split, number in (("train", 8), ("validation", 1), ("test", 3)):
            records = raw_records(builder, split)
            assert len(records) == number
            images = [parsed(r)["image_id"][0] for r in sum(records, [])]
            assert sorted(images) == sorted(
                name.encode() for name in made.splits[split]
            )

    def test_more_where_it_has_many(self, folder, tmp_path, monkeypatch):
        """23 images, two a shard: 11, one of them of three."""
        monkeypatch.setattr(shards, "_SHARD_IMAGES", 2)
        builder = prepare_folder(folder, tmp_path)
        assert sorted(builder.info.splits["train"].shard_lengths) == [
            *[2] * 10, 3,
        ]  # fmt: skip
        ids = image_ids(builder, "train")
        assert ids == shuffled(folder.splits["train"], "train")


def test_the_shard_of_a_wrong_label_is_named(tmp_path):
    """Not the first one; and empty shards are none."""
    paths = [str(tmp_path / f"train.{n}") for n in range(4)]
    for path, columns in zip(paths, ([1], [], [0, 2], [3]), strict=True):
        images = [
            shards.LabelledImage(
                "a", b"", np.array(columns), np.ones(len(columns), np.int8)
            )
        ][: len(columns)]
        shards.write(shards.Shard(path, lambda *_, images=images: images))
    with pytest.raises(ValueError, match=rf"^{paths[2]}: .* \[0, 2\), got 0 t"):
        shards.join_parts(paths, ("cat", "dog"))


def no_images(findings):
    del findings
    return iter(())


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
        one, other = small.splits["train"][5], small.splits["test"][0]
        content = (small.path / "images" / one).read_bytes()
        (small.path / "images" / other).write_bytes(content)
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
        # 24 shards, three tables, three files of TFDS, the duplicates.
        assert len(plain) == 24 + 3 + 3 + 1 + (on_bad_image == "skip")
        assert plain["duplicates.csv"].decode().splitlines() == [
            "split,image_id,other_split,other_image_id",
            f"test,{other},train,{one}",
        ]
        assert {"dataset_info.json", "metadata.json"} < set(plain)
        assert ("left_out.csv" in plain) == (on_bad_image == "skip")
        assert by_beam == plain

    def test_plans_are_arrays(self, make_richer, small, tmp_path):
        """NumPy reads them without pickle; nothing of them is lost."""
        builder = make_richer(data_dir=tmp_path)
        files = builder._contents(small.path).splits["train"]
        chosen = files.rows(np.array([3, 0, 7]))
        plan = str(tmp_path / "plan.npz")
        shards._write_plan(plan, chosen)
        with np.load(plan, allow_pickle=False) as arrays:
            assert all(x.dtype.kind in "iuS" for x in arrays.values())
        again = shards._read_plan(plan, files.read)
        assert again.names == chosen.names and again.read is files.read
        for one, other in (
            (again.labels, chosen.labels),
            (again.extras["certainties"], chosen.extras["certainties"]),
        ):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one.toarray(), other.toarray())
        classes = again.extras["class_id"]
        np.testing.assert_array_equal(classes, chosen.extras["class_id"])

    def test_no_error_of_a_task_that_was_repeated_is_left(self, tmp_path):
        path = tmp_path / "train.0"
        (tmp_path / "train.0.error").write_text("cannot be read just now")
        config = tfds.download.DownloadConfig(beam_runner="DirectRunner")
        shards.write_with_beam([shards.Shard(str(path), no_images)], config)
        assert sorted(x.name for x in tmp_path.iterdir()) == [
            "train.0", "train.0.labels.npz",
        ]  # fmt: skip

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
