"""The page: its numbers, what is hostile, what is missing, its size."""

import html
import itertools
import json
import re

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from imcl_tf.report import page, plan, sections
from imcl_tf.report.contents import find_runs, read_run
from imcl_tf.report.page import leave_report, write_report
from tests import programs
from tests.report.made import HOSTILE, write_run


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def written(tmp_path, *runs):
    """The text of a page, and the JSON in it by id."""
    out = tmp_path / "out.html"
    write_report(runs or [tmp_path / "run"], out)
    text = out.read_text("utf-8")
    pattern = r'<script type="application/json" id="([\w-]+)">(.*?)</script>'
    return text, {k: json.loads(x) for k, x in re.findall(pattern, text, re.S)}


def words(text):
    """The text of a page without its markup."""
    text = re.sub(r"<(script|style).*?</\1>", " ", text, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def test_numbers_are_those_of_scikit_learn(tmp_path, rng):
    kept = write_run(tmp_path / "run", rng, num_images=150)
    text, data = written(tmp_path)
    labels, scores = kept.labels.toarray(), np.zeros(kept.labels.shape)
    scores[labels != 0] = kept.scores
    table = data["data-1"]["table"]
    means = []
    for j, (name, ap, positives, negatives) in enumerate(table["labels"]):
        seen = labels[:, j] != 0
        own = average_precision_score(labels[seen, j] > 0, scores[seen, j])
        means.append(own)
        assert name == ("cat", "dog", "owl")[j]
        assert ap == pytest.approx(100 * own, abs=1e-4)
        assert positives == (labels[:, j] > 0).sum()
        assert negatives == (labels[:, j] < 0).sum()
        assert table["curves"][j][-2] == 1000
        highest, lowest, absent = table["examples"][j]
        order = np.argsort(-scores[:, j])
        present = [i for i in order if labels[i, j] > 0]
        assert [i for i, _ in highest] == present[:2]
        assert [i for i, _ in lowest] == present[:-3:-1]
        assert [i for i, _ in absent] == [i for i in order if labels[i, j] < 0][
            :2
        ]
        probability = 1 / (1 + np.exp(-scores[present[0], j]))
        assert highest[0][1] == pytest.approx(probability, rel=1e-2)
        assert table["images"][str(present[0])] == [f"{present[0]:05}.jpg", ""]
    assert f"Test mAP {100 * np.mean(means):.2f} %" in words(text)


def test_found_and_missed_are_of_observed_labels_alone(tmp_path, rng):
    kept = write_run(tmp_path / "run", rng, names=[f"l{j}" for j in range(9)])
    run = read_run(tmp_path / "run")
    shown = sections.pictures(run, lambda split, image: "")
    labels = kept.labels.toarray()
    counts = (labels > 0).sum(1)
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    same = [tuple(labels[i] > 0) for i in order]
    is_again = [row in same[:place] for place, row in enumerate(same)]
    order = [order[i] for i in np.argsort(is_again, kind="stable")]
    assert len(shown) > len(set(same))
    order = order[: len(shown)]
    assert [p.name for p in shown] == [f"{i:05}.jpg" for i in order]
    for image, picture in zip(order, shown, strict=True):
        row = {f"l{j}": value for j, value in enumerate(labels[image])}
        assert {m.label for m in (*picture.found, *picture.missed)} == {
            name for name, value in row.items() if value > 0
        }
        assert all(m.score >= 0.5 for m in (*picture.found, *picture.wrong))
        assert all(m.score < 0.5 for m in picture.missed)
        assert all(row[m.label] < 0 for m in picture.wrong)
        assert all(row[name] == 0 for name in picture.unknown)


def test_of_many_labels_of_a_picture_the_first_are_seen_at_once(tmp_path, rng):
    write_run(tmp_path / "run", rng, names=[f"l{j}" for j in range(200)])
    first, *_ = sections.pictures(
        read_run(tmp_path / "run"), lambda split, image: ""
    )
    more = len(first.found) - sections.MARKS
    assert more > 0
    shown = words(written(tmp_path)[0])
    assert f"and {more} more found, {first.name} " in shown
    assert f" {first.found[-1].label} " in shown


def test_a_method_that_ranks_claims_as_many_as_are_present(tmp_path, rng):
    names = [f"l{j}" for j in range(9)]
    write_run(tmp_path / "run", rng, names=names, method="wsabie")
    run = read_run(tmp_path / "run")
    for picture in sections.pictures(run, lambda split, image: ""):
        assert len(picture.wrong) == len(picture.missed)
    text, _ = written(tmp_path)
    assert "scores of wsabie rank labels and are no probabil" in words(text)


def test_graph_and_similar_images(tmp_path, rng):
    write_run(tmp_path / "run", rng)
    run = read_run(tmp_path / "run")
    graph = sections.graph(run)
    assert sorted(zip(graph["into"], graph["from"], strict=True)) == [
        (j, k) for j in range(3) for k in range(3)
    ]
    np.testing.assert_allclose(graph["end"], run.graph.end, atol=5e-5)
    start = run.similar["start"].edge_weights
    np.testing.assert_allclose(graph["start"], start, atol=5e-5)
    shown = sections.similar_images(
        run, lambda split, image: f"{split} {image}"
    )
    assert [x.name for x in shown] == [f"train {i}.jpg" for i in range(4)]
    for row, hood in enumerate(shown):
        end, snapshot = hood.moments["end"], run.similar["end"]
        there = snapshot.neighbors[row] >= 0
        c = snapshot.label_weights[row][there]
        assert [x.weights[0] for x in end] == sorted(c.tolist(), reverse=True)
        assert {x.key for x in end} == {
            f"train {i}" for i in snapshot.neighbors[row][there]
        }


def test_hostile_names_are_text(tmp_path, rng):
    warnings = [f"{HOSTILE[0]} is a warning"]
    where = tmp_path / "a'\"<b>&{{ 1 }}"
    write_run(where, rng, HOSTILE, method=HOSTILE[1], warnings=warnings)
    text, data = written(tmp_path, where)
    assert data["data-1"]["names"] == list(HOSTILE)
    assert "<script>window" not in text and "<img src=x" not in text
    shown = words(text)
    assert warnings[0] in shown and HOSTILE[1] in shown and where.name in shown
    # No markup but the page's own: its scripts, and no address of a network.
    assert text.count("<script") == 3
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    for tag in re.findall(r"<[a-z][^>]*>", markup):
        assert not re.search(r"\son\w+=", re.sub(r'"[^"]*"', "", tag)), tag


@pytest.mark.parametrize(
    "results",
    [
        {"method": "half \ud800", "warnings": ["\udfff", "nul \0", None]},
        {"warnings": {"no": "list"}, "dataset": ["<b>"], "regime": {"a": 1}},
        {"method": "x" * 10**6, "warnings": ["y" * 10**6]},
        {"warnings": ["many"] * 10**5, "mAP_groups": [{"a": 1}] * 10**4},
        {"seed": 10**400, "validation_mAP": 10**400, "initial_logistic": [1]},
        {"mAP_support": {"labels": "<b>"}, "mAP_groups_support": "text"},
        {"chosen": {"why": ["<b>"]}, "digests": {"splits": {"a": ["<b>"]}}},
    ],
)
def test_odd_and_huge_results_make_a_small_page(tmp_path, rng, results):
    write_run(tmp_path / "run", rng, **results)
    text, _ = written(tmp_path)
    assert "Test mAP" in text and "<b>]" not in text
    assert len(text) < 500_000


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.csv", "0,validation,1e308\n1,validation,-1e308\n"),
        ("metrics.csv", "1e300,validation,3\n"),
        ("metrics.csv", "1e20,validation,3\n"),
        ("metrics.csv", "0,validation,5e-324\n1,validation,1e-323\n"),
        ("penalties.csv", "1e-300,1\n1e300,3\n5e-324,3\n1,inf\n2,nan\n"),
    ],
)
def test_numbers_that_no_chart_can_hold(tmp_path, rng, file, text):
    write_run(tmp_path / "run", rng)
    header = {
        "metrics.csv": "epoch,split,mAP\n",
        "penalties.csv": "penalty,validation_mAP\n",
    }
    inner = tmp_path / "run/initial"
    inner.mkdir()
    (inner / file).write_text(header[file] + text)
    page, _ = written(tmp_path)
    assert "Curves" in page and not re.search(r"\b(nan|inf)\b", page)


