"""Packaging: the wheel holds `imcl_tf`, with flags/ as its data."""

import itertools

from setuptools import find_packages, setup

EXTRAS = {
    "beam": ["apache-beam>=2.70"],  # records on many machines
    "graphs": ["mwparserfromhell>=0.6", "wn>=1"],  # Wikipedia, WordNet
    "plots": ["matplotlib>=3.8"],
}

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
        # For Open Images; TFDS brings both.
        "pyarrow>=15",
        "requests>=2.31",
    ],
    extras_require=EXTRAS
    | {
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "scikit-learn>=1.5",
            "ruff>=0.6",
            "pillow>=10",
            # tfds.testing and the program tfds need them.
            "dill>=0.3",
            "mlcroissant>=1.0",
            # TF-Slim's networks, which need the Keras of their time.
            "tf-slim>=1.1",
            "tf-keras>=2.21,<3",
            *itertools.chain(*EXTRAS.values()),
        ],
    },
)
