"""Image similarities: joint nonnegative OMP (paper, Algorithm 2), batched.

Each image i of a minibatch is written as a nonnegative combination of at most
k candidate images, in label space and in feature space at once, over one
shared support (eq. 8):

    y_i ~ sum_i' c_i'i (A y_i'),     f_i ~ sum_i' cbar_i'i f_i'

All images advance together: step t is two matrix products (residuals with all
atoms), an argmax, and one row of a small Cholesky factor per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from imcl_tf.ops.candidates import Best, best_of_all, own_numbers

# An inner product below this share of both norms is float32 rounding, not
# correlation: a residual that is zero in exact arithmetic must not select.
_CORRELATION_TOLERANCE = 1e-6
# An atom this close to the span of the atoms already chosen, relative to its
# norm, counts as dependent: it stays in the support with weight 0.
_DEPENDENCE_TOLERANCE = 1e-4
# Added to the Gram matrix of unit vectors: above the rounding of float64, and
# far below the square of the tolerance.
_LITTLE = 1e-12


class Similarities(NamedTuple):
    """Similar images of each image of a minibatch, with their weights.

    Attributes:
      indices: [B, k] int32, candidates in the order chosen, -1 = unused slot.
      label_weights: [B, k] float32, c of eq. (5), 0 in unused slots.
      feature_weights: [B, k] float32, cbar of eq. (6), 0 in unused slots.

    Example:
      >>> import imcl_tf
      >>> imcl_tf.Similarities._fields
      ('indices', 'label_weights', 'feature_weights')
    """

    indices: tf.Tensor
    label_weights: tf.Tensor
    feature_weights: tf.Tensor


def joint_nonnegative_omp(
    label_targets: tf.Tensor,
    features: tf.Tensor,
    label_atoms: tf.Tensor | tuple[tf.Tensor, ...],
    feature_atoms: tf.Tensor | tuple[tf.Tensor, ...],
    num_neighbors: int = 5,
    lambda_y: float = 1.0,
    lambda_f: float = 0.5,
    exclude: tf.Tensor | None = None,
    sizes: Sequence[int | tf.Tensor] | None = None,
) -> Similarities:
    """Solves eq. (7) for the image similarities (paper, Algorithm 2).

    An image stops when its best candidate does not correlate positively with
    both residuals. Weights are the least squares solution with negative
    entries set to 0. An atom of zero norm scores 0; an atom that depends on
    the ones already chosen gets weight 0.

    Args:
      label_targets: [B, C] float16, bfloat16, float32 or float64, y of eq. (3).
      features: [B, d], f.
      label_atoms: [M, C], A y of the candidates, M >= 1; or a tuple of such,
        none of them empty, whose candidates are numbered through.
      feature_atoms: [M, d], f of the candidates, in as many parts.
      num_neighbors: k >= 1, most images that one image may select.
      lambda_y: weight >= 0 of the label term.
      lambda_f: weight >= 0 of the feature term.
      exclude: [B] or [B, E] int32, candidates that image i may not select
        (itself), -1 = none; None excludes nothing.
      sizes: numbers of candidates of each part, where this worker of n has
        the rows r, r + n, ... of each alone (`imcl_tf.ops.workers`). All find
        the same; None = each worker has all candidates.

    Returns:
      `Similarities`, computed in float32.

    Raises:
      ValueError: if ranks, sizes or hyper-parameters are out of range.

    Example:
      >>> import imcl_tf
      >>> import numpy as np
      >>> features = np.eye(3, dtype=np.float32)[[0, 0, 1]]
      >>> labels = np.array([[1, -1], [1, -1], [-1, 1]], np.float32)
      >>> found = imcl_tf.joint_nonnegative_omp(
      ...     labels, features, labels, features, num_neighbors=1,
      ...     exclude=np.arange(3))
      >>> found.indices.numpy()[:2].tolist()  # images 0 and 1 are alike
      [[1], [0]]
    """
    return _solve(
        label_targets, features, label_atoms, feature_atoms,
        num_neighbors, lambda_y, lambda_f, exclude, None, sizes,
    )  # fmt: skip


def released_omp(
    label_targets: tf.Tensor,
    features: tf.Tensor,
    label_atoms: tf.Tensor | tuple[tf.Tensor, ...],
    feature_atoms: tf.Tensor | tuple[tf.Tensor, ...],
    num_neighbors: int = 5,
    lambda_y: float = 1.0,
    lambda_f: float = 0.5,
    exclude: tf.Tensor | None = None,
    threshold: float = 1e-6,
    sizes: Sequence[int | tf.Tensor] | None = None,
) -> Similarities:
    """The solver of the released TF1 code, for comparison with Algorithm 2.

    It differs in the score (times the sum of both signs, lambdas divided by
    the larger one), in the stopping rule (score below `threshold`) and in the
    weights (plain least squares, so they may be negative). As there, candidate
    0 can only be an image's first choice: its index marks an unused slot.

    Args:
      label_targets: as in `joint_nonnegative_omp`, and so are all the others.
      features: [B, d].
      label_atoms: [M, C].
      feature_atoms: [M, d].
      num_neighbors: k.
      lambda_y: weight of the label term.
      lambda_f: weight of the feature term.
      exclude: [B] or [B, E] int32.
      threshold: least score > 0 of a selected candidate (released: 1e-3 Open
        Images, 1e-6 CUB, 1e-20 COCO).
      sizes: as in `joint_nonnegative_omp`.

    Returns:
      `Similarities`, unused slots -1 (the released code leaves 0 there).

    Raises:
      ValueError: as `joint_nonnegative_omp`, and if both lambdas are 0.
    """
    if not max(lambda_y, lambda_f) > 0:
        raise ValueError("the released solver needs lambda_y or lambda_f > 0")
    if threshold is None or not threshold > 0:
        raise ValueError(f"threshold must be > 0, got {threshold}")
    largest = max(lambda_y, lambda_f)
    return _solve(
        label_targets, features, label_atoms, feature_atoms,
        num_neighbors, lambda_y / largest, lambda_f / largest, exclude,
        threshold, sizes,
    )  # fmt: skip


SOLVERS = {"paper": joint_nonnegative_omp, "released": released_omp}


def _solve(
    label_targets, features, label_atoms, feature_atoms,
    num_neighbors, lambda_y, lambda_f, exclude, threshold, sizes,
):  # fmt: skip
    """Checks at the door, then `_pursue` in one compiled function."""
    y, f = (tf.cast(x, tf.float32) for x in (label_targets, features))
    atoms_y, atoms_f = _blocks(label_atoms), _blocks(feature_atoms)
    for name, arrays in (
        ("label_targets", (y,)),
        ("features", (f,)),
        ("label_atoms", atoms_y),
        ("feature_atoms", atoms_f),
    ):
        for x in arrays:
            if x.shape.rank != 2:
                raise ValueError(
                    f"{name} must have rank 2, got shape {x.shape}"
                )
    for name, a, b in (
        ("blocks of atoms", len(atoms_y), len(atoms_f)),
        *(("labels", y.shape[1], x.shape[1]) for x in atoms_y),
        *(("feature dimensions", f.shape[1], x.shape[1]) for x in atoms_f),
        ("images", y.shape[0], f.shape[0]),
        *(
            ("candidates", a.shape[0], b.shape[0])
            for a, b in zip(atoms_y, atoms_f, strict=False)
        ),
    ):
        if a is not None and b is not None and a != b:
            raise ValueError(f"numbers of {name} must agree, got {a} and {b}")
    if all(x.shape[0] == 0 for x in atoms_y):
        raise ValueError("at least one candidate is needed, got none")
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be >= 1, got {num_neighbors}")
    if not (lambda_y >= 0 and lambda_f >= 0):
        raise ValueError(
            f"lambdas must be >= 0, got lambda_y={lambda_y}, "
            f"lambda_f={lambda_f}"
        )
    if exclude is None:
        exclude = tf.fill([tf.shape(y)[0], 1], -1)
    exclude = tf.cast(exclude, tf.int32)
    if exclude.shape.rank not in (1, 2):
        raise ValueError(
            f"exclude must have shape [B] or [B, E], got {exclude.shape}"
        )
    if not exclude.shape[:1].is_compatible_with(y.shape[:1]):
        raise ValueError(
            "exclude must have a row per image, got "
            f"{exclude.shape[0]} for {y.shape[0]} images"
        )
    if exclude.shape.rank == 1:
        exclude = exclude[:, tf.newaxis]
    if sizes is None:
        # Workers that have other candidates would shorten in another way.
        (y, atoms_y), (f, atoms_f) = _shorten(y, atoms_y), _shorten(f, atoms_f)
    else:
        sizes = tuple(tf.convert_to_tensor(size, tf.int32) for size in sizes)
        atoms_y, atoms_f = map(_none_empty, (atoms_y, atoms_f))
    return _pursue(
        y, f, atoms_y, atoms_f, exclude, sizes,
        tf.constant(lambda_y, tf.float32), tf.constant(lambda_f, tf.float32),
        int(num_neighbors), threshold,
    )  # fmt: skip


def _blocks(atoms) -> tuple[tf.Tensor, ...]:
    blocks = atoms if isinstance(atoms, tuple) else (atoms,)
    return tuple(tf.cast(block, tf.float32) for block in blocks)


def _none_empty(blocks):
    """Blocks of a worker, a row of zeros in the place of none."""
    return tuple(
        tf.cond(
            tf.shape(atoms)[0] > 0,
            lambda atoms=atoms: atoms,
            lambda atoms=atoms: tf.zeros([1, tf.shape(atoms)[1]]),
        )
        for atoms in blocks
    )


def _shorten(targets, blocks):
    """Targets [B, n] and atoms [M, n], M <= B, in B + M dimensions, if fewer.

    Algorithm 2 depends on inner products alone, so it may run on any vectors
    that have the same: with G = L L^T the Gram matrix of all of them, on the
    rows of L. In float64 their error is below that of float32.
    """
    if len(blocks) > 1:
        return targets, blocks
    (atoms,), size = blocks, tf.shape(targets)[0]
    number = tf.shape(atoms)[0]

    def shortened():
        rows = tf.cast(tf.concat([targets, atoms], 0), tf.float64)
        gram = tf.matmul(rows, rows, transpose_b=True)
        # Cholesky fails on what is not finite, where training diverges.
        gram = tf.where(tf.math.is_finite(gram), gram, 0.0)
        norms = tf.sqrt(tf.linalg.diag_part(gram))[:, tf.newaxis]
        gram = tf.math.divide_no_nan(gram, norms * tf.transpose(norms))
        # And on dependent vectors, but for a little on the diagonal.
        little = _LITTLE * tf.eye(tf.shape(gram)[0], dtype=tf.float64)
        rows = tf.cast(norms * tf.linalg.cholesky(gram + little), tf.float32)
        return rows[:size], rows[size:]

    targets, atoms = tf.cond(
        # With more candidates G would cost more than the algorithm.
        (number <= size) & (size + number < tf.shape(targets)[1]),
        shortened,
        lambda: (targets, atoms),
    )
    return targets, (atoms,)


@tf.function(autograph=False, reduce_retracing=True)
def _pursue(
    y, f, atoms_y, atoms_f, exclude, sizes, lambda_y, lambda_f, k, threshold
):  # fmt: skip
    """Algorithm 2 for all images; `threshold` None = paper, else released."""
    nonnegative = threshold is None
    squares_y, squares_f = _squares(atoms_y), _squares(atoms_f)
    scale_y = tf.math.divide_no_nan(lambda_y, squares_y)[:, tf.newaxis]
    scale_f = tf.math.divide_no_nan(lambda_f, squares_f)[:, tf.newaxis]
    if sizes is None:
        numbers = tf.range(tf.size(squares_y))
    else:
        numbers = own_numbers(sizes)
    numbers = numbers[:, tf.newaxis]
    others = tf.transpose(exclude)[:, tf.newaxis]
    taken = (numbers < 0) | tf.reduce_any(numbers == others, 0)
    active = tf.ones([tf.shape(y)[0]], tf.bool)
    labels, visual = _Regression.start(y), _Regression.start(f)
    indices = []
    for t in range(k):
        correlation_y = _correlations(labels.residual, atoms_y)
        correlation_f = _correlations(visual.residual, atoms_f)
        score = (
            tf.square(correlation_y) * scale_y
            + tf.square(correlation_f) * scale_f
        )
        if not nonnegative:
            score *= tf.sign(correlation_y) + tf.sign(correlation_f)
        score = tf.where(taken, -float("inf"), score)
        place = tf.argmax(score, 0, output_type=tf.int32)
        best = Best(
            tf.gather(numbers[:, 0], place),
            *(
                _of_best(x, place)
                for x in (score, correlation_y, correlation_f)
            ),
            *(tf.gather(x, place) for x in (squares_y, squares_f)),
            *(_rows(atoms, place) for atoms in (atoms_y, atoms_f)),
        )
        if sizes is not None:
            best = best_of_all(best)
        if nonnegative:
            active &= (
                tf.math.is_finite(best.score)
                & _correlates(best.correlation_y, y, best.squares_y)
                & _correlates(best.correlation_f, f, best.squares_f)
            )
        else:
            active &= (best.score >= threshold) & ((best.number > 0) | (t == 0))
        taken |= numbers == best.number
        indices.append(tf.where(active, best.number, -1))
        labels = labels.append(best.atom_y, active, nonnegative)
        visual = visual.append(best.atom_f, active, nonnegative)
    return Similarities(tf.stack(indices, 1), labels.weights, visual.weights)


# What is of all candidates and images is [M, B], as the products come: to
# transpose it takes as long as to score it.


def _of_best(values, best):
    """[B]: of values [M, B] those of one candidate [B] for each image."""
    places = tf.stack([best, tf.range(tf.size(best))], 1)
    return tf.gather_nd(values, places)


# Atoms come in blocks [M_b, n], one after another: to join them would copy a
# large dictionary in every step.


def _squares(blocks):
    """Squared norms [M]; tf.square would write a second copy of the atoms."""
    norms = [tf.math.reduce_euclidean_norm(atoms, 1) for atoms in blocks]
    return tf.square(tf.concat(norms, 0))


def _correlations(residual, blocks):
    """Inner products [M, B] of all atoms with residuals [B, n].

    With the large matrix on the left, and by `einsum`, a CPU needs half the
    time that `matmul(residual, atoms, transpose_b=True)` takes.
    """
    products = [tf.einsum("mn,bn->mb", atoms, residual) for atoms in blocks]
    return tf.concat(products, 0)


def _rows(blocks, chosen):
    """The atoms [B, n] of candidates [B]."""
    rows, start = 0.0, 0
    for atoms in blocks:
        place = chosen - start
        here = (place >= 0) & (place < tf.shape(atoms)[0])
        found = tf.gather(atoms, tf.where(here, place, 0))
        rows = tf.where(here[:, tf.newaxis], found, rows)
        start += tf.shape(atoms)[0]
    return rows


def _correlates(correlation, targets, squares):
    """[B] bool: the chosen atom correlates positively with the residual."""
    bound = _CORRELATION_TOLERANCE * tf.sqrt(
        tf.reduce_sum(tf.square(targets), 1) * squares
    )
    return correlation > bound


class _Regression(NamedTuple):
    """Least squares of each target on its t chosen atoms, by growing Cholesky.

    rows: [B, 1 + t, n] float64, the target and the atoms; independent: [B, t]
    bool; triangle: [B, t, t] float64, L L^T = the atoms' inner products;
    projections: [B, t] float64, L^-1 (atoms times target); weights: [B, t];
    residual: [B, n]. A dependent or absent atom has a row and a column of the
    unit matrix in L, and projection 0, so its weight is 0.

    In float64 inner products tell what is dependent as well as a QR
    factorisation in float32 does, which passes over [B, t, n] five times.
    """

    rows: tf.Tensor
    independent: tf.Tensor
    triangle: tf.Tensor
    projections: tf.Tensor
    weights: tf.Tensor
    residual: tf.Tensor

    @classmethod
    def start(cls, targets: tf.Tensor) -> _Regression:
        batch = tf.shape(targets)[0]
        rows = tf.cast(targets, tf.float64)[:, tf.newaxis]
        none = tf.zeros([batch, 0], tf.float64)
        return cls(
            rows, tf.zeros([batch, 0], tf.bool), none[:, tf.newaxis][:, :0],
            none, tf.cast(none, tf.float32), targets,
        )  # fmt: skip

    def append(
        self, atom: tf.Tensor, active: tf.Tensor, nonnegative: bool
    ) -> _Regression:
        atom = tf.where(active[:, tf.newaxis], atom, 0.0)
        atom = tf.cast(atom, tf.float64)
        rows = tf.concat([self.rows, atom[:, tf.newaxis]], 1)
        products = tf.linalg.matvec(rows, atom)
        square = products[:, -1:]
        column = tf.where(self.independent, products[:, 1:-1], 0.0)
        above = tf.linalg.triangular_solve(
            self.triangle, column[:, :, tf.newaxis]
        )[:, :, 0]
        height = square - tf.reduce_sum(tf.square(above), 1, keepdims=True)
        independent = height > _DEPENDENCE_TOLERANCE**2 * square
        above = tf.where(independent, above, 0.0)
        diagonal = tf.sqrt(tf.where(independent, height, 1.0))
        triangle = tf.concat(
            [
                tf.pad(self.triangle, [[0, 0], [0, 0], [0, 1]]),
                tf.concat([above, diagonal], 1)[:, tf.newaxis],
            ],
            1,
        )
        known = tf.reduce_sum(above * self.projections, 1, keepdims=True)
        projection = tf.where(
            independent, (products[:, :1] - known) / diagonal, 0.0
        )
        projections = tf.concat([self.projections, projection], 1)
        weights = tf.linalg.triangular_solve(
            triangle, projections[:, :, tf.newaxis], adjoint=True
        )[:, :, 0]
        if nonnegative:
            weights = tf.maximum(weights, 0.0)
        combination = tf.concat([tf.ones_like(square), -weights], 1)
        residual = tf.linalg.matvec(rows, combination, transpose_a=True)
        return _Regression(
            rows, tf.concat([self.independent, independent], 1), triangle,
            projections, tf.cast(weights, tf.float32),
            tf.cast(residual, tf.float32),
        )  # fmt: skip