def test_a_line_of_many_epochs_is_thinned(tmp_path, rng):
    write_run(tmp_path / "run", rng)
    rows = "".join(f"{i},validation,{i % 7}\n" for i in range(5000))
    (tmp_path / "run/metrics.csv").write_text(f"epoch,split,mAP\n{rows}")
    (chart,) = sections.curves(read_run(tmp_path / "run"))
    (points,) = chart.points
    assert 200 < len(points) <= 400 and points[-1] == (4999, 4999 % 7)
    assert {b - a for (a, _), (b, _) in itertools.pairwise(points)} == {13}


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("metrics.csv", "No curves: The workdir holds no metrics.csv."),
        ("average_precision.csv", "No table of labels: The workdir holds no"),
        ("test_predictions.npz", "No test images: The workdir holds no test_"),
        ("provenance.json", "machine and time are not known: The workdir"),
        ("label_graph.npz", "No label graph: IMCL alone learns one. The work"),
        ("flags.cfg", "The flags are not known: The workdir holds no flags"),
        ("labels.txt", "No table of labels: average_precision.csv cannot"),
        ("tensorboard", "No similar images: IMCL alone has them. The workdir"),
    ],
)
def test_what_is_missing_is_named(tmp_path, rng, file, sentence):
    write_run(tmp_path / "run", rng)
    (tmp_path / "run" / file).rename(tmp_path / "gone")
    assert sentence in words(written(tmp_path)[0])


