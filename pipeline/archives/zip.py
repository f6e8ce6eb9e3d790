"""The regular files in a zip archive, found by the directory at its end."""

from __future__ import annotations

import stat
import struct
from typing import Iterator, NamedTuple

from pipeline.archives.base import ArchiveError, Member, Odd, ReadAt, brief, checked_name, read_exactly

_SIGNS = (b"PK\3\4", b"PK\5\6")
_ENTRY = struct.Struct("<4s4B4H3L5H2L")
_ENTRY_SIGN, _HEADER_SIGN, _END_SIGN = b"PK\1\2", b"PK\3\4", b"PK\5\6"
_END = struct.Struct("<4s4H2LH")
_END64_SIGN, _END64 = b"PK\6\6", struct.Struct("<4sQ2H2L4Q")
_LOCATOR_SIGN, _LOCATOR = b"PK\6\7", struct.Struct("<4sLQL")
_HEADER = struct.Struct("<4s22x2H")
_LONGEST_COMMENT = _LONGEST_NAME = _LONGEST_EXTRA = 2**16 - 1
_LONGEST_ENTRY = _ENTRY.size + _LONGEST_NAME + _LONGEST_EXTRA + _LONGEST_COMMENT
_AT_ONCE = 2**20  # bytes of the directory
_IN_EXTRA = 2**32 - 1  # instead of a size or an offset that is a 64-bit number in the extra field
_UNIX, _STORED, _DEFLATED = 3, 0, 8
_ENCRYPTED, _UTF8 = 1, 0x800  # flags


class _Directory(NamedTuple):
    """The bytes of the directory, from `start` to `end`, and how many members it lists."""

    start: int
    end: int
    entries: int


class _Entry(NamedTuple):
    """A member as the directory describes it."""

    name: str
    kind: int  # a file type of `stat`, 0 for none
    flags: int
    method: int
    size: int
    expanded: int
    header: int


def begins_as_zip(first: bytes) -> bool:
    """Return whether the `first` bytes of a file are those of a zip archive."""
    return first.startswith(_SIGNS)


def list_zip(read_at: ReadAt, size: int, odd: Odd) -> Iterator[Member]:
    """Yield the regular files of a zip archive of `size` bytes, which `read_at` reads, as of `list_members`."""
    directory = _find_directory(read_at, size)
    for entry in _entries(read_at, directory):
        what = _what_is_odd(entry)
        if what:
            odd(entry.name, what)
        elif not entry.name.endswith("/"):
            name = checked_name(entry.name, odd)
            if name:
                offset = _contents_of(read_at, entry, directory)
                yield Member(name, offset, entry.size, entry.method == _DEFLATED)


def _what_is_odd(entry: _Entry) -> str:
    if entry.kind == stat.S_IFLNK:
        return "a link"
    if entry.kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device"
    if entry.flags & _ENCRYPTED:
        return "encrypted"
    if entry.method not in (_STORED, _DEFLATED):
        return "compressed by another method than deflate"
    return ""


def _contents_of(read_at: ReadAt, entry: _Entry, directory: _Directory) -> int:
    """Return where the contents of a member begin: its own header may be longer than the directory says."""
    if not 0 <= entry.header <= directory.start - _HEADER.size:
        raise _damaged(directory.start, "%s lies beyond it" % brief(entry.name))
    sign, name, extra = _HEADER.unpack(read_exactly(read_at, _HEADER.size, entry.header))
    offset = entry.header + _HEADER.size + name + extra
    if sign != _HEADER_SIGN:
        raise _damaged(entry.header, "the header of %s should begin there" % brief(entry.name))
    if offset + entry.size > directory.start or (entry.method == _STORED and entry.size != entry.expanded):
        raise _damaged(entry.header, "%s cannot have %d bytes there" % (brief(entry.name), entry.size))
    return offset


