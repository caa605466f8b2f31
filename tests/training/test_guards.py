"""What a run warns of."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

import imcl_tf
from imcl_tf.data.duplicates import Duplicate, write
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.data.pipeline import Split
from imcl_tf.data.records import labels_digest
from imcl_tf.files import write_csv
from imcl_tf.methods import label_graph
from imcl_tf.methods.label_graph import LabelGraph, Source
from imcl_tf.training.guards import guards
from imcl_tf.training.workdir import Workdir

NAMES = ("cat", "dog")
IDS = [str(i) for i in range(12)]
COPIES = (
    "train holds copies of 1 of 3 test images (6 = 0; listed in "
    "duplicates.csv beside the records): the test mAP counts images that "
    "were trained on"
)
ALL = {"observed_fraction": 1.0}
SOME = {"observed_fraction": 0.5}


def split(ids, labels=None, digest=""):
    """Images of these one-letter names; the rows of `labels` are theirs."""
    if labels is None:
        labels = [[1, -1]] * len(ids)
    return Split(
        (),
        (),
        scipy.sparse.csr_array(np.array(labels, np.int8)),
        np.zeros(0, np.int32),
        NAMES,
        image_ids=np.array([x.encode() for x in ids], bytes),
        digest=digest,
    )


@pytest.fixture
def data(tmp_path):
    """Four training images, two of validation, three of test."""
    return MultiLabelDataset(
        "folder",
        str(tmp_path),
        NAMES,
        split("abcd", digest="1"),
        split("ef", digest="2"),
        split("ghi", digest="3"),
    )


def warnings_of(data, backbone=None, options=ALL, of_start=()):
    return guards(data, backbone, options, [*of_start])


def test_nothing_to_warn_of(data):
    network = SimpleNamespace(name="net", trained_on="", of_run=False)
    assert warnings_of(data) == warnings_of(data, network, SOME) == []
    assert warnings_of(data, SimpleNamespace(name="net")) == []


class TestSharedImages:
    def test_validation_and_test(self, data):
        shared = split("hxf")
        assert warnings_of(data._replace(test=shared)) == [
            "validation and test share 1 images (f): what is chosen on "
            "validation is chosen on test"
        ]
        assert warnings_of(data._replace(test=data.validation)) == [
            "validation and test share 2 images (e, f): what is chosen on "
            "validation is chosen on test"
        ]

    def test_with_train(self, data):
        data = data._replace(validation=split("dcxyzba"), test=split("ab"))
        assert warnings_of(data) == [
            "train and validation share 4 images (a, b, c, d): settings and "
            "weights are chosen on images that were trained on",
            "train and test share 2 images (a, b): the test mAP counts images "
            "that were trained on",
            "validation and test share 2 images (a, b): what is chosen on "
            "validation is chosen on test",
        ]

    def test_five_examples(self, data):
        data = data._replace(train=split("qponmlk"), test=split("klmnopq"))
        (warning,) = warnings_of(data)
        assert warning.startswith(
            "train and test share 7 images (k, l, m, n, o and 2 more): "
        )

    def test_an_image_without_labels_is_not_evaluated_on(self, data):
        unlabelled = split("ab", [[0, 0], [1, 0]])
        unlabelled.labels.eliminate_zeros()
        (warning,) = warnings_of(data._replace(test=unlabelled))
        assert warning.startswith("train and test share 1 images (b): ")

    def test_folds_of_the_training_images(self, data):
        """Each has all images, and the labels of its own."""
        halves = [
            split("abcd", labels, "1")
            for labels in ([[1, 1]] * 2 + [[0, 0]] * 2,
                           [[0, 0]] * 2 + [[1, 1]] * 2)
        ]  # fmt: skip
        for half in halves:
            half.labels.eliminate_zeros()
        train, validation = halves
        data = data._replace(train=train, validation=validation)
        assert warnings_of(data) == []

    def test_images_without_names_are_known_by_their_records(self, data):
        nameless = [
            x._replace(image_ids=np.zeros(0, bytes))
            for x in data.splits.values()
        ]
        data = data._replace(train=nameless[0], validation=nameless[1])
        assert warnings_of(data._replace(test=nameless[2])) == []
        assert warnings_of(data._replace(test=nameless[1])) == [
            "validation and test share 2 images: what is chosen on validation "
            "is chosen on test"
        ]
        unknown = nameless[1]._replace(digest="")
        data = data._replace(validation=unknown, test=unknown)
        assert warnings_of(data) == []


class TestCopies:
    def test_are_counted_by_splits(self, data, tmp_path):
        write(
            tmp_path,
            [
                Duplicate("test", "g", "train", "b"),
                Duplicate("test", "g", "validation", "f"),
                Duplicate("test", "i", "train", "b"),
                Duplicate("validation", "f", "train", "b"),
            ],
        )
        place = "listed in duplicates.csv beside the records"
        assert warnings_of(data) == [
            f"train holds copies of 1 of 2 validation images (f = b; {place}): "
            "settings and weights are chosen on images that were trained on",
            f"train holds copies of 2 of 3 test images (g = b, i = b; {place})"
            ": the test mAP counts images that were trained on",
            f"validation holds copies of 1 of 3 test images (g = f; {place}): "
            "what is chosen on validation is chosen on test",
        ]

    def test_images_that_the_run_does_not_use(self, data, tmp_path):
        """Gone, without labels, or a copy of one that is gone."""
        copies = [Duplicate("test", x, "train", "b") for x in "xh"]
        copies.append(Duplicate("test", "g", "train", "gone"))
        write(tmp_path, copies)
        test = split("ghi", [[1, 0], [0, 0], [1, 0]])
        test.labels.eliminate_zeros()
        assert warnings_of(data._replace(test=test)) == []
        assert len(warnings_of(data)) == 1

    def test_damaged(self, data, tmp_path):
        (tmp_path / "duplicates.csv").write_text("split\n")
        with pytest.raises(ValueError, match="duplicates.csv: damaged"):
            warnings_of(data)


class TestBackbone:
    TAUGHT = SimpleNamespace(name="resnet", trained_on="open_images")
    END = "results do not show what the observed labels alone teach"

    @pytest.mark.parametrize(
        "name", ["open_images", "open_images/human", "tfds:open_images_v4"]
    )
    def test_trained_on_the_target_labels(self, data, name):
        data = data._replace(name=name)
        assert warnings_of(data, self.TAUGHT) == [
            "backbone: its weights were trained on labels of open_images: "
            + self.END
        ]
        assert warnings_of(data, self.TAUGHT, SOME) == [
            "backbone: its weights were trained on labels of open_images, also "
            "on those that this run hides: " + self.END
        ]
        assert warnings_of(data, SimpleNamespace(trained_on="")) == []

    @pytest.mark.parametrize("name", ["folder", "coco", "tfds:voc/2007"])
    def test_trained_on_others(self, data, name):
        assert warnings_of(data._replace(name=name), self.TAUGHT, SOME) == []

    @pytest.mark.parametrize("options", [ALL, SOME])
    def test_that_of_a_run(self, data, options):
        network = SimpleNamespace(name="best", of_run=True)
        assert warnings_of(data, network, options) == [
            "backbone: best is the network of an earlier run, which may have "
            "been trained on labels that this run hides or evaluates on: "
            "results may be too high"
        ]

    def test_that_of_the_start(self, data):
        """Also of the start's start; what was said of its data was its own."""
        of_start = "backbone: x: y"
        start = f"init_from: the start has the warning: {of_start}"
        others = ["train and test share 1 images (a): z", "label_graph: a"]
        assert warnings_of(data, of_start=[*others, of_start]) == [start]
        assert warnings_of(data, of_start=[start]) == [start]
        assert warnings_of(data, of_start=others) == []

    def test_the_same_as_that_of_the_start(self, data):
        network = SimpleNamespace(name="best", of_run=True)
        (own,) = warnings_of(data, network)
        assert warnings_of(data, network, of_start=[own]) == [own]


