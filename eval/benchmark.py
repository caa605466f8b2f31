"""Measures what the project costs against its bars.

    python -m eval.benchmark [SECTION ...] [--out=FILE]

What is measured runs in a process of its own, on two cores; a ratio is the
median over pairs of runs. Files are written to the system's temporary
directory shortly before they are read, so that they come from memory.

records     1 million rows of Open Images' annotations and their images, tiny
            ones, become records; and what a label costs on disk.
graph       Co-occurrences of 5,000 labels over 3.6 million images; the product
            A y of 50 neighbours each, its gradients and a step on A, against
            a dense A.
similarity  Algorithm 2 of 32 images, 5,000 labels, 2,048 features, k = 5,
            against the products of residuals and atoms alone, and against
            the same algorithm written for one image.
average_precision
            Of 125,436 images, 5,000 labels, 9 observed each, against
            scikit-learn, label by label on dense arrays.
methods     A training step of each method: ResNet-101 of 224 pixels, 32
            images, 5,000 labels, against that of logistic regression.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from absl import app, flags

import imcl_tf.baselines  # noqa: F401, registers them
from imcl_tf.backbones import freeze_batch_statistics, make_backbone
from imcl_tf.builders import SPLITS
from imcl_tf.dictionary import Dictionary
from imcl_tf.files import fail, parse_or_fail, replacing
from imcl_tf.label_graph import LabelGraph
from imcl_tf.labels import LabelTable
from imcl_tf.metrics import AveragePrecision
from imcl_tf.multilabel import METHODS
from imcl_tf.similarity import joint_nonnegative_omp

FLAGS = flags.FLAGS
ROOT = Path(__file__).resolve().parents[1]
_LABELS = 5000
_LABELS_PER_IMAGE = 9
_DICTIONARY = 10_000
_BATCH, _FEATURES, _NEIGHBORS = 32, 2048, 5
# Runs a command and tells its seconds and its peak memory in bytes. Not from
# the benchmark itself, whose own memory Linux would count as the command's.
_LAUNCHER = """
import json, os, resource, subprocess, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
seconds = time.perf_counter() - start
peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, peak, done.stdout.decode()]))
sys.exit(done.returncode)
"""


class Figure(NamedTuple):
    """Attributes: what: was measured; value; unit; bar: the most it may be,
    None = without."""

    what: str
    value: float
    unit: str
    bar: float | None = None


class Measured(NamedTuple):
    """Attributes: seconds; peak: memory in bytes; output: printed."""

    seconds: float
    peak: int
    output: str


def measure(*arguments: str) -> Measured:
    """Runs Python with `arguments` on two cores.

    Raises:
      ChildProcessError: if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        raise ChildProcessError(f"python {' '.join(arguments)} failed")
    return Measured(*json.loads(done.stdout))


def call(function: str, *arguments: str | float) -> Measured:
    """Runs a function of this module by `measure`; it prints its result."""
    given = ", ".join(map(repr, arguments))
    return measure("-c", f"import eval.benchmark as b; b.{function}({given})")


def records(scale: float, repeats: int) -> list[Figure]:
    """From annotations and images to records, by data_prep.open_images."""
    with tempfile.TemporaryDirectory() as scratch:
        raw, data = Path(scratch, "raw"), Path(scratch, "data")
        _write_open_images(raw, max(int(1e6 * scale), 100))
        built, copied = [], []
        for _ in range(repeats):
            shutil.rmtree(data, ignore_errors=True)
            built.append(
                measure(
                    "-m", "data_prep.open_images",
                    f"--raw_dir={raw}", f"--data_dir={data}",
                )
            )  # fmt: skip
            files = sorted(map(str, data.rglob("*.tfrecord*")))
            copied.append(call("copy_images", str(raw / "images"), len(files)))
        size, labels = _label_bytes(files)
    return [
        Figure("label on disk", size / labels, "bytes", 12),
        Figure(
            "rows to records", statistics.median(r.seconds for r in built),
            "s", 60,
        ),
        Figure("peak memory", max(r.peak for r in built) / 1e9, "GB", 2),
        _ratio("time to that of copying the images", built, copied),
    ]  # fmt: skip


