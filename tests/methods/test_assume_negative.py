"""`assume_negative` against cross-entropy written out."""

import numpy as np
import pytest
import tensorflow as tf

from imcl_tf.methods.assume_negative import AssumeNegative
from tests.methods.common import batch_of, build, problem


def test_loss_takes_unobserved_as_absent():
    features, labels = problem()
    model = build(AssumeNegative)
    z = model.scores(tf.constant(features)).numpy().astype(float)
    p = 1 / (1 + np.exp(-z))
    entropy = -np.where(labels == 1, np.log(p), np.log(1 - p))
    terms = model.loss_terms(tf.constant(features), batch_of(features, labels))
    assert float(terms["loss"]) == pytest.approx(entropy.mean(), rel=1e-5)
