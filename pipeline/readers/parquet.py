"""Images in Parquet files, by their row groups."""

from __future__ import annotations

import collections
import io
import os
from typing import Any, BinaryIO, Sequence, Tuple

import numpy

from pipeline.parquet_files import IMAGE, failure_text, open_parquet, row_name
from pipeline.readers.base import Reader
from storage.files import DEFAULT, Storage, stamp_from
from storage.remote import NetworkLost, Stamp, is_url

Key = Tuple[int, int]
FEW = 2  # blocks, for reading in their order
_MOST_OPEN = 64


class ParquetReader(Reader):
    """Reads rows of Parquet files; a key is (number of the block, row in it), and a block is a row group of a file.

    `starts` holds the first row of each block of all files and the end of the last, `groups` how many each file has,
    `stamps` (size, mtime in ns) of each file as it was listed. A process keeps the last `keep` blocks that it used,
    of which it reads the `column` of the images alone.
    """

    def __init__(
        self,
        paths: Sequence[str],
        stamps: Sequence[tuple[int, int]],
        groups: Sequence[int],
        starts: numpy.ndarray,
        column: str,
        keep: int = FEW,
        storage: Storage = DEFAULT,
    ) -> None:
        self.paths, self.stamps, self.groups = list(paths), [tuple(stamp) for stamp in stamps], list(groups)
        self.starts, self.column, self.keep, self.storage = starts, column, keep, storage
        self.decoded = 0  # blocks, by this process
        self._firsts = numpy.cumsum([0, *self.groups])  # the first block of each file
        self._process = 0
        self._files: collections.OrderedDict[int, tuple[BinaryIO, Any]] = collections.OrderedDict()
        self._blocks: collections.OrderedDict[int, Any] = collections.OrderedDict()  # the last used at the end

    def open(self, key: Key) -> io.BytesIO:
        block, row = key
        images = self._block(block)
        if isinstance(images, Exception):
            raise OSError(str(images))
        data = images[row].as_py()
        if data is None:
            raise OSError("its column image has no bytes")
        return io.BytesIO(data)

    def name(self, key: Key) -> str:
        number, _ = self._place(key[0])
        return row_name(self.paths[number], int(self.starts[key[0]] - self.starts[self._firsts[number]]) + key[1])

    def close(self) -> None:
        """Forget the blocks, and close the files; reading opens them again."""
        self._blocks.clear()
        while self._files:
            self._files.popitem()[1][0].close()

    def __reduce__(self) -> Any:  # open files stay in their process
        return ParquetReader, (self.paths, self.stamps, self.groups, self.starts, self.column, self.keep, self.storage)

    def _place(self, block: int) -> tuple[int, int]:
        """Return (number of the file, row group in it) of a block."""
        number = int(numpy.searchsorted(self._firsts, block, "right")) - 1
        return number, block - int(self._firsts[number])

    def _block(self, block: int) -> Any:
        """Return the images of a block; where it is damaged, the exception, as for each of its rows."""
        if self._process != os.getpid():  # a process that was forked shares the position in each file
            self.close()
            self._process = os.getpid()
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        while len(self._blocks) >= max(1, self.keep):
            self._blocks.popitem(last=False)
        number, group = self._place(block)
        opened = self._file(number)
        self.decoded += 1
        try:
            self._blocks[block] = self._decode(opened, group, int(self.starts[block + 1] - self.starts[block]))
        except NetworkLost:
            raise
        except Exception as error:  # pyarrow raises nearly anything for a damaged file
            if getattr(error, "errno", None) or isinstance(error, MemoryError):
                raise
            self._blocks[block] = ValueError("its row group is damaged: %s" % failure_text(error))
        return self._blocks[block]

    def _decode(self, opened: Any, group: int, rows: int) -> Any:
        images = opened.read_row_group(group, columns=[self.column], use_threads=False).column(IMAGE)
        if self.column != IMAGE:
            images = images.flatten()[0]  # null where the struct is
        if len(images) != rows:
            raise ValueError("it has %d rows instead of %d" % (len(images), rows))
        return images

    def _file(self, number: int) -> Any:
        """Return a file, opened now unless it is one of the last that were used; OSError where it has changed."""
        if number in self._files:
            self._files.move_to_end(number)
        else:
            while len(self._files) >= _MOST_OPEN:
                self._files.popitem(last=False)[1][0].close()
            path = self.paths[number]
            self._check(self.storage.stamp(path), number)  # first: pyarrow may find a changed one damaged
            file, opened, stamp = open_parquet(path, self.storage)
            self._check(stamp, number)
            self._files[number] = file, opened
        file, opened = self._files[number]
        if not is_url(self.paths[number]):
            self._check(stamp_from(os.fstat(file.fileno())), number)
        return opened

    def _check(self, stamp: Stamp, number: int) -> None:
        if stamp != self.stamps[number]:
            raise OSError("the file has changed since it was listed")
