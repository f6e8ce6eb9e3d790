"""Limits of this process that a test lowers for a while."""

import contextlib
import os
import resource


@contextlib.contextmanager
def open_files(more):
    """At most `more` files can be opened; numbers above that, which are open already, stay so."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest number that is free
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def no_more_open_files():
    """No file can be opened."""
    return open_files(0)
