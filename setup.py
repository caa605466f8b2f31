"""Packaging: the wheel holds `imcl_tf`, with flags/ as its data."""

from setuptools import find_packages, setup

setup(
    name="imcl_tf",
    version="0.1.0",
    description=(
        "Interactive multi-label CNN learning with partial labels "
        "(Huynh and Elhamifar, CVPR 2020) in TensorFlow 2"
    ),
    python_requires=">=3.11",
    packages=[*find_packages(include=["imcl_tf*"]), "imcl_tf.flags"],
    package_dir={"imcl_tf.flags": "flags"},
    package_data={"imcl_tf.flags": ["**/*.cfg"]},
    # Tested: TensorFlow 2.21, Keras 3.15, TFDS 4.9.10, NumPy 2.4, SciPy 1.17,
    # pandas 3.1 on Python 3.11.
    install_requires=[
        "tensorflow>=2.21,<3",
        "keras>=3.13,<4",
        "tensorflow-datasets>=4.9.9,<5",
        # TFDS imports it without asking for it.
        "importlib_resources>=6",
        # tf.summary needs it; TensorFlow 2.21 no longer installs it.
        "tensorboard>=2.19,<3",
        "numpy>=2,<3",
        "scipy>=1.13,<2",
        "absl-py>=2",
        "pandas>=2.2,<4",
    ],
    extras_require={
        "test": ["pytest>=8", "scikit-learn>=1.5", "ruff>=0.6"],
    },
)