def _find_directory(read_at: ReadAt, size: int) -> _Directory:
    """Return where the directory of the archive of `size` bytes is."""
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = read_exactly(read_at, size - start, start)
    at = tail.rfind(_END_SIGN, 0, len(tail) - _END.size + len(_END_SIGN))
    if at < 0:
        raise ArchiveError("it is damaged, or cut off at byte %d: it has no directory at its end" % size)
    _, disk, _, _, count, length, offset, _ = _END.unpack_from(tail, at)
    end = start + at
    locator = end - _LOCATOR.size
    if locator >= 0 and read_at(len(_LOCATOR_SIGN), locator) == _LOCATOR_SIGN:
        end, disk, count, length, offset = _read_end64(read_at, locator)
    if disk:
        raise ArchiveError("it is one of several parts: join them to one archive")
    if offset + length != end:  # the end record of a zip archive within a member of one that was cut off, say
        raise _damaged(end, "a directory of %d bytes should lie before it, at byte %d" % (length, offset))
    return _Directory(offset, end, count)


def _read_end64(read_at: ReadAt, locator: int) -> tuple[int, int, int, int, int]:
    """Return (position, disk, count, length, offset) of the 64-bit end record, before whose `locator` it lies."""
    position = locator - _END64.size
    if position >= 0:
        sign, _, _, _, disk, _, _, count, length, offset = _END64.unpack(read_exactly(read_at, _END64.size, position))
        if sign == _END64_SIGN:
            return position, disk, count, length, offset
    raise _damaged(locator, "a 64-bit end record should lie before it")


def _entries(read_at: ReadAt, directory: _Directory) -> Iterator[_Entry]:
    """Yield the members that the directory lists."""
    position, count, block, at = directory.start, 0, b"", 0
    while position < directory.end:
        left = len(block) - at
        if left < _LONGEST_ENTRY and position + left < directory.end:
            block, at = read_exactly(read_at, min(_AT_ONCE, directory.end - position), position), 0
        if at + _ENTRY.size > len(block):
            raise _damaged(position, "its directory is not complete")
        fields = _ENTRY.unpack_from(block, at)
        name, extra, comment = fields[12:15]
        length = _ENTRY.size + name + extra + comment
        if fields[0] != _ENTRY_SIGN or at + length > len(block):
            raise _damaged(position, "an entry of its directory should lie there")
        names = at + _ENTRY.size
        yield _entry(fields, block[names : names + name], block[names + name : names + name + extra])
        position, at, count = position + length, at + length, count + 1
    if (count - directory.entries) % 2**16:  # some programs count no further than 16 bits do
        raise _damaged(directory.end, "its directory lists %d members instead of %d" % (count, directory.entries))


def _entry(fields: tuple, name: bytes, extra: bytes) -> _Entry:
    system, flags, method, attributes = fields[2], fields[5], fields[6], fields[17]
    size, expanded, header = fields[10], fields[11], fields[18]
    if _IN_EXTRA in (size, expanded, header):
        expanded, size, header = _extended(extra, [expanded, size, header])
    is_utf8 = flags & _UTF8 or name.isascii()
    text = name.decode("utf-8", "surrogateescape") if is_utf8 else name.decode("cp437")
    kind = stat.S_IFMT(attributes >> 16) if system == _UNIX else 0
    return _Entry(text.partition("\0")[0], kind, flags, method, size, expanded, header)


def _extended(extra: bytes, values: list[int]) -> list[int]:
    """Return `values` with those that do not fit into 32 bits taken from the extra field."""
    at = 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        if number == 1:
            wide = list(struct.unpack_from("<%dQ" % (length // 8), extra.ljust(at + 4 + length, b"\0"), at + 4))
            return [wide.pop(0) if value == _IN_EXTRA and wide else value for value in values]
        at += 4 + length
    return values


def _damaged(position: int, why: str) -> ArchiveError:
    return ArchiveError("it is damaged at byte %d: %s" % (position, why))
