"""The regular files in a tar archive, found by reading nothing but its headers."""

from __future__ import annotations

import os
import zlib
from typing import Iterator

from pipeline.archives.base import ArchiveError, Member, Odd, ReadAt, brief, checked_name, read_exactly
from pipeline.archives.records import LONGEST, long_name, override, pax_records, to_text

BLOCK = 512
_ZEROS = bytes(BLOCK)
_MOST_PADDING = 2**20  # bytes after the end mark that are looked at
_ENDING = ".tar"
_UNENDED = "what may follow it: the archive has no end mark, and may be cut off"
_FILES = (b"0", b"\0", b"7")
_FOLDER, _SPARSE, _LONG_NAME, _LONG_LINK, _SHARED = b"5", b"S", b"L", b"K", b"g"
_RECORDS = (_LONG_NAME, _LONG_LINK, _SHARED, b"x", b"X")
_WITHOUT_CONTENTS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", _FOLDER: ""}
_TOOLS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
}


def begins_as_tar(first: bytes) -> bool:
    """Return whether the `first` bytes of a file are those of a tar archive."""
    return len(first) == BLOCK and (first == _ZEROS or _has_right_checksum(first))


def check_not_compressed(first: bytes) -> None:
    """Raise ArchiveError if the `first` bytes of a file are those of a compressed one."""
    for sign, (form, tool) in _TOOLS.items():
        if first.startswith(sign):
            line = "it is compressed by %s, which allows no access to single images: unpack it once, such as by %s"
            raise ArchiveError(line % (form, tool))


def list_tar(read_at: ReadAt, size: int, odd: Odd) -> Iterator[Member]:
    """Yield the regular files of a tar archive of `size` bytes which `read_at` reads, as of `list_members`.

    A tar archive in it is listed in place: its name without ".tar" is the folder of its members.
    """
    for member in _files(read_at, 0, size, odd):
        if member.name.lower().endswith(_ENDING) and os.path.basename(member.name).lower() != _ENDING:
            yield from _list_inner(read_at, member, odd)
        else:
            yield member


def _list_inner(read_at: ReadAt, outer: Member, odd: Odd) -> Iterator[Member]:
    folder = outer.name[: -len(_ENDING)] + "/"
    if not outer.size:
        odd(outer.name, "an empty archive")
    try:
        check_not_compressed(read_at(min(BLOCK, outer.size), outer.offset))
        inner = _files(read_at, outer.offset, outer.offset + outer.size, lambda name, what: odd(folder + name, what))
        for name, offset, size, is_deflated in inner:
            yield Member(folder + name, offset, size, is_deflated)
    except ArchiveError as error:
        raise ArchiveError("its member %s cannot be listed: %s" % (brief(outer.name), error)) from None


def _files(read_at: ReadAt, start: int, end: int, odd: Odd) -> Iterator[Member]:
    """Yield the regular files of the tar archive in the bytes from `start` to `end`."""
    for kind, name, offset, size, is_sparse in _entries(read_at, start, end, odd):
        if is_sparse:
            odd(name, "sparse")
        elif kind in _FILES:
            if not name.endswith("/"):
                name = checked_name(name, odd)
                if name:
                    yield Member(name, offset, size, False)
        elif kind != _FOLDER:
            odd(name, _WITHOUT_CONTENTS.get(kind, "of an unknown type"))


def _entries(read_at: ReadAt, position: int, end: int, odd: Odd) -> Iterator[tuple[bytes, str, int, int, bool]]:
    """Yield (kind, name, offset, size, whether it is sparse) of each member of the tar archive in those bytes."""
    shared: dict[str, str] = {}  # pax records of all members that follow
    own: dict[str, str] = {}  # records of the next member alone
    name = ""
    while True:
        header = _read_header(read_at, position, end)
        if not header:
            break
        kind, size = header[156:157], _number(header[124:136])
        position += BLOCK
        if kind in _RECORDS:
            _check_contents(position, size, end, "a long name")
            records = _read_records(read_at, kind, position, size)
            (shared if kind == _SHARED else own).update(records)
        else:
            name, is_sparse = _name(header), False
            if own or shared:
                name, size, is_sparse = override(dict(shared, **own), name, size)
                own = {}
            if kind == _SPARSE:
                position, is_sparse = _after_map(read_at, header, position, end), True
            if kind in _WITHOUT_CONTENTS:
                size = 0
            _check_contents(position, size, end, name)
            yield kind, name, position, size, is_sparse
        position += size + -size % BLOCK
    if own:
        raise _cut_off(end, "a member should follow its name")
    if name and position >= end:
        odd(name, _UNENDED)


