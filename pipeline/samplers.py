"""Which images a rank sees, and in which order: a function of (seed, epoch, rank) alone."""

from __future__ import annotations

import copy
import math
from typing import Any, Iterator, NamedTuple, Sequence, Sized

import numpy
from torch.utils.data import Sampler

from pipeline.shuffling import images_at


class Position(NamedTuple):
    """What a loader asks a data set for: an image, and the key of the randomness that its transform may use."""

    index: int  # type: ignore[assignment]
    key: tuple


class RASampler(Sampler):
    """Repeated augmentation over ranks (Hoffer et al., arXiv 1901.09335), as the reference samples.

    Each image of the epoch's permutation is repeated `repeats` times in a row, and the list is spread over the ranks;
    a rank takes as many samples as its part of the data set (rounded down to a multiple of 256 images where there are
    as many), so an epoch shows about a third of the images three times. `repeats=1` is torch's DistributedSampler.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        repeats: int = 3,
    ) -> None:
        if not 0 <= rank < num_replicas:
            raise ValueError("rank %d of %d" % (rank, num_replicas))
        self.length = len(dataset)
        self.num_replicas, self.rank = num_replicas, rank
        self.shuffle, self.seed, self.repeats = shuffle, seed, repeats
        self.epoch = 0
        self.num_samples = math.ceil(self.length * repeats / num_replicas)
        self.num_selected_samples = self.num_samples if repeats == 1 else self._part_of_a_rank()

    def _part_of_a_rank(self) -> int:
        whole = self.length // 256 * 256 if self.length >= 256 else self.length
        return max(1, whole // self.num_replicas)

    def for_rank(self, rank: int) -> RASampler:
        """Return the sampler of another rank, in the same epoch."""
        other = copy.copy(self)
        other.rank = rank
        return other

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_selected_samples

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices().tolist())

    def indices(self, first: int = 0, count: int | None = None) -> numpy.ndarray:
        """Return `count` of the rank's samples of the epoch from number `first` on, all by default: int64 (count,)."""
        last = self.num_selected_samples if count is None else min(first + count, self.num_selected_samples)
        dealt = numpy.arange(first, last) * self.num_replicas + self.rank
        places = dealt % (self.length * self.repeats) // self.repeats  # the list is repeated where it is too short
        return self._images_at(places)

    def _images_at(self, places: numpy.ndarray) -> numpy.ndarray:
        """Return the images at the `places` of the epoch's order."""
        return images_at(places, self.length, self.seed, self.epoch) if self.shuffle else places


class EvalShard(Sampler):
    """Every `num_replicas`-th index from `rank` on: all images once over the ranks, none padded.

    With `in_a_row` those of a rank follow one another, for images that are read in blocks.
    """

    def __init__(self, length: int, num_replicas: int = 1, rank: int = 0, in_a_row: bool = False) -> None:
        self.indices = range(rank, length, num_replicas)
        if in_a_row:
            self.indices = range(length * rank // num_replicas, length * (rank + 1) // num_replicas)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.indices)


class PositionBatches(Sampler):
    """Whole batches of Positions, from any batch of any epoch on: round by round one of each of `samplers`.

    Each sampler is that of one (virtual) rank, and all are equally long. A step takes `rounds` rounds, in which a rank
    uses the images that one batch of `rounds` times the size would hold; an epoch has whole steps only.
    """

    def __init__(self, samplers: Sequence[RASampler], batch_size: int, rounds: int = 1) -> None:
        self.samplers, self.batch_size, self.rounds = samplers, batch_size, rounds
        self.first_batch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.samplers[0]) // (self.batch_size * self.rounds) * self.rounds * len(self.samplers)

    def __iter__(self) -> Iterator[Any]:
        for batch in range(self.first_batch, len(self)):
            number, place = divmod(batch, len(self.samplers))
            yield self._positions(self.samplers[place], number)

    def _positions(self, sampler: RASampler, number: int) -> list[Position]:
        first = number * self.batch_size
        used = enumerate(sampler.indices(first, self.batch_size).tolist(), first)
        return [Position(index, (sampler.seed, sampler.epoch, sampler.rank, draw)) for draw, index in used]

    def indices_of(self, number: int, rank: int) -> list[int]:
        """Return the images of the batch `number` of `rank` in the chosen epoch."""
        return self.samplers[0].for_rank(rank).indices(number * self.batch_size, self.batch_size).tolist()


class ShardBatches(Sampler):
    """The indices of an EvalShard in batches, the last perhaps smaller, from any batch on."""

    def __init__(self, shard: EvalShard, batch_size: int) -> None:
        self.shard, self.batch_size = shard, batch_size
        self.first_batch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.shard) / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(self.first_batch * self.batch_size, len(self.shard), self.batch_size):
            yield list(self.shard.indices[start : start + self.batch_size])
