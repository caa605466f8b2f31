"""Records, digest and splits of a user's folder of images."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from imcl_tf.data import folder as folder_module
from imcl_tf.data import picture_digests, preparation
from imcl_tf.data.builders import prepare
from imcl_tf.data.folder import Folder, folder_builder, folder_digest
from imcl_tf.data.folder_tables import read_folder
from tests import programs
from tests.data.common import (
    dense,
    edit,
    image_ids,
    label_table,
    prepare_folder,
    read_csv,
    snapshot,
)

pytestmark = pytest.mark.usefixtures("two_files")


ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data"
SPLITS = ("train", "validation", "test")


def key_of(path, on_bad_image="error"):
    """The digest that names a folder's records."""
    name = folder_builder(path, on_bad_image=on_bad_image).builder_config.name
    assert len(name) == 16 and name == folder_digest(path, on_bad_image)
    return name


class TestFolderBuilder:
    def test_folder_stays_as_it_was(self, make_folder, tmp_path):
        made = make_folder(tmp_path / "raw", packed=True)
        before = snapshot(made.path)
        everything = [made.path, *made.path.rglob("*")]
        modes = {path: path.stat().st_mode for path in everything}
        try:
            for path in everything:
                path.chmod(modes[path] & ~0o222)
            prepare(folder_builder(made.path, tmp_path / "out"), made.path)
        finally:
            for path in everything:
                path.chmod(modes[path])
        assert snapshot(made.path) == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]

    def test_second_time_reuses(self, folder, prepared, monkeypatch):
        before = snapshot(prepared.data_path)

        def refuse(*_):
            raise AssertionError("read again")

        monkeypatch.setattr(folder_module, "read_folder", refuse)
        root = prepared.data_path.parents[2]
        again = prepare(folder_builder(folder.path, root), folder.path)
        assert again.data_path == prepared.data_path
        assert snapshot(prepared.data_path) == before
        assert again.info.metadata["labels"] == list(folder.label_names)
        assert again.info.splits["test"].num_examples == 11

    def test_second_time_hashes_no_picture(self, small, tmp_path, monkeypatch):
        later = picture_digests.time.time_ns() + 10**10
        monkeypatch.setattr(picture_digests.time, "time_ns", lambda: later)
        first = prepare_folder(small, tmp_path / "out")
        monkeypatch.setattr(picture_digests, "_digest", None)
        again = prepare_folder(small, tmp_path / "out")
        assert again.data_path == first.data_path

    def test_another_reading_makes_other_labels(self, small, tmp_path):
        """And none of the pictures."""
        first = prepare_folder(small, tmp_path / "out")
        builder = folder_builder(
            small.path, str(tmp_path / "out"), unlisted="absent"
        )
        again = prepare(builder, small.path)
        assert again.data_path == first.data_path
        listed = {
            (row["image"], row["label"])
            for row in read_csv(small.path / "labels.csv")
        }
        pairs = {(i, n) for i in small.labels for n in small.label_names}
        absent = sum((i, n) not in listed for i, n in pairs) + sum(
            value == -1 for x in small.labels.values() for value in x.values()
        )
        tables = [dense(label_table(again, split)) for split in SPLITS]
        assert sum((table == -1).sum() for table in tables) == absent

    def test_a_copy_elsewhere_is_the_same_data_set(
        self, folder, prepared, tmp_path, monkeypatch
    ):
        copy = tmp_path / "copy"
        shutil.copytree(folder.path, copy)  # keeps times
        monkeypatch.setattr(folder_module, "read_folder", None)
        root = prepared.data_path.parents[2]
        again = prepare(folder_builder(copy, root), copy)
        assert again.data_path == prepared.data_path

    def test_default_place_is_that_of_tfds(self, folder):
        place = Path(os.environ["TFDS_DATA_DIR"])
        builder = folder_builder(folder.path)
        assert builder.data_path.is_relative_to(place / "folder")


