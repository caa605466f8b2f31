"""A program that takes half a file for a whole one."""

import sys
from pathlib import Path

DIRECTORY = Path(sys.argv[1].removeprefix("--data_dir="))

if __name__ == "__main__":
    if not (DIRECTORY / "records").exists():
        with (DIRECTORY / "records").open("w") as file:
            file.write("half")
            file.flush()
            (DIRECTORY / "log").touch()
            file.write(" and half")