def _write_open_images(raw: Path, rows: int):
    """Raw files of three splits, `rows` annotations in all."""
    rng = np.random.default_rng(0)
    raw.mkdir()
    mids = np.array([f"/m/{number:05x}" for number in range(_LABELS)])
    (raw / "classes-trainable.txt").write_text("\n".join(mids) + "\n")
    (raw / "class-descriptions.csv").write_text(
        "".join(f"{mid},label {j}\n" for j, mid in enumerate(mids))
    )
    pictures = [
        tf.io.encode_jpeg(pixels).numpy()
        for pixels in rng.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    ]
    shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
    for split in SPLITS:
        number = max(int(rows * shares[split]) // _LABELS_PER_IMAGE, 1)
        ids = [f"{i:016x}" for i in rng.integers(0, 2**63, number).tolist()]
        labels = rng.integers(0, _LABELS, (number, _LABELS_PER_IMAGE))
        values = rng.integers(0, 2, labels.shape)
        (raw / split).mkdir()
        with (raw / split / "annotations-human.csv").open("w") as file:
            file.write("ImageID,Source,LabelName,Confidence\n")
            for image, js, present in zip(ids, labels, values, strict=True):
                file.writelines(
                    f"{image},verification,{mid},{value}\n"
                    for mid, value in zip(mids[js], present, strict=True)
                )
        for i, image in enumerate(ids):
            directory = raw / "images" / split / image[:2]
            directory.mkdir(parents=True, exist_ok=True)
            picture = pictures[i % len(pictures)]
            (directory / f"{image}.jpg").write_bytes(picture)


def copy_images(directory: str, number: int):
    """Writes the images below `directory` to `number` TFRecord files."""
    paths = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(directory)
        for name in names
    ]
    with tempfile.TemporaryDirectory() as out:
        for i in range(number):
            with tf.io.TFRecordWriter(f"{out}/{i}") as writer:
                for path in paths[i::number]:
                    writer.write(Path(path).read_bytes())


def _label_bytes(files: list[str]) -> tuple[int, int]:
    """(bytes, number) of all labels: of records less those without labels."""
    size = labels = 0
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        for name in ("positives", "negatives"):
            values = example.features.feature.pop(name)
            labels += len(values.int64_list.value)
        size += len(record) - example.ByteSize()
    return size, labels


def graph(scale: float, repeats: int) -> list[Figure]:
    """`LabelGraph.from_cooccurrence` of Open Images' size, and A y."""
    with tempfile.TemporaryDirectory() as scratch:
        file = os.path.join(scratch, "labels.npz")
        scipy.sparse.save_npz(file, _skewed_labels(scale), compressed=False)
        runs = [call("count_cooccurrences", file) for _ in range(repeats)]
    seconds, ratios = zip(*(json.loads(r.output) for r in runs), strict=True)
    return [
        Figure("co-occurrence graph", statistics.median(seconds), "s"),
        Figure("peak memory", max(run.peak for run in runs) / 1e9, "GB", 4),
        Figure(
            "time to that of the sparse product", statistics.median(ratios), "x"
        ),
        _called("step on A to that of a dense A", 0.2, "time_product", repeats),
    ]


def time_product(repeats: int):
    """Prints seconds of A y, gradients and step on A, over those of dense A."""
    rng = np.random.default_rng(0)
    neighbors = np.argsort(rng.random((_LABELS, 200)), 1)[:, :50]
    neighbors = (neighbors + np.arange(_LABELS)[:, np.newaxis]) % _LABELS
    sparse = LabelGraph.from_neighbors(
        neighbors, np.full(neighbors.shape, 1 / 50)
    )
    dense = keras.layers.Dense(_LABELS, use_bias=False)
    targets = tf.random.stateless_uniform([_BATCH, _LABELS], [0, 1], -0.5)
    dense.build(targets.shape)

    def step_of(layer):
        optimizer = keras.optimizers.RMSprop(0.01, rho=0.9, momentum=0.9)
        optimizer.build(layer.trainable_variables)

        @tf.function(autograph=False)
        def step():
            with tf.GradientTape() as tape:
                tape.watch(targets)
                loss = tf.reduce_sum(tf.square(layer(targets)))
            variables = layer.trainable_variables
            *own, of_targets = tape.gradient(loss, [*variables, targets])
            optimizer.apply(own, variables)
            return loss, of_targets

        return step

    _print_ratios(step_of(sparse), step_of(dense), repeats)


