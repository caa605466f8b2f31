"""Programs of the checkout: finished runs -> tables and figures."""

import os

# TensorFlow prints lines about missing GPUs otherwise, as errors; what fails
# reaches Python as an exception all the same. It reads this when it is
# imported, so it is set here, before any program imports it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
