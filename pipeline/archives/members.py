"""The regular files in an archive, tar or zip."""

from __future__ import annotations

import os
from typing import Iterator

from pipeline.archives.base import ArchiveError, Member, Odd
from pipeline.archives.tar import begins_as_tar, check_not_compressed, list_tar
from pipeline.archives.zip import begins_as_zip, list_zip
from utils import open_regular

_LONGEST_SIGN = 512


def list_members(path: str, odd: Odd = lambda name, what: None) -> Iterator[Member]:
    """Yield the regular files in the archive `path` in their order there; nothing is unpacked.

    `odd` is called with the name of each other member that is no folder, and what it is, such as "a link". Its name may
    hold any character. ArchiveError for an archive that is damaged, cut off or compressed; OSError where it cannot be
    opened or read.
    """
    with open_regular(path) as file:
        seen = set()
        for member in _list(file.fileno(), odd):
            if member.name in seen:
                odd(member.name, "a duplicate")
                continue
            seen.add(member.name)
            yield member


def _list(handle: int, odd: Odd) -> Iterator[Member]:
    """Return an iterator of the members of the archive that is open as `handle`: its contents say what it is."""
    size = os.fstat(handle).st_size
    first = os.pread(handle, _LONGEST_SIGN, 0)
    if not first:
        raise ArchiveError("it is empty")
    if begins_as_tar(first):
        return list_tar(handle, size, odd)
    if begins_as_zip(first):
        return list_zip(handle, size, odd)
    check_not_compressed(first)
    raise ArchiveError("it is neither a tar nor a zip archive, or it is damaged at its beginning")
