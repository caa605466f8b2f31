"""What figures 1 and 2 show, and where it is drawn."""

import numpy as np
import pytest
import scipy.sparse

from eval import qualitative
from eval.qualitative import Found
from imcl_tf.data.datasets import load_dataset
from imcl_tf.report.contents import read_run
from imcl_tf.training.predictions import Predictions
from tests.report.made import write_run

NAMES = [f"l{j}" for j in range(8)]  # two of them are looked at


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "run", np.random.default_rng(0), NAMES)
    return read_run(tmp_path / "run")


def predicting(run, top):
    """The run, as if it saw labels of two images, likeliest `top`."""
    labels = scipy.sparse.csr_array(
        np.array([[1, 0, 1, -1, 1, 0, 0, 1], [-1, 0, 0, 0, 0, 0, 0, 0]], "i1")
    )
    ids = np.array(["a.jpg", "b.jpg"], "S")
    scores = np.zeros(labels.nnz, "f4")
    return run._replace(
        predictions=Predictions(ids, labels, scores, np.array(top))
    )


def test_the_hardest_labels_come_first(run):
    one = predicting(run, [[0, 2, 4], [0, 1, 2]])
    two = predicting(run, [[0, 7, 1], [0, 1, 2]])
    three = predicting(run, [[2, 0, 1], [0, 1, 2]])
    (found,) = qualitative.found_labels([one, two, three], [], 6)
    assert (found.image, found.name) == (0, "a.jpg")
    # By 0, 1, 2 and 3 rows; the third likeliest is not looked at.
    assert found.labels == ["l4", "l7", "l2", "l0"]
    assert found.ranks.tolist() == [[0, 0, 0], [0, 2, 0], [2, 0, 1], [1, 1, 2]]


def test_of_labels_that_equally_many_find_the_worst_ranked_is_harder(run):
    one = predicting(run, [[0, 2], [0, 1]])
    (found,) = qualitative.found_labels([one], ["a.jpg"], 6)
    assert found.labels == ["l4", "l7", "l2", "l0"]
    with pytest.raises(ValueError, match="b.jpg has no label that is obs"):
        qualitative.found_labels([one], ["b.jpg"], 6)
    with pytest.raises(ValueError, match="no test image is named c"):
        qualitative.found_labels([one], ["a.jpg", "c"], 6)
    without = run._replace(predictions=None, missing={"predictions": "None."})
    with pytest.raises(ValueError, match="run: None."):
        qualitative.found_labels([one, without], [], 6)


@pytest.mark.parametrize(
    ("labels", "top"), [(5000, 50), (200, 50), (184, 46), (8, 2), (3, 1)]
)
def test_at_most_a_quarter_of_the_labels_is_looked_at(labels, top):
    assert qualitative.number_looked_at(labels) == top


def test_what_is_found_is_drawn_green(run):
    ranks = np.array([[0, 1], [2, 0], [1, 1]])
    found = [Found(n, f"{n}.jpg", list("abc"), ranks) for n in range(3)]
    pixels = np.full((4, 6, 3), 9, np.uint8)
    figure = qualitative.draw_found("T", found, ["x", "y"], 8, {1: pixels})
    panels = np.array(figure.axes).reshape(-1, 2)
    assert len(panels) == 4  # in two columns
    for one, (picture, grid) in zip(found, panels, strict=False):
        assert grid.images[0].get_array().tolist() == (ranks > 0).tolist()
        assert [x.get_text() for x in grid.get_yticklabels()] == list("abc")
        assert picture.get_title() == one.name
        assert len(picture.images) == (one.image == 1)
    assert [x.get_text() for x in panels[0, 1].get_xticklabels()] == ["x", "y"]
    assert "among the 2 likeliest of 8" in figure.get_suptitle()


def test_edges_are_the_strongest_of_each_moment(run):
    shown = qualitative.edges(run)
    for moment, snapshot in run.similar.items():
        for row, image in enumerate(snapshot.image_index[:4]):
            there = {
                f"train {other}.jpg": weight
                for other, weight in zip(
                    snapshot.neighbors[row], snapshot.label_weights[row],
                    strict=True,
                )
                if other >= 0
            }  # fmt: skip
            drawn = [
                (edge.source, edge.weight)
                for edge in shown
                if (edge.graph, edge.moment, edge.into)
                == ("images", moment, f"train {image}.jpg")
            ]
            assert {source for source, _ in drawn} == there.keys()
            weights = [weight for _, weight in drawn]
            assert weights == sorted(weights, reverse=True)
            if len(there) == 3:  # else one image stands there twice
                assert dict(drawn) == pytest.approx(there)
    graph = run.graph
    for moment, weights in (("start", graph.start), ("end", graph.end)):
        between = {
            (NAMES[j], NAMES[k]): weight
            for j, k, weight in zip(
                graph.source, graph.into, weights, strict=True
            )
            if j != k
        }
        best = sorted(between, key=lambda pair: -abs(between[pair]))[:30]
        drawn = {
            (edge.source, edge.into): edge.weight
            for edge in shown
            if (edge.graph, edge.moment) == ("labels", moment)
        }
        assert drawn == pytest.approx({pair: between[pair] for pair in best})


def test_edges_are_drawn_from_source_to_target(run):
    shown = qualitative.edges(run)
    figure = qualitative.draw_edges("T", shown, {})
    assert len(figure.axes) == 4
    for axes, (graph, moment) in zip(
        figure.axes,
        [(g, m) for g in ("images", "labels") for m in ("start", "end")],
        strict=True,
    ):
        own = [x for x in shown if (x.graph, x.moment) == (graph, moment)]
        assert (
            axes.get_title() == f"Similarity of {graph}, {moment} of training"
        )
        assert len(axes.texts) == len(own)
        nodes = {x.offsetbox.get_text(): x.xy for x in axes.artists}
        assert len({*nodes.values()}) == len(nodes)  # none upon another
        for arrow, edge in zip(axes.texts, own, strict=True):
            assert arrow.xy == nodes[edge.into]
            assert arrow.xyann == nodes[edge.source]


def test_pictures_are_those_of_the_run(tmp_path, make_folder):
    folder = make_folder(tmp_path / "pictures")
    data = load_dataset("folder", str(folder.path))
    write_run(
        tmp_path / "run", np.random.default_rng(0), data.label_names,
        len(data.test.image_ids), images=len(data.train.image_ids),
        digests=data.digests(),
    )  # fmt: skip
    path = tmp_path / "run/flags.cfg"
    path.write_text(f"--dataset=folder\n--data_dir={folder.path}\n")
    run = read_run(tmp_path / "run")
    tiles = qualitative.tiles_of(run, "test", [1, 0])
    assert sorted(tiles) == [0, 1]
    assert all(max(x.shape) == 96 and x.ndim == 3 for x in tiles.values())
    shown = [x for x in qualitative.edges(run) if x.graph == "images"]
    names = {name for edge in shown for name in (edge.source, edge.into)}
    assert qualitative.tiles_of_edges(run, shown).keys() == names


def test_without_its_data_a_run_has_no_pictures(run, caplog):
    assert qualitative.tiles_of(run, "test", [0]) == {}
    assert "names in the place of pictures" in caplog.text
