"""Lists of images written: train.csv and val.csv, and classes.txt beside them, as pipeline/lists.py reads them."""

from __future__ import annotations

import functools
import os
import re
from typing import Mapping, Sequence

from pipeline.lists import BLANKS, CLASS_NAMES
from runtime.errors import UserError, shown
from utils import write_text

_NEEDS_QUOTES = re.compile('[",\r\n]')


def write_lists(folder: str, data: str, parts: Mapping[str, Sequence[tuple[str, str]]], names: Sequence[str]) -> None:
    """Write a list PART.csv of each part, {part: [(path of an image, label)]}, and classes.txt into a new `folder`.

    The paths in the lists are relative to the folder `data`, which the new one will become. UserError for the name of a
    class that cannot be a line of classes.txt. Bytes of names that are not UTF-8 are written as they are.
    """
    for name in names:
        if name != name.strip(BLANKS) or "\n" in name or not name:
            text = "class %s cannot stand in %s: rename it so that it is one line without blanks around it"
            raise UserError(text % (shown(name), CLASS_NAMES))
    os.makedirs(folder)
    place = _Place(data)
    for part, rows in parts.items():
        lines = ("%s,%s\n" % (_quoted(place.relative(path)), _quoted(label)) for path, label in rows)
        write_text(os.path.join(folder, part + ".csv"), "path,label\n" + "".join(lines))
    write_text(os.path.join(folder, CLASS_NAMES), "".join(name + "\n" for name in names))


def _quoted(text: str) -> str:
    """Return a field of a CSV file; Python before 3.13 leaves a carriage return in one without quotes."""
    return '"%s"' % text.replace('"', '""') if _NEEDS_QUOTES.search(text) else text


class _Place:
    """The folder of a list, and the way from there to images."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.realpath(folder)
        self._real = functools.lru_cache(maxsize=None)(self._way)

    def _way(self, folder: str) -> str:
        return os.path.relpath(os.path.realpath(folder), self._folder)

    def relative(self, path: str) -> str:
        """Return the path of an image from there: links to folders are resolved, for "..", and those to files kept."""
        folder, name = os.path.split(path)
        return os.path.join(self._real(folder), name)
