"""Training steps of all methods."""

from __future__ import annotations

import json
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import imcl_tf.baselines  # noqa: F401, registers them
from eval.benchmark.graph import skewed_labels
from eval.benchmark.measure import DICTIONARY, LABELS, Figure, call
from imcl_tf.backbones import freeze_batch_statistics, make_backbone
from imcl_tf.dictionary import Dictionary
from imcl_tf.label_graph import LabelGraph
from imcl_tf.labels import LabelTable
from imcl_tf.multilabel import METHODS


def methods(scale: float, repeats: int) -> list[Figure]:
    """`train_step` of each method against logistic's."""
    run = call(time_methods, max(int(32 * scale), 2), repeats)
    return [
        Figure(
            f"step of {name}", ratio, "x", None if name == "cnn_rnn" else 1.3
        )
        for name, ratio in json.loads(run.output.splitlines()[-1]).items()
    ]


def time_methods(batch_size: int, repeats: int, cnn: str = "resnet101"):
    """Prints each method's seconds per step over those of logistic.

    Steps differ in what comes after the features alone, by less than two
    steps of a ResNet differ by chance. So that part is timed by itself, in
    pairs with logistic's, and the difference added to logistic's whole step.
    """
    rng = np.random.default_rng(0)
    backbone = make_backbone(cnn)
    freeze_batch_statistics(backbone.model)
    labels = skewed_labels(DICTIONARY / 3.6e6)
    index = rng.permutation(labels.shape[0])[:batch_size].astype(np.int32)
    size = backbone.image_size
    images = rng.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8)
    num_features = backbone.model.output_shape[-1]
    features = rng.random((batch_size, num_features), np.float32)

    def step(name, inputs, cnn, dictionary=0):
        data = (
            {"inputs": tf.constant(inputs), "image_index": tf.constant(index)},
            LabelTable(labels).rows(index),
        )
        return _step(METHODS[name], cnn, labels, data, dictionary)

    whole = step("logistic", images, backbone.model)
    seconds = statistics.median(whole() for _ in range(repeats))
    del whole
    head = step("logistic", features, _trainable(num_features))
    ratios = {}
    for name in METHODS:
        for dictionary in (0, DICTIONARY) if name == "imcl" else (0,):
            own = step(name, features, _trainable(num_features), dictionary)
            more = statistics.median(own() - head() for _ in range(5 * repeats))
            within = f", dictionary of {dictionary:,}" if dictionary else ""
            ratios[name + within] = 1 + more / seconds
    print(json.dumps(ratios))


def _trainable(num_features: int) -> keras.Model:
    """A next to empty CNN: the features get a gradient, as they have one."""
    return keras.Sequential(
        [keras.Input((num_features,)), keras.layers.LayerNormalization()]
    )


def _step(cls, backbone, labels, data, dictionary: int = 0):
    """A function that takes a training step and returns its seconds."""
    options = {}
    if cls is METHODS["imcl"]:
        options["label_graph"] = LabelGraph.from_cooccurrence(labels, 50)
    model = cls(backbone, LABELS, **options)
    model.build((None, *data[0]["inputs"].shape[1:]))
    model.adapt(labels, tuple(map(str, range(LABELS))))
    if dictionary:
        # A step takes its stored features; images are for a refresh alone.
        model.dictionary = Dictionary(
            np.arange(dictionary), np.zeros((dictionary, 1), np.float32),
            LabelTable(labels), model.classifier.kernel.shape[0],
        )  # fmt: skip
        for stored in (model.dictionary.features, model.dictionary.label_atoms):
            stored.assign(tf.random.stateless_uniform(stored.shape, [0, 1]))
    model.compile(keras.optimizers.RMSprop(1e-6, rho=0.9, momentum=0.9))
    train = tf.function(model.train_step, autograph=False)

    def step() -> float:
        start = time.perf_counter()
        train(data)["loss"].numpy()
        return time.perf_counter() - start

    step()
    return step
