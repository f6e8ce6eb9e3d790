"""Weak scaling: images a second of 1 and of 2 processes, each with a core and a batch of its own, over gloo.

The ratio of a row is its rate per process to that of one process: the efficiency.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import torch

from benchmarks import runs, timing
from benchmarks.report import Row
from runtime.affinity import usable_cores
from runtime.errors import RunError, UserError
from utils import write_json

if TYPE_CHECKING:
    import argparse

    from benchmarks.runs import Workload

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM, LAUNCHER = os.path.join(ROOT, "benchmark.py"), os.path.join(ROOT, "tools", "launch.py")


def run(options: argparse.Namespace) -> list[Row]:
    """Return the rows of each number of processes; in one of these processes, take its steps instead."""
    workload = runs.workload_of(options, device_kind="cpu")
    if options.result:
        _work(workload, options.steps, options.result)
        return []
    if max(options.processes) > usable_cores():
        raise UserError("--processes %d: only %d cores are usable" % (max(options.processes), usable_cores()))
    rates: dict[str, list[float]] = {str(count): [] for count in options.processes}
    for number in range(options.rounds):
        for count in sorted(options.processes, reverse=number % 2 == 1):
            rates[str(count)].append(_rate(workload, options.steps, count) / count)
    summary = timing.summarize(rates, str(options.processes[0]))
    rows = [timing.to_row("processes: %s" % count, "images/s a process", rate) for count, rate in summary.items()]
    _, run = runs.make_run(workload.words())
    size = sum(parameter.numel() * 4 for parameter in run.bare_model.parameters()) / 1e6
    return [*rows, Row("gradients", "MB a step", size, "MB")]


def _rate(workload: Workload, steps: int, count: int) -> float:
    """Return images a second of `count` processes together."""
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.json")
        words = ["--model=" + workload.model, "--batch-size=%d" % workload.batch_size, "--steps=%d" % steps]
        words += ["--input-size=%d" % workload.input_size, "--result=" + result]
        command = [sys.executable, LAUNCHER, "--nproc", str(count), PROGRAM, "scale", *words]
        if subprocess.call(command, stdout=subprocess.DEVNULL):  # noqa: S603 - a list, no shell
            raise RunError("a process of the benchmark failed")
        with open(result, encoding="utf-8") as file:
            return json.load(file)


def _work(workload: Workload, steps: int, result: str) -> None:
    """Take the steps of one process; the first one writes the images a second of all."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["LOCAL_RANK"])]})
    torch.set_num_threads(1)
    _, run = runs.make_run(workload.words())
    batch = workload.batch(run.device.memory_format)
    run.model.train()
    runs.train_step(run, batch)
    run.ranks.barrier()
    started = time.perf_counter()
    for step in range(steps):
        runs.train_step(run, batch, step)
    run.ranks.barrier()
    seconds = time.perf_counter() - started
    if run.ranks.is_main:
        write_json(result, steps * workload.batch_size * run.ranks.world_size / seconds)
    run.ranks.close()
