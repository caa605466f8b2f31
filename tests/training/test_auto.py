"""`--method=auto`: what it tries, what it takes and how it says so."""

import json
import math
import types

import numpy as np
import pytest
import scipy.sparse

import imcl_tf
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.ops.jackknife import mean_precisions, standard_error
from imcl_tf.training import auto as module
from imcl_tf.training import completion
from imcl_tf.training import trials as trials_module
from imcl_tf.training.auto import auto
from imcl_tf.training.trials import explained
from imcl_tf.training.workdir import VALIDATION_SCORES
from tests.methods.common import tiny_cnn
from tests.training.trials import trials_of

NEAR = {"neighbors": "chosen"}
pytestmark = pytest.mark.usefixtures("without_export")


def test_logistic_is_the_choice_where_nothing_helps(tmp_path):
    trials = trials_of(tmp_path, {})
    for name, settings in module._proposals(trials, NEAR, 0.0):
        trials.attempt(name, settings)
    names = [trial.name for trial in trials.done]
    assert names[:3] == ["logistic", "neighbors", "imcl"]
    assert set(module._OTHERS) < set(names)
    assert explained(trials.done)["settings"] == {"method": "logistic"}
    assert "no other setting was better" in explained(trials.done)["why"]


def test_what_neighbours_gain_the_others_get(tmp_path):
    trials = trials_of(tmp_path, {"neighbors": 0.3, "imcl": 0.6, "imcl-3": 1.0})
    for name, settings in module._proposals(trials, NEAR, 0.0):
        trials.attempt(name, settings)
    by_name = {trial.name: trial.settings for trial in trials.done}
    assert by_name["imcl"]["neighbors"] == "chosen"
    assert by_name["imcl-1"]["penalty"] == 0.01  # ten times that of the start
    # The fourth variation is one of the third, which was better.
    assert by_name["imcl-4"]["lambda_y"] == 5.0
    assert by_name["imcl-5"]["lambda_y"] == by_name["imcl-3"]["lambda_y"] == 0.2
    assert trials.best.name == "imcl-3"


def test_the_budget_ends_the_trials(tmp_path):
    trials = trials_of(tmp_path, {}, seconds=0.0)
    for name, settings in module._proposals(trials, NEAR, 0.0):
        trials.attempt(name, settings)
    assert [t.name for t in trials.done] == ["logistic", "neighbors"]


def test_methods_for_labels_that_are_only_present_come_first(tmp_path):
    trials = trials_of(tmp_path, {})
    for name, settings in module._proposals(trials, NEAR, 0.0, True):
        trials.attempt(name, settings)
    names = [trial.name for trial in trials.done]
    others = len(module._OTHERS)
    assert names[2 : 2 + others] == [*module._OTHERS]
    assert names[2 + others] == "imcl" and len({*names}) == len(names)


@pytest.mark.parametrize("budget", [-1, float("nan"), float("inf")])
def test_a_budget_is_a_number(budget, tmp_path):
    with pytest.raises(ValueError, match="budget must be"):
        auto(ring(tmp_path, 20, 30), None, tmp_path / "run", budget=budget)
    assert not (tmp_path / "run").exists()


def test_trials_train_as_the_preset_says():
    """Whatever stands in flags/folder.cfg, and in no option of a user's."""
    found = module._as_preset()
    preset = imcl_tf.presets.load("folder")
    assert found["learning_rate"] == preset["learning_rate"]
    assert found["lambda_y"] == preset["lambda_y"]
    assert found["rate_drop_epoch"] == 0  # the default
    assert not {"backbone", "method"} & {*found}


def test_end_to_end_a_pretrained_network_is_trained(prepared, tmp_path):
    network = tiny_cnn()
    network.pretrained = True
    before = network.trainable_variables[0].numpy()
    results = auto(
        open_source(prepared), network, tmp_path, budget=0,
        regime="end_to_end", initial_epochs=1, batch_size=8, keep="latest",
    )  # fmt: skip
    assert abs(network.trainable_variables[0].numpy() - before).max() > 1e-4
    # Its head is solved afterwards.
    assert results["regime"] == "fixed_features" and results["penalty"] > 0


