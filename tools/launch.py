"""Start a program as N processes of one machine: `python tools/launch.py --nproc N PROGRAM [OPTION...]`.

What torchrun would do, with what the wrappers need beside: it works on every torch, ends with the exit status of the
process that failed first, prints no traceback of its own, and leaves no process behind, however it ends itself.
"""

import argparse
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import time

GRACE_SECONDS = 3  # for processes that fail for the same reason to say so
KILL_SECONDS = 10


def main():
    options = _parse()
    die_with_parent(signal.SIGTERM)
    processes = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup's choice is respected
            signal.signal(number, lambda received, frame: _forward(processes, received))
    for rank in range(options.nproc):  # after that: they would ignore what bash lets a command in the background ignore
        processes.append(start(options, rank))
    return _wait(processes)


def _parse():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.nproc < 1:
        parser.exit(2, "launch.py: error: --nproc %d: at least one process is needed\n" % options.nproc)
    options.port = str(_free_port(os.environ.get("MASTER_PORT", "0")))
    return options


def _free_port(wanted):
    """The port `wanted`, or any free one for 0; another one, said aloud, where that is taken."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", int(wanted)))
        except (OSError, OverflowError, ValueError) as error:
            port = _free_port("0")
            sys.stderr.write(
                "launch.py: MASTER_PORT %s cannot be used (%s): %d is taken instead\n" % (wanted, error, port)
            )
            return port
        return probe.getsockname()[1]


def environment_of(options, rank):
    """The environment of the process `rank`, by which main.py finds the others."""
    environ = dict(os.environ, RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=options.port)
    environ.update(WORLD_SIZE=str(options.nproc), LOCAL_WORLD_SIZE=str(options.nproc))
    environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if options.nproc > 1:
        environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of the search for unused parameters
        environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.nproc)))
    return environ


def start(options, rank):
    """Start the process `rank`."""
    command = [sys.executable, options.program, *options.arguments]
    dies_with_launcher = functools.partial(die_with_parent, signal.SIGKILL)
    environ = environment_of(options, rank)
    return subprocess.Popen(command, env=environ, preexec_fn=dies_with_launcher)  # noqa: S603 - a list, no shell


def die_with_parent(number):
    """Ask Linux to send this process the signal `number` when its parent ends, even by SIGKILL."""
    try:
        ctypes.CDLL(None).prctl(1, int(number))
    except (AttributeError, OSError):
        pass


def _forward(processes, number):
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes):
    """The exit status of the first process that failed, after the others have ended; 0 where none failed."""
    first_failure, failed_at = 0, None
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
        if failed_at is None:
            first_failure = _failure_of(processes)
            failed_at = time.time() if first_failure else None
        elif time.time() - failed_at > KILL_SECONDS:
            _forward(processes, signal.SIGKILL)
        elif time.time() - failed_at > GRACE_SECONDS:
            _forward(processes, signal.SIGTERM)
    return first_failure or _failure_of(processes)


def _failure_of(processes):
    for rank, process in enumerate(processes):
        if process.poll() is not None and process.returncode < 0:
            sys.stderr.write("launch.py: process %d was ended by signal %d\n" % (rank, -process.returncode))
            return 128 - process.returncode
        if process.poll():
            return process.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
