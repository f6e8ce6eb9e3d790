"""Errors that end a program with one line instead of a traceback, and the text of others on one line."""

from __future__ import annotations

import difflib
from typing import Any, Iterable

_PEER_SIGNS = ("closed by peer", "Connection reset", "Broken pipe", "Socket Timeout", "NCCL", "HCCL", "Gloo", "gloo")
_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


def shown(path: str) -> str:
    """Return `path`, in the shell's form $'...' unless it can be printed on one line."""
    if path.isprintable():
        return path
    return "$'%s'" % printable(path.replace("\\", "\\\\").replace("'", "\\'"))


def printable(text: str) -> str:
    """Return `text` with an escape, such as \\n, for each character that cannot be printed on one line."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is not UTF-8
        return "\\x%02x" % (code - 0xDC00)
    if code < 0x80:
        return char.encode("unicode_escape").decode("ascii")
    return ("\\u%04x" if code < 0x10000 else "\\U%08x") % code


def one_line(text: str, longest: int = 1500) -> str:
    """Return `text` as one printable line, with its middle left out if it is longer than `longest` characters."""
    text = printable(" ".join(line.strip() for line in text.splitlines()))
    return text if len(text) <= longest else "%s [...] %s" % (text[: longest - 400], text[-400:])


def reason(error: BaseException) -> str:
    """Return why `error` was raised, on one line: its operating system message, its text, or the name of its class."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the machine ran out of memory."""
    has_sign = isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in _MEMORY_SIGNS)
    return has_sign or isinstance(error, MemoryError)


def failed_to_compile(error: BaseException) -> bool:
    """Return whether torch.compile raised `error`."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def lost_a_peer(error: BaseException) -> bool:
    """Return whether `error` stands for another rank that has died or cannot continue: that rank reports the cause."""
    if isinstance(error, PeerError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PEER_SIGNS)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the closest of `known`; empty if none is close to `word`."""
    near = difflib.get_close_matches(word, list(known), 1)
    return "; did you mean %s?" % near[0] if near else ""


class UserError(ValueError):
    """Bad input: the message names the option, path or file, and what to do about it (exit status 2).

    `one_rank` marks an error that only the raising process detects, such as an unreadable image; all processes detect
    the others, so only the first process of each machine reports them.
    """

    def __init__(self, message: str, one_rank: bool = False) -> None:
        super().__init__(message)
        self.one_rank = one_rank


class RunError(RuntimeError):
    """A failure of the run itself, such as a lost process (exit status 1); `one_rank` as for UserError."""

    def __init__(self, message: str, one_rank: bool = False) -> None:
        super().__init__(message)
        self.one_rank = one_rank


class PeerError(RuntimeError):
    """Another rank cannot continue, and reports why."""


class NotFiniteError(RunError):
    """A loss is not finite; `facts` holds the epoch, step, ranks and images of the batches."""

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal stops the run on all ranks (exit status 128 + `number`)."""

    def __init__(self, number: int) -> None:
        super().__init__("signal %d" % number)
        self.number = number
        self.is_saved = False
