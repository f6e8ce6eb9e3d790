"""Indexes of images, listed anew or read from a cache."""

import os
import time

from pipeline import index, listing
from pipeline.decoding import AS_PUBLISHED
from pipeline.index_forms import open_index
from pipeline.layout import list_classes
from pipeline.sources import folder_source


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
    return listing.list_images(tree, list_classes(tree))


def found(tree, cache, classes=None, decoding=AS_PUBLISHED):
    """Return the index of a folder, from the cache where it is valid."""
    source = folder_source(tree)
    return open_index(index.find(source, classes or list_classes(tree), cache, lambda: None, decoding), source)


def path_of(tree, cache):
    """Return the path of the index of a folder in the folder `cache`."""
    return index.cache_path(cache, folder_source(tree))


def is_hit(images):
    """Return whether an index comes from a cache."""
    return isinstance(images.block, index.CachedBlock)


def cached(tree, cache):
    """Write a cache file that is used; return its path."""
    index.keep(listed(tree), cache)
    assert is_hit(found(tree, cache))
    return path_of(tree, cache)
