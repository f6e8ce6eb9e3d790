"""The structure of a checkpoint: checked entry by entry, whatever a file may hold, and returned in one form.

Every reader gets what `validated` returns, and a run that is resumed passes `check_resumable` too. Nothing here prints,
compares or walks through a value without a bound: lists may hold themselves, and tensors may claim any size.
"""

from __future__ import annotations

import argparse
from typing import Any, Callable, Mapping

import torch

from checkpoints.kinds import kind_of, number, plain_dict, plain_tensor, short, whole
from checkpoints.store import FORMAT
from runtime.errors import UserError

_WRAPPERS = ("module.", "_orig_mod.")  # what DDP, an averaged model and torch.compile put before a parameter's name
_AVERAGED = "n_averaged"  # how many weights torch's AveragedModel has averaged: no parameter
_MOST_TEXT = 2**24  # characters or items, in all the class names or options
_SLACK = 2**26  # bytes that tensors may claim beyond what the file can hold: there are small ones that are expanded


def validated(path: str, loaded: Any, size: int) -> dict[str, Any]:
    """Return what a file of `size` bytes holds as a checkpoint: "model" and its other entries, each checked.

    Entries that are None are left out, options are a dictionary or a Namespace as they were, and those entries that
    this program does not know stay as they are. UserError for whatever is wrong, in one line that names `path`.
    """
    if not isinstance(loaded, dict):
        raise UserError("%s is not a checkpoint: it holds %s" % (path, kind_of(loaded)))
    checkpoint = _as_checkpoint(path, plain_dict(loaded))
    memory = _Memory(size)
    for name in ("model", "model_ema"):
        if name in checkpoint:
            checkpoint[name] = _weights(path, name, checkpoint[name], memory)
    for name, check in _ENTRIES.items():
        if name in checkpoint:
            try:
                checkpoint[name] = check(checkpoint[name])
            except ValueError as error:
                raise UserError("%s is not a checkpoint: its %s %s" % (path, name, error)) from None
    if checkpoint.get("format", FORMAT) != FORMAT:
        raise UserError("%s has format %d, this program reads format %d" % (path, checkpoint["format"], FORMAT))
    _check_classes(path, checkpoint)
    return checkpoint


def _as_checkpoint(path: str, loaded: dict[Any, Any]) -> dict[str, Any]:
    """Return the entries by this program's names: weights may be under other names, or be all that there is."""
    if not isinstance(loaded.get("model"), (dict, str, type(None))):  # a text may name the model
        raise UserError("%s is not a checkpoint of a model: its entry 'model' holds no weights" % path)
    for name in ("model", "state_dict", "model_ema", "state_dict_ema"):
        if isinstance(loaded.get(name), dict):
            break
    else:
        if not loaded or not all(torch.is_tensor(value) for value in loaded.values()):
            raise UserError("%s is not a checkpoint of a model: it has no entry 'model'" % path)
        return {"model": loaded}
    checkpoint = {entry: value for entry, value in loaded.items() if value is not None}
    checkpoint["model"] = loaded[name]
    if "model_ema" not in checkpoint and "state_dict_ema" in checkpoint:
        checkpoint["model_ema"] = checkpoint["state_dict_ema"]
    return checkpoint


class _Memory:
    """Counts what tensors claim: not more than a file of `size` bytes can hold, nor than a few copies of it take."""

    def __init__(self, size: int) -> None:
        self.size, self.claimed, self.stored = size, 0, 0
        self.storages: set[tuple[int, int]] = set()

    def add(self, tensor: torch.Tensor) -> None:
        """Count `tensor`; ValueError if it is too much."""
        storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()
        size = storage.nbytes() if hasattr(storage, "nbytes") else storage.size() * storage.element_size()
        if (storage.data_ptr(), size) not in self.storages:
            self.storages.add((storage.data_ptr(), size))
            self.stored += size
        self.claimed += tensor.numel() * tensor.element_size()
        if self.stored > self.size or self.claimed > 4 * self.size + _SLACK:
            raise ValueError("claims more values than the file can hold")


def _weights(path: str, entry: str, found: Any, memory: _Memory) -> dict[str, torch.Tensor]:
    """Return the weights as plain tensors by the names of the model's parameters, without those of wrappers."""
    message = "%s is not a checkpoint of a model: its entry %r holds %s"
    found = plain_dict(found) if isinstance(found, dict) else {None: found}
    if not all(isinstance(name, str) for name in found):
        raise UserError(message % (path, entry, "no weights"))
    values = {}
    for name, value in found.items():
        try:
            values[name] = plain_tensor(value)
            memory.add(values[name])
        except ValueError as error:
            raise UserError(message % (path, entry, "no weights: %s %s" % (short(name), error))) from None
    names = _own_names(values)
    if len(set(names.values())) != len(names):
        raise UserError(message % (path, entry, "two parameters of one name"))
    return {inner: values[name] for name, inner in names.items()}


def _own_names(weights: Mapping[str, Any]) -> dict[str, str]:
    """Return {name in the file: name in the model}: DDP, averaged and compiled models put words before or between."""
    names = {name: name for name in weights if name != _AVERAGED or len(weights) == 1}
    while names and any(all(name.startswith(wrapper) for name in names.values()) for wrapper in _WRAPPERS):
        names = {name: inner.partition(".")[2] for name, inner in names.items()}
    return {name: _without_compiled(inner) for name, inner in names.items()}


