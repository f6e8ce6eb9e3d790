"""Which images a part of a data set holds, kept in one block of memory that ranks and loader processes share."""

from __future__ import annotations

import collections.abc
import json
import os
import zlib
from typing import Any, Sequence

import numpy

from pipeline.decoding import Decoding
from pipeline.passed_over import PassedOver
from pipeline.readers.archives import ArchiveReader
from pipeline.readers.base import Reader
from pipeline.readers.files import FileReader
from pipeline.reading import stamp_of
from pipeline.sources import Source
from runtime.errors import UserError, reason, shown
from storage.files import DEFAULT, Storage, absolute, exists, join
from storage.remote import Stamp, is_url

FORMAT = 4
RACY_NS = 2 * 10**9  # what changed less than this before it is listed may change again within the same time stamp
_SLASH, _DOT = b"/."
_AT_ONCE = 2**16  # images, or bytes of names: an allocator keeps what was freed in large pieces


class ImageIndex(collections.abc.Sequence):
    """(key, class number) of every image of a part: a zero-copy view of `block`, one uint8 array.

    The block is a line of JSON (padded to 8 bytes) and the `arrays` of the form one after the other. Loader processes
    share it: unlike a list of tuples, it is not written to by being read. An exception for another block. `place` is
    where the images lie, `passed_over` tells what was left out, `nested` how many images lie in sub-folders of their
    class.
    """

    form = ""

    def __init__(self, block: numpy.ndarray, source: Source) -> None:
        self.block, self.source, self.place = block, source, source.place
        end = _header_length(block)
        self.header = json.loads(block[:end].tobytes().decode("ascii"))
        if (self.header["format"], self.header["form"]) != (FORMAT, self.form):
            raise ValueError("its format is not %d, %s" % (FORMAT, self.form))
        self.classes = self.header["classes"]
        self.passed_over, self.nested = PassedOver.from_dict(self.header["passed_over"]), int(self.header["nested"])
        self._arrays = {}
        plain = block.view(numpy.ndarray)
        for name, dtype, count in self._layout():
            after = end + count * numpy.dtype(dtype).itemsize
            if count < 0 or after > len(block):
                raise ValueError("it has %d bytes, too few" % len(block))
            self._arrays[name] = plain[end:after].view(dtype)
            end = after
        if end != len(block):
            raise ValueError("it has %d bytes instead of %d" % (len(block), end))
        self.targets = self._arrays["targets"]

    def _layout(self) -> list[tuple[str, Any, int]]:
        """Return (name, type, length) of each array, the most aligned first."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> tuple[Any, int]:  # type: ignore[override]
        count = len(self.targets)
        if not -count <= number < count:
            raise IndexError("image %d of %d" % (number, count))
        number %= count
        target = self.targets[number].item()
        return self._key(number, target), target

    def _key(self, number: int, target: int) -> Any:
        """Return what `reader` opens the image by."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, collections.abc.Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:  # for loader processes that are not forked: the block once, not its parts too
        return type(self), (self.block, self.source)

    def reader(self) -> Reader:
        """Return the Reader that opens the images."""
        return FileReader(self.source.storage)

    def name_of(self, number: int) -> str:
        """Return the name of an image below `place`."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> list[Any]:
        """The number of images, a checksum of their classes, how they are named, and a checksum of their names."""
        return [len(self), zlib.crc32(self.targets), self._naming(), self._checksum_of_names()]

    def _naming(self) -> str:
        """Return a word for the way in which images are named: only names of one way can be compared."""
        return self.form

    def _checksum_of_names(self) -> int:
        return zlib.crc32(self._arrays["names"])

    def class_counts(self) -> numpy.ndarray:
        """Return how many images each class has: int64 (classes,)."""
        counts = numpy.zeros(len(self.classes), numpy.int64)
        for part in spans(len(self)):
            counts += numpy.bincount(self.targets[part], minlength=len(counts))
        return counts

    def empty_classes(self) -> list[int]:
        """Return the numbers of the classes without an image."""
        return numpy.flatnonzero(self.class_counts() == 0).tolist()

    def check(self) -> None:
        """Raise ValueError where the block has changed since it was made, or does not fit together."""
        if self.header["checksum"] != _checksum_of(self.header, self._arrays.values()):
            raise ValueError("its checksum is wrong")
        if len(self) and not 0 <= self.targets.min() <= self.targets.max() < len(self.classes):
            raise ValueError("its class numbers are wrong")

    def is_current(self, classes: Sequence[str] | None, extensions: Sequence[str]) -> bool:
        """Return whether nothing has changed since it was listed for `classes`; OSError where something is gone."""
        header = self.header
        if header["place"] != self.source.identity or header["extensions"] != list(extensions):
            return False
        if header["asked_classes"] != (None if classes is None else list(classes)):
            return False
        return all(_is_unchanged(join(self.place, inner), stamp) for inner, stamp in header["stamps"])


class PathIndex(ImageIndex):
    """Images in files of their own, by their names: `offsets` tells where each begins, a null byte is after each."""

    def _layout(self) -> list[tuple[str, Any, int]]:
        count, size = self.header["images"], self.header["bytes"]
        return [("offsets", numpy.int64, count + 1), ("targets", numpy.int32, count), ("names", numpy.uint8, size)]

    def __init__(self, block: numpy.ndarray, source: Source) -> None:
        super().__init__(block, source)
        self._offsets, self._names = self._arrays["offsets"], self._arrays["names"]

    def _name(self, number: int) -> str:
        start, after = self._offsets[number : number + 2].tolist()
        return os.fsdecode(self._names[start : after - 1].tobytes())

    def check(self) -> None:
        super().check()
        offsets, names = self._offsets, self._names
        starts, ends = offsets[:-1], offsets[1:]
        parts = spans(len(self))
        is_in_order = all((starts[part] < ends[part]).all() for part in parts)
        if offsets[0] != 0 or offsets[-1] != len(names) or not is_in_order:
            raise ValueError("its names are out of order")
        nulls = len(names) - sum(numpy.count_nonzero(names[part]) for part in spans(len(names)))
        if any(names[ends[part] - 1].any() for part in parts) or nulls != len(self):
            raise ValueError("its names do not end where it says")


class FolderIndex(PathIndex):
    """Images in a folder for each class, by their names relative to that."""

    form = "folder"

    def _key(self, number: int, target: int) -> str:
        return os.path.join(self.place, self.classes[target], self._name(number))

    def name_of(self, number: int) -> str:
        return os.path.join(self.classes[self.targets[number]], self._name(number))

    def check(self) -> None:
        super().check()
        if self._escapes():
            raise ValueError("it names files outside of the class folders")

    def _escapes(self) -> bool:
        """Return whether a name is absolute or has a part ".."; that is quick for names without a slash."""
        return any(self._escapes_in(part) for part in spans(len(self)))

    def _escapes_in(self, part: slice) -> bool:
        starts = self._offsets[part]
        names = self._names[starts[0] : self._offsets[part.stop]]
        if not (names == _SLASH).any() and not (names[starts - starts[0]] == _DOT).any():
            return False
        joined = b"\0" + names.tobytes()
        return any(piece in joined for piece in (b"\0/", b"\0../", b"/../", b"/..\0", b"\0..\0"))


class ListIndex(PathIndex):
    """Images that a list names, by their paths relative to the root of the list."""

    form = "list"

    def _key(self, number: int, target: int) -> str:
        return join(self.source.image_root, self._name(number))

    def name_of(self, number: int) -> str:
        return self._name(number)


class FilesIndex(ImageIndex):
    """Images in files that hold many each; the header has (bytes, time) of these "files", and a checksum of "names"."""

    _namer: Reader | None = None  # which may keep names

    def name_of(self, number: int) -> str:
        if self._namer is None:
            self._namer = self.reader()
        return self._namer.name(self[number][0])

    def _checksum_of_names(self) -> int:
        return self.header["names"]

    def is_current(self, classes: Sequence[str] | None, extensions: Sequence[str]) -> bool:
        files = [list(stamp) for stamp in stamps_of(self.source)]
        return super().is_current(classes, extensions) and files == self.header["files"]

    def check(self) -> None:
        super().check()
        if len(self.header["files"]) != len(self.source.paths):
            raise ValueError("it has another number of files")


class ArchiveIndex(FilesIndex):
    """Images in archives, 20 bytes each: the number of the archive, where the image begins there, its size, its class.

    An offset below 0 is that of deflated contents, inverted bit by bit.
    """

    form = "archive"

    def _layout(self) -> list[tuple[str, Any, int]]:
        count, types = self.header["images"], (numpy.int64, numpy.int32, numpy.int32, numpy.uint32)
        return [(name, dtype, count) for name, dtype in zip(("offsets", "targets", "shards", "sizes"), types)]

    def _key(self, number: int, target: int) -> tuple[int, int, int]:
        shard, offset, size = (self._arrays[name][number].item() for name in ("shards", "offsets", "sizes"))
        return shard, offset, size

    def reader(self) -> ArchiveReader:
        stamps = [tuple(stamp) for stamp in self.header["files"]]
        return ArchiveReader(self.source.paths, stamps, self.source.storage)

    def _naming(self) -> str:
        return "labelled archive" if self.header["has_labels"] else self.form

    def check(self) -> None:
        super().check()
        shards = self._arrays["shards"]
        if len(self) and not 0 <= shards.min() <= shards.max() < len(self.source.paths):
            raise ValueError("its archives are wrong")


def stamps_of(source: Source) -> list[Stamp]:
    """Return the Stamp of each file that the user named; UserError for one that is not there."""
    return sure_stamps(source.paths, source.storage)


def sure_stamps(paths: Sequence[str], storage: Storage = DEFAULT) -> list[Stamp]:
    """Return the Stamp of each of the files that the user named; UserError for one that is not there."""
    found: list[Stamp] = []
    for path, stamp in zip(paths, storage.stamps(paths)):
        if isinstance(stamp, OSError):
            raise UserError("%s: %s" % (shown(path), reason(stamp)))
        found.append(stamp)
    return found


def same_images(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether two fingerprints may be of the same images; names are compared where they are of one way."""
    if list(first[:2]) != list(second[:2]):
        return False
    return first[2] != second[2] or first[3] == second[3]


