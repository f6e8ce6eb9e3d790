"""Loader processes: too many for the machine, lost, stopped, and unable to hand a batch over. No item is lost."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from limits import open_files
from paths import ROOT
from torch.utils.data import DataLoader, get_worker_info

from checkpoints import loading, store
from pipeline import handover
from pipeline.batch_bytes import ImageBytes, stack
from pipeline.loader import Loader, LostProcess, means_a_lost_process, start
from pipeline.samplers import EvalShard, ShardBatches
from runtime.compat import KEEP_WORKERS
from runtime.errors import Stopped


def loader_of(count, collate=list, workers=2, hands_over=False, **more):
    """Return a Loader of the numbers below `count`, by two."""
    return Loader(range(count), ShardBatches(EvalShard(count), 2), collate, workers, hands_over=hands_over, **more)


@pytest.fixture(autouse=True)
def nothing_unexpected(capfd):
    """No process prints a traceback."""
    gc.collect()  # iterators of other tests, which torch 1.5 would try to end in a process that is forked
    yield
    err = capfd.readouterr().err
    assert "Traceback" not in err, err


def pictures(numbers):
    """Join numbers to a batch as the images that show them."""
    return stack([ImageBytes(torch.full((2, 2, 3), number, dtype=torch.uint8), []) for number in numbers], numbers), []


def numbers_of(items):
    for batch, _ in items:
        assert (batch.bytes[:, 0, 0, 0] == batch.targets).all()
        yield batch.targets.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_order_from_any_number_on(workers):
    loader = loader_of(7, pictures, workers, hands_over=True)
    assert list(numbers_of(loader.items())) == [[0, 1], [2, 3], [4, 5], [6]]
    assert list(numbers_of(loader.items(2))) == [[4, 5], [6]]
    loader.end()


@pytest.mark.skipif(not KEEP_WORKERS, reason="this torch starts loader processes for each epoch")
def test_processes_that_start_first_read_all_items():
    loader = loader_of(7, lambda numbers: os.getpid())
    loader.start_processes()
    started = {process.pid for process in loader._processes}
    assert len(started) == 2
    for first, count in ((0, 4), (2, 2)):
        found = list(loader.items(first))
        assert len(found) == count and set(found) == started
    loader.end()


def test_without_processes_none_start(capfd):
    loader = loader_of(3, workers=0)
    loader.start_processes()
    assert list(loader.items()) == [[0, 1], [2]] and loader._processes == set()


def test_where_no_batch_can_be_handed_over_this_process_reads(monkeypatch, caplog):
    make = handover.memory_file

    def fail_in_loaders():
        if get_worker_info() is not None:
            raise OSError(errno.EFBIG, "File too large")
        return make()

    monkeypatch.setattr(handover, "memory_file", fail_in_loaders)
    assert list(numbers_of(loader_of(5, pictures, hands_over=True).items())) == [[0, 1], [2, 3], [4]]
    (record,) = caplog.records
    assert "cannot hand over a batch (File too large): this process reads" in record.getMessage()


def test_a_process_that_cannot_send_an_item_ends_and_that_is_noticed(capfd):
    started = time.monotonic()
    with pytest.raises(LostProcess, match="exited unexpectedly"):
        list(loader_of(5, lambda numbers: threading.Lock()).items())
    assert time.monotonic() - started < 30
    assert "a loader process cannot send a batch: cannot pickle" in capfd.readouterr().err.replace("can't", "cannot")


def test_nothing_is_printed_of_the_end_that_a_lost_process_is_told():
    iterator = start(DataLoader(range(2), 2, num_workers=2))  # one batch: the second process is not asked for any
    queue, process = iterator._index_queues[1], iterator._workers[1]
    process.terminate()
    process.join()
    queue._reader.close()
    iterator._shutdown_workers()  # `nothing_unexpected` looks for a traceback of the thread that sends the end
    queue._thread.join()


def test_a_program_ends_although_its_loader_processes_are_not_ended():
    program = """
