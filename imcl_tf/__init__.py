"""Interactive multi-label CNN learning with partial labels in TensorFlow 2.

Huynh and Elhamifar, CVPR 2020. Symbols, as in the paper:

    N, B, C, d   images, minibatch size, labels, feature dimension
    f_i          `features`, CNN feature of image i, with parameters w
    theta        `classifier`, logistic regression of each label on f_i
    y_{j,i}      `label_targets`, observed label, else imputed (eq. 3)
    A            `label_graph`, fixed sparse support, learned weights
    c, c-bar     `label_weights`, `feature_weights`, image similarities
    lambda_y, lambda_f, k, k_a
                 `lambda_y`, `lambda_f`, `num_neighbors`, `graph_neighbors`
"""

import os

# Must precede TensorFlow: a machine without a GPU is not worth ten lines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from imcl_tf.label_graph import LabelGraph
from imcl_tf.metrics import AveragePrecision, average_precision
from imcl_tf.model import IMCL
from imcl_tf.similarity import Similarities, joint_nonnegative_omp

__all__ = [
    "IMCL",
    "AveragePrecision",
    "LabelGraph",
    "Similarities",
    "average_precision",
    "joint_nonnegative_omp",
]
__version__ = "0.1.0"
