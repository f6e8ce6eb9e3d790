"""Checkpoint files: their names, and writing them atomically. `checkpoints/loading.py` reads them.

A checkpoint is a dictionary of tensors and plain containers. `checkpoint.pth` is the latest, `checkpoint.previous.pth`
the one before it, `best.pth` the one with the best accuracy.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import itertools
import logging
import os
import shutil
from typing import Any, BinaryIO, Iterator, Sequence

import torch

from checkpoints import download
from runtime.errors import UserError, reason, shown
from utils import name_by_time, replacing, sync_file, sync_folder

FORMAT = 1
LATEST, PREVIOUS, BEST = "checkpoint.pth", "checkpoint.previous.pth", "best.pth"
FOR_TRAINING, FOR_WEIGHTS = (LATEST, PREVIOUS, BEST), (BEST, LATEST, PREVIOUS)  # which of them is read first
NOT_FINITE = "nonfinite.pth"
# The format with checksums, which is not the default of torch 1.5.
_SWITCH = "_use_new_zipfile_serialization"
ZIP_FORMAT = {_SWITCH: True} if _SWITCH in inspect.signature(torch.save).parameters else {}


class SaveError(Exception):
    """A checkpoint cannot be written; what was there before is untouched. The message names the file.

    `lacks_room` tells whether the disk, a quota or a limit on the size of files is why.
    """

    def __init__(self, message: str, lacks_room: bool = True) -> None:
        super().__init__(message)
        self.lacks_room = lacks_room


def save(payload: dict[str, Any], folder: str, is_best: bool) -> None:
    """Write `payload` as the latest checkpoint of `folder`, keep the one before, and mark it best if it is.

    The data is on the disk before a name points to it, and `best.pth` is named first: a process killed at any moment
    leaves a set that a resumed run completes.
    """
    latest = os.path.join(folder, LATEST)
    with _written(payload, latest) as temporary:
        if is_best:
            link_or_copy(temporary, os.path.join(folder, BEST))
        if os.path.isfile(latest):
            link_or_copy(latest, os.path.join(folder, PREVIOUS))


def save_as(payload: dict[str, Any], path: str) -> None:
    """Write `payload` to the file `path` atomically."""
    with _written(payload, path):
        pass


@contextlib.contextmanager
def _written(payload: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the name of a temporary file with `payload`, synced to the disk, which replaces `path` on exit.

    SaveError if it cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with replacing(path) as temporary:
            with open(temporary, "xb") as file:
                _ErrorKeepingFile(file).save(_on_cpu(payload))
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        lacks_room = getattr(error, "errno", errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        text = "%s cannot be written: %s" % (path, _reason_with_free_space(error, folder))
        raise SaveError(text, lacks_room) from None


class _ErrorKeepingFile:
    """A file for torch.save, which would report its own position instead of the operating system's error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def save(self, payload: dict[str, Any]) -> None:
        try:
            torch.save(payload, self, **ZIP_FORMAT)
        except RuntimeError as error:
            raise (self.error or error) from None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _on_cpu(value: Any) -> Any:
    """Return `value` with all its tensors in host memory, so that the file names no device."""
    if torch.is_tensor(value):
        return value.cpu()
    if isinstance(value, dict):
        copied = type(value)((key, _on_cpu(item)) for key, item in value.items())
        if hasattr(value, "_metadata"):  # a state_dict's versions of its modules
            copied._metadata = value._metadata  # type: ignore[attr-defined]
        return copied
    return type(value)(_on_cpu(item) for item in value) if type(value) in (list, tuple) else value


def _reason_with_free_space(error: Exception, folder: str) -> str:
    try:
        return "%s (%.0f MB free)" % (reason(error), shutil.disk_usage(folder).free / 1e6)
    except OSError:
        return reason(error)


def link_or_copy(source: str, target: str) -> None:
    """Replace `target` atomically by a hard link to `source`, or by a copy where links do not work."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            sync_file(temporary)


def copy_best(source: str, folder: str) -> bool:
    """Link the best checkpoint of the folder `source` into `folder`, and return whether there is one."""
    path = os.path.join(source, BEST)
    if os.path.isfile(path):
        link_or_copy(path, os.path.join(folder, BEST))
    return os.path.isfile(path)


def checkpoints_in(folder: str) -> list[str]:
    """Return the paths of the checkpoints in `folder`, the newest first."""
    paths = [os.path.join(folder, name) for name in FOR_TRAINING]
    return [path for path in paths if os.path.exists(path)]


def rename_by_time(path: str, suffix: str = "") -> str:
    """Append `suffix` and the time to the name of a file or folder, and return the new path; it replaces nothing."""
    target = name_by_time(path, suffix)
    os.rename(path, target)
    return target


def resolve(path: str, names: Sequence[str] = FOR_TRAINING, option: str = "--resume") -> str:
    """Return the checkpoint file for the `path` of `--resume` or another option.

    It is `path` itself, the first of `names` in the folder `path`, or the file that is downloaded from a URL. Only
    regular files count: a pipe would be waited for.
    """
    if download.is_url(path):
        return download.fetch(path)
    if os.path.isdir(path):
        for candidate in [os.path.join(path, name) for name in names]:
            if os.path.isfile(candidate):
                return candidate
            if os.path.lexists(candidate):
                logging.getLogger().warning("%s is passed over: it is not a regular file", shown(candidate))
        text = "%s %s: the folder holds neither %s" % (option, shown(path), " nor ".join(names))
        raise UserError(text + _hint_below(path, names))
    if not os.path.exists(path):
        raise UserError("%s %s: no such file" % (option, path))
    if not os.path.isfile(path):
        raise UserError("%s %s: neither a file nor a folder" % (option, path))
    return path


def _hint_below(folder: str, names: Sequence[str]) -> str:
    """Return the end of a message that names the folders with a checkpoint below `folder`."""
    runs = []
    depth = folder.rstrip(os.sep).count(os.sep)
    for inner, folders, files in itertools.islice(os.walk(folder), _MOST_FOLDERS):
        if any(name in files for name in names):
            runs.append(inner)
        is_deep = inner.count(os.sep) - depth >= _DEPTH
        folders[:] = [] if is_deep else sorted(name for name in folders if not name.startswith("."))
    if not runs:
        return ""
    more = " and %d more" % (len(runs) - _MOST_HINTS) if len(runs) > _MOST_HINTS else ""
    return "; it has checkpoints below, in %s%s" % (", ".join(map(shown, runs[:_MOST_HINTS])), more)


_DEPTH, _MOST_FOLDERS, _MOST_HINTS = 3, 2000, 3  # test/output/0 is three levels below the project
