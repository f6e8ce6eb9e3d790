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
from pipeline.sources import Source
from runtime.errors import printable, shown
from utils import open_regular, replacing

_LONGEST_HEADER = 2**28  # in a file, bytes: JSON takes many times as much memory
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class CachedBlock(numpy.ndarray):
    """The block of an index that was read from a cache."""


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
        with open_regular(path) as file:
            _check_trust(os.fstat(file.fileno()))
            line = file.readline(_LONGEST_HEADER + 1)
            if len(line) > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            block = numpy.frombuffer(line + file.read(), numpy.uint8).view(CachedBlock)
        index = open_index(block, source)
        index.check()
        if index.is_current(classes, decoding.extensions):
            return index.block
        why = "the data has changed, or other files are asked for"
    except Exception as error:  # a header may be any JSON, and a folder may be gone
        why = printable(str(error)) or type(error).__name__
    logging.getLogger().warning("%s is listed anew: of the index in %s, %s", source.title, shown(path), why)
    return None


def _check_trust(status: os.stat_result) -> None:
    """Raise ValueError where another user could have written a file: its labels would be trained on."""
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
        raise ValueError("its owner is another user (%d)" % status.st_uid)
    if hasattr(os, "geteuid") and status.st_mode & _WRITABLE_BY_OTHERS:
        raise ValueError("other users may write to it")


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
        os.chmod(path, stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~_WRITABLE_BY_OTHERS)
        file.write(block)
