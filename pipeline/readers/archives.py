"""Images in tar and zip archives, by where they lie in them."""

from __future__ import annotations

import collections
import contextlib
import io
import zlib
from typing import Any, Sequence, Tuple

from pipeline.archives.base import ArchiveError
from pipeline.archives.members import list_members
from pipeline.readers.base import Reader
from storage.files import DEFAULT, LocalFile, RemoteFile, Storage, read_many
from storage.remote import Stamp, is_url

Key = Tuple[int, int, int]
_MOST_OPEN = 64
_MOST_EXPANDED = 2**30
_AT_ONCE = 32  # images that are fetched at once, from fewer archives than may be open
_CHANGED = "the archive has changed since it was listed"


class ArchiveReader(Reader):
    """Reads members of archives, the shards; a key is (number of the shard, offset, size), all of the contents.

    The offset is ~offset where they are deflated. `stamps` holds the Stamp of each shard as it was listed.
    """

    def __init__(self, paths: Sequence[str], stamps: Sequence[Stamp], storage: Storage = DEFAULT) -> None:
        self._files: collections.OrderedDict[int, Any] = collections.OrderedDict()  # the last used at the end
        self._unchanged: set[int] = set()  # shards at URLs that this process has compared with their stamps
        self._ready: dict[Key, bytes | OSError] = {}
        self.storage = storage
        self._names: tuple[int, dict[int, str]] = (-1, {})  # of the shard that was named last
        self.paths, self.stamps = list(paths), [(stamp[0], stamp[1]) for stamp in stamps]

    def prefetch(self, keys: Sequence[Key]) -> None:
        remote = [key for key in dict.fromkeys(keys) if is_url(self.paths[key[0]])]
        self._ready = {}
        with contextlib.suppress(OSError):  # `open` raises it for the images of that archive
            self._compare({key[0] for key in remote})
            for first in range(0, len(remote), _AT_ONCE):
                group = remote[first : first + _AT_ONCE]
                wanted = [(self._file(key[0]), _start(key), _start(key) + key[2]) for key in group]
                self._ready.update(zip(group, read_many(wanted, self.storage)))

    def open(self, key: Key) -> io.BytesIO:
        shard, offset, size = key
        data = self._ready.pop(key, None)
        if data is None:
            data = self._read(shard, _start(key), size)
        if isinstance(data, OSError):
            raise data
        return io.BytesIO(inflate(data) if offset < 0 else data)

    def name(self, key: Key) -> str:
        shard, start = key[0], _start(key)
        path = self.paths[shard]
        if self._names[0] != shard:
            self._names = shard, _names_in(path, self.storage)
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
        return ArchiveReader, (self.paths, self.stamps, self.storage)

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        """Return `size` bytes of a shard; processes that inherit its open file do not disturb one another."""
        file = self._file(shard)
        if offset + size > self.stamps[shard][0]:
            raise OSError("the archive ends too early")
        data = file.read_at(size, offset)
        while len(data) < size:  # a signal, or more than the system reads at once
            more = file.read_at(size - len(data), offset + len(data))
            if not more:
                raise OSError("the archive ends too early")
            data += more
        return data

    def _file(self, shard: int) -> Any:
        """Return the open file of a shard, opened now unless it is one of the last that were used."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        while len(self._files) >= _MOST_OPEN:
            self._files.popitem(last=False)[1].close()
        if is_url(self.paths[shard]):
            self._compare({shard})
            self._files[shard] = RemoteFile(self.paths[shard], self.stamps[shard], self.storage)
            return self._files[shard]
        file = LocalFile(self.paths[shard])
        if file.stamp != self.stamps[shard]:
            file.close()
            raise OSError(_CHANGED)
        self._files[shard] = file
        return file

    def _compare(self, shards: set[int]) -> None:
        """Raise OSError where one of the shards at URLs has changed; a process asks once for each."""
        new = sorted(shards - self._unchanged)
        for shard, stamp in zip(new, self.storage.stamps([self.paths[shard] for shard in new])):
            if isinstance(stamp, OSError):
                raise stamp
            if stamp != self.stamps[shard]:
                raise OSError("%s: %s" % (self.paths[shard], _CHANGED))
            self._unchanged.add(shard)


def _names_in(path: str, storage: Storage) -> dict[int, str]:
    """Return {offset: name} of the members of an archive; none where it cannot be listed."""
    try:
        return {member.offset: member.name for member in list_members(path, storage=storage)}
    except (ArchiveError, OSError):  # it was listed once, so that it has changed since
        return {}


def _start(key: Key) -> int:
    """Return where the contents of a member begin."""
    return ~key[1] if key[1] < 0 else key[1]


def inflate(data: bytes) -> bytes:
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
