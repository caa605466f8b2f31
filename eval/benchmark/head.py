"""The solved logistic model against L-BFGS on the features as they are."""

from __future__ import annotations

import json
import time

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.special

from eval.benchmark.measure import Figure, call, printed
from imcl_tf.ops.logistic import LogisticSolver
from imcl_tf.training.heads import PENALTIES

# A path that reaches the penalties chosen on pictures.
_PATH = PENALTIES[:6]


def head(scale: float, repeats: int) -> list[Figure]:
    """`LogisticSolver.path` of a folder of birds with a tenth observed."""
    images, size = max(int(4370 * scale), 1000), max(int(1280 * scale), 10)
    runs = [call(time_path, images, size, 22) for _ in range(repeats)]
    found = np.array([printed(r) for r in runs])
    ratio, excess = np.median(found[:, 0]), found[:, 1].max()
    return [
        Figure(f"{len(_PATH)} penalties to plain L-BFGS", ratio, "x", 1.5),
        Figure("largest relative excess of the loss", excess, "", 1e-5),
    ]


def time_path(images: int, size: int, labels: int):
    """Prints seconds over those of L-BFGS, and the loss above that of L-BFGS,
    in parts of it."""
    features, targets = pictures(images, size, labels)
    start = time.perf_counter()
    heads = list(LogisticSolver(features).path(targets, _PATH))
    middle = time.perf_counter()
    observed, double = targets.toarray(), features.astype(float)
    plain, theta = [], np.zeros((size + 1) * labels)
    for penalty in _PATH:
        found = scipy.optimize.minimize(
            loss, theta, (double, observed, penalty),
            "L-BFGS-B", jac=True, options={"maxiter": 10_000},
        )  # fmt: skip
        theta = found.x
        plain.append(found.fun)
    end = time.perf_counter()
    excess = [
        loss(
            np.append(head.kernel, head.bias).astype(float),
            double, observed, head.penalty,
        )[0] / least - 1
        for head, least in zip(heads, plain, strict=True)
    ]  # fmt: skip
    ratio = (middle - start) / (end - middle)
    print(json.dumps([ratio, max(0.0, *excess)]))


def loss(
    theta: np.ndarray,
    features: np.ndarray,
    observed: np.ndarray,
    penalty: float,
) -> tuple[float, np.ndarray]:
    """The objective of a head [(d + 1) C] and its gradient."""
    theta = theta.reshape(-1, observed.shape[1])
    kernel, bias = theta[:-1], theta[-1]
    margins = -observed * (features @ kernel + bias)
    known, count = observed != 0, np.count_nonzero(observed) / len(bias)
    value = (known * np.logaddexp(0, margins)).sum() / count
    slope = -observed * scipy.special.expit(margins) / count
    return (
        value + penalty / 2 * (kernel**2).sum(),
        np.append(features.T @ slope + penalty * kernel, slope.sum(0)),
    )


def pictures(
    images: int, size: int, labels: int
) -> tuple[np.ndarray, scipy.sparse.csr_array]:
    """Features [images, size] as a CNN's, rectified and of unit norm, and
    labels [images, labels] that depend on them, a tenth observed."""
    rng = np.random.default_rng(0)
    scales = np.arange(1, size + 1) ** -0.5
    factors = rng.normal(size=(images, size)) * scales
    features = np.maximum(factors @ rng.normal(size=(size, size)), 0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    scores = factors @ rng.normal(size=(size, labels))
    values = np.where(scores > np.quantile(scores, 0.8, 0), 1, -1)
    values *= rng.random(values.shape) < 0.1
    return features.astype(np.float32), scipy.sparse.csr_array(values)
