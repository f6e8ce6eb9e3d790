"""Checkpoint files: written whole or not at all, read without running code.

A checkpoint is a dictionary of tensors and plain containers. `checkpoint.pth` is the latest, `checkpoint.previous.pth`
the one before it, `best.pth` the one with the best accuracy.
"""

import argparse
import collections
import logging
import os
import pickle
import re
import shutil
import tempfile

import torch

from runtime.errors import UserError

FORMAT = 1
LATEST, PREVIOUS, BEST = "checkpoint.pth", "checkpoint.previous.pth", "best.pth"


def save(payload, folder, is_best):
    """Write `payload` as the latest checkpoint of `folder`, keep the one before, and mark it best if it is.

    The data is on the disk before a name points to it, and `best.pth` is named first: a process killed at any moment
    leaves a set that a resumed run completes.
    """
    latest = os.path.join(folder, LATEST)
    handle, temporary = tempfile.mkstemp(prefix=".checkpoint.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        if is_best:
            _link(temporary, os.path.join(folder, BEST))
        if os.path.exists(latest):
            _link(latest, os.path.join(folder, PREVIOUS))
        os.replace(temporary, latest)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _link(source, target):
    """Make `target` name the contents of `source` without ever being absent; a copy where links don't exist."""
    staged = target + ".tmp"
    if os.path.lexists(staged):
        os.unlink(staged)
    try:
        os.link(source, staged)
    except OSError:
        shutil.copyfile(source, staged)
    os.replace(staged, target)


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
    paths = [os.path.join(folder, name) for name in (LATEST, PREVIOUS)]
    return [path for path in paths if os.path.exists(path)]


def resolve(path, names=(LATEST, BEST)):
    """The checkpoint file that `--resume path` means: the file, or the first of `names` in the folder."""
    if os.path.isdir(path):
        for name in names:
            if os.path.exists(os.path.join(path, name)):
                return os.path.join(path, name)
        raise UserError("--resume %s: the folder holds neither %s" % (path, " nor ".join(names)))
    if not os.path.exists(path):
        raise UserError("--resume %s: no such file" % path)
    if not os.path.isfile(path):
        raise UserError("--resume %s: neither a file nor a folder" % path)
    return path


def load_first_good(paths):
    """The first of `paths` that can be read, as (checkpoint, path); a damaged one is passed over aloud."""
    failure = None
    for path in paths:
        try:
            return load(path), path
        except UserError as error:
            failure = error
            logging.getLogger().warning("%s; trying the previous checkpoint", error)
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
    _check_contents(path, loaded)
    if loaded.get("format", FORMAT) != FORMAT:
        raise UserError("%s has format %r, this program reads format %d" % (path, loaded["format"], FORMAT))
    return loaded


def _check_contents(path, loaded):
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
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", pickle_module=_TensorsOnly)


class _TensorsOnlyUnpickler(pickle.Unpickler):
    """Builds tensors, plain containers and Namespaces; refuses every other name, so a file cannot run code."""

    ALLOWED = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("argparse", "Namespace"): argparse.Namespace,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch", "Size"): torch.Size,
    }

    def find_class(self, module, name):
        if (module, name) in self.ALLOWED:
            return self.ALLOWED[module, name]
        if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        raise pickle.UnpicklingError("it contains %s.%s, which a checkpoint may not" % (module, name))


class _TensorsOnly:
    """What torch.load needs of a pickle module, where torch has no `weights_only` with an allow-list."""

    __name__ = "tensors_only"
    Unpickler = _TensorsOnlyUnpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file, **options):
        return _TensorsOnlyUnpickler(file, **options).load()


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
