"""A few inputs of each target; `make fuzz` takes many more."""

import pytest

from tests.fuzz import trial
from tests.fuzz.targets import TARGETS

INPUTS = 2000
_SHARES = sum(target.share for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_read_rightly_or_refused(target, tmp_path):
    number = max(3, round(INPUTS * target.share / _SHARES))
    report = trial.run(target, number, tmp_path)
    assert report.read + report.refused >= number
