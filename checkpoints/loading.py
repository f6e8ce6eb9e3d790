"""Reading checkpoint files: without running code, and with their contents checked before use."""

from __future__ import annotations

import argparse
import logging
import os
import re
import warnings
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO, Sequence

import torch

from checkpoints import safetensors_files
from checkpoints.tensors_only import TensorsOnly
from checkpoints.validation import validated
from runtime.errors import UserError, one_line, out_of_memory, reason
from utils import open_regular

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
    """Return the checkpoint in the file `path`, of any kind, on the CPU, as of validation.validated.

    It is one of this project, one of the published code, which pickles its options as an `argparse.Namespace`, a
    dictionary of weights, or a .safetensors file. UserError where it is none, or holds anything but tensors and plain
    containers; no code in it runs.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            loaded = safetensors_files.read(file) if safetensors_files.is_one(file) else _read(file)
    except FileNotFoundError:
        raise UserError("%s: no such file" % path) from None
    except UserError as error:
        raise UserError("%s: %s" % (path, error)) from None
    except Exception as error:  # unpickling raises nearly anything on a file that is no checkpoint
        raise UserError("%s is not a readable checkpoint: %s" % (path, _reason_for(error))) from None
    return validated(path, loaded, size)


class _RefusedError(ValueError):
    """A file whose fault is known; the message is for the user."""


def _reason_for(error: Exception) -> str:
    """Return why a file could not be read, on one line; torch's own texts advise to let the file run its code."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return "it contains %s, which a checkpoint may not" % refused.group(1)
    if isinstance(error, (_RefusedError, OSError)):
        return reason(error)
    if str(error).startswith("it contains "):  # of TensorsOnly
        return one_line(str(error), 500)
    if out_of_memory(error):
        return "there is too little memory for it, or it is damaged"
    return "it is damaged, or another kind of file"


def options_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the run that wrote `checkpoint`; {} if they are missing."""
    options = checkpoint.get("args") or {}
    return dict(vars(options)) if isinstance(options, argparse.Namespace) else dict(options)


def _read(file: BinaryIO) -> Any:
    _check_archive(file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch asks users to report what it does not know
        if hasattr(torch.serialization, "safe_globals"):
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(file, map_location="cpu", pickle_module=TensorsOnly)


def _check_archive(file: BinaryIO) -> None:
    """Raise _RefusedError if an entry does not match its checksum, which torch itself does not verify, or expands."""
    if not zipfile.is_zipfile(file):
        return
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise _RefusedError("it is a TorchScript program")
        if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
            raise _RefusedError("it is damaged: it is shorter than its contents")
        damaged = archive.testzip()
    if damaged:
        raise _RefusedError("it is damaged: the checksum of %s is wrong" % one_line(damaged, 500))


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
        if expected[name].is_floating_point() and not state[name].is_floating_point():
            raise UserError("%s is not a checkpoint: its %s holds whole numbers" % (path, name))
    extra = sorted(set(state) - set(expected))
    if extra:
        raise UserError("%s is the checkpoint of another model: %s has no place here" % (path, extra[0]))


def fill(path: str, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load `weights` into `model`; UserError unless they fit."""
    check_fits(path, weights, model)
    model.load_state_dict(weights)


def load_into(path: str, run: Any, state: dict[str, Any]) -> None:
    """Restore `run` from `state`; UserError if its optimizer or precision does not fit."""
    try:
        run.load_state_dict(state)
    except Exception as error:  # optimizers and scalers raise nearly anything on what is no state of theirs
        if out_of_memory(error):
            raise
        raise UserError("%s cannot be resumed with these options: %s" % (path, one_line(reason(error), 500))) from None
    run.resumed_from = path
