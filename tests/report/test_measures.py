"""Curves, calibration and charts against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics

from imcl_tf.report.charts import LEFT, RIGHT, line_chart
from imcl_tf.report.measures import precision_recall, reliability, sigmoid


@pytest.mark.parametrize("decimals", [1, 6])  # with ties and without
def test_points_of_the_curve_are_those_of_scikit_learn(decimals):
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.4
    scores = np.round(rng.normal(size=300) + positive, decimals)
    precision, recall, _ = metrics.precision_recall_curve(positive, scores)
    expected = np.stack([recall, precision], 1)
    whole = precision_recall(scores, positive, most=1000)
    # Eq. (9): the area below steps is the AP.
    area = (np.diff(whole[:, 0], prepend=0) * whole[:, 1]).sum()
    ap = metrics.average_precision_score(positive, scores)
    assert area == pytest.approx(ap, rel=1e-12)
    few = precision_recall(scores, positive)
    assert len(few) <= 40 and few[-1, 0] == 1
    for points in (whole, few):
        assert (np.diff(points[:, 0]) > 0).all()
        nearest = np.abs(points[:, None] - expected[None]).max(2).min(1)
        np.testing.assert_allclose(nearest, 0, atol=1e-12)
    assert np.diff(few[:, 0], prepend=0).max() < 0.1


def test_curve_by_hand():
    # Sorted: + - +, so precision 1 at recall 1/2 and 2/3 at recall 1.
    curve = precision_recall(np.array([3.0, 1, 2]), np.array([1, 1, 0]) > 0)
    np.testing.assert_allclose(curve, [[0.5, 1], [1, 2 / 3]])
    # All of one score: one threshold.
    curve = precision_recall(np.zeros(4), np.array([1, 0, 0, 0]) > 0)
    np.testing.assert_allclose(curve, [[1, 0.25]])
    assert precision_recall(np.zeros(2), np.zeros(2, bool)).shape == (0, 2)
    assert precision_recall(np.zeros(0), np.zeros(0, bool)).shape == (0, 2)


def test_reliability_against_a_loop():
    rng = np.random.default_rng(1)
    p = np.append(rng.random(500), [0, 1, 1, 0.1])
    positive = rng.random(504) < p**2
    found = reliability(p, positive)
    error = 0
    for i in range(10):
        low, high = i / 10, (i + 1) / 10
        inside = (p >= low) & ((p < high) | (i == 9))
        assert found.counts[i] == inside.sum()
        assert found.claimed[i] == pytest.approx(p[inside].mean())
        assert found.observed[i] == pytest.approx(positive[inside].mean())
        distance = abs(p[inside].mean() - positive[inside].mean())
        error += inside.sum() / 504 * distance
    assert found.error == pytest.approx(error)


def test_reliability_of_few_and_of_none():
    found = reliability(np.array([0.95]), np.array([False]))
    assert found.error == pytest.approx(0.95) and found.counts[9] == 1
    assert np.isnan(found.claimed[:9]).all()
    none = reliability(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(none.error) and not none.counts.any()


def test_sigmoid_of_large_scores_warns_of_nothing():
    found = sigmoid(np.array([-1e4, 0, 1e4], np.float32))
    np.testing.assert_allclose(found, [0, 0.5, 1], atol=1e-300)


def test_chart_has_round_ticks_and_says_the_same_in_words():
    lines = [("one", [(0, 3.0), (1, 9.0), (2, 6.0)]), ("two", [(1, 4.0)])]
    chart = line_chart("Loss", "epoch", lines)
    assert [tick.text for tick in chart.y_ticks] == ["4", "6", "8"]
    assert [tick.text for tick in chart.x_ticks] == ["0", "1", "2"]
    assert "one: 3 at 0, 6 at 2, highest 9 at 1." in chart.text
    # Larger is higher, which SVG counts from the top.
    (_, low), (_, high), _ = chart.lines[0].dots
    assert (
        high < low
        and chart.lines[1].path == f"M{180} {chart.lines[1].dots[0][1]:g}"
    )
    level = line_chart("Rate", "epoch", [("one", [(0, 0.5)])])
    assert level.lines[0].dots and level.y_ticks


def test_a_logarithmic_axis_has_powers_of_ten():
    points = [(10.0**n, n) for n in range(-6, 0)]
    chart = line_chart("mAP", "penalty", [("one", points)], True)
    texts = [tick.text for tick in chart.x_ticks]
    assert texts == ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1"]
    steps = np.diff([tick.place for tick in chart.x_ticks])
    np.testing.assert_allclose(steps, steps.mean(), atol=0.11)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.02, 0.07), ["0.02", "0.05"]),
        ((3, 40), ["5", "10", "20"]),
        ((1, 1), ["1"]),
        ((0.003, 0.003), ["0.0025", "0.0036"]),  # 0.003 less and more a fifth
        ((1, 100), ["1", "10", "100"]),
    ],
)
def test_a_short_logarithmic_axis_has_ticks_too(values, ticks):
    points = [(x, 1.0) for x in values]
    chart = line_chart("mAP", "penalty", [("one", points)], True)
    assert [tick.text for tick in chart.x_ticks] == ticks
    for tick in chart.x_ticks:
        assert LEFT <= tick.place <= RIGHT
