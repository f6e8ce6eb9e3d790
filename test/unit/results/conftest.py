"""Fixtures of the tests of what a run leaves behind."""

import pytest

from results import lock


@pytest.fixture(autouse=True)
def nothing_stays_locked():
    yield
    lock.unlock()
