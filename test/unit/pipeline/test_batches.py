"""Batches and loader processes that are lost again and again."""

import itertools

import pytest

from pipeline import batches
from pipeline.batches import BATCHES_FOR_A_LOSS, Batches
from pipeline.loader import LostProcess
from pipeline.samplers import EvalShard, ShardBatches
from runtime.device import Device
from runtime.errors import RunError


class Dying:
    """A Loader whose processes are lost after every so many items."""

    def __init__(self, every, is_silent=False):
        self.every, self.is_silent = every, is_silent

    def items(self, first):
        for _ in range(self.every):
            yield None, []
        raise LostProcess("gone", self.is_silent)


class Images:
    replace_bad = False

    def __len__(self):
        return 10**6


def batches_of(loader):
    made = Batches(Images(), ShardBatches(EvalShard(10), 2), Device("cpu"))
    made._loader = loader
    return made


@pytest.mark.parametrize(
    "loader, count",
    [(Dying(0), 0), (Dying(5), 20), (Dying(0, True), 0), (Dying(5, True), 10)],
    ids=["at once", "after a few batches", "silent", "silent after a few batches"],
)
def test_a_run_ends_whose_loader_processes_are_lost_again_and_again(loader, count):
    """Also where some batches come in between, and in the next epochs."""
    made = batches_of(loader)
    with pytest.raises(RunError, match="lost again and again .gone.: lower --num-workers"):
        list(made)
    assert made._delivered == count
    with pytest.raises(RunError):
        list(made)


def test_a_run_that_has_got_many_batches_bears_another_loss():
    made = batches_of(Dying(BATCHES_FOR_A_LOSS))
    endless, made._count_bad = itertools.count(), lambda bad_files, count: next(endless) < 1000 or 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(made)
    assert batches.MOST_LOSSES < 1000 // BATCHES_FOR_A_LOSS
