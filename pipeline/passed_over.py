"""What a listing of images passes over: files that are no images by their names, and hidden folders."""

from __future__ import annotations

import collections
import os
import re
from typing import Any, Callable, Iterable, Mapping, Sequence

from pipeline.decoding import Decoding, missing_packages, readable_extensions
from pipeline.reading import walk
from runtime.errors import shown

_MOST_KINDS, _MOST_FOLDERS = 1000, 20  # that are named; all are counted
_SHOWN = 10
_OTHER = "others"


class PassedOver:
    """The files that are passed over, counted by extension, and the hidden folders, of which the first are named.

    `loose` counts the images that lie beside the class folders, in no class. `odd` has what else an archive holds that
    is not used: {what it is: [how often, the name of the first]}.
    """

    def __init__(self) -> None:
        self.kinds: collections.Counter[str] = collections.Counter()
        self.folders: list[str] = []
        self.folder_count = 0
        self.loose = 0
        self.odd: dict[str, list[Any]] = {}

    def add_files(self, names: Iterable[str]) -> None:
        """Count files by their names."""
        for name in names:
            kind = kind_of(name)
            self.kinds[kind if kind in self.kinds or len(self.kinds) < _MOST_KINDS else _OTHER] += 1

    def sift(self, names: Sequence[str], decoding: Decoding) -> list[str]:
        """Return those names that are of images, and count the other files."""
        endings = decoding.endings
        images = [name for name in names if name.lower().endswith(endings)]
        if len(images) < len(names):
            self.add_files(name for name in names if not name.lower().endswith(endings))
        return images

    def adder(self, folder: str) -> Callable[[str], None]:
        """Return a function that counts a hidden folder in `folder`."""
        return lambda inner: self.add_folder(os.path.join(folder, inner))

    def add_folder(self, path: str) -> None:
        """Count a hidden folder."""
        self.folder_count += 1
        if len(self.folders) < _MOST_FOLDERS:
            self.folders.append(path)

    def add_odd(self, name: str, what: str) -> None:
        """Count a member of an archive that is not used."""
        self.odd.setdefault(what, [0, name])[0] += 1

    def add(self, other: PassedOver) -> None:
        """Count all that `other` has counted."""
        self.kinds.update(other.kinds)
        self.folders = (self.folders + other.folders)[:_MOST_FOLDERS]
        self.folder_count += other.folder_count
        self.loose += other.loose
        for what, (count, name) in other.odd.items():
            self.odd.setdefault(what, [0, name])[0] += count

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return dict(vars(self), kinds=dict(self.kinds))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> PassedOver:
        """Return what `as_dict` was made of; an exception for other values."""
        made = PassedOver()
        made.kinds.update({str(kind): int(count) for kind, count in values["kinds"].items()})
        made.folders = [str(name) for name in values["folders"]]
        made.folder_count, made.loose = int(values["folder_count"]), int(values["loose"])
        made.odd = {str(what): [int(count), str(name)] for what, (count, name) in values["odd"].items()}
        return made

    def lines(self) -> list[str]:
        """Return a line for each kind of thing that was passed over, with its remedy."""
        lines = []
        if self.kinds:
            files = _counted(sum(self.kinds.values()), "file")
            lines.append("%s passed over: %s%s" % (files, kinds_text(self.kinds), remedy_of(self.kinds)))
        if self.folder_count:
            names = ", ".join(shown(name) for name in self.folders[:_SHOWN])
            left = self.folder_count - len(self.folders[:_SHOWN])
            names += " and %d more" % left if left else ""
            folders = _counted(self.folder_count, "hidden folder")
            lines.append("%s passed over: %s; rename one that holds images to use" % (folders, names))
        if self.loose:
            text = "%s in no class passed over, beside the class folders: move images into one of them"
            lines.append(text % _counted(self.loose, "image"))
        for what, (count, name) in sorted(self.odd.items()):
            lines.append("%s passed over (%s), such as %s" % (_counted(count, "archive member"), what, shown(name)))
        return lines


def _counted(count: int, name: str) -> str:
    return "%d %s%s" % (count, name, "" if count == 1 else "s")


def list_images_below(folder: str, decoding: Decoding) -> tuple[list[str], PassedOver]:
    """Return (sorted paths of the images in `folder` and in those below it, what is passed over there)."""
    found, passed_over = [], PassedOver()
    for inner, _, files in walk(folder, passed_over.add_folder):
        found += [os.path.join(folder, inner, name) for name in passed_over.sift(files, decoding)]
    return sorted(found), passed_over


def kind_of(name: str) -> str:
    """Return the extension of a file in lower case, or what to count it as if it has none."""
    ending = os.path.splitext(name)[1] or (name if name.startswith(".") else "")
    if not ending:
        return "no extension"
    return ending.lower() if re.fullmatch(r"\.\w{1,16}", ending, re.ASCII) else _OTHER


def kinds_text(kinds: Mapping[str, int]) -> str:
    """Return the counts as text, such as ".heic 3, .txt 9"; of many kinds the most frequent."""
    frequent = sorted(kinds, key=lambda kind: (-kinds[kind], kind))[:_SHOWN]
    text = ", ".join("%s %d" % (kind, kinds[kind]) for kind in sorted(frequent))
    left = sum(kinds.values()) - sum(kinds[kind] for kind in frequent)
    return text + (" and %d of other kinds" % left if left else "")


def remedy_of(kinds: Mapping[str, int]) -> str:
    """Return the end of a line that says how to read those `kinds` of files that are pictures; "" where none is."""
    pictures = sorted(set(kinds) & readable_extensions())
    if not pictures:
        return ""
    packages = missing_packages(pictures)
    after = ", after pip install %s" % " ".join(packages) if packages else ""
    return "; --extensions %s reads such images too%s" % (" ".join(pictures), after)
