"""Loaders and data sets over folders of small images, in this process alone."""

import types

from command_lines import parse

import datasets
from pipeline.batch_bytes import ToBytes
from runtime.device import Device

KEY = (0, 3, 0, 5)  # of a draw: seed, epoch, rank and place


def first_of(processes):
    """Return the Ranks of the first of some processes, without any process."""
    device = Device("cpu")
    sizes = {"world_size": processes, "virtual_size": processes}
    alone = {"virtual_ranks": range(1), "from_rank_0": lambda make: make(lambda: None), "any": bool}
    return types.SimpleNamespace(rank=0, cores=2, device=device, **alone, **sizes)


ONE_RANK = first_of(1)


def load(root, *words):
    """Return the Loaders of a folder: batches of 2 images of 32 pixels."""
    words = ("--data-path=" + root, "--input-size=32", "--batch-size=2", "--no-repeated-aug", "--num-workers=0") + words
    return datasets.build_loaders(parse(*words), ONE_RANK)


def folder_of(path, is_train=False, size=32, **more):
    """Return an ImageFolder of just that file."""
    transform = ToBytes(datasets.build_transform(parse("--input-size=%d" % size), is_train))
    return datasets.ImageFolder([(path, 0)], transform, **more)
