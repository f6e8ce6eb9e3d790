"""Start a program as N processes of this machine: `python tools/launch.py --nproc N PROGRAM [OPTION...]`.

It does what torchrun does, and what the wrappers need beyond that: it works on every torch, ends with the exit status
of the process that failed first, prints no traceback of its own, and leaves no process behind, however it ends. With
`--nnodes M --node-rank R --master-addr HOST [--master-port PORT]` they are the R-th N of M * N processes.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from typing import NoReturn, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options import parsing
from runtime.errors import UserError
from runtime.programs import run_program
from runtime.signals import die_with_parent

GRACE_SECONDS = 3  # for processes that fail for the same reason to report it
KILL_SECONDS = 10
DEFAULT_PORT = "29500"  # of torchrun


def main() -> int:
    """Run and return the exit status: that of the process that failed first; 2 for bad input."""
    return run_program("launch.py", run)


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    options = _parse(argv)
    if options.check:
        parsing.check_words(options.arguments)
        return 0
    die_with_parent(signal.SIGTERM)
    processes: list[subprocess.Popen] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup's choice is respected
            signal.signal(number, lambda received, frame: _forward(processes, received))
    # after that: they would ignore what bash lets a command in the background ignore
    for local_rank in range(options.nproc):
        processes.append(start(options, local_rank))
    return _wait(processes, options.node_rank * options.nproc)


class _Parser(argparse.ArgumentParser):
    """Raises UserError instead of printing its usage; the program's own options pass unchanged, unlike in Parser."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser("launch.py", allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--check", action="store_true", help="check these options and those of main.py, and start nothing")
    add("--nproc", type=int, default=1, metavar="N", help="processes of this machine (default: 1)")
    add("--nnodes", default="1", metavar="N", help="machines (default: 1)")
    add("--node-rank", default="0", metavar="RANK", help="number of this machine, from 0 (default: 0)")
    add("--master-addr", metavar="HOST", help="the machine whose rank is 0; several machines need it")
    text = "a free port of that machine (default: the variable MASTER_PORT, or any on one machine, else %s)"
    add("--master-port", metavar="PORT", help=text % DEFAULT_PORT)
    add("program", metavar="PROGRAM", help="a Python file, for example main.py")
    add("arguments", nargs=argparse.REMAINDER, metavar="OPTION", help="its options")
    options = parser.parse_args(argv)
    if options.nproc < 1:
        raise UserError("--nproc %d: at least one process is needed" % options.nproc)
    try:
        options.nnodes = _number("NNODES", "--nnodes", options.nnodes, 1, 10**5)
        options.node_rank = _number("NODE_RANK", "--node-rank", options.node_rank, 0, options.nnodes - 1)
        if options.nnodes > 1:
            options.port = _meeting_port(options)
        elif not options.check:
            options.port = _free_port(_wanted_port(options, "0"))
    except ValueError as error:
        raise UserError(str(error)) from None
    return options


def _number(variable: str, option: str, text: str, least: int, most: int) -> int:
    """Return the integer that `text` writes; ValueError, which names its origin, where it is out of the limits."""
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        message = "%s (%s) must be a number from %d to %d, it is %r"
        raise ValueError(message % (variable, option, least, most, text))
    return int(text)


def _wanted_port(options: argparse.Namespace, default: str) -> str:
    return options.master_port or os.environ.get("MASTER_PORT") or default


def _meeting_port(options: argparse.Namespace) -> int:
    """Return the port at which the processes of all machines meet: it is the same on each, so no other one will do."""
    if not options.master_addr:
        message = "MASTER_ADDR (--master-addr) is missing: name the machine whose NODE_RANK is 0 as all can reach it"
        raise ValueError(message)
    port = _number("MASTER_PORT", "--master-port", _wanted_port(options, DEFAULT_PORT), 1, 65535)
    if options.node_rank == 0:
        try:
            _bind(port)
        except OSError as error:
            message = "MASTER_PORT %d (--master-port) cannot be used (%s): name another one on all machines"
            raise ValueError(message % (port, error)) from None
    return port


def _bind(port: int) -> int:
    """Return the port that a listener on `port` gets; OSError where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        return probe.getsockname()[1]


def _free_port(wanted: str) -> int:
    """Return the port `wanted`, or any free one for 0; another one, with a warning, where that is taken."""
    try:
        return _bind(int(wanted))
    except (OSError, OverflowError, ValueError) as error:
        port = _bind(0)
        sys.stderr.write("launch.py: MASTER_PORT %s cannot be used (%s): %d is used instead\n" % (wanted, error, port))
        return port


def environment_of(options: argparse.Namespace, local_rank: int) -> dict[str, str]:
    """Return the environment of this machine's process `local_rank`, by which main.py finds the others."""
    rank, processes = options.node_rank * options.nproc + local_rank, options.nnodes * options.nproc
    environ = dict(os.environ, RANK=str(rank), LOCAL_RANK=str(local_rank), MASTER_PORT=str(options.port))
    environ.update(WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(options.nproc))
    environ["MASTER_ADDR"] = options.master_addr or environ.get("MASTER_ADDR", "127.0.0.1")
    if processes > 1:
        environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of the search for unused parameters
    if options.nproc > 1:
        environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.nproc)))
    return environ


def start(options: argparse.Namespace, local_rank: int) -> subprocess.Popen:
    """Start this machine's process `local_rank`."""
    command = [sys.executable, options.program, *options.arguments]
    dies_with_launcher = functools.partial(die_with_parent, signal.SIGKILL)
    environ = environment_of(options, local_rank)
    return subprocess.Popen(command, env=environ, preexec_fn=dies_with_launcher)  # noqa: S603 - a list, no shell


def _forward(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: list[subprocess.Popen], first_rank: int) -> int:
    """Return the exit status of the first process that failed, after the others have ended; 0 where none failed."""
    first_failure = 0
    failed_at: float | None = None
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
        if failed_at is None:
            first_failure = _failure_of(processes, first_rank)
            failed_at = time.monotonic() if first_failure else None
        elif time.monotonic() - failed_at > KILL_SECONDS:
            _forward(processes, signal.SIGKILL)
        elif time.monotonic() - failed_at > GRACE_SECONDS:
            _forward(processes, signal.SIGTERM)
    return first_failure or _failure_of(processes, first_rank)


def _failure_of(processes: list[subprocess.Popen], first_rank: int) -> int:
    for rank, process in enumerate(processes, first_rank):
        if process.poll() is not None and process.returncode < 0:
            sys.stderr.write("launch.py: process %d was ended by signal %d\n" % (rank, -process.returncode))
            return 128 - process.returncode
        if process.poll():
            return process.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
