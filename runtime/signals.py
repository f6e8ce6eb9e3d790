"""Signals that ask a run to stop: recorded when they arrive, obeyed by all ranks together at the next agreed step."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from typing import Any, Callable, Sequence

NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
ONE_REQUEST_SECONDS = 3  # launchers forward a signal that the terminal sends too: that is one request, not two


class StopSignals:
    """A context in which the first of these signals sets `number`, and a later one has its default effect at once.

    A signal that was ignored before, by nohup for example, stays ignored. `announce` logs the signal.
    """

    def __init__(self, announce: Callable[[str], object] | None = None) -> None:
        self.number = 0
        self.received_at = 0.0
        self.announce = announce
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        for name in NAMES:
            number = getattr(signal, name)
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers_before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        while self._handlers_before:
            signal.signal(*self._handlers_before.popitem())

    def _receive(self, number: int, frame: Any) -> None:
        if self.number and time.monotonic() - self.received_at > ONE_REQUEST_SECONDS:
            self.__exit__()
            os.kill(os.getpid(), number)
        elif not self.number:
            self.number, self.received_at = int(number), time.monotonic()
            if self.announce:
                self.announce(
                    "%s: stopping at the next step that all ranks agree on; send it again to stop at once"
                    % signal_name(number)
                )

    def votes(self) -> list[float]:
        """Return a number for each signal of NAMES: 1.0 for the one that this process received."""
        return [float(self.number == getattr(signal, name)) for name in NAMES]


def agreed_signal(votes: Sequence[float]) -> int:
    """Return the signal to obey, given the `votes` summed over the ranks; 0 where no rank received one."""
    for name, count in zip(NAMES, votes):
        if count > 0:
            return int(getattr(signal, name))
    return 0


def signal_name(number: int) -> str:
    """Return "SIGTERM" for 15."""
    return signal.Signals(number).name


def ignore_stop_signals(_worker_id: int) -> None:
    """Ignore these signals in a process that serves the run, to which a terminal or a scheduler sends them too.

    The run still needs the batches of a DataLoader worker, and ends it by `end_loader_processes`.
    """
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def die_with_parent(number: int) -> None:
    """Ask Linux to send this process the signal `number` when its parent ends, even by SIGKILL."""
    try:
        ctypes.CDLL(None).prctl(1, int(number))
    except (AttributeError, OSError):
        pass


def end_loader_processes() -> None:
    """Kill the DataLoader workers that are left when this process ends; no data is lost by it."""
    for process in multiprocessing.active_children():
        process.kill()
