"""One page about a run or several, in one HTML file that needs no other.

    python -m eval.report --runs=runs/mine --out=report.html

Each --runs is a workdir, or a directory that holds some at any depth, such as
that of `eval.compare`. Pictures are read from the data set that a run's flags
name, which is opened as for training.
"""

from __future__ import annotations

if __name__ == "__main__":  # before TensorFlow, which takes seconds
    from eval import options
    from imcl_tf import program as start

    ARGUMENTS = start.start(__doc__, options.REPORT)

from pathlib import Path

from absl import flags

from imcl_tf.files import fail
from imcl_tf.report.page import write_report

FLAGS = flags.FLAGS


def main(argv: list[str]):
    """Runs what the flags say."""
    out = Path(FLAGS.out)
    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        if not FLAGS.runs:
            raise ValueError("--runs must name the workdir of a run")
        if not FLAGS.out:
            raise ValueError("--out must name the HTML file to write")
        if not out.absolute().parent.is_dir():
            raise FileNotFoundError(f"--out={out}: no such directory")
        write_report([Path(place) for place in FLAGS.runs], out)
    except (ValueError, OSError) as error:
        fail(error)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    start.run(main, ARGUMENTS)