def _print_ratios(run, floor, repeats: int):
    """Prints seconds of `run` over those of `floor`, in pairs."""

    def seconds(function) -> float:
        start = time.perf_counter()
        tf.nest.map_structure(np.asarray, function())
        return time.perf_counter() - start

    run(), floor()
    print(json.dumps([seconds(run) / seconds(floor) for _ in range(repeats)]))


def _called(what: str, bar: float, function: str, *arguments) -> Figure:
    """The median ratio that a function of this module prints."""
    ratios = json.loads(call(function, *arguments).output.splitlines()[-1])
    return Figure(what, statistics.median(ratios), "x", bar)


def similarity(scale: float, repeats: int) -> list[Figure]:
    """`joint_nonnegative_omp`; the figures are of time."""
    sizes = [max(int(size * scale), _NEIGHBORS) for size in (2_000, 10_000)]
    return [
        *(
            _called(
                f"{size:,} candidates to the products alone",
                1.4, "time_solver", size, 5 * repeats,
            )
            for size in sizes
        ),
        _called(
            "within the minibatch to one image at a time",
            1 / 20, "time_minibatch", 5 * repeats,
        ),
    ]  # fmt: skip


def _solver_problem(size: int):
    """y, f of `_BATCH` images, atoms of `size` candidates."""
    rng = np.random.default_rng(0)
    return [
        tf.constant(rng.random(shape, np.float32) - low)
        for shape, low in (
            ((_BATCH, _LABELS), 0.3), ((_BATCH, _FEATURES), 0.0),
            ((size, _LABELS), 0.3), ((size, _FEATURES), 0.0),
        )
    ]  # fmt: skip


def time_solver(size: int, repeats: int):
    """Prints seconds of Algorithm 2 over those of its k products."""
    y, f, atoms_y, atoms_f = arrays = _solver_problem(size)

    @tf.function(autograph=False)
    def products(y, f):
        return [
            # Of other residuals each time, as in the algorithm.
            tf.matmul(residual + t, atoms, transpose_b=True)
            for t in range(_NEIGHBORS)
            for residual, atoms in ((y, atoms_y), (f, atoms_f))
        ]

    _print_ratios(
        lambda: joint_nonnegative_omp(*arrays, _NEIGHBORS),
        lambda: products(y, f),
        repeats,
    )


def time_minibatch(repeats: int):
    """Prints seconds of Algorithm 2 over those of `one_by_one`.

    Raises:
      ValueError: if they select other images.
    """
    arrays = _solver_problem(_BATCH)

    @tf.function(autograph=False)  # as a training step is
    def batched():
        own = tf.range(_BATCH)
        return joint_nonnegative_omp(*arrays, _NEIGHBORS, exclude=own)

    if (batched().indices != one_by_one(*arrays)).numpy().any():
        raise ValueError("the two forms of Algorithm 2 differ")
    _print_ratios(batched, lambda: one_by_one(*arrays), repeats)


@tf.function(autograph=False)
def one_by_one(y, f, atoms_y, atoms_f) -> tf.Tensor:
    """Algorithm 2 as the paper has it, image after image; the indices."""
    norms = [tf.reduce_sum(tf.square(x), 1) for x in (atoms_y, atoms_f)]
    size = atoms_y.shape[0]

    def one(image):
        number, *targets = image
        residuals, support, going = targets, [], tf.constant(True)
        taken = tf.one_hot(number, size, True, False, dtype=tf.bool)
        for _ in range(_NEIGHBORS):
            found = [
                tf.linalg.matvec(atoms, residual)
                for atoms, residual in zip(
                    (atoms_y, atoms_f), residuals, strict=True
                )
            ]
            score = found[0] ** 2 / norms[0] + 0.5 * found[1] ** 2 / norms[1]
            best = tf.argmax(
                tf.where(taken, -np.inf, score), output_type=tf.int32
            )
            going &= (found[0][best] > 0) & (found[1][best] > 0)
            support.append(tf.where(going, best, -1))
            taken |= tf.one_hot(best, size, True, False, dtype=tf.bool)
            residuals = [
                _residual(target, tf.gather(atoms, tf.stack(support)))
                for target, atoms in zip(
                    targets, (atoms_y, atoms_f), strict=True
                )
            ]
        return tf.stack(support)

    return tf.map_fn(
        one, (tf.range(_BATCH), y, f), fn_output_signature=tf.int32
    )


