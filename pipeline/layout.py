"""Where a data set has its parts and classes; importing this module imports neither torch nor Pillow."""

from __future__ import annotations

import os

from runtime.errors import UserError, shown


def list_classes(folder: str) -> list[str]:
    """Return the names of the class folders in `folder`, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise unlistable(error) from None


def check_folders(root: str, is_trained_on: bool) -> None:
    """Raise UserError unless `root` holds val/ and, if it is trained on, train/, each with class folders."""
    if not os.path.isdir(root):
        raise UserError("--data-path %s: no such folder" % shown(root))
    for part in ("train", "val") if is_trained_on else ("val",):
        folder = os.path.join(root, part)
        if not os.path.isdir(folder):
            raise UserError("--data-path %s: it has no folder %s/" % (shown(root), part))
        if not list_classes(folder):
            raise UserError("%s has no class folders: it must hold a folder of images for each class" % shown(folder))


def unlistable(error: OSError) -> UserError:
    """Return the error of a folder that cannot be listed."""
    return UserError("%s cannot be listed: %s" % (shown(str(error.filename)), error.strerror))


def contains(folder: str, path: str) -> bool:
    """Return whether `path` is `folder` or in it, both without links."""
    return os.path.join(path, "").startswith(os.path.join(folder, ""))
