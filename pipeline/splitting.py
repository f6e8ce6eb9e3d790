"""Which images go to train/ and which to val/: by their contents in each class, or by whole groups of them."""

from __future__ import annotations

import collections
import hashlib
import os
import random
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

from pipeline.layout import is_hidden
from pipeline.lists import number_labels, read_class_names, read_rows
from runtime.errors import UserError, reason, shown
from utils import digest_of, open_regular

Parts = Dict[str, Tuple[List[str], List[str]]]  # {class: (paths for train/, paths for val/)}
_MOST_MOVES = 10**5  # of groups, after which no split is expected


class Photos(NamedTuple):
    """Images to split: the names of the classes, the paths of each, {path: group}, and what to add to an error."""

    names: list[str]
    paths_of: dict[str, list[str]]
    groups: dict[str, str]
    remarks: list[str]


def listed_photos(path: str, column: str | None) -> Photos:
    """Return the images of the list `path`, with groups by `column`; UserError for an image that has two labels."""
    rows = list(read_rows(path, column))
    names, numbers = number_labels(
        [row.label for row in rows], [row.line for row in rows], read_class_names(path), path
    )
    paths_of: dict[str, list[str]] = {}
    first: dict[str, tuple[int, str, int]] = {}
    for row, number in zip(rows, numbers.tolist()):
        image = os.path.join(os.path.dirname(path), row.path)
        known = first.setdefault(image, (number, row.group, row.line))
        if known[:2] != (number, row.group):
            text = "%s line %d: line %d has another label or group for %s: remove one of them"
            raise UserError(text % (shown(path), row.line, known[2], shown(row.path)))
        paths_of.setdefault(names[number], []).append(image)
    ordered = {name: paths_of[name] for name in names if name in paths_of}
    groups = {} if column is None else {image: known[1] for image, known in first.items()}
    return Photos(names, ordered, groups, [])


def check_copies(photos: Photos, endings: tuple[str, ...]) -> None:
    """Raise UserError where copies of listed images in folders of their classes would not be the same data set."""
    if photos.names != sorted(photos.paths_of):
        raise UserError("in folders the classes would have other numbers than in the list: pass --list")
    for name, paths in photos.paths_of.items():
        if is_hidden(name) or os.sep in name:
            raise UserError("class %s cannot be the name of a folder of images: pass --list" % shown(name))
        first: dict[str, str] = {}
        for path in paths:
            file = os.path.basename(path)
            if file in first:
                text = "%s and %s have the same name in class %s: pass --list"
                raise UserError(text % (shown(first[file]), shown(path), shown(name)))
            if not file.lower().endswith(endings):
                raise UserError("%s has not the extension of an image: pass --list" % shown(path))
            first[file] = path


def split_photos(photos: Photos, val_fraction: float) -> Parts:
    """Return the two parts of each class, by whole groups where there are some; UserError where that is impossible."""
    digests = {path: _digest(path) for paths in photos.paths_of.values() for path in paths}
    if photos.groups:
        return _by_group(photos.paths_of, _joined(photos.groups, digests), val_fraction)
    return {
        name: _by_content(name, paths, digests, val_fraction, photos.remarks) for name, paths in photos.paths_of.items()
    }


def _digest(path: str) -> str:
    try:
        with open_regular(path) as file:
            return digest_of(file).hexdigest()
    except OSError as error:
        raise UserError("%s cannot be read: %s" % (shown(path), reason(error))) from None


