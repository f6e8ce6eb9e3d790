"""What measurements on an accelerator need to know of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from runtime.device import Device


def card_name(device: Device) -> str:
    """Return the accelerator's name, "cpu" without one."""
    return getattr(torch, device.kind).get_device_name(device.index) if device.is_accelerator else "cpu"


def card_facts(device: Device) -> list[tuple[str, Any, str]]:
    """Return (name, value, unit) of the accelerator's hardware and libraries; nothing for a CPU."""
    if not device.is_accelerator:
        return []
    found = getattr(torch, device.kind).get_device_properties(device.index)
    facts = [
        ("memory of the card", round(found.total_memory / 2**30, 1), "GiB"),
        ("multiprocessors", getattr(found, "multi_processor_count", "unknown"), ""),
    ]
    if device.kind == "cuda":
        facts.append(("CUDA of torch", torch.version.cuda, ""))
        facts.append(("cuDNN", str(torch.backends.cudnn.version()), ""))
    return facts


def compiler_facts() -> list[tuple[str, str, str]]:
    """Return (name, value, "") of what torch.compile needs: Triton, and the C compiler that Triton starts."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or "missing"
    has_triton = importlib.util.find_spec("triton") is not None
    return [("Triton", "installed" if has_triton else "missing", ""), ("C compiler", compiler, "")]


def reset_peak_memory(device: Device) -> None:
    """Let `device.max_memory_mib()` count from what is allocated now."""
    if device.is_accelerator:
        getattr(torch, device.kind).reset_peak_memory_stats()
