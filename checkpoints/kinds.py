"""What kind of value an entry of a checkpoint is, and checks of that which look into nothing without a bound."""

from __future__ import annotations

import math
from typing import Any, Callable

import torch

from runtime.errors import printable

MOST = 10**9  # a whole number of a checkpoint is hardly larger


def plain_dict(value: dict[Any, Any]) -> dict[Any, Any]:
    """Return `value` as nothing but a dictionary: an OrderedDict of a file may have attributes in place of methods."""
    return dict(dict.items(value))


def plain_tensor(value: Any) -> torch.Tensor:
    """Return `value` as nothing but a tensor of real numbers in memory; ValueError where it is none."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise ValueError("is %s, not a tensor" % kind_of(value))
    try:
        value = torch.Tensor.detach(value)  # without attributes, which might be in place of methods
        is_plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        is_real = not value.is_complex() and not getattr(value, "is_nested", False)
        if is_real:
            torch.zeros(1, dtype=value.dtype).float()
    except (RuntimeError, NotImplementedError, TypeError):
        is_plain = is_real = False
    if not is_plain or not is_real:
        raise ValueError("is a tensor of another kind than weights are")
    return value


def kind_of(value: Any) -> str:
    """Return what to call `value` in a message, without looking into it."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float, str)):
        return short(value)
    if torch.is_tensor(value):
        return "a tensor"
    name = {dict: "dictionary"}.get(type(value), type(value).__name__)
    return "%s %s" % ("an" if name[0] in "aeiouAEIOU" else "a", name)


def short(value: Any, longest: int = 60) -> str:
    """Return a number or text as it is written in Python, cut where it is long."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of more than 18 digits"
    text = printable(repr(value[:longest] if isinstance(value, str) else value))
    return text if len(text) <= longest else text[:longest] + "..."


def whole(low: int, high: int = MOST) -> Callable[[Any], int]:
    """Return a check for a whole number from `low` to `high`, which returns it; ValueError for all else."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError("is %s, not a whole number from %d to %d" % (kind_of(value), low, high))
        return value

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Callable[[Any], float]:
    """Return a check for a number from `low` to `high`; without bounds, NaN and infinity pass too."""

    def check(value: Any) -> float:
        is_number = type(value) is float or (type(value) is int and abs(value) < 10**18)
        if not is_number or (math.isfinite(low) and not low <= value <= high):
            bounds = " from %g to %g" % (low, high) if math.isfinite(low) else ""
            raise ValueError("is %s, not a number%s" % (kind_of(value), bounds))
        return value

    return check
