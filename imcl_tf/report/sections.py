"""What a page shows of one run, section by section, without any markup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from imcl_tf.methods.pictures import Snapshot
from imcl_tf.ops.metrics import Support
from imcl_tf.report.charts import Chart, line_chart, unit_chart
from imcl_tf.report.contents import Row, Run, number_in
from imcl_tf.report.measures import (
    Reliability,
    precision_recall,
    reliability,
    sigmoid,
)
from imcl_tf.report.pictures import image_name
from imcl_tf.training.predictions import Predictions

_MOST_PICTURES = 24
_MOST_SIMILAR = 8
MARKS = 12  # labels of a picture and a kind that are seen at once
UNKNOWN = 5  # likeliest labels that are not observed
_EXAMPLES = 2  # pictures of each kind, of a label
_MOST_POINTS = 400  # of a line: a run of thousands of epochs has as many
_GROUPS = 5
# Columns of metrics.csv that are no loss term.
_NO_TERMS = {
    "step", "epoch", "validation", "mAP", "learning_rate", "mAP_labels",
    "mAP_positives", "mAP_negatives",
}  # fmt: skip
# Split and number of an image -> name of its thumbnail, "" = none.
Key = Callable[[str, int], str]


class Card(NamedTuple):
    """A number in large type.

    Attributes:
      title: what it is.
      value: the number, None = not known.
      note: what it rests on, or how it compares.
    """

    title: str
    value: float | None
    note: str


class Group(NamedTuple):
    """A fifth of the labels, by their annotations in training.

    Attributes:
      name: "1" has fewest.
      means: mAP on test, of the initial logistic model there, and on
        validation; None where it is not known.
      support: what the first rests on.
    """

    name: str
    means: tuple[float | None, ...]
    support: str


class Mark(NamedTuple):
    """A label of a picture.

    Attributes:
      label: its name.
      score: probability, or the score of a method without.
    """

    label: str
    score: float


class Picture(NamedTuple):
    """A test picture and what was said of it.

    Attributes:
      name: of the image.
      key: of its thumbnail, "" = none.
      found: labels observed present that were found.
      missed: those that were not.
      wrong: labels observed absent that were claimed.
      unknown: likeliest labels that are not observed, likeliest first.
    """

    name: str
    key: str
    found: list[Mark]
    missed: list[Mark]
    wrong: list[Mark]
    unknown: list[str]


class Similar(NamedTuple):
    """A training picture that another one is similar to.

    Attributes:
      name: of the image.
      key: of its thumbnail, "" = none.
      weights: c and c-bar.
      shares: of the widest bar in the row of pictures, in percent.
    """

    name: str
    key: str
    weights: tuple[float, float]
    shares: tuple[int, int]


class Neighborhood(NamedTuple):
    """A training picture with its similar ones.

    Attributes:
      name: of the image.
      key: of its thumbnail, "" = none.
      moments: "start" and "end" -> similar pictures, by falling weight.
    """

    name: str
    key: str
    moments: dict[str, list[Similar]]


def cards(run: Run) -> list[Card]:
    """The results in short."""
    results = run.results
    mean, start = results["mAP"], number_in(run.initial.get("mAP"))
    note = ""
    if start is not None:
        gain = f"{mean - start:+.2f}".replace("-", "\N{MINUS SIGN}")
        note = f"{gain} points by the method's training"
    return [
        Card("Test mAP", mean, _support(results.get("mAP_support"))),
        Card("Test mAP, initial logistic", start, note),
        Card(
            "Validation mAP",
            number_in(results.get("validation_mAP")),
            _support(results.get("validation_mAP_support")),
        ),
        Card(
            "Test mAP, labels without AP as 0",
            number_in(results.get("mAP_empty_zero")),
            "the convention of the paper's released code",
        ),
    ]


def _support(support: Any) -> str:
    try:
        return f"over {Support(**support)}"
    except (TypeError, ValueError):
        return "what it rests on is not known"


def groups(run: Run) -> list[Group]:
    """Means of groups of labels; empty where results.json has none."""
    columns = [
        run.results.get("mAP_groups"),
        run.initial.get("mAP_groups"),
        run.results.get("validation_mAP_groups"),
    ]
    lists = [x if isinstance(x, list) else [] for x in columns]
    supports = run.results.get("mAP_groups_support")
    supports = supports if isinstance(supports, list) else []
    return [
        Group(
            str(i + 1),
            tuple(number_in(x[i]) if i < len(x) else None for x in lists),
            _support(supports[i] if i < len(supports) else None),
        )
        for i in range(min(len(lists[0]), _GROUPS))
    ]


def curves(run: Run) -> list[Chart]:
    """Validation mAP, loss terms and learning rate by epoch, where known."""
    found = []
    method = str(run.results.get("method", "method"))
    names = {"initial": "initial logistic model", "method": method}
    means = [
        (names[stage], _column(rows, "mAP", 1.0))
        for stage, rows in run.metrics.items()
    ]
    charts = [("Validation mAP in percent", means)]
    stage = "method" if run.metrics["method"] else "initial"
    rows = run.metrics[stage]
    terms = dict.fromkeys(k for row in rows for k in row if k not in _NO_TERMS)
    for term in terms:
        lines = [
            ("training", _column(rows, term, 0.0)),
            ("validation", _column(rows, term, 1.0)),
        ]
        if any(y for _, points in lines for _, y in points):
            name = term.replace("_", " ")
            charts.append((f"{name[:1].upper()}{name[1:]}", lines))
    rates = [(names[stage], _column(rows, "learning_rate", 1.0))]
    charts.append(("Learning rate", rates))
    for title, lines in charts:
        lines = [(name, points) for name, points in lines if points]
        if lines:
            found.append(line_chart(title, "epoch", lines))
    if run.penalties:
        lines = [("initial logistic model", run.penalties)]
        found.append(
            line_chart(
                "Validation mAP of the solved start", "penalty", lines, True
            )
        )
    return found


def _column(
    rows: list[Row], name: str, is_validation: float
) -> list[tuple[float, float]]:
    """(epoch, value) of a split's rows that have the value, evenly thinned."""
    points = [
        (row["epoch"] or 0.0, value)
        for row in rows
        if row["validation"] == is_validation
        and (value := row.get(name)) is not None
    ]
    step = -(-len(points) // _MOST_POINTS) or 1
    return points[::-1][::step][::-1]  # the last one is among them


class Entries(NamedTuple):
    """Observed test entries by label.

    Attributes:
      rows: [P] int, images.
      scores: [P] float, as they were predicted.
      shown: [P] float, probabilities, or scores of a method without.
      positive: [P] bool.
      starts: [C + 1] int, where a label's entries begin.
    """

    rows: np.ndarray
    scores: np.ndarray
    shown: np.ndarray
    positive: np.ndarray
    starts: np.ndarray


def entries(run: Run, predictions: Predictions) -> Entries:
    """Sorts the observed entries of a run by label."""
    labels = predictions.labels
    order = np.argsort(labels.indices, kind="stable")
    counts = np.bincount(labels.indices, minlength=labels.shape[1])
    scores = predictions.scores[order]
    shown = sigmoid(scores) if run.has_probabilities else scores.astype(float)
    return Entries(
        predictions.rows[order], scores, shown, labels.data[order] > 0,
        np.append(0, np.cumsum(counts)),
    )  # fmt: skip


def label_table(run: Run, found: Entries | None, key: Key) -> dict[str, Any]:
    """The table of labels as JSON.

    Args:
      run: with the precision of labels.
      found: its observed test entries, None = not known.
      key: of thumbnails.

    Returns:
      "labels": name, AP in percent or null, positives and negatives of each;
      "curves": of each its recall and precision in thousandths, in turns;
      "examples": of each up to six pairs (image, score), two of each kind:
      present and scored highest, present and lowest, absent and highest;
      "images": number -> name and key of its thumbnail.
    """
    table: dict[str, Any] = {
        "labels": [list(row) for row in run.precisions],
        "curves": [], "examples": [], "images": {},
    }  # fmt: skip
    if found is None:
        return table
    images: dict[str, list[str]] = table["images"]
    ids = run.predictions.image_ids if run.predictions else np.zeros(0, bytes)

    def pairs(places: np.ndarray) -> list[list[float]]:
        for image in found.rows[places].tolist():
            if str(image) not in images:
                images[str(image)] = [
                    image_name(ids, image),
                    key("test", image),
                ]
        return [
            [image, _short(score)]
            for image, score in zip(
                found.rows[places].tolist(), found.shown[places].tolist(),
                strict=True,
            )
        ]  # fmt: skip

    for row, first, last in zip(
        run.precisions, found.starts, found.starts[1:], strict=False
    ):
        scores, positive = found.scores[first:last], found.positive[first:last]
        curve = np.zeros((0, 2))
        if row.ap is not None:
            curve = precision_recall(scores, positive)
        table["curves"].append(
            np.rint(1000 * curve).astype(int).ravel().tolist()
        )
        order = first + np.argsort(-scores, kind="stable")
        present = order[found.positive[order]]
        absent = order[~found.positive[order]]
        low = present[_EXAMPLES:][-_EXAMPLES:][::-1]
        kinds = present[:_EXAMPLES], low, absent[:_EXAMPLES]
        table["examples"].append([pairs(places) for places in kinds])
    return table


def _short(score: float) -> float:
    return float(f"{score:.3g}")


def pictures(run: Run, key: Key) -> list[Picture]:
    """The test images with most labels observed present, and what was found.

    A label is found, or claimed, if its probability is at least 1/2. With a
    method without probabilities, it is if it is among the n highest of the
    image's observed labels, where n of these are present.
    """
    predictions = run.predictions
    if predictions is None:
        return []
    return [
        _picture(run, predictions, image, key)
        for image in predictions.most_present(_MOST_PICTURES).tolist()
    ]


def _picture(
    run: Run, predictions: Predictions, image: int, key: Key
) -> Picture:
    first, last = predictions.labels.indptr[image : image + 2]
    labels = predictions.labels.indices[first:last]
    positive = predictions.labels.data[first:last] > 0
    scores = predictions.scores[first:last].astype(float)
    order = np.argsort(-scores, kind="stable")
    if run.has_probabilities:
        claimed, values = scores >= 0, sigmoid(scores)
    else:
        claimed, values = np.zeros(len(scores), bool), scores
        claimed[order[: positive.sum()]] = True

    def marks(chosen: np.ndarray) -> list[Mark]:
        return [
            Mark(run.label_names[labels[i]], float(values[i]))
            for i in order
            if chosen[i]
        ]

    unknown = [x for x in predictions.top[image] if x not in set(labels)]
    return Picture(
        image_name(predictions.image_ids, image),
        key("test", image),
        marks(positive & claimed),
        marks(positive & ~claimed),
        marks(~positive & claimed),
        [run.label_names[x] for x in unknown[:UNKNOWN]],
    )


def similar_images(run: Run, key: Key) -> list[Neighborhood]:
    """Some training images with their similar ones, at the start and end."""
    if not run.similar:
        return []
    last = list(run.similar.values())[-1]
    found = []
    for image in last.image_index[:_MOST_SIMILAR].tolist():
        moments = {
            moment: _similar(run, snapshot, image, key)
            for moment, snapshot in run.similar.items()
            if image in snapshot.image_index
        }
        name = image_name(run.train_ids, image)
        found.append(Neighborhood(name, key("train", image), moments))
    return found


def _similar(
    run: Run, snapshot: Snapshot, image: int, key: Key
) -> list[Similar]:
    row = np.flatnonzero(snapshot.image_index == image)[0]
    weights = snapshot.label_weights[row], snapshot.feature_weights[row]
    widest = max(float(np.abs(weights).max(initial=0)), 1e-12)
    order = np.argsort(-weights[0], kind="stable")
    return [
        Similar(
            image_name(run.train_ids, number),
            key("train", number),
            (float(weights[0][i]), float(weights[1][i])),
            tuple(round(100 * abs(float(x[i])) / widest) for x in weights),  # type: ignore[arg-type]
        )
        for i in order.tolist()
        if (number := int(snapshot.neighbors[row][i])) >= 0
    ]


def graph(run: Run) -> dict[str, Any] | None:
    """The label graph as JSON: "into", "from", "start" (or null) and "end"."""
    edges = run.graph
    if edges is None:
        return None
    return {
        "into": edges.into.tolist(),
        "from": edges.source.tolist(),
        "start": None if edges.start is None else _weights(edges.start),
        "end": _weights(edges.end),
    }


def _weights(values: np.ndarray) -> list[float]:
    return [round(x, 4) for x in values.tolist()]


def strongest_label(run: Run) -> int:
    """The label with the most edge weight to other labels."""
    if run.graph is None or not run.label_names:
        return 0
    return int(run.graph.strength(len(run.label_names)).argmax())


def calibration(found: Entries, name: str) -> tuple[Chart, Reliability]:
    """The reliability diagram of a run's observed test entries.

    Args:
      found: entries.
      name: what their probabilities are called.
    """
    shown = np.clip(sigmoid(found.scores), 0, 1)
    bins = reliability(shown, found.positive)
    points = [
        (float(x), float(y))
        for x, y in zip(bins.claimed, bins.observed, strict=True)
        if x == x
    ]
    text = (
        f"Share of observed entries that are present by {name}, in ten bins: "
        + ", ".join(f"{y:.2f} at {x:.2f}" for x, y in points)
        + f". Expected calibration error {bins.error:.3f}."
    )
    title = "Share observed present"
    return unit_chart(title, text, f"mean {name}", points), bins


def trials(run: Run) -> list[Sequence[str]]:
    """Rows of the trials of --method=auto: name, mAP, gain, error, chosen."""
    columns = (
        "trial", "validation_mAP", "gain", "standard_error", "chosen",
        "seconds", "settings",
    )  # fmt: skip
    return [[row.get(name, "") for name in columns] for row in run.trials]