from pipeline.loader import Loader
from pipeline.samplers import EvalShard, ShardBatches
loader = Loader(range(8), ShardBatches(EvalShard(8), 2), list, 2, hands_over=False)
items = loader.items()
next(items)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=300)


def test_fewer_processes_start_where_few_files_may_be_open(caplog):
    loader = loader_of(9, workers=4)
    with open_files(32):
        assert list(loader.items()) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    loader.end()
    (record,) = caplog.records
    assert loader.workers == 2 and "(Too many open files): 2 used instead; raise the limit" in record.getMessage()


@pytest.mark.parametrize(
    "number, remedy",
    [(errno.EAGAIN, "allow more processes (ulimit -u)"), (errno.ENOSPC, "(a container by --shm-size)")],
)
@pytest.mark.parametrize("room, started", [(2, "2 used instead"), (0, "this process reads the images instead")])
def test_fewer_processes_start_where_there_is_no_room_for_all(monkeypatch, caplog, number, remedy, room, started):
    fork, left = os.fork, []
    allowed = {2: {1, 2, 4, 5}, 0: set()}[room]  # 3 of 4 do not start, then 2 of 2 do

    def numbered_fork():
        left.append(1)
        if len(left) not in allowed:
            raise OSError(number, os.strerror(number))
        return fork()

    monkeypatch.setattr(os, "fork", numbered_fork)
    loader = loader_of(3, workers=4)
    assert list(loader.items()) == [[0, 1], [2]]
    loader.end()
    (record,) = caplog.records
    text = record.getMessage()
    assert "no room for 4 loader processes (%s): %s" % (os.strerror(number), started) in text and remedy in text


class Standing:
    """Numbers, of which the process that reads 4 stops."""

    def __len__(self):
        return 8

    def __getitem__(self, number):
        if number == 4 and get_worker_info() is not None:
            time.sleep(0.5)  # what was read before is sent
            os.kill(os.getpid(), signal.SIGSTOP)
        return number


def standing(**more):
    return Loader(Standing(), ShardBatches(EvalShard(8), 2), list, 1, hands_over=False, **more)


def test_a_process_that_stands_still_counts_as_lost_after_the_timeout():
    items = standing(timeout_s=4).items()
    assert [next(items), next(items)] == [[0, 1], [2, 3]]
    with pytest.raises(LostProcess, match="no batch came for 4 s, --dist-timeout") as caught:
        next(items)
    assert caught.value.is_silent


def test_a_signal_ends_the_wait_for_a_process_that_stands_still(monkeypatch):
    monkeypatch.setattr("pipeline.loader.POLL_SECONDS", 1)
    loader = standing(stop_signal=lambda: signal.SIGTERM)
    items = loader.items()
    assert [next(items), next(items)] == [[0, 1], [2, 3]]
    with pytest.raises(Stopped) as caught:
        next(items)
    assert caught.value.number == signal.SIGTERM
    loader.end()


def test_a_run_saves_and_stops_at_a_signal_while_it_waits_for_a_batch(small, monkeypatch, tmp_path):
    items = Loader.items

    def items_and_a_signal(self, first=0):
        for number, item in enumerate(items(self, first)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                self._keep_waiting(None, 0)
            yield item

    monkeypatch.setattr(Loader, "items", items_and_a_signal)
    assert small("--output-dir=%s" % (tmp_path / "out")) == 143
    loaded = loading.load(str(tmp_path / "out" / store.LATEST))
    assert (loaded["epoch"], loaded["step"]) == (-1, 2)


@pytest.mark.parametrize(
    "error, lost",
    [
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), True),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), True),
        (RuntimeError("Pin memory thread exited unexpectedly"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (EOFError(), True),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0."), False),
        (RuntimeError("CUDA out of memory"), False),
        (PermissionError(13, "Permission denied"), False),
    ],
)
def test_what_means_a_lost_loader_process(error, lost):
    assert means_a_lost_process(error) == lost
