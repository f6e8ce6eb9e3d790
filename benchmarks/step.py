"""Images a second of a training step and of a forward pass, on batches that are on the device already.

The baseline has the same precision and trains as the reference does: it reads the loss and waits for the device in
every step, and updates the EMA tensor by tensor. Other precisions than float32 are also compared with the float32
baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable

import torch
from baseline_training import BaselineEma, baseline_optimizer, baseline_step

import engine
from benchmarks import runs, timing
from benchmarks.report import Row
from benchmarks.runs import Workload
from runtime.amp import Precision, select_precision
from runtime.compat import inference_mode
from runtime.errors import UserError

if TYPE_CHECKING:
    import argparse

    from torch import Tensor, nn

    from runtime.device import Device

TOP_OPERATORS = 15  # of a profile
_KERNEL_NAME = 100  # characters of a kernel's name; templates have thousands

# How this project's steps are made, by what a row calls them: options of main.py.
WAYS = {
    "eager": ["--compile=off", "--fused=off"],
    "compiled": ["--compile=on", "--fused=off"],
    "fused": ["--compile=off", "--fused=on"],
}
# Why the plan for a GPU leaves out a way where it is rehearsed.
NOT_ON_A_CPU = {
    "compiled": "not run: compiling takes minutes on a CPU",
    "fused": "not run: the fused kernels need a CUDA device",
}


def run(options: argparse.Namespace) -> list[Row]:
    """Return the rows of the modes and precisions that the options name, or with --profile those of the operators."""
    workload = runs.workload_of(options)
    precisions = options.precision or _precisions(workload.device)
    if options.profile:
        return _profile(workload, precisions[-1], options.compile)
    compares_compiled = options.compile or workload.device.kind == "cuda"
    rows: list[Row] = []
    for mode in ("train", "eval") if options.mode == "both" else (options.mode,):
        for precision in precisions:
            peers = _peers(workload, mode, precision, compares_compiled)
            rates = timing.alternate(peers, options.rounds, options.seconds)
            name = "%s %s" % (mode, precision)
            rows += _rows(rates, "baseline", name, "images/s")
            if precision != "float32":
                rows += _rows(rates, "float32 baseline", name, "to float32 baseline")
    return rows


def _precisions(device: Device) -> list[str]:
    """Return float32 and the default of autocast on the device."""
    if device.kind == "cpu":
        return ["float32", "bfloat16"] if device.supports_bfloat16() else ["float32"]
    return ["float32", "float16"]


def _peers(workload: Workload, mode: str, precision: str, compares_compiled: bool) -> dict[str, Callable[[], int]]:
    peers = {"baseline": _baseline(workload, mode, precision)}
    if precision != "float32":
        peers["float32 baseline"] = _baseline(workload, mode, "float32")
    peers["eager"] = _ours(workload, mode, precision, "eager")
    if compares_compiled:
        peers["compiled"] = _ours(workload, mode, precision, "compiled")
    if workload.device.kind == "cuda":
        try:
            peers["fused"] = _ours(workload, mode, precision, "fused")
        except UserError as error:
            print("%s: fused is left out: %s" % (mode, error))
    return peers


def peer(workload: Workload, mode: str, precision: str, name: str) -> Callable[[], int]:
    """Return a function that does one unit of work of "baseline" or one of WAYS."""
    return _baseline(workload, mode, precision) if name == "baseline" else _ours(workload, mode, precision, name)


def _rows(rates: dict[str, list[float]], baseline: str, name: str, measure: str) -> list[Row]:
    summary = timing.summarize(rates, baseline)
    return [timing.to_row("%s %s" % (name, peer), measure, rate) for peer, rate in summary.items()]


def _ours(workload: Workload, mode: str, precision: str, way: str) -> Callable[[], int]:
    """Return a function that does one unit of this project's work in one of WAYS; UserError where it cannot."""
    amp = ["--amp=none"] if precision == "float32" else ["--amp=native", "--amp-dtype=" + precision]
    _, run = runs.make_run(workload.words(*WAYS[way], *amp))
    batch = workload.batch(run.device.memory_format)
    if mode == "eval":

        def forward(images: Tensor) -> Tensor:
            compiled_size = workload.batch_size if run.is_compiled else None
            return engine.forward(run.bare_model, images, run.device, compiled_size)

        return _evaluation(forward, run.bare_model, run.precision, run.device, batch[0])

    run.model.train()

    def train() -> int:
        runs.train_step(run, batch)
        run.device.synchronize()
        return len(batch[0])

    return train


def _baseline(workload: Workload, mode: str, precision: str) -> Callable[[], int]:
    """Return a function that does one unit of the baseline's work."""
    model, device = workload.baseline_model(), workload.device
    images, targets = workload.batch(torch.contiguous_format)
    is_full = precision == "float32"
    selected = select_precision("none" if is_full else "native", device, None if is_full else precision)
    if mode == "eval":
        return _evaluation(model, model, selected, device, images)
    soft_targets = torch.full((len(images), runs.CLASSES), 0.1 / runs.CLASSES, device=images.device)
    soft_targets.scatter_(1, targets.unsqueeze(1), 0.9)
    scaler = getattr(selected, "scaler", None)
    optimizer, ema = baseline_optimizer(model), BaselineEma(model)
    step = baseline_step(model.train(), optimizer, ema, device, selected.autocast, scaler)

    def train() -> int:
        step(images, soft_targets)
        return len(images)

    return train


def _evaluation(
    forward: Callable[[Tensor], Tensor], model: nn.Module, precision: Precision, device: Device, images: Tensor
) -> Callable[[], int]:
    model.eval()

    @inference_mode()
    def evaluate() -> int:
        with precision.autocast():
            forward(images)
        device.synchronize()
        return len(images)

    return evaluate


def _profile(workload: Workload, precision: str, is_compiled: bool) -> list[Row]:
    """Return rows of the operators, on an accelerator the kernels, that take most of a training step.

    Their values are milliseconds, and the fraction of all operators' or kernels' time.
    """
    work = _ours(workload, "train", precision, "compiled" if is_compiled else "eager")
    for _ in range(2):
        work()
    with torch.profiler.profile() as profile:
        work()
    times = profiled_times(profile.key_averages(), workload.device.is_accelerator)
    total = sum(microseconds for microseconds, _ in times)
    return [
        Row(name, "fraction of the step", microseconds / 1000, "ms", microseconds / total)
        for microseconds, name in sorted(times, reverse=True)[:TOP_OPERATORS]
    ]


def profiled_times(events: Iterable[Any], on_accelerator: bool) -> list[tuple[float, str]]:
    """Return (microseconds, name) of each operator on a CPU, or of each kernel and copy on an accelerator.

    There the profiler reports a kernel's time again in the operator that started it, and in the named ranges around it.
    """
    if not on_accelerator:
        return [(event.self_cpu_time_total, event.key) for event in events]
    return [
        (event.self_device_time_total, event.key[:_KERNEL_NAME])
        for event in events
        if event.device_type != torch.autograd.DeviceType.CPU and not getattr(event, "is_user_annotation", False)
    ]
