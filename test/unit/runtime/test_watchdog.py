"""Who is to blame when nothing moves, and which signal the ranks obey."""

import logging
import os
import signal
import time

import pytest
import torch

from pipeline import batches
from pipeline.samplers import PositionBatches, RASampler, ShardBatches
from runtime import signals
from runtime.watchdog import NO_ANSWER, diagnose
from training.progress import Progress


def readings(*rows):
    """(before, now) of rows (beats before, beats now, place)."""
    return [(old, (0, 0, 0)) for old, _, _ in rows], [(new, place) for _, new, place in rows]


@pytest.mark.parametrize(
    "rows, own, culprits, text",
    [
        ([(1, 2, (3, 7, 2)), (1, 2, (3, 7, 1)), (1, 2, (3, 7, 2))], 0, [1], "rank 1 hangs at epoch 3, step 7"),
        ([(1, 2, (3, 7, 2)), (1, 2, (3, 6, 9)), (1, 2, (2, 9, 9))], 0, [1, 2], "ranks 1, 2 hang at epoch 3, step 6"),
        ([(1, 2, (3, 7, 1)), (1, 2, (3, 7, 2))], 0, [0], "rank 0 hangs at epoch 3, step 7"),
        ([(1, 2, (3, 7, 2)), (5, 5, (3, 7, 2))], 0, [1], "rank 1 does not respond"),
        ([(1, 1, (3, 7, 2)), (5, 5, (3, 7, 2)), (4, 4, (3, 7, 2))], 0, [1, 2], "ranks 1, 2 do not respond"),
        ([(1, 2, (3, 7, 2)), (5, 6, (3, 7, 2))], 0, [], "all ranks wait at epoch 3, step 7"),
        ([(1, 2, (-1, 0, 1)), (5, 6, (-1, 0, 0))], 0, [1], "rank 1 hangs at the start"),
    ],
)
def test_the_rank_to_blame(rows, own, culprits, text):
    named, said = diagnose(*readings(*rows), own_rank=own)
    assert named == culprits and said.startswith(text)


def test_the_store_s_keeper():
    for before, now in ((NO_ANSWER, NO_ANSWER), ([(1, (0, 0, 0))], NO_ANSWER)):
        assert diagnose(before, now, 1) == ([0], "rank 0 does not respond (stopped or unreachable)")
    assert diagnose([(1, (0, 0, 0))], False, 1) == ([], "")  # it has ended, and has reported the cause


def test_signals_are_noted_while_listening_and_elected_together():
    said = []
    listening = signals.StopSignals(said.append)
    with listening:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the same request, as launchers pass it on
        deadline = time.time() + 5
        while not listening.number and time.time() < deadline:
            time.sleep(0.01)
    assert listening.number == signal.SIGUSR1 and len(said) == 1 and "SIGUSR1" in said[0]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    votes = [mine + others for mine, others in zip(listening.votes(), signals.StopSignals().votes())]
    assert signals.agreed_signal(votes) == signal.SIGUSR1
    assert signals.agreed_signal(signals.StopSignals().votes()) == 0


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.StopSignals() as listening:
            os.kill(os.getpid(), signal.SIGHUP)
            assert listening.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


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
    assert batches.means_a_lost_process(error) == lost


def test_virtual_ranks_take_turns_in_each_step():
    samplers = [RASampler(range(20), 4, rank, repeats=1) for rank in (2, 3)]
    order = PositionBatches(samplers, 2)
    order.set_epoch(1)
    assert len(order) == 4
    keys = [[position.key[2:] for position in batch] for batch in order]
    assert keys == [[(2, 0), (2, 1)], [(3, 0), (3, 1)], [(2, 2), (2, 3)], [(3, 2), (3, 3)]]
    indices = [position.index for batch in list(order)[2:3] for position in batch]
    assert order.indices_of(1, 2) == indices and order.indices_of(1, 0) != indices


def test_evaluation_goes_on_at_any_batch():
    order = ShardBatches(type("Shard", (list,), {"indices": property(list)})(range(7)), 3)
    assert len(order) == 3 and list(order) == [[0, 1, 2], [3, 4, 5], [6]]
    order.first_batch = 2
    assert list(order) == [[6]]


def test_progress_hands_out_the_batches_of_a_step():
    class Device:
        def synchronize(self):
            pass

        def max_memory_mib(self):
            return None

    progress = Progress("x", 3, Device(), logging.getLogger("x"))
    seen = []
    for step, parts in progress.watch(iter("abcdef"), 2):
        seen.append((step, next(parts)))  # the rest of a step is passed over
        progress.add(torch.tensor([1.0, 3.0]), 2)
        progress.settle(progress.take_pending().mean(dim=1).tolist())
    assert seen == [(0, "a"), (1, "c"), (2, "e")] and progress.mean_loss == 2.0
