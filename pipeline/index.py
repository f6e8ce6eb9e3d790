"""The index of the images of a part of a data set, kept in a file for the next run."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from typing import Callable, Sequence

import numpy

from pipeline.decoding import AS_PUBLISHED, Decoding
from pipeline.image_index import ImageIndex
from pipeline.index_forms import open_index
from pipeline.listing import list_source
from pipeline.shared_block import WRITABLE_BY_OTHERS, CachedBlock, read_block
from pipeline.sources import Source
from runtime.errors import printable, shown
from utils import replacing


def find(
    source: Source,
    classes: Sequence[str] | None,
    cache: str,
    tick: Callable[[], object],
    decoding: Decoding = AS_PUBLISHED,
) -> numpy.ndarray:
    """Return the block of the index of `source`, from the folder `cache` if that has a current one.

    `classes` and `tick` are those of list_source.
    """
    if cache:
        path = cache_path(cache, source)
        found = _read(path, source, classes, decoding)
        if found is not None:
            logging.getLogger().info("the images of %s are those of the index in %s", source.title, shown(path))
            return found
    return list_source(source, classes, tick, decoding).block


def cache_path(cache: str, source: Source) -> str:
    """Return the path of the index of `source` in the folder `cache`."""
    digest = hashlib.sha256(b"\0".join(os.fsencode(path) for path in source.identity)).hexdigest()[:16]
    return os.path.join(cache, "index.%s.%s" % (source.part, digest))


def _read(path: str, source: Source, classes: Sequence[str] | None, decoding: Decoding) -> numpy.ndarray | None:
    """Return the block in the file `path`; None where there is none, or none that can be used or trusted."""
    if not os.path.lexists(path):
        return None
    try:
        index = open_index(read_block(path), source)
        index.check()
        if index.is_current(classes, decoding.extensions):
            return index.block
        why = "the data has changed, or other files are asked for"
    except Exception as error:  # a header may be any JSON, and a folder may be gone
        why = printable(str(error)) or type(error).__name__
    logging.getLogger().warning("%s is listed anew: of the index in %s, %s", source.title, shown(path), why)
    return None


def keep(index: ImageIndex, cache: str) -> None:
    """Write `index` into the folder `cache` for the next run, unless it comes from there, or its files were changing.

    A warning where it cannot be written.
    """
    path = cache_path(cache, index.source)
    comes_from_there = isinstance(index.block, CachedBlock) and os.path.exists(path)
    if comes_from_there or index.header["stamps"] is None:
        return
    try:
        os.makedirs(cache, exist_ok=True)
        with replacing(path) as temporary:
            _write(temporary, index.block)
    except OSError as error:
        logging.getLogger().warning("the index %s cannot be written: %s", shown(path), error.strerror)


def _write(path: str, block: numpy.ndarray) -> None:
    with open(path, "wb") as file:
        os.chmod(path, stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~WRITABLE_BY_OTHERS)
        file.write(block)