def test_folds_hold_every_observed_label_back_once(tmp_path):
    data = ring(tmp_path, 50, 10)
    hidden = data.hide_labels(0.5, 1)
    folds = [*module._folds(hidden)]
    assert len(folds) == 5
    whole = hidden.train.labels.toarray()
    held = [fold.validation.labels.toarray() for fold in folds]
    np.testing.assert_array_equal(sum(held), whole)
    for fold, apart in zip(folds, held, strict=True):
        np.testing.assert_array_equal(
            fold.train.labels.toarray() + apart, whole
        )
        assert not (fold.train.labels.toarray() * apart).any()
        # Whole images, a fifth of them.
        assert apart.any(1).sum() + (whole == 0).all(1).sum() >= 5
        np.testing.assert_array_equal(
            fold.test.labels.nnz, data.test.labels.nnz
        )


def test_what_folds_agree_on():
    near = imcl_tf.Mixing(0.5, 20, 1.0, True)._asdict()
    other = imcl_tf.Mixing(1.0, 40, 1.0, True, "logits")._asdict()
    few = imcl_tf.Mixing(0.25, 10, 0.05, True, "logits")._asdict()
    assert module._agreed_neighbors([near, other, few, other, None]) == {
        "neighbors": "given", "neighbor_share": 0.5, "neighbor_number": 40,
        "neighbor_temperature": 1.0, "neighbor_observed": True,
        "neighbor_by": "logits",
    }  # fmt: skip
    assert module._agreed_neighbors([None, other, None, near, None]) == {}
    penalties = 1e-4, 1e-2, 1e-3, 1e-1, 1e-5
    results = [{"penalty": penalty} for penalty in penalties]
    assert module._agreed({"method": "imcl"}, results) == {
        "method": "imcl", "penalty": 1e-3, "keep": "latest",
    }  # fmt: skip


def test_only_what_can_be_is_proposed(tmp_path):
    trials = trials_of(tmp_path, {})
    for name, settings in module._proposals(trials, {}, math.inf):
        trials.attempt(name, settings)
    names = {trial.name for trial in trials.done}
    assert not {"neighbors", "completion"} & names
    assert {"logistic", "imcl", *module._OTHERS} <= names


def test_labels_are_completed_within_the_budget(tmp_path):
    for completing, expected in (50.0, True), (200.0, False):
        trials = trials_of(tmp_path / str(completing), {}, seconds=100.0)
        for name, settings in module._proposals(trials, {}, completing):
            trials.attempt(name, settings)
        assert ("completion" in {t.name for t in trials.done}) == expected


def test_a_stronger_penalty_is_tried_where_there_is_one(tmp_path):
    for penalty, expected in (0.003, {0.03}), (0.0, set()):
        trials = trials_of(tmp_path / str(penalty), {}, penalty=penalty)
        tried = set()
        for name, settings in module._proposals(trials, {}, math.inf):
            trials.attempt(name, settings)
            tried |= {settings["penalty"]} if "penalty" in settings else set()
        assert tried == expected


def test_labels_are_completed_where_that_is_possible(tmp_path, monkeypatch):
    data = ring(tmp_path, 20, 4)
    assert module._can_complete(data, None, {})
    assert not module._can_complete(data, None, {"initial_head": "trained"})
    monkeypatch.setattr(completion, "_MOST_ENTRIES", 20 * 3 - 1)
    assert not module._can_complete(data, None, {})


def ring(place, train, held):
    """Features whose neighbours tell what a plane cannot."""
    rng = np.random.default_rng(0)
    number = train + 2 * held
    ids = [f"{i:03}" for i in range(number)]
    angle = rng.uniform(0, 2 * np.pi, number)
    features = np.stack([np.cos(angle), np.sin(angle), 0 * angle + 0.1], 1)
    labels = np.where(np.sin(4 * angle) > 0, 1, -1)
    np.savez(place / "f.npz", ids=ids, features=features.astype("f4"))
    splits = ["train"] * train + ["validation"] * held + ["test"] * held
    (place / "labels.csv").write_text(
        "image,label,value\n"
        + "".join(f"{i},x,{y}\n" for i, y in zip(ids, labels, strict=True))
    )
    (place / "splits.csv").write_text(
        "image,split\n"
        + "".join(f"{i},{s}\n" for i, s in zip(ids, splits, strict=True))
    )
    return imcl_tf.load_dataset("folder", place, features=place / "f.npz")


