"""Workers: processes that train one model, and the sums they exchange.

Each worker runs the same program on the same minibatches. It computes the CNN
features of its share of the images alone; with the features of all of them,
everything that comes after is the same on every worker. TensorFlow's
collectives carry what they exchange, one sum at a time, in the same order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator

import tensorflow as tf

# Ports of a Slurm job: a node may have workers of several jobs.
_FIRST_PORT, _PORTS = 12_000, 20_000
_MOST_TASKS = 1 << 10  # of a node


@dataclasses.dataclass(frozen=True)
class Workers:
    """Which of how many workers this process is.

    Attributes:
      index: 0, 1, ...; worker 0 is the one that writes.
      number: n >= 1.
    """

    index: int = 0
    number: int = 1

    def rows(self, values: tf.Tensor) -> tf.Tensor:
        """This worker's rows of [B, ...]: index, index + n, ..."""
        return values if self.number == 1 else values[self.index :: self.number]

    def own(self, values: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """This worker's rows of B, where `values` are not yet these alone."""
        if self.number == 1:
            return values
        values = tf.convert_to_tensor(values)
        # A share of several images is less than all of them.
        is_whole = tf.shape(values)[0] == size
        first = tf.where(is_whole, self.index, 0)
        rows = values[first :: tf.where(is_whole, self.number, 1)]
        return tf.ensure_shape(rows, [None, *values.shape[1:]])


OTHERS = (
    "the workers have other minibatches than each other: they must have the "
    "same data in the same order, with a seed where a tf.data.Dataset is "
    "shuffled, and shuffle=False for arrays"
)
NO_MINIBATCH = -1
ALONE = Workers()
_current = ALONE


def current() -> Workers:
    """The workers that `start` has started; else this process alone."""
    return _current


def start() -> Workers:
    """Joins the workers that TF_CONFIG or Slurm names, and waits for them.

    Must be called before TensorFlow computes anything.

    Returns:
      which one this process is.

    Raises:
      ValueError: if neither is there, TF_CONFIG is no cluster of workers, or
        Slurm's variables say too little.
      ConnectionError: if the workers do not come together within an hour, or
        another program is at the address of one.
    """
    global _current
    resolver = _resolver()
    addresses = resolver.cluster_spec().as_dict()[resolver.task_type]
    who = Workers(resolver.task_id, len(addresses))
    # The strategy starts TensorFlow's collectives. Nothing is made in its
    # scope, in which `fit` of Keras 3 fails.
    try:
        with _ended_by_signals():
            _strategy(resolver)
    except tf.errors.OpError as error:
        raise ConnectionError(
            f"strategy: worker {who.index} at {addresses[who.index]}, a port "
            "that nothing else may use, could not join worker 0 at "
            f"{addresses[0]}: {error.message}"
        ) from error
    _current = who
    return _current


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end this process at once, and are then as before.

    TensorFlow waits without looking at signals that Python handles, and leaves
    a handler of its own, which lets SIGTERM pass.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {
        number: signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM)
        if is_main
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@functools.cache
def _strategy(resolver):
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def _resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    if "TF_CONFIG" in os.environ:
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return _slurm()
    raise ValueError(
        "strategy: multi_worker needs the addresses of the workers, in the "
        "environment variable TF_CONFIG or from Slurm's srun"
    )


def _slurm():
    """Who is where, by the variables that srun sets for each task."""
    try:
        job = int(os.environ.get("SLURM_JOB_ID", 0))
        # For the addresses alone: it counts GPUs by nvidia-smi, which a
        # machine without any does not have, and not those of one task.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=_FIRST_PORT + job % _PORTS,
            gpus_per_node=_MOST_TASKS, gpus_per_task=1, auto_set_gpu=False,
        )  # fmt: skip
        resolver.cluster_spec()  # sets task_type and task_id
        if resolver.task_id is None:
            raise ValueError("SLURM_PROCID is none of its tasks")
    except (ValueError, LookupError, RuntimeError) as error:
        raise ValueError(
            "strategy: srun's variables SLURM_JOB_ID, SLURM_PROCID, "
            "SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST and "
            "SLURM_STEP_TASKS_PER_NODE do not say where each worker is: "
            f"{error}"
        ) from error
    _take_one_gpu()
    return resolver


def _take_one_gpu():
    """Each task takes another one of the GPUs that those of a node share."""
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        task = int(os.environ.get("SLURM_LOCALID", 0))
        tf.config.set_visible_devices(gpus[task % len(gpus)], "GPU")


