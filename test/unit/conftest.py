"""What every unit test begins with."""

import logging

import pytest


@pytest.fixture(autouse=True)
def log_level():
    """Messages are recorded whatever an earlier test has set: a run sets the level of the root logger."""
    logging.getLogger().setLevel(logging.WARNING)
