"""IMCL and the methods that stand beside it, one file each.

The package is also a function, `imcl_tf.methods()`, that returns their names.
"""

import sys
import types

from imcl_tf.methods import (  # noqa: F401, registers them
    assume_negative,
    asymmetric,
    cnn_rnn,
    curriculum,
    entropy_maximisation,
    fast0tag,
    hill,
    imcl,
    large_loss,
    latent_noise,
    lsep,
    selective,
    smoothed_assume_negative,
    splc,
    weak_assume_negative,
    wsabie,
)
from imcl_tf.methods.base import METHODS, MultiLabelModel


def method(name: str) -> type[MultiLabelModel]:
    """Returns the class of a method.

    Args:
      name: one of `imcl_tf.methods()`.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> import imcl_tf
      >>> imcl_tf.method("imcl") is imcl_tf.IMCL
      True
    """
    if name not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}, got {name!r}"
        )
    return METHODS[name]


class _CallablePackage(types.ModuleType):
    """The package `imcl_tf.methods`, which can be called."""

    def __call__(self) -> tuple[str, ...]:
        """Returns the names of all registered methods."""
        return tuple(METHODS)


sys.modules[__name__].__class__ = _CallablePackage
