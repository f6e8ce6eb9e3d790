"""How every program of this project ends: an exit status, and one line on stderr for whatever went wrong.

Importing this module does not import torch, so that a program can refuse a bad command line at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
from typing import Callable, Iterator, NoReturn, Sequence

from runtime.errors import (
    RunError,
    Stopped,
    UserError,
    failed_to_compile,
    lost_a_peer,
    one_line,
    out_of_memory,
    reason,
)
from runtime.open_files import raise_limit, too_many
from runtime.signals import end_loader_processes, signal_name

LAUNCHER_SECONDS = 5  # in which a launcher ends the processes that are left after one has failed


def run_program(
    name: str,
    run: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
    interrupted: str = "interrupted",
    memory_advice: str = "",
) -> int:
    """Call `run(argv)`, which returns an exit status or None for 0, and return the exit status of the program.

    2 stands for bad input, 1 for a run that failed, 128 + N for signal N (130 for Ctrl-C, reported as `interrupted`),
    141 for a stdout that nobody reads any more. `argv` defaults to the process's own; `memory_advice` ends
    the report of a lack of memory.
    """
    raise_limit()
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status or 0
    except (KeyboardInterrupt, Exception) as error:
        return _status_of(name, error, interrupted, memory_advice)
    finally:
        end_loader_processes()


def leave(status: int) -> NoReturn:
    """End this process with `status`.

    After a failure of one of several processes nothing in torch is taken down: threads of gloo that serve a peer which
    is gone could abort the process meanwhile, and the status would be that of the abort.
    """
    group = sys.modules.get("torch.distributed")
    if status and group is not None and group.is_available() and group.is_initialized():
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _status_of(name: str, error: BaseException, interrupted: str, memory_advice: str) -> int:
    """Report the exception that is being handled, and return the exit status that it stands for."""
    if isinstance(error, (UserError, RunError)):
        status, kind = (2, "error") if isinstance(error, UserError) else (1, "failed")
        if error.one_rank or _is_first_of_its_machine():
            report(name, "%s: %s" % (kind, error))
        return status
    if isinstance(error, Stopped):
        if _is_first_of_its_machine():
            report(name, "stopped by %s; %s" % (signal_name(error.number), _what_is_saved(error)))
        return 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        if _is_first_of_its_machine():
            report(name, interrupted)
        return 130
    if isinstance(error, OSError) and _stdout_is_broken() and isinstance(error, BrokenPipeError):
        return 141
    _report_unexpected(name, error, memory_advice)
    return 1


def _is_first_of_its_machine() -> bool:
    return not re.fullmatch("0*[1-9][0-9]*", os.environ.get("LOCAL_RANK", "0"))


def _what_is_saved(stop: Stopped) -> str:
    return "run the same command again to resume" if stop.is_saved else "nothing is saved, for want of --output-dir"


def _stdout_is_broken() -> bool:
    """Return whether stdout takes no more; if so, keep Python from writing to it, with a traceback, when it ends."""
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        is_broken = bool(poll.poll(0))  # a pipe without a reader
    except OSError:
        is_broken = True
    if is_broken:
        with contextlib.suppress(OSError):  # it has no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_broken


def _report_unexpected(name: str, error: BaseException, memory_advice: str) -> None:
    """Report one line where memory, the open files, a peer or a file is at fault, otherwise the traceback."""
    if too_many(error):
        report(name, "failed: too many open files: raise the limit (ulimit -n), or lower --num-workers")
    elif lost_a_peer(error):
        time.sleep(LAUNCHER_SECONDS)  # the launcher ends this process meanwhile; the rank that failed reports why
        report(name, "failed: another process of the run is gone (%s)" % _first_line(error))
    elif out_of_memory(error):
        report(name, "failed: out of memory (%s)%s" % (reason(error), memory_advice and ": " + memory_advice))
    elif failed_to_compile(error):
        report(name, "failed: torch.compile: %s: use --compile off" % _first_line(error))
    elif isinstance(error, OSError):
        report(name, "failed: %s" % error)
    else:
        _write("%s: %s" % (name, traceback.format_exc().rstrip()))


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def report(name: str, text: str) -> None:
    """Write one line of the program `name` to stderr, and to the log file where one is open."""
    _write("%s: %s" % (name, one_line(text)))


def _write(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()  # Python before 3.9 keeps it back where stderr is no terminal
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            try:
                handler.stream.write(text + "\n")
                handler.flush()
            except OSError:
                pass  # it is on stderr in any case


@contextlib.contextmanager
def slow_imports() -> Iterator[None]:
    """Let Ctrl-C end the process at once, without a traceback, during imports that take seconds."""
    is_default = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
