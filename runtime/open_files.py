"""Open files: the limit of this process, and how many more there is room for."""

from __future__ import annotations

import errno
import os

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one, as far as the system lets this process."""
    if resource is None:
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS takes no unlimited number
        pass


def check_room(count: int) -> None:
    """Raise OSError unless this process can open `count` more files."""
    opened: list[int] = []
    try:
        reader, writer = os.pipe()
        opened += [reader, writer]
        while len(opened) < count:
            opened.append(os.dup(reader))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def too_many(error: BaseException) -> bool:
    """Return whether `error` was raised because this process, or the machine, has too many open files."""
    is_plain = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    return is_plain or (isinstance(error, (OSError, RuntimeError)) and os.strerror(errno.EMFILE) in str(error))
