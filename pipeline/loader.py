"""A DataLoader whose processes may be too many for the machine, may be lost, and may never answer."""

from __future__ import annotations

import atexit
import errno
import logging
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from typing import Any, Callable, Iterator

from torch.utils.data import DataLoader

from pipeline import handover
from runtime import host_memory
from runtime.compat import KEEP_WORKERS
from runtime.errors import RunError, Stopped, reason
from runtime.open_files import check_room, too_many
from runtime.signals import ignore_stop_signals
from storage.remote import NetworkLost

POLL_SECONDS = 5  # between looks at the processes, and at the signals, while no batch comes
FILES_OF_A_PROCESS = 6  # four pipes, and two batches on their way
SPARE_FILES = 16  # for images, checkpoints and whatever else is opened


_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()  # of this process


class LostProcess(RunError):  # noqa: N818 - it may be replaced
    """A loader process is gone, or does not answer: `is_silent`."""

    def __init__(self, text: str, is_silent: bool = False) -> None:
        super().__init__(text, one_rank=True)
        self.is_silent = is_silent


class Loader:
    """Items of `dataset` in the order of `batch_sampler`, joined by `collate`, from up to `workers` processes.

    Where the machine has no room for so many, fewer are started, with a warning; with none this process reads. A
    `collate` whose items are (ByteBatch or None, anything) is named by `hands_over`. While no item comes, the signal
    number that `stop_signal()` returns is obeyed, and after `timeout_s` (0: never) the processes count as lost.
    """

    def __init__(
        self,
        dataset: Any,
        batch_sampler: Any,
        collate: Callable[[Any], Any],
        workers: int = 0,
        timeout_s: float = 0,
        pin_memory: bool = False,
        hands_over: bool = True,
        stop_signal: Callable[[], int] = lambda: 0,
    ) -> None:
        self.dataset, self.batch_sampler, self.collate, self.workers = dataset, batch_sampler, collate, workers
        self.timeout_s, self.pin_memory, self.hands_over = timeout_s, pin_memory, hands_over
        self.stop_signal = stop_signal
        self._loader: Any = None
        self._channel: handover.Channel | None = None
        self._processes: set[Any] = set()
        _loaders.add(self)

    def items(self, first: int = 0) -> Iterator[Any]:
        """Yield the items from number `first` on; LostProcess where one does not come."""
        self.batch_sampler.first_batch = first
        try:
            for item in self._wait_for_items():
                failure = item[0] if self.hands_over else None
                if isinstance(failure, handover.Undelivered):
                    break  # and go on below, with no process left
                yield item
                first += 1
            else:
                return
        except (RuntimeError, OSError, EOFError) as error:
            if "shared memory" in str(error):  # of torch, where it hands over a batch
                self.end()
                text = "a batch does not fit into /dev/shm: give that more room (a container by --shm-size)"
                raise RunError(text + ", or lower --num-workers or --batch-size", one_rank=True) from None
            if isinstance(error, NetworkLost):  # a process's comes with its traceback
                raise NetworkLost(str(error).rpartition("NetworkLost: ")[2].strip()) from None
            if not means_a_lost_process(error):
                raise
            self.end()
            raise LostProcess(reason(error)) from None
        self.end()
        self.workers = 0
        _warn("loader processes cannot hand over a batch (%s): this process reads the images, slower" % failure.reason)
        yield from self.items(first)

    def start_processes(self) -> None:
        """Start the processes, where they stay from one epoch to the next, before anything is asked of them."""
        if self.workers and KEEP_WORKERS and self._loader is None:
            self.batch_sampler.first_batch = len(self.batch_sampler)
            for _ in self._start():
                pass

    def _wait_for_items(self) -> Iterator[Any]:
        iterator = self._start()
        since = time.monotonic()
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if not _is_silence(error):
                    raise
                self._keep_waiting(iterator, time.monotonic() - since)
                continue
            yield item
            since = time.monotonic()

    def _keep_waiting(self, iterator: Any, seconds: float) -> None:
        """Raise what ends the wait for an item after some seconds, if anything does."""
        if self.stop_signal():
            self.end()
            raise Stopped(self.stop_signal())
        thread = getattr(iterator, "_pin_memory_thread", None)
        if thread is not None and not thread.is_alive():
            raise RuntimeError("Pin memory thread exited unexpectedly")
        if self.timeout_s and seconds >= self.timeout_s:
            self.end()
            raise LostProcess("no batch came for %d s, --dist-timeout" % self.timeout_s, is_silent=True)

    def _start(self) -> Any:
        """Return an iterator over the items, by the processes of the last time or by new ones."""
        if self._loader is not None and KEEP_WORKERS:
            try:
                return start(self._loader)
            except RuntimeError as error:
                if not _is_silence(error):
                    raise
        wanted, shortage = self.workers, ""
        while True:
            self.end()
            before = set(multiprocessing.active_children())
            try:
                if self.workers:
                    check_room(FILES_OF_A_PROCESS * self.workers + SPARE_FILES)
                self._loader = self._make()
                iterator = start(self._loader)
            except (OSError, RuntimeError) as error:
                if not self.workers or not _means_no_room(error):
                    raise
                self._processes = set(multiprocessing.active_children()) - before
                self.end()
                _release(error)
                self.workers //= 2
                shortage = _shortage_text(error)  # not the error, whose traceback would keep this frame alive
                continue
            self._processes = set(multiprocessing.active_children()) - before
            if shortage:
                _warn("no room for %d loader processes %s" % (wanted, shortage % _instead_text(self.workers)))
            return iterator

    def _make(self) -> DataLoader:
        options: dict[str, Any] = {"collate_fn": self.collate, "pin_memory": self.pin_memory}
        if self.workers:
            self._channel = handover.open_channel() if self.hands_over else None
            if self._channel is not None:
                options["collate_fn"] = handover.Collate(self.collate, self._channel)
            options.update(timeout=min(POLL_SECONDS, self.timeout_s or POLL_SECONDS), worker_init_fn=_begin_process)
            options.update(KEEP_WORKERS)
        return DataLoader(self.dataset, batch_sampler=self.batch_sampler, num_workers=self.workers, **options)

    def end(self) -> None:
        """End the processes at once: torch would wait for each of them."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(POLL_SECONDS)  # what it has open is free then
        self._processes, self._loader = set(), None
        if self._channel is not None:
            self._channel.close()
            self._channel = None


@atexit.register
def _end_all() -> None:
    """End all loader processes: Python would ask them to end, which they ignore, and wait for them."""
    for loader in list(_loaders):
        loader.end()


def start(loader: DataLoader) -> Iterator[Any]:
    """Return the loader's iterator, without torch's handler of SIGCHLD.

    That raises wherever the main thread happens to be, even in the middle of an update. A lost process is noticed all
    the same, when the next batch does not come.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    if getattr(before, "__module__", "").startswith("torch."):  # of a loader that was started otherwise
        before = signal.SIG_DFL
    feeder_error = _set_feeder_error(_ignore_a_lost_reader)
    try:
        iterator = iter(loader)
    finally:
        _set_feeder_error(feeder_error)
        signal.signal(signal.SIGCHLD, before)
    for queue in getattr(iterator, "_index_queues", ()):  # one with no batch to ask for sends only the end, later
        queue._on_queue_feeder_error = _ignore_a_lost_reader
    return iterator


