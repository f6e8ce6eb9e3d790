"""Patterns that name several archives or Parquet files; importing this module imports neither torch nor Pillow."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re

from pipeline.layout import list_top
from runtime.errors import UserError, shown

_MOST_ARCHIVES = 10**6


def expand(pattern: str) -> list[str]:
    """Return the paths of a pattern: {a,b} and {000..123} are expanded as by a shell, *, ? and [...] match names."""
    paths = []
    for text in _expand_braces(pattern):
        folder, name = os.path.split(text)
        if any(sign in name for sign in "*?["):
            names = _names_in(folder)
            paths += sorted(os.path.join(folder, found) for found in fnmatch.filter(names, name))
        elif text != pattern:
            paths.append(text)
    return paths


def _names_in(folder: str) -> list[str]:
    try:
        folders, files = list_top(folder or ".")
    except UserError:
        return []
    return folders + files


def _expand_braces(pattern: str) -> list[str]:
    pieces = re.split(r"(\{[^{}]*\})", pattern)
    choices: list[list[str]] = []
    for piece in pieces:
        interval = re.fullmatch(r"\{(\d{1,9})\.\.(\d{1,9})\}", piece)
        if interval:
            first, last = interval.groups()
            numbers = range(int(first), min(int(last), int(first) + _MOST_ARCHIVES) + 1)
            choices.append(["%0*d" % (len(first) if first[0] == "0" else 0, number) for number in numbers])
        elif piece.startswith("{") and "," in piece:
            choices.append(piece[1:-1].split(","))
        else:
            choices.append([piece])
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_ARCHIVES:
        raise UserError("%s: over %d names" % (shown(pattern), _MOST_ARCHIVES))
    return ["".join(chosen) for chosen in itertools.product(*choices)]
