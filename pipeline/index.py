"""Which images a data set holds: listed once, kept in one block of memory, and cached in a file."""

from __future__ import annotations

import collections.abc
import hashlib
import json
import logging
import os
import stat
import time
import zlib
from typing import Any, Callable, Sequence

import numpy

from pipeline.decoding import AS_PUBLISHED, Decoding
from pipeline.layout import is_hidden, list_top
from pipeline.passed_over import PassedOver
from pipeline.reading import stamp_of, walk
from runtime.errors import printable, shown
from utils import open_regular, replacing

FORMAT = 2
RACY_NS = 2 * 10**9  # a folder changed less than this before it is listed may change again within the same time stamp
_LONGEST_HEADER = 2**28  # in a file, bytes: JSON takes many times as much memory
_SLASH, _DOT = b"/."
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class CachedBlock(numpy.ndarray):
    """The block of an index that was read from a cache."""


class ImageIndex(collections.abc.Sequence):
    """(path, class number) of every image below `folder`: a zero-copy view of `block`, one uint8 array.

    The block is a line of JSON (padded to 8 bytes) and three arrays: where each name begins in the last one (int64, and
    the end), the class numbers (int32), the names relative to the class folder (a null byte after each). Loader
    processes share it: unlike a list of tuples, it is not written to by being read. An exception for another block.
    `passed_over` tells what was left out, `nested` how many images lie in sub-folders of their class.
    """

    def __init__(self, block: numpy.ndarray, folder: str) -> None:
        self.block, self.folder = block, folder
        end = _header_length(block)
        self.header = json.loads(block[:end].tobytes().decode("ascii"))
        if self.header["format"] != FORMAT:
            raise ValueError("its format is not %d" % FORMAT)
        self.classes = self.header["classes"]
        self.passed_over, self.nested = PassedOver.from_dict(self.header["passed_over"]), int(self.header["nested"])
        count, size = self.header["images"], self.header["bytes"]
        ends = (end, end + 8 * (count + 1), end + 12 * count + 8, end + 12 * count + 8 + size)
        if ends[-1] != len(block):
            raise ValueError("it has %d bytes instead of %d" % (len(block), ends[-1]))
        plain = block.view(numpy.ndarray)
        self._offsets = plain[ends[0] : ends[1]].view(numpy.int64)
        self.targets = plain[ends[1] : ends[2]].view(numpy.int32)
        self._names = plain[ends[2] : ends[3]]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> tuple[str, int]:  # type: ignore[override]
        count = len(self.targets)
        if not -count <= number < count:
            raise IndexError("image %d of %d" % (number, count))
        number %= count
        start, after = self._offsets[number : number + 2].tolist()
        target = self.targets[number].item()
        name = os.fsdecode(self._names[start : after - 1].tobytes())
        return os.path.join(self.folder, self.classes[target], name), target

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, collections.abc.Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:  # for loader processes that are not forked: the block once, not its parts too
        return ImageIndex, (self.block.view(numpy.ndarray), self.folder)

    @property
    def fingerprint(self) -> list[int]:
        """The number of images, and a checksum of their names and classes."""
        return [len(self), self.header["checksum"]]

    def empty_classes(self) -> list[int]:
        """Return the numbers of the classes without an image."""
        return numpy.flatnonzero(numpy.bincount(self.targets, minlength=len(self.classes)) == 0).tolist()

    def check(self) -> None:
        """Raise ValueError where the block has changed since it was made, or names files outside the class folders."""
        if zlib.crc32(self._names, zlib.crc32(self.targets, zlib.crc32(self._offsets))) != self.header["checksum"]:
            raise ValueError("its checksum is wrong")
        starts, ends = self._offsets[:-1], self._offsets[1:]
        if self._offsets[0] != 0 or self._offsets[-1] != len(self._names) or not (starts < ends).all():
            raise ValueError("its names are out of order")
        if self._names[ends - 1].any() or numpy.count_nonzero(self._names) != len(self._names) - len(self):
            raise ValueError("its names do not end where it says")
        if len(self) and not 0 <= self.targets.min() <= self.targets.max() < len(self.classes):
            raise ValueError("its class numbers are wrong")
        if self._escapes(starts):
            raise ValueError("it names files outside of the class folders")

    def _escapes(self, starts: numpy.ndarray) -> bool:
        """Return whether a name is absolute or has a part ".."; that is quick for names without a slash."""
        if not (self._names == _SLASH).any() and not (self._names[starts] == _DOT).any():
            return False
        names = b"\0" + self._names.tobytes()
        return any(piece in names for piece in (b"\0/", b"\0../", b"/../", b"/..\0", b"\0..\0"))

    def is_current(self, classes: Sequence[str], extensions: Sequence[str]) -> bool:
        """Return whether no folder in `folder` has changed since it was listed; OSError where one is gone."""
        if self.header["folder"] != os.path.abspath(self.folder) or self.header["classes"] != list(classes):
            return False
        if self.header["extensions"] != list(extensions):
            return False
        stamps = self.header["stamps"]
        return all(stamp_of(os.path.join(self.folder, inner)) == tuple(stamp) for inner, stamp in stamps)


