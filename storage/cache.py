"""A cache on disk of pieces of large files, which several processes and several runs may share.

For each file it has a sparse copy, NAME.data, and NAME.map with a checksum for each piece that is there. A piece counts
once its checksum is written, and fits: a process or machine that stops at any moment leaves nothing that is wrong.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
import zlib
from typing import Callable, Iterator

from runtime.errors import UserError, reason, shown
from storage.remote import Stamp

PIECE = 2**20  # bytes
FOLDER = "spach-smlp-data"  # below the folder that the user names, which may hold other things
_USED = "bytes-used"
_DATA, _MAP = ".data", ".map"
_SUM = 4  # bytes of a checksum
_IN_USE_S = 3600  # a file that was opened so recently is not removed to make room
_PAUSE_S = 60  # after there was no room, before it is looked for again
_CREATE = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class PieceCache:
    """The cache in a folder, of at most `most_bytes`; UserError where it cannot be used."""

    def __init__(self, folder: str, most_bytes: int) -> None:
        self.folder, self.most_bytes = os.path.join(folder, FOLDER), most_bytes
        self._full_until = 0.0
        name = "--data-cache %s" % shown(folder)
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            if os.stat(self.folder).st_uid != os.geteuid():
                raise UserError("%s: %s belongs to another user: name another folder" % (name, FOLDER))
            with self._used() as (used, change):
                change(self._count() - used)  # a process that was killed may have left it wrong
        except OSError as error:
            raise UserError("%s cannot be written to: %s" % (name, reason(error))) from None

    def open(self, url: str, stamp: Stamp) -> CachedFile:
        """Return the CachedFile of the file at `url` as it is by its `stamp`; OSError where that cannot be made."""
        digest = hashlib.sha256(("%s %d %d" % (url, *stamp)).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2])[-100:]
        os.makedirs(self.folder, mode=0o700, exist_ok=True)  # someone may have emptied the disk
        return CachedFile(self, os.path.join(self.folder, "%s-%s" % (name, digest)), stamp[0])

    def reserve(self, size: int) -> bool:
        """Return whether there is room for `size` more bytes, which are taken then; others' files may go for it."""
        if time.monotonic() < self._full_until:
            return False
        try:
            with self._used() as (used, change):
                wanted = used + size - self.most_bytes
                freed = self._remove_idle(wanted) if wanted > 0 else 0
                if freed >= wanted:
                    change(size - freed)
                    return True
                change(-freed)
        except OSError:  # reads bypass the cache then
            pass
        self._full_until = time.monotonic() + _PAUSE_S
        return False

    def give_back(self, size: int, is_full: bool = False) -> None:
        """Free what was reserved for a piece that could not be fetched, or not be written as the disk `is_full`."""
        if is_full:
            self._full_until = time.monotonic() + _PAUSE_S
        with contextlib.suppress(OSError), self._used() as (_, change):
            change(-size)

    @contextlib.contextmanager
    def _used(self) -> Iterator[tuple[int, Callable[[int], object]]]:
        """Yield the bytes that all processes have reserved, and the function that adds to them."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        handle = os.open(os.path.join(self.folder, _USED), _CREATE, 0o600)  # of its own: a fork would share a lock
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            used = int.from_bytes(os.pread(handle, 8, 0), "little")
            yield used, lambda more: os.pwrite(handle, max(0, used + more).to_bytes(8, "little"), 0)
        finally:
            os.close(handle)

    def _count(self) -> int:
        return sum(entry.stat().st_blocks * 512 for entry in self._entries(_DATA))

    def _entries(self, ending: str) -> list[os.DirEntry[str]]:
        with os.scandir(self.folder) as entries:
            return [entry for entry in entries if entry.name.endswith(ending)]

    def _remove_idle(self, wanted: int) -> int:
        """Remove the files that nobody opened of late, the oldest first, until `wanted` bytes are free; return them."""
        limit, freed = time.time_ns() - _IN_USE_S * 10**9, 0
        for entry in sorted(self._entries(_MAP), key=lambda entry: entry.stat().st_mtime_ns):
            if freed >= wanted or entry.stat().st_mtime_ns > limit:
                break
            data = entry.path[: -len(_MAP)] + _DATA
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(data).st_blocks * 512
                os.unlink(entry.path)  # first: a copy without it counts for nothing
                os.unlink(data)
                freed += size
        return freed


class CachedFile:
    """The pieces of a file of `size` bytes that are there."""

    def __init__(self, cache: PieceCache, stem: str, size: int) -> None:
        self.cache, self.size = cache, size
        self._right: set[int] = set()  # pieces that this process has compared with their checksums
        self._map = os.open(stem + _MAP, _CREATE, 0o600)
        try:
            self._data = os.open(stem + _DATA, _CREATE, 0o600)
        except OSError:
            os.close(self._map)
            raise
        os.utime(self._map)

    def close(self) -> None:
        """Close the files."""
        os.close(self._map)
        os.close(self._data)

    def span(self, piece: int) -> tuple[int, int]:
        """Return where a piece begins and ends."""
        return piece * PIECE, min(self.size, (piece + 1) * PIECE)

    def has(self, piece: int) -> bool:
        """Return whether a piece is there, whole."""
        if piece not in self._right:
            expected = int.from_bytes(os.pread(self._map, _SUM, _SUM * piece), "little")
            start, end = self.span(piece)
            if not expected or _checksum(os.pread(self._data, end - start, start)) != expected:
                return False
            self._right.add(piece)
        return True

    def reserve(self, piece: int) -> bool:
        """Return whether there is room for a piece; it is to be passed to `keep` then."""
        start, end = self.span(piece)
        return self.cache.reserve(end - start)

    def keep(self, piece: int, data: bytes | None) -> None:
        """Keep the bytes of a piece, for which room was reserved, and which could not be fetched where None."""
        start, end = self.span(piece)
        if data is None or len(data) != end - start:
            self.cache.give_back(end - start)
            return
        try:
            _write(self._data, data, start)
            _write(self._map, _checksum(data).to_bytes(_SUM, "little"), _SUM * piece)
        except OSError:
            self.cache.give_back(end - start, is_full=True)

    def read(self, size: int, position: int) -> bytes:
        """Return bytes of pieces that are there."""
        return os.pread(self._data, size, position)


def _checksum(data: bytes) -> int:
    return zlib.crc32(data) or 1  # 0 stands for a piece that is not there


def _write(handle: int, data: bytes, position: int) -> None:
    written = os.pwrite(handle, data, position)
    if written < len(data):  # a full disk: the next write tells
        os.pwrite(handle, data[written:], position + written)
