"""CNN-RNN: an LSTM that names the labels of an image one after another."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch, TrainingData
from imcl_tf.methods.wsabie import truncated_svd
from imcl_tf.settings import METHOD_OPTIONS


def label_sequences(
    labels: tf.Tensor, frequency: tf.Tensor, length: int
) -> tf.Tensor:
    """The labels of each image, the most frequent first, then a stop.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}; those that are +1 make the sequence.
      frequency: [C] int32 >= 0; of two equal labels the lower number is first.
      length: T >= 1, what is longer is cut off.

    Returns:
      [B, T] int32, numbers in [0, C), and C = stop from the end on.
    """
    num_labels = labels.shape[1]
    keys = tf.where(labels > 0, frequency + 1, 0)
    keys, numbers = tf.math.top_k(keys, min(length, num_labels))
    numbers = tf.where(keys > 0, numbers, num_labels)
    missing = length - numbers.shape[1]
    return tf.pad(numbers, [[0, 0], [0, missing]], constant_values=num_labels)


def beam_search(
    next_labels: Callable,
    state: list,
    num_labels: int,
    beam: int,
    num_steps: int,
) -> tf.Tensor:
    """Best log probability of each label over the steps of a beam search.

    At each step, every live path is continued by every label that is not in
    it; the probability of a label is that of the path times that of the label
    after the path. The `beam` likeliest continuations live on. A label's
    result is its largest probability over all steps and live paths.

    Args:
      next_labels: (last labels [B, K] int32, C at the start; state) -> log
        probabilities [B, K, C] of the next label, new state.
      state: tensors [B, 1, ...] of the empty path.
      num_labels: C.
      beam: >= 1, number of live paths.
      num_steps: <= C, longest path.

    Returns:
      [B, C] float32 <= 0.
    """
    size = tf.shape(state[0])[0]
    last = tf.fill([size, 1], num_labels)
    live = tf.zeros([size, 1])
    used = tf.zeros([size, 1, num_labels], tf.bool)
    best = tf.fill([size, num_labels], -np.inf)
    width = 1
    for _ in range(num_steps):
        continued, state = next_labels(last, state)
        continued = tf.where(used, -np.inf, live[:, :, tf.newaxis] + continued)
        best = tf.maximum(best, tf.reduce_max(continued, 1))
        candidates = width * num_labels
        width = min(beam, candidates)
        live, chosen = tf.math.top_k(
            tf.reshape(continued, [size, candidates]), width
        )
        parent, last = chosen // num_labels, chosen % num_labels
        state, used = tf.nest.map_structure(
            lambda x, parent=parent: tf.gather(x, parent, batch_dims=1),
            (state, used),
        )
        # Not tf.one_hot: ONNX has none of truth values.
        used |= last[:, :, tf.newaxis] == tf.range(num_labels)
    return best


def logit_of(log_probability: tf.Tensor) -> tf.Tensor:
    """log p - log(1 - p) of log p <= 0, at most about 16."""
    log_probability = tf.minimum(log_probability, -1e-7)
    # 1 - p = 2 t / (1 + t): as exact as by expm1, which ONNX does not have.
    t = tf.tanh(-log_probability / 2)
    return log_probability - tf.math.log(2 * t / (1 + t))


@register_method("cnn_rnn")
class CNNRNN(MultiLabelModel):
    """Softmax over the next label, given the image and the labels before.

    Wang et al., "CNN-RNN: A Unified Framework for Multi-label Image
    Classification", CVPR 2016, fig. 4. An LSTM reads the embeddings of the
    labels so far, the most frequent label of the training set first. Its
    output and the feature, each projected, add up to a point of the embedding
    space; the scores of the next label, or of a stop, are the products of this
    point with the label embeddings. Minimises the cross-entropy of the labels
    of an image and the stop after them, summed over at most `cnn_rnn_length`
    steps and averaged over images. Unobserved labels count as absent.

    `scores` are the logits of what `beam_search` finds: a label's best
    probability over the beam's steps.

    Differs from the paper: the sum of the projections has no activation, the
    LSTM has its usual ones (tanh), scores have a bias, the stop's embedding
    also starts a sequence, the beam search runs for `cnn_rnn_length` steps,
    and there is no dropout. Thus the model can start from the logistic one:
    feature projection and label embedding are the best approximation of its
    kernel of this rank (exact if min(C, d) is not above it), the biases are
    its biases, the stop's score is 0, and the LSTM adds nothing yet. The first
    step then ranks as the logistic model.

    Attributes:
      frequency: [C] int32, images of the training set with each label.
    """

    TERMS = ("loss",)
    boostable = False
    OPTIONS = METHOD_OPTIONS["cnn_rnn"]

    def __init__(
        self, backbone: keras.layers.Layer | None, num_labels: int, **kwargs
    ):
        super().__init__(backbone, num_labels, **kwargs)
        self.lstm = keras.layers.LSTM(
            self.cnn_rnn_units, return_sequences=True, dtype="float32"
        )
        self.of_feature, self.of_lstm = (
            keras.layers.Dense(
                self.cnn_rnn_embedding,
                use_bias=False,
                kernel_initializer=initializer,
                dtype="float32",
            )
            for initializer in ("glorot_uniform", "zeros")
        )
        # The last row is the stop.
        self.embedding = self.add_weight(
            shape=(num_labels + 1, self.cnn_rnn_embedding),
            initializer="glorot_uniform",
            name="embedding",
            dtype="float32",
        )
        self.bias = self.add_weight(
            shape=(num_labels + 1,),
            initializer="zeros",
            name="bias",
            dtype="float32",
        )
        self.frequency = self.add_weight(
            shape=(num_labels,),
            initializer="zeros",
            name="frequency",
            dtype="int32",
            trainable=False,
        )

    def build_head(self, feature_shape: tuple):
        self.of_feature.build(feature_shape)
        self.of_lstm.build((None, self.cnn_rnn_units))
        self.lstm.build((None, None, self.cnn_rnn_embedding))

    def start_from(self, logistic: MultiLabelModel):
        kernel, bias = logistic.classifier.get_weights()
        rank = min(*kernel.shape, self.cnn_rnn_embedding)
        left, values, right = truncated_svd(kernel, rank)
        root = np.sqrt(values)
        projection = np.zeros(self.of_feature.kernel.shape, np.float32)
        projection[:, :rank] = left * root
        # Beyond the rank it stays random: were both 0, neither would learn.
        embedding = self.embedding.numpy()
        embedding[:-1, :rank] = right.T * root
        embedding[-1, :rank] = 0.0
        self.of_feature.set_weights([projection])
        self.embedding.assign(embedding)
        self.bias.assign(np.append(bias, np.float32(0)))

    def prepare(self, data: TrainingData):
        super().prepare(data)
        self.frequency.assign((data.labels > 0).sum(0))

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        targets = label_sequences(
            batch.labels, self.frequency, self.cnn_rnn_length
        )
        before = tf.pad(
            targets[:, :-1], [[0, 0], [1, 0]], constant_values=self.num_labels
        )
        outputs = self.lstm(tf.gather(self.embedding, before))
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
            targets, self._logits(outputs, features)
        )
        ended = tf.math.cumsum(
            tf.cast(targets == self.num_labels, tf.int32), 1, exclusive=True
        )
        entropy = tf.where(ended > 0, 0.0, entropy)
        return {"loss": tf.reduce_mean(tf.reduce_sum(entropy, 1))}

    def scores(self, features: tf.Tensor) -> tf.Tensor:
        empty = tf.zeros([tf.shape(features)[0], 1, self.cnn_rnn_units])

        def next_labels(last, state):
            outputs, state = self._step(last, state)
            logits = self._logits(outputs, features)
            return tf.nn.log_softmax(logits)[:, :, :-1], state

        return logit_of(
            beam_search(
                next_labels,
                [empty, empty],
                self.num_labels,
                self.cnn_rnn_beam,
                min(self.cnn_rnn_length, self.num_labels),
            )
        )

    def _step(self, last, state):
        """The LSTM's output [B, K, units] after labels [B, K], new state."""
        flat = [
            tf.reshape(x, [-1, x.shape[-1]])
            for x in (tf.gather(self.embedding, last), *state)
        ]
        outputs, state = self.lstm.cell(flat[0], flat[1:])
        outputs, *state = (
            tf.reshape(x, [-1, last.shape[1], x.shape[-1]])
            for x in (outputs, *state)
        )
        return outputs, state

    def _logits(self, outputs, features):
        """Logits [B, K, C + 1] of the next label; the last one is the stop.

        They follow the LSTM's outputs [B, K, units].
        """
        image = self.of_feature(features)[:, tf.newaxis]
        joint = self.of_lstm(outputs) + image
        return tf.tensordot(joint, self.embedding, [[2], [1]]) + self.bias
