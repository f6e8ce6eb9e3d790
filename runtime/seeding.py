"""Randomness as a function of position: the random numbers of a run follow from where they are used, not from history.

A key such as (seed, epoch, rank, position) gives a seed, and the generators are seeded with it just before they are
used. So a run that is stopped anywhere and resumed gets the same random numbers, and no generator state is saved.
"""

from __future__ import annotations

import hashlib
import random
import struct

import numpy
import torch


def position_seed(purpose: str, *key: int) -> int:
    """Return a 32-bit seed for the integers of `key`; `purpose` keeps the seeds of different uses apart."""
    packed = purpose.encode() + struct.pack("<%dq" % len(key), *key)
    return struct.unpack("<I", hashlib.blake2b(packed, digest_size=4).digest())[0]


def seed_host(value: int) -> None:
    """Seed Python's, numpy's and torch's CPU generators (not the device's: DataLoader workers must not use it)."""
    random.seed(value)
    numpy.random.seed(value)
    torch.random.default_generator.manual_seed(value)
