"""Trains methods as one of several workers, and compares with one process.

    python -m tests.methods.several_workers CASE...

A case is a name of `several_devices.CASES`. TF_CONFIG says which worker this
process is; all must be started.
"""

import sys

import tensorflow as tf

from imcl_tf.ops import workers
from tests.methods.several_devices import compare


def alone(function, *arguments):
    """What a function returns where this process is the only one."""
    together = workers.current()
    workers._current = workers.ALONE
    try:
        return function(*arguments)
    finally:
        workers._current = together


def main():
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    workers.start()
    for name in sys.argv[1:]:
        compare(name, alone)


if __name__ == "__main__":
    main()
