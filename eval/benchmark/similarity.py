"""Algorithm 2 against its products, and against one image at a time."""

from __future__ import annotations

import timeit

import numpy as np
import tensorflow as tf

from eval.benchmark.measure import (
    BATCH,
    FEATURES,
    LABELS,
    NEIGHBORS,
    Figure,
    called,
    print_ratios,
)
from imcl_tf.ops.similarity import joint_nonnegative_omp


def similarity(scale: float, repeats: int) -> list[Figure]:
    """`joint_nonnegative_omp`; the figures are of time."""
    sizes = [max(int(size * scale), NEIGHBORS) for size in (2_000, 10_000)]
    return [
        *(
            called(
                f"{size:,} candidates to the products alone",
                1.1, time_solver, size, 5 * repeats,
            )
            for size in sizes
        ),
        *(
            called(
                f"within the minibatch to one image at a time, {how}",
                1 / 20, time_minibatch, compiled, 5 * repeats,
            )
            for how, compiled in (("compiled", True), ("as written", False))
        ),
    ]  # fmt: skip


def _solver_problem(size: int):
    """y, f of `BATCH` images, atoms of `size` candidates."""
    rng = np.random.default_rng(0)
    return [
        tf.constant(rng.random(shape, np.float32) - low)
        for shape, low in (
            ((BATCH, LABELS), 0.3), ((BATCH, FEATURES), 0.0),
            ((size, LABELS), 0.3), ((size, FEATURES), 0.0),
        )
    ]  # fmt: skip


def time_solver(size: int, repeats: int):
    """Prints seconds of Algorithm 2 over those of its k products.

    The products by `tf.einsum` or by NumPy, whichever is faster here.
    """
    y, f, atoms_y, atoms_f = arrays = _solver_problem(size)

    @tf.function(autograph=False)
    def by_einsum():
        return [
            # Other residuals each time, as in the algorithm.
            tf.einsum("mn,bn->mb", atoms, residual + t)
            for t in range(NEIGHBORS)
            for residual, atoms in ((y, atoms_y), (f, atoms_f))
        ]

    y_, f_, atoms_y_, atoms_f_ = (x.numpy() for x in arrays)

    def by_numpy():
        return [
            atoms @ (residual + np.float32(t)).T
            for t in range(NEIGHBORS)
            for residual, atoms in ((y_, atoms_y_), (f_, atoms_f_))
        ]

    by_einsum(), by_numpy()
    floor = min(by_einsum, by_numpy, key=lambda way: min(_seconds(way, 3)))
    print_ratios(
        lambda: joint_nonnegative_omp(y, f, atoms_y, atoms_f, NEIGHBORS),
        floor,
        repeats,
    )


def _seconds(function, times) -> list[float]:
    return timeit.repeat(
        lambda: tf.nest.map_structure(np.asarray, function()),
        number=1,
        repeat=times,
    )


def time_minibatch(compiled: bool, repeats: int):
    """Prints seconds of Algorithm 2 over those of `one_by_one`.

    Args:
      compiled: `one_by_one` too; else it runs as Python has it.
      repeats: pairs.

    Raises:
      ValueError: if they select other images.
    """
    y, f, atoms_y, atoms_f = arrays = _solver_problem(BATCH)
    peer = one_by_one if compiled else one_by_one.python_function

    @tf.function(autograph=False)  # as a training step is
    def batched():
        own = tf.range(BATCH)
        return joint_nonnegative_omp(
            y, f, atoms_y, atoms_f, NEIGHBORS, exclude=own
        )

    if (batched().indices != peer(*arrays)).numpy().any():
        raise ValueError("the two forms of Algorithm 2 differ")
    print_ratios(batched, lambda: peer(*arrays), repeats)


@tf.function(autograph=False)
def one_by_one(
    y: tf.Tensor, f: tf.Tensor, atoms_y: tf.Tensor, atoms_f: tf.Tensor
) -> tf.Tensor:
    """Algorithm 2 as the paper has it, image after image; the indices."""
    norms = [tf.reduce_sum(tf.square(x), 1) for x in (atoms_y, atoms_f)]
    size = atoms_y.shape[0]

    def one(image):
        number, *targets = image
        residuals, support, going = targets, [], tf.constant(True)
        taken = tf.one_hot(number, size, True, False, dtype=tf.bool)
        for _ in range(NEIGHBORS):
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

    return tf.map_fn(one, (tf.range(BATCH), y, f), fn_output_signature=tf.int32)


def _residual(target, chosen):
    """Residual [n] of a target's least squares on rows [t, n], cut at 0."""
    weights = tf.linalg.lstsq(tf.transpose(chosen), target[:, tf.newaxis])
    weights = tf.maximum(weights, 0.0)
    return target - tf.linalg.matvec(chosen, weights[:, 0], transpose_a=True)
