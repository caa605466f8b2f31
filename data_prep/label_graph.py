"""Makes a label graph, or draws the neighbours of a label in one.

    python -m data_prep.label_graph --out=graph.npz --dataset=NAME
        --kind=cooccurrence | identity
        --kind=wikipedia --articles_from=DUMP_OR_FOLDER [--articles=FILE.csv]
        --kind=wikipedia_wordnet ... [--wordnet_dir=DIR] [--lexicon=oewn:2024]
    python -m data_prep.label_graph --graph=graph.npz --around=dog
        --picture=dog.png

`imcl_tf.main --label_graph=graph.npz` trains with it. With Wikipedia the
program also writes graph.articles.csv, a table of the labels' articles. Correct
it by hand and pass it as --articles to choose other articles.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from data_prep import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.LABEL_GRAPH)

import difflib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from absl import flags

from data_prep import wikipedia
from imcl_tf import program, settings
from imcl_tf.data.cells import clean, read_text
from imcl_tf.data.datasets import load_dataset
from imcl_tf.data.records import labels_digest
from imcl_tf.files import fail, replacing, write_csv
from imcl_tf.methods import label_graph
from imcl_tf.methods.label_graph import LabelGraph

FLAGS = flags.FLAGS
_MAXIMUM_SHOWN = 20


def main(argv: list[str]):
    """Makes a graph or a picture, as the flags say."""
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        if FLAGS.graph or FLAGS.picture:
            _require("graph", "around", "picture")
            print(picture(FLAGS.graph, FLAGS.around, FLAGS.picture))
        else:
            _require("kind", "out")
            print(_make())
    except ImportError as error:
        fail(ImportError(f"{error}: pip install 'imcl_tf[graphs,plots]'"))
    except (ValueError, OSError) as error:
        fail(error)


def _require(*names: str):
    for name in names:
        if not FLAGS[name].value:
            raise ValueError(f"--{name} must be given")


def _make() -> str:
    """Makes the graph that the flags ask for; returns a line about it."""
    out = Path(FLAGS.out)
    # Checked first: reading a dump takes hours.
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such directory")
    names, observed = _labels()
    report, counted = "", ""
    if FLAGS.kind == "cooccurrence":
        counted = labels_digest(observed, names)
        graph = LabelGraph.from_cooccurrence(observed, FLAGS.graph_neighbors)
    elif FLAGS.kind == "identity":
        graph = LabelGraph.identity(len(names))
    else:
        _require("articles_from")
        similarities, sources = _from_articles(names, out)
        report = f"\n  {sources}"
        graph = LabelGraph.from_similarities(
            similarities, FLAGS.graph_neighbors
        )
    source = label_graph.Source(FLAGS.kind, counted)
    label_graph.save(out, graph, names, source)
    alone = int((np.bincount(graph.edges.numpy()[:, 0]) == 1).sum())
    return (
        f"{out}: {FLAGS.kind}, {graph.num_labels} labels, {graph.num_edges} "
        f"edges, {alone} labels without neighbours{report}"
    )


def _labels() -> tuple[Sequence[str], scipy.sparse.csr_array | None]:
    """Label names; observed training labels [N, C], for cooccurrence only."""
    if bool(FLAGS.dataset) == bool(FLAGS.labels):
        raise ValueError("either --dataset or --labels must be given")
    counts = FLAGS.kind == "cooccurrence"
    if counts and not (FLAGS.dataset or FLAGS.observed):
        raise ValueError("--kind=cooccurrence needs --dataset or --observed")
    if FLAGS.dataset:
        data = load_dataset(
            FLAGS.dataset, FLAGS.data_dir, FLAGS.on_bad_image,
            **program.values(settings.FOLDER),
        )  # fmt: skip
        names, observed = data.label_names, data.train.labels
    else:
        names, observed = read_label_names(FLAGS.labels), None
    if counts and FLAGS.observed:
        observed = read_observed(FLAGS.observed, len(names))
    return names, observed


def read_label_names(path: str) -> tuple[str, ...]:
    """Reads label names from a text file with one name per line.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if the file or a line is empty, or a name is listed twice.
    """
    names = [*map(clean, read_text(Path(path)).rstrip().splitlines())]
    if not names:
        raise ValueError(f"{path}: holds no label name")
    lines: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise ValueError(f"{path}: line {number} is empty")
        if lines.setdefault(name, number) != number:
            raise ValueError(f"{path}: line {number}: {name!r} is listed twice")
    return tuple(names)


def read_observed(path: str, num_labels: int) -> scipy.sparse.csr_array:
    """Reads the observed labels [N, C] that a training run has written.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if the file holds other data or another number of labels.
    """
    try:
        with Path(path).open("rb") as file:
            labels = scipy.sparse.load_npz(file)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not observed labels: {error}") from error
    if labels.shape[1] != num_labels:
        raise ValueError(
            f"{path}: holds {labels.shape[1]} labels, expected {num_labels}"
        )
    return scipy.sparse.csr_array(labels)


def _from_articles(names, out: Path) -> tuple[scipy.sparse.csr_array, str]:
    """Similarities [C, C] from Wikipedia, and a line about their sources."""
    in_wordnet, wordnet_rows = np.zeros(len(names), bool), None
    if FLAGS.kind == "wikipedia_wordnet":
        # Read first: it takes a minute, a dump takes hours.
        in_wordnet, wordnet_rows = _from_wordnet(names)
    chosen = {}
    if FLAGS.articles:
        chosen = wikipedia.read_chosen(FLAGS.articles, names)
    titles, counts = wikipedia.read_articles(FLAGS.articles_from, names, chosen)
    table = out.with_suffix(".articles.csv")
    rows = zip(names, (title or "" for title in titles), strict=True)
    write_csv(table, ("label", "article"), rows)
    without = [
        name
        for name, title, found in zip(names, titles, in_wordnet, strict=True)
        if title is None and not found
    ]
    report = f"{len(without)} labels without article"
    if without:
        more = ", ..." if len(without) > _MAXIMUM_SHOWN else ""
        report += f" ({', '.join(without[:_MAXIMUM_SHOWN])}{more})"
    report = f"{report}; see {table}"
    similarities = wikipedia.similarities(counts)
    if wordnet_rows is None:
        return similarities, report
    others = scipy.sparse.diags_array((~in_wordnet).astype(float))
    report = report.replace(" labels", " other labels", 1)
    report = f"{in_wordnet.sum()} labels in {FLAGS.lexicon}; {report}"
    return others @ similarities + wordnet_rows, report


def _from_wordnet(names) -> tuple[np.ndarray, scipy.sparse.csr_array]:
    """Whether WordNet has each label, [C] bool, and similarities [C, C]."""
    from data_prep import wordnet

    synsets = wordnet.find_nouns(names, FLAGS.lexicon, FLAGS.wordnet_dir)
    similarities = wordnet.similarities(synsets, FLAGS.graph_neighbors)
    return np.array([s is not None for s in synsets]), similarities


def picture(graph: str, around: str, path: str) -> str:
    """Draws a label and its neighbours.

    The label is in the centre. Around it are the labels with an edge into it,
    clockwise from the top, those with the largest weights first. The width of
    a line shows the size of the weight; blue is positive, red negative. Edges
    among the neighbours are faint.

    Args:
      graph: .npz file of `label_graph.save`.
      around: name of the label.
      path: file to write, .png or another format of matplotlib.

    Returns:
      a line about the picture.

    Raises:
      OSError: if a file cannot be read or written.
      ValueError: if the file holds no graph or the graph has no such label.
    """
    layer, names = label_graph.load_named(graph)
    if around not in names:
        closest = difflib.get_close_matches(around, names, 5, 0.5)
        raise ValueError(
            f"{graph}: no label {around!r}"
            + (f"; the closest: {', '.join(closest)}" if closest else "")
        )
    a, center = layer.to_scipy(), names.index(around)
    row = a[[center]].tocoo()
    order = np.argsort(-np.abs(row.data), kind="stable")
    others = order[row.col[order] != center]
    neighbors, weights = row.col[others], row.data[others]
    figure = _draw(
        f"{around}\n{a[center, center]:.3f}",
        [names[j] for j in neighbors],
        weights,
        a[neighbors][:, neighbors].tocoo(),
    )
    with replacing(Path(path)) as new:
        figure.savefig(new, dpi=120, bbox_inches="tight")
    return f"{path}: {around} and its {len(neighbors)} neighbours"


def _draw(center: str, neighbors: Sequence[str], weights, among):
    """The figure of `picture`; `among` [n, n] are the neighbours' weights."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    largest = np.abs(weights).max(initial=1e-12)

    def style(weight):
        strength = abs(weight) / largest
        shades = colormaps["Blues" if weight > 0 else "Reds"]
        return {"color": shades(0.4 + 0.6 * strength), "lw": 1 + 6 * strength}

    figure = Figure(figsize=(11, 11))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    axes.set_axis_off()
    turns = np.linspace(0, 2 * np.pi, len(weights), endpoint=False)
    places = np.stack([np.sin(turns), np.cos(turns)], 1)
    between = among.row != among.col
    ends = places[np.stack([among.row, among.col], 1)[between]]
    strengths = np.abs(among.data[between]) / largest
    grey = np.full((len(strengths), 4), 0.4)
    grey[:, 3] = np.clip(0.2 * strengths, 0.03, 0.2)
    axes.add_collection(LineCollection(ends, colors=grey, lw=0.8, zorder=0))
    # The largest weight is drawn last, on top.
    for n in reversed(range(len(weights))):
        (x, y), line = places[n], style(weights[n])
        axes.plot([0, x], [0, y], **line)
        axes.plot(x, y, "o", color=line["color"], ms=9)
        axes.text(
            1.04 * x, 1.04 * y, neighbors[n],
            rotation=90 - np.degrees(turns[n]) + (180 if x < 0 else 0),
            rotation_mode="anchor",
            ha="right" if x < 0 else "left", va="center", parse_math=False,
        )  # fmt: skip
    axes.text(
        0, 0, center, ha="center", va="center", size="x-large",
        parse_math=False,
        bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "grey"},
    )  # fmt: skip
    if neighbors:
        axes.legend(
            handles=[
                Line2D([], [], label=f"{weight:.3f}", **style(weight))
                for weight in (largest, largest / 2, largest / 10)
            ],
            title="weight",
            loc="upper left",
            frameon=False,
        )
    return figure


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
