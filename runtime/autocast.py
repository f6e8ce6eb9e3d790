"""Questions to torch's autocast, whose names depend on the version of torch and on the device."""

from __future__ import annotations

from typing import Any, ContextManager

import torch

KINDS = ("cpu", "cuda", "npu")


def dtype_of_autocast(kind: str) -> torch.dtype | None:
    """Return the dtype of the autocast that is active for devices of `kind`; None where there is none.

    apex is no autocast of torch: with it the answer is None.
    """
    if kind not in KINDS or not hasattr(torch, "is_autocast_enabled"):  # torch 1.5 has no autocast
        return None
    if hasattr(torch, "get_autocast_dtype"):  # torch 2.4 has one function for all devices
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == "cpu":
        is_active = getattr(torch, "is_autocast_cpu_enabled", None)
        return torch.get_autocast_cpu_dtype() if is_active and is_active() else None
    own = getattr(torch, "npu", None)
    if own is not None and kind == "npu" and hasattr(own, "get_autocast_dtype"):  # on torch 2.0 to 2.3
        return own.get_autocast_dtype() if own.is_autocast_enabled() else None
    if not torch.is_autocast_enabled():
        return None
    own_dtype = getattr(torch, "get_autocast_gpu_dtype", None)
    return own_dtype() if own_dtype else torch.float16  # torch below 1.10 has no other


def without_autocast(kind: str) -> ContextManager[Any]:
    """Return a context without the autocast of devices of `kind`, in which `dtype_of_autocast` has found one."""
    if hasattr(torch, "autocast"):
        return torch.autocast(kind, enabled=False)
    return getattr(torch, kind).amp.autocast(enabled=False)
