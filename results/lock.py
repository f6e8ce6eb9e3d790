"""The lock of an output folder: one run at a time writes there."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from typing import Callable

from results.file_names import LOCK
from runtime.errors import UserError


@dataclass
class _Lock:
    path: str
    handle: int  # closing it would release the lock
    is_new: bool  # whether the file was made for this run, which has not begun yet


_held: list[_Lock] = []


def lock(folder: str, patience_s: float = 20, tick: Callable[[], object] = lambda: None) -> bool:
    """Lock `folder` until `unlock` or the end of this process, and return True; False if this process has locked it.

    UserError if another run holds the lock. The loader processes of a killed run hold it for some seconds, hence the
    patience; `tick()` is called while it lasts.
    """
    path = os.path.join(folder, LOCK)
    if any(_is_at(path, held.handle) for held in _held):
        return False
    deadline = time.monotonic() + patience_s
    while True:
        handle, is_new = _open(path)
        while not _try_to_lock(handle):
            if time.monotonic() > deadline:
                os.close(handle)
                raise UserError("--output-dir %s: another run is writing there; wait for it, or name another" % folder)
            tick()
            time.sleep(0.5)
        if _is_at(path, handle):
            _held.append(_Lock(path, handle, is_new))
            return True
        os.close(handle)  # the run that made the file has removed it


def keep_file() -> None:
    """Let the lock file stay after `unlock`: the run has begun."""
    for held in _held:
        held.is_new = False


def unlock() -> None:
    """Release the lock of the output folder, if there is one; delete its file if it was made for a run that failed."""
    while _held:
        held = _held.pop()
        if held.is_new and _is_at(held.path, held.handle):
            with contextlib.suppress(OSError):
                os.unlink(held.path)
        os.close(held.handle)


def _open(path: str) -> tuple[int, bool]:
    """Open the file `path` and return (handle, whether it is new)."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), False


def _try_to_lock(handle: int) -> bool:
    """Lock the open file if no other process has; True also where the system or its file system has no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # not a Unix system
        return True
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _is_at(path: str, handle: int) -> bool:
    """Return whether `path` is the name of the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except OSError:
        return False
