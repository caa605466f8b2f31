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

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> its module, below `imcl_tf`.
_HOMES = {
    "joint_nonnegative_omp": "ops.similarity",
    "Similarities": "ops.similarity",
    "check_labels": "ops.labels",
    "hide_labels": "ops.labels",
    "impute": "ops.labels",
    "cross_entropy": "ops.losses",
    "feature_smoothness": "ops.losses",
    "label_smoothness": "ops.losses",
    "average_precision": "ops.metrics",
    "AveragePrecision": "ops.metrics",
    "backbone": "backbones.make",
    "freeze_batch_statistics": "backbones.statistics",
    "picture_format": "backbones.pictures",
    "load_dataset": "data.datasets",
    "Batches": "data.pipeline",
    "MultiLabelDataset": "data.multi_label_dataset",
    "Split": "data.pipeline",
    "fixed_features": "data.features",
    "Option": "options",
    "method": "methods",
    "Batch": "methods.batches",
    "MultiLabelModel": "methods.base",
    "register_method": "methods.base",
    "IMCL": "methods.imcl",
    "LabelGraph": "methods.label_graph",
    "class_balanced_subset": "methods.dictionary",
    "Dictionary": "methods.dictionary",
    "Mixing": "methods.neighbors",
    "PseudoLabels": "methods.pseudo_labels",
    "TrainingNeighbors": "methods.neighbors",
    "auto": "training.auto",
    "run": "training.run",
    "evaluate": "training.evaluation",
    "export": "training.export",
    "export_as": "training.conversion",
    "predict_features": "training.prediction",
    "predict_images": "training.prediction",
    "BestCheckpoint": "training.checkpoints",
    "Evaluation": "training.callbacks",
    "RateDecay": "training.callbacks",
    "RateDrop": "training.callbacks",
}
_PACKAGES = ("methods", "presets")
_PROGRAMS = "imcl-train", "imcl-predict"  # console scripts, see setup.py
_PROGRAM_PACKAGES = "imcl_tf.", "data_prep.", "eval."
__all__ = [*_HOMES, *_PACKAGES]

if TYPE_CHECKING:
    from imcl_tf import methods as methods
    from imcl_tf import presets as presets
    from imcl_tf.backbones.make import backbone as backbone
    from imcl_tf.backbones.pictures import picture_format as picture_format
    from imcl_tf.backbones.statistics import (
        freeze_batch_statistics as freeze_batch_statistics,
    )
    from imcl_tf.data.datasets import load_dataset as load_dataset
    from imcl_tf.data.features import fixed_features as fixed_features
    from imcl_tf.data.multi_label_dataset import (
        MultiLabelDataset as MultiLabelDataset,
    )
    from imcl_tf.data.pipeline import Batches as Batches
    from imcl_tf.data.pipeline import Split as Split
    from imcl_tf.methods import method as method
    from imcl_tf.methods.base import Batch as Batch
    from imcl_tf.methods.base import MultiLabelModel as MultiLabelModel
    from imcl_tf.methods.base import register_method as register_method
    from imcl_tf.methods.dictionary import Dictionary as Dictionary
    from imcl_tf.methods.dictionary import (
        class_balanced_subset as class_balanced_subset,
    )
    from imcl_tf.methods.imcl import IMCL as IMCL
    from imcl_tf.methods.label_graph import LabelGraph as LabelGraph
    from imcl_tf.methods.neighbors import Mixing as Mixing
    from imcl_tf.methods.neighbors import TrainingNeighbors as TrainingNeighbors
    from imcl_tf.methods.pseudo_labels import PseudoLabels as PseudoLabels
    from imcl_tf.ops.labels import check_labels as check_labels
    from imcl_tf.ops.labels import hide_labels as hide_labels
    from imcl_tf.ops.labels import impute as impute
    from imcl_tf.ops.losses import cross_entropy as cross_entropy
    from imcl_tf.ops.losses import feature_smoothness as feature_smoothness
    from imcl_tf.ops.losses import label_smoothness as label_smoothness
    from imcl_tf.ops.metrics import AveragePrecision as AveragePrecision
    from imcl_tf.ops.metrics import average_precision as average_precision
    from imcl_tf.ops.similarity import Similarities as Similarities
    from imcl_tf.ops.similarity import (
        joint_nonnegative_omp as joint_nonnegative_omp,
    )
    from imcl_tf.options import Option as Option
    from imcl_tf.training.auto import auto as auto
    from imcl_tf.training.callbacks import Evaluation as Evaluation
    from imcl_tf.training.callbacks import RateDecay as RateDecay
    from imcl_tf.training.callbacks import RateDrop as RateDrop
    from imcl_tf.training.checkpoints import BestCheckpoint as BestCheckpoint
    from imcl_tf.training.conversion import export_as as export_as
    from imcl_tf.training.evaluation import evaluate as evaluate
    from imcl_tf.training.export import export as export
    from imcl_tf.training.prediction import predict_features as predict_features
    from imcl_tf.training.prediction import predict_images as predict_images
    from imcl_tf.training.run import run as run


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module = importlib.import_module(f"imcl_tf.{_HOMES[name]}")
        value = getattr(module, name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"imcl_tf.{name}")
    else:
        raise AttributeError(f"module 'imcl_tf' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _starts_a_program() -> bool:
    """Whether this import is the start of a program of the project."""
    command = sys.orig_argv
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1].startswith(_PROGRAM_PACKAGES)
    return Path(sys.argv[0] if sys.argv else "").stem in _PROGRAMS


# `import imcl_tf` registers every method with Keras. A program answers --help
# and refuses wrong flags before it waits for TensorFlow.
if not _starts_a_program():
    importlib.import_module("imcl_tf.methods")