def _check_tf_config(text: str):
    """Raises ValueError if TF_CONFIG does not say which worker this is."""
    try:
        config = json.loads(text)
        hosts, task = config["cluster"]["worker"], config["task"]
        known = (
            [*config["cluster"]] == ["worker"]
            and task["type"] == "worker"
            and isinstance(hosts, list)
            and len({*hosts}) == len(hosts)
            and all(map(_is_address, hosts))
            and str(task["index"]) in map(str, range(len(hosts)))
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        known = False
    if not known:
        raise ValueError(
            'TF_CONFIG must be like {"cluster": {"worker": ["host:port", ...]}'
            ', "task": {"type": "worker", "index": 0}}, all tasks workers, '
            "each at an address of its own, got "
            f"{text!r:.200}"
        )


def _is_address(text: str) -> bool:
    """Whether it is NAME:PORT, IPV4:PORT or [IPV6]:PORT."""
    found = re.fullmatch(r"(?:[\w.-]+|\[[\da-fA-F:.]+\]):([0-9]{1,5})", text)
    return found is not None and 0 < int(found[1]) < 1 << 16


def all_sum(values: tf.Tensor) -> tf.Tensor:
    """Sums tensors of one shape over the workers.

    Its gradient is the sum of theirs: each may have gone on with the sum in
    another way.

    Args:
      values: float32 or int64.
    """
    if _current.number == 1:
        return values

    @tf.custom_gradient
    def summed(x):
        return _reduced(x), _reduced

    return summed(values)


def sum_of_parts(values: tf.Tensor) -> tf.Tensor:
    """Sums tensors of one shape, with which all workers go on alike.

    Its gradient needs no exchange: that of this worker, n times, for each has
    1/n of the loss (`imcl_tf.methods.optimization`).

    Args:
      values: float32.
    """
    number = _current.number
    if number == 1:
        return values

    @tf.custom_gradient
    def summed(x):
        return _reduced(x), lambda gradient: number * gradient

    return summed(values)


def joined(own: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Joins the rows that each worker has of a minibatch.

    Args:
      own: [b, ...] float32, see `Workers.rows`; b may be 0.
      size: [] int32, B.

    Returns:
      [B, ...], the same on every worker; its gradient as of `sum_of_parts`.
    """
    number = _current.number
    if number == 1:
        return own
    most = -(-size // number)
    rest = own.shape[1:]
    spare = [[0, most - tf.shape(own)[0]], *[[0, 0]] * len(rest)]
    parts = gathered(tf.pad(own, spare))
    # Row j of worker r is row j n + r of the minibatch.
    rows = tf.transpose(parts, [1, 0, *range(2, len(rest) + 2)])
    return tf.reshape(rows, [most * number, *rest])[:size]


def gathered(values: tf.Tensor) -> tf.Tensor:
    """Gathers tensors [...] of one shape from all workers: [n, ...].

    Its gradient is as of `sum_of_parts`.

    Args:
      values: float32 or int64.
    """
    index, number = _current.index, _current.number
    others = [[index, number - 1 - index], *[[0, 0]] * values.shape.rank]
    return sum_of_parts(tf.pad(values[tf.newaxis], others))


def same_as_first(variables: list[tf.Variable]):
    """Gives variables on every worker the values of worker 0."""
    if _current.number == 1:
        return
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        exact = tf.float32 if value.dtype.is_floating else tf.int64
        own = tf.cast(value, exact)
        own = own if _current.index == 0 else tf.zeros_like(own)
        variable.assign(tf.cast(all_sum(own), value.dtype))


def require_same(value: str, complaint: str):
    """Raises ValueError on every worker if they have other texts.

    Args:
      value: the text of this worker.
      complaint: what is said of a worker that differs from worker 0.
    """
    if _current.number == 1:
        return
    digest = hashlib.sha256(value.encode()).digest()
    own = tf.constant(int.from_bytes(digest[:7]), tf.int64)
    digests = gathered(own).numpy()
    others = [i for i, one in enumerate(digests) if one != digests[0]]
    if others:
        raise ValueError(f"strategy: worker {others[0]} {complaint}")


def require_same_minibatch(number: tf.Tensor | int) -> tf.Operation | None:
    """Makes an operation that fails on every worker if they are apart.

    Args:
      number: [] int64, of this worker's minibatch; of no minibatch,
        `NO_MINIBATCH`.

    Returns:
      what the rest of a graph depends on; run already where there is no graph.

    Raises:
      tf.errors.InvalidArgumentError: with `OTHERS`, if the numbers differ.
    """
    numbers = gathered(tf.cast(number, tf.int64))
    return tf.debugging.Assert(tf.reduce_all(numbers == numbers[0]), [OTHERS])


def wait_for_all():
    """Returns when every worker has called this."""
    if _current.number == 1:
        return
    all_sum(tf.zeros([], tf.int64))


def leave():
    """Waits, at the end of a program, for workers that are behind.

    What a worker has sent may still be on its way when it ends, and would be
    lost. Nothing follows, so that a worker that has failed is no reason to.
    """
    with contextlib.suppress(tf.errors.OpError):
        wait_for_all()


def _reduced(values):
    """The sum of `values` over the workers.

    Sums of one size share a key: the token has all of them take place one
    after another, in the order in which they stand in the program.
    """
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    with tf.device("GPU:0" if on_gpu else "CPU:0"):
        total = tf.raw_ops.CollectiveReduceV2(
            input=tf.reshape(values, [-1]),
            group_size=_current.number,
            group_key=values.dtype.as_datatype_enum,
            instance_key=tf.size(values) + 1,
            ordering_token=[_token().handle],
            merge_op="Add",
            final_op="Id",
            communication_hint="nccl" if on_gpu else "ring",
            timeout_seconds=0,  # any other keeps a thread for each exchange
            max_subdivs_per_device=-1,
        )
    return tf.reshape(total, tf.shape(values))


@functools.cache
def _token() -> tf.Variable:
    with tf.init_scope():
        return tf.Variable(0.0, trainable=False)
