"""Lists of images with their labels (CSV, TSV, JSONL, text); importing this module imports neither numpy nor torch."""

from __future__ import annotations

import csv
import functools
import io
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Iterable, Iterator, NamedTuple, Sequence

from pipeline.layout import names_text
from runtime.errors import UserError, did_you_mean, reason, shown
from storage.files import DEFAULT, Storage, exists
from utils import parse_json, to_json

if TYPE_CHECKING:
    import numpy

ENDINGS = (".csv", ".tsv", ".jsonl", ".txt")
CLASS_NAMES = "classes.txt"
BLANKS = " \t\r\n\ufeff"  # around a label or the name of a class, where they are no part of it
_LONGEST_LINE = 2**20  # characters
_MOST_SEARCHED = 20000  # names among which a near match is looked for
_MOST_CLASSES = 10**7  # where numbers alone tell how many classes there are
_LONGEST_SHOWN = 200
_INTEGER = re.compile("-?[0-9]+")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class ListRow(NamedTuple):
    """An image of a list: its path as it stands there, its label as text, the line, and the value of another column."""

    path: str
    label: str
    line: int
    group: str = ""


def is_list(path: str) -> bool:
    """Return whether a path is that of a list, by its ending."""
    return path.lower().endswith(ENDINGS)


def read_rows(path: str, column: str | None = None, storage: Storage = DEFAULT) -> Iterator[ListRow]:
    """Yield the rows of the list `path`, the value of `column` as their group; UserError names the line at fault.

    The bytes of a path or label that are not UTF-8 are kept as Python keeps those of file names; JSON has none.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise UserError("%s is no list: name a file that ends in %s" % (shown(path), ", ".join(ENDINGS)))
    count = 0
    try:
        with storage.open(path) as file:
            for row in _parsed(file, path, ending, column):
                count += 1
                yield row
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (shown(path), reason(error))) from None
    if not count:
        raise UserError("%s lists no images: write one a line" % shown(path))


def _parsed(file: BinaryIO, path: str, ending: str, column: str | None) -> Iterator[ListRow]:
    lines = _lines(file, path)
    if ending == ".jsonl":
        return _json_rows(lines, path, column)
    if ending != ".txt":
        return _table_rows(lines, path, "\t" if ending == ".tsv" else ",", column)
    if column is not None:
        raise UserError("%s has no column %s: a .txt list has paths and labels alone" % (shown(path), _brief(column)))
    return _text_rows(lines, path)


def _lines(file: BinaryIO, path: str) -> Iterator[str]:
    """Yield the lines with their ends, without a byte order mark; only a line feed ends one."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="\n")
    for line, content in enumerate(iter(functools.partial(text.readline, _LONGEST_LINE + 1), ""), 1):
        if len(content) > _LONGEST_LINE:
            raise _bad(path, line, "it is longer than %d characters: a list has an image a line" % _LONGEST_LINE)
        if "\0" in content:
            raise _bad(path, line, "it has a null byte: save the list as text in UTF-8")
        yield content if line > 1 else content.lstrip("\ufeff")


def _bad(path: str, line: int | str, text: str) -> UserError:
    place = line if isinstance(line, str) else "%s line %d" % (shown(path), line)
    return UserError("%s: %s" % (place, text))