def _without_compiled(name: str) -> str:
    """Return a parameter's name without what torch.compile adds for a part of the model."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _is_scalar(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**63
    return value is None or type(value) in (bool, float, str)


def _class_names(value: Any) -> list[str]:
    """Return the names; [] for a list of numbers, which names nothing."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("is %s, not a list of names" % kind_of(value))
    if all(type(name) is int for name in value):
        return []
    for name in value:
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError("holds %s, which is no name of a class" % kind_of(name))
    if sum(map(len, value)) > _MOST_TEXT:
        raise ValueError("holds more text than the names of classes need")
    return list(value)


def _row(value: Any, needed: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Return the results of an epoch: single values by name, those in `needed` among them."""
    if not isinstance(value, dict):
        raise ValueError("holds %s, not the results of an epoch" % kind_of(value))
    value = plain_dict(value)
    for name, check in needed.items():
        try:
            check(value.get(name))
        except ValueError as error:
            raise ValueError("holds an epoch whose %s %s" % (name, error)) from None
    for name, item in value.items():
        if not isinstance(name, str) or not _is_scalar(item) or (isinstance(item, str) and len(item) > 1000):
            raise ValueError("holds an epoch with %s as %s" % (kind_of(item), kind_of(name)))
    return value


_STATS: dict[str, Callable[[Any], Any]] = {"train_loss": number(), "images_per_second": number()}


def _history(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ValueError("is %s, not a list of epochs" % kind_of(value))
    if len(value) > 10**5 or sum(len(row) for row in value if isinstance(row, dict)) > _MOST_TEXT // 8:
        raise ValueError("has more epochs or results than a run")
    return [_row(row, dict(_STATS, epoch=whole(0))) for row in value]


def _epoch_state(value: Any) -> dict[str, Any]:
    """Return the state within an epoch: numbers and lists of numbers by name, and perhaps its complete results."""
    if not isinstance(value, dict):
        raise ValueError("is %s, not a state within an epoch" % kind_of(value))
    value = plain_dict(value)
    if "step" not in value:
        raise ValueError("has no step")
    for name, item in value.items():
        try:
            _STATE.get(name, number())(item)
        except ValueError as error:
            raise ValueError("has the value %s, which %s" % (kind_of(name), error)) from None
    return value


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) > 10**5:
        raise ValueError("is %s, not a list of numbers" % kind_of(value))
    return [number()(item) for item in value]


def _fingerprint(value: Any) -> list[Any]:
    if not isinstance(value, list) or [type(item) for item in value] != [int, int, str, int]:
        raise ValueError("is %s, not the fingerprint of images" % kind_of(value))
    return [whole(0)(value[0]), value[1], value[2][:100], value[3]]


def _run_id(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 100:
        raise ValueError("is %s, not a number of 32 digits" % kind_of(value))
    return value


_STATE: dict[str, Callable[[Any], Any]] = {
    "step": whole(0),
    "loss_sum": number(),
    "loss_count": whole(0),
    "recent_losses": _numbers,
    "skipped": whole(0),
    "images_skipped": whole(0),
    "seconds": number(0, 10**10),
    "stats": lambda value: _row(value, _STATS),
}


_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "input_size": whole(1, 2**16),
    "batch_size": whole(1),
    "grad_accum_steps": whole(1),
    "layer_decay": number(0, 1),
}
_TEXTS = ("model", "opt", "token_layout", "stem_type")


def _args(value: Any) -> Any:
    """Return the options of a run: those that are single values or lists of them, with those used here checked."""
    if not isinstance(value, (dict, argparse.Namespace)):
        raise ValueError("is %s, not options" % kind_of(value))
    kept, cost = {}, 0
    for name, item in (vars(value) if isinstance(value, argparse.Namespace) else plain_dict(value)).items():
        if not isinstance(name, str):
            raise ValueError("holds %s as the name of an option" % kind_of(name))
        items = item if isinstance(item, (list, tuple)) else [item]
        cost += len(name) + len(items)
        if cost > _MOST_TEXT:
            break
        if item is not None and name in _OPTIONS:
            try:
                _OPTIONS[name](item)
            except ValueError as error:
                raise ValueError("holds an option %s that %s" % (name, error)) from None
        if name in _TEXTS and not (item is None or isinstance(item, str)):
            raise ValueError("holds an option %s that is %s, not a text" % (name, kind_of(item)))
        if all(_is_scalar(each) for each in items):
            kept[name] = item
            cost += sum(len(each) for each in items if isinstance(each, str))
    if cost > _MOST_TEXT:
        raise ValueError("holds more text than the options of a run")
    return argparse.Namespace(**kept) if isinstance(value, argparse.Namespace) else kept


_ENTRIES: dict[str, Callable[[Any], Any]] = {
    "format": whole(-(2**62), 2**62),
    "epoch": whole(-1),
    "step": whole(0),
    "epoch_state": _epoch_state,
    "best_epoch": whole(0),
    "max_accuracy": number(-1, 100),
    "seconds": number(0, 10**10),
    "world_size": whole(1),
    "run_id": _run_id,
    "train_images": _fingerprint,
    "val_images": _fingerprint,
    "history": _history,
    "classes": _class_names,
    "args": _args,
}


def _check_classes(path: str, checkpoint: dict[str, Any]) -> None:
    """Raise UserError where no layer has as many outputs as there are class names: a model for them may be huge."""
    count, weights = len(checkpoint.get("classes", ())), checkpoint["model"]
    if count and weights and not any(value.dim() and len(value) == count for value in weights.values()):
        message = "%s is not a checkpoint: its classes are %d, and no layer of its model has as many outputs"
        raise UserError(message % (path, count))
