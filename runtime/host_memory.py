"""The memory of this process on the host: glibc's allocator keeps what a training step frees for the next step."""

from __future__ import annotations

import ctypes
import os
from typing import Any

# Numbers of mallopt in glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT = {
    M_MMAP_MAX: 0,  # large blocks come from the heap, too
    M_TRIM_THRESHOLD: -1,  # the end of the heap is never returned
}
RETURNED = {  # where glibc arrives by itself in a process that frees large blocks
    M_MMAP_MAX: 65536,
    M_MMAP_THRESHOLD: 32 << 20,
    M_TRIM_THRESHOLD: 64 << 20,
}
VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for itself; return whether its C library is glibc and does so.

    By default glibc returns the activations to the kernel after each step, and gets them page by page, cleared, in the
    next one. Nothing happens where the user has set one of glibc's own VARIABLES.
    """
    return _set(KEPT)


def return_freed_memory() -> bool:
    """Undo keep_freed_memory, which a loader process inherits: it would keep what its largest image took."""
    return _set(RETURNED)


def _set(settings: dict[int, int]) -> bool:
    mallopt = _glibc_mallopt()
    if mallopt is None or any(name in os.environ for name in VARIABLES):
        return False
    return all([mallopt(number, value) for number, value in settings.items()])


def _glibc_mallopt() -> Any:
    """Return glibc's mallopt; None where the C library is another."""
    try:
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return None
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: on Windows
        return None
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return mallopt
