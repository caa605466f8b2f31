"""A program that writes a file until it is interrupted."""

import sys
import time
from pathlib import Path

from absl import flags

from imcl_tf import program
from imcl_tf.files import replacing


def main(argv):
    path = Path(argv[1])
    with replacing(path) as new:
        new.write_text("half")
        path.with_name("begun").touch()
        time.sleep(60)


if __name__ == "__main__":
    program.run(main, sys.argv, "once more", flags.FLAGS)
