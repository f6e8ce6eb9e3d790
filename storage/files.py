"""Opening files wherever they lie: by paths of this machine, or by URLs."""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from typing import BinaryIO, Callable, Sequence

from storage import remote
from storage.cache import PIECE, CachedFile, PieceCache
from storage.remote import Stamp, is_url
from utils import open_regular

_AHEAD = 8 * PIECE  # bytes that are read at once where a file is read in its order


@dataclass(frozen=True)
class Storage:
    """How files are reached: those at URLs through the folder `cache` (none: ""), which has at most `cache_bytes`.

    While the network is lost, a call waits for up to `patience_s`.
    """

    cache: str = ""
    cache_bytes: int = 0
    patience_s: float = 1800.0

    def open(self, path: str) -> BinaryIO:
        """Return a file whose contents are wanted whole; OSError where it cannot be opened."""
        return io.BytesIO(remote.read_all(path, self.patience_s)) if is_url(path) else open_regular(path)

    def open_at(self, path: str, in_order: bool = False) -> LocalFile | RemoteFile:
        """Return a large file for reads at any place, most of them `in_order`; OSError where it cannot be opened."""
        if not is_url(path):
            return LocalFile(path)
        return RemoteFile(path, self.stamp(path), self, in_order)

    def stamp(self, path: str) -> Stamp:
        """Return the Stamp of a file; OSError where there is none."""
        found = self.stamps([path])[0]
        if isinstance(found, OSError):
            raise found
        return found

    def stamps(self, paths: Sequence[str]) -> list[Stamp | OSError]:
        """Return the Stamp of each file, or why there is none."""
        if paths and is_url(paths[0]):
            return remote.stamps(paths, self.patience_s)
        return [_local_stamp(path) for path in paths]

    def exists(self, path: str) -> bool:
        """Return whether there is a file or folder; a link to nowhere is one."""
        return bool(remote.kind_of(path, self.patience_s)) if is_url(path) else os.path.lexists(path)


LOCAL = Storage()


def _local_stamp(path: str) -> Stamp | OSError:
    try:
        status = os.stat(path)
    except OSError as error:
        return error
    return status.st_size, status.st_mtime_ns


class LocalFile:
    """A file of this machine: `read_at(size, position)` returns bytes, fewer at its end. `stamp` is that of now."""

    def __init__(self, path: str) -> None:
        self._file = open_regular(path)
        status = os.fstat(self._file.fileno())
        self.stamp: Stamp = (status.st_size, status.st_mtime_ns)
        self.read_at: Callable[[int, int], bytes] = functools.partial(os.pread, self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RemoteFile:
    """A file at a URL, as its `stamp` says; reads go through the cache of `storage` while that has room."""

    def __init__(self, url: str, stamp: Stamp, storage: Storage, in_order: bool = False) -> None:
        self.url, self.stamp, self.storage = url, stamp, storage
        self._ahead = _AHEAD if in_order else 0
        self._window = (0, b"")  # what was read ahead, and where it begins
        self._cached: CachedFile | None = None
        cache = _cache_in(storage.cache, storage.cache_bytes) if storage.cache else None
        if cache is not None:
            try:
                self._cached = cache.open(url, stamp)
            except OSError:  # the disk is gone or full: it works without
                pass

    def close(self) -> None:
        """Close the copy in the cache."""
        if self._cached is not None:
            self._cached.close()
            self._cached = None

    def read_at(self, size: int, position: int) -> bytes:
        """Return `size` bytes at a position, fewer at the end; OSError where they cannot be read."""
        end = min(position + size, self.stamp[0])
        if end <= position:
            return b""
        if self._is_cached(position, end) or self._fill(position, end):
            return self._from_cache(position, end)
        start, window = self._window
        if not start <= position <= end <= start + len(window):
            after = min(max(end, position + self._ahead), self.stamp[0])
            (found,) = remote.read_ranges([(self.url, position, after)], self.storage.patience_s)
            if isinstance(found, OSError):
                raise found
            start, window = position, found
            if self._ahead:
                self._window = start, window
        return window[position - start : end - start]

    def _is_cached(self, position: int, end: int) -> bool:
        return self._cached is not None and not self._missing(position, end)

    def _from_cache(self, position: int, end: int) -> bytes:
        assert self._cached is not None
        data = self._cached.read(end - position, position)
        if len(data) < end - position:
            raise OSError("its copy in --data-cache was changed: empty that folder")
        return data

    def _missing(self, position: int, end: int) -> list[int]:
        """Return the pieces with those bytes that the cache has not."""
        cached = self._cached
        pieces = range(position // PIECE, (end - 1) // PIECE + 1)
        return [piece for piece in pieces if cached is not None and not cached.has(piece)]

    def wanted(self, position: int, end: int) -> list[int]:
        """Return the pieces to be fetched for those bytes, room for which is reserved; none without room."""
        if self._cached is None:
            return []
        missing = self._missing(position, max(end, min(position + self._ahead, self.stamp[0])))
        sizes = [after - start for start, after in map(self._cached.span, missing)]
        return missing if missing and self._cached.cache.reserve(sum(sizes)) else []

    def _fill(self, position: int, end: int) -> bool:
        """Fetch the pieces with those bytes into the cache; return whether all are there now."""
        pieces = self.wanted(position, end)
        fetch_pieces([(self, piece) for piece in pieces], self.storage)
        return bool(pieces) and self._is_cached(position, end)

    def piece_range(self, piece: int) -> tuple[str, int, int]:
        """Return the range (url, start, end) of a piece."""
        assert self._cached is not None
        return (self.url, *self._cached.span(piece))

    def keep(self, piece: int, data: bytes | OSError) -> None:
        """Put a piece into the cache, or give back its room where it could not be read."""
        if self._cached is None:
            return
        if isinstance(data, OSError):
            start, end = self._cached.span(piece)
            self._cached.cache.give_back(end - start)
        else:
            self._cached.keep(piece, data)


def fetch_pieces(pieces: Sequence[tuple[RemoteFile, int]], storage: Storage) -> None:
    """Fetch pieces of files at once into the cache, those that follow one another by one request."""
    runs: list[list[tuple[RemoteFile, int]]] = []
    for file, piece in pieces:
        if runs and runs[-1][-1] == (file, piece - 1) and len(runs[-1]) * PIECE < _AHEAD:
            runs[-1].append((file, piece))
        else:
            runs.append([(file, piece)])
    ranges = []
    for run in runs:
        url, start, _ = run[0][0].piece_range(run[0][1])
        ranges.append((url, start, run[-1][0].piece_range(run[-1][1])[2]))
    for run, data in zip(runs, remote.read_ranges(ranges, storage.patience_s)):
        for number, (file, piece) in enumerate(run):
            file.keep(piece, data if isinstance(data, OSError) else data[number * PIECE : (number + 1) * PIECE])


@functools.lru_cache(maxsize=None)
def _cache_in(folder: str, most_bytes: int) -> PieceCache:
    return PieceCache(folder, most_bytes)
