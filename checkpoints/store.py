"""Checkpoint files: written whole or not at all, read without running code.

A checkpoint is a dictionary of tensors and plain containers. `checkpoint.pth` is the latest, `checkpoint.previous.pth`
the one before it, `best.pth` the one with the best accuracy.
"""

import argparse
import contextlib
import inspect
import logging
import os
import re
import shutil
import sys
import time
import uuid
import zipfile

import torch

from checkpoints import download
from checkpoints.tensors_only import TensorsOnly
from runtime.errors import UserError

FORMAT = 1
LATEST, PREVIOUS, BEST = "checkpoint.pth", "checkpoint.previous.pth", "best.pth"
NOT_FINITE = "nonfinite.pth"
# The format with checksums, which torch 1.5 writes only when told to.
_SWITCH = "_use_new_zipfile_serialization"
ZIP_FORMAT = {_SWITCH: True} if _SWITCH in inspect.signature(torch.save).parameters else {}


class SaveError(Exception):
    """A checkpoint could not be written; what was there before is untouched. The message names the file."""


def save(payload, folder, is_best):
    """Write `payload` as the latest checkpoint of `folder`, keep the one before, and mark it best if it is.

    The data is on the disk before a name points to it, and `best.pth` is named first: a process killed at any moment
    leaves a set that a resumed run completes.
    """
    latest = os.path.join(folder, LATEST)
    with _written(payload, latest) as temporary:
        if is_best:
            _link(temporary, os.path.join(folder, BEST))
        if os.path.exists(latest):
            _link(latest, os.path.join(folder, PREVIOUS))


def save_as(payload, path):
    """Write `payload` to the file `path`, whole or not at all."""
    with _written(payload, path):
        pass


@contextlib.contextmanager
def _written(payload, path):
    """A temporary file with `payload`, which at the end becomes `path`; SaveError where the disk does not take it."""
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, ".checkpoint.%s.tmp" % uuid.uuid4().hex)
    try:
        with open(temporary, "xb") as file:
            _Writer(file).save(_on_cpu(payload))
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        os.replace(temporary, path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        raise SaveError("%s cannot be written: %s" % (path, _why_not_written(error, folder))) from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


class _Writer:
    """A file for torch.save, which reports its own position instead of what went wrong."""

    def __init__(self, file):
        self.file, self.error = file, None

    def save(self, payload):
        try:
            torch.save(payload, self, **ZIP_FORMAT)
        except RuntimeError:
            raise self.error or sys.exc_info()[1] from None

    def write(self, data):
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self):
        self.file.flush()


def _on_cpu(value):
    """`value` with all its tensors in host memory, so that the file names no device."""
    if torch.is_tensor(value):
        return value.cpu()
    if isinstance(value, dict):
        copied = type(value)((key, _on_cpu(item)) for key, item in value.items())
        if hasattr(value, "_metadata"):  # a state_dict's versions of its modules
            copied._metadata = value._metadata
        return copied
    return type(value)(_on_cpu(item) for item in value) if type(value) in (list, tuple) else value


def _why_not_written(error, folder):
    reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
    try:
        return "%s (%.0f MB free)" % (reason, shutil.disk_usage(folder).free / 1e6)
    except OSError:
        return reason


def _link(source, target):
    """Make `target` name the contents of `source` without ever being absent; a copy where links don't exist."""
    staged = target + ".tmp"
    if os.path.lexists(staged):
        os.unlink(staged)
    try:
        os.link(source, staged)
    except OSError:
        _copy(source, staged)
    os.replace(staged, target)


def _copy(source, target):
    """Copy a file, to the disk; nothing is left where it does not fit."""
    try:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
    except OSError:
        if os.path.exists(target):
            os.unlink(target)
        raise


def _sync_folder(folder):
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


def remove_leftovers(folder):
    """Delete what a process killed while saving has left unfinished in `folder`."""
    for name in os.listdir(folder):
        if name.startswith(".checkpoint.") and name.endswith(".tmp"):
            os.unlink(os.path.join(folder, name))


def copy_best(source, folder):
    """Let `folder` have the best checkpoint of the folder `source` as its own; whether there is one."""
    path = os.path.join(source, BEST)
    if os.path.exists(path):
        _link(path, os.path.join(folder, BEST))
    return os.path.exists(path)


def find_latest(folder):
    """The checkpoints of `folder` from the newest on, as paths; empty where there is none."""
    paths = [os.path.join(folder, name) for name in (LATEST, PREVIOUS, BEST)]
    return [path for path in paths if os.path.exists(path)]


def set_aside(path, suffix=""):
    """Rename a file or folder by the present time, never onto another; the new path."""
    stem = path.rstrip(os.sep) + suffix + time.strftime(".%Y%m%d-%H%M%S")
    target, count = stem, 1
    while os.path.exists(target):
        count += 1
        target = "%s-%d" % (stem, count)
    os.rename(path, target)
    return target