def _header_length(block: numpy.ndarray) -> int:
    for start in range(0, len(block), 2**16):
        end = block[start : start + 2**16].tobytes().find(b"\n")
        if end >= 0:
            return start + end + 1
    raise ValueError("it has no header")


def list_images(
    folder: str,
    classes: Sequence[str],
    tick: Callable[[], object] = lambda: None,
    decoding: Decoding = AS_PUBLISHED,
) -> ImageIndex:
    """Return the ImageIndex of `folder`, in the order of torchvision's ImageFolder; call `tick()` after each folder.

    UserError for a folder that cannot be listed, and for links that lead back to where they are.
    """
    began = time.time_ns()
    stamps, counts, names, nested = [("", stamp_of(folder))], [], [], 0
    passed_over = _passed_over_beside(folder, classes, decoding)
    for name in classes:
        listed = []
        for inner, stamp, files in walk(os.path.join(folder, name), passed_over.adder(name)):
            stamps.append((os.path.join(name, inner), stamp))
            listed.append((inner, passed_over.sift(files, decoding)))
            tick()
        for inner, files in sorted(listed):
            prefix = os.path.join(inner, "")
            names.append(os.fsencode("".join([prefix + file + "\0" for file in sorted(files)])))
            nested += len(files) if inner else 0
        counts.append(sum(len(files) for _, files in listed))
    is_racy = max(max(stamp) for _, stamp in stamps) > began - RACY_NS
    header = {"format": FORMAT, "folder": os.path.abspath(folder), "classes": list(classes)}
    header.update(extensions=list(decoding.extensions), passed_over=passed_over.as_dict(), nested=nested)
    header["stamps"] = None if is_racy else stamps
    return ImageIndex(_block(header, counts, b"".join(names)), folder)


def _passed_over_beside(folder: str, classes: Sequence[str], decoding: Decoding) -> PassedOver:
    """Return what lies in `folder` beside the class folders."""
    passed_over = PassedOver()
    folders, files = list_top(folder)
    for name in sorted(set(folders) - set(classes)):
        if is_hidden(name):
            passed_over.add_folder(name)
    passed_over.loose = len(passed_over.sift(files, decoding))
    return passed_over


def _block(header: dict[str, Any], counts: Sequence[int], joined: bytes) -> numpy.ndarray:
    names = numpy.frombuffer(joined, numpy.uint8)
    offsets = numpy.append(0, numpy.flatnonzero(names == 0) + 1).astype(numpy.int64)
    targets = numpy.repeat(numpy.arange(len(counts), dtype=numpy.int32), counts)
    checksum = zlib.crc32(names, zlib.crc32(targets, zlib.crc32(offsets)))
    line = json.dumps(dict(header, images=len(targets), bytes=len(names), checksum=checksum))
    line += " " * (-(len(line) + 1) % 8) + "\n"
    block = b"".join([line.encode("ascii"), offsets.tobytes(), targets.tobytes(), names.tobytes()])
    return numpy.frombuffer(block, numpy.uint8)


def find(
    folder: str, classes: Sequence[str], cache: str, tick: Callable[[], object], decoding: Decoding = AS_PUBLISHED
) -> numpy.ndarray:
    """Return the block of the ImageIndex of `folder`, from the folder `cache` if that has a current one."""
    if cache:
        path = cache_path(cache, folder)
        found = _read(path, folder, classes, decoding)
        if found is not None:
            logging.getLogger().info("the images of %s are those of the index in %s", shown(folder), shown(path))
            return found
    return list_images(folder, classes, tick, decoding).block


def cache_path(cache: str, folder: str) -> str:
    """Return the path of the index of `folder` in the folder `cache`."""
    absolute = os.path.abspath(folder)
    digest = hashlib.sha256(os.fsencode(absolute)).hexdigest()[:16]
    return os.path.join(cache, "index.%s.%s" % (os.path.basename(absolute), digest))


def _read(path: str, folder: str, classes: Sequence[str], decoding: Decoding) -> numpy.ndarray | None:
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
        index = ImageIndex(block, folder)
        index.check()
        if index.is_current(classes, decoding.extensions):
            return index.block
        why = "the folder has changed, or other files are asked for"
    except Exception as error:  # a header may be any JSON, and a folder may be gone
        why = printable(str(error)) or type(error).__name__
    logging.getLogger().warning("%s is listed anew: of the index in %s, %s", shown(folder), shown(path), why)
    return None


def _check_trust(status: os.stat_result) -> None:
    """Raise ValueError where another user could have written a file: its labels would be trained on."""
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
        raise ValueError("its owner is another user (%d)" % status.st_uid)
    if hasattr(os, "geteuid") and status.st_mode & _WRITABLE_BY_OTHERS:
        raise ValueError("other users may write to it")


def keep(index: ImageIndex, cache: str) -> None:
    """Write `index` into the folder `cache` for the next run, unless it comes from there, or its folder was changing.

    A warning where it cannot be written.
    """
    path = cache_path(cache, index.folder)
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
