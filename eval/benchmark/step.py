"""Training steps: IMCL's and those of all methods, against logistic's."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import cast

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from eval.benchmark.graph import skewed_labels
from eval.benchmark.measure import (
    BATCH,
    DICTIONARY,
    FEATURES,
    LABELS,
    Figure,
    call,
    called,
    print_ratios,
    printed,
)
from imcl_tf.backbones.make import backbone
from imcl_tf.backbones.statistics import freeze_batch_statistics
from imcl_tf.data.pipeline import prefetched, with_labels
from imcl_tf.methods import method as method_named
from imcl_tf.methods.base import METHODS
from imcl_tf.methods.batches import TrainingData
from imcl_tf.methods.dictionary import Dictionary
from imcl_tf.ops.labels import LabelTable
from imcl_tf.settings import DEFAULT_METHOD

Timed = Callable[[], float]  # does something and returns its seconds
_REFRESH = 10  # images in each step, as by default


def step(scale: float, repeats: int) -> list[Figure]:
    """IMCL's step and what its dictionary takes."""
    batch_size, size = max(int(BATCH * scale), 2), int(DICTIONARY * scale)
    size = max(size, batch_size)
    ratios = _ratios(time_steps, batch_size, size, repeats)
    large = call(take_step, batch_size, 5 * size)
    return [
        *(
            Figure(f"ResNet-101, {what}", ratio, "x", bar)
            for (what, ratio), bar in zip(
                ratios.items(), (1.05, 1.25), strict=True
            )
        ),
        Figure(
            f"peak memory, dictionary of {5 * size:,}", large.peak / 1e9,
            "GB", 24,
        ),
        called("fixed features, minibatch", 1.5, time_fixed, 0, 5 * repeats),
        called(
            f"fixed features, dictionary of {size:,}",
            4, time_fixed, size, 5 * repeats,
        ),
        called(
            f"memory of a dictionary of {size:,} to float32",
            0.6, weigh_dictionary, size,
        ),
    ]  # fmt: skip


def methods(scale: float, repeats: int) -> list[Figure]:
    """`train_step` of each method against logistic's."""
    ratios = _ratios(time_methods, max(int(BATCH * scale), 2), repeats)
    return [
        Figure(
            f"step of {name}", ratio, "x", None if name == "cnn_rnn" else 1.3
        )
        for name, ratio in ratios.items()
    ]


def variants(scale: float, repeats: int) -> list[Figure]:
    """Logistic's step in half precision and by XLA against the plain one."""
    batch_size = max(int(BATCH * scale), 2)
    cnns = ("small_cnn", "resnet101") if scale == 1 else ("small_cnn",)
    return [
        Figure(f"{cnn}, {variant}", ratio, "x")
        for cnn in cnns
        for variant, ratio in _variants(cnn, batch_size, repeats).items()
    ]


def _variants(cnn, batch_size, repeats) -> dict[str, float]:
    def seconds(policy, jit) -> float:
        run = call(time_variant, cnn, policy, jit, batch_size, repeats)
        return printed(run)

    plain = seconds("float32", False)
    return {
        "bfloat16": seconds("mixed_bfloat16", False) / plain,
        "XLA": seconds("float32", True) / plain,
        "bfloat16 and XLA": seconds("mixed_bfloat16", True) / plain,
    }


def time_variant(
    cnn: str, policy: str, jit: bool, batch_size: int, repeats: int
):
    """Prints the median seconds of logistic's step."""
    keras.mixed_precision.set_global_policy(policy)
    problem = Problem(batch_size, cnn)
    model = problem.model("logistic")
    model.compile(keras.optimizers.RMSprop(1e-6), jit_compile=jit)
    step = problem.step_of(model, problem.images)
    print(json.dumps(median(step, repeats)))


def _ratios(function: Callable, *arguments) -> dict[str, float]:
    return printed(call(function, *arguments))


