"""Figure 2 and figure 1 (right): what runs find and learn, on pictures.

Functions choose what is shown, as plain data; others draw it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from imcl_tf.data.multi_label_dataset import reading
from imcl_tf.methods.pictures import Snapshot
from imcl_tf.report.contents import Run
from imcl_tf.report.pictures import (
    UNREADABLE,
    check_same,
    image_name,
    open_data,
    thumbnails,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TOP = 50  # likeliest labels that the paper looks at
_MOST_LABELS = 12  # of a picture, the hardest ones
_MOST_NODES = 14  # of the label graph
_MOST_EDGES = 30
_OWN_IMAGES, _SIMILAR_IMAGES = 4, 3
MOMENTS = "start", "end"


class Found(NamedTuple):
    """A test image's ground-truth labels and who finds them.

    Attributes:
      image: its number.
      name: of it.
      labels: those observed present, the hardest first: found by fewest rows;
        of equal ones that of the worst mean rank.
      ranks: [labels, rows] int, place of a label among those that a row finds
        likeliest, from 1; 0 = not among them.
    """

    image: int
    name: str
    labels: list[str]
    ranks: np.ndarray


class Edge(NamedTuple):
    """An edge of figure 1.

    Attributes:
      graph: "images" or "labels".
      moment: "start" or "end" of training.
      source: name of the similar image, or of the label that weight comes
        from.
      into: name of the image, or label, that gets it.
      weight: c, or a_{j', j}.
    """

    graph: str
    moment: str
    source: str
    into: str
    weight: float


def number_looked_at(num_labels: int) -> int:
    """How many likeliest labels count: 50, but at most a quarter of all."""
    return min(_TOP, max(1, num_labels // 4))


def found_labels(
    runs: Sequence[Run], names: Sequence[str], number: int
) -> list[Found]:
    """What runs find on chosen test images.

    Args:
      runs: of equal data, with predictions.
      names: of test images; empty = the `number` images with most labels
        observed present, no two with the same ones if there are others.
      number: see above.

    Raises:
      ValueError: for a name that is no test image's, or one without a label
        that is observed present.
    """
    first = _predictions(runs[0])
    images = first.most_present(number).tolist()
    if names:
        images = _numbered(names, first.image_ids)
    top = number_looked_at(len(runs[0].label_names))
    ranks = [_predictions(run).top[:, :top] for run in runs]
    found = []
    for image in images:
        row = first.labels[[image]]
        present = row.indices[row.data > 0]
        if not present.size:
            raise ValueError(
                f"--image: {image_name(first.image_ids, image)} has no label "
                "that is observed present"
            )
        own = np.array([_ranks(present, x[image]) for x in ranks]).T
        worst = np.where(own, own, top + 1).mean(1)
        order = np.lexsort((-worst, (own > 0).sum(1)))
        found.append(
            Found(
                image,
                image_name(first.image_ids, image),
                [runs[0].label_names[present[i]] for i in order],
                own[order],
            )
        )
    return found


def _predictions(run: Run):
    if run.predictions is None:
        raise ValueError(f"{run.path}: {run.missing['predictions']}")
    return run.predictions


def _numbered(names: Sequence[str], ids: np.ndarray) -> list[int]:
    places = {bytes(x).decode("utf-8", "replace"): i for i, x in enumerate(ids)}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise ValueError(f"--image: no test image is named {unknown[0]}")
    return [places[name] for name in names]


def _ranks(labels: np.ndarray, likeliest: np.ndarray) -> np.ndarray:
    is_same = labels[:, np.newaxis] == likeliest
    return np.where(is_same.any(1), is_same.argmax(1) + 1, 0)


def draw_found(
    heading: str,
    found: Sequence[Found],
    rows: Sequence[str],
    num_labels: int,
    tiles: Mapping[int, np.ndarray],
) -> Figure:
    """Draws figure 2.

    Args:
      heading: of the figure.
      found: see `found_labels`.
      rows: names of the runs.
      num_labels: C.
      tiles: number of an image -> its pixels [h, w, 3] uint8, those known.
    """
    from matplotlib.figure import Figure  # an extra

    heights = [
        max(5, min(_MOST_LABELS, max(len(x.labels) for x in pair)))
        for pair in _pairs(found)
    ]
    width = 0.28 * len(rows)
    figure = Figure(
        figsize=(7.2 + 2 * width, 2.2 + 0.22 * sum(heights)),
        layout="constrained",
    )
    panels = figure.subplots(
        len(heights), 4, squeeze=False,
        gridspec_kw={
            "height_ratios": heights, "width_ratios": [1.8, width] * 2,
        },
    )  # fmt: skip
    places = panels.reshape(-1, 2)
    for one, (picture, grid) in zip(found, places, strict=False):
        _tile(picture, tiles.get(one.image), one.name)
        _grid(grid, one)
    for axes in places[len(found) :].ravel():
        axes.axis("off")
    for top in places[: min(2, len(found)), 1]:
        top.set_xticks(range(len(rows)), rows, rotation=90)
        top.xaxis.tick_top()
    figure.suptitle(
        f"{heading}\nGreen: labels of the picture among the "
        f"{number_looked_at(num_labels)} likeliest of {num_labels}, hardest "
        "first",
        fontsize=10,
    )
    return figure


def _pairs(found: Sequence[Found]) -> list[Sequence[Found]]:
    return [found[i : i + 2] for i in range(0, len(found), 2)]


def _grid(axes: Axes, one: Found):
    shown = one.ranks[:_MOST_LABELS] > 0
    axes.imshow(shown, cmap="Greens", vmin=0, vmax=1.4, aspect="auto")
    axes.set_yticks(range(len(shown)), one.labels[:_MOST_LABELS])
    axes.set_xticks([])
    for axis, number in zip((axes.yaxis, axes.xaxis), shown.shape, strict=True):
        axis.set_ticks(np.arange(0.5, number - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelsize=8)


def _tile(axes: Axes, pixels: np.ndarray | None, name: str):
    axes.axis("off")
    if pixels is not None:
        axes.imshow(pixels)
    axes.set_title(name if len(name) < 26 else f"…{name[-24:]}", fontsize=7)


def edges(run: Run) -> list[Edge]:
    """What figure 1 shows of a run: of each moment the strongest edges.

    Some training images with those that are most similar to them; and the
    labels with the most weight between them at the end. Nothing of what the
    run did not keep.
    """
    found = [
        edge
        for moment, snapshot in run.similar.items()
        for edge in _image_edges(run, moment, snapshot)
    ]
    if run.graph is not None:
        strength = run.graph.strength(len(run.label_names))
        labels = np.argsort(-strength, kind="stable")[:_MOST_NODES]
        moments = zip(MOMENTS, (run.graph.start, run.graph.end), strict=True)
        for moment, weights in moments:
            if weights is not None:
                found += _label_edges(run, moment, weights, labels)
    return found


def _image_edges(run: Run, moment: str, snapshot: Snapshot) -> Iterable[Edge]:
    own = snapshot.image_index[:_OWN_IMAGES]
    for row, image in enumerate(own.tolist()):
        weights = snapshot.label_weights[row]
        order = np.argsort(-weights, kind="stable")[:_SIMILAR_IMAGES]
        for place in order.tolist():
            other = int(snapshot.neighbors[row][place])
            if other >= 0:
                yield Edge(
                    "images", moment, image_name(run.train_ids, other),
                    image_name(run.train_ids, image), float(weights[place]),
                )  # fmt: skip


def _label_edges(
    run: Run, moment: str, weights: np.ndarray, labels: np.ndarray
) -> Iterable[Edge]:
    graph = run.graph
    if graph is None:
        return
    shown = np.isin(graph.into, labels) & np.isin(graph.source, labels)
    chosen = np.flatnonzero(shown & (graph.into != graph.source))
    order = np.argsort(-np.abs(weights[chosen]), kind="stable")[:_MOST_EDGES]
    for edge in chosen[order]:
        yield Edge(
            "labels", moment, run.label_names[graph.source[edge]],
            run.label_names[graph.into[edge]], float(weights[edge]),
        )  # fmt: skip


def draw_edges(
    heading: str, shown: Sequence[Edge], tiles: Mapping[str, np.ndarray]
) -> Figure:
    """Draws figure 1 (right): both graphs at both moments.

    Args:
      heading: of the figure.
      shown: see `edges`.
      tiles: name of an image -> its pixels [h, w, 3] uint8, those known.
    """
    from matplotlib.figure import Figure  # an extra

    graphs = [*dict.fromkeys(edge.graph for edge in shown)]
    figure = Figure(figsize=(12, 6 * len(graphs)), layout="constrained")
    panels = figure.subplots(len(graphs), len(MOMENTS), squeeze=False)
    for graph, row in zip(graphs, panels, strict=True):
        own = [edge for edge in shown if edge.graph == graph]
        # Of one scale and layout at both moments.
        widest = max((abs(edge.weight) for edge in own), default=1) or 1
        places = _places(own)
        for moment, axes in zip(MOMENTS, row, strict=True):
            axes.set_title(f"Similarity of {graph}, {moment} of training")
            axes.axis("off")
            axes.set(xlim=(-1.3, 1.3), ylim=(-1.2, 1.2))
            for edge in own:
                if edge.moment == moment:
                    _arrow(axes, edge, places, edge.weight / widest)
            for name, place in places.items():
                _node(axes, name, place, tiles.get(name))
    figure.suptitle(heading)
    return figure


def _places(shown: Sequence[Edge]) -> dict[str, tuple[float, float]]:
    """Labels on a circle; images on one or, what is no source, within it."""
    owner: dict[str, str] = {}
    for edge in sorted(shown, key=lambda edge: edge.into):
        owner.setdefault(edge.source, edge.into)
        if edge.graph == "labels":
            owner.setdefault(edge.into, edge.into)
    angles = 2 * np.pi * np.arange(len(owner)) / len(owner)
    places = dict(zip(owner, np.exp(1j * angles), strict=True))
    middles = [*owner.values()]
    for into in {edge.into: None for edge in shown}:
        if into not in places:
            before = [
                a for a, x in zip(angles, middles, strict=True) if x == into
            ]
            places[into] = 0.45 * np.exp(1j * np.mean(before or 0))
    return {name: (place.real, place.imag) for name, place in places.items()}


def _arrow(
    axes: Axes,
    edge: Edge,
    places: Mapping[str, tuple[float, float]],
    share: float,
):
    axes.annotate(
        "", places[edge.into], places[edge.source],
        arrowprops={
            "arrowstyle": "-|>", "shrinkA": 18, "shrinkB": 18,
            "linewidth": 0.3 + 3.5 * abs(share),
            "color": "#0072B2" if share > 0 else "#D55E00",
            "alpha": 0.75, "connectionstyle": "arc3,rad=0.15",
        },
    )  # fmt: skip


def _node(
    axes: Axes,
    name: str,
    place: tuple[float, float],
    pixels: np.ndarray | None,
):
    from matplotlib.offsetbox import (  # an extra
        AnnotationBbox,
        OffsetImage,
        TextArea,
    )

    box: OffsetImage | TextArea = TextArea(
        name[-18:], textprops={"fontsize": 8}
    )
    if pixels is not None:
        box = OffsetImage(pixels, zoom=0.45)
    axes.add_artist(AnnotationBbox(box, place, frameon=pixels is None, pad=0.2))


def tiles_of(run: Run, split: str, images: Iterable[int]) -> dict:
    """Small pictures of the data set that a run's flags name.

    Returns:
      number of an image -> [h, w, 3] uint8; {}, after a warning, where the
      data cannot be opened, have changed or hold no pictures.
    """
    from matplotlib.image import imread  # an extra

    try:
        data = open_data(run)
        check_same(run, data)
        part = getattr(data, split)
        with reading(data):
            found = [*thumbnails(part.pictures or part, images)]
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        logging.warning("names in the place of pictures: %s", reason)
        return {}
    return {n: imread(io.BytesIO(jpeg), format="jpeg") for n, jpeg in found}


def tiles_of_edges(run: Run, shown: Sequence[Edge]) -> dict[str, np.ndarray]:
    """Pictures of the images of `edges` by their names, see `tiles_of`."""
    numbers = {
        image_name(run.train_ids, number): number
        for snapshot in run.similar.values()
        for images in (snapshot.image_index, snapshot.neighbors)
        for number in images.ravel().tolist()
    }
    names = {
        name
        for edge in shown
        if edge.graph == "images"
        for name in (edge.source, edge.into)
    }
    tiles = tiles_of(run, "train", {numbers[name] for name in names})
    return {name: tiles[n] for name, n in numbers.items() if n in tiles}
