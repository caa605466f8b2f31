"""What a run finds in its workdir: is it its own, and is it still right?"""

import json
import logging
import shutil

import numpy as np
import pytest
import scipy.sparse

from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pipeline import Split
from imcl_tf.methods.base import MultiLabelModel
from imcl_tf.ops.metrics import Support
from imcl_tf.training.identity import Identity
from imcl_tf.training.workdir import Workdir

NAMES = ("cat", "dog", "a, b")
LABELS = {
    "train": [[1, -1, 0], [0, 1, 1], [-1, 0, 0], [0, 0, 0]],
    "validation": [[1, -1, 1], [-1, 1, 0]],
    "test": [[1, 1, -1]],
}
RESULTS = {
    "method": "imcl",
    "mAP": 7.0,
    "mAP_support": Support(1, 3, 2, 2)._asdict(),
    "initial_logistic": {"mAP": 6.0},
}
SETTINGS = {"epochs": 3, "seed": 0, "method": "imcl", "lambda_y": 1.0}


def split_of(labels, ids, digest="pictures", names=NAMES):
    labels = scipy.sparse.csr_array(np.array(labels, np.int8))
    ids = np.array([name.encode() for name in ids])
    return Split(
        (), (len(ids),), labels, np.zeros(0), names, image_ids=ids,
        digest=digest,
    )  # fmt: skip


def data_of(labels=LABELS, names=NAMES, digest="pictures", ids=None):
    splits = {
        split: split_of(
            rows,
            (ids or {}).get(split)
            or [f"{split} {i}" for i in range(len(rows))],
            digest,
            names,
        )
        for split, rows in labels.items()
    }
    return MultiLabelDataset("made", "", names, **splits)


def identity_of(data=None, files=None, **settings):
    files = files or {"backbone": "b"}
    return Identity(SETTINGS | settings, files, (data or data_of()).digests())


@pytest.fixture
def begun(tmp_path):
    """A workdir whose run has begun."""
    place = Workdir(tmp_path / "run")
    with place.alone():
        place.start(identity_of(), "--seed=0\n", data_of(), False)
    return place


def changed(labels, split, i, j, value):
    rows = {name: [list(row) for row in x] for name, x in labels.items()}
    rows[split][i][j] = value
    return rows


