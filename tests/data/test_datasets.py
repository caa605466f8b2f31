"""`load_dataset`: which options belong to which data set."""

import numpy as np
import pytest

from imcl_tf.data.datasets import load_dataset


def test_options_of_a_folder(make_folder, tmp_path, caplog):
    made = make_folder(tmp_path / "raw", names=())
    table = made.path / "labels.csv"
    table.write_text(table.read_text().replace(",-1", ",0"))
    with pytest.raises(ValueError, match="--zero=absent or --zero=unobserved"):
        load_dataset("folder", str(made.path))
    with caplog.at_level("WARNING", "absl"):
        data = load_dataset("folder", str(made.path), zero="absent")
    values = [line.rpartition(",")[2] for line in table.read_text().split()]
    number = sum(value in ("0", "0.0") for value in values)
    assert f"folder: {number} values: 0, taken for absent" in caplog.messages
    assert (data.train.labels.data == -1).any()
    assert np.isin(data.test.labels.data, (-1, 1)).all()


@pytest.mark.parametrize("name", ["scenes/small", "coco", "tfds:voc/2007"])
def test_other_sets_have_no_such_options(name, tmp_path):
    with pytest.raises(ValueError, match="zero is an option of dataset=folder"):
        load_dataset(name, str(tmp_path), zero="absent")
    assert not [*tmp_path.iterdir()]


def test_unknown_options(tmp_path):
    for name in ("folder", "scenes/small"):
        with pytest.raises(TypeError, match="unknown option unlist"):
            load_dataset(name, str(tmp_path), unlist="absent")


def test_what_a_folder_leaves_open_is_said(make_folder, tmp_path, caplog):
    """Labels that cannot be learned, and images without a row."""
    made = make_folder(tmp_path / "raw", names=())
    lines = (made.path / "labels.csv").read_text().splitlines()
    unlisted = made.splits["test"][0]
    lines = [line for line in lines if not line.startswith(unlisted)]
    shown = made.splits["test"][1]
    lines += [f"{shown},seen in test,1", f"{shown},never seen,0"]
    (made.path / "labels.csv").write_text("\n".join(lines))
    for _ in range(2):  # also of records that are there
        caplog.clear()
        with caplog.at_level("WARNING", "absl"):
            data = load_dataset("folder", str(made.path))
        number = data.num_labels
        assert caplog.messages[-2:] == [
            "folder: 1 images of the splits that the labels do not list",
            f"folder: 2 of {number} labels are never observed present in "
            "train, so that no method can learn them: never seen, seen in test",
        ]


def test_labels_that_are_only_ever_present_are_named(
    make_folder, tmp_path, caplog
):
    made = make_folder(tmp_path / "raw", names=())
    table = made.path / "labels.csv"
    lines = table.read_text().splitlines()
    of_train = {f"{image},cat,-1" for image in made.splits["train"]}
    assert of_train & {*lines}
    table.write_text("\n".join(x for x in lines if x not in of_train))
    with caplog.at_level("WARNING", "absl"):
        data = load_dataset("folder", str(made.path))
    assert (
        f"folder: 1 of {data.num_labels} labels are never observed absent in "
        "train, so that only methods that count unobserved labels as absent "
        "can learn them: cat"
    ) in caplog.messages
