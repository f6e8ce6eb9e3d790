"""Whole programs side by side: main.py and any other command, from its start to its end.

The two take turns, as in timing.py. Beside the time by the clock, the rows show what the kernel counts of a program and
of the processes that it waits for: time in the system, and page faults. In a command, {data} stands for an image
folder: --data-path, or photos made here. Nothing that a command prints is shown unless it fails.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

import numpy

from benchmarks import photos, timing
from benchmarks.report import Row
from runtime.errors import RunError, UserError, one_line, reason

if TYPE_CHECKING:
    import argparse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = "--batch-size=16 --num-workers=1 --no-repeated-aug --epochs=1 --device=cpu --amp=none --print-freq=1000"
TRAIN, VAL = 160, 48  # photos: ten steps of OURS, and an evaluation


@dataclass
class Usage:
    """What a program took: seconds by the clock, in itself and in the system, and page faults without a disk."""

    wall: float
    user: float
    system: float
    faults: int


def run(options: argparse.Namespace) -> list[Row]:
    """Return the rows of the peer and of ours."""
    with tempfile.TemporaryDirectory() as made:
        if not options.data_path:
            photos.write_photos(made, TRAIN, VAL)
        data = os.path.abspath(options.data_path or made)
        default = [sys.executable, os.path.join(ROOT, "main.py"), "--data-path=" + data, *OURS.split()]
        commands = {
            "peer": words_of("--peer", options.peer, data),
            "ours": words_of("--ours", options.ours, data) if options.ours else default,
        }
        return rows_of(alternate(commands, options.rounds))


def words_of(option: str, command: str, data: str) -> list[str]:
    """Return the words of a command line, as a shell splits them; UserError where there are none."""
    try:
        words = [word.replace("{data}", data) for word in shlex.split(command)]
    except ValueError as error:
        raise UserError("%s: %s" % (option, reason(error))) from None
    if not words:
        raise UserError("%s: it names no command" % option)
    return words


def alternate(commands: dict[str, list[str]], rounds: int) -> dict[str, list[Usage]]:
    """Return what each of the commands took in each round, of which every other one is in reverse order."""
    names = list(commands)
    used: dict[str, list[Usage]] = {name: [] for name in names}
    for name in names:  # once for the file system's cache
        measure(commands[name])
    for number in range(rounds):
        for name in reversed(names) if number % 2 else names:
            used[name].append(measure(commands[name]))
            print("round %d: %s, %.1f s" % (number + 1, name, used[name][-1].wall), flush=True)
    return used


def measure(command: Sequence[str]) -> Usage:
    """Run a command and return what it took; RunError with the end of its output where it fails."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise UserError("%s: %s" % (command[0], reason(error))) from None
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = status  # it has been waited for
        if status:
            output.seek(0)
            lines = output.read().decode("utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
            raise RunError("%s failed: %s" % (command[0], one_line(lines[-1])))
    return Usage(wall, usage.ru_utime, usage.ru_stime, usage.ru_minflt)


def rows_of(used: dict[str, list[Usage]]) -> list[Row]:
    """Return the rows: how fast each is beside the peer, and medians of what the kernel counts."""
    rates = timing.summarize({name: [1 / one.wall for one in found] for name, found in used.items()}, "peer")
    rows = []
    for name, found in used.items():
        rate = rates[name]
        wall = float(numpy.median([one.wall for one in found]))
        rows.append(Row(name, "whole program", wall, "s", rate.ratio, rate.low, rate.high))
    for name, found in used.items():
        shares = [one.system / max(one.user, 1e-9) for one in found]
        rows.append(Row(name, "system time for each second of its own", float(numpy.median(shares)), "s"))
        rows.append(Row(name, "page faults", float(numpy.median([one.faults for one in found])), ""))
    return rows
