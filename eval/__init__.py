"""Programs: finished runs -> tables and figures."""

import imcl_tf  # noqa: F401, before TensorFlow, which it keeps quiet
