"""LSEP: a smooth ranking loss over pairs of observed labels."""

from __future__ import annotations

import tensorflow as tf

from imcl_tf.methods.base import MultiLabelModel, register_method
from imcl_tf.methods.batches import Batch


def log_sum_exp_pairwise(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """log(1 + sum_{v in N} sum_{u in P} exp(z_v - z_u)) of each image.

    The double sum is a product of two sums, so it costs C terms, not C^2.

    Args:
      labels: [B, C] int8 in {-1, 0, +1}; P is where +1, N where -1.
      scores: [B, C] float32, z.

    Returns:
      [B] float32 >= 0, 0 for an image without an observed pair.
    """

    def log_sum_exp(values, where):
        # Finite also where no label is: -inf would make the gradient NaN.
        return tf.reduce_logsumexp(tf.where(where, values, -1e9), 1)

    of_pairs = log_sum_exp(scores, labels < 0) + log_sum_exp(
        -scores, labels > 0
    )
    return tf.nn.softplus(of_pairs)


@register_method("lsep")
class LSEP(MultiLabelModel):
    """Log-sum-exp pairwise ranking over observed labels.

    Li, Song, Luo, "Improving Pairwise Ranking for Multi-label Image
    Classification", CVPR 2017, eq. (4). All pairs count, where the paper
    samples 1,000 of them; its second part, which decides how many labels to
    return, is left out: ranking needs none.
    """

    TERMS = ("loss",)

    def loss_terms(self, features: tf.Tensor, batch: Batch) -> dict:
        loss = log_sum_exp_pairwise(batch.labels, self.scores(features))
        return {"loss": tf.reduce_mean(loss)}