def _by_content(
    name: str, paths: Sequence[str], digests: Mapping[str, str], val_fraction: float, remarks: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return (paths for train/, paths for val/) of a class in the order of their contents, equal files together."""
    copies: dict[str, list[str]] = {}
    for path in paths:
        copies.setdefault(digests[path], []).append(path)
    if len(copies) < 2:
        line = "class %s has %d different images: it takes two or more" % (shown(name), len(copies))
        raise UserError("; ".join([line, *remarks]))
    wanted = _wanted(len(copies), val_fraction)
    ordered = sorted(copies)
    train = [path for digest in ordered[wanted:] for path in copies[digest]]
    return train, [path for digest in ordered[:wanted] for path in copies[digest]]


def _wanted(count: int, val_fraction: float) -> int:
    """Return how many of `count` images of a class are to be in val/: one at least, and not all."""
    return min(max(1, round(val_fraction * count)), count - 1)


def _joined(groups: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, str]:
    """Return {path: group} where groups that have an equal file are one, under the first of their names."""
    parent = {group: group for group in groups.values()}

    def top(group: str) -> str:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    holder: dict[str, str] = {}
    for path, group in groups.items():
        first, second = sorted((top(holder.setdefault(digests[path], group)), top(group)))
        parent[second] = first
    return {path: top(group) for path, group in groups.items()}


def _by_group(paths_of: Mapping[str, Sequence[str]], groups: Mapping[str, str], val_fraction: float) -> Parts:
    counts: dict[str, collections.Counter[str]] = {}
    for name, paths in paths_of.items():
        for path in paths:
            counts.setdefault(groups[path], collections.Counter())[name] += 1
    deal = _Deal(counts, {name: _wanted(len(paths), val_fraction) for name, paths in paths_of.items()})
    deal.fill()
    deal.repair()
    return {
        name: (
            [path for path in paths if groups[path] not in deal.val],
            [path for path in paths if groups[path] in deal.val],
        )
        for name, paths in paths_of.items()
    }


class _Deal:
    """Which groups are in val/ (`val`): `counts` has their images by class, `wanted` those that val/ is to have."""

    def __init__(self, counts: Mapping[str, Mapping[str, int]], wanted: Mapping[str, int]) -> None:
        self.counts, self.missing = counts, dict(wanted)
        self.val: set[str] = set()
        self.order = sorted(counts, key=lambda group: hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest())
        self.groups_of: dict[str, list[str]] = {name: [] for name in wanted}
        for group in self.order:
            for name in counts[group]:
                self.groups_of[name].append(group)
        self.in_val = dict.fromkeys(wanted, 0)  # groups of each class
        self.lacking = dict.fromkeys(wanted)  # classes that are in one part only, in an order that is always the same
        for name, of_class in self.groups_of.items():
            if len(of_class) < 2:
                text = "class %s has %d group: it takes two or more (groups that have an equal image are one)"
                raise UserError(text % (shown(name), len(of_class)))

    def fill(self) -> None:
        """Move each group to val/ that brings it closer to what it is to have, and leaves each class one in train/."""
        for group in self.order:
            if self._excess(group) < 0 and not self._broken(group):
                self._move(group)

    def repair(self) -> None:
        """Move groups until each class has some in both parts; UserError where that does not succeed."""
        source = random.Random(0)
        for _ in range(_MOST_MOVES):
            if not self.lacking:
                return
            choices = self.groups_of[next(iter(self.lacking))]
            free = [group for group in choices if not self._broken(group)]
            if free:
                self._move(min(free, key=self._excess))
            else:  # chance leads out of dead ends
                self._move(choices[int(source.random() * len(choices))])
        text = "class %s: no split by whole groups was found in which each class has images in both parts: "
        text += "add groups that have it, or leave it out"
        raise UserError(text % shown(next(iter(self.lacking))))

    def _excess(self, group: str) -> int:
        """Return by how many images val/ would be further from what it is to have, were the group moved."""
        sign = -1 if group in self.val else 1
        counts = self.counts[group].items()
        return sum(abs(self.missing[name] - sign * count) - abs(self.missing[name]) for name, count in counts)

    def _broken(self, group: str) -> int:
        """Return how many classes would have no group left in the part where the group is, were it moved."""
        if group in self.val:
            return sum(self.in_val[name] == 1 for name in self.counts[group])
        return sum(len(self.groups_of[name]) - self.in_val[name] == 1 for name in self.counts[group])

    def _move(self, group: str) -> None:
        sign = -1 if group in self.val else 1
        self.val ^= {group}
        for name, count in self.counts[group].items():
            self.missing[name] -= sign * count
            self.in_val[name] += sign
            if 0 < self.in_val[name] < len(self.groups_of[name]):
                self.lacking.pop(name, None)
            else:
                self.lacking[name] = None