def test_a_run_and_its_resumption(tmp_path, monkeypatch):
    data = ring(tmp_path, 160, 200)
    arguments = {"seed": 3, "regime": "fixed_features"}
    results = auto(data, None, tmp_path / "run", budget=0.0, **arguments)
    chosen = results["chosen"]
    assert chosen["settings"] == {"method": "logistic", "neighbors": "chosen"}
    assert results["mAP"] > results["initial_logistic"]["mAP"] + 20
    assert results["neighbors"]["observed"]
    assert chosen["trials"][1]["validation_mAP"] == results["validation_mAP"]
    assert chosen["parts"] == 1  # validation has more labels
    file = tmp_path / "run" / "results.json"
    assert json.loads(file.read_text()) == results
    # No trial has seen the test split.
    for trial in ("start", "logistic", "neighbors"):
        text = (tmp_path / "run/auto" / trial / "results.json").read_text()
        assert "mAP" not in json.loads(text)
    monkeypatch.setattr(module, "_proposals", stop_unless_finished(tmp_path))
    again = auto(
        data, None, tmp_path / "run", budget=0.0, resume=True, **arguments
    )
    assert again == results


def test_cross_validation_where_validation_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FOLDS", 2)
    data = ring(tmp_path, 200, 12)
    place = tmp_path / "run"
    plain = {"regime": "fixed_features", "epochs": 0}
    first = tmp_path / "first"
    imcl_tf.run(data, None, "logistic", first, **plain)
    # Folds do not start from it: it has seen the images that they hold back.
    results = auto(data, None, place, budget=0.0, init_from=str(first))
    labels = data.validation.labels.sorted_indices()
    scores = np.load(place / "auto/start" / VALIDATION_SCORES)
    assert standard_error(mean_precisions(labels, scores)) > 0.025
    chosen = results["chosen"]
    assert chosen["parts"] == 2
    assert "2-fold cross-validation on the training labels" in chosen["why"]
    # What was compared is what was run.
    proved = chosen["trials"][1]["settings"]
    assert proved.items() <= chosen["settings"].items()
    assert proved["neighbors"] == "given"
    assert results["neighbors"]["share"] == proved["neighbor_share"] > 0
    assert results["penalty"] == chosen["settings"]["penalty"]
    # Every training label was scored by a model that had not seen it.
    trial = place / "auto/neighbors"
    number = 0
    for fold in (1, 2):
        part = trial / f"fold-{fold}"
        seen = scipy.sparse.load_npz(part / "observed_labels.npz")
        number += len(np.load(part / VALIDATION_SCORES))
        assert seen.nnz == 100
    assert number == 200
    found = json.loads((place / "results.json").read_text())["chosen"]
    assert found["trials"][1]["validation_mAP"] > 80


def test_an_earlier_result_does_not_pass_for_this_one(tmp_path, monkeypatch):
    data = ring(tmp_path, 30, 40)
    place = tmp_path / "run"
    plain = {"regime": "fixed_features", "epochs": 0}
    earlier = imcl_tf.run(data, None, "logistic", place, **plain)
    with pytest.raises(TypeError, match="no_such"):
        auto(data, None, place, no_such=1)
    assert (place / "results.json").exists()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_proposals", interrupted)
    with pytest.raises(KeyboardInterrupt):
        auto(data, None, place, regime="fixed_features")
    assert not (place / "results.json").exists()
    kept = (place / "earlier/results.json").read_text()
    assert json.loads(kept) == earlier


def propose(monkeypatch, *trials):
    """Makes auto try these alone."""

    def proposals(*_):
        for number, trial in enumerate(trials):
            yield f"trial-{number}", trial

    monkeypatch.setattr(module, "_proposals", proposals)


PLAIN = {"method": "logistic"}