class TestDigest:
    def test_same_content_same_key(self, folder, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(folder.path, copy, copy_function=shutil.copyfile)
        assert key_of(str(copy)) == key_of(folder.path)

    @pytest.mark.parametrize("what", ["split", "bytes", "renamed"])
    def test_other_content_other_key(self, small, what):
        key = key_of(small.path)
        image = small.path / "images" / small.splits["train"][0]
        stat = image.stat()
        if what == "split":
            edit(
                small.path / "splits.csv",
                lambda x: x.replace(f"{image.name},train", f"{image.name},val"),
            )
        elif what == "bytes":  # with the size and the time it had
            content = image.read_bytes()
            image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        else:
            image.rename(image.with_name("renamed.jpg"))
            edit(
                small.path / "splits.csv",
                lambda x: x.replace(image.name, "renamed.jpg"),
            )
        assert key_of(small.path) != key

    def test_what_no_table_lists_does_not_matter(self, small):
        key = key_of(small.path)
        images = small.path / "images"
        (images / ".DS_Store").write_bytes(b"Bud1")
        (images / "another.jpg").write_bytes(b"")
        os.utime(images / small.splits["train"][0], ns=(1, 1))
        edit(
            small.path / "splits.csv",
            lambda text: "\n".join(reversed(text.splitlines()[1:]))
            .join(["image,split\n", "\n"]),
        )  # fmt: skip
        (small.path / "labels.csv").write_text("image,label,value\n")
        assert key_of(small.path) == key

    def test_pictures_behind_a_link_matter(self, small, tmp_path):
        images = small.path / "images"
        images.rename(tmp_path / "elsewhere")
        images.mkdir()
        (images / "photos").symlink_to(tmp_path / "elsewhere")
        for name in ("labels.csv", "splits.csv"):
            header, *rows = (small.path / name).read_text().splitlines()
            rows = [f"photos/{row}" for row in rows]
            (small.path / name).write_text("\n".join([header, *rows]))
        key = key_of(small.path)
        read = read_folder(small.path).splits["train"]
        name = small.splits["train"][0]
        assert f"photos/{name}" in read.names
        assert read.read(f"photos/{name}") == small.encoded[name]
        (tmp_path / "elsewhere" / name).write_bytes(b"another")
        assert key_of(small.path) != key

    def test_other_treatment_other_key(self, folder):
        assert key_of(folder.path) != key_of(folder.path, "skip")


class TestMadeSplits:
    """A folder without splits.csv."""

    @pytest.fixture
    def unsplit(self, make_folder, tmp_path):
        sizes = {"train": 30, "validation": 5, "test": 5}
        made = make_folder(tmp_path / "raw", sizes, ("cat", "dog"), ())
        (made.path / "splits.csv").unlink()
        return made

    @staticmethod
    def kept(records):
        (path,) = (records / "folder" / "splits").iterdir()
        return path, {row["image"]: row["split"] for row in read_csv(path)}

    def test_is_kept_beside_the_records_and_said(
        self, unsplit, tmp_path, caplog
    ):
        before, records = snapshot(unsplit.path), tmp_path / "records"
        with caplog.at_level("WARNING", "absl"):
            builder = prepare_folder(unsplit, records)
        path, split_of = self.kept(records)
        assert sorted(split_of) == sorted(unsplit.encoded)
        number = Counter(split_of.values())
        assert set(number) == set(SPLITS)
        assert (
            f"{unsplit.path} holds no splits.csv: split by seed 0 into "
            f"{number['train']} train, {number['validation']} validation, "
            f"{number['test']} test images, listed in {path}; copy that file "
            f"to {unsplit.path / 'splits.csv'} to keep the split"
        ) in caplog.messages
        for split in SPLITS:
            ids = image_ids(builder, split)
            assert {split_of[name] for name in ids} == {split}
            rows = dense(label_table(builder, split))
            assert (rows > 0).any(0).all() and (rows < 0).any(0).all()
            np.testing.assert_array_equal(rows, unsplit.rows(ids))
        assert snapshot(unsplit.path) == before

        # As splits.csv it makes the same records.
        shutil.copy(path, unsplit.path / "splits.csv")
        again = prepare_folder(unsplit, records)
        assert again.data_path == builder.data_path

    def test_a_changed_label_moves_no_image(
        self, unsplit, tmp_path, monkeypatch
    ):
        builder = prepare_folder(unsplit, tmp_path)
        path, split_of = self.kept(tmp_path)
        image = unsplit.splits["train"][0]
        edit(unsplit.path / "labels.csv", lambda x: f"{x}{image},bird,1\n")
        monkeypatch.setattr(folder_module, "look_alikes", None)
        again = prepare_folder(unsplit, tmp_path)
        assert again.data_path == builder.data_path
        assert self.kept(tmp_path) == (path, split_of)
        assert again.info.metadata["labels"] == ["bird", "cat", "dog"]

    def test_seed_and_shares(self, unsplit, tmp_path):
        found = set()
        for number, options in enumerate(
            ({}, {"split_seed": 1}, {"split_shares": "50/25/25"})
        ):
            records = tmp_path / f"{number}"
            folder_builder(unsplit.path, str(records), **options)
            _, split_of = self.kept(records)
            found.add(tuple(sorted(split_of.items())))
        assert len(found) == 3
        assert abs(Counter(split_of.values())["train"] - 20) <= 3
        with pytest.raises(ValueError, match="split_shares must be three"):
            folder_builder(unsplit.path, str(tmp_path), split_shares="1/2")

    def test_splits_within_the_labels_are_not_ignored(
        self, unsplit, fails, tmp_path
    ):
        path = unsplit.path / "labels.csv"
        head, *rows = path.read_text().splitlines()
        path.write_text(
            "\n".join([f"{head},Split", *(f"{row},test" for row in rows)])
        )
        fails(unsplit, f"{path} has a column of splits, which is not read")

    @pytest.mark.parametrize(
        "name", ["Splits.csv", "split.csv", "splits.xlsx", "SPLIT.TSV"]
    )
    def test_splits_of_another_name_are_not_ignored(self, unsplit, fails, name):
        (unsplit.path / name).write_text("image,split\n")
        fails(unsplit, f"{unsplit.path} holds {name}, which is not read")

    def test_seed_and_shares_do_nothing_beside_splits(self, small, caplog):
        with caplog.at_level("WARNING", "absl"):
            folder_builder(small.path, split_seed=3)
        path = small.path / "splits.csv"
        words = f"split_seed and split_shares do nothing beside {path}"
        assert words in caplog.messages
        with pytest.raises(ValueError, match="split_shares must be three"):
            folder_builder(small.path, split_shares="60/20")

    def test_copies_stay_together(self, unsplit, tmp_path):
        images = unsplit.path / "images"
        names = sorted(unsplit.encoded)
        for name in names[::2]:
            shutil.copy(images / name, images / f"copy {name}")
        edit(
            unsplit.path / "labels.csv",
            lambda text: (
                text + "".join(f"copy {name},cat,1\n" for name in names[::2])
            ),
        )
        folder_builder(unsplit.path, str(tmp_path / "records"))
        _, split_of = self.kept(tmp_path / "records")
        for name in names[::2]:
            assert split_of[name] == split_of[f"copy {name}"]

    def test_a_picture_that_is_not_there(self, unsplit, fails, tmp_path):
        name = sorted(unsplit.encoded)[3]
        (unsplit.path / "images" / name).unlink()
        fails(unsplit, f"{name}: no such image file")
        builder = prepare_folder(unsplit, tmp_path / "other", "skip")
        assert builder.info.metadata["counts"]["images left out"] == 1


class TestProgram:
    def test_prints_what_the_records_hold(self, small, tmp_path):
        gone = small.splits["train"][0]
        (small.path / "images" / gone).unlink()
        records, table = tmp_path / "records", tmp_path / "mine.csv"
        (small.path / "labels.csv").rename(table)
        shutil.copy(
            small.path / "images" / small.splits["train"][1],
            small.path / "images" / small.splits["test"][0],
        )
        done = programs.run(
            "data_prep.folder", "--on_bad_image=skip", f"--label_table={table}",
            f"--raw_dir={small.path}", f"--data_dir={records}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # What a forked program writes of CUDA is not its own.
        assert "dataset_builder" not in done.stderr
        place = records / "folder" / key_of(small.path, "skip") / "2.2.0"
        lines = done.stdout.splitlines()
        expected = [f"{place}: {len(small.label_names)} labels"]
        for split, names in small.splits.items():
            rows = small.rows([name for name in names if name != gone])
            expected.append(
                f"  {split}: {len(rows)} images, {(rows == 1).sum()} labels "
                f"observed present, {(rows == -1).sum()} absent"
            )
        start = next(n for n, line in enumerate(lines) if "labels" in line)
        assert lines[start : start + 4] == expected
        assert "  images left out: 1" in lines
        assert "  images: copies of images of an earlier split: 1" in lines
        assert lines[-2:] == [
            f"  listed in {place / 'left_out.csv'}",
            f"  listed in {place / 'duplicates.csv'}",
        ]

    @pytest.mark.parametrize(
        ("argv", "raw_dir", "message"),
        [
            ([""], None, "--raw_dir must be given"),
            (["", "extra"], "raw", "unexpected argument 'extra'"),
            ([""], "raw", "raw: no directory of raw files"),
        ],
    )
    def test_wrong_flags(self, tmp_path, capsys, argv, raw_dir, message):
        records = tmp_path / "records"

        def builder():
            return Folder(data_dir=records)

        with pytest.raises(SystemExit) as ended:
            raw_dir = raw_dir and str(tmp_path / raw_dir)
            preparation.run(argv, builder, raw_dir)
        assert ended.value.code == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not records.exists()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_clothing(tmp_path):
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

    builder = prepare(folder_builder(directory, tmp_path), directory)
    assert builder.info.metadata["labels"] == names and len(names) == 36
    # 50 pictures are copies, each in the split of its like.
    assert not (builder.data_path / "duplicates.csv").exists()
    total = 0
    for split in SPLITS:
        stored = label_table(builder, split)
        size = sum(s == split for s in of_image.values())
        assert len(stored["image_ids"]) == size
        total += size
        for column, sign in enumerate((-1, 1)):
            labels = stored["columns"][stored["values"] == sign]
            np.testing.assert_array_equal(
                np.bincount(labels, minlength=36),
                expected[split][:, column],
            )
    assert total == 1856
    assert 1 - len(table) / (1856 * 36) == pytest.approx(0.155, abs=5e-4)