def _residual(target, chosen):
    """Of the least squares of a target [n] on rows [t, n], cut at 0."""
    weights = tf.linalg.lstsq(tf.transpose(chosen), target[:, tf.newaxis])
    weights = tf.maximum(weights, 0.0)
    return target - tf.linalg.matvec(chosen, weights[:, 0], transpose_a=True)


def average_precision(scale: float, repeats: int) -> list[Figure]:
    """`AveragePrecision` of Open Images' test set."""
    images = max(int(125_436 * scale), 100)
    runs = [call("time_average_precision", images) for _ in range(repeats)]
    found = np.array([json.loads(r.output.splitlines()[-1]) for r in runs])
    ratio, difference, _ = np.median(found, 0)
    return [
        Figure("time to that of scikit-learn", ratio, "x", 1 / 30),
        Figure("largest difference", difference, "", 1e-12),
        Figure("memory", found[:, 2].max() / 1e6, "MB", 200),
    ]


def time_average_precision(images: int):
    """Prints seconds over scikit-learn's, the difference, bytes of memory."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    labels = np.zeros((images, _LABELS), np.int8)
    observed = rng.integers(0, _LABELS, (images, _LABELS_PER_IMAGE))
    values = rng.choice(np.array([-1, 1], np.int8), observed.shape)
    np.put_along_axis(labels, observed, values, 1)
    scores = rng.random((images, _LABELS), np.float32)

    def ours():
        precision = AveragePrecision(_LABELS)
        for i in range(0, images, 128):
            precision.update(labels[i : i + 128], scores[i : i + 128])
        return precision.per_label()

    start = time.perf_counter()
    found = ours()
    middle = time.perf_counter()
    expected = np.full(_LABELS, np.nan)
    for j in range(_LABELS):
        known = labels[:, j] != 0
        present = labels[known, j] > 0
        if present.any():
            expected[j] = average_precision_score(present, scores[known, j])
    end = time.perf_counter()
    tracemalloc.start()
    ours()
    _, memory = tracemalloc.get_traced_memory()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    difference = float(np.nanmax(np.abs(found - expected)))
    print(json.dumps([(middle - start) / (end - middle), difference, memory]))


def _skewed_labels(scale: float) -> scipy.sparse.csr_array:
    """[3.6 million, 5,000] int8, about 20 million observed; the j-th label is
    observed 1 / j times as often as the first."""
    rng = np.random.default_rng(0)
    images, observed = max(int(3.6e6 * scale), 10), max(int(21e6 * scale), 60)
    often = 1 / np.arange(1, _LABELS + 1)
    label = rng.choice(_LABELS, observed, p=often / often.sum())
    # A pair drawn twice, every twentieth, counts once.
    cells = np.sort(rng.integers(0, images, observed) * _LABELS + label)
    cells = cells[np.diff(cells, prepend=-1) > 0]
    values = rng.choice(np.array([-1, 1], np.int8), len(cells))
    return scipy.sparse.csr_array(
        (values, np.divmod(cells, _LABELS)), (images, _LABELS)
    )


def count_cooccurrences(file: str):
    """Prints the seconds of the graph, and their ratio to the product's."""
    labels = scipy.sparse.load_npz(file)
    start = time.perf_counter()
    positives = (labels > 0).astype(np.int32)
    positives.T @ positives
    middle = time.perf_counter()
    del positives
    LabelGraph.from_cooccurrence(labels, num_neighbors=50)
    end = time.perf_counter()
    print(json.dumps([end - middle, (end - middle) / (middle - start)]))


def methods(scale: float, repeats: int) -> list[Figure]:
    """`train_step` of each method against logistic's."""
    run = call("time_methods", max(int(32 * scale), 2), repeats)
    return [
        Figure(
            f"step of {name}", ratio, "x", None if name == "cnn_rnn" else 1.3
        )
        for name, ratio in json.loads(run.output.splitlines()[-1]).items()
    ]


