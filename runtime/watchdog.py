"""Watchdog: ends a run of several processes in which one hangs, and names it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any, Callable, ContextManager, Iterator, List, Tuple, Union

NO_ANSWER = "no answer"  # from rank 0's process, which serves the store
Position = Tuple[int, int, int]  # (epoch, step, collectives that the rank has entered in the step)
# [(heartbeats, position)] by rank; NO_ANSWER if the store does not answer; None or False if it could not be read.
Reading = Union[List[Tuple[int, Position]], str, bool, None]


@contextlib.contextmanager
def after(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` in a thread unless the context ends within `seconds`."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def deadline(seconds: float, report_timeout: Callable[[], None]) -> ContextManager[None]:
    """End this process with status 1, after `report_timeout()`, unless the context ends within `seconds`."""

    def end() -> None:
        report_timeout()
        _end_process()

    return after(seconds, end)


def _end_process() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # the main thread may be inside a call that never returns


class Watchdog:
    """Ends this process once it has made no progress for `timeout_s`, and reports which rank is the cause.

    A rank that waits in a collective cannot look for the cause, so a thread does. It publishes the position of its rank
    in the `store` (torch.distributed's), with a heartbeat. A rank without heartbeats does not respond at all; otherwise
    the rank that is behind hangs.
    """

    def __init__(
        self, store: Any, rank: int, world_size: int, timeout_s: float, report: Callable[[str], object]
    ) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.timeout_s, self.report = timeout_s, report
        self.position: Position = (-1, 0, 0)
        self.advanced_at = time.monotonic()
        self.heartbeats, self.has_ended = 0, threading.Event()
        self._send_heartbeat()
        threading.Thread(target=self._watch, daemon=True).start()

    def advance(self, position: Position) -> None:
        """Record that this rank is at `position` now."""
        self.position, self.advanced_at = position, time.monotonic()

    def end(self) -> None:
        """Stop watching."""
        self.has_ended.set()

    def _send_heartbeat(self) -> None:
        self.heartbeats += 1
        self.store.set("watchdog/%d" % self.rank, "%d %d %d %d" % (self.heartbeats, *self.position))

    def _watch(self) -> None:
        interval = min(self.timeout_s / 10.0, 10.0)
        # Rank 0 serves the store, so it decides first: the others could not read it once rank 0 has ended.
        patience = self.timeout_s - (interval if self.rank == 0 else 0.0)
        before: Reading = None
        while not self.has_ended.wait(interval):
            stalled = time.monotonic() - self.advanced_at
            answer = _call_within(interval, self._send_heartbeat)
            if stalled < self.timeout_s / 2:
                before = None
            elif before is None and answer is True:
                before = _call_within(interval, self._read)  # shows later whose heartbeats have stopped
            if stalled >= patience and not self.has_ended.is_set():
                self._end_run(before, _call_within(interval, self._read) if answer is True else answer)

    def _read(self) -> list[tuple[int, Position]]:
        """Return [(heartbeats, position)] of all ranks."""
        rows = []
        for rank in range(self.world_size):
            heartbeats, epoch, step, entered = (int(word) for word in self.store.get("watchdog/%d" % rank).split())
            rows.append((heartbeats, (epoch, step, entered)))
        return rows

    def _end_run(self, before: Reading, now: Reading) -> None:
        culprits, text = diagnose(before, now, self.rank)
        if text and self.rank == (1 if self.rank and culprits == [0] else 0):
            self.report("failed: %s; no progress for %d s (--dist-timeout)" % (text, self.timeout_s))
        _end_process()


def diagnose(before: Reading, now: Reading, own_rank: int) -> tuple[list[int], str]:
    """Return (ranks that cause the stall, text) from two readings; no text if another rank reports the cause."""
    if NO_ANSWER in (before, now):
        return [0], "rank 0 does not respond (stopped or unreachable)"
    if not isinstance(before, list) or not isinstance(now, list):
        return [], ""  # rank 0 has ended, and has reported the cause
    pairs = enumerate(zip(before, now))
    silent = [rank for rank, (old, new) in pairs if old[0] == new[0] and rank != own_rank]
    if silent:
        return silent, "%s not respond (stopped or unreachable)" % _subject(silent, "does", "do")
    positions = [position for _, position in now]
    behind = [rank for rank, position in enumerate(positions) if position < max(positions)]
    if not behind:
        return [], "all ranks wait at %s: they cannot reach each other, or a step takes longer" % _text(positions[0])
    return behind, "%s at %s while the others wait" % (_subject(behind, "hangs", "hang"), _text(positions[behind[0]]))


def _subject(ranks: list[int], one: str, several: str) -> str:
    if len(ranks) == 1:
        return "rank %d %s" % (ranks[0], one)
    return "ranks %s %s" % (", ".join(str(rank) for rank in ranks), several)


def _text(position: Position) -> str:
    return "epoch %d, step %d" % position[:2] if position[0] >= 0 else "the start"


def _call_within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return the result of `call`, True for None; NO_ANSWER if it takes longer, False if the store has gone."""
    results: list[Any] = []

    def run() -> None:
        try:
            result = call()
        except (RuntimeError, ValueError, OSError):
            result = False
        results.append(True if result is None else result)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(1.0, seconds))
    return results[0] if results else NO_ANSWER
