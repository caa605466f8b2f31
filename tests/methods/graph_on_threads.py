"""Multiplies by a label graph again and again, and compares to the last bit.

    python -m tests.methods.graph_on_threads

In a process of its own: those of the tests have one thread for an operation.
"""

import numpy as np
import tensorflow as tf

from imcl_tf.methods.label_graph import LabelGraph


def main():
    tf.config.threading.set_intra_op_parallelism_threads(4)
    rng = np.random.default_rng(0)
    # 600,000 edges: parts of many sizes for the threads.
    neighbors = (np.arange(4000)[:, None] + 23 * np.arange(150)) % 4000
    graph = LabelGraph.from_neighbors(
        neighbors, rng.normal(size=neighbors.shape).astype(np.float32)
    )
    y, upstream = (
        tf.constant(rng.normal(size=(32, 4000)).astype(np.float32))
        for _ in range(2)
    )

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(y)
            product = graph(y)
        sources = [y, *graph.trainable_variables]
        return product, *tape.gradient(product, sources, upstream)

    first = [x.numpy() for x in gradients()]
    for _ in range(20):
        for value, expected in zip(gradients(), first, strict=True):
            np.testing.assert_array_equal(value, expected)


if __name__ == "__main__":
    main()
