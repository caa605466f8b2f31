"""Packaging: the wheel holds `imcl_tf`, with flags/ as its data.

Every requirement has a lower bound; `make matrix` runs the tests with exactly
these bounds.
"""

import itertools
from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "beam": ["apache-beam>=2.70"],  # records on many machines
    "hub": ["keras-hub>=0.21"],  # vision models of KerasHub
    "graphs": ["mwparserfromhell>=0.6", "wn>=1"],  # Wikipedia, WordNet
    "plots": ["matplotlib>=3.9"],
    # --export; their runtimes check what was converted.
    "onnx": ["tf2onnx>=1.17", "onnx>=1.18", "onnxruntime>=1.22"],
    "litert": ["ai-edge-litert>=2.0.2"],
}

setup(
    name="imcl_tf",
    version="0.1.0",
    description=(
        "Interactive multi-label CNN learning with partial labels "
        "(Huynh and Elhamifar, CVPR 2020) in TensorFlow 2"
    ),
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The imcl_tf authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "multi-label classification",
        "partial labels",
        "missing labels",
        "weak supervision",
        "image classification",
        "TensorFlow",
        "Keras",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["imcl_tf*"]), "imcl_tf.flags"],
    package_dir={"imcl_tf.flags": "flags"},
    package_data={
        "imcl_tf": ["py.typed", "*.json"],
        "imcl_tf.flags": ["**/*.cfg"],
        "imcl_tf.report": ["templates/*.j2"],
    },
    entry_points={
        "console_scripts": [
            "imcl-train = imcl_tf.main:console",
            "imcl-predict = imcl_tf.predict:console",
        ]
    },
    # Tested on Python 3.11 with the lower bounds, and on 3.11 to 3.13 with
    # TensorFlow 2.21, Keras 3.15, TFDS 4.9.10, NumPy 2.4, SciPy 1.17 and 1.18,
    # pandas 3.1, PyArrow 25.
    install_requires=[
        "tensorflow>=2.21,<3",
        "keras>=3.13,<4",
        "tensorflow-datasets>=4.9.9,<5",
        # TFDS imports it but does not require it.
        "importlib_resources>=6",
        # tf.summary needs it; TensorFlow 2.21 no longer installs it.
        "tensorboard>=2.19,<3",
        "numpy>=2.3,<3",
        "scipy>=1.15,<2",
        "absl-py>=2",
        # The first releases that were built for NumPy 2.
        "pandas>=2.2.2,<4",
        # Splits of a folder without splits.csv.
        "iterative-stratification>=0.1.9",
        "scikit-learn>=1.5",
        "jinja2>=3.1",  # report.html
        # For Open Images; TFDS requires both.
        "pyarrow>=16.1",
        "requests>=2.32.4",
    ],
    extras_require=EXTRAS
    | {
        "docs": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.5",
            "mkdocstrings[python]>=0.26",
        ],
        "lint": [
            "ruff>=0.6",
            "mypy>=1.11",
            "pandas-stubs>=2.2",
            "types-requests>=2.32",
        ],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "pillow>=10",
            "selenium>=4.20",  # which drives Chromium, where there is one
            # tfds.testing and the program tfds need them.
            "dill>=0.3.1.1",
            "mlcroissant>=1.0",
            # TF-Slim's networks, which need Keras 2.
            "tf-slim>=1.1",
            "tf-keras>=2.21,<3",
            *itertools.chain(*EXTRAS.values()),
        ],
    },
)