class TestResume:
    def test_what_never_began_begins(self, tmp_path):
        assert Workdir(tmp_path).finished(identity_of()) is None
        assert Workdir(tmp_path / "none").finished(identity_of()) is None

    def test_unfinished_and_finished(self, begun):
        assert begun.finished(identity_of()) is None
        begun.write_results(RESULTS)
        assert begun.finished(identity_of()) == RESULTS

    @pytest.mark.parametrize("finished", [False, True])
    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (data_of(changed(LABELS, "train", 3, 2, 1)), "training labels"),
            (data_of(changed(LABELS, "train", 0, 0, -1)), "training labels"),
            (data_of(changed(LABELS, "test", 0, 0, 0)), "evaluation labels"),
            (
                data_of(changed(LABELS, "validation", 0, 0, -1)),
                "evaluation labels",
            ),
            (data_of(digest="others"), "pictures"),
            (data_of(names=("cat", "cow", "a, b")), "label names"),
            # Two images change places: theirs are other labels, too.
            (
                data_of(ids={"test": ["train 0"], "train": [
                    "test 0", "train 1", "train 2", "train 3"]}),
                "splits",
            ),
        ],
    )  # fmt: skip
    def test_other_data_are_refused_by_name(self, begun, finished, data, what):
        if finished:
            begun.write_results({})
        with pytest.raises(ValueError) as caught:
            begun.finished(identity_of(data))
        message = str(caught.value)
        assert str(begun.path) in message
        assert f"changed since then: {what}; " in message
        assert "\n" not in message

    def test_other_settings_are_refused_by_name(self, begun):
        with pytest.raises(ValueError, match="--lambda_y=1.0, --lambda_y=2.0;"):
            begun.finished(identity_of(lambda_y=2.0))
        with pytest.raises(ValueError, match="settings: --method=imcl, --meth"):
            begun.finished(identity_of(method="hill", lambda_y=3.0))
        with pytest.raises(ValueError, match="--extra=7;"):
            begun.finished(identity_of(extra=7))

    def test_another_network_or_graph_is_refused_by_name(self, begun):
        files = {"backbone": "b", "label_graph": "g"}
        with pytest.raises(ValueError, match="since then: label_graph;"):
            begun.finished(identity_of(files=files))

    def test_more_epochs_train_on_and_fewer_are_refused(self, begun, caplog):
        begun.write_results(RESULTS)
        with caplog.at_level(logging.WARNING, "absl"):
            assert begun.finished(identity_of(epochs=5)) is None
        assert "was of 3 epochs and trains on to 5" in caplog.text
        with pytest.raises(ValueError, match="--epochs=3, --epochs=2; only mo"):
            begun.finished(identity_of(epochs=2))

    def test_results_of_unknown_origin_are_refused(self, tmp_path):
        (tmp_path / "results.json").write_text("{}")
        with pytest.raises(ValueError, match="run.json is missing"):
            Workdir(tmp_path).finished(identity_of())

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", '{"identity": {}}', "[" * 100_000, "\udcff",
         '{"run": "1", "identity": {"settings": [], "files": {}, "data": {}}}',
         '{"run": 1, "identity": {"settings": {}, "files": {}, "data": {}}}'],
    )  # fmt: skip
    def test_damaged_file(self, begun, text):
        content = text.encode(errors="surrogateescape")
        (begun.path / "run.json").write_bytes(content)
        with pytest.raises(ValueError, match="run.json is damaged"):
            begun.finished(identity_of())

    def test_a_line_break_in_a_setting(self, begun):
        text = (begun.path / "run.json").read_text()
        text = text.replace('"epochs": 3', '"epochs": "a\\nb"')
        (begun.path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"--epochs=a\\nb, --epochs=3"):
            begun.finished(identity_of())

    @pytest.mark.parametrize(
        "text",
        [
            "", "[1]", "[" * 100_000, "null", '{"mAP": 7.0}',
            json.dumps(RESULTS | {"mAP": "7"}),
            json.dumps(RESULTS | {"initial_logistic": 7.0}),
            json.dumps(RESULTS | {"mAP_support": {"labels": 1}}),
        ],
    )  # fmt: skip
    def test_damaged_results(self, begun, text):
        (begun.path / "results.json").write_text(text)
        with pytest.raises(ValueError, match="results.json is damaged; take"):
            begun.finished(identity_of())


