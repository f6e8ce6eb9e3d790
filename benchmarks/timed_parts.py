"""Run programs one after the other, each in a process group of its own with a time limit of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

from runtime.signals import signal_name

LEAST_SECONDS = 5  # that must be left of the budget for a part to be started
LACKS_PACKAGE = 3  # the exit status of a part that needs a package which is not installed
LIMIT_VARIABLE = "PART_SECONDS"  # tells a part its limit


@dataclass
class TimedPart:
    """A program and its limit in seconds.

    A part that `runs_beside` does not delay those after it, until one that `runs_alone`: that waits for its end.
    """

    name: str
    seconds: float
    command: Sequence[str]
    runs_beside: bool = False
    runs_alone: bool = False


@dataclass
class Outcome:
    """How a part ended, and after how many seconds."""

    part: str
    status: str
    seconds: float

    @property
    def is_done(self) -> bool:
        """Whether it did all that it should."""
        return self.status == "done"


class RunningPart:
    """A part whose process has been started; its output goes to the file `log`."""

    def __init__(self, part: TimedPart, limit: float, log: str) -> None:
        self.part, self.limit, self.started = part, limit, time.monotonic()
        environ = dict(os.environ, **{LIMIT_VARIABLE: "%.1f" % limit})
        with open(log, "wb") as file:
            self.process = subprocess.Popen(  # noqa: S603 - a list, no shell
                list(part.command), stdout=file, stderr=subprocess.STDOUT, env=environ, start_new_session=True
            )
        self.ended: float | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self.process.wait()
        self.ended = time.monotonic()

    def finish(self) -> Outcome:
        """Wait until it ends or its limit is over, kill what is left of its group, and return how it ended."""
        try:
            status = _status_text(self.process.wait(max(0.0, self.started + self.limit - time.monotonic())))
        except subprocess.TimeoutExpired:
            status = "stopped after its limit of %.0f s" % self.limit
        self.kill()
        return Outcome(self.part.name, status, (self.ended or time.monotonic()) - self.started)

    def kill(self) -> None:
        """Kill the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _status_text(code: int) -> str:
    if code == 0:
        return "done"
    if code == LACKS_PACKAGE:
        return "not run: a package is not installed"
    return "killed by %s" % signal_name(-code) if code < 0 else "failed (exit status %d)" % code


def run_parts(parts: Sequence[TimedPart], budget: float, log_of: Callable[[str], str]) -> Iterator[Outcome]:
    """Run the parts within `budget` seconds in all, and yield how each ended; `log_of(name)` is its log file.

    Closing the iterator kills what runs.
    """
    deadline = time.monotonic() + budget
    running: list[RunningPart] = []

    def finish() -> Outcome:
        outcome = running[-1].finish()
        running.pop()  # only now: an interrupt during the wait leaves it to be killed below
        return outcome

    try:
        for part in parts:
            while part.runs_alone and running:
                yield finish()
            left = deadline - time.monotonic()
            if left < LEAST_SECONDS:
                yield Outcome(part.name, "left out: the budget is spent", 0.0)
                continue
            running.append(RunningPart(part, min(part.seconds, left), log_of(part.name)))
            if not part.runs_beside:
                yield finish()
        while running:
            yield finish()
    finally:
        for part_left in running:
            part_left.kill()
