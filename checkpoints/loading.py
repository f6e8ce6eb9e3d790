"""Reading checkpoint files: without running code, and with their contents checked before use."""

from __future__ import annotations

import argparse
import logging
import re
import zipfile
from typing import TYPE_CHECKING, Any, Sequence

import torch

from checkpoints.store import FORMAT
from checkpoints.tensors_only import TensorsOnly
from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_first_good(paths: Sequence[str]) -> tuple[dict[str, Any], str, list[str]]:
    """Return the first of `paths` that can be read, as (checkpoint, path, damaged paths); warn of damaged ones.

    UserError for the first of them if none can be read.
    """
    damaged: list[str] = []
    failure: UserError | None = None
    for path in paths:
        try:
            loaded = load(path)
        except UserError as error:
            logging.getLogger().warning("%s; falling back to the checkpoint before it", error)
            damaged.append(path)
            failure = failure or error
            continue
        return loaded, path, damaged
    assert failure is not None, "no path"
    raise failure


def load(path: str) -> dict[str, Any]:
    """Return the checkpoint in the file `path`, on the CPU; UserError unless it is tensors and plain containers.

    Checkpoints of the published code pickle their options as an `argparse.Namespace`, the one class allowed beside
    tensors.
    """
    try:
        loaded = _read(path)
    except Exception as error:  # unpickling raises nearly anything on a file that is no checkpoint
        raise UserError("%s is not a readable checkpoint: %s" % (path, _reason_for(error))) from None
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


def check_contents(path: str, loaded: dict[str, Any]) -> None:
    """Raise UserError where an entry that is used later is of the wrong kind."""
    kinds: dict[str, Any] = {
        "epoch": int,
        "step": int,
        "args": (dict, argparse.Namespace),
        "classes": (list, tuple),
        "history": list,
    }
    for name, kind in kinds.items():
        if loaded.get(name) is not None and not isinstance(loaded[name], kind):
            raise UserError("%s is not a checkpoint: its %s is a %s" % (path, name, type(loaded[name]).__name__))
    for name in ("model", "model_ema"):
        weights = {} if loaded.get(name) is None else loaded[name]
        if not isinstance(weights, dict) or not all(torch.is_tensor(value) for value in weights.values()):
            raise UserError("%s is not a checkpoint of a model: its entry %r holds no weights" % (path, name))


def _reason_for(error: Exception) -> str:
    """Return why a file could not be unpickled, on one line."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return "it contains %s, which a checkpoint may not" % refused.group(1)
    lines = str(error).strip().splitlines()
    return "it is damaged, or another kind of file (%s)" % (lines[0] if lines else type(error).__name__)


def options_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the run that wrote `checkpoint`; {} if they are missing."""
    options = checkpoint.get("args") or {}
    return dict(vars(options)) if isinstance(options, argparse.Namespace) else dict(options)


def _read(path: str) -> Any:
    _check_sums(path)
    with open(path, "rb") as file:  # torch 1.5 cannot open every path that Python can
        if hasattr(torch.serialization, "safe_globals"):
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(file, map_location="cpu", pickle_module=TensorsOnly)


def _check_sums(path: str) -> None:
    """Raise ValueError if an entry does not match its checksum, which torch itself does not verify."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(name.endswith("/constants.pkl") for name in file.namelist()):
                raise ValueError("it is a TorchScript program")
            damaged = file.testzip()
        if damaged:
            raise ValueError("the checksum of %s is wrong" % damaged)


def check_fits(path: str, state: dict[str, Tensor], model: nn.Module) -> None:
    """Raise UserError with the first difference unless `state` has the names and shapes of `model`'s state_dict."""
    expected = model.state_dict()
    for name in expected:
        if name not in state:
            raise UserError("%s is the checkpoint of another model: it has no %s" % (path, name))
        if state[name].shape != expected[name].shape:
            raise UserError(
                "%s is the checkpoint of another model, image size or number of classes: %s is %s there, %s here"
                % (path, name, tuple(state[name].shape), tuple(expected[name].shape))
            )
    extra = sorted(set(state) - set(expected))
    if extra:
        raise UserError("%s is the checkpoint of another model: %s has no place here" % (path, extra[0]))


def load_into(path: str, run: Any, state: dict[str, Any]) -> None:
    """Restore `run` from `state`; UserError if its optimizer or precision does not fit."""
    try:
        run.load_state_dict(state)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError("%s cannot be resumed with these options: %s" % (path, error)) from None