def test_results_alone_make_a_page_and_damaged_files_are_named(tmp_path, rng):
    write_run(tmp_path / "run", rng)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file() and path.name != "results.json":
            path.write_bytes(b"\xff\xfe damaged")
    text = words(written(tmp_path)[0])
    assert "metrics.csv cannot be read" in text
    assert "test_predictions.npz cannot be read" in text
    (tmp_path / "run/results.json").write_text('{"mAP": 50, "digests": 3}')
    assert "Test mAP 50.00 %" in words(written(tmp_path)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no finished run there"),
        ("{", "results.json is damaged"),
        ("[1]", "expected a JSON object"),
        ('{"validation_mAP": 1}', "expected a number mAP"),
        ('{"mAP": "70"}', "expected a number mAP, .* got '70'"),
        ('{"mAP": NaN}', "expected a number mAP"),
    ],
)
def test_damaged_results_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run/results.json").write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        write_report([tmp_path / "run"], tmp_path / "out.html")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.html").exists()


def plan_of(tmp_path, rng, number=4):
    """Runs of two methods and two seeds, beside what is no finished run."""
    for i in range(number):
        method, seed = ("imcl", "hill")[i // 2 % 2], i % 2
        path = tmp_path / "plan" / method / f"seed-{seed}-{i // 4}"
        write_run(path, rng, seed=seed, method=method)
        inner = path / "auto/logistic"
        inner.mkdir(parents=True)
        (inner / "results.json").write_text('{"mAP": 1}')
    trial = tmp_path / "plan/trial"
    trial.mkdir()
    (trial / "results.json").write_text('{"validation_mAP": 1}')
    return find_runs([tmp_path / "plan"])


def test_several_runs_have_a_table_and_means_over_seeds(tmp_path, rng):
    paths = plan_of(tmp_path, rng)
    assert [path.parent.name for path in paths] == ["hill"] * 2 + ["imcl"] * 2
    text, data = written(tmp_path, tmp_path / "plan", *paths)
    assert {"data-1", "data-4"} < data.keys() and "data-5" not in data
    runs = [read_run(path) for path in paths]
    found = plan.summaries(runs)
    assert [(x.method, x.seeds) for x in found] == [
        ("hill", ["0", "1"]), ("imcl", ["0", "1"])
    ]  # fmt: skip
    means = [run.results["mAP"] for run in runs[:2]]
    assert found[0].means[1] == pytest.approx(np.mean(means))
    deviation = abs(means[0] - means[1]) / 2**0.5  # n - 1
    assert found[0].deviations[1] == pytest.approx(deviation)
    shown = words(text)
    assert f"{np.mean(means):.2f} ± {deviation:.2f}" in shown
    assert "hill/seed-0-0" in shown and "auto/logistic" not in shown


def test_means_are_of_equal_data_and_of_each_seed_once(tmp_path, rng):
    """Labels are hidden by chance; else other labels are other data."""
    data = {"splits": "a", "training labels": "b"}
    kinds = [
        (0, data, "1.0"), (1, data, "1.0"), (1, data, "1.0"),
        (2, data | {"splits": "c"}, "1.0"),
        (3, data | {"training labels": "d"}, "1.0"),
        (0, data | {"training labels": "e"}, "0.5"),
        (1, data | {"training labels": "f"}, "0.5"),
    ]  # fmt: skip
    for i, (seed, digests, share) in enumerate(kinds):
        write_run(tmp_path / f"{i}", rng, seed=seed, digests=digests)
        with (tmp_path / f"{i}/flags.cfg").open("a") as file:
            file.write(f"--observed_fraction={share}\n")
    runs = [read_run(tmp_path / f"{i}") for i in range(len(kinds))]
    whole, hidden = plan.summaries(runs)
    assert whole.seeds == hidden.seeds == ["0", "1"]
    means = [run.results["mAP"] for run in runs]
    assert whole.means[1] == pytest.approx(np.mean(means[:2]))
    assert hidden.means[1] == pytest.approx(np.mean(means[-2:]))


@pytest.mark.parametrize(("limit", "most"), [("RUNS", 2), ("LABELS", 8)])
def test_of_many_runs_the_first_are_in_full(
    tmp_path, rng, monkeypatch, limit, most
):
    """Two runs of three labels are; the others are not even read whole."""
    monkeypatch.setattr(page, f"_MOST_{limit}", most)
    plan_of(tmp_path, rng)
    text, data = written(tmp_path, tmp_path / "plan")
    assert "The first 2 of 4 runs are shown in full" in words(text)
    assert "data-2" in data and "data-3" not in data


def test_a_thousand_labels_are_below_5_mb(tmp_path, rng):
    names = [f"a label of usual length {j}" for j in range(1000)]
    write_run(tmp_path / "run", rng, names=names, num_images=5000)
    out = tmp_path / "out.html"
    write_report([tmp_path / "run"], out)
    # With 400 thumbnails of 5 KB, as text, beside it.
    assert out.stat().st_size + 400 * 5_000 * 4 / 3 < 5e6


def test_pictures_of_the_data_set(tmp_path, rng, make_folder):
    """Thumbnails where the data are those of the run, else a sentence."""
    from imcl_tf.data.datasets import load_dataset

    folder = make_folder(tmp_path / "pictures")
    data = load_dataset("folder", str(folder.path))
    number = len(data.test.image_ids)
    write_run(
        tmp_path / "run", rng, data.label_names, number,
        images=len(data.train.image_ids), digests=data.digests(),
    )  # fmt: skip
    flags = f"--dataset=folder\n--data_dir={folder.path}\n"
    (tmp_path / "run/flags.cfg").write_text(flags)
    text, parts = written(tmp_path)
    kept = parts["pictures"]
    assert {key.split("-")[1] for key in kept} == {"test", "train"}
    assert all(x.startswith("data:image/jpeg;base64,") for x in kept.values())
    assert set(re.findall(r'data-picture="([^"]+)"', text)) <= set(kept)
    results = json.loads((tmp_path / "run/results.json").read_text())
    results["digests"]["pictures"] = "0"
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    text, parts = written(tmp_path)
    assert parts["pictures"] == {}
    assert "has other pictures now than in the run" in words(text)


def test_a_report_that_fails_is_a_warning(tmp_path, rng, caplog):
    leave_report(tmp_path, None)
    assert "report.html could not be written" in caplog.text
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "report.html").write_text("there already")
    leave_report(tmp_path, None)
    assert (tmp_path / "report.html").read_text() == "there already"


