"""Batches of images that lie in blocks, for loader processes of which each reads whole blocks."""

from __future__ import annotations

from typing import Any, Iterator, Sequence

from torch.utils.data import Sampler


class LaneBatches(Sampler):
    """Batches of the images 0 to `count` - 1 for `lanes` loader processes, which take turns as torch's do.

    `blocks` are ascending ranges of images that are read as a whole: one process gets all batches of a block. So
    batches are out of order, `ranges` tells them, and they are empty where a process has nothing left to do.
    """

    def __init__(self, count: int, blocks: Sequence[range], batch_size: int, lanes: int) -> None:
        queues: list[list[range]] = [[] for _ in range(max(1, lanes))]
        for batches in _units(count, blocks, batch_size):
            min(queues, key=len).extend(batches)
        rounds = max(map(len, queues))
        self.ranges = [queue[turn] if turn < len(queue) else range(0) for turn in range(rounds) for queue in queues]
        self.first_batch = 0

    def __len__(self) -> int:
        return len(self.ranges)

    def __iter__(self) -> Iterator[Any]:
        for numbers in self.ranges[self.first_batch :]:
            yield list(numbers)


def _units(count: int, blocks: Sequence[range], batch_size: int) -> Iterator[list[range]]:
    """Yield the batches of each block, of several small blocks together, and each batch of the images between."""
    place = 0
    for unit in [*_merged(blocks, batch_size), range(count, count)]:
        for batch in _batches(range(place, unit.start), batch_size):
            yield [batch]
        yield _batches(unit, batch_size)
        place = unit.stop


def _merged(blocks: Sequence[range], batch_size: int) -> list[range]:
    """Return `blocks`, those that follow one another joined where they fit into a batch."""
    merged: list[range] = []
    for block in blocks:
        if merged and merged[-1].stop == block.start and block.stop - merged[-1].start <= batch_size:
            merged[-1] = range(merged[-1].start, block.stop)
        else:
            merged.append(block)
    return merged


def _batches(numbers: range, batch_size: int) -> list[range]:
    return [numbers[first : first + batch_size] for first in range(0, len(numbers), batch_size)]


def in_order(found: Iterator[tuple[range, list[Any]]]) -> Iterator[Any]:
    """Yield the results of all images in their order; `found` has those of each batch, in the order of LaneBatches."""
    early: dict[int, list[Any]] = {}
    place = 0
    for numbers, results in found:
        if numbers:
            early[numbers.start] = results
        while place in early:
            ready = early.pop(place)
            yield from ready
            place += len(ready)
