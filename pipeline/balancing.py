"""--balanced-sampling: an epoch that shows rare classes more often, and frequent ones less.

The list of an epoch's images is a function of (seed, epoch) alone, as everywhere.
"""

from __future__ import annotations

import numpy

from pipeline.samplers import RASampler
from pipeline.shuffling import permutation
from runtime.seeding import position_seed


class BalancedClasses:
    """As many images an epoch as there are, of which a class has its number of images to the power 1 - `balance`.

    With `balance` 0 that is each image once, with 1 all classes have the same number. An image of a class that has more
    than its images is shown again only after all others of the class; of a class that has fewer, each epoch shows
    others. `targets` are the class numbers of the images.
    """

    def __init__(self, targets: numpy.ndarray, balance: float, seed: int) -> None:
        counts = numpy.bincount(targets)
        self.length, self.seed = len(targets), seed
        self.ends = numpy.cumsum(counts)
        self.by_class = numpy.argsort(targets, kind="stable")
        self.quotas = _quotas(counts, balance)
        self._made: tuple[int, numpy.ndarray] | None = None

    def __len__(self) -> int:
        return self.length

    def images_of(self, epoch: int) -> numpy.ndarray:
        """Return the images of `epoch`, class after class: int64 (images,)."""
        if self._made is None or self._made[0] != epoch:
            self._made = epoch, numpy.concatenate([self._part(number, epoch) for number in range(len(self.ends))])
        return self._made[1]

    def _part(self, number: int, epoch: int) -> numpy.ndarray:
        start, end = int(self.ends[number - 1]) if number else 0, int(self.ends[number])
        order = permutation(end - start, position_seed("balanced classes", self.seed, epoch, number))
        return self.by_class[start:end][numpy.resize(order, self.quotas[number])]


def _quotas(counts: numpy.ndarray, balance: float) -> numpy.ndarray:
    """Return how many images each class has in an epoch: at least one if it has any, `counts.sum()` in all."""
    exact = numpy.where(counts > 0, counts.clip(1) ** (1.0 - balance), 0.0)
    exact *= counts.sum() / exact.sum()
    quotas = numpy.where(counts > 0, numpy.floor(exact).clip(1), 0).astype(numpy.int64)
    missing = int(counts.sum() - quotas.sum())
    while missing:  # to those that lost most by rounding; back from those that gained most
        order = numpy.argsort((quotas - exact) * numpy.sign(missing), kind="stable")
        order = order[counts[order] > 0] if missing > 0 else order[quotas[order] > 1]
        changed = order[: abs(missing)]
        quotas[changed] += numpy.sign(missing)
        missing = int(counts.sum() - quotas.sum())
    return quotas


class BalancedSampler(RASampler):
    """The order of RASampler, over the images that BalancedClasses chooses for the epoch."""

    def __init__(self, classes: BalancedClasses, num_replicas: int = 1, rank: int = 0, repeats: int = 3) -> None:
        super().__init__(classes, num_replicas, rank, seed=classes.seed, repeats=repeats)
        self.classes = classes

    def _images_at(self, places: numpy.ndarray) -> numpy.ndarray:
        return self.classes.images_of(self.epoch)[super()._images_at(places)]