def _brief(text: str) -> str:
    return shown(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")


def _table_rows(lines: Iterable[str], path: str, delimiter: str, column: str | None) -> Iterator[ListRow]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    places: tuple[int, int, int] | None = None
    line, width = 1, 0
    try:
        for fields in reader:
            if len(fields) < 2 and not "".join(fields).strip(BLANKS):
                pass
            elif places is None:
                places, width = _places(fields, path, line, delimiter, column), len(fields)
            elif len(fields) != width:
                text = "it has %d columns and the header %d: quote what holds a %s, or correct the row"
                raise _bad(path, line, text % (len(fields), width, _delimiter_name(delimiter)))
            else:
                group = "" if column is None else fields[places[2]]
                yield _row(path, line, fields[places[0]], fields[places[1]], column, group)
            line = reader.line_num + 1
    except csv.Error as error:
        text = "it cannot be parsed (%s): close each quote, end each line by a line feed"
        raise _bad(path, line, text % reason(error)) from None


def _delimiter_name(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else "comma"


def _places(fields: Sequence[str], path: str, line: int, delimiter: str, column: str | None) -> tuple[int, int, int]:
    """Return where the columns path, label and `column` stand in the header `fields`."""
    found = [field.strip(BLANKS) for field in fields]
    needed = ["path", "label"] + ([] if column is None else [column])
    for name in needed:
        if found.count(name) == 1:
            continue
        if name in found:
            raise _bad(path, line, "the header has the column %s twice: rename one" % _brief(name))
        names = names_text([_brief(field) for field in found])
        text = "the header has the columns %s and not %s: it names the columns, %s among them, with a %s between"
        raise _bad(path, line, text % (names, _brief(name), " and ".join(needed), _delimiter_name(delimiter)))
    return found.index("path"), found.index("label"), found.index(needed[-1])


def _row(path: str, line: int, image: str, label: str, column: str | None, group: str) -> ListRow:
    label, group = label.strip(BLANKS), group.strip(BLANKS)
    if not image or image.isspace():
        raise _bad(path, line, "the path is empty: write that of an image")
    if not label:
        raise _bad(path, line, "the label is empty: write the name or the number of a class")
    if column is not None and not group:
        raise _bad(path, line, "the column %s is empty: give each image its group" % _brief(column))
    return ListRow(image, label, line, group)


def _text_rows(lines: Iterable[str], path: str) -> Iterator[ListRow]:
    for line, text in enumerate(lines, 1):
        text = text.rstrip(BLANKS)
        if not text:
            continue
        place = max(text.rfind(" "), text.rfind("\t")) + 1
        label = text[place:]
        if _number(label) < 0:
            hint = "it must end in a blank and the number of a class, not in %s; labels by name need .csv or .jsonl"
            raise _bad(path, line, hint % _brief(label))
        yield _row(path, line, text[:place].rstrip(BLANKS), label, None, "")


def _json_rows(lines: Iterable[str], path: str, column: str | None) -> Iterator[ListRow]:
    for line, text in enumerate(lines, 1):
        if text.isspace():
            continue
        if not text.isascii() and _ESCAPED_BYTE.search(text):
            raise _bad(path, line, "it is not UTF-8: save the list in UTF-8")
        try:
            value = parse_json(text)
        except ValueError as error:
            raise _bad(path, line, "it is no JSON (%s): write one object a line" % reason(error)) from None
        if not isinstance(value, dict):
            raise _bad(path, line, 'it is no object: write {"path": ..., "label": ...}')
        image = _json_text(value, "path", path, line)
        label = _json_text(value, "label", path, line)
        group = "" if column is None else _json_text(value, column, path, line)
        yield _row(path, line, image, label, column, group)


def _json_text(row: dict[str, Any], key: str, path: str, line: int) -> str:
    if key not in row:
        text = "it has the keys %s and not %s: each row needs path and label%s"
        more = "" if key in ("path", "label") else " and " + _brief(key)
        raise _bad(path, line, text % (names_text([_brief(name) for name in row]) or "of nothing", _brief(key), more))
    value = row[key]
    is_integer = isinstance(value, int) and not isinstance(value, bool) and key != "path"
    if not isinstance(value, str) and not is_integer:
        kinds = "a string" if key == "path" else "a string or an integer"
        raise _bad(path, line, "%s is %s: write %s" % (_brief(key), _brief(to_json(value)), kinds))
    text = str(value)
    if "\0" in text or not _is_storable(text):
        raise _bad(path, line, "%s has a character that no file name can have: remove it" % _brief(key))
    return text


def _is_storable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def class_names_path(path: str) -> str:
    """Return the path of the file that may name the classes beside the list or archive `path`."""
    return os.path.join(os.path.dirname(path), CLASS_NAMES)


def read_class_names(path: str) -> list[str] | None:
    """Return the names of the classes in classes.txt beside the list `path`, one a line; None where there is none."""
    path = class_names_path(path)
    if not exists(path):
        return None
    try:
        with DEFAULT.open(path) as file:
            names = [text.strip(BLANKS) for text in _lines(file, path)]
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (shown(path), reason(error))) from None
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError("%s is empty: write the name of a class a line, or remove it" % shown(path))
    first: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name:
            raise _bad(path, line, "the name is empty: write the name of a class on each line")
        if first.setdefault(name, line) != line:
            raise _bad(path, line, "class %s is on line %d already: remove one" % (_brief(name), first[name]))
    return names


def number_labels(
    labels: Sequence[str], lines: Sequence[int] | Sequence[str], names: Sequence[str] | None, source: str
) -> tuple[list[str], numpy.ndarray]:
    """Return (the names of the classes, the class number of each label as int32) of the list `source`.

    `lines` are the lines of the list `source` in which the labels stand, or the whole names of other places.

    Each label is one of `names`, or a number from 0. Without `names`, labels that are all numbers are those of the
    classes; otherwise the sorted labels are the names. UserError with the line of a label that is neither.
    """
    import numpy  # not before: a --help does not wait for it

    distinct = set(labels)
    by_number = names is None and all(_INTEGER.fullmatch(label) for label in distinct)
    most = min(_MOST_CLASSES, 100 * len(labels) + 1000) - 1
    if by_number:
        table = {label: _number(label) for label in distinct if 0 <= _number(label) <= most}
        names = [str(number) for number in range(max(table.values(), default=-1) + 1)]
    else:
        names = sorted(distinct) if names is None else list(names)
        table = _numbers_by_name(distinct, names)
    if len(table) < len(distinct):
        place = next(place for place, label in enumerate(labels) if label not in table)
        if by_number:
            text = "label %s is no class number: %d rows have numbers from 0 to at most %d; classes.txt names more"
            raise _bad(source, lines[place], text % (_brief(labels[place]), len(labels), most))
        text = "label %s is none of the %d classes, and no number from 0 to %d%s"
        near = did_you_mean(labels[place], names[:_MOST_SEARCHED])
        raise _bad(source, lines[place], text % (_brief(labels[place]), len(names), len(names) - 1, near))
    return names, numpy.fromiter(map(table.__getitem__, labels), numpy.int32, len(labels))


def _numbers_by_name(labels: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """Return {label: class number} of those `labels` that are among `names`, or numbers of them.

    Where names are numbers themselves, a number that is none of them could be counted from 0 or 1: it is not taken.
    """
    table = {name: number for number, name in enumerate(names)}
    has_numbers = any(_number(name) >= 0 for name in names)
    found = {}
    for label in labels:
        number = table.get(label, _number(label))
        is_named = label in table or not has_numbers or names[number : number + 1] == [str(number)]
        if is_named and 0 <= number < len(names):
            found[label] = number
    return found


def _number(text: str) -> int:
    """Return the number that `text` is in decimal digits; -1 for any other text and a number of 19 digits."""
    return int(text) if len(text) < 19 and text.isascii() and text.isdecimal() else -1