def resolve(path, names=(LATEST, BEST), option="--resume"):
    """The checkpoint file that `--resume path`, or another option, means: the file, the first of `names` in the folder,
    or what is fetched from the URL."""
    if download.is_url(path):
        return download.fetch(path)
    if os.path.isdir(path):
        for name in names:
            if os.path.exists(os.path.join(path, name)):
                return os.path.join(path, name)
        raise UserError("%s %s: the folder holds neither %s" % (option, path, " nor ".join(names)))
    if not os.path.exists(path):
        raise UserError("%s %s: no such file" % (option, path))
    if not os.path.isfile(path):
        raise UserError("%s %s: neither a file nor a folder" % (option, path))
    return path


def load_first_good(paths):
    """The first of `paths` that can be read, as (checkpoint, path, damaged paths); damaged ones are said aloud.

    UserError with the first one's fault where none can be read.
    """
    damaged, failure = [], None
    for path in paths:
        try:
            loaded = load(path)
        except UserError as error:
            logging.getLogger().warning("%s; the checkpoint before it is tried", error)
            damaged.append(path)
            failure = failure or error
            continue
        return loaded, path, damaged
    raise failure


def load(path):
    """The checkpoint in the file `path`, on the CPU; UserError unless it is tensors and plain containers.

    Checkpoints of the published code pickle their options as an `argparse.Namespace`, the one class allowed beside
    tensors.
    """
    try:
        loaded = _read(path)
    except Exception as error:  # unpickling raises nearly anything on a file that is no checkpoint
        raise UserError("%s is not a readable checkpoint: %s" % (path, _reason(error))) from None
    if not isinstance(loaded, dict):
        raise UserError("%s is not a checkpoint: it holds a %s" % (path, type(loaded).__name__))
    if "model" not in loaded:
        if not loaded or not all(torch.is_tensor(value) for value in loaded.values()):
            raise UserError("%s is not a checkpoint of a model: it has no entry 'model'" % path)
        loaded = {"model": loaded}
    check_contents(path, loaded)
    if loaded.get("format", FORMAT) != FORMAT:
        raise UserError("%s has format %r, this program reads format %d" % (path, loaded["format"], FORMAT))
    return loaded


def check_contents(path, loaded):
    """UserError where an entry that is used later is of the wrong kind."""
    kinds = {"epoch": int, "step": int, "args": (dict, argparse.Namespace), "classes": (list, tuple), "history": list}
    for name, kind in kinds.items():
        if loaded.get(name) is not None and not isinstance(loaded[name], kind):
            raise UserError("%s is not a checkpoint: its %s is a %s" % (path, name, type(loaded[name]).__name__))
    for name in ("model", "model_ema"):
        weights = {} if loaded.get(name) is None else loaded[name]
        if not isinstance(weights, dict) or not all(torch.is_tensor(value) for value in weights.values()):
            raise UserError("%s is not a checkpoint of a model: its entry %r holds no weights" % (path, name))


def _reason(error):
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return "it contains %s, which a checkpoint may not" % refused.group(1)
    lines = str(error).strip().splitlines()
    return "it is damaged, or not one at all (%s)" % (lines[0] if lines else type(error).__name__)


def options_of(checkpoint):
    """The options of the run that wrote `checkpoint`, as a dictionary (empty where it has none)."""
    options = checkpoint.get("args") or {}
    return dict(vars(options)) if isinstance(options, argparse.Namespace) else dict(options)


def _read(path):
    _check_sums(path)
    with open(path, "rb") as file:  # torch 1.5 cannot open every path that Python can
        if hasattr(torch.serialization, "safe_globals"):
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(file, map_location="cpu", pickle_module=TensorsOnly)


def _check_sums(path):
    """ValueError where an entry's checksum tells that bits have changed; torch itself does not look."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(name.endswith("/constants.pkl") for name in file.namelist()):
                raise ValueError("it is a TorchScript program")
            damaged = file.testzip()
        if damaged:
            raise ValueError("the checksum of %s is wrong" % damaged)


def check_fits(path, state, model):
    """UserError that names the first difference where `state` is not of `model`'s names and shapes."""
    want = model.state_dict()
    for name in want:
        if name not in state:
            raise UserError("%s is the checkpoint of another model: it has no %s" % (path, name))
        if state[name].shape != want[name].shape:
            raise UserError(
                "%s is the checkpoint of another model, image size or number of classes: %s is %s there, %s here"
                % (path, name, tuple(state[name].shape), tuple(want[name].shape))
            )
    extra = sorted(set(state) - set(want))
    if extra:
        raise UserError("%s is the checkpoint of another model: %s has no place here" % (path, extra[0]))


def load_into(path, run, state):
    """Restore `run` from `state`; UserError where its optimizer or precision belong to another one."""
    try:
        run.load_state_dict(state)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError("%s cannot be resumed with these options: %s" % (path, error)) from None
