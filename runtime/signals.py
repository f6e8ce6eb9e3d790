"""Signals that ask a run to stop: noted when they come, obeyed by all ranks together at the next agreed step."""

import multiprocessing
import os
import signal
import threading
import time

NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
ONE_REQUEST_SECONDS = 3  # launchers pass a signal on that the terminal has sent too: that is one request, not two


class StopSignals:
    """While entered, the first of these signals sets `number`; a later one acts at once, as if nobody listened.

    A signal that was ignored before (by nohup, say) stays ignored.
    """

    def __init__(self, announce=None):
        self.number, self.received_at = 0, 0.0
        self.announce = announce
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        for name in NAMES:
            number = getattr(signal, name)
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        while self._before:
            signal.signal(*self._before.popitem())

    def _receive(self, number, frame):
        if self.number and time.monotonic() - self.received_at > ONE_REQUEST_SECONDS:
            self.__exit__()
            os.kill(os.getpid(), number)
        elif not self.number:
            self.number, self.received_at = int(number), time.monotonic()
            if self.announce:
                self.announce(
                    "%s: stopping at the next step that all agree on; again to stop at once" % signal_name(number)
                )

    def votes(self):
        """One number for each signal of NAMES: 1.0 where this process received it."""
        return [float(self.number == getattr(signal, name)) for name in NAMES]


def agreed_signal(votes):
    """The signal that the `votes`, added up over the ranks, speak for; 0 where none came."""
    for name, count in zip(NAMES, votes):
        if count > 0:
            return int(getattr(signal, name))
    return 0


def signal_name(number):
    """SIGTERM for 15."""
    return signal.Signals(number).name


def ignore_stop_signals(_worker_id):
    """Ignore them in a loader's process, which a terminal or a scheduler signals too: its parent still needs batches,
    and ends it by `end_loader_processes`."""
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def end_loader_processes():
    """End the loader processes that are left when this process ends; they hold nothing that could be lost."""
    for process in multiprocessing.active_children():
        process.kill()
