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
            against the products of residuals and atoms alone, by einsum or
            by NumPy, whichever is faster, and against the same algorithm
            written for one image.
input       Minibatches of 32 from records of JPEGs of 500 x 375 pixels, at 224
            pixels, against decoding and resizing the same bytes alone.
average_precision
            The average precision of 125,436 images and 5,000 labels, 9
            observed each, against scikit-learn, label by label on dense arrays.
head        The logistic model of 4,370 images, 1,280 features and 22 labels for
            six penalties, against L-BFGS on the features as they are.
step        A training step of IMCL, ResNet-101 of 224 pixels, 32 images, 5,000
            labels, 50 neighbours each, against that of logistic regression;
            and an epoch on fixed features. With a dictionary of 10,000 images
            a step includes its part of the dictionary's refresh.
methods     A training step of each method against that of logistic.
cost        Trainable parameters, training images per second and peak memory of
            each method, end to end as in step and on fixed features, in
            processes of its own.
variants    That of logistic with --mixed_precision=bfloat16, with --jit and
            with both against that with neither.
serving     10,000 good and bad requests from 8 threads to an exported model of
            small_cnn: each is answered, or refused, as when it is sent alone,
            and memory does not grow. Needs Pillow, of the extra [plots].
formats     Size and time per image of MobileNetV2 of 224 pixels and 100 labels,
            as exported for files and for pixels, as ONNX and as LiteRT, and
            how far its probabilities are off. Needs the extras [onnx,litert].
start       From the start of `imcl_tf.main --dataset=scenes`, whose records
            exist, to the end of its first training step, against a process
            that imports TensorFlow alone.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program

    ARGUMENTS = program.start(__doc__, options.BENCHMARK)

import json
from pathlib import Path

from absl import flags

from eval.benchmark.average_precision import average_precision
from eval.benchmark.cost import by_row, cost
from eval.benchmark.formats import formats
from eval.benchmark.graph import graph
from eval.benchmark.head import head
from eval.benchmark.input import input_pipeline
from eval.benchmark.measure import Figure
from eval.benchmark.records import records
from eval.benchmark.serving import serving
from eval.benchmark.similarity import similarity
from eval.benchmark.start import start
from eval.benchmark.step import methods, step, variants
from imcl_tf.files import fail, in_existing_directory, replacing

FLAGS = flags.FLAGS
SECTIONS = {
    "records": records,
    "graph": graph,
    "similarity": similarity,
    "input": input_pipeline,
    "average_precision": average_precision,
    "head": head,
    "step": step,
    "methods": methods,
    "cost": cost,
    "variants": variants,
    "serving": serving,
    "formats": formats,
    "start": start,
}
# Sections that compare several of a kind, each of which has a row.
ROWS = {"cost": "method", "formats": "format"}


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
        out = in_existing_directory(Path(FLAGS.out or "results.json"))
        results = {}
        for name in chosen:
            figures = SECTIONS[name](FLAGS.scale, FLAGS.repeats)
            results[name] = [figure._asdict() for figure in figures]
            kind = ROWS.get(name)
            text = by_row(kind, figures) if kind else table(name, figures)
            print(text, flush=True)
        if FLAGS.out:
            with replacing(out) as new:
                new.write_text(json.dumps(results, indent=2) + "\n")
    except (ValueError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    program.run(main, ARGUMENTS)
