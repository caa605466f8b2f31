"""Labels and graphs that the tests of the label graph share."""

import numpy as np
import scipy.sparse

from imcl_tf.methods.label_graph import LabelGraph


def random_labels(seed=0, n=60, c=15):
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.05, 0.6, c)
    labels = np.where(rng.random((n, c)) < rate, 1, -1)
    return np.where(rng.random((n, c)) < 0.7, labels, 0).astype(np.int8)


def random_graph(seed=0, c=12, k_a=4):
    """Random neighbours, random weights of both signs, some slots unused."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(c)[:k_a] for _ in range(c)])
    indices[rng.random((c, k_a)) < 0.2] = -1
    weights = rng.normal(size=(c, k_a)).astype(np.float32)
    dense = np.zeros((c, c))
    for j in range(c):
        for j2, a in zip(indices[j], weights[j], strict=True):
            if j2 >= 0:
                dense[j, j2] = a
    return LabelGraph.from_neighbors(indices, weights), dense


def dense(graph):
    matrix = graph.to_scipy()
    assert isinstance(matrix, scipy.sparse.csr_array)
    assert matrix.dtype == np.float32
    return matrix.toarray()
