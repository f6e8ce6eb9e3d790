"""Errors that end a program with one line instead of a traceback."""

import difflib


def shown(path):
    """`path` as it is where it can be printed on one line, otherwise in the form $'...' that a shell takes."""
    if path.isprintable():
        return path
    return "$'%s'" % printable(path.replace("\\", "\\\\").replace("'", "\\'"))


def printable(text):
    """`text` with an escape, such as \\n, for each character that cannot be printed on one line."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char):
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is not UTF-8
        return "\\x%02x" % (code - 0xDC00)
    if code < 0x80:
        return char.encode("unicode_escape").decode("ascii")
    return ("\\u%04x" if code < 0x10000 else "\\U%08x") % code


def did_you_mean(word, known):
    """The end of a message that names the one of `known` nearest to `word`; empty where none is near."""
    near = difflib.get_close_matches(word, known, 1)
    return "; did you mean %s?" % near[0] if near else ""


class UserError(ValueError):
    """What the user gave cannot work; the message names the option, path or file and says what to do (exit status 2).

    `one_rank` marks an error that only the raising process can know (an unreadable image, say); every process finds
    the others by itself, so only the first process of each node reports them.
    """

    def __init__(self, message, one_rank=False):
        super().__init__(message)
        self.one_rank = one_rank


class RunError(RuntimeError):
    """The run itself failed, a loss that is not finite for instance (exit status 1); `one_rank` as for UserError."""

    def __init__(self, message, one_rank=False):
        super().__init__(message)
        self.one_rank = one_rank


class NotFiniteError(RunError):
    """A loss is not finite; `facts` says where: epoch, step, ranks, and the images of their batches."""

    def __init__(self, message, facts):
        super().__init__(message)
        self.facts = facts


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked the run to stop, and all ranks do (exit status 128 + `number`)."""

    def __init__(self, number):
        super().__init__("signal %d" % number)
        self.number = number
        self.is_saved = False
