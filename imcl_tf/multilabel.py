"""What every method shares: a CNN f_w, classifiers theta, and their training.

A method is a subclass of `MultiLabelModel` that says its loss in `loss_terms`;
`train_step` only differentiates it.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from imcl_tf import losses

# The columns of metrics.csv; "loss" is what is minimised.
TERMS = ("loss", "logistic_loss", "label_smoothness", "feature_smoothness")


class Batch(NamedTuple):
    """A minibatch.

    Attributes:
      inputs: [B, H, W, 3] uint8 or float images in [0, 255], or [B, d] float
        features.
      labels: [B, C] int8 in {-1, 0, +1}, 0 = unobserved.
      image_index: [B] int32, number of the image in the training set, -1 where
        it is not a training image.
    """

    inputs: tf.Tensor
    labels: tf.Tensor
    image_index: tf.Tensor

    @classmethod
    def unpack(cls, data) -> Batch:
        """From (inputs, labels); inputs may be a dict with `image_index`."""
        inputs, labels = data[:2]
        if isinstance(inputs, dict):
            return cls(inputs["inputs"], labels, inputs["image_index"])
        unknown = tf.fill([tf.shape(labels)[0]], -1)
        return cls(inputs, labels, unknown)


@keras.saving.register_keras_serializable("imcl_tf")
class MultiLabelModel(keras.Model):
    """Logistic regression of C labels on a CNN feature, by eq. (2) alone.

    Args:
      backbone: layer or model, images -> features [B, d]; None where the
        inputs are the features.
      num_labels: C.
      fixed_features: True = `fit` and `evaluate` take features [B, d] in place
        of images and w stays as it is; calling the model still takes images.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if `num_labels` is not positive.
    """

    def __init__(
        self, backbone, num_labels: int, fixed_features: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        if num_labels < 1:
            raise ValueError(f"num_labels must be >= 1, got {num_labels}")
        self.backbone = (
            keras.layers.Identity() if backbone is None else backbone
        )
        self.num_labels = int(num_labels)
        self.fixed_features = bool(fixed_features)
        # float32 logits: under mixed precision p would saturate.
        self.classifier = keras.layers.Dense(
            num_labels, name="classifier", dtype="float32"
        )
        self.backbone_optimizer = None
        self._term_means = [keras.metrics.Mean(name) for name in TERMS]

    def build(self, input_shape):
        shape = input_shape
        if isinstance(input_shape, dict):
            shape = input_shape["inputs"]
        if not self.backbone.built:
            self.backbone.build(shape)
        self.classifier.build(self.backbone.compute_output_shape(shape))
        self.built = True

    def call(self, inputs, training=None):
        """Returns logits [B, C] float32 of images [B, H, W, 3]."""
        if isinstance(inputs, dict):
            inputs = inputs["inputs"]
        return self.classifier(self.backbone(inputs, training=training))

    def forward(self, inputs, training: bool):
        """Returns features [B, d] and logits [B, C], both float32."""
        if not self.fixed_features:
            if not self.built:  # `fit` never calls the model itself
                self.build(inputs.shape)
            inputs = self.backbone(inputs, training=training)
        features = tf.cast(inputs, tf.float32)
        return features, self.classifier(features)

    def loss_terms(self, features, logits, batch: Batch) -> dict:
        """The loss of a minibatch and its parts, scalars named as `TERMS`.

        Here eq. (2), averaged over the observed labels of the minibatch.
        """
        del features
        loss = mean_over_observed(
            losses.cross_entropy(batch.labels, logits), batch.labels
        )
        return {"loss": loss, "logistic_loss": loss}

    @tf.function(autograph=False, reduce_retracing=True)
    def evaluation_step(self, batch: Batch):
        """Returns logits [B, C] and the loss terms, outside training."""
        features, logits = self.forward(batch.inputs, training=False)
        return logits, self.loss_terms(features, logits, batch)

    def train_step(self, data):
        batch = Batch.unpack(data)
        with tf.GradientTape() as tape:
            features, logits = self.forward(batch.inputs, training=True)
            terms = self.loss_terms(features, logits, batch)
        self.minimize(tape, terms["loss"], self.variable_groups())
        return self.track(terms)

    def test_step(self, data):
        return self.track(self.evaluation_step(Batch.unpack(data))[1])

    def minimize(self, tape: tf.GradientTape, loss: tf.Tensor, groups: list):
        """One step of each optimizer of `groups` on its variables."""
        gradients = tape.gradient(loss, [variables for _, variables in groups])
        for (optimizer, variables), gradient in zip(
            groups, gradients, strict=True
        ):
            optimizer.apply(gradient, variables)

    def variable_groups(self) -> list:
        """Returns [(optimizer, trainable variables)], each variable once."""
        theta = self.classifier.trainable_variables
        w = [] if self.fixed_features else self.backbone.trainable_variables
        if self.backbone_optimizer is None:
            return [(self.optimizer, theta + w)]
        return [(self.optimizer, theta)] + (
            [(self.backbone_optimizer, w)] if w else []
        )

    @property
    def optimizers(self) -> list:
        """Every optimizer in use."""
        return [optimizer for optimizer, _ in self.variable_groups()]

    def compile(self, optimizer="rmsprop", backbone_optimizer=None, **kwargs):
        """Sets the optimizers.

        Args:
          optimizer: of theta, and of w where `backbone_optimizer` is None.
          backbone_optimizer: of w.
          **kwargs: of `keras.Model.compile`; the loss is the model's own.
        """
        # XLA has no sparse product, which A needs, and no ragged labels.
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)
        self.backbone_optimizer = _optimizer(backbone_optimizer)

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in self._optimizer_names()
            if getattr(self, name) is not None
        }

    def compile_from_config(self, config):
        self.compile(
            **{
                name: keras.saving.deserialize_keras_object(value)
                for name, value in config.items()
            }
        )
        for optimizer, variables in self.variable_groups():
            optimizer.build(variables)

    def _optimizer_names(self):
        return ("optimizer", "backbone_optimizer")

    def track(self, terms: dict) -> dict:
        """Adds `terms` to the running means of the epoch and returns these."""
        for mean in self._term_means:
            mean.update_state(terms.get(mean.name, 0.0))
        return {mean.name: mean.result() for mean in self._term_means}

    @property
    def metrics(self):
        return self._term_means

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_labels": self.num_labels,
            "fixed_features": self.fixed_features,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("backbone", "label_graph"):
            if name in config:
                config[name] = keras.saving.deserialize_keras_object(
                    config[name]
                )
        return cls(**config)


def mean_over_observed(per_image, labels):
    """Sum of `per_image` [B] divided by the observed entries of the batch."""
    observed = tf.math.count_nonzero(labels, dtype=tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(per_image), observed)


def _optimizer(identifier):
    return None if identifier is None else keras.optimizers.get(identifier)
