"""What the card is, and its ceilings: bytes a second of a copy, and operations a second of a matrix product."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable

import torch

from runtime.affinity import usable_cores
from runtime.amp import DTYPES
from runtime.card import card_facts, compiler_facts

if TYPE_CHECKING:
    from benchmarks.gpu_part import Setting
    from runtime.device import Device

SECONDS = 0.3  # of each measurement


def measure(setting: Setting) -> None:
    """Note the card's facts and ceilings."""
    device, findings = setting.device, setting.findings
    for name, value, unit in [*card_facts(device), *compiler_facts()]:
        findings.note(name, value, unit)
    findings.note("usable cores", usable_cores())
    findings.note("copy, read and written", round(_copy_rate(device, setting.sizes.copied_mib), 1), "GB/s")
    side = setting.sizes.matrix
    for name, dtype in {**DTYPES, "float32": torch.float32}.items():
        matrix = torch.ones(side, side, dtype=dtype, device=device.torch_device)
        seconds = seconds_per_call(lambda: matrix @ matrix, device)  # noqa: B023 - called before the next
        findings.note("matrix product, %s" % name, round(2 * side**3 / seconds / 1e12, 2), "TFLOP/s")


def _copy_rate(device: Device, mib: int) -> float:
    source = torch.ones(mib * 2**18, device=device.torch_device)  # float32
    target = torch.empty_like(source)
    return 2 * mib * 2**20 / seconds_per_call(lambda: target.copy_(source), device) / 1e9


def seconds_per_call(work: Callable[[], object], device: Device) -> float:
    """Return the seconds that a call takes of many that do not wait for each other."""
    calls = 1
    while True:
        work()
        device.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            work()
        device.synchronize()
        elapsed = time.perf_counter() - started
        if elapsed >= SECONDS:
            return elapsed / calls
        calls = max(2 * calls, int(calls * 1.2 * SECONDS / max(elapsed, 1e-4)))
