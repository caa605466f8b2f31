"""Programs with other labels or other copies share one set of records."""

import concurrent.futures
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from imcl_tf.data import builders, datasets
from imcl_tf.data.folder import folder_builder
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.files import locked
from tests.data.common import SPLITS, image_ids, prepare_folder

pytestmark = pytest.mark.usefixtures("two_files")


@pytest.fixture
def copies(small, tmp_path):
    """The folder and a copy of it, in which all values are the opposite."""
    copy = small._replace(
        path=tmp_path / "copy",
        labels={
            image: {name: -value for name, value in labels.items()}
            for image, labels in small.labels.items()
        },
    )
    shutil.copytree(small.path, copy.path, copy_function=shutil.copy2)
    rows = [
        (image, name, copy.labels[image].get(name, 0))
        for image in copy.labels
        for name in copy.label_names
    ]
    copy.write_table("labels.csv", rows)
    return small, copy


def check_labels(data, builder, made):
    for split in SPLITS:
        np.testing.assert_array_equal(
            data.splits[split].labels.toarray(),
            made.rows(image_ids(builder, split)),
        )


def test_each_opens_its_own_labels(copies, tmp_path):
    """Also what another program has made anew between its two steps."""
    made = [prepare_folder(copy, tmp_path / "records") for copy in copies]
    assert made[0].data_path == made[1].data_path
    for builder, copy in zip(made, copies, strict=True):
        check_labels(builder.opened(), builder, copy)


def test_so_does_whoever_loads_the_data_set(copies, monkeypatch):
    prepare = builders.prepare

    def overtaken(builder, raw_dir):
        prepare(builder, raw_dir)
        prepare(folder_builder(copies[1].path), copies[1].path)
        return builder

    monkeypatch.setattr(builders, "prepare", overtaken)
    data = datasets.load_dataset("folder", str(copies[0].path))
    monkeypatch.undo()
    check_labels(data, folder_builder(copies[0].path), copies[0])


def test_both_are_noted_as_sources(copies, tmp_path):
    """By builders that have read what was noted before either added to it."""
    place = prepare_folder(copies[0], tmp_path / "records").data_path
    others = []
    for name in ("second", "third"):
        shutil.copytree(
            copies[0].path, tmp_path / name, copy_function=shutil.copy2
        )
        others.append(folder_builder(tmp_path / name, tmp_path / "records"))
        assert others[-1].info.metadata["sources"] == [str(copies[0].path)]
    for builder, name in zip(others, ("second", "third"), strict=True):
        builders.prepare(builder, tmp_path / name)
    metadata = json.loads((Path(place) / "metadata.json").read_text())
    assert metadata["sources"] == [
        str(copies[0].path), str(tmp_path / "second"), str(tmp_path / "third"),
    ]  # fmt: skip


def test_opening_waits_for_who_changes_the_labels(small, tmp_path):
    builder = prepare_folder(small, tmp_path)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with locked(builder.data_path):
            opening = pool.submit(open_source, builder)
            with pytest.raises(TimeoutError):
                opening.result(0.3)
        check_labels(opening.result(), builder, small)
