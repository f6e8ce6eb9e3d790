"""Which images a rank sees, and in which order: a function of (seed, epoch, rank) alone."""

import math
from collections import namedtuple

import torch
from torch.utils.data import Sampler

# What a loader asks a data set for: the image, and the key of the randomness that its transform may use.
Position = namedtuple("Position", "index key")

_SEED_STRIDE = 1000003  # a prime far above any number of epochs, so that no two (seed, epoch) share an order


class RASampler(Sampler):
    """Repeated augmentation over ranks (Hoffer et al., arXiv 1901.09335), as the reference samples.

    Each image of the epoch's permutation is repeated `repeats` times in a row and the list is dealt out to the ranks;
    a rank takes as many draws as its share of the data set (rounded down to a multiple of 256 images where there are
    as many), so an epoch shows about a third of the images three times. `repeats=1` is torch's DistributedSampler.
    """

    def __init__(self, dataset, num_replicas=1, rank=0, shuffle=True, seed=0, repeats=3):
        if not 0 <= rank < num_replicas:
            raise ValueError("rank %d of %d" % (rank, num_replicas))
        self.length = len(dataset)
        self.num_replicas, self.rank = num_replicas, rank
        self.shuffle, self.seed, self.repeats = shuffle, seed, repeats
        self.epoch = 0
        self.num_samples = math.ceil(self.length * repeats / num_replicas)
        self.num_selected_samples = self.num_samples if repeats == 1 else self._share()

    def _share(self):
        whole = self.length // 256 * 256 if self.length >= 256 else self.length
        return max(1, whole // self.num_replicas)

    def set_epoch(self, epoch):
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self):
        return self.num_selected_samples

    def __iter__(self):
        order = _permutation(self.length, self.seed, self.epoch) if self.shuffle else list(range(self.length))
        repeated = [index for index in order for _ in range(self.repeats)]
        total = self.num_samples * self.num_replicas
        while len(repeated) < total:
            repeated += repeated[: total - len(repeated)]
        return iter(repeated[self.rank : total : self.num_replicas][: self.num_selected_samples])


def _permutation(length, seed, epoch):
    generator = torch.Generator()
    generator.manual_seed(seed * _SEED_STRIDE + epoch)
    return torch.randperm(length, generator=generator).tolist()


class EvalShard(Sampler):
    """Every `num_replicas`-th index from `rank` on: all images once over the ranks, none padded."""

    def __init__(self, length, num_replicas=1, rank=0):
        self.indices = range(rank, length, num_replicas)

    def __len__(self):
        return len(self.indices)

    def __iter__(self):
        return iter(self.indices)


class PositionBatches(Sampler):
    """Whole batches of Positions for one rank, from any step of any epoch on."""

    def __init__(self, sampler, batch_size, rank=0):
        self.sampler, self.batch_size, self.rank = sampler, batch_size, rank
        self.first_step = 0

    def start_at(self, epoch, step):
        """Choose the epoch and the step that the next iteration begins with."""
        self.sampler.set_epoch(epoch)
        self.first_step = step

    def __len__(self):
        return len(self.sampler) // self.batch_size

    def __iter__(self):
        indices = list(self.sampler)
        for step in range(self.first_step, len(self)):
            places = range(step * self.batch_size, (step + 1) * self.batch_size)
            keys = [(self.sampler.seed, self.sampler.epoch, self.rank, place) for place in places]
            yield [Position(indices[place], key) for place, key in zip(places, keys)]
