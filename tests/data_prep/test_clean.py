"""data_prep.clean: what nothing uses is listed, and nothing else."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from data_prep import clean
from imcl_tf.backbones.make import backbone
from imcl_tf.data.builders import prepare
from imcl_tf.data.features import fixed_features
from imcl_tf.data.folder import folder_builder
from imcl_tf.data.multi_label_dataset import open_source, reading
from imcl_tf.files import locked, replacing


@pytest.fixture
def records(small, tmp_path):
    """A builder, and beside its records things that clean does not know."""
    builder = prepare_folder(small, tmp_path)
    place = tmp_path / "records"
    for name in ("voc/incomplete.ABCDEF_1.0.0", "folder/mine", "notes"):
        (place / name).mkdir(parents=True)
    (place / "folder" / "mine" / "a.txt").write_text("mine")
    return builder


def prepare_folder(small, tmp_path):
    return prepare(folder_builder(small.path, tmp_path / "records"), small.path)


def found(tmp_path):
    """Path below the records -> reason."""
    place = tmp_path / "records"
    return {str(x.path.relative_to(place)): x.reason for x in clean.find(place)}


def all_files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def name_of(builder):
    return f"folder/{builder.builder_config.name}/{builder.version}"


def test_nothing_is_unused(records, tmp_path):
    assert found(tmp_path) == {}


def test_one_more_row_in_splits(records, small, tmp_path, capsys):
    """The records of the folder as it was are unused, those of now are not."""
    before = name_of(records)
    (image, *_) = small.splits["train"]
    rows = (small.path / "splits.csv").read_text()
    (small.path / "splits.csv").write_text(
        rows.replace(f"{image},train", f"{image},test")
    )
    now = name_of(prepare_folder(small, tmp_path))
    assert now != before
    assert found(tmp_path) == {
        before: f"{small.path} holds other pictures or splits now"
    }
    files = all_files(tmp_path)
    held = [p for p in Path(records.data_path).rglob("*") if p.is_file()]
    size = sum(path.stat().st_size for path in held)
    clean.clean(tmp_path / "records", remove=False)
    out = capsys.readouterr().out
    assert f"{size / 1e3:.1f} kB {records.data_path}: " in out
    assert "--remove removes it" in out
    assert all_files(tmp_path) == files
    clean.clean(tmp_path / "records", remove=True)
    assert not records.data_path.parent.exists()
    assert [f for f in files if before.rpartition("/")[0] not in f] == (
        all_files(tmp_path)
    )


def test_changed_labels_leave_the_records_in_use(records, small, tmp_path):
    table = small.path / "labels.csv"
    table.write_text(table.read_text().replace(",1\n", ",-1\n"))
    prepare_folder(small, tmp_path)
    assert found(tmp_path) == {}


def test_two_folders_share_records(records, small, tmp_path):
    """Unused when both are gone."""
    copy = small._replace(path=tmp_path / "copy")
    shutil.copytree(small.path, copy.path, copy_function=shutil.copy2)
    assert name_of(prepare_folder(copy, tmp_path)) == name_of(records)
    shutil.rmtree(small.path)
    assert found(tmp_path) == {}
    shutil.rmtree(copy.path)
    assert found(tmp_path) == {
        name_of(records): f"{small.path} is gone; {copy.path} is gone"
    }


def test_records_that_are_read_are_left_alone(records, small, tmp_path, capsys):
    shutil.rmtree(small.path)
    with reading(open_source(records)):
        clean.clean(tmp_path / "records", remove=True)
    assert f"in use     {records.data_path}" in capsys.readouterr().out
    assert records.data_path.is_dir()


def test_what_cannot_be_locked_is_left_alone(
    records, small, tmp_path, monkeypatch, capsys
):
    shutil.rmtree(small.path)

    def flock(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", flock)
    clean.clean(tmp_path / "records", remove=True)
    assert f"in use     {records.data_path}" in capsys.readouterr().out
    assert records.data_path.is_dir()


def test_what_killed_programs_left(records, tmp_path):
    place = records.data_path.parent
    (place / "incomplete.0AB9XZ_2.2.0").mkdir()
    (place / "incomplete.0AB9XZ_2.2.0" / "shard").write_text("half")
    with replacing(records.data_path / "labels-test.npz") as new:
        left = new
        new.write_text("whole")
    left.write_text("half")
    expected = {place / "incomplete.0AB9XZ_2.2.0", left}
    assert {x.path for x in clean.find(tmp_path / "records")} == expected
    with locked(place):  # they are being made
        clean.clean(tmp_path / "records", remove=True)
        assert (place / "incomplete.0AB9XZ_2.2.0").exists()
    clean.clean(tmp_path / "records", remove=True)
    assert not any(path.exists() for path in expected)
    assert found(tmp_path) == {}


@pytest.mark.parametrize("name", ["pictures/0.npz", "splits/0.csv"])
def test_what_killed_programs_left_beside_records(records, tmp_path, name):
    """Of digests and of splits; who writes there shares a lock."""
    path = tmp_path / "records" / "folder" / name
    path.parent.mkdir(exist_ok=True)
    left = path.with_name(f".unfinished-0-{path.name}")
    left.write_text("half")
    downloads = records.data_path.parent / "incomplete.ab3_5xyz_2.2.0"
    downloads.mkdir()
    reasons = {str(x.path): x.reason for x in clean.find(tmp_path / "records")}
    assert reasons == {
        str(left): "a killed program was writing it",
        str(downloads): "a killed program was preparing it",
    }
    with locked(path.parent, shared=True):
        clean.clean(tmp_path / "records", remove=True)
    assert left.exists() and not downloads.exists()
    clean.clean(tmp_path / "records", remove=True)
    assert not left.exists() and records.data_path.exists()


@pytest.mark.parametrize(
    ("version", "reason"),
    [("2.0.0", "version 2.2.0 replaces it"), ("0.9.0", "version 2.2.0 repl")],
)
def test_older_versions(records, tmp_path, version, reason):
    old = records.data_path.with_name(version)
    shutil.copytree(records.data_path, old)
    ((path, why),) = found(tmp_path).items()
    assert path == str(old.relative_to(tmp_path / "records"))
    assert why.startswith(reason)


def test_records_without_their_source_are_left_alone(records, small, tmp_path):
    shutil.rmtree(small.path)
    file = records.data_path / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["sources"]
    file.write_text(json.dumps(metadata))
    assert found(tmp_path) == {}


class TestFeatures:
    @pytest.fixture
    def network(self):
        return backbone("small_cnn", image_size=32)

    @pytest.fixture
    def workdir(self, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text('{"run": "7"}')
        return tmp_path / "run"

    def features(self, records, network, *users):
        for user in users:
            data = fixed_features(open_source(records), network, used_by=user)
        return os.path.dirname(data.train.files[0])

    def test_their_run_is_gone(self, records, network, workdir, tmp_path):
        user = {"workdir": str(workdir), "run": "7"}
        place = self.features(records, network, user)
        assert found(tmp_path) == {}
        (workdir / "run.json").write_text('{"run": "8"}')
        assert found(tmp_path) == {
            os.path.relpath(place, tmp_path / "records"):
                f"features, and {workdir} is gone or holds another run"
        }  # fmt: skip
        shutil.rmtree(workdir)
        with locked(place, shared=True):  # as those who write there do
            clean.clean(tmp_path / "records", remove=True)
        assert os.path.isdir(place)
        clean.clean(tmp_path / "records", remove=True)
        assert not os.path.exists(place) and records.data_path.is_dir()

    def test_another_still_uses_them(self, records, network, workdir, tmp_path):
        gone = {"workdir": str(tmp_path / "gone"), "run": "3"}
        user = {"workdir": str(workdir), "run": "7"}
        self.features(records, network, user, gone)
        assert found(tmp_path) == {}

    def test_made_ahead_of_runs(self, records, network, tmp_path):
        gone = {"workdir": str(tmp_path / "gone"), "run": "3"}
        self.features(records, network, gone, None)
        assert found(tmp_path) == {}


def test_no_such_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such directory"):
        list(clean.find(tmp_path / "none"))
