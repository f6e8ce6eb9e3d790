"""Opening files wherever they lie: by paths of this machine, or by URLs."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import posixpath
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable, Sequence, Tuple

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

    def open_stream(self, path: str) -> tuple[BinaryIO, Stamp]:
        """Return (a large file for a library that seeks and reads in it, its Stamp as of now)."""
        if is_url(path):
            file = RemoteFile(path, self.stamp(path), self)
            return RemoteStream(file), file.stamp  # type: ignore[return-value]
        local = open_regular(path)
        return local, stamp_from(os.fstat(local.fileno()))


DEFAULT = Storage()


@functools.lru_cache(maxsize=None)
def cache_in(folder: str, most_bytes: int) -> PieceCache:
    """Return this process's PieceCache in a folder; UserError where that cannot be used."""
    return PieceCache(folder, most_bytes)


def _local_stamp(path: str) -> Stamp | OSError:
    try:
        return stamp_from(os.stat(path))
    except OSError as error:
        return error


def stamp_from(status: os.stat_result) -> Stamp:
    """Return the Stamp of a file of this machine: its bytes, and the time of its last change in ns."""
    return status.st_size, status.st_mtime_ns


def exists(path: str) -> bool:
    """Return whether there is a file or folder; a link to nowhere is one."""
    return bool(remote.kind_of(path)) if is_url(path) else os.path.lexists(path)


def is_folder(path: str) -> bool:
    """Return whether there is a folder."""
    return remote.kind_of(path) == "directory" if is_url(path) else os.path.isdir(path)


def join(folder: str, name: str) -> str:
    """Return the path of a file whose name is relative to `folder`, absolute, or a URL."""
    if is_url(name) or not is_url(folder):
        return name if is_url(name) else os.path.join(folder, name)
    scheme, _, place = folder.partition("://")
    return name if name.startswith("/") else "%s://%s" % (scheme, posixpath.normpath(posixpath.join(place, name)))


def absolute(path: str) -> str:
    """Return the absolute path, or the URL."""
    return path if is_url(path) else os.path.abspath(path)


class LocalFile:
    """A file of this machine: `read_at(size, position)` returns bytes, fewer at its end. `stamp` is that of now."""

    def __init__(self, path: str) -> None:
        self._file = open_regular(path)
        self.stamp = stamp_from(os.fstat(self._file.fileno()))
        self.read_at: Callable[[int, int], bytes] = functools.partial(os.pread, self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RemoteFile:
    """A file at a URL, as its `stamp` says; reads go through the cache of `storage` while that has room."""

    def __init__(self, url: str, stamp: Stamp, storage: Storage, in_order: bool = False) -> None:
        self.url, self.stamp, self.storage = url, stamp, storage
        self._ahead = _AHEAD if in_order else 0
        self._window = (0, b"")  # where what was read ahead begins, and that
        self.cached: CachedFile | None = None
        if storage.cache:
            with contextlib.suppress(OSError):  # the disk is gone or full: it works without
                self.cached = cache_in(storage.cache, storage.cache_bytes).open(url, stamp)

    def close(self) -> None:
        """Close the copy in the cache."""
        if self.cached is not None:
            self.cached.close()
            self.cached = None

    def read_at(self, size: int, position: int) -> bytes:
        """Return `size` bytes at a position, fewer at the end; OSError where they cannot be read."""
        end = max(position, min(position + size, self.stamp[0]))
        start, window = self._window
        if not start <= position <= end <= start + len(window):
            after = max(end, min(position + self._ahead, self.stamp[0]))
            (found,) = read_many([(self, position, after)], self.storage)
            if isinstance(found, OSError):
                raise found
            if self._ahead:
                self._window = position, found
            start, window = position, found
        return window[position - start : end - start]

    def missing(self, position: int, end: int) -> list[int]:
        """Return the pieces with those bytes that the cache has not."""
        cached = self.cached
        pieces = range(position // PIECE, -(-end // PIECE))
        return [piece for piece in pieces if cached is not None and not cached.has(piece)]

    def from_cache(self, position: int, end: int) -> bytes | None:
        """Return bytes that the cache has; None where it has not all of them."""
        if self.cached is None or self.missing(position, end):
            return None
        data = self.cached.read(end - position, position)
        return data if len(data) == end - position else None


class RemoteStream(io.RawIOBase):
    """A RemoteFile as a file of Python's, with a position."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.stamp[0]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._file.read_at(len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


Wanted = Tuple[RemoteFile, int, int]  # a file, and where the bytes begin and end that are wanted of it


def read_many(wanted: Sequence[Wanted], storage: Storage) -> list[bytes | OSError]:
    """Return bytes of files at URLs, or why they cannot be read: from the cache, or fetched at once.

    What the cache has not is fetched in whole pieces into it while it has room, else as it is wanted.
    """
    found: list[Any] = [file.from_cache(start, end) for file, start, end in wanted]
    left = [number for number, data in enumerate(found) if data is None]
    _fill([wanted[number] for number in left], storage)
    for number in left:
        file, start, end = wanted[number]
        found[number] = file.from_cache(start, end)
    left = [number for number in left if found[number] is None]
    ranges = [(file.url, start, end) for file, start, end in (wanted[number] for number in left)]
    for number, data in zip(left, remote.read_ranges(ranges, storage.patience_s)):
        found[number] = data
    return found


def _fill(wanted: Sequence[Wanted], storage: Storage) -> None:
    """Fetch the pieces with what is `wanted` into the cache, as far as that has room."""
    missing = dict.fromkeys((file, piece) for file, start, end in wanted for piece in file.missing(start, end))
    runs: list[list[tuple[RemoteFile, int]]] = []  # pieces that follow one another, for one request
    for file, piece in missing:
        if file.cached is None or not file.cached.reserve(piece):
            continue
        if runs and runs[-1][-1] == (file, piece - 1) and len(runs[-1]) * PIECE < _AHEAD:
            runs[-1].append((file, piece))
        else:
            runs.append([(file, piece)])
    for run, data in zip(runs, remote.read_ranges([_range_of(run) for run in runs], storage.patience_s)):
        for number, (file, piece) in enumerate(run):
            if file.cached is not None:
                part = None if isinstance(data, OSError) else data[number * PIECE : (number + 1) * PIECE]
                file.cached.keep(piece, part)


def _range_of(run: Sequence[tuple[RemoteFile, int]]) -> tuple[str, int, int]:
    file, first = run[0]
    return file.url, first * PIECE, min(file.stamp[0], (run[-1][1] + 1) * PIECE)