def header_of(
    source: Source,
    classes: Sequence[str],
    asked_classes: Sequence[str] | None,
    decoding: Decoding,
    passed_over: PassedOver,
    nested: int = 0,
) -> dict[str, Any]:
    """Return the header of an index, but for the stamps of what it was made from."""
    header = {"form": source.form, "place": source.identity, "classes": list(classes), "nested": nested}
    header["asked_classes"] = None if asked_classes is None else list(asked_classes)
    return dict(header, extensions=list(decoding.extensions), passed_over=passed_over.as_dict())


def lasting(stamps: Sequence[Any], began: int, files: Sequence[Stamp] = ()) -> Sequence[Any] | None:
    """Return `stamps`; None where something may have changed since the time `began`, when it was to be listed.

    The stamps are pairs of (path, times or None), `files` are Stamps.
    """
    times = [max(stamp) for _, stamp in stamps if stamp is not None] + [time for _, time in files]
    return None if max(times, default=0) > began - RACY_NS else stamps


def stamp_if_there(path: str) -> tuple[str, tuple[int, int] | None]:
    """Return the absolute path and the stamp of a file; None for one that does not exist, and may come to exist."""
    return absolute(path), _stamp_of(path) if exists(path) else None


def _is_unchanged(path: str, stamp: Sequence[int] | None) -> bool:
    return not exists(path) if stamp is None else _stamp_of(path) == tuple(stamp)


