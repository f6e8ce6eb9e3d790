"""Hooks of all tests."""

import os
import shutil
import tempfile

from listed_skips import pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]


def pytest_configure(config):
    """Let what programs leave in the system's folder for temporary files go with the tests."""
    folder = tempfile.mkdtemp(prefix="tests-")  # a short name: sockets lie there
    os.chmod(folder, 0o711)  # other users, whom tests take the place of, have files there
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = folder

    def remove():
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)

    config.add_cleanup(remove)
