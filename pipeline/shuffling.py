"""The order of an epoch: a permutation in memory, and above a size one that is computed place by place."""

from __future__ import annotations

import functools

import numpy
import torch

LARGE = 2**26  # images, whose permutation takes 512 MiB
_SEED_STRIDE = 1000003  # a prime far above any number of epochs, so that no two (seed, epoch) share an order
_ROUNDS = 6
_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64 (Steele et al., 2014)


def images_at(places: numpy.ndarray, length: int, seed: int, epoch: int) -> numpy.ndarray:
    """Return the images, int64 from 0 to `length` - 1, at the `places` of the epoch's permutation of all images.

    Above LARGE images the permutation is not held in memory: it is that of a Feistel network keyed by (seed, epoch).
    """
    if length <= LARGE:
        return _permutation(length, seed, epoch)[places]
    return bijection(places, length, seed * _SEED_STRIDE + epoch)


@functools.lru_cache(maxsize=1)  # one for all the virtual ranks of a process
def _permutation(length: int, seed: int, epoch: int) -> numpy.ndarray:
    return permutation(length, seed * _SEED_STRIDE + epoch)


def permutation(length: int, seed: int) -> numpy.ndarray:
    """Return the numbers below `length` as torch shuffles them by `seed`: int64 (length,)."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    return torch.randperm(length, generator=generator).numpy()


def bijection(places: numpy.ndarray, length: int, key: int) -> numpy.ndarray:
    """Return where a permutation of the numbers below `length`, chosen by `key`, takes `places`: int64 of their shape.

    A Feistel network permutes the numbers of an even count of bits. What it takes beyond `length` it permutes again
    (cycle walking, Black and Rogaway 2002), three times in four at most.
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    keys = [_mixed(numpy.array([(key * _ROUNDS + number) % 2**64], numpy.uint64)) for number in range(_ROUNDS)]
    values = places.astype(numpy.uint64)
    beyond = numpy.ones(values.shape, bool)
    while beyond.any():
        values[beyond] = _feistel(values[beyond], half, keys)
        beyond = values >= length
    return values.astype(numpy.int64)


def _feistel(values: numpy.ndarray, half: int, keys: list[numpy.ndarray]) -> numpy.ndarray:
    bits, mask = numpy.uint64(half), numpy.uint64(2**half - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return left << bits | right


def _mixed(values: numpy.ndarray) -> numpy.ndarray:
    """Return uint64 numbers that look random, the same for the same `values`: the output function of SplitMix64."""
    first, second, third = (numpy.uint64(number) for number in _ODD)
    values = values * first + first
    values = (values ^ values >> numpy.uint64(30)) * second
    values = (values ^ values >> numpy.uint64(27)) * third
    return values ^ values >> numpy.uint64(31)
