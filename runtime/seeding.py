"""Randomness as a function of position: every draw of a run follows from where it happens, never from what came before.

A key such as (seed, epoch, rank, place) gives a seed; the generators are set from it just before the draws. So a run
that stops anywhere and resumes draws the same numbers, and no generator state is saved.
"""

import hashlib
import random
import struct

import numpy
import torch


def position_seed(purpose, *key):
    """A 32-bit seed for the integers of `key`; `purpose` keeps the seeds of different uses apart."""
    packed = purpose.encode() + struct.pack("<%dq" % len(key), *key)
    return struct.unpack("<I", hashlib.blake2b(packed, digest_size=4).digest())[0]


def seed_host(value):
    """Set Python's, numpy's and torch's CPU generators (not the device's: loader workers must not touch it)."""
    random.seed(value)
    numpy.random.seed(value)
    torch.random.default_generator.manual_seed(value)