def _stamp_of(path: str) -> tuple[int, int]:
    return DEFAULT.stamp(path) if is_url(path) else stamp_of(path)


def spans(length: int) -> list[slice]:
    """Return the slices of a long array, in which it is worked on so that what is computed takes little memory."""
    return [slice(first, min(first + _AT_ONCE, length)) for first in range(0, length, _AT_ONCE)]


def _checksum_of(header: dict[str, Any], arrays: Any) -> int:
    """Return the checksum of a header, but for its own, and of arrays in their order."""
    plain = {name: value for name, value in header.items() if name != "checksum"}
    checksum = zlib.crc32(json.dumps(plain, sort_keys=True).encode("ascii"))
    for array in arrays:
        checksum = zlib.crc32(array, checksum)
    return checksum


def pack(header: dict[str, Any], arrays: Sequence[numpy.ndarray]) -> numpy.ndarray:
    """Return the block of a header and arrays, which stand in the order of their form."""
    header = dict(header, format=FORMAT)
    line = json.dumps(dict(header, checksum=_checksum_of(header, arrays)))
    line += " " * (-(len(line) + 1) % 8) + "\n"
    return numpy.frombuffer(b"".join([line.encode("ascii"), *(array.tobytes() for array in arrays)]), numpy.uint8)


def pack_names(header: dict[str, Any], targets: numpy.ndarray, joined: bytes) -> numpy.ndarray:
    """Return the block of a PathIndex; `joined` has all names, each with a null byte at its end."""
    names = numpy.frombuffer(joined, numpy.uint8)
    offsets = numpy.append(0, numpy.flatnonzero(names == 0) + 1).astype(numpy.int64)
    header = dict(header, images=len(targets), bytes=len(names))
    return pack(header, [offsets, targets.astype(numpy.int32), names])


def _header_length(block: numpy.ndarray) -> int:
    for start in range(0, len(block), 2**16):
        end = block[start : start + 2**16].tobytes().find(b"\n")
        if end >= 0:
            return start + end + 1
    raise ValueError("it has no header")
