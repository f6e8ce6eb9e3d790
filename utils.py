"""The log, text for people, files written atomically, and digests of files."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
import sys
import time
import uuid
from typing import Any, BinaryIO, Callable, Iterator

from tqdm import tqdm

from runtime.errors import UserError, shown

TEMPORARY = ".spach-smlp.%s.tmp"  # the files of `replacing`
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
PREFIX = "[%(asctime)s %(name)s] (%(filename)s %(lineno)d): %(levelname)s %(message)s"

# Values of `extra` for a logger's methods; a line without them is written everywhere.
IN_FULL = {"reader": "log"}  # in the reference's format, for the log file, and for stdout unless it is a terminal
FOR_TERMINAL = {"reader": "terminal"}  # the line that replaces it on a terminal


class _ConsoleHandler(logging.Handler):
    """Handler that writes to stdout around a progress bar; a closed stdout (of a lost terminal) ends no run."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):
            pass


class _LogFileHandler(logging.FileHandler):
    """Handler that writes to a file; a full disk is reported once, and ends no run."""

    is_full = False

    def _open(self):  # the names of files in a line may not be text
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.is_full:
            self.is_full = True
            logging.getLogger().error("%s cannot be written: %s", self.baseFilename, error.strerror)


class _TerminalFormatter(logging.Formatter):
    """Formatter that puts the time of day before a line, and the level before that of a warning or an error."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        if record.levelno > logging.INFO:
            record.message = "%s: %s" % (record.levelname.lower(), record.message)
        return super().formatMessage(record)


def open_log(name: str, is_main: bool) -> logging.Logger:
    """Return the logger `name`, which writes to the console on the first rank and nowhere on the others."""
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO if is_main else logging.ERROR)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # the names of files may not be text
    if not is_main:
        logger.addHandler(logging.NullHandler())
    elif _is_read_on_a_terminal():
        _add_handler(_ConsoleHandler(), _TerminalFormatter(), hides=IN_FULL)
    else:
        _add_handler(_ConsoleHandler(), _full_formatter(), hides=FOR_TERMINAL)
    logging.captureWarnings(True)
    return logging.getLogger(name)


def log_to_file(path: str) -> None:
    """Append all further lines to the file `path`, too."""
    _add_handler(_LogFileHandler(path, encoding="utf-8"), _full_formatter(), hides=FOR_TERMINAL)


def _is_read_on_a_terminal() -> bool:
    """Return whether a person sees stdout, and stderr with its progress bar; a captured log is complete."""
    try:
        return sys.stdout.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _full_formatter() -> logging.Formatter:
    return logging.Formatter(PREFIX, datefmt="%Y-%m-%d %H:%M:%S")


def _add_handler(handler: logging.Handler, formatter: logging.Formatter, hides: dict[str, str]) -> None:
    """Add `handler` to the root logger, without the lines that are logged with the `extra` values `hides`."""
    handler.setFormatter(formatter)
    handler.addFilter(lambda record: getattr(record, "reader", None) != hides["reader"])
    logging.getLogger().addHandler(handler)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; OSError at once for anything else: the other end of a pipe may never come."""
    handle = os.open(path, os.O_RDONLY | _AT_ONCE)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(handle, True)  # a file system may have to fetch the file from slower storage first
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def to_json(value: Any, indent: int | None = None) -> str:
    """Return `value` as valid JSON, with null for NaN and infinity, which JSON does not have."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, with infinity for integers that have hundreds of digits.

    ValueError for any text that is none, and for lists within lists without end.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("lists within lists without end") from None


_MOST_DIGITS = 300  # of an integer: Python takes minutes for millions of them, or refuses


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)  # made once: json.loads would make one for each text


def write_text(path: str, text: str) -> None:
    """Replace the file `path` by `text` atomically; the message of an OSError names the file."""
    try:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def write_json(path: str, value: Any) -> None:
    """Replace the file `path` by `value` as JSON."""
    write_text(path, to_json(value, indent=2) + "\n")


def append_missing_rows(path: str, rows: list[dict[str, Any]]) -> None:
    """Append to a file of one JSON object a line those `rows` whose "epoch" it lacks."""
    lines, known = [], set()
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    for line in lines:
        try:
            known.add(parse_json(line)["epoch"])
        except (ValueError, KeyError, TypeError):
            continue  # an incomplete line, of a machine that crashed: kept, but not counted
    lines += [to_json(row) for row in rows if row["epoch"] not in known]
    write_text(path, "".join(line + "\n" for line in lines))


def clock_text(seconds: float) -> str:
    """Return the duration as h:mm:ss."""
    return str(datetime.timedelta(seconds=int(seconds)))


def check_target(path: str, force: bool) -> None:
    """Raise UserError unless a file `path` can be written; with `force` it may exist already."""
    if os.path.isdir(path):
        raise UserError("%s is a folder: name a file" % path)
    if os.path.lexists(path) and not force:
        raise UserError("%s exists: name another file, or pass --force" % path)
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError("%s: its folder does not exist" % path)


@contextlib.contextmanager
def replacing(path: str, force: bool = True) -> Iterator[str]:
    """Yield the name of a temporary file, to be written, which replaces `path` on exit; it is deleted on an error.

    Its unique name is in the folder of `path`. Without `force`, UserError if `path` exists by then.
    """
    temporary = os.path.join(os.path.dirname(os.path.abspath(path)), TEMPORARY % uuid.uuid4().hex)
    try:
        yield temporary
        if not force:
            check_target(path, force)
        os.replace(temporary, path)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Yield the name of a folder, to be filled, which becomes `path` on exit; it is deleted on an error.

    UserError where `path` is anything but an empty folder, or where a killed process has left such a name.
    """
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UserError("%s exists and is not an empty folder: name a new one" % shown(path))
    unfinished = path.rstrip(os.sep) + ".partial"
    if os.path.lexists(unfinished):
        raise UserError("%s is left of a run that was stopped: remove it" % shown(unfinished))
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if os.path.isdir(path):
        os.rmdir(path)
    os.rename(unfinished, path)


def remove_leftovers(folder: str) -> None:
    """Delete the temporary files of `replacing` that a killed process has left in `folder`."""
    for name in filter(is_leftover, os.listdir(folder)):
        os.unlink(os.path.join(folder, name))


def is_leftover(name: str) -> bool:
    """Return whether `name` is that of a temporary file of `replacing`."""
    prefix, suffix = TEMPORARY.split("%s")
    return re.fullmatch("%s[0-9a-f]{32}%s" % (re.escape(prefix), re.escape(suffix)), name) is not None


def sync_file(path: str) -> None:
    """Wait until the contents of the file are on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def name_by_time(path: str, suffix: str = "", is_taken: Callable[[str], bool] = os.path.lexists) -> str:
    """Return `path` with `suffix` and the time appended: the name of nothing that is there, as `is_taken` tells."""
    stem = path.rstrip(os.sep) + suffix + time.strftime(".%Y%m%d-%H%M%S")
    target, count = stem, 1
    while is_taken(target):
        count += 1
        target = "%s-%d" % (stem, count)
    return target


def sync_folder(folder: str) -> None:
    """Wait until the names in the folder are on the disk, if its file system supports that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def digest_of(file: BinaryIO, digest: Any = None) -> Any:
    """Return the hashlib `digest` (SHA-256 by default) of the rest of an open file."""
    digest = hashlib.sha256() if digest is None else digest
    for block in iter(lambda: file.read(2**20), b""):
        digest.update(block)
    return digest
