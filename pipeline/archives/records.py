"""What stands before a member of a tar archive: its long name, and its pax records."""

from __future__ import annotations

from pipeline.archives.base import ArchiveError, brief

LONGEST = 2**20  # bytes of the records before a member
LONG_NAME, PATH, SIZE, SPARSE, SPARSE_NAME = "L", "path", "size", "GNU.sparse", "GNU.sparse.name"
_KEYS = (b"path=", b"size=", b"GNU.sparse.")
_MOST_DIGITS = 20


def long_name(data: bytes) -> dict[str, str]:
    """Return GNU's record of a long name."""
    return {LONG_NAME: to_text(data)}


def pax_records(data: bytes, position: int) -> dict[str, str]:
    """Return those pax records in `data`, at `position` of the archive, on which depends what a member is."""
    found: dict[str, str] = {}
    if not any(key in data for key in _KEYS):  # but times and owners, say
        return found
    start = 0
    while start < len(data) and data[start]:
        space = data.find(b" ", start, start + _MOST_DIGITS)
        digits = data[start:space] if space > 0 else b""
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(data) or not equals or data[end - 1 : end] != b"\n":
            raise ArchiveError("it is damaged at byte %d, within a pax header" % (position + start))
        name = key.decode("utf-8", "surrogateescape")
        if name in (PATH, SIZE, SPARSE_NAME):
            found[name] = value.decode("utf-8", "surrogateescape")
        if name.startswith(SPARSE + "."):
            found[SPARSE] = "yes"
        start = end
    return found


def override(records: dict[str, str], name: str, size: int) -> tuple[str, int, bool]:
    """Return (name, size, whether it is sparse) of a member whose own header says `name` and `size`."""
    name = records.get(SPARSE_NAME) or records.get(PATH) or records.get(LONG_NAME) or name
    digits = records.get(SIZE)
    if digits:
        if not digits.isdecimal() or len(digits) > _MOST_DIGITS:
            raise ArchiveError("it is damaged: the pax header of %s has no right size" % brief(name))
        size = int(digits)
    return name, size, SPARSE in records


def to_text(name: bytes) -> str:
    """Return the name that ends at the first null byte, as Python's functions for files have it."""
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")
