"""Large loss: Assume Negative without its least believable negatives."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.assume_negative import entropy_assuming_negative
from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch, TrainingData
from imcl_tf.methods.pseudo_labels import fill_unobserved
from imcl_tf.settings import METHOD_OPTIONS


def largest(
    values: tf.Tensor, candidates: tf.Tensor, share: tf.Tensor
) -> tf.Tensor:
    """Marks the largest of the candidates of a minibatch.

    Args:
      values: [B, C] float32 >= 0.
      candidates: [B, C] bool.
      share: [] float64 >= 0, of the candidates; all from 1 on.

    Returns:
      [B, C] bool, true for exactly ceil(share * candidates) of them. Among
      equal values the first in the order of images, then labels.
    """
    count = tf.cast(tf.math.count_nonzero(candidates), tf.float64)
    # A product that is whole but for rounding must not become one more.
    number = tf.math.ceil(tf.minimum(share, 1.0) * count - 1e-6)
    values = tf.reshape(tf.where(candidates, values, -1.0), [-1])
    found = tf.math.top_k(values, tf.cast(number, tf.int32)).indices
    marks = tf.scatter_nd(
        found[:, tf.newaxis],
        tf.ones_like(found, tf.float32),
        tf.shape(values),
    )
    return tf.reshape(marks > 0, tf.shape(candidates))


@register_method("large_loss")
class LargeLoss(MultiLabelModel):
    """AN that rejects or corrects unobserved labels of large loss.

    Kim, Kim, Akata, Lee, "Large Loss Matters in Weakly Supervised Multi-Label
    Classification", CVPR 2022, sec. 3. Among the unobserved labels of a
    minibatch those of largest loss are ignored (`reject`, LL-R), or count as
    positive in this step (`correct_temporary`, LL-Ct), or from now on
    (`correct_permanent`, LL-Cp). Their share is epoch * Delta_rel percent for
    the first two, Delta_rel percent for the third, and 0 in the first epoch
    for all. The default Delta_rel is the authors' of LL-R for COCO and
    NUS-WIDE; of LL-Ct and LL-Cp theirs is 0.2 there, and with BoostLU 0.5,
    0.2 and 0.1.

    Differences: the share is of the unobserved labels, rounded up, as in the
    paper; the released code takes it of all labels. A label
    that is flipped for good is no longer unobserved. Observed negatives count,
    and stay.
    """

    TERMS = ("loss",)
    OPTIONS = METHOD_OPTIONS["large_loss"]

    def prepare(self, data: TrainingData):
        super().prepare(data)
        if self.large_loss == "correct_permanent":
            self.make_pseudo_labels(data)

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        before = self.pseudo_labels_of(batch)
        labels = fill_unobserved(batch.labels, before)
        logits = self.scores(features)
        entropy = entropy_assuming_negative(labels, logits)
        large = largest(entropy, labels == 0, self._share())
        if self.large_loss == "reject":
            entropy = tf.where(large, 0.0, entropy)
        else:
            labels = tf.where(large, tf.ones_like(labels), labels)
            entropy = entropy_assuming_negative(labels, logits)
        if self.pseudo_labels is not None:
            # A minibatch that is not finite flips nothing: no step is made.
            is_finite = tf.reduce_all(tf.math.is_finite(entropy))
            flipped = tf.where(is_finite & (batch.labels == 0), labels, before)
            self.pseudo_labels.update(batch.image_index, flipped)
        return {"loss": tf.reduce_mean(entropy)}

    def _share(self):
        """Share of the unobserved labels, [] float64."""
        epochs = tf.convert_to_tensor(self.epoch)
        if self.large_loss == "correct_permanent":
            epochs = tf.minimum(epochs, 1)
        return tf.cast(epochs, tf.float64) * self.large_loss_delta / 100
