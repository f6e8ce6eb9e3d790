"""Images of any sources by their numbers, in files, archives and Parquet files, without an index."""

from __future__ import annotations

import collections.abc
from array import array
from typing import BinaryIO, Iterable

import numpy

from pipeline.readers.archives import ArchiveReader
from pipeline.readers.base import Reader
from pipeline.readers.files import FileReader
from pipeline.readers.parquet import ParquetReader

_FILES, _PARQUET = -1, -2  # in the place of an archive's number: the latter and below are those of Parquet readers


class NamedImages(Reader, collections.abc.Sequence):
    """Images in the order in which they were added, 28 bytes each beside their names; a key is an image's number.

    It is also the sequence of (key, number) that a data set takes. `blocks` are the images of each row group of Parquet
    files; of all of them, the last one that was read is kept.
    """

    def __init__(self) -> None:
        self._names, self._ends = bytearray(), array("q", [0])
        self._shards, self._offsets, self._sizes = array("i"), array("q"), array("I")
        self._files, self._archives = FileReader(), ArchiveReader([], [])
        self._parquet: list[ParquetReader] = []
        self._opened = 0  # the one of these that was used last
        self.blocks: list[range] = []

    def add_files(self, paths: Iterable[str]) -> None:
        """Append images in files of their own."""
        for path in paths:
            self._add(path, _FILES, 0, 0)

    def add_archive(self, path: str, stamp: tuple[int, int], rows: Iterable[tuple[str, int, int]]) -> None:
        """Append the images of an archive by the `rows` (name, offset, size), as of ArchiveReader.

        `stamp` is the archive's (size, mtime in ns) from before it was listed.
        """
        shard = len(self._archives.paths)
        self._archives.paths.append(path)
        self._archives.stamps.append(stamp)
        for name, offset, size in rows:
            self._add(name, shard, offset, size)

    def add_parquet(self, reader: ParquetReader) -> None:
        """Append the rows of Parquet files."""
        shard = _PARQUET - len(self._parquet)
        self._parquet.append(reader)
        for block, rows in enumerate(numpy.diff(reader.starts).tolist()):
            self.blocks.append(range(len(self), len(self) + rows))
            for row in range(rows):
                self._add("", shard, block, row)

    def _add(self, name: str, shard: int, offset: int, size: int) -> None:
        self._names += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._names))
        self._shards.append(shard)
        self._offsets.append(offset)
        self._sizes.append(size)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, number: int) -> tuple[int, int]:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError("image %d of %d" % (number, len(self)))
        return number, number

    def open(self, key: int) -> BinaryIO:
        shard = self._shards[key]
        if shard == _FILES:
            return self._files.open(self.name(key))
        if shard > _FILES:
            return self._archives.open((shard, self._offsets[key], self._sizes[key]))
        if self._opened != _PARQUET - shard:
            self._parquet[self._opened].close()
            self._opened = _PARQUET - shard
        return self._parquet[self._opened].open((self._offsets[key], self._sizes[key]))

    def name(self, key: int) -> str:
        name = self._names[self._ends[key] : self._ends[key + 1]].decode("utf-8", "surrogatepass")
        shard = self._shards[key]
        if shard <= _PARQUET:
            return self._parquet[_PARQUET - shard].name((self._offsets[key], self._sizes[key]))
        return name if shard == _FILES else "%s:%s" % (self._archives.paths[shard], name)
