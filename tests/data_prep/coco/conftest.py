"""A small MS-COCO release for its tests."""

import pytest

from tests.data_prep.coco.files import copy_to_spoil, write_coco


@pytest.fixture(scope="package")
def raw(tmp_path_factory):
    """A generated release of 2014, not to be changed."""
    directory = tmp_path_factory.mktemp("coco") / "raw"
    write_coco(directory)
    return directory


@pytest.fixture
def spoilt(raw, tmp_path):
    """See `copy_to_spoil`."""
    return copy_to_spoil(raw, tmp_path)
