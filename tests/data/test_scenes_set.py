"""The data set of rendered scenes, byte by byte."""

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.data import builders, scenes, scenes_set
from tests.data.common import (
    SPLITS,
    dense,
    files_of,
    image_ids,
    label_table,
    parsed,
    raw_records,
    shuffled,
)

SIZES = {"train": 11, "validation": 8, "test": 9}


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes_set, "_SIZES", SIZES)
        records = tmp_path_factory.mktemp("scenes")
        return builders.prepare(scenes_set.Scenes(data_dir=records))


class TestScenes:
    def test_every_label_is_observed(self, few_scenes):
        assert tuple(few_scenes.info.metadata["labels"]) == scenes.LABELS
        for split, size in SIZES.items():
            table = label_table(few_scenes, split)
            names = [name.decode() for name in table["label_names"]]
            assert tuple(names) == scenes.LABELS
            assert dense(table).shape == (size, len(names))
            assert dense(table).all()

    def test_pictures_and_labels_are_those_of_render(self, few_scenes):
        names = set()
        for seed, (split, size) in enumerate(SIZES.items()):
            records = sum(raw_records(few_scenes, split), [])
            rows = dense(label_table(few_scenes, split))
            for record, row in zip(map(parsed, records), rows, strict=True):
                name = record["image_id"][0].decode()
                names.add(name)
                index = int(name.split("-")[1].removesuffix(".jpg"))
                assert index < size
                image, labels = scenes.render(seed, index)
                np.testing.assert_array_equal(row, labels)
                pixels = tf.io.decode_jpeg(record["image"][0]).numpy()
                assert pixels.shape == image.shape
                # JPEG changes noisy pixels a little, another picture is far.
                assert np.abs(pixels - image.astype(float)).mean() < 12
        assert len(names) == sum(SIZES.values())

    def test_order_is_that_of_the_hash(self, few_scenes):
        for seed, (split, size) in enumerate(SIZES.items()):
            everything = [f"{seed}-{n:05d}.jpg" for n in range(size)]
            assert image_ids(few_scenes, split) == shuffled(everything, split)

    def test_second_time_reuses(self, few_scenes, monkeypatch):
        monkeypatch.setattr(scenes, "render", None)
        root = few_scenes.data_path.parents[1]
        again = builders.prepare(scenes_set.Scenes(data_dir=root))
        assert again.data_path == few_scenes.data_path

    def test_beam_writes_the_same(self, few_scenes, tmp_path, monkeypatch):
        pytest.importorskip("apache_beam")
        monkeypatch.setattr(scenes_set, "_SIZES", SIZES)
        builder = builders.prepare(
            scenes_set.Scenes(data_dir=tmp_path), beam_runner="DirectRunner"
        )
        assert files_of(builder) == files_of(few_scenes)

    def test_real_sizes(self):
        assert set(scenes_set._SIZES) == set(SPLITS)
        assert sum(scenes_set._SIZES.values()) == 6000

    def test_small_scenes_are_the_first(self, tmp_path, monkeypatch):
        sizes = {split: size - 3 for split, size in SIZES.items()}
        monkeypatch.setattr(scenes_set, "_SMALL_SIZES", sizes)
        small = builders.prepare(scenes_set.SmallScenes(data_dir=tmp_path))
        for seed, (split, size) in enumerate(sizes.items()):
            names = set(image_ids(small, split))
            assert names == {f"{seed}-{n:05d}.jpg" for n in range(size)}