def test_a_mistake_removes_no_trial(tmp_path, monkeypatch):
    propose(monkeypatch, PLAIN)
    data = ring(tmp_path, 20, 30)
    place = tmp_path / "run"
    # What auto tries replaces what is given.
    given = {"neighbors": "given", "completion_rounds": 2, "seed": 1}
    assert auto(data, None, place, **given)["neighbors"] is None
    assert not [*place.rglob("completion.csv")]
    before = (place / "auto/trials.csv").stat().st_mtime_ns
    for mistake in {"no_such": 1}, {"init_from": str(tmp_path / "none")}:
        with pytest.raises((TypeError, OSError)):
            auto(data, None, place, **mistake)
    assert (place / "auto/trials.csv").stat().st_mtime_ns == before
    assert not (place / "earlier").exists()
    # Another start is no continuation of this one, at whatever point it ended.
    (place / "auto/trials.csv").unlink()
    assert auto(data, None, place, seed=2)["seed"] == 2


def test_a_trial_that_diverges_is_passed_over(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        if arguments[2] == "hill":
            raise FloatingPointError("scores are not finite")
        return imcl_tf.run(*arguments, **options)

    propose(monkeypatch, PLAIN, {"method": "hill"})
    monkeypatch.setattr(module, "run", fail)
    results = auto(ring(tmp_path, 20, 30), None, tmp_path / "run")
    assert [x["name"] for x in results["chosen"]["trials"]] == ["trial-0"]
    propose(monkeypatch, {"method": "hill"})
    with pytest.raises(FloatingPointError):
        auto(ring(tmp_path, 20, 30), None, tmp_path / "run")


def test_more_trials_are_no_fewer(tmp_path, monkeypatch):
    """Those of a larger budget, of the same choice and then of another one."""
    data = ring(tmp_path, 20, 30)
    slow = {"method": "hill", "epochs": 0}
    better = {"method": "logistic", "penalty": 0.02}
    file = tmp_path / "run/results.json"
    for trials, taken in (
        ((PLAIN,), PLAIN), ((PLAIN, slow), PLAIN),
        ((PLAIN, slow, better), better),
    ):  # fmt: skip
        propose(monkeypatch, *trials)
        gain = float(len(trials) > 2), 0.0
        monkeypatch.setattr(trials_module, "difference", lambda *_, x=gain: x)
        found = auto(data, None, tmp_path / "run", resume=True)
        assert found["chosen"]["settings"] == taken
        assert len(found["chosen"]["trials"]) == len(trials)
        assert json.loads(file.read_text()) == found
    assert found["penalty"] == 0.02


def test_boost_is_refused_before_a_network_is_trained(tmp_path):
    data = ring(tmp_path, 20, 30)
    with pytest.raises(ValueError, match="boost: auto tries .* fixed features"):
        auto(data, None, tmp_path / "boosted", boost=True)
    assert not (tmp_path / "boosted").exists()


def test_folds_without_average_precision_are_none(tmp_path, monkeypatch):
    """A single positive: four folds in five have no average precision."""
    propose(monkeypatch, PLAIN)
    data = ring(tmp_path, 40, 6)
    labels = -np.ones((40, 1), np.int8)
    labels[5] = 1
    rare = scipy.sparse.csr_array(labels)
    data = data._replace(train=data.train._replace(labels=rare))
    results = auto(data, None, tmp_path / "run")
    assert results["chosen"]["parts"] == 1


def test_a_network_of_another_run_may_have_seen_the_labels():
    network = types.SimpleNamespace(pretrained=True)
    fixed = {"regime": "fixed_features"}
    assert not module._is_trained(network, fixed)
    assert module._is_trained(network, fixed | {"init_from": "runs/mine"})
    assert not module._is_trained(None, fixed | {"init_from": "runs/mine"})
    network.of_run = True  # --backbone=RUN/checkpoints/best.keras
    assert module._is_trained(network, fixed)


def stop_unless_finished(tmp_path):
    """The same proposals; a trial that is begun anew would change its file."""
    before = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "run").rglob("metrics.csv")
    }
    proposals = module._proposals

    def checked(*arguments):
        yield from proposals(*arguments)
        for path, time in before.items():
            assert path.stat().st_mtime_ns == time

    return checked