def step_of(
    model: keras.Model,
    inputs: np.ndarray,
    image_index: np.ndarray,
    labels: scipy.sparse.csr_array,
) -> Timed:
    """A function that takes a training step and returns its seconds.

    Args:
      model: see `make_model`; it has taken a step, too.
      inputs: [B, ...] images or features.
      image_index: [B] int32, rows of labels.
      labels: [N, C] int8.
    """
    train = tf.function(model.train_step, autograph=False)
    named = {
        "inputs": tf.constant(inputs),
        "image_index": tf.constant(image_index),
    }
    rows = LabelTable(labels).rows(image_index)

    def step() -> float:
        start = time.perf_counter()
        train((named, rows))["loss"].numpy()
        return time.perf_counter() - start

    step()
    return step


def median(timed: Timed, repeats: int) -> float:
    """The median seconds of what returns its seconds."""
    return statistics.median(timed() for _ in range(repeats))


class Problem:
    """Data of Open Images' size, random, and a CNN.

    Two steps of a ResNet differ by chance more than two methods do after the
    features. So that part is timed by itself, in pairs with logistic's, and
    the difference added to logistic's whole step.
    """

    def __init__(self, batch_size: int, cnn: str = "resnet101"):
        rng = np.random.default_rng(0)
        self.backbone = backbone(cnn)
        freeze_batch_statistics(self.backbone)
        self.num_features = self.backbone.output_shape[-1]
        self.labels = skewed_labels(DICTIONARY / 3.6e6)
        index = rng.permutation(self.labels.shape[0])[:batch_size]
        self.index = index.astype(np.int32)
        images = rng.integers(
            0, 256, (batch_size, *self.backbone.input_shape[1:])
        )
        self.images = images.astype(np.uint8)
        self.features = rng.random((batch_size, self.num_features), np.float32)

    def model(self, name: str, size: int = 0) -> keras.Model:
        model = make_model(name, self.backbone, self.labels)
        if size:
            images = np.zeros((size, *self.images.shape[1:]), np.uint8)
            add_dictionary(model, images, self.labels)
        return model

    def step_of(self, model: keras.Model, inputs: np.ndarray) -> Timed:
        """See `step_of`."""
        return step_of(model, inputs, self.index, self.labels)

    def seconds(self, repeats: int) -> float:
        """Seconds of logistic's whole step."""
        step = self.step_of(self.model("logistic"), self.images)
        return median(step, repeats)

    def refresh_seconds(self, repeats: int) -> float:
        """Seconds of a step's part of the refresh of IMCL's dictionary."""
        turn = np.arange(_REFRESH)
        model = self.model(DEFAULT_METHOD, len(turn))

        def refresh() -> float:
            start = time.perf_counter()
            model.refresh_dictionary(turn)
            model.dictionary.features[0, 0].numpy()
            return time.perf_counter() - start

        refresh()
        return median(refresh, repeats)

    def more_seconds(self, name: str, repeats: int, size: int = 0) -> float:
        """Seconds of a method's step beyond those of logistic's, CNN aside."""
        steps = []
        for method, entries in ((name, size), ("logistic", 0)):
            model = model_of_features(
                method, self.num_features, self.labels, entries
            )
            steps.append(self.step_of(model, self.features))
        own, logistic = steps
        return statistics.median(own() - logistic() for _ in range(repeats))


class Labels:
    """Training data of which labels alone are known.

    Args:
      labels: [N, C] int8 csr_array.
      input_shape: of an image or its features.
    """

    numbered, seed, classes = True, 0, np.zeros(0, np.int32)

    def __init__(
        self, labels: scipy.sparse.csr_array, input_shape: tuple[int, ...]
    ):
        self.labels = self.dataset = labels
        self.input_shape = input_shape
        self.label_names = tuple(map(str, range(labels.shape[1])))


def make_model(
    name: str,
    cnn: keras.Model | None,
    labels: scipy.sparse.csr_array,
    **options,
) -> keras.Model:
    """A compiled method prepared for `labels`, without a dictionary."""
    if name == DEFAULT_METHOD:
        options["dictionary_size"] = 0
    model = method_named(name)(cnn, LABELS, **options)
    shape = tuple(cnn.input_shape[1:]) if cnn else (FEATURES,)
    model.prepare(cast(TrainingData, Labels(labels, shape)))
    model.build((None, *shape))
    model.compile(keras.optimizers.RMSprop(1e-6, rho=0.9, momentum=0.9))
    return model


