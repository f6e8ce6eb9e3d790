"""Where a data set has its parts and classes; importing this module imports neither torch nor Pillow."""

from __future__ import annotations

import contextlib
import os
from typing import Sequence

from runtime.errors import UserError, reason, shown
from storage import remote
from storage.remote import is_url

# Folders that systems and programs leave among others, in lower case; those whose names begin with a dot are more.
_LEFT_BY_OTHERS = frozenset(
    ["__macosx", "__pycache__", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "lost+found"]
    + ["system volume information"]
)
_NAMED = 5
_MOST_SEARCHED = 100  # folders in which train/ and val/ are looked for


def is_hidden(name: str) -> bool:
    """Return whether a folder is hidden, or one that a system or a program leaves among others: no class."""
    return name.startswith(".") or name.lower() in _LEFT_BY_OTHERS


def list_classes(folder: str, known: Sequence[str] = ()) -> list[str]:
    """Return the names of the class folders in `folder`, sorted: all but hidden ones that are not in `known`."""
    names, _ = list_top(folder)
    return [name for name in names if not is_hidden(name) or name in known]


def list_top(folder: str) -> tuple[list[str], list[str]]:
    """Return (names of the folders in `folder`, names of all else), sorted."""
    folders: list[str] = []
    others: list[str] = []
    if is_url(folder):
        return _list_remote(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir() else others).append(entry.name)
    except OSError as error:
        raise unlistable(error) from None
    return sorted(folders), sorted(others)


def _list_remote(url: str) -> tuple[list[str], list[str]]:
    try:
        return remote.list_folder(url)
    except OSError as error:
        raise UserError("%s cannot be listed: %s" % (shown(url), reason(error))) from None


def check_classes(folder: str) -> list[str]:
    """Return the names of the class folders in `folder`; UserError where there are none."""
    folders, _ = list_top(folder)
    classes = [name for name in folders if not is_hidden(name)]
    if not classes:
        hidden = "; hidden folders are passed over: " + names_text(folders) if folders else ""
        line = "%s has no class folders: it must hold a folder of images for each class%s"
        raise UserError(line % (shown(folder), hidden))
    return classes


def find_below(root: str, parts: Sequence[str]) -> str | None:
    """Return the first folder one or two levels below `root` that holds the folders `parts`."""
    level = [] if is_url(root) else [root]
    for _ in range(2):
        level = [os.path.join(folder, name) for folder in level for name in folders_in(folder)][:_MOST_SEARCHED]
        for folder in level:
            if all(os.path.isdir(os.path.join(folder, part)) for part in parts):
                return folder
    return None


def folders_in(folder: str) -> list[str]:
    """Return the names of the folders in `folder` that are not hidden; none where it cannot be listed."""
    try:
        return list_classes(folder)
    except UserError:
        return []


def only_class_line(folder: str, classes: Sequence[str]) -> str | None:
    """Return a line on the single class of `folder`, whose folders may be the classes; None for several classes."""
    if len(classes) != 1:
        return None
    line = "%s has one class alone, %s, which leaves nothing to learn" % (shown(folder), shown(classes[0]))
    inner = folders_in(os.path.join(folder, classes[0]))
    if not inner:
        return line + ": add the folders of the other classes"
    words = (line, names_text(inner), shown(os.path.join(folder, classes[0])), shown(folder))
    return "%s; if its sub-folders (%s) are the classes, they lie one level too deep: move them from %s to %s" % words


def shared_folders_line(folder: str, classes: Sequence[str]) -> str | None:
    """Return a line where the classes of `folder` have sub-folders of the same names, which may be the classes."""
    first, *others = [set(folders_in(os.path.join(folder, name))) for name in classes[:_MOST_SEARCHED]] or [set()]
    shared = sorted(first.intersection(*others)) if others else []
    if not shared:
        return None
    words = (shown(folder), names_text(classes), names_text(shared))
    return (
        "all images of %s lie in sub-folders of its classes (%s), and each has %s; if those are the classes, they lie "
        "one level too deep: move them up" % words
    )


def names_text(names: Sequence[str]) -> str:
    """Return the first of some names as text."""
    left = len(names) - _NAMED
    return ", ".join(shown(name) for name in names[:_NAMED]) + (" and %d more" % left if left > 0 else "")


def unlistable(error: OSError) -> UserError:
    """Return the error of a folder that cannot be listed."""
    return UserError("%s cannot be listed: %s" % (shown(str(error.filename)), error.strerror))


def contains(folder: str, path: str) -> bool:
    """Return whether `path` is `folder` or in it, both without links."""
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def check_outside(folders: Sequence[str], option: str, path: str) -> None:
    """Raise UserError if `path`, the folder of `option`, lies in one of the `folders` of images, and changes its list.

    The folders of classes may be links.
    """
    every = list(folders)
    for folder in folders:
        with contextlib.suppress(OSError):
            every += [entry.path for entry in os.scandir(folder) if entry.is_symlink()]
    real = os.path.realpath(path)
    if any(contains(os.path.realpath(folder), real) for folder in every):
        raise UserError("%s %s lies among the images: name another folder" % (option, shown(path)))
