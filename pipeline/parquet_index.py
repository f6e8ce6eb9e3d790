"""The index of the images in Parquet files."""

from __future__ import annotations

import zlib
from typing import Any

import numpy

from pipeline.image_index import FilesIndex
from pipeline.parquet_files import load_parquet
from pipeline.readers.parquet import ParquetReader
from pipeline.sources import Source


class ParquetIndex(FilesIndex):
    """Images in the rows of Parquet files, by (number of the block, row in it): a block is a row group of a file.

    `starts` has the first row of each block and the end of the last. Where all blocks are more than a `window`, an
    epoch's order depends on both, and so they belong to the fingerprint.
    """

    form = "parquet"

    def __init__(self, block: numpy.ndarray, source: Source) -> None:
        super().__init__(block, source)
        self.starts, self.window = self._arrays["starts"], int(self.header["window"])

    def _layout(self) -> list[tuple[str, Any, int]]:
        return [
            ("starts", numpy.int64, sum(self.header["groups"]) + 1),
            ("targets", numpy.int32, self.header["images"]),
        ]

    @property
    def has_windows(self) -> bool:
        """Whether a process cannot keep all blocks, so that a training reads them window by window."""
        return len(self.starts) - 1 > self.window

    def _key(self, number: int, target: int) -> tuple[int, int]:
        block = int(numpy.searchsorted(self.starts, number, "right")) - 1
        return block, number - int(self.starts[block])

    def reader(self) -> ParquetReader:
        load_parquet()
        header = self.header
        files, groups = header["files"], header["groups"]
        return ParquetReader(
            self.source.paths, files, groups, self.starts, header["column"], storage=self.source.storage
        )

    @property
    def fingerprint(self) -> list[Any]:
        count, classes, *names = super().fingerprint
        if self.has_windows:
            classes = zlib.crc32(numpy.append(self.starts, self.window), classes)
        return [count, classes, *names]

    def check(self) -> None:
        super().check()
        sizes = numpy.diff(self.starts)
        if self.starts[0] != 0 or self.starts[-1] != len(self) or (sizes < 0).any() or self.window < 1:
            raise ValueError("its row groups are wrong")
        if len(self.header["groups"]) != len(self.source.paths):
            raise ValueError("it has another number of files")