class TestLabelGraph:
    @pytest.fixture
    def given(self, data, tmp_path):
        """Writes a graph of a source; returns warnings of a run with it."""

        def given(source, **options):
            path = tmp_path / "g.npz"
            label_graph.save(path, LabelGraph.identity(2), NAMES, source)
            options = ALL | {"label_graph": str(path)} | options
            return warnings_of(data, options=options)

        return given

    @pytest.fixture
    def own(self, data):
        return labels_digest(data.train.labels, NAMES)

    @pytest.mark.parametrize("kind", ["cooccurrence", "learned"])
    @pytest.mark.parametrize("options", [ALL, SOME])
    def test_of_labels(self, given, own, kind, options):
        assert given(Source(kind, own), **options) == []
        assert given(Source(kind, "0123"), **options) == [
            f"label_graph: g.npz ({kind}) comes from other labels (0123) than "
            f"those that this run observes ({own}): it may know labels that "
            "this run hides or evaluates on"
        ]

    @pytest.mark.parametrize(
        "kind", ["identity", "wikipedia", "wikipedia_wordnet"]
    )
    def test_of_other_sources(self, given, kind):
        assert given(Source(kind), **SOME) == given(Source(kind)) == []

    def test_of_an_unknown_source(self, given):
        assert given(Source()) == []
        assert given(Source(), **SOME) == [
            "label_graph: g.npz does not say where it comes from: if it was "
            "counted from all training labels, it knows those that this run "
            "hides"
        ]

    def test_that_is_not_used(self, given):
        assert given(Source(), label_similarity="none", **SOME) == []

    @pytest.mark.parametrize("kind", ["cooccurrence", "identity"])
    def test_that_is_made_here(self, data, kind):
        assert warnings_of(data, options=SOME | {"label_graph": kind}) == []


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A folder of features; test image 6 has the row of training image 0."""
    path = tmp_path_factory.mktemp("features")
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype("f")
    rows[6] = rows[0]
    np.savez(path / "f.npz", ids=IDS, features=rows)
    signs = np.where(np.arange(12) % 2, 1, -1)
    write_csv(
        path / "labels.csv",
        ("image", *NAMES),
        zip(IDS, signs, -signs, strict=True),
    )
    splits = ["train"] * 6 + ["test"] * 3 + ["validation"] * 3
    write_csv(
        path / "splits.csv",
        ("image", "split"),
        zip(IDS, splits, strict=True),
    )
    return imcl_tf.load_dataset("folder", path, features=path / "f.npz")


class TestRuns:
    def run(self, data, caplog, *arguments, **options):
        """Results, and the warnings that were logged."""
        caplog.clear()
        with caplog.at_level("WARNING", "absl"):
            results = imcl_tf.run(
                data, None, *arguments, epochs=0, initial_epochs=0, **options
            )
        return results, [
            record.getMessage()
            for record in caplog.records
            if record.getMessage() in results["warnings"]
        ]

    def test_results_and_log_carry_them(self, features, tmp_path, caplog):
        results, logged = self.run(
            features, caplog, "logistic", tmp_path / "run"
        )
        assert results["warnings"] == logged == [COPIES]
        text = (tmp_path / "run" / "results.json").read_text()
        assert json.loads(text) == results
        assert Workdir(tmp_path / "run").warnings == logged
        again, _ = self.run(features, caplog, "logistic", tmp_path / "again")
        assert again == results
        trial, logged = self.run(
            features, caplog, "logistic", tmp_path / "trial", tuning=True
        )
        assert trial["warnings"] == [COPIES] and logged == []

    def test_none(self, features, tmp_path, caplog):
        """Without its labels, no one evaluates on image 6."""
        labels = features.test.labels.toarray()
        labels[features.test.image_ids == b"6"] = 0
        test = features.test._replace(labels=scipy.sparse.csr_array(labels))
        data = features._replace(test=test)
        results, _ = self.run(data, caplog, "logistic", tmp_path / "run")
        assert results["warnings"] == []
        assert Workdir(tmp_path / "run").warnings == []

    def test_a_graph_of_all_labels_beside_hidden_ones(
        self, features, tmp_path, caplog
    ):
        """The graph that is learned of it knows them too."""
        labels, names = features.train.labels, features.label_names
        digest = labels_digest(labels, names)
        source = Source("cooccurrence", digest)
        path = tmp_path / "g.npz"
        graph = LabelGraph.from_cooccurrence(labels)
        label_graph.save(path, graph, names, source)
        options = {"label_graph": str(path), "observed_fraction": 0.5}
        results, logged = self.run(
            features, caplog, "imcl", tmp_path / "run", **options
        )
        assert logged == results["warnings"]
        copies, of_graph = logged
        assert copies == COPIES
        assert of_graph == (
            f"label_graph: g.npz (cooccurrence) comes from other labels "
            f"({digest}) than those that this run observes "
            f"({results['labels_digest']}): it may know labels that this run "
            "hides or evaluates on"
        )
        left = tmp_path / "run" / "label_graph.npz"
        assert label_graph.load_source(left) == source

    def test_a_start_whose_results_are_damaged(
        self, features, tmp_path, caplog
    ):
        start = tmp_path / "start"
        self.run(features, caplog, "logistic", start)
        for text in ("{", '{"warnings": 7}', '{"warnings": [7]}'):
            (start / "results.json").write_text(text)
            with pytest.raises(ValueError, match="^init_from: .* is damaged"):
                self.run(
                    features, caplog, "logistic", tmp_path / "run",
                    init_from=str(start),
                )  # fmt: skip
        assert not (tmp_path / "run").exists()
