"""Blocks of indexes that are mapped from their files: all processes of a machine share the pages of one copy."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, NamedTuple

import numpy

from utils import open_regular

if TYPE_CHECKING:
    from runtime.distributed import Ranks

MAPPED_FROM = 2**23  # bytes; what is smaller is read, as several copies of it cost little
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LONGEST_HEADER = 2**28  # in a file, bytes: JSON takes many times as much memory
_MOUNTS = "/proc/self/mountinfo"
# Elsewhere the pages of a file may be lost while it is mapped, as when the network fails, or another machine replaces
# the file. Then the system ends a process that reads them, by SIGBUS; so such a file is read.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"}


class FileIdentity(NamedTuple):
    """Which file a block is mapped from: equal ones are of one file, with equal contents."""

    path: str
    inode: int
    size: int
    time_ns: int
    header: str  # its SHA-256; the header has a checksum of the rest


class CachedBlock(numpy.ndarray):
    """The block of an index that was read from a cache."""


class MappedBlock(CachedBlock):
    """One that is mapped, read-only, from the file `identity` (None for a part of it); pickled, it is only named.

    A file that is cut while it is mapped would end the process by SIGBUS. This program never writes into an index that
    is there: `replacing` puts another file in its place, and the old one lasts as long as it is mapped.
    """

    identity: FileIdentity | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.identity is not None and map_same(self.identity) is not None:
            return _map_again, (self.identity,)
        return self.view(numpy.ndarray).__reduce_ex__(protocol)


def read_block(path: str) -> CachedBlock:
    """Return the block in the file `path`, mapped if it is large; ValueError where it cannot be used or trusted."""
    with open_regular(path) as file:
        line = _read_header(file)
        identity = _identify(file, path, line)
        if identity.size < MAPPED_FROM or not _is_local(path):
            return numpy.frombuffer(line + file.read(), numpy.uint8).view(CachedBlock)
        return _map(file, identity)


def map_same(identity: FileIdentity) -> MappedBlock | None:
    """Return the block that another process has mapped; None where this one does not see that very file."""
    try:
        with open_regular(identity.path) as file:
            is_same = _is_local(identity.path) and _identify(file, identity.path, _read_header(file)) == identity
            return _map(file, identity) if is_same else None
    except (OSError, ValueError):
        return None


def share(ranks: Ranks, find: Callable[[Callable[[], None]], numpy.ndarray]) -> numpy.ndarray:
    """Return on every rank the block that `find(tick)` returns on the first; the others raise its UserError, too.

    If it is mapped, each rank maps the file; it is sent only where one does not see that file.
    """
    found: list[numpy.ndarray] = []

    def find_and_name(tick: Callable[[], None]) -> numpy.ndarray:
        found.append(find(tick))
        name = json.dumps(getattr(found[0], "identity", None))
        return numpy.frombuffer(name.encode("ascii"), numpy.uint8)

    name = json.loads(ranks.from_rank_0(find_and_name).tobytes().decode("ascii"))
    block = found[0] if found else name and map_same(FileIdentity(*name))
    if not ranks.any(block is None):
        return block
    sent = ranks.from_rank_0(lambda tick: block)
    return sent if block is None else block


def _map_again(identity: FileIdentity) -> MappedBlock:
    block = map_same(identity)
    if block is None:
        raise OSError("the index %s has been replaced while processes start: run it again" % identity.path)
    return block


def _map(file: BinaryIO, identity: FileIdentity) -> MappedBlock:
    block = numpy.memmap(file, numpy.uint8, "r", shape=(identity.size,)).view(MappedBlock)
    block.identity = identity
    return block


def _read_header(file: BinaryIO) -> bytes:
    """Return the first line of a file that can be trusted."""
    _check_trust(os.fstat(file.fileno()))
    line = file.readline(_LONGEST_HEADER + 1)
    if len(line) > _LONGEST_HEADER:
        raise ValueError("its header is too long")
    return line


def _check_trust(status: os.stat_result) -> None:
    """Raise ValueError where another user could have written a file: its labels would be trained on."""
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
        raise ValueError("its owner is another user (%d)" % status.st_uid)
    if hasattr(os, "geteuid") and status.st_mode & WRITABLE_BY_OTHERS:
        raise ValueError("other users may write to it")


def _identify(file: BinaryIO, path: str, line: bytes) -> FileIdentity:
    status, digest = os.fstat(file.fileno()), hashlib.sha256(line).hexdigest()
    return FileIdentity(os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, digest)


def _is_local(path: str) -> bool:
    """Return whether a file lies on a disk or in the memory of this machine; False where that cannot be told."""
    kind, longest = "", ""
    path = os.path.realpath(path)
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            for fields in map(str.split, file):
                place = fields[4].replace("\\040", " ").rstrip("/")
                if (path + "/").startswith(place + "/") and len(place) >= len(longest):
                    kind, longest = fields[fields.index("-") + 1], place
    except (OSError, LookupError, ValueError):
        return False
    return kind in _LOCAL
