"""Weak scaling: the images a second of 1 and of 2 processes, each with a core and a batch of its own, over gloo.

The ratio of a row is its rate a process to that of one process: the efficiency.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

import torch

from benchmarks import runs, timing
from runtime.affinity import usable_cores
from runtime.errors import RunError, UserError
from tools.launch import environment_of

PROGRAM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "benchmark.py")


def add_arguments(parser):
    runs.add_model_arguments(parser)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=4, help="in a round (default: 4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--result", metavar="FILE", help="of one process that another has started")


def run(args):
    args.device = "cpu"
    runs.settle(args)
    if args.result:
        return _work(args)
    if max(args.processes) > usable_cores():
        raise UserError("--processes %d: there are fewer cores" % max(args.processes))
    rates = {count: [] for count in args.processes}
    for number in range(args.rounds):
        for count in sorted(rates, reverse=number % 2 == 1):
            rates[count].append(_rate(args, count) / count)
    summary = timing.summary(rates, args.processes[0])
    rows = [timing.row("processes: %d" % count, "images/s a process", values) for count, values in summary.items()]
    _, run = runs.make_run(runs.words_of(args))
    size = sum(parameter.numel() * 4 for parameter in run.bare_model.parameters()) / 1e6
    rows.append({"setting": "gradients", "measure": "MB a step", "value": size, "unit": "MB", "ratio": None})
    return rows


class _Launch:
    def __init__(self, nproc):
        self.nproc = nproc
        with socket.socket() as probe:
            probe.bind(("", 0))
            self.port = str(probe.getsockname()[1])


def _rate(args, count):
    """Images a second of `count` processes together."""
    launch, cores = _Launch(count), sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.json")
        words = ["--model=" + args.model, "--batch-size=%d" % args.batch_size, "--input-size=%d" % args.input_size]
        words = [sys.executable, PROGRAM, "scale", *words, "--steps=%d" % args.steps, "--result=" + result]
        processes = [
            subprocess.Popen(  # noqa: S603 - a list, no shell
                words,
                env=dict(environment_of(launch, rank), BENCHMARK_CORE=str(cores[rank])),
                stdout=subprocess.DEVNULL,
            )
            for rank in range(count)
        ]
        if any([process.wait() for process in processes]):
            raise RunError("a process of the benchmark failed")
        with open(result, encoding="utf-8") as file:
            return json.load(file)


def _work(args):
    """The steps of one process; the first writes what all of them did in a second."""
    os.sched_setaffinity(0, {int(os.environ["BENCHMARK_CORE"])})
    torch.set_num_threads(1)
    _, run = runs.make_run(runs.words_of(args))
    batch = runs.batch_for(run.device, args, run.device.memory_format)
    run.model.train()
    runs.train_step(run, batch)
    run.ranks.barrier()
    started = time.perf_counter()
    for step in range(args.steps):
        runs.train_step(run, batch, step)
    run.ranks.barrier()
    seconds = time.perf_counter() - started
    if run.ranks.is_main:
        with open(args.result, "w", encoding="utf-8") as file:
            json.dump(args.steps * args.batch_size * run.ranks.world_size / seconds, file)
    run.ranks.close()
    return []
