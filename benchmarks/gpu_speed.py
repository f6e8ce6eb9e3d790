"""Images a second of baseline, eager, fused and compiled steps on the card, their memory, and the kernels of a step.

Each row is on the disk before the next peer, which may fail or take too long to compile, is made. Peers take turns, as
in `benchmark.py step`.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch.autograd import DeviceType

from benchmarks import step, timing
from benchmarks.runs import Workload
from runtime.card import reset_peak_memory
from runtime.compiling import compiles
from runtime.errors import UserError

if TYPE_CHECKING:
    from benchmarks.gpu_part import Setting

Work = Callable[[], int]
LEAST_SECONDS = 15  # that must be left to make further peers
WARM_UP_STEPS, PROFILED_STEPS, MOST_KERNELS = 3, 3, 20
# Images a second that are aimed at on an H100; less is a finding that the profile has to explain.
TARGETS = {"train": {"eager": 3600, "fused": 7500}, "eval": {"eager": 12000, "compiled": 12000, "fused": 12000}}


def measure(setting: Setting, what: str) -> None:
    """Measure a "small" or "large" batch, the "profile" of an eager step, or "compile" what the former will need."""
    if what == "profile":
        profile(setting)
    elif what == "compile":
        for batch in setting.sizes.batches:
            for mode in ("train", "eval"):
                if _can_run(setting, "compiled", "compiling, %s, %s" % (batch, mode)):
                    _make(setting, batch, mode, "compiled")
    else:
        measure_batch(setting, what)


def measure_batch(setting: Setting, batch: str) -> None:
    """Note the rates, in training and evaluation, of eager beside the baseline, then of the others beside eager."""
    made: dict[tuple[str, str], Work] = {}
    for names in (("baseline", "eager"), ("eager", "fused"), ("eager", "compiled")):
        for mode in ("train", "eval"):
            label = _label(setting, batch, mode, names[-1])
            if setting.seconds_left() < LEAST_SECONDS:
                setting.findings.note(label, "left out: the time is spent")
                continue
            if not _can_run(setting, names[-1], label):
                continue
            try:
                for name in names:
                    if (mode, name) not in made:
                        made[mode, name] = _make(setting, batch, mode, name)
            except UserError as error:
                setting.findings.note(label, "not run: %s" % error)
                continue
            _compare(setting, batch, mode, {name: made[mode, name] for name in names})


def _precision(setting: Setting) -> str:
    return "float16" if setting.device.is_accelerator else "float32"


def _label(setting: Setting, batch: str, mode: str, name: str) -> str:
    return "%s, batch %d, %s, %s" % (mode, setting.sizes.batches[batch], _precision(setting), name)


def _can_run(setting: Setting, name: str, label: str) -> bool:
    """Return whether the peer works here; if not, note the reason."""
    if name in ("baseline", "eager"):
        return True
    if not setting.device.is_accelerator:
        setting.findings.note(label, step.NOT_ON_A_CPU[name])
        return False
    try:
        return name == "fused" or compiles("on", setting.device)
    except UserError as error:
        setting.findings.note(label, "not run: %s" % error)
    return False


def _make(setting: Setting, batch: str, mode: str, name: str) -> Work:
    """Return a warmed-up peer, and note how long that took and the memory that it adds."""
    label, started = _label(setting, batch, mode, name), time.perf_counter()
    workload = Workload(setting.sizes.model, setting.sizes.batches[batch], setting.sizes.input_size, setting.device)
    reset_peak_memory(setting.device)
    before = setting.device.max_memory_mib()
    work = step.peer(workload, mode, _precision(setting), name)
    for _ in range(WARM_UP_STEPS):
        work()
    peak = setting.device.max_memory_mib()
    setting.findings.note(label + ": first steps", round(time.perf_counter() - started, 1), "s")
    if peak is not None and before is not None:
        setting.findings.note(label + ": peak memory", round((peak - before) / 1024, 2), "GiB")
    return work


def _compare(setting: Setting, batch: str, mode: str, peers: dict[str, Work]) -> None:
    """Let the peers take turns, and note their rates and the ratio to the first."""
    first = next(iter(peers))
    rates = timing.summarize(timing.alternate(peers, setting.sizes.rounds, setting.sizes.seconds), first)
    for name, rate in rates.items():
        target = TARGETS[mode].get(name) if setting.device.is_accelerator else None
        label = _label(setting, batch, mode, name)
        value = round(rate.images_per_second, 1)
        if name != first or first == "baseline":
            setting.findings.note(label, value, "images/s", at_least=target, is_required=False)
        if name != first:
            ratio = "%.3f (%.3f to %.3f)" % (rate.ratio, rate.low, rate.high)
            setting.findings.note("%s beside %s" % (label, first), ratio, "times as fast")


def profile(setting: Setting) -> None:
    """Note the milliseconds of a training step, eager and small, that its kernels take, one by one."""
    work = _make(setting, "small", "train", "eager")
    started = time.perf_counter()
    for _ in range(PROFILED_STEPS):
        work()
    step_ms = (time.perf_counter() - started) * 1000 / PROFILED_STEPS
    with torch.profiler.profile() as trace:
        for _ in range(PROFILED_STEPS):
            work()
    milliseconds, counts = kernel_times(trace.events(), setting.device.is_accelerator)
    busy, findings = sum(milliseconds.values()), setting.findings
    findings.note("a step without the profiler", round(step_ms, 3), "ms")
    findings.note("kernels of a step", round(sum(counts.values()) / PROFILED_STEPS))
    findings.note("time of the kernels", round(busy / PROFILED_STEPS, 3), "ms")
    for name, total in milliseconds.most_common(MOST_KERNELS):
        share = "%.1f %% of the kernels' time, %g times" % (100 * total / busy, counts[name] / PROFILED_STEPS)
        findings.note("%.100s" % name, "%.3f ms, %s" % (total / PROFILED_STEPS, share))


def kernel_times(events: Any, is_accelerator: bool) -> tuple[Counter[str], Counter[str]]:
    """Return the milliseconds and the number of each kernel; on a CPU, of each operator without those that it calls.

    Operators on the host stand for the time of their kernels once more, and so do annotations on the device.
    """
    milliseconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event in events:
        if (event.device_type == DeviceType.CPU) == is_accelerator or getattr(event, "is_user_annotation", False):
            continue
        microseconds = event.time_range.elapsed_us() if is_accelerator else event.self_cpu_time_total
        milliseconds[event.name] += microseconds / 1000
        counts[event.name] += 1
    return milliseconds, counts