def add_dictionary(
    model: keras.Model, inputs: np.ndarray, labels: scipy.sparse.csr_array
):
    """Adds a dictionary of the first images, with random features and atoms."""
    numbers = np.arange(len(inputs))
    images = np.arange(max(len(inputs), labels.shape[0]))
    table = LabelTable(labels[images % labels.shape[0]])
    num_features = model.classifier.kernel.shape[0]
    model.dictionary = Dictionary(numbers, table, num_features, inputs)
    model.dictionary.is_filled.assign(True)
    for stored in (model.dictionary.features, model.dictionary.label_atoms):
        stored.assign(
            tf.random.stateless_uniform(stored.shape, [0, 1], dtype=tf.float16)
        )


def model_of_features(
    name: str, num_features: int, labels: scipy.sparse.csr_array, size: int
) -> keras.Model:
    """A compiled method on features [B, d] that have a gradient.

    Args:
      name: of the method.
      num_features: d.
      labels: [N, C] int8.
      size: M, of a dictionary; 0 = without.
    """
    cnn = keras.Sequential(  # next to none
        [keras.Input((num_features,)), keras.layers.LayerNormalization()]
    )
    model = make_model(name, cnn, labels)
    if size:  # their images are for a refresh alone
        add_dictionary(model, np.zeros((size, 1), np.float32), labels)
    return model


def time_steps(
    batch_size: int, size: int, repeats: int, cnn: str = "resnet101"
):
    """Prints seconds of IMCL's step over those of logistic's."""
    problem = Problem(batch_size, cnn)
    seconds = problem.seconds(repeats)
    more = problem.more_seconds
    minibatch = more(DEFAULT_METHOD, 5 * repeats)
    dictionary = more(DEFAULT_METHOD, 5 * repeats, size)
    dictionary += problem.refresh_seconds(5 * repeats)
    print(
        json.dumps(
            {
                "minibatch": 1 + minibatch / seconds,
                f"dictionary of {size:,}": 1 + dictionary / seconds,
            }
        )
    )


def take_step(batch_size: int, size: int, cnn: str = "resnet101"):
    """Two steps of IMCL with a dictionary, and a turn of its refresh."""
    problem = Problem(batch_size, cnn)
    model = problem.model(DEFAULT_METHOD, size)
    step = problem.step_of(model, problem.images)
    model.refresh_dictionary(np.arange(min(_REFRESH, size)))
    step()


def time_fixed(size: int, repeats: int, steps: int = 10):
    """Prints seconds of IMCL's `fit` on fixed features over logistic's."""
    rng = np.random.default_rng(0)
    labels = skewed_labels(DICTIONARY / 3.6e6)
    index = np.arange(BATCH * steps, dtype=np.int32) % labels.shape[0]
    features = rng.random((len(index), FEATURES), np.float32)
    batches = prefetched(
        with_labels(
            tf.data.Dataset.from_tensor_slices((index, features)).batch(BATCH),
            LabelTable(labels),
        )
    )

    def epoch(name):
        model = make_model(name, None, labels, fixed_features=True)
        if name == DEFAULT_METHOD and size:
            stored = rng.random((size, FEATURES), np.float32)
            add_dictionary(model, stored, labels)
        return lambda: model.fit(batches, shuffle=False, verbose=0).history

    print_ratios(epoch(DEFAULT_METHOD), epoch("logistic"), repeats)


def weigh_dictionary(size: int):
    """Prints the bytes of stored features and atoms over those in float32."""
    labels = skewed_labels(DICTIONARY / 3.6e6)
    model = make_model(DEFAULT_METHOD, None, labels, fixed_features=True)
    add_dictionary(model, np.zeros((size, 1), np.float32), labels)
    stored = model.dictionary.features, model.dictionary.label_atoms
    taken = sum(variable.numpy().nbytes for variable in stored)
    print(json.dumps([taken / (4 * size * (FEATURES + LABELS))]))


def time_methods(batch_size: int, repeats: int, cnn: str = "resnet101"):
    """Prints each method's seconds per step over those of logistic."""
    problem = Problem(batch_size, cnn)
    seconds = problem.seconds(repeats)
    more = {name: problem.more_seconds(name, 5 * repeats) for name in METHODS}
    print(json.dumps({name: 1 + x / seconds for name, x in more.items()}))
