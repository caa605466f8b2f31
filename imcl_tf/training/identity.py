"""What a run's results depend on, and whether two runs are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import keras

from imcl_tf.backbones.make import source_files
from imcl_tf.data.cells import shown
from imcl_tf.data.features import architecture_digest
from imcl_tf.data.label_updates import files_digest
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.methods.base import MultiLabelModel, registered_name
from imcl_tf.options import check_all
from imcl_tf.settings import BUDGET, DATA_DIR

ELSE = "take another workdir, or remove this one"
# Flags that say where files lie, or what is written beside the results.
_WITHOUT_EFFECT = {
    "workdir", DATA_DIR.name, "features", BUDGET.name, "init_from",
    "checkpoint_every", "export",
}  # fmt: skip


class Identity(NamedTuple):
    """What a run's results depend on, apart from chance.

    Attributes:
      settings: option -> value, checked.
      files: option -> digest of the file that it names, and of the backbone.
      data: `MultiLabelDataset.digests`, of the labels that are observed.
    """

    settings: dict[str, Any]
    files: dict[str, str]
    data: dict[str, str]


def identity_of_run(
    data: MultiLabelDataset,
    backbone: keras.Model | None,
    cls: type[MultiLabelModel],
    given: dict[str, Any],
    own: dict[str, Any],
    settings: str,
    logistic: Path | None,
) -> Identity:
    """All that the results of a run depend on.

    Args:
      data: with the labels that are observed.
      backbone: of the run, None for data of features.
      cls: the method.
      given: options of the run, checked.
      own: options of the method that were given.
      settings: text of flags.cfg.
      logistic: file of the model that the run starts from, None = its own.

    Raises:
      ValueError: for an option of the method that is out of range.
    """
    options = check_all(cls.OPTIONS, own) | given
    # What the program made objects of.
    flags = dict(
        line.lstrip("-").partition("=")[::2] for line in settings.splitlines()
    )
    known = {*options, *(f"no{name}" for name in options)}
    options |= {name: text for name, text in flags.items() if name not in known}
    options = {
        name: value
        for name, value in options.items()
        if name not in _WITHOUT_EFFECT
    }
    options["method"] = registered_name(cls)
    files = {}
    if backbone is not None:
        files["backbone"] = architecture_digest(backbone)
    named = ("label_graph", "label_vectors", "backbone_weights")
    paths = {name: Path(str(options.get(name) or ".")) for name in named}
    if logistic is not None:
        paths["init_from"] = logistic
    for name, path in paths.items():
        if path.is_file():
            files[name] = files_digest([path])
    if sources := source_files(str(options.get("backbone", ""))):
        files["backbone_file"] = files_digest(sources)
    return Identity(options, files, data.digests())


def check_same(before: Identity, now: Identity, place: Path):
    """Checks that a run can continue the one that `place` holds.

    Raises:
      ValueError: naming the settings, files or data that differ.
    """
    changed = {
        name: (before.settings.get(name), now.settings.get(name))
        for name in {**before.settings, **now.settings}
        if before.settings.get(name) != now.settings.get(name)
    }
    if is_fewer(before, now):
        del changed["epochs"]  # it is trained further
    if "method" in changed:  # and with it all its options
        changed = {"method": changed["method"]}
    if changed:
        pairs = (
            shown(f"--{name}={value}".rstrip("="))
            for name, values in sorted(changed.items())[:5]
            for value in values
            if value is not None
        )
        why = ""
        if "epochs" in changed:
            why = (
                "; only more epochs can follow, and none with "
                "--rate_schedule=cosine"
            )
        raise ValueError(
            f"resume: {place} has other settings: {', '.join(pairs)}"
            f"{why}; {ELSE}"
        )
    for kind, what in (("files", "files"), ("data", "data")):
        names = _changes(getattr(before, kind), getattr(now, kind))
        if names:
            raise ValueError(
                f"resume: {place} began with other {what}: changed "
                f"since then: {', '.join(names)}; {ELSE}"
            )


def is_fewer(before: Identity, now: Identity) -> bool:
    """Whether a run was of fewer epochs, and can be trained further.

    A cosine has ended with its epochs.
    """
    epochs = before.settings.get("epochs")
    if now.settings.get("rate_schedule") == "cosine":
        return False
    return type(epochs) is int and epochs < now.settings["epochs"]


def _changes(before: dict, now: dict) -> list[str]:
    """Names whose digests differ; of the splits alone, if they do.

    Other splits change all that is listed by image after them.
    """
    names = [n for n in {**before, **now} if before.get(n) != now.get(n)]
    return next(([n] for n in ("label names", "splits") if n in names), names)