class TestStart:
    def test_results_of_an_earlier_run_do_not_pass_for_this_ones(self, begun):
        """Begun anew and killed: what resumes it must not find them."""
        begun.write_results(RESULTS)
        latest = begun.path / "checkpoints" / "latest.keras"
        latest.write_text("of the earlier run")
        begun.start(identity_of(seed=1), "", data_of(), False)
        assert begun.finished(identity_of(seed=1)) is None
        assert not latest.exists()
        kept = begun.path / "earlier"
        model = kept / "checkpoints" / "latest.keras"
        for _ in range(2):
            assert json.loads((kept / "results.json").read_text())["mAP"] == 7
            assert model.read_text() == "of the earlier run"
            identity = json.loads((kept / "run.json").read_text())["identity"]
            assert (
                identity["settings"]["seed"] == identity_of().settings["seed"]
            )
            # Begun anew once more: the unfinished run is not kept.
            begun.start(identity_of(seed=2), "", data_of(), False)
        begun.write_results({"mAP": 8.0})
        assert not kept.exists()

    def test_files_of_an_earlier_run_do_not_pass_for_this_ones(self, begun):
        """Not every run writes them."""
        names = (
            "metrics.csv", "label_graph.npz", "checkpoints/best.keras",
            "initial/metrics.csv", "initial/checkpoints/best.keras",
            "initial/tensorboard/curve",
        )  # fmt: skip
        for name in (*names, "notes.txt"):
            (begun.path / name).parent.mkdir(parents=True, exist_ok=True)
            (begun.path / name).write_text("")
        begun.start(identity_of(), "", data_of(), True)
        assert all((begun.path / name).exists() for name in names)
        begun.start(identity_of(), "", data_of(), False)
        assert not [name for name in names if (begun.path / name).exists()]
        assert (begun.path / "notes.txt").exists()  # the user's

    @pytest.mark.parametrize(
        "name",
        ["labels.txt", "metrics.csv", "tensorboard/log", "checkpoints/a.keras"],
    )
    def test_what_no_run_has_written(self, begun, tmp_path, name):
        """Say, `--workdir` is the user's own directory of pictures."""
        file = tmp_path / "mine" / name
        file.parent.mkdir(parents=True)
        file.write_text("")
        (tmp_path / "mine" / "initial").mkdir()  # empty
        top = name.partition("/")[0]
        with pytest.raises(ValueError, match=f"mine holds {top} but no run.js"):
            Workdir(tmp_path / "mine").check_writable()
        begun.check_writable()

    def test_resumed_keeps_what_there_is(self, begun):
        latest = begun.path / "checkpoints" / "latest.keras"
        latest.write_text("half")
        user = begun.user
        begun.start(identity_of(epochs=9), "", data_of(), True)
        assert latest.read_text() == "half"
        assert begun.user == user
        begun.start(identity_of(), "", data_of(), False)
        assert begun.user["run"] != user["run"]

    def test_one_run_at_a_time(self, begun):
        with (
            begun.alone(),
            pytest.raises(ValueError, match=f"is training in {begun.path}"),
            Workdir(begun.path).alone(),
        ):
            pass
        with begun.alone():
            pass

    def test_what_a_killed_run_was_writing_is_removed(self, begun):
        initial = begun.initial / "checkpoints"
        initial.mkdir(parents=True)
        name = ".unfinished-0123-latest.keras"
        parts = [
            place / name
            for place in (
                begun.path, begun.path / "checkpoints", begun.initial, initial
            )
        ]  # fmt: skip
        for part in parts:
            part.write_text("half")
        whole = initial / "latest.keras"
        whole.write_text("whole")
        with begun.alone():
            assert not any(part.exists() for part in parts)
        assert whole.read_text() == "whole"

    def test_unwritable_places(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file is no directory"):
            Workdir(tmp_path / "file" / "run").check_writable()
        with pytest.raises(OSError, match=f"{tmp_path} has .* free"):
            Workdir(tmp_path / "a" / "b").check_writable(1 << 60)
        Workdir(tmp_path / "a" / "b").check_writable()
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestInitFrom:
    @pytest.fixture
    def start(self, begun):
        """A workdir with a logistic model of LABELS."""
        model = MultiLabelModel(None, 3)
        model.build((None, 2))
        model.classifier.set_weights([np.ones((2, 3)), np.zeros(3)])
        begun.save_logistic(model)
        return begun

    def load(self, start, data):
        model = MultiLabelModel(None, 3)
        model.build((None, 2))
        start.load_logistic(model, data)
        return model

    @pytest.mark.parametrize(
        "labels",
        [
            LABELS,
            changed(LABELS, "train", 3, 0, 1),
            changed(LABELS, "test", 0, 0, -1),
        ],
    )
    def test_the_same_or_more_labels(self, start, labels):
        model = self.load(start, data_of(labels))
        np.testing.assert_array_equal(model.classifier.get_weights()[0], 1)

    @pytest.mark.parametrize(
        ("labels", "what"),
        [
            (changed(LABELS, "train", 1, 1, 0), "1 labels .* train 1 'dog'$"),
            (changed(LABELS, "train", 0, 0, -1), "1 labels .* train 0 'cat'$"),
            (LABELS | {"train": np.zeros((4, 3))}, "5 labels .*train 0 'cat',"),
        ],
    )
    def test_labels_that_this_run_hides(self, start, labels, what):
        with pytest.raises(ValueError, match=f"trained on {what}"):
            self.load(start, data_of(labels))

    def test_images_are_matched_by_name(self, start):
        """In another order, and of which some are not known to the start."""
        order = [3, 1, 0, 2]
        ids = [f"train {i}" for i in order]
        rows = [LABELS["train"][i] for i in order]
        more = LABELS | {"train": [[0, 0, 0], *rows, [-1, -1, -1]]}
        ids = {"train": ["a new one", *ids, "z"]}
        self.load(start, data_of(more, ids=ids))
        more["train"][3] = [0, -1, 0]  # image 0 without its label cat
        with pytest.raises(ValueError, match="1 labels .* train 0 'cat'"):
            self.load(start, data_of(more, ids=ids))

    def test_images_without_labels_teach_nothing(self, start):
        """Nor are those evaluated on of which none is observed."""
        ids = {"validation": ["train 3", "validation 1"]}  # trained without
        self.load(start, data_of(ids=ids))
        unlabelled = changed(LABELS, "test", 0, 0, 0)
        unlabelled["test"] = [[0, 0, 0]]
        self.load(start, data_of(unlabelled, ids={"test": ["train 2"]}))

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_images_that_this_run_evaluates_on(self, start, split):
        ids = [f"{split} {i}" for i in range(len(LABELS[split]))]
        data = data_of(ids={split: ["train 2", *ids[1:]]})
        with pytest.raises(
            ValueError, match=f"trained on 1 images of split {split}: train 2"
        ):
            self.load(start, data)

    def test_images_without_names(self, start):
        data = data_of()
        nameless = data.train._replace(image_ids=np.zeros(0, bytes))
        with pytest.raises(ValueError, match="do not name their images"):
            self.load(start, data._replace(train=nameless))

    def test_without_its_labels(self, start):
        shutil.copytree(start.path, start.path.with_name("copy"))
        copy = Workdir(start.path.with_name("copy"))
        outside = {"indices": np.array([99]), "indptr": np.array([0, 1])}
        outside |= {"data": np.ones(1, np.int8), "shape": np.array([1, 2])}
        for change in (b"", b"PK\3\4 cut", outside):
            file = copy.logistic.with_name("observed_labels.npz")
            if isinstance(change, bytes):
                file.write_bytes(change)
            else:
                np.savez(file, **change)
            with pytest.raises(ValueError, match="cannot be read"):
                self.load(copy, data_of())
        file.unlink()
        with pytest.raises(FileNotFoundError, match="observed_labels.npz"):
            self.load(copy, data_of())

    def test_without_a_model(self, start):
        start.logistic.unlink()
        with pytest.raises(
            FileNotFoundError, match="init_from: .*run holds no"
        ):
            self.load(start, data_of())

    def test_what_its_own_start_has_seen(self, start):
        """A start's start: images that the run in between does not have."""
        other = Workdir(start.path.with_name("between"))
        ids = {
            split: [f"other {split} {i}" for i in range(len(rows))]
            for split, rows in LABELS.items()
        }
        model = self.load(start, data_of(ids=ids))
        with other.alone():
            other.start(identity_of(), "", data_of(ids=ids), False)
            other.save_logistic(model, start)
        self.load(other, data_of(ids=ids))
        self.load(other, data_of(ids=ids | {"test": ["train 9"]}))
        with pytest.raises(ValueError, match="1 images of split test: train 2"):
            self.load(other, data_of(ids=ids | {"test": ["train 2"]}))

    def test_a_run_that_was_begun_anew(self, start):
        """The model of the earlier run is not one of its labels."""
        start.start(identity_of(seed=1), "", data_of(), False)
        with pytest.raises(FileNotFoundError, match="no initial logistic"):
            self.load(start, data_of())

    def test_a_resumed_run_leaves_it_as_it_is(self, start):
        """Others know its digest, and a Keras file holds its date."""
        before = start.logistic.stat().st_mtime_ns
        start.start(identity_of(), "", data_of(), True)
        start.save_logistic(MultiLabelModel(None, 3))
        assert start.logistic.stat().st_mtime_ns == before
