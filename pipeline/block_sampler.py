"""Which images of blocks a rank sees, and in which order, where images are read a whole block at once.

A block is a row group of a Parquet file. The order is a function of (seed, epoch, rank) alone, as everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence, cast

import numpy

from pipeline.balancing import BalancedClasses, BalancedSampler
from pipeline.image_index import ImageIndex
from pipeline.parquet_index import ParquetIndex
from pipeline.readers.parquet import ParquetReader
from pipeline.samplers import RASampler
from pipeline.shuffling import permutation
from runtime.errors import UserError
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
        self._plan: Any = None
        self._permuted: Any = None  # the window that was used last

    def indices(self, first: int = 0, count: int | None = None) -> numpy.ndarray:
        """Return `count` of the rank's samples of the epoch from number `first` on, all by default: int64 (count,)."""
        last = self.num_selected_samples if count is None else min(first + count, self.num_selected_samples)
        places = numpy.arange(first, last) // self.repeats
        starts = self.plan().starts
        numbers = numpy.searchsorted(starts, places, "right") - 1
        parts = [
            self._permuted_window(number)[places[numbers == number] - starts[number]]
            for number in numpy.unique(numbers).tolist()
        ]
        return numpy.concatenate(parts) if parts else places

    def plan(self) -> Plan:
        """Return the Plan of the rank's epoch."""
        key = (self.epoch, self.rank)
        if self._plan is None or self._plan[0] != key:
            count = -(-self.num_selected_samples // self.repeats)
            order = _permutation(len(self.starts) - 1, "blocks", self.seed, self.epoch)
            self._plan = (
                key,
                _plan_of(order, numpy.diff(self.starts), self.rank * count % self.length, count, self.window),
            )
        return self._plan[1]

    def images_of(self, number: int) -> numpy.ndarray:
        """Return the images of a window of the rank, block by block."""
        plan = self.plan()
        parts = []
        for block, skipped, after in plan.pieces[plan.bounds[number] : plan.bounds[number + 1]].tolist():
            start, size = int(self.starts[block]), int(self.starts[block + 1] - self.starts[block])
            images = numpy.arange(start, start + size)
            if after - skipped < size:
                images = images[_permutation(size, "block", self.seed, self.epoch, block)]
            parts.append(images[skipped:after])
        return numpy.concatenate(parts)

    def _permuted_window(self, number: int) -> numpy.ndarray:
        key = (self.epoch, self.rank, number)
        if self._permuted is None or self._permuted[0] != key:
            images = self.images_of(number)
            order = _permutation(len(images), "window", self.seed, *key)
            self._permuted = key, images[order]
        return self._permuted[1]


class Plan(NamedTuple):
    """The blocks of a rank: (block, first of its images, end of them) as int64 (pieces, 3), split at `bounds`.

    `starts` holds how many images come before each window, and the number of all.
    """

    pieces: numpy.ndarray
    bounds: list[int]
    starts: numpy.ndarray


def _plan_of(order: numpy.ndarray, sizes: numpy.ndarray, first: int, count: int, most: int) -> Plan:
    """Return the Plan of `count` images from the place `first` on in the line of the blocks `order`.

    The line is repeated where it is too short; a window has at most `most` blocks.
    """
    sizes = sizes[order]
    if first + count > sizes.sum():
        order, sizes = numpy.tile(order, 2), numpy.tile(sizes, 2)
    begins = numpy.cumsum(sizes) - sizes
    pieces = numpy.stack([order, numpy.clip(first - begins, 0, sizes), numpy.clip(first + count - begins, 0, sizes)], 1)
    pieces = pieces[pieces[:, 1] < pieces[:, 2]]
    windows = -(-len(pieces) // most)
    bounds = [len(pieces) * number // windows for number in range(windows + 1)]
    ends = numpy.concatenate([[0], numpy.cumsum(pieces[:, 2] - pieces[:, 1])])
    return Plan(pieces, bounds, ends[bounds])


def _permutation(length: int, purpose: str, *key: int) -> numpy.ndarray:
    return permutation(length, position_seed("order of " + purpose, *key))


def is_in_blocks(images: Sequence[Any]) -> bool:
    """Return whether `images` are read a whole block at once."""
    return isinstance(images, ParquetIndex)


def samplers_of(
    dataset: Any, num_replicas: int, ranks: Sequence[int], seed: int, repeats: int, balance: float = 0.0
) -> list[RASampler]:
    """Return the sampler of each of the `ranks` of `num_replicas` for the images of `dataset`.

    Blocks that fit into one window are shuffled as other images are. The reader of the data set is told how many
    blocks to keep, so that it reads each but once. `balance` is that of --balanced-sampling; UserError where it cannot
    work, as with several windows of blocks.
    """
    images = dataset.images
    if is_in_blocks(images):
        reader = cast(ParquetReader, dataset.reader)
        reader.keep = images.window * (len(ranks) if images.has_windows else 1)
        if images.has_windows and balance:
            text = "--balanced-sampling %g: %s is read in blocks of rows, which are not chosen by class: leave it out"
            raise UserError(text % (balance, images.source.title))
        if images.has_windows:
            return [BlockSampler(images, num_replicas, rank, seed, repeats) for rank in ranks]
    if balance:
        classes = BalancedClasses(images.targets, balance, seed)
        return [BalancedSampler(classes, num_replicas, rank, repeats) for rank in ranks]
    return [RASampler(images, num_replicas, rank, seed=seed, repeats=repeats) for rank in ranks]


def mixing_lines(images: ImageIndex) -> list[str]:
    """Return a line where the rows of Parquet files are sorted by class, so that windows of them mix few classes."""
    if not isinstance(images, ParquetIndex) or not images.has_windows:
        return []
    rows = BlockSampler(images, repeats=1).images_of(0)
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
