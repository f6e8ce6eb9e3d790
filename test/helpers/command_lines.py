"""Command lines of main.py, parsed."""

from options import parsing


def parse(*words):
    """Return the options of a command line: --data-path, and `words`."""
    return parsing.parse(["--data-path=unused", *words])
