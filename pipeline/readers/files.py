"""Images in files of their own, by their paths."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from pipeline.readers.base import Reader
from runtime.errors import shown

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)


class FileReader(Reader):
    """Opens files; a key is a path."""

    def open(self, key: str) -> BinaryIO:
        return open_regular(key)

    def describe(self, key: str) -> str:
        return shown(key)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; OSError at once for anything else: the other end of a pipe may never come."""
    handle = os.open(path, os.O_RDONLY | _AT_ONCE)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(handle, True)  # a file system may have to fetch the file from slower storage first
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
