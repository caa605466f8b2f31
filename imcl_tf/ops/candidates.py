"""Candidates that workers share, and the best of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from imcl_tf.ops import workers


class Best(NamedTuple):
    """The candidate of each image that Algorithm 2 chooses next.

    Attributes:
      number: [B] int32, -1 = none.
      score: [B] float32, as all that follow; -inf = none is left.
      correlation_y: [B], inner product with the residual of y.
      correlation_f: [B], with that of f.
      squares_y: [B], squared norm of its label atom.
      squares_f: [B], of its feature atom.
      atom_y: [B, C].
      atom_f: [B, d].
    """

    number: tf.Tensor
    score: tf.Tensor
    correlation_y: tf.Tensor
    correlation_f: tf.Tensor
    squares_y: tf.Tensor
    squares_f: tf.Tensor
    atom_y: tf.Tensor
    atom_f: tf.Tensor


def own_numbers(sizes: Sequence[tf.Tensor]) -> tf.Tensor:
    """Numbers of the candidates that this worker has.

    Args:
      sizes: [] int32 each, candidates of a part, in which worker r of n has
        the rows r, r + n, ...; the parts are numbered through.

    Returns:
      [m] int32; -1 stands for a part of which it has none.
    """
    share = workers.current()
    numbers, start = [], 0
    for size in sizes:
        last = tf.maximum(size, share.index)
        own = start + tf.range(share.index, last, share.number)
        own = tf.cond(
            tf.size(own) > 0, lambda own=own: own, lambda: tf.constant([-1])
        )
        numbers.append(own)
        start += size
    return tf.concat(numbers, 0)


def best_of_all(best: Best) -> Best:
    """The best candidates of all workers, of equal ones that of least number.

    Numbers are exact in float32: there are less than 2^24.

    Args:
      best: of this worker.

    Returns:
      the same on every worker.
    """
    own = tf.stack([best.score, tf.cast(best.number, tf.float32)])
    scores, numbers = tf.unstack(workers.gathered(own), axis=1)
    is_best = scores == tf.reduce_max(scores, 0)
    winner = tf.reduce_min(tf.where(is_best, numbers, float("inf")), 0)
    winner = tf.where(tf.math.is_finite(winner), winner, -1.0)
    winner = tf.cast(winner, tf.int32)
    is_own = (best.number == winner)[:, tf.newaxis]
    columns = [x if x.shape.rank == 2 else x[:, tf.newaxis] for x in best[1:]]
    found = tf.where(is_own, tf.concat(columns, 1), 0.0)
    parts = tf.split(
        workers.all_sum(found), [tf.shape(x)[1] for x in columns], 1
    )
    return Best(
        winner,
        *(
            part if x.shape.rank == 2 else part[:, 0]
            for part, x in zip(parts, best[1:], strict=True)
        ),
    )
