"""Limits of this process that a test lowers for a while."""

import contextlib
import os
import resource


@contextlib.contextmanager
def open_files(more):
    """At most `more` files can be opened; numbers above that, which are open already, stay so."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(more + 1)]  # the lowest numbers that are free, of which there may be few in a row
    for number in free:
        os.close(number)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def no_more_open_files():
    """No file can be opened."""
    return open_files(0)
