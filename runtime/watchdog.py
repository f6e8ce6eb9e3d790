"""Ends a run of several processes in which one hangs, and names it."""

import contextlib
import os
import sys
import threading
import time

NO_ANSWER = "no answer"  # from the process that keeps the store


@contextlib.contextmanager
def deadline(seconds, give_up):
    """End this process with status 1 after `give_up()` unless what is done within takes less than `seconds`."""

    def end():
        give_up()
        _end_process()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_process():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # the main thread may be inside a call that never returns


class Watchdog:
    """Ends this process once it has made no progress for `timeout_s`, and says which rank is the reason.

    Whoever waits in a collective cannot look for the reason itself, so a thread does. It tells the other ranks, by way
    of the `store` (torch.distributed's), where this one is: (epoch, step, how many collectives it has entered in that
    step). A rank whose thread is silent does not respond at all; otherwise the one which is behind hangs.
    """

    def __init__(self, store, rank, world_size, timeout_s, report):
        self.store, self.rank, self.world_size = store, rank, world_size
        self.timeout_s, self.report = timeout_s, report
        self.place, self.moved_at = (-1, 0, 0), time.monotonic()
        self.beats, self.ended = 0, threading.Event()
        self._beat()
        threading.Thread(target=self._watch, daemon=True).start()

    def move(self, place):
        """This rank is at `place` now."""
        self.place, self.moved_at = place, time.monotonic()

    def end(self):
        """Stop watching."""
        self.ended.set()

    def _beat(self):
        self.beats += 1
        self.store.set("watchdog/%d" % self.rank, "%d %d %d %d" % ((self.beats,) + self.place))

    def _watch(self):
        interval = min(self.timeout_s / 10.0, 10.0)
        # The first rank keeps the store, so it decides first: it cannot be asked once it has ended.
        patience = self.timeout_s - (interval if self.rank == 0 else 0.0)
        seen = None
        while not self.ended.wait(interval):
            stalled = time.monotonic() - self.moved_at
            answer = _answered(self._beat, interval)
            if stalled < self.timeout_s / 2:
                seen = None
            elif seen is None and answer is True:
                seen = _answered(self._read, interval)  # to see later whose beats have stopped
            if stalled >= patience and not self.ended.is_set():
                self._give_up(seen, _answered(self._read, interval) if answer is True else answer)

    def _read(self):
        """[(beats, place)] of all ranks."""
        rows = []
        for rank in range(self.world_size):
            beats, *place = (int(word) for word in self.store.get("watchdog/%d" % rank).split())
            rows.append((beats, tuple(place)))
        return rows

    def _give_up(self, before, now):
        culprits, text = diagnose(before, now, self.rank)
        if text and self.rank == (1 if self.rank and culprits == [0] else 0):
            self.report("failed: %s; no progress for %d s (--dist-timeout)" % (text, self.timeout_s))
        _end_process()


def diagnose(before, now, own_rank):
    """(culprits, text) from two readings of [(beats, place)] by rank; no text where another rank knows better."""
    if NO_ANSWER in (before, now):
        return [0], "rank 0 does not respond (stopped, or not to be reached)"
    if not now or not before:
        return [], ""  # the first rank has ended, and has told why
    silent = [rank for rank, (old, new) in enumerate(zip(before, now)) if old[0] == new[0] and rank != own_rank]
    if silent:
        return silent, "%s not respond (stopped, or not to be reached)" % _ranks(silent, "does", "do")
    places = [place for _, place in now]
    behind = [rank for rank, place in enumerate(places) if place < max(places)]
    if not behind:
        return [], "all ranks wait at %s: they cannot reach each other, or a step takes longer" % _at(places[0])
    return behind, "%s at %s while the others wait" % (_ranks(behind, "hangs", "hang"), _at(places[behind[0]]))


def _ranks(ranks, one, several):
    if len(ranks) == 1:
        return "rank %d %s" % (ranks[0], one)
    return "ranks %s %s" % (", ".join(str(rank) for rank in ranks), several)


def _at(place):
    return "epoch %d, step %d" % place[:2] if place[0] >= 0 else "the start"


def _answered(call, seconds):
    """What `call` returns (True for nothing), NO_ANSWER where that takes longer, as when the store's keeper is stopped,
    and False where the store is gone."""
    result = [NO_ANSWER]

    def run():
        try:
            result[0] = call() or True
        except (RuntimeError, ValueError, OSError):
            result[0] = False

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(1.0, seconds))
    return result[0]
