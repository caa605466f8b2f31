"""Trains methods as one of several workers, and compares with one process.

    python -m tests.methods.several_workers CASE...

A case is a name of `several_devices.CASES`. TF_CONFIG says which worker this
process is; all must be started.
"""

import contextlib
import sys

import tensorflow as tf

from imcl_tf.ops import workers
from tests.methods.several_devices import compare


@contextlib.contextmanager
def alone():
    """A context in which this process is the only worker."""
    together = workers.current()
    workers._current = workers.ALONE
    try:
        yield
    finally:
        workers._current = together


def main():
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    workers.start()
    for name in sys.argv[1:]:
        compare(name, contextlib.nullcontext(), alone())
    workers.leave()


if __name__ == "__main__":
    main()
