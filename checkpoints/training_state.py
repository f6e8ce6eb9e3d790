"""What a resumed run takes from a checkpoint beside the weights: the state of its optimizer and of its loss scaler.

The checks are those of validation.py: the kind of each value, and nothing that depends on one optimizer of timm's many.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

import torch

from checkpoints.kinds import kind_of, number, plain_dict, plain_tensor, whole

if TYPE_CHECKING:
    from torch.optim import Optimizer

_MOST_ITEMS = 10**6  # of a list
_DEPTH = 3  # of lists within lists
# Settings of a parameter group that a resumed run takes from its own options and device.
_OWN_SETTINGS = ("weight_decay", "betas", "eps", "momentum", "foreach", "fused", "layer_scale")
_SCALER: dict[str, Callable[[Any], Any]] = {
    "scale": number(0, 2.0**127),
    "growth_factor": number(0, 2.0**64),
    "backoff_factor": number(0, 1),
    "growth_interval": whole(1),
    "_growth_tracker": whole(0),
}
_APEX_SCALER: dict[str, Callable[[Any], Any]] = {"loss_scale": number(0, 2.0**127), "unskipped": whole(0)}


def optimizer_state(saved: Any, optimizer: Optimizer) -> dict[str, Any]:
    """Return the `saved` state in the form for `optimizer`, with the settings of this run; ValueError if it is none.

    Another number of groups or parameters is left to torch, which reports it.
    """
    saved = _dict(saved, "its optimizer")
    groups, own = saved.get("param_groups"), optimizer.param_groups
    if not isinstance(groups, list):
        raise ValueError("the groups of its optimizer are %s" % kind_of(groups))
    groups = [_dict(group, "a group of its optimizer") for group in groups]
    numbers = [key for group in groups for key in _list(group.get("params"), "the parameters of a group")]
    if not all(type(key) is int for key in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError("the parameters of its optimizer are not numbered")
    if len(groups) == len(own):
        groups = [_group(group, mine) for group, mine in zip(groups, own)]
        _check_shapes(saved.get("state"), groups, own)
    for name, of_all in saved.items():
        if name != "param_groups":
            saved[name] = _states(of_all, set(numbers)) if isinstance(of_all, dict) else _plain(of_all)
    return dict(saved, state=_dict(saved.get("state"), "the state of its optimizer"), param_groups=groups)


def _group(saved: Mapping[Any, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group: those that are this run's own, and the saved ones, where each is of one kind."""
    group = {}
    for name, value in saved.items():
        mine = own.get(name)
        if not isinstance(name, str):
            raise ValueError("its optimizer has %s as the name of a setting" % kind_of(name))
        if name != "params" and not (name in _OWN_SETTINGS and name in own):
            value = _plain(value)
            if name in own and mine is not None and not _is_like(value, mine):
                raise ValueError("%s of its optimizer is %s" % (name, kind_of(value)))
        group[name] = value
    group.update({name: own[name] for name in _OWN_SETTINGS if name in own})
    return group


def _check_shapes(state: Any, groups: Sequence[Mapping[Any, Any]], own: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where a fused optimizer would write beyond a tensor: it compares no shapes itself."""
    for group, mine in zip(groups, own):
        for key, parameter in zip(group["params"], mine["params"]) if mine.get("fused") else ():
            of_one = plain_dict(state).get(key) if isinstance(state, dict) else None
            for name, value in plain_dict(of_one).items() if isinstance(of_one, dict) else ():
                is_single = name == "step" and type(value) in (int, float)
                if not is_single and getattr(value, "shape", None) != (() if name == "step" else parameter.shape):
                    raise ValueError("the %s of its optimizer does not have its parameter's shape" % kind_of(name))


def _is_like(value: Any, mine: Any) -> bool:
    """Return whether `value` can stand where this run has `mine`."""
    if isinstance(mine, bool):
        return value is None or isinstance(value, bool)
    if isinstance(mine, (int, float)):
        return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
    if isinstance(mine, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(mine)
    return isinstance(value, type(mine))


def _states(saved: dict[Any, Any], numbers: set[int]) -> dict[Any, Any]:
    """Return the values of each parameter by their names."""
    states = {}
    for key, of_one in plain_dict(saved).items():
        if not isinstance(key, str) and (type(key) is not int or key not in numbers):
            raise ValueError("its optimizer has the state of a parameter %s that it does not have" % kind_of(key))
        is_named = isinstance(of_one, dict)
        values = _dict(of_one, "the state of a parameter") if is_named or type(key) is int else {None: of_one}
        values = {name: _plain(value) for name, value in values.items()}
        states[key] = values if is_named else values[None]
    return states


def _plain(value: Any, depth: int = _DEPTH) -> Any:
    """Return a tensor, a single value, or a list of such; ValueError for all else."""
    if torch.is_tensor(value):
        value = plain_tensor(value)
        if any(side > 1 and not step for side, step in zip(value.shape, value.stride())):
            raise ValueError("its optimizer holds a tensor of more values than the file does")
        return value
    if isinstance(value, (list, tuple)) and depth and len(value) < _MOST_ITEMS:
        return type(value)(_plain(item, depth - 1) for item in value)
    if value is None or type(value) in (bool, float, str, torch.dtype) or (type(value) is int and abs(value) < 2**63):
        return value
    raise ValueError("its optimizer holds %s" % kind_of(value))


def _dict(value: Any, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("%s is %s" % (what, kind_of(value)))
    return plain_dict(value)


def _list(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError("%s are %s" % (what, kind_of(value)))
    return value


def check_scaler(state: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint's "scaler" or "amp" is no state of a loss scaler."""
    scalers = [(state["scaler"], _SCALER)] if state.get("scaler") is not None else []
    if state.get("amp") is not None:
        amp = _dict(state["amp"], "its amp")
        scalers += [(scaler, _APEX_SCALER) for name, scaler in amp.items() if str(name).startswith("loss_scaler")]
    for scaler, checks in scalers:
        values = _dict(scaler, "its loss scaler")
        for name, check in checks.items() if values else ():
            try:
                check(values.get(name))
            except ValueError as error:
                raise ValueError("%s of its loss scaler %s" % (name, error)) from None
