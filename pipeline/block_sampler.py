"""Which images of blocks a rank sees, and in which order, where images are read a whole block at once.

A block is a row group of a Parquet file. The order is a function of (seed, epoch, rank) alone, as everywhere.
"""

from __future__ import annotations

from typing import Any, Iterator, Sequence, cast

import numpy
import torch

from pipeline.image_index import ImageIndex
from pipeline.parquet_index import ParquetIndex
from pipeline.readers.parquet import ParquetReader
from pipeline.samplers import RASampler
from runtime.seeding import position_seed

_POORLY_MIXED = 0.5  # of the classes that a window of shuffled rows has


class BlockSampler(RASampler):
    """The order of images in blocks, of which a rank needs few at a time.

    The blocks stand in a line, permuted by (seed, epoch). Each rank has as many images of the line as the others, in a
    row; where a block is cut, the images on either side are chosen by (seed, epoch, block). The blocks of a rank are
    split into windows of at most `images.window`, whose images are permuted by (seed, epoch, rank, window). As many
    images as of RASampler are returned; where they are repeated, an image's repetitions follow one another on a rank.
    """

    def __init__(self, images: ParquetIndex, num_replicas: int = 1, rank: int = 0, seed: int = 0, repeats: int = 3):
        super().__init__(images, num_replicas, rank, seed=seed, repeats=repeats)
        self.starts, self.window = images.starts, images.window
        self._drawn: tuple[Any, numpy.ndarray] = (None, numpy.zeros(0, numpy.int64))  # (epoch, rank), its samples

    def indices(self, first: int = 0, count: int | None = None) -> numpy.ndarray:
        key = self.epoch, self.rank
        if self._drawn[0] != key:
            rows = numpy.concatenate([self._permuted(number, window) for number, window in enumerate(self.windows())])
            self._drawn = key, numpy.repeat(rows, self.repeats)[: self.num_selected_samples]
        return self._drawn[1][first:] if count is None else self._drawn[1][first : first + count]

    def windows(self) -> list[numpy.ndarray]:
        """Return the images of each window of the rank, in the order of the blocks."""
        pieces = list(self._pieces())
        count = -(-len(pieces) // self.window)
        bounds = [len(pieces) * number // count for number in range(count + 1)]
        return [numpy.concatenate(pieces[first:after]) for first, after in zip(bounds, bounds[1:])]

    def _permuted(self, number: int, images: numpy.ndarray) -> numpy.ndarray:
        return images[_permutation(len(images), "window", self.seed, self.epoch, self.rank, number)]

    def _pieces(self) -> Iterator[numpy.ndarray]:
        """Yield the rank's images of each of its blocks, from the line of all blocks."""
        order = _permutation(len(self.starts) - 1, "blocks", self.seed, self.epoch)
        ends = numpy.cumsum(numpy.diff(self.starts)[order])
        left = -(-self.num_selected_samples // self.repeats)
        place = self.rank * left % self.length
        while left:
            at = int(numpy.searchsorted(ends, place, "right"))
            block = int(order[at])
            start, after = self.starts[block : block + 2].tolist()
            skipped = place - int(ends[at]) + after - start
            count = min(after - start - skipped, left)
            images = numpy.arange(start, after)
            if count < after - start:
                images = images[_permutation(after - start, "block", self.seed, self.epoch, block)]
            yield images[skipped : skipped + count]
            left -= count
            place = (place + count) % self.length  # the line is repeated where it is too short


def _permutation(length: int, purpose: str, *key: int) -> numpy.ndarray:
    generator = torch.Generator()
    generator.manual_seed(position_seed("order of " + purpose, *key))
    return torch.randperm(length, generator=generator).numpy()


def is_in_blocks(images: Sequence[Any]) -> bool:
    """Return whether `images` are read a whole block at once."""
    return isinstance(images, ParquetIndex)


def samplers_of(dataset: Any, num_replicas: int, ranks: Sequence[int], seed: int, repeats: int) -> list[RASampler]:
    """Return the sampler of each of the `ranks` of `num_replicas` for the images of `dataset`.

    Blocks that fit into one window are shuffled as other images are. The reader of the data set is told how many
    blocks to keep, so that it reads each but once.
    """
    images = dataset.images
    if is_in_blocks(images):
        reader = cast(ParquetReader, dataset.reader)
        reader.keep = images.window * (len(ranks) if images.has_windows else 1)
        if images.has_windows:
            return [BlockSampler(images, num_replicas, rank, seed, repeats) for rank in ranks]
    return [RASampler(images, num_replicas, rank, seed=seed, repeats=repeats) for rank in ranks]


def mixing_lines(images: ImageIndex) -> list[str]:
    """Return a line where the rows of Parquet files are sorted by class, so that windows of them mix few classes."""
    if not isinstance(images, ParquetIndex) or not images.has_windows:
        return []
    rows = BlockSampler(images, repeats=1).windows()[0]
    fractions = numpy.bincount(images.targets) / len(images)
    usual = float((1 - (1 - fractions) ** len(rows)).sum())
    found = len(numpy.unique(images.targets[rows]))
    if found >= _POORLY_MIXED * usual:
        return []
    text = (
        "%s: its rows are sorted by class: a window of the shuffle, %d images, has %d classes instead of %d: write the "
        "files anew with the rows shuffled, or with smaller row groups"
    )
    return [text % (images.source.title, len(rows), found, round(usual))]
