"""Indexes of images, listed anew or read from a cache."""

import os
import time

from pipeline import index
from pipeline.layout import list_classes


def settle():
    """Wait until what was written counts as still (see the fixture `hasty`)."""
    time.sleep(0.03)


def touch(*parts):
    """Write an empty file, in folders that are made; return its path."""
    path = os.path.join(*(str(part) for part in parts))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass
    return path


def listed(tree):
    """Return the index of a folder, listed anew."""
    return index.list_images(tree, list_classes(tree))


def found(tree, cache, classes=None):
    """Return the index of a folder, from the cache where it is valid."""
    return index.ImageIndex(index.find(tree, classes or list_classes(tree), cache, lambda: None), tree)


def is_hit(images):
    """Return whether an index comes from a cache."""
    return isinstance(images.block, index.CachedBlock)


def cached(tree, cache):
    """Write a cache file that is used; return its path."""
    index.keep(listed(tree), cache)
    assert is_hit(found(tree, cache))
    return index.cache_path(cache, tree)