def test_program(tmp_path, rng):
    write_run(tmp_path / "run", rng)
    run = f"--runs={tmp_path / 'run'}"
    none = f"--runs={tmp_path}/no"
    done = programs.run("eval.report", run, none, "--out=a.html", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = (x for x in done.stderr.splitlines() if "imcl_tf" in x)
    assert line == f"imcl_tf: error: {tmp_path}/no: no such directory"
    done = programs.run("eval.report", run, "--out=a.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a.html: 0.")
    assert (tmp_path / "a.html").stat().st_size > 20_000


def test_a_run_that_goes_further_loses_its_page(prepared, tmp_path):
    """Else that of fewer epochs would stay."""
    from imcl_tf.data.multi_label_dataset import open_source
    from imcl_tf.training.identity import Identity
    from imcl_tf.training.workdir import Workdir

    data = open_source(prepared)
    workdir = Workdir(tmp_path)
    identity = Identity({"epochs": 1}, {}, data.digests())
    for resume in (False, True):
        with workdir.alone():
            workdir.start(identity, "", data, resume)
            assert not (tmp_path / "report.html").exists()
            workdir.write_results({"mAP": 1})
        (tmp_path / "report.html").write_text("a page")
    workdir.restate({"mAP": 2}, "")
    assert not (tmp_path / "report.html").exists()