def _set_feeder_error(act: Callable[[BaseException, object], None]) -> Callable[[BaseException, object], None]:
    """Let queues that send their first item from now on call `act` where they cannot send one; return what was set."""
    queue: Any = multiprocessing.queues.Queue
    before = queue._on_queue_feeder_error
    queue._on_queue_feeder_error = staticmethod(act)
    return before


def means_a_lost_process(error: BaseException) -> bool:
    """Return whether a loader raised `error` because one of its processes is gone; errors in a process say "Caught"."""
    if isinstance(error, RuntimeError):
        signs = ("DataLoader worker (pid", "DataLoader timed out", "Pin memory thread", "items of ancdata")
        return any(sign in str(error) for sign in signs)
    lost = (ConnectionError, EOFError, FileNotFoundError)  # its socket, through which torch hands over a batch
    return isinstance(error, lost) and "Caught" not in str(error)


def _begin_process(worker_id: int) -> None:
    """Prepare a loader process."""
    ignore_stop_signals(worker_id)
    host_memory.return_freed_memory()
    _set_feeder_error(_end_process)


def _end_process(error: BaseException, item: object) -> None:
    """End this loader process, which could not send an item: its parent would wait for that, but notices the end."""
    sys.stderr.write("a loader process cannot send a batch: %s\n" % reason(error))
    sys.stderr.flush()
    os._exit(1)


def _ignore_a_lost_reader(error: BaseException, item: object) -> None:
    """Print nothing: where the numbers of images cannot be sent to a process, no batch comes from it."""


def _is_silence(error: RuntimeError) -> bool:
    return "DataLoader timed out" in str(error)


def _means_no_room(error: BaseException) -> bool:
    """Return whether processes, their locks and pipes could not be made."""
    return isinstance(error, OSError) or "start new thread" in str(error)


def _release(error: BaseException) -> None:
    """Free the half-made iterator that raised `error`: its destructor would fail, and print a traceback."""
    ended = error.__traceback__ and error.__traceback__.tb_next  # the first frame is the caller's, which goes on
    for frame, _ in traceback.walk_tb(ended):
        made: Any = frame.f_locals.get("self")
        if hasattr(made, "_shutdown_workers"):
            made._shutdown = True  # the destructor's own mark that nothing is left to do
            if hasattr(made, "_pin_memory_thread"):
                made._pin_memory_thread_done_event.set()
    traceback.clear_frames(ended)


def _shortage_text(error: BaseException) -> str:
    """Return why there is no room, with a place for what is done instead, and the remedy."""
    remedy = "allow more processes (ulimit -u) or memory"
    if too_many(error):
        remedy = "raise the limit of open files (ulimit -n)"
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.ENOSYS):
        remedy = "give /dev/shm more room (a container by --shm-size)"
    return "(%s): %%s; %s, or lower --num-workers" % (reason(error).replace("%", "%%"), remedy)


def _instead_text(workers: int) -> str:
    return "%d used instead" % workers if workers else "this process reads the images instead, which is slower"


def _warn(text: str) -> None:
    logging.getLogger().warning(text)
