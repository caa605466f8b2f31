"""A small CUB-200-2011 for its tests."""

import shutil

import pytest

from tests.data_prep.cub.files import write_raw


@pytest.fixture(scope="package")
def raw(tmp_path_factory):
    """A small CUB, not to be changed."""
    path = tmp_path_factory.mktemp("cub") / "raw"
    write_raw(path)
    return path


@pytest.fixture
def spoilt(raw, tmp_path):
    """A small CUB to spoil."""
    return shutil.copytree(raw, tmp_path / "raw")
