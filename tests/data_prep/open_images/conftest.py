"""A small Open Images for its tests."""

import shutil
from pathlib import Path

import pytest

from tests.data_prep.open_images.files import write_raw


@pytest.fixture(scope="package")
def raw(tmp_path_factory):
    raw = tmp_path_factory.mktemp("open_images")
    write_raw(raw)
    return raw


@pytest.fixture
def spoilt(raw, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(raw, tmp_path / "raw"))
