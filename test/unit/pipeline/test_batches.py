"""Errors that mean a lost loader process."""

import pytest

from pipeline import batches


@pytest.mark.parametrize(
    "error, lost",
    [
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), True),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), True),
        (RuntimeError("Pin memory thread exited unexpectedly"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (EOFError(), True),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0."), False),
        (RuntimeError("CUDA out of memory"), False),
        (PermissionError(13, "Permission denied"), False),
    ],
)
def test_what_means_a_lost_loader_process(error, lost):
    assert batches.means_a_lost_process(error) == lost
