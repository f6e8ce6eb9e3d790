"""Images in tar and zip archives, by where they lie in them."""

from __future__ import annotations

import collections
import io
import os
import zlib
from typing import Any, BinaryIO, Sequence, Tuple

from pipeline.archives.base import ArchiveError
from pipeline.archives.members import list_members
from pipeline.readers.base import Reader
from utils import open_regular

Key = Tuple[int, int, int]
_MOST_OPEN = 64
_MOST_EXPANDED = 2**30


class ArchiveReader(Reader):
    """Reads members of archives, the shards; a key is (number of the shard, offset, size), all of the contents.

    The offset is ~offset where they are deflated. `stamps` holds (size, mtime in ns) of each shard as it was listed.
    """

    def __init__(self, paths: Sequence[str], stamps: Sequence[tuple[int, int]]) -> None:
        self._files: collections.OrderedDict[int, BinaryIO] = collections.OrderedDict()  # the last used at the end
        self._names: tuple[int, dict[int, str]] = (-1, {})  # of the shard that was named last
        self.paths, self.stamps = list(paths), [tuple(stamp) for stamp in stamps]

    def open(self, key: Key) -> io.BytesIO:
        shard, offset, size = key
        data = self._read(shard, _start(key), size)
        return io.BytesIO(_inflate(data) if offset < 0 else data)

    def name(self, key: Key) -> str:
        shard, start = key[0], _start(key)
        path = self.paths[shard]
        if self._names[0] != shard:
            self._names = shard, _names_in(path)
        name = self._names[1].get(start)
        return "%s:%s" % (path, name) if name else "%s: bytes %d to %d" % (path, start, start + key[2])

    def names(self, keys: Sequence[Key]) -> list[str]:
        found = {key: self.name(key) for key in sorted(keys)}  # each shard is listed once for all of its images
        return [found[key] for key in keys]

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> Any:  # open files stay in their process
        return ArchiveReader, (self.paths, self.stamps)

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        """Return `size` bytes of a shard; processes that inherit its open file do not disturb one another."""
        handle = self._file(shard).fileno()
        if offset + size > self.stamps[shard][0]:
            raise OSError("the archive ends too early")
        data = os.pread(handle, size, offset)
        while len(data) < size:  # a signal, or more than the system reads at once
            more = os.pread(handle, size - len(data), offset + len(data))
            if not more:
                raise OSError("the archive ends too early")
            data += more
        return data

    def _file(self, shard: int) -> BinaryIO:
        """Return the open file of a shard, opened now unless it is one of the last that were used."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        while len(self._files) >= _MOST_OPEN:
            self._files.popitem(last=False)[1].close()
        file = open_regular(self.paths[shard])
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != self.stamps[shard]:
            file.close()
            raise OSError("the archive has changed since it was listed")
        self._files[shard] = file
        return file


def _names_in(path: str) -> dict[int, str]:
    """Return {offset: name} of the members of an archive; none where it cannot be listed."""
    try:
        return {member.offset: member.name for member in list_members(path)}
    except (ArchiveError, OSError):  # it was listed once, so that it has changed since
        return {}


def _start(key: Key) -> int:
    """Return where the contents of a member begin."""
    return ~key[1] if key[1] < 0 else key[1]


def _inflate(data: bytes) -> bytes:
    """Return what the deflated `data` expand to."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        expanded = stream.decompress(data, _MOST_EXPANDED)
    except zlib.error as error:
        raise OSError("its deflated contents are damaged: %s" % error) from None
    if stream.eof:
        return expanded
    if len(expanded) >= _MOST_EXPANDED:
        raise OSError("it expands to more than %d bytes" % _MOST_EXPANDED)
    raise OSError("its deflated contents end too early")
