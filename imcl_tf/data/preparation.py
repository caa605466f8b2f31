"""What the programs that prepare records share: flags and summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tensorflow_datasets as tfds
from absl import flags

from imcl_tf.data import builders
from imcl_tf.data.pipeline import open_source
from imcl_tf.files import fail


def define_flags(raw_dir_help: str):
    """Declares --raw_dir, --data_dir, --on_bad_image and Beam's flags."""
    flags.DEFINE_string("raw_dir", None, raw_dir_help)
    flags.DEFINE_string(
        "data_dir",
        None,
        "Directory that the records go to; TFDS's default place if not given.",
    )
    flags.DEFINE_enum(
        "on_bad_image",
        "error",
        ("error", "skip"),
        "Whether to stop at an image that cannot be used (error), or to leave "
        "it out and list it in left_out.csv (skip).",
    )
    flags.DEFINE_string(
        "beam_runner",
        "",
        "Apache Beam runner that writes the records, such as DirectRunner; by "
        "default this program writes them itself.",
    )
    flags.DEFINE_multi_string(
        "beam_option",
        [],
        "Option of the Beam runner, such as direct_num_workers=2; the flag may "
        "be given several times.",
    )


def run(
    argv: Sequence[str],
    make_builder: Callable[[], tfds.core.DatasetBuilder],
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
        builder = builders.prepare(
            make_builder(), raw_dir, beam_runner,
            tuple(f"--{option}" for option in beam_options),
        )  # fmt: skip
        dataset = open_source(builder)
    except (ValueError, OSError) as error:
        fail(error)
    print(f"{builder.data_path}: {len(dataset.label_names)} labels")
    for name, split in dataset.splits.items():
        positives = int((split.labels.data > 0).sum())
        print(
            f"  {name}: {split.labels.shape[0]} images, {positives} labels "
            f"observed present, {split.labels.nnz - positives} absent"
        )
    for name, count in builder.info.metadata.get("counts", {}).items():
        if count:
            print(f"  {name}: {count}")
    left_out = builder.data_path / builders.LEFT_OUT
    if left_out.exists():
        print(f"  listed in {left_out}")
