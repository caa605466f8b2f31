"""Workers of which the second fails while the first waits for it."""

import json
import os
import time


def one_fails():
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    if index == 1:
        raise ValueError("no such device")
    time.sleep(600)


def tell(number):
    """Prints what `eval.loopback` has set for one worker."""
    print("something else")
    print(json.dumps([number, "TF_CONFIG" in os.environ, _threads(), _cores()]))


def _threads():
    return os.environ["TF_NUM_INTRAOP_THREADS"]


def _cores():
    return len(os.sched_getaffinity(0))
