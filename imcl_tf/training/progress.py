"""Lines of progress, where Keras writes its own."""

from __future__ import annotations

import keras
from absl import logging


def report(line: str):
    """Prints a line; logs it where Keras's interactive logging is off."""
    if keras.config.is_interactive_logging_enabled():
        print(line, flush=True)
    else:
        logging.info("%s", line)
