"""The regular files in an archive, tar or zip."""

from __future__ import annotations

import contextlib
from typing import Iterator

from pipeline.archives.base import ArchiveError, Member, Odd, ReadAt
from pipeline.archives.tar import begins_as_tar, check_not_compressed, list_tar
from pipeline.archives.zip import begins_as_zip, list_zip
from storage.files import DEFAULT, LocalFile, RemoteFile, Storage

_LONGEST_SIGN = 512


def list_members(path: str, odd: Odd = lambda name, what: None, storage: Storage = DEFAULT) -> Iterator[Member]:
    """Yield the regular files in the archive `path` in their order there; nothing is unpacked.

    `odd` is called with the name of each other member that is no folder, and what it is, such as "a link". Its name may
    hold any character. ArchiveError for an archive that is damaged, cut off or compressed; OSError where it cannot be
    opened or read.
    """
    with contextlib.closing(storage.open_at(path, in_order=True)) as file:
        yield from members_of(file, odd)


def members_of(file: LocalFile | RemoteFile, odd: Odd) -> Iterator[Member]:
    """Yield the regular files in an open archive, as of `list_members`."""
    seen = set()
    for member in _list(file.read_at, file.stamp[0], odd):
        if member.name in seen:
            odd(member.name, "a duplicate")
            continue
        seen.add(member.name)
        yield member


def _list(read_at: ReadAt, size: int, odd: Odd) -> Iterator[Member]:
    """Return an iterator of the members of the archive of `size` bytes: its contents say what it is."""
    first = read_at(_LONGEST_SIGN, 0)
    if not first:
        raise ArchiveError("it is empty")
    if begins_as_tar(first):
        return list_tar(read_at, size, odd)
    if begins_as_zip(first):
        return list_zip(read_at, size, odd)
    check_not_compressed(first)
    raise ArchiveError("it is neither a tar nor a zip archive, or it is damaged at its beginning")
