"""Trials of made up scores."""

from collections.abc import Callable

import numpy as np
import scipy.sparse

from imcl_tf.training.trials import Part, Trials
from imcl_tf.training.workdir import VALIDATION_SCORES

C, N = 3, 60
PENALTY = 1e-3


def trials_of(directory, quality, seconds=1e6, parts=1, penalty=PENALTY):
    """Trials whose runs leave scores of a given quality, by name."""
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 1], (N, C)).astype(np.int8)
    noise = rng.normal(size=(N, C))  # the same in all
    size = N // parts
    made = []
    for number in range(parts):
        rows = slice(number * size, (number + 1) * size)
        name = f"part-{number}" if parts > 1 else ""
        made.append(
            Part(
                name,
                scipy.sparse.csr_array(labels[rows]),
                _run(labels[rows], noise[rows], quality, penalty, bool(name)),
            )
        )
    return Trials(made, directory, seconds)


def _run(labels, noise, quality, penalty, is_part) -> Callable:
    def run(settings, directory):
        trial = directory.parent.name if is_part else directory.name
        scores = quality.get(trial, 0.0) * labels + noise
        directory.mkdir(parents=True)
        np.save(directory / VALIDATION_SCORES, scores.ravel())
        return {"penalty": penalty}

    return run
