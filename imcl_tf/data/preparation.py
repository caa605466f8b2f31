"""What the programs that prepare records do and print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tensorflow_datasets as tfds

from imcl_tf.data import builders
from imcl_tf.data.cells import listed
from imcl_tf.data.duplicates import DUPLICATES
from imcl_tf.data.multi_label_dataset import never_present
from imcl_tf.files import fail


def run(
    argv: Sequence[str],
    make_builder: Callable[[], builders.MultiLabelBuilder],
    raw_dir: str | None,
    beam_runner: str = "",
    beam_options: Sequence[str] = (),
):
    """Prepares the records of a data set and prints what they hold.

    Args:
      argv: the command line without flags: the program's name alone.
      make_builder: returns the builder; may raise what `builders.prepare`
        raises.
      raw_dir: see `builders.prepare`.
      beam_runner: see `builders.prepare`.
      beam_options: as there, but without leading dashes.
    """
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        if not raw_dir:
            raise ValueError("--raw_dir must be given")
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        builder = make_builder()
        existed = builder.data_path.exists()
        builders.prepare(
            builder, raw_dir, beam_runner,
            tuple(f"--{option}" for option in beam_options),
        )  # fmt: skip
        dataset = builder.opened()
    except (ValueError, OSError) as error:
        fail(error)
    print(f"{builder.data_path}: {len(dataset.label_names)} labels")
    if existed:
        print(
            "  made before: the labels are those of the raw tables now, no "
            "picture was read; to read them, delete this directory"
        )
    for name, split in dataset.splits.items():
        positives = int((split.labels.data > 0).sum())
        print(
            f"  {name}: {split.labels.shape[0]} images, {positives} labels "
            f"observed present, {split.labels.nnz - positives} absent"
        )
    unlearned = never_present(dataset)
    if unlearned:
        print(
            f"  {len(unlearned)} labels are never observed present in train: "
            f"{listed(unlearned)}"
        )
    for name, count in builder.info.metadata.get("counts", {}).items():
        if count:
            print(f"  {name}: {count}")
    for name in (builders.LEFT_OUT, builders.ONE_COLOUR, DUPLICATES):
        if (builder.data_path / name).exists():
            print(f"  listed in {builder.data_path / name}")
