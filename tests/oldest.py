"""Prints the oldest versions that setup.py allows, as pip's requirements.

    python tests/oldest.py > oldest.txt
    pip install -r oldest.txt

`make matrix` runs the tests with these. Each requirement of the package and of
its extras `plots`, `graphs`, `beam` and `test` becomes `name==bound`. Needs
setuptools, which the virtual environments of Python 3.11 contain.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("plots", "graphs", "beam", "test")


def oldest(requirements: list[str]) -> list[str]:
    """`name>=bound,<limit` -> `name==bound`, sorted, each name once.

    Raises:
      ValueError: if a requirement has no lower bound.
    """
    pinned = {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        bound = re.search(r">=\s*([\w.]+)", requirement)
        if name is None or bound is None:
            raise ValueError(f"setup.py: no lower bound in {requirement!r}")
        pinned[name[0]] = f"{name[0]}=={bound[1]}"
    return sorted(pinned.values())


def requirements() -> list[str]:
    """What setup.py asks for, without running an installation."""
    import setuptools  # before distutils, which it provides

    core = setuptools.distutils.core
    package = core.run_setup(str(ROOT / "setup.py"), stop_after="init")
    extras = (package.extras_require[name] for name in EXTRAS)
    return [*package.install_requires, *(r for rs in extras for r in rs)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(oldest(requirements())) + "\n")