def time_methods(batch_size: int, repeats: int, cnn: str = "resnet101"):
    """Prints each method's seconds per step over those of logistic.

    Steps differ in what comes after the features alone, by less than two
    steps of a ResNet differ by chance. So that part is timed by itself, in
    pairs with logistic's, and the difference added to logistic's whole step.
    """
    rng = np.random.default_rng(0)
    backbone = make_backbone(cnn)
    freeze_batch_statistics(backbone.model)
    labels = _skewed_labels(_DICTIONARY / 3.6e6)
    index = rng.permutation(labels.shape[0])[:batch_size].astype(np.int32)
    size = backbone.image_size
    images = rng.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8)
    num_features = backbone.model.output_shape[-1]
    features = rng.random((batch_size, num_features), np.float32)

    def step(name, inputs, cnn, dictionary=0):
        data = (
            {"inputs": tf.constant(inputs), "image_index": tf.constant(index)},
            LabelTable(labels).rows(index),
        )
        return _step(METHODS[name], cnn, labels, data, dictionary)

    whole = step("logistic", images, backbone.model)
    seconds = statistics.median(whole() for _ in range(repeats))
    del whole
    head = step("logistic", features, _trainable(num_features))
    ratios = {}
    for name in METHODS:
        for dictionary in (0, _DICTIONARY) if name == "imcl" else (0,):
            own = step(name, features, _trainable(num_features), dictionary)
            more = statistics.median(own() - head() for _ in range(5 * repeats))
            within = f", dictionary of {dictionary:,}" if dictionary else ""
            ratios[name + within] = 1 + more / seconds
    print(json.dumps(ratios))


def _trainable(num_features: int) -> keras.Model:
    """A next to empty CNN: the features get a gradient, as they have one."""
    return keras.Sequential(
        [keras.Input((num_features,)), keras.layers.LayerNormalization()]
    )


def _step(cls, backbone, labels, data, dictionary: int = 0):
    """A function that takes a training step and returns its seconds."""
    options = {}
    if cls is METHODS["imcl"]:
        options["label_graph"] = LabelGraph.from_cooccurrence(labels, 50)
    model = cls(backbone, _LABELS, **options)
    model.build((None, *data[0]["inputs"].shape[1:]))
    model.adapt(labels, tuple(map(str, range(_LABELS))))
    if dictionary:
        # A step takes its stored features; images are for a refresh alone.
        model.dictionary = Dictionary(
            np.arange(dictionary), np.zeros((dictionary, 1), np.float32),
            LabelTable(labels), model.classifier.kernel.shape[0],
        )  # fmt: skip
        for stored in (model.dictionary.features, model.dictionary.label_atoms):
            stored.assign(tf.random.stateless_uniform(stored.shape, [0, 1]))
    model.compile(keras.optimizers.RMSprop(1e-6, rho=0.9, momentum=0.9))
    train = tf.function(model.train_step, autograph=False)

    def step() -> float:
        start = time.perf_counter()
        train(data)["loss"].numpy()
        return time.perf_counter() - start

    step()
    return step


def _ratio(what: str, runs: list[Measured], floors: list[Measured]) -> Figure:
    pairs = zip(runs, floors, strict=True)
    ratio = statistics.median(a.seconds / b.seconds for a, b in pairs)
    return Figure(what, ratio, "x")


SECTIONS = {
    function.__name__: function
    for function in (records, graph, similarity, average_precision, methods)
}


def table(section: str, figures: list[Figure]) -> str:
    """The figures of a section as a Markdown table."""
    lines = [f"| {section} | | at most |", "|---|---|---|"]
    for what, value, unit, bar in figures:
        most = "" if bar is None else f"{bar:g} {unit}"
        lines.append(f"| {what} | {value:.3g} {unit} | {most} |")
    return "\n".join(lines)


def main(argv: list[str]):
    try:
        chosen = argv[1:] or list(SECTIONS)
        for name in set(chosen) - set(SECTIONS):
            raise ValueError(
                f"expected sections of {', '.join(SECTIONS)}, got {name!r}"
            )
        out = Path(FLAGS.out or "results.json")
        if not out.parent.is_dir():  # not found out after an hour
            raise FileNotFoundError(f"{out.parent}: no such directory")
        results = {}
        for name in chosen:
            figures = SECTIONS[name](FLAGS.scale, FLAGS.repeats)
            results[name] = [figure._asdict() for figure in figures]
            print(table(name, figures), flush=True)
        if FLAGS.out:
            with replacing(out) as new:
                new.write_text(json.dumps(results, indent=2) + "\n")
    except (ValueError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "JSON file to write.")
    flags.DEFINE_integer("repeats", 3, "Runs of each.", lower_bound=1)
    flags.DEFINE_float(
        "scale", 1.0, "Share of the full size; bars are meant for 1.",
        lower_bound=0.0, upper_bound=1.0,
    )  # fmt: skip
    app.run(main, flags_parser=parse_or_fail(FLAGS))
