"""The order of an epoch above the size up to which it is held in memory: a permutation still, and one that is quick."""

import sys
import tracemalloc

import numpy
import pytest

from pipeline import shuffling
from pipeline.samplers import PositionBatches, RASampler
from pipeline.shuffling import bijection


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 1000, 4097])
@pytest.mark.parametrize("key", [0, 1, 2**63 + 5, 10**30])
def test_every_number_comes_once(length, key):
    assert sorted(bijection(numpy.arange(length), length, key).tolist()) == list(range(length))


def test_a_part_of_a_billion_is_distinct_and_spread_out():
    length = 10**9
    places = numpy.concatenate([numpy.arange(10**5), numpy.arange(length - 10**5, length)])
    found = bijection(places, length, 7)
    assert len(numpy.unique(found)) == len(found) and 0 <= found.min() <= found.max() < length
    counts = numpy.histogram(found, 20, (0, length))[0]
    assert abs(counts - len(found) / 20).max() < 5 * (len(found) / 20) ** 0.5
    steps = numpy.histogram(numpy.diff(bijection(numpy.arange(10**5), length, 7)) % length, 20, (0, length))[0]
    assert abs(steps - 10**5 / 20).max() < 5 * (10**5 / 20) ** 0.5  # neighbours do not stay neighbours


def test_keys_give_other_orders():
    orders = {tuple(bijection(numpy.arange(50), 10**9, key).tolist()) for key in range(100)}
    assert len(orders) == 100


def test_the_ranks_of_a_large_set_share_it_out(monkeypatch):
    monkeypatch.setattr(shuffling, "LARGE", 100)
    samplers = [RASampler(range(300), 3, rank, seed=4, repeats=1) for rank in range(3)]
    orders = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        drawn = [sampler.indices().tolist() for sampler in samplers]
        assert sorted(sum(drawn, [])) == list(range(300))
        orders.append(drawn)
    assert orders[0] != orders[1]


class Billion:
    def __len__(self):
        return 10**9


def test_a_billion_images_take_no_memory_and_begin_at_any_batch():
    order = PositionBatches([RASampler(Billion(), 8, 3)], 64)
    order.set_epoch(2)
    order.first_batch = len(order) - 2
    tracemalloc.start()
    last = list(iter(order))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(batch) for batch in last] == [64, 64] and peak < 2**20
    assert [position.index for position in last[1]] == order.indices_of(len(order) - 1, 3)
    assert sys.getsizeof(order.samplers[0]) < 1000
