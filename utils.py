"""The log, text for people, and files that are written whole or not at all."""

import contextlib
import datetime
import json
import logging
import os
import sys
import uuid

from tqdm import tqdm

from runtime.errors import UserError

PREFIX = "[%(asctime)s %(name)s] (%(filename)s %(lineno)d): %(levelname)s %(message)s"


class _ConsoleHandler(logging.Handler):
    """Lines on stdout that leave a progress bar intact; a closed stdout (a terminal that is gone) ends no run."""

    def emit(self, record):
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):
            pass


class _LogFileHandler(logging.FileHandler):
    """Lines in a file; a full disk is said once, and ends no run."""

    is_full = False

    def _open(self):  # a file's name may be no text
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors="backslashreplace")

    def handleError(self, record):  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.is_full:
            self.is_full = True
            logging.getLogger().error("%s cannot be written: %s", self.baseFilename, error.strerror)


def open_log(name, is_main):
    """The logger `name`, which writes to the console on the first rank and nowhere on the others."""
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO if is_main else logging.ERROR)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    _add_handler(_ConsoleHandler() if is_main else logging.NullHandler())
    logging.captureWarnings(True)
    return logging.getLogger(name)


def log_to_file(path):
    """Append all further lines to the file `path`, too."""
    _add_handler(_LogFileHandler(path, encoding="utf-8"))


def _add_handler(handler):
    handler.setFormatter(logging.Formatter(PREFIX, datefmt="%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)


def write_text(path, text):
    """Replace the file `path` by `text` without ever leaving half of it."""
    temporary = path + ".tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror, path) from None


def write_json(path, value):
    """Replace the file `path` by `value` as JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_missing_rows(path, rows):
    """Append to a file of one JSON a line those `rows` whose "epoch" it lacks."""
    lines, known = [], set()
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    for line in lines:
        try:
            known.add(json.loads(line)["epoch"])
        except (ValueError, KeyError, TypeError):
            continue  # half a line, from a machine that went down: kept, but not counted
    lines += [json.dumps(row) for row in rows if row["epoch"] not in known]
    write_text(path, "".join(line + "\n" for line in lines))


def clock_text(seconds):
    """h:mm:ss."""
    return str(datetime.timedelta(seconds=int(seconds)))


def check_target(path, force):
    """UserError unless a file `path` can be written; one that is there may be replaced with `force` alone."""
    if os.path.isdir(path):
        raise UserError("%s is a folder: name a file" % path)
    if os.path.lexists(path) and not force:
        raise UserError("%s exists: name another file, or pass --force" % path)
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError("%s: its folder does not exist" % path)


@contextlib.contextmanager
def replacing(path, force):
    """The name of a file to write, which becomes `path` at the end, as `check_target` allows; after an error it is
    deleted."""
    staged = "%s.%s.tmp" % (os.path.abspath(path), uuid.uuid4().hex)
    try:
        yield staged
        check_target(path, force)  # what was written may have taken minutes
        os.replace(staged, path)
    finally:
        if os.path.exists(staged):
            os.unlink(staged)
