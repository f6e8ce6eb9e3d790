"""What the listings of tar and zip archives have in common."""

from __future__ import annotations

from typing import Callable, NamedTuple

from runtime.errors import shown

ReadAt = Callable[[int, int], bytes]  # the bytes (size, position) of a file, fewer at its end
Odd = Callable[[str, str], object]  # called with the name of a member that is not used, and what it is

NAMELESS = "without a name that a file can have"
OUTSIDE = "leads out of the archive"
_LONGEST_SHOWN = 300


class Member(NamedTuple):
    """A regular file in an archive: `size` bytes at `offset` of the archive, which may be deflated."""

    name: str
    offset: int
    size: int
    is_deflated: bool


class ArchiveError(Exception):
    """An archive that cannot be listed: its text is one line that says why, without the archive's path."""


def checked_name(name: str, odd: Odd) -> str:
    """Return the name of a member without its parts that lead nowhere, such as "./"; "" after a call of `odd`."""
    framed = "/%s/" % name
    if "//" not in framed and "/." not in framed and "\0" not in name:
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        odd(name, OUTSIDE)
        return ""
    if "\0" in name or not parts:
        odd(name, NAMELESS)
        return ""
    return "/".join(parts)


def brief(name: str) -> str:
    """Return the name of a member for a message: printable, and no longer than one can read."""
    return shown(name if len(name) <= _LONGEST_SHOWN else "[...]" + name[-_LONGEST_SHOWN:])


def read_exactly(read_at: ReadAt, size: int, position: int) -> bytes:
    """Return the `size` bytes at `position` of a file, which are there unless it has become shorter."""
    data = read_at(size, position)
    if len(data) < size:
        raise ArchiveError("it became shorter while it was listed: it ends at byte %d" % (position + len(data)))
    return data