def _read_header(read_at: ReadAt, position: int, end: int) -> bytes:
    """Return the header at `position`, its checksum verified; b"" at the end of the archive."""
    if position + BLOCK <= end:
        header = read_exactly(read_at, BLOCK, position)
        if header != _ZEROS:
            if not _has_right_checksum(header):
                raise ArchiveError("it is damaged: the header at byte %d has a wrong checksum" % position)
            return header
    if position > end:
        raise _cut_off(end, "a member should continue until byte %d" % position)
    rest = read_exactly(read_at, min(end - position, _MOST_PADDING), position)
    more = rest.lstrip(b"\0")
    if more and len(rest) < BLOCK:
        raise _cut_off(end, "a header begins at byte %d" % position)
    if more:
        line = (
            "it continues at byte %d, after its end mark at byte %d: it is damaged, or two archives were joined by cat"
        )
        raise ArchiveError(line % (position + len(rest) - len(more), position))
    return b""


def _read_records(read_at: ReadAt, kind: bytes, position: int, size: int) -> dict[str, str]:
    """Return the records of that `kind` in the `size` bytes at `position` which change a member's name or size."""
    if kind == _LONG_LINK:
        return {}
    if size > LONGEST:
        raise ArchiveError("it has a name or header of %d bytes at byte %d: at most %d" % (size, position, LONGEST))
    data = read_exactly(read_at, size, position)
    return long_name(data) if kind == _LONG_NAME else pax_records(data, position)


def _after_map(read_at: ReadAt, header: bytes, position: int, end: int) -> int:
    """Return where the blocks end that continue the map of a sparse member."""
    continues = header[482]
    while continues:
        if position + BLOCK > end:
            raise _cut_off(end, "the map of a sparse member is not complete")
        continues = read_exactly(read_at, BLOCK, position)[504]
        position += BLOCK
    return position


def _check_contents(position: int, size: int, end: int, name: str) -> None:
    if size < 0:
        raise ArchiveError("it is damaged: the header at byte %d has no right size" % (position - BLOCK))
    if position + size > end:
        raise _cut_off(end, "%s has %d bytes from byte %d" % (brief(name), size, position))


def _cut_off(end: int, why: str) -> ArchiveError:
    return ArchiveError("it is damaged, or cut off at byte %d: %s" % (end, why))


def _has_right_checksum(header: bytes) -> bool:
    """Return whether the sum of the bytes is what a header says; some programs take them as signed."""
    field = header[148:156]
    stored = _number(field)
    others = stored - 8 * ord(" ")  # for the sum, the field itself is full of spaces
    # The lower half of Adler-32 is 1 and the sum of all bytes, modulo 65521: by far the quickest way to it.
    if zlib.adler32(header) & 0xFFFF == (1 + others + sum(field)) % 65521:
        return stored >= 0
    return sum(header) - 256 * sum(byte > 127 for byte in header) == others + sum(field)


def _number(field: bytes) -> int:
    """Return the number in a field of a header, octal or base-256; -1 where it holds none."""
    if field[0] & 0x80:
        return -1 if field[0] & 0x40 else int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    try:
        return int(field.partition(b"\0")[0] or b"0", 8)
    except ValueError:
        return -1 if field.strip(b"\0 ") else 0


def _name(header: bytes) -> str:
    prefix = header[345:500]
    if prefix[0] and header[257:263] == b"ustar\0":
        return to_text(prefix) + "/" + to_text(header[:100])
    return to_text(header[:100])
